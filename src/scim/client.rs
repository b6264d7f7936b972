//! One call, a PATCH of one user or the search for one: sent once, its answer read and put into the terms of `domain`.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, LOCATION};
use reqwest::{Client, RequestBuilder, Url};
use zeroize::Zeroizing;

use super::classify::classify;
use super::foreign::{Asked, foreign};
use super::token::Token;
use crate::domain::failure::{self, Failure};
use crate::domain::user::{UserId, UserName};
use crate::telemetry::logs::millis;
use crate::telemetry::metrics;
use crate::wire::redact::{cut, without_addresses};
use crate::wire::scim::{self, ErrorBody, Said};
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
        let (answered, status) = self.send(request, token, Asked::Patch).await;
        metrics::patched(&self.org, status, started.elapsed());
        answered
    }

    /// Searches for a user by name, once. What cannot be read is a fault.
    pub async fn search(&self, token: &Token, name: &UserName) -> Answered {
        let request = self.http.get(format!("{}?{}", self.users(), scim::search(name)));
        let (mut answered, status) = self.send(request, token, Asked::Search).await;
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
    async fn send(&self, request: RequestBuilder, token: &Token, asked: Asked) -> (Answered, String) {
        match self.answer(request, token, asked).await {
            Ok((status, answered)) => (answered, status.to_string()),
            Err(error) => unanswered(&error),
        }
    }

    async fn answer(
        &self,
        request: RequestBuilder,
        token: &Token,
        asked: Asked,
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
        let place = Place::of(asked, answer.url(), answer.headers());
        let bytes = super::body(answer, asked.limit()).await;
        if let Some(failure) = foreign(asked, status, Said::of(place.content_type.as_deref(), &bytes)) {
            let detail = Some(place.describe(status));
            return Ok((status, Answered { failure: Some(failure), status: Some(status), detail, body: bytes }));
        }
        let said = if (200..=299).contains(&status) { ErrorBody::default() } else { ErrorBody::parse(&bytes) };
        let failure = classify(status, &said, waits);
        let detail = failure.is_some().then(|| describe(status, &said, correlation.as_deref()));
        Ok((status, Answered { failure, status: Some(status), detail, body: bytes }))
    }
}

impl Asked {
    /// As much of its answer as is read.
    const fn limit(self) -> usize {
        match self {
            Self::Patch => MAX_ANSWER,
            Self::Search => MAX_FOUND,
        }
    }

    const fn method(self) -> &'static str {
        match self {
            Self::Patch => "PATCH",
            Self::Search => "GET",
        }
    }
}

/// What shows who has answered: where the call went, and where the answer points. Fit to be shown: without queries, which may hold a name
/// or a token.
struct Place {
    asked: Asked,
    url: String,
    location: Option<String>,
    content_type: Option<String>,
}

impl Place {
    fn of(asked: Asked, url: &Url, headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Self {
            asked,
            url: shown(url.as_str()),
            location: text(LOCATION).map(|location| shown(&location)),
            content_type: text(CONTENT_TYPE),
        }
    }

    fn describe(&self, status: u16) -> String {
        let Self { url, location, content_type, .. } = self;
        let location = location.as_deref().map_or_else(String::new, |location| format!(", Location {location}"));
        let kind = content_type
            .as_deref()
            .map_or_else(|| ", without a Content-Type".to_owned(), |kind| format!(", Content-Type {}", cut(kind, 100)));
        format!("{} {url} was answered {status}{location}{kind}: this is not the org's answer", self.asked.method())
    }
}

/// A URL, or a reference to one, without what may be secret: query, fragment, user and password.
fn shown(url: &str) -> String {
    let bare = url.split(['?', '#']).next().unwrap_or_default();
    let bare = match bare.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            format!("{scheme}://{}{path}", authority.rsplit('@').next().unwrap_or_default())
        }
        None => bare.to_owned(),
    };
    without_addresses(&bare).chars().take(256).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_what_may_be_secret() {
        for (url, expected) in [
            ("https://api.example/Users/u-1", "https://api.example/Users/u-1"),
            ("https://api.example/Users?filter=userName%20eq%20x", "https://api.example/Users"),
            ("https://me:pw@portal.example/a/b?token=t#x", "https://portal.example/a/b"),
            ("https://portal.example?token=t", "https://portal.example"),
            // Nothing stays of an address behind which it is cut.
            (&format!("https://portal.example/{}/ann@example.com", "a".repeat(225)), "[address]"),
            ("/login?token=t", "/login"),
            ("//portal.example/login", "//portal.example/login"),
            ("", ""),
        ] {
            assert_eq!(shown(url), expected);
        }
        assert!(!shown("https://portal.example/ann@example.com").contains("ann@example.com"));
        assert_eq!(shown(&"x".repeat(1000)).len(), 256);
    }
}
