//! A PATCH as it came: what is checked of it, and carrying it out.

use axum::{
    body::{Bytes, to_bytes},
    extract::Request,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use jiff::Timestamp;

use super::{
    answer::Answer,
    media,
    operation::Change,
    org::{Call, Org},
    patch,
    tally::Ending,
};

/// The longest body of a PATCH, in bytes.
const LONGEST: usize = 1 << 20;
/// What of a longer body is still read, so that its sender gets to read the refusal.
const READ_AT_MOST: usize = 4 * LONGEST;

/// A PATCH as it came; `body` is `None` where it was too long or broke off.
pub(super) struct Incoming {
    pub(super) id: String,
    headers: HeaderMap,
    body: Option<Bytes>,
}

impl Incoming {
    pub(super) async fn read(id: String, request: Request) -> Self {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, READ_AT_MOST).await.ok().filter(|body| body.len() <= LONGEST);
        Self { id, headers: parts.headers, body }
    }
}

/// Counts an answer and writes it.
pub(super) fn answered(org: &Org, call: &Call, answer: Answer) -> Response {
    call.ended(Ending::Answered(answer.status));
    org.write(answer)
}

/// Checks a call and does what it asks for.
pub(super) fn carry_out(org: &Org, incoming: &Incoming) -> Answer {
    match check(org, incoming) {
        Ok(changes) => Answer::ok(org.apply(&incoming.id, changes)),
        Err(refusal) => refusal,
    }
}

/// All that is checked, in its order: token, quota, media types, length, body, user, age and history of the password.
pub(super) fn check(org: &Org, incoming: &Incoming) -> Result<Vec<Change>, Answer> {
    org.admit(&incoming.headers)?;
    media::check_content_type(&incoming.headers)?;
    media::check_accept(&incoming.headers)?;
    let Some(body) = &incoming.body else {
        return Err(Answer::scim(StatusCode::PAYLOAD_TOO_LARGE, "the body is over 1 MiB"));
    };
    let changes = patch::parse(body, org.forms())?;
    let state = org.state();
    if !state.users.exists(&incoming.id) {
        return Err(unknown_user(&incoming.id));
    }
    state.users.check(&incoming.id, &changes, Timestamp::now())?;
    drop(state);
    Ok(changes)
}

pub(super) fn unknown_user(id: &str) -> Answer {
    Answer::scim(StatusCode::NOT_FOUND, &format!("User {id} not found"))
}
