//! The routes, and how they are served.

use std::io;

use axum::{
    Router,
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    answer::Answer,
    control, listing, oauth,
    org::Org,
    scim,
    socket::{Socket, Wire},
};

impl Org {
    /// Serves the org on `listener` until `shutdown`; then it returns at once, and every connection is closed, whatever
    /// hangs on it.
    ///
    /// # Errors
    /// Where the listener fails for good.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
        let socket = Socket::new(listener, shutdown.child_token());
        let service = routes(self.clone()).into_make_service_with_connect_info::<Wire>();
        tokio::select! {
            served = async { axum::serve(socket, service).await } => served,
            () = shutdown.cancelled() => Ok(()),
        }
    }
}

fn routes(org: Org) -> Router {
    let user = || get(listing::user).patch(scim::patch).fallback(not_allowed);
    let users = || get(listing::users).fallback(not_allowed);
    Router::new()
        .route("/oauth/token", post(oauth::grant))
        .route("/api/v2/scim/v2/Users/{id}", user())
        .route("/api/v2/scim/v2/users/{id}", user())
        .route("/api/v2/scim/v2/Users", users())
        .route("/api/v2/scim/v2/users", users())
        .route("/sim", get(control::hello))
        .route("/sim/users/{id}", get(control::user))
        .route("/sim/login", post(control::login))
        .route("/sim/stats", get(control::stats))
        .route("/sim/faults", post(control::add_faults).delete(control::clear_faults))
        .route("/sim/revoke", post(control::revoke))
        .fallback(not_found)
        .with_state(org)
}

async fn not_allowed(state: axum::extract::State<Org>) -> Response {
    state.write(Answer::scim(StatusCode::METHOD_NOT_ALLOWED, "this method is not for this resource"))
}

async fn not_found(state: axum::extract::State<Org>) -> Response {
    let message = "The requested resource was not found.";
    state.write(Answer::genesys(StatusCode::NOT_FOUND, "not.found", message))
}
