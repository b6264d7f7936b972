//! One call, a PATCH of one user or the search for one: sent once, its answer read and put into the terms of `domain`.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Client, RequestBuilder, Url};
use zeroize::Zeroizing;

use super::classify::classify;
use super::token::Token;
use crate::domain::failure::{self, Failure};
use crate::domain::user::{UserId, UserName};
use crate::telemetry::logs::millis;
use crate::telemetry::metrics;
use crate::wire::scim::{self, ErrorBody};
use crate::wire::waits::Waits;

const SCIM_JSON: &str = "application/scim+json";
/// As much of an answer as is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// And of the answer to a search: it may hold some users with all their attributes.
const MAX_FOUND: usize = 1024 * 1024;

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
    /// What it means; `None` where it did what it was for.
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
        // A user id is one path segment as it stands; see `UserId`.
        let request = self.http.patch(format!("{}/{}", self.users(), user.as_str()));
        let request = request.header(CONTENT_TYPE, SCIM_JSON).body(body.0.clone());
        let (answered, status) = self.send(request, token, MAX_ANSWER).await;
        metrics::patched(&self.org, status, started.elapsed());
        answered
    }

    /// Searches for a user by name, once. What cannot be read is a fault.
    pub async fn search(&self, token: &Token, name: &UserName) -> Answered {
        let request = self.http.get(format!("{}?{}", self.users(), scim::search(name)));
        let (mut answered, status) = self.send(request, token, MAX_FOUND).await;
        metrics::searched(&self.org, status);
        if let Some(Failure::TooSoon { .. } | Failure::UsedBefore) = answered.failure {
            // Nothing was to be set.
            answered.failure = Some(Failure::Rejected);
        }
        if answered.failure.is_none() && scim::found(&answered.body, name).is_none() {
            answered.failure = Some(Failure::Fault { may_have_set: false, wait: None });
            answered.detail = Some("the org's answer to the search for the userName cannot be read".into());
        }
        answered
    }

    fn users(&self) -> String {
        format!("{}/Users", self.url.as_str().trim_end_matches('/'))
    }

    /// What came of a request, and what it is called in the metrics.
    async fn send(&self, request: RequestBuilder, token: &Token, limit: usize) -> (Answered, String) {
        match self.answer(request, token, limit).await {
            Ok((status, answered)) => (answered, status.to_string()),
            Err(error) => unanswered(&error),
        }
    }

    async fn answer(
        &self,
        request: RequestBuilder,
        token: &Token,
        limit: usize,
    ) -> Result<(u16, Answered), reqwest::Error> {
        let request = request.timeout(self.timeout).header(ACCEPT, SCIM_JSON).bearer_auth(token.expose());
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let waits = Waits::of(answer.headers(), SystemTime::now(), self.after_max);
        if waits.cut {
            tracing::warn!(
                org = self.org,
                after_max_ms = millis(self.after_max),
                "the org asked for a longer wait than retry.after_max; it is cut to that"
            );
        }
        let correlation =
            answer.headers().get("inin-correlation-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        let bytes = super::body(answer, limit).await;
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
    let detail = Some(format!("{what}: {}", failure::root(error)));
    let failure = Some(Failure::Fault { may_have_set, wait: None });
    (Answered { failure, status: None, detail, body: Vec::new() }, what.to_owned())
}
