//! `/sim`: what tests and the demo ask of the sim itself, without a token.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Fault, Org};

/// Who wants to log in. No `Debug`: it holds a password.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Login {
    user_id: String,
    password: String,
}

pub(super) async fn hello() -> &'static str {
    "a simulated Genesys Cloud org: /oauth/token, /api/v2/scim/v2/Users, and /sim/stats for what it has counted\n"
}

pub(super) async fn user(State(org): State<Org>, Path(id): Path<String>) -> Response {
    match org.user(&id) {
        Some(view) => Json(view).into_response(),
        None => (StatusCode::NOT_FOUND, Json(json!({"error": format!("no user `{id}`")}))).into_response(),
    }
}

pub(super) async fn login(State(org): State<Org>, Json(login): Json<Login>) -> Response {
    let ok = org.logs_in(&login.user_id, &login.password);
    let status = if ok { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
    (status, Json(json!({"ok": ok}))).into_response()
}

pub(super) async fn stats(State(org): State<Org>) -> Response {
    Json(org.stats()).into_response()
}

/// Puts all the faults of a body in force, or none of them.
pub(super) async fn add_faults(State(org): State<Org>, Json(body): Json<Value>) -> Response {
    let faults: Result<Vec<Fault>, _> = if body.is_array() {
        serde_json::from_value(body)
    } else {
        serde_json::from_value(body).map(|fault| vec![fault])
    };
    match faults {
        Ok(faults) => {
            let count = faults.len();
            faults.into_iter().for_each(|fault| org.add_fault(fault));
            Json(json!({"added": count})).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, Json(json!({"error": error.to_string()}))).into_response(),
    }
}

pub(super) async fn clear_faults(State(org): State<Org>) -> StatusCode {
    org.clear_faults();
    StatusCode::NO_CONTENT
}

pub(super) async fn revoke(State(org): State<Org>) -> StatusCode {
    org.revoke_tokens();
    StatusCode::NO_CONTENT
}
