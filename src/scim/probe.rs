//! One look at an org that changes nothing: `GET Users?count=0`, which answers with a number and no user (Genesys Cloud's API
//! description: "A value of 0 returns totalResults"), and with the headers that say how fast one may go and what time it is.

use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp};
use reqwest::Client;
use reqwest::header::{ACCEPT, DATE, HeaderMap};

use super::token::Token;
use crate::config::org::Org;
use crate::domain::failure;
use crate::wire::redact::Scrubber;
use crate::wire::scim::ErrorBody;

/// The platform's own header: calls that a minute admits.
const ALLOWED: &str = "inin-ratelimit-allowed";
/// Calls in this minute so far.
const COUNT: &str = "inin-ratelimit-count";
/// As much of an answer as is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// A date has whole seconds: on average it is so much behind, in milliseconds.
const HALF_A_SECOND: i64 = 500;

/// What an answer told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its status.
    pub status: u16,
    /// What its body says, where it is an error; scrubbed.
    pub said: Option<String>,
    /// Calls that a minute admits, where it says so.
    pub allowed: Option<u32>,
    /// Calls in this minute, where it says so.
    pub count: Option<u32>,
    /// How far the org's clock is ahead of ours, give or take a second.
    pub ahead: Option<SignedDuration>,
}

/// Looks once, with a token or, for the clock alone, without.
///
/// # Errors
/// Where nobody answers within `request_timeout`; the text says why.
pub async fn look(http: &Client, org: &Org, token: Option<&Token>) -> Result<Seen, String> {
    let url = format!("{}/Users?count=0", org.scim_url.as_str().trim_end_matches('/'));
    let mut request = http.get(url).timeout(org.request_timeout).header(ACCEPT, "application/scim+json");
    let mut scrubber = Scrubber::default();
    if let Some(token) = token {
        request = request.bearer_auth(token.expose());
        scrubber.add(token.expose());
    }
    let asked = SystemTime::now();
    let answer = request.send().await.map_err(|error| failure::root(&error))?;
    let between = asked + asked.elapsed().unwrap_or_default() / 2;
    let status = answer.status().as_u16();
    let number = |name| text(answer.headers(), name).and_then(|text| text.trim().parse().ok());
    let (allowed, count, ahead) = (number(ALLOWED), number(COUNT), ahead(answer.headers(), between));
    let body = super::body(answer, MAX_ANSWER).await;
    let said = if (200..=299).contains(&status) { None } else { ErrorBody::parse(&body).line() };
    Ok(Seen { status, said: said.map(|said| scrubber.text(&said)), allowed, count, ahead })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// How far the answer's clock is ahead of ours, which said `ours` at about the moment it was written.
fn ahead(headers: &HeaderMap, ours: SystemTime) -> Option<SignedDuration> {
    let theirs = text(headers, DATE.as_str()).and_then(|text| httpdate::parse_http_date(text).ok())?;
    let (theirs, ours) = (Timestamp::try_from(theirs).ok()?, Timestamp::try_from(ours).ok()?);
    Some(theirs.duration_since(ours) + SignedDuration::from_millis(HALF_A_SECOND))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn a_clock_is_read_from_the_answers_date() {
        let date = "Mon, 23 Nov 2026 18:00:00 GMT";
        let headers: HeaderMap = [(DATE, HeaderValue::from_static(date))].into_iter().collect();
        let theirs = httpdate::parse_http_date(date).unwrap();
        let ahead = |ours| ahead(&headers, ours).unwrap().as_millis();
        assert_eq!(ahead(theirs + Duration::from_millis(500)), 0);
        assert_eq!(ahead(theirs + Duration::from_secs(60)), -59_500);
        assert_eq!(ahead(theirs - Duration::from_secs(60)), 60_500);
        assert_eq!(super::ahead(&HeaderMap::new(), theirs), None);
    }
}
