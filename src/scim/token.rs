//! The bearer token: asked for with the client's credentials (RFC 6749, section 4.4), cached, one request at a time however many wait.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::Client;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::config::org::Org;
use crate::domain::failure;
use crate::domain::token::TokenError;
use crate::telemetry::metrics;
use crate::wire::redact::Scrubber;
use crate::wire::token::{Granted, Refused};
use crate::wire::waits::Waits;

/// A token is not used in the last part of its life, so that none expires on its way.
const MARGIN: Duration = Duration::from_secs(60);
/// As much of an answer as is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// A token that was granted; cheap to clone, and it knows which one it is.
#[derive(Debug, Clone)]
pub struct Token {
    secret: Arc<SecretString>,
    scope: Option<Arc<str>>,
    serial: u64,
}

impl Token {
    /// The token itself, for the `Authorization` header and the scrubber.
    pub fn expose(&self) -> &str {
        self.secret.expose_secret()
    }

    /// Its scopes, where the provider speaks of them.
    pub fn scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }
}

/// The org's token, or the way to one.
#[derive(Debug)]
pub struct Tokens {
    http: Client,
    name: String,
    org: Org,
    after_max: Duration,
    cached: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    serial: u64,
    token: Option<(Token, Instant)>,
}

impl Tokens {
    /// For the org of that name; `after_max` is the longest `Retry-After` that is obeyed.
    pub fn new(http: Client, name: &str, org: Org, after_max: Duration) -> Self {
        Self { http, name: name.to_owned(), org, after_max, cached: Mutex::default() }
    }

    /// The cached token, or a fresh one. Whoever comes while one is fetched waits for that one.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub async fn current(&self) -> Result<Token, TokenError> {
        let mut cache = self.cached.lock().await;
        if let Some((token, until)) = &cache.token
            && Instant::now() < *until
        {
            return Ok(token.clone());
        }
        cache.token = None;
        let asked = Instant::now();
        let result = self.fetch().await;
        metrics::token_asked(
            &self.name,
            match &result {
                Ok(_) => "granted",
                Err(TokenError::Refused(_)) => "refused",
                Err(TokenError::Failed { .. }) => "failed",
            },
        );
        let granted = result?;
        cache.serial += 1;
        let scope = granted.scope.as_deref().map(Arc::from);
        let token = Token { secret: Arc::new(granted.access_token.clone()), scope, serial: cache.serial };
        cache.token = Some((token.clone(), asked + usable_for(granted.lifetime())));
        tracing::debug!(org = self.name, lifetime_s = granted.lifetime().as_secs(), "a token was granted");
        Ok(token)
    }

    /// Drops the token that an answer refused, unless it was replaced already.
    pub async fn refused(&self, refused: &Token) {
        let mut cache = self.cached.lock().await;
        if cache.token.as_ref().is_some_and(|(token, _)| token.serial == refused.serial) {
            cache.token = None;
        }
    }

    async fn fetch(&self) -> Result<Granted, TokenError> {
        let failed = |error: reqwest::Error| TokenError::Failed {
            why: format!("the token endpoint did not answer: {}", failure::root(&error)),
            wait: None,
        };
        let secret = self.org.client_secret.expose_secret();
        let request = self
            .http
            .post(self.org.token_url.clone())
            .timeout(self.org.request_timeout)
            .basic_auth(&self.org.client_id, Some(secret))
            .form(&[("grant_type", "client_credentials")]);
        let answer = request.send().await.map_err(failed)?;
        let status = answer.status().as_u16();
        let waits = Waits::of(answer.headers(), SystemTime::now(), self.after_max);
        let body = zeroize::Zeroizing::new(super::body(answer, MAX_ANSWER).await);
        let mut scrubber = Scrubber::default();
        scrubber.add(secret);
        let granted = judge(status, &body, waits, &scrubber)?;
        let missing = granted.missing(&self.org.required_scopes);
        if missing.is_empty() {
            return Ok(granted);
        }
        Err(TokenError::Refused(format!(
            "the token lacks the scope {}; grant it to the client, or take it off orgs.{}.required_scopes",
            missing.join(", "),
            self.name
        )))
    }
}

