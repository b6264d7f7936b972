//! Media types: what a PATCH may come as, and what its caller takes (RFC 7644, section 3.1).

use axum::http::{HeaderMap, StatusCode, header};

use super::answer::Answer;

const SCIM: &str = "application/scim+json";
const JSON: &str = "application/json";

/// Refuses a body that does not say it is JSON: 415.
pub(super) fn check_content_type(headers: &HeaderMap) -> Result<(), Answer> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).map(essence);
    match kind.as_deref() {
        Some(SCIM | JSON) => Ok(()),
        Some(_) | None => Err(Answer::scim(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Content-Type must be application/scim+json or application/json",
        )),
    }
}

/// Refuses a caller who takes no JSON: 406. Without an `Accept` anything is taken (RFC 9110, section 12.5.1).
pub(super) fn check_accept(headers: &HeaderMap) -> Result<(), Answer> {
    let mut asked = headers.get_all(header::ACCEPT).iter().peekable();
    let none = asked.peek().is_none();
    let admits = |range: &str| {
        let taken = matches!(essence(range).as_str(), SCIM | JSON | "application/*" | "*/*");
        taken && !is_refused(range)
    };
    if none || asked.filter_map(|value| value.to_str().ok()).any(|value| value.split(',').any(admits)) {
        return Ok(());
    }
    Err(Answer::scim(StatusCode::NOT_ACCEPTABLE, "Accept must admit application/scim+json"))
}

/// The media type without its parameters, in lower case.
fn essence(text: &str) -> String {
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether a range is given the weight 0.
fn is_refused(range: &str) -> bool {
    range
        .split(';')
        .skip(1)
        .filter_map(|parameter| parameter.trim().strip_prefix("q="))
        .any(|weight| weight.trim().parse::<f32>().is_ok_and(|weight| weight <= 0.0))
}
