//! `POST /oauth/token`: the client-credentials grant (RFC 6749, sections 2.3.1, 4.4 and 5).

use axum::{
    Form, Json,
    extract::{ConnectInfo, FromRequest, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use super::{fault::Target, org::Org, play, socket::Wire};

type Pairs = Vec<(String, String)>;

pub(super) async fn grant(State(org): State<Org>, ConnectInfo(wire): ConnectInfo<Wire>, request: Request) -> Response {
    org.state().tally.token_requested();
    let what = org.state().script.take(Target::Token, None, org.now());
    let faulty = match what {
        Some(what) => play::other(&org, &wire, what).await,
        None => None,
    };
    let response = match faulty {
        Some(response) => response,
        None => answer(&org, request).await,
    };
    org.hold_back().await;
    response
}

async fn answer(org: &Org, request: Request) -> Response {
    let known = is_client(org, request.headers());
    let asked = grant_types(request).await;
    if !known {
        let description = "client credentials are invalid or missing";
        let refusal = refuse(StatusCode::UNAUTHORIZED, "invalid_client", description);
        return ([(header::WWW_AUTHENTICATE, "Basic realm=\"oauth\"")], refusal).into_response();
    }
    match asked.as_slice() {
        [grant] if grant == "client_credentials" => issue(org),
        [_] => refuse(StatusCode::BAD_REQUEST, "unsupported_grant_type", "grant_type must be client_credentials"),
        [] => refuse(StatusCode::BAD_REQUEST, "invalid_request", "grant_type is missing"),
        [..] => refuse(StatusCode::BAD_REQUEST, "invalid_request", "grant_type is there more than once"),
    }
}

fn issue(org: &Org) -> Response {
    let settings = org.settings();
    let ttl = settings.token_ttl;
    let mut state = org.state();
    let token = state.tokens.issue(org.now(), ttl);
    state.tally.token_issued();
    drop(state);
    let mut body = json!({"access_token": token, "token_type": "bearer", "expires_in": ttl.as_secs()});
    if let Some(scope) = &settings.scope {
        body["scope"] = json!(scope);
    }
    ([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

/// Every `grant_type` of the query and of the form body.
async fn grant_types(request: Request) -> Vec<String> {
    let query = Query::<Pairs>::try_from_uri(request.uri()).map(|Query(pairs)| pairs).unwrap_or_default();
    let form = Form::<Pairs>::from_request(request, &()).await.map(|Form(pairs)| pairs).unwrap_or_default();
    query.into_iter().chain(form).filter(|(name, _)| name == "grant_type").map(|(_, value)| value).collect()
}

/// Whether HTTP Basic names the one client with its secret.
fn is_client(org: &Org, headers: &HeaderMap) -> bool {
    basic(headers)
        .is_some_and(|(id, secret)| id == org.settings().client_id && secret == org.state().client_secret.expose())
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, encoded) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    Some((id.to_owned(), secret.to_owned()))
}

fn refuse(status: StatusCode, error: &str, description: &str) -> Response {
    let body = json!({"error": error, "description": description, "error_description": description});
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}
