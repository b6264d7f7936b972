//! `PATCH /api/v2/scim/v2/Users/{id}`: the order in which a call is looked at.

use axum::{
    extract::{ConnectInfo, Path, Request, State},
    response::Response,
};

use super::{
    fault::Target,
    incoming::{Incoming, answered, carry_out},
    org::{Call, Org},
    play,
    socket::Wire,
};

pub(super) async fn patch(
    State(org): State<Org>,
    ConnectInfo(wire): ConnectInfo<Wire>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let call = Call::arrived(&org, request.headers());
    let incoming = Incoming::read(id, request).await;
    org.released().await;
    let what = org.state().script.take(Target::Scim, Some(&incoming.id), org.now());
    let response = match what {
        None => answered(&org, &call, carry_out(&org, &incoming)),
        Some(what) => play::patch(&org, &wire, &call, &incoming, what).await,
    };
    org.hold_back().await;
    response
}