/// How long a token is used: until 60 s before it expires; one that lives no longer than that, for half its life.
fn usable_for(lifetime: Duration) -> Duration {
    lifetime.checked_sub(MARGIN).filter(|rest| !rest.is_zero()).unwrap_or(lifetime / 2)
}

/// What the endpoint's answer means. Its words alone are scrubbed: the secret may be one of ours.
fn judge(status: u16, body: &[u8], waits: Waits, scrubber: &Scrubber) -> Result<Granted, TokenError> {
    let failed = |why: String| TokenError::Failed { why, wait: waits.retry_after.or(waits.reset) };
    let said = || scrubber.text(&serde_json::from_slice::<Refused>(body).unwrap_or_default().line());
    match status {
        200..=299 => serde_json::from_slice::<Granted>(body)
            .ok()
            .filter(|granted| usable_as_header(granted.access_token.expose_secret()))
            .ok_or_else(|| {
                failed(format!("the token endpoint answered {status} without an access_token that can be used"))
            }),
        408 | 429 | 500.. => {
            Err(failed(format!("the token endpoint answered {status} {}", said()).trim_end().to_owned()))
        }
        0..=199 | 300..=499 => {
            let cure = "check client_id, client_secret and region (a wrong region answers invalid_client too)";
            Err(TokenError::Refused(format!("the token endpoint refuses the client: {status} {}; {cure}", said())))
        }
    }
}

fn usable_as_header(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_used_until_60_s_before_it_expires() {
        let s = Duration::from_secs;
        assert_eq!(usable_for(s(86_400)), s(86_340));
        assert_eq!(usable_for(s(61)), s(1));
        assert_eq!(usable_for(s(60)), s(30), "one that lives shorter is not fetched for every call");
        assert_eq!(usable_for(s(0)), s(0));
    }

    fn check(status: u16, body: &str, refused: bool, part: &str) {
        let text = match judge(status, body.as_bytes(), Waits::default(), &Scrubber::default()).unwrap_err() {
            TokenError::Refused(text) => {
                assert!(refused, "{status}: {text}");
                text
            }
            TokenError::Failed { why, .. } => {
                assert!(!refused, "{status}: {why}");
                why
            }
        };
        assert!(text.contains(part), "{text}");
    }

    #[test]
    fn a_refused_client_halts_processing_and_a_failing_endpoint_does_not() {
        let body = r#"{"error":"invalid_client","description":"client not found: x","error_description":"y"}"#;
        check(400, body, true, "400 invalid_client: client not found: x");
        check(401, body, true, "401 invalid_client");
        check(403, "", true, "403");
        check(302, "", true, "302");
        check(404, "<html>", true, "404");
        check(500, "", false, "500");
        check(429, "", false, "429");
        check(200, "{}", false, "without an access_token");
        check(200, r#"{"access_token":"a b"}"#, false, "without an access_token");
        check(200, r#"{"access_token":""}"#, false, "without an access_token");
        let granted = br#"{"access_token":"t","expires_in":300}"#;
        assert!(judge(200, granted, Waits::default(), &Scrubber::default()).is_ok());
    }

    #[test]
    fn a_secret_that_is_an_ordinary_word_is_cut_out_of_the_answer_and_of_no_hint() {
        for secret in ["client", "region", "check", "token endpoint"] {
            let mut scrubber = Scrubber::default();
            scrubber.add(secret);
            let body = format!(r#"{{"error":"invalid_client","description":"no such pair as x and {secret}"}}"#);
            let Err(TokenError::Refused(why)) = judge(400, body.as_bytes(), Waits::default(), &scrubber) else {
                panic!("it is refused");
            };
            assert!(why.starts_with("the token endpoint refuses the client: 400 "), "{why}");
            assert!(
                why.ends_with("check client_id, client_secret and region (a wrong region answers invalid_client too)")
            );
            assert!(why.contains("no such pair as x and [redacted]"), "{why}");
        }
    }
}
