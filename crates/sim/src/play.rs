//! A scripted fault as it is carried out on a call.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use std::time::Duration;

use super::{
    answer::{Answer, Content, Foreign},
    fault::{Reply, ReplyBody, What},
    incoming::{self, Incoming},
    org::{Call, Org},
    socket::Wire,
    tally::Ending,
};

/// What a fault does to a PATCH.
pub(super) async fn patch(org: &Org, wire: &Wire, call: &Call, incoming: &Incoming, what: What) -> Response {
    match what {
        What::Status { reply, apply } => {
            if apply {
                incoming::carry_out(org, incoming);
            }
            incoming::answered(org, call, scripted(reply))
        }
        What::Hang { hold, apply_after } => {
            call.ended(Ending::Hung);
            if let Some(delay) = apply_after {
                apply_late(org, wire, incoming, delay);
            }
            hang(org, wire, hold).await
        }
        What::Cut { apply } => {
            if apply {
                incoming::carry_out(org, incoming);
            }
            call.ended(Ending::Cut);
            cut(wire)
        }
        What::Revoke => {
            org.revoke_tokens();
            incoming::answered(org, call, incoming::carry_out(org, incoming))
        }
    }
}

/// What a fault does to a call that changes nothing, a GET or a token request; `None`: it is answered as ever.
pub(super) async fn other(org: &Org, wire: &Wire, what: What) -> Option<Response> {
    match what {
        What::Status { reply, apply: _ } => Some(match reply.body {
            ReplyBody::Oauth { code } => oauth_error(reply.status, reply.retry_after, code.as_deref()),
            ReplyBody::Scim { .. }
            | ReplyBody::Genesys { .. }
            | ReplyBody::Json(_)
            | ReplyBody::Html
            | ReplyBody::None => org.write(scripted(reply)),
        }),
        What::Hang { hold, apply_after: _ } => Some(hang(org, wire, hold).await),
        What::Cut { apply: _ } => Some(cut(wire)),
        What::Revoke => {
            org.revoke_tokens();
            None
        }
    }
}

/// Closes the connection. The response is for axum alone: not a byte of it can be written.
fn cut(wire: &Wire) -> Response {
    wire.cut();
    Response::default()
}

async fn hang(org: &Org, wire: &Wire, hold: Duration) -> Response {
    tokio::select! {
        () = tokio::time::sleep(hold) => {}
        () = wire.closed().cancelled() => {}
    }
    let message = "The request timed out.";
    org.write(Answer::genesys(StatusCode::GATEWAY_TIMEOUT, "request.timeout", message))
}

/// Checks the call now and carries it out after `delay`, even where its caller has gone by then.
fn apply_late(org: &Org, wire: &Wire, incoming: &Incoming, delay: Duration) {
    let Ok(changes) = incoming::check(org, incoming) else {
        return;
    };
    if delay.is_zero() {
        org.apply(&incoming.id, changes);
        return;
    }
    let (org, id, server) = (org.clone(), incoming.id.clone(), wire.server().clone());
    tokio::spawn(async move {
        tokio::select! {
            () = tokio::time::sleep(delay) => drop(org.apply(&id, changes)),
            () = server.cancelled() => {}
        }
    });
}

fn scripted(reply: Reply) -> Answer {
    let reason = reply.status.canonical_reason().unwrap_or("Scripted");
    let content = match reply.body {
        ReplyBody::None => Content::Empty,
        ReplyBody::Json(value) => Content::Json(Box::new(value)),
        ReplyBody::Html => Content::Html,
        ReplyBody::Scim { scim_type } => Content::Scim { scim_type, detail: format!("{reason}, by a scripted fault") },
        ReplyBody::Genesys { code } | ReplyBody::Oauth { code } => Content::Genesys {
            code: code.unwrap_or_else(|| reason.to_ascii_lowercase().replace(' ', ".")),
            message: format!("{reason}, by a scripted fault"),
        },
    };
    Answer {
        status: reply.status,
        retry_after: reply.retry_after,
        foreign: Some(Box::new(Foreign { location: reply.location, content_type: reply.content_type })),
        content,
    }
}

fn oauth_error(status: StatusCode, retry_after: Option<HeaderValue>, code: Option<&str>) -> Response {
    let description = "by a scripted fault";
    let error = code.unwrap_or("server_error");
    let body = json!({"error": error, "description": description, "error_description": description});
    let mut response = (status, Json(body)).into_response();
    if let Some(retry_after) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, retry_after);
    }
    response
}
