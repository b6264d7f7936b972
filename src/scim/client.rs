//! One PATCH of one user: sent once, its answer read and put into the terms of `domain`.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Client, Url};
use zeroize::Zeroizing;

use super::classify::{Waits, classify};
use super::token::Token;
use crate::domain::failure::Failure;
use crate::domain::user::UserId;
use crate::telemetry::metrics;
use crate::wire::scim::ErrorBody;

const SCIM_JSON: &str = "application/scim+json";
/// As much of an answer as is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// The org's SCIM endpoint.
#[derive(Debug, Clone)]
pub struct Scim {
    http: Client,
    org: String,
    url: Url,
    timeout: Duration,
    after_max: Duration,
}

/// What came of one call. `detail` and `body` are text from outside, not scrubbed yet.
#[derive(Debug)]
pub struct Answered {
    /// What it means; `None` where the password is set.
    pub failure: Option<Failure>,
    /// The status; `None` where there was no answer.
    pub status: Option<u16>,
    /// What the answer says of the failure, or why there was none.
    pub detail: Option<String>,
    /// The answer's body, as far as it was read.
    pub body: Vec<u8>,
}

/// The body of a PATCH: made once for a job, the same in all its tries, and zeroed when the last copy is dropped.
#[derive(Clone)]
pub struct Body(Bytes);

impl Body {
    /// Takes the bytes over.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(Bytes::from_owner(bytes))
    }
}

impl Scim {
    /// The endpoint of `org`; `url` is the base of `Users/{userId}`, `after_max` the longest `Retry-After` that is obeyed.
    pub fn new(http: Client, org: &str, url: Url, timeout: Duration, after_max: Duration) -> Self {
        Self { http, org: org.to_owned(), url, timeout, after_max }
    }

    /// Sets what the body says, once.
    pub async fn patch(&self, token: &Token, user: &UserId, body: &Body) -> Answered {
        let started = Instant::now();
        let (answered, status) = match self.send(token, user, body).await {
            Ok((status, answered)) => (answered, status.to_string()),
            Err(error) => unanswered(&error),
        };
        metrics::patched(&self.org, status, started.elapsed());
        answered
    }

    async fn send(&self, token: &Token, user: &UserId, body: &Body) -> Result<(u16, Answered), reqwest::Error> {
        // A user id is one path segment as it stands; see `UserId`.
        let url = format!("{}/Users/{}", self.url.as_str().trim_end_matches('/'), user.as_str());
        let request = self
            .http
            .patch(url)
            .timeout(self.timeout)
            .header(CONTENT_TYPE, SCIM_JSON)
            .header(ACCEPT, SCIM_JSON)
            .bearer_auth(token.expose())
            .body(body.0.clone());
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let waits = Waits::of(answer.headers(), SystemTime::now(), self.after_max);
        if waits.cut {
            tracing::warn!(
                org = self.org,
                after_max_ms = self.after_max.as_millis(),
                "the org asked for a longer wait than retry.after_max; it is cut to that"
            );
        }
        let correlation =
            answer.headers().get("inin-correlation-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        let bytes = super::body(answer, MAX_ANSWER).await;
        let said = if (200..=299).contains(&status) { ErrorBody::default() } else { ErrorBody::parse(&bytes) };
        let failure = classify(status, &said, waits);
        let detail = failure.is_some().then(|| describe(status, &said, correlation.as_deref()));
        Ok((status, Answered { failure, status: Some(status), detail, body: bytes }))
    }
}

/// One line: the status, what the body says, and the id that the platform's support asks for.
fn describe(status: u16, said: &ErrorBody, correlation: Option<&str>) -> String {
    let mut line = said.line().unwrap_or_else(|| format!("HTTP {status}"));
    if let Some(id) = correlation {
        line += &format!(" (ININ-Correlation-Id {id})");
    }
    line
}

/// A call without an answer may have been carried out, unless it never left this machine; and what it is called in the metrics.
fn unanswered(error: &reqwest::Error) -> (Answered, String) {
    let (may_have_set, what) = match (error.is_timeout(), error.is_connect()) {
        (true, _) => (true, "timeout"),
        (false, true) => (false, "unreachable"),
        (false, false) => (true, "cut"),
    };
    let detail = Some(format!("{what}: {}", super::root(error)));
    let failure = Some(Failure::Fault { may_have_set, wait: None });
    (Answered { failure, status: None, detail, body: Vec::new() }, what.to_owned())
}
