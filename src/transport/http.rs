//! Delivery to a mail service over HTTP: one POST for each mail, sent once, its answer read by its status.

use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use reqwest::header::{CONTENT_TYPE, HeaderName};
use reqwest::{Certificate, Client, Response, Url};
use secrecy::{ExposeSecret, SecretString};

use super::delivery::{Delivered, Mail, Transport, Undelivered, untrusted};
use super::recipient;
use crate::config::ConfigError;
use crate::config::mailer;
use crate::domain::failure::root;
use crate::telemetry::logs::millis;
use crate::wire::email;
use crate::wire::waits::Waits;

/// By it a service knows a mail that it has already taken.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// As much of an answer as is read, in bytes.
const MAX_ANSWER: usize = 4 * 1024;

/// The mail service.
#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    url: Url,
    token: Option<SecretString>,
    /// What the URL's query has that may be a key.
    keys: Vec<SecretString>,
    timeout: Duration,
    after_max: Duration,
}

/// The shortest value of a query that may be a key, in bytes: shorter ones are words that a service may say for other reasons.
const SHORTEST_KEY: usize = 8;

/// What may be a key in a URL's query, where many a service wants it.
fn keys(url: &Url) -> Vec<SecretString> {
    let values = url.query_pairs().map(|(_, value)| value.into_owned());
    values.filter(|value| value.len() >= SHORTEST_KEY).map(SecretString::from).collect()
}

impl Transport for Http {
    fn longest(&self) -> Duration {
        self.timeout
    }

    fn secrets(&self) -> Vec<&str> {
        self.token.iter().chain(&self.keys).map(ExposeSecret::expose_secret).collect()
    }

    fn deliver<'a>(&'a self, mail: &'a Mail) -> BoxFuture<'a, Result<Delivered, Undelivered>> {
        Box::pin(self.send(mail))
    }
}

impl Http {
    pub(super) fn new(service: &mailer::Http, timeout: Duration, after_max: Duration) -> Result<Self, ConfigError> {
        let mut builder = Client::builder()
            .user_agent(concat!("resetd/", env!("CARGO_PKG_VERSION")))
            .retry(reqwest::retry::never())
            // A redirect would lead the password elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .pool_idle_timeout(Duration::from_secs(15))
            .tcp_nodelay(true);
        if let Some(path) = &service.ca_file {
            builder = builder.tls_certs_only(authorities(path)?);
        }
        let client = service.proxy.on(builder).and_then(reqwest::ClientBuilder::build).map_err(|error| {
            ConfigError::new(format!(
                "mailer.http: the HTTPS client cannot be built: {}; are CA certificates installed (Debian: apt-get install ca-certificates)?",
                root(&error)
            ))
        })?;
        let (url, token) = (service.url.clone(), service.token.clone());
        Ok(Self { client, keys: keys(&url), url, token, timeout, after_max })
    }

    async fn send(&self, mail: &Mail) -> Result<Delivered, Undelivered> {
        let body = Bytes::from_owner(email::message(mail.to.as_str(), &mail.subject, &mail.text));
        let mut request = self.client.post(self.url.clone()).timeout(self.timeout).body(body);
        request = request.header(CONTENT_TYPE, "application/json").header(IDEMPOTENCY_KEY, mail.id.as_str());
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return Err(unanswered(&error)),
        };
        let status = answer.status().as_u16();
        let waits = Waits::of(answer.headers(), SystemTime::now(), self.after_max);
        if waits.cut {
            tracing::warn!(
                after_max_ms = millis(self.after_max),
                "the mail service asked for a longer wait than retry.after_max; it is cut to that"
            );
        }
        if (200..=299).contains(&status) {
            return Ok(Delivered { status });
        }
        let said = said(answer).await;
        Err(classify(status, waits.retry_after, &said))
    }
}

/// What an answer other than a 2xx means.
fn classify(code: u16, after: Option<Duration>, said: &str) -> Undelivered {
    let colon = if said.is_empty() { "" } else { ": " };
    let detail = format!("the mail service answered {code}{colon}{said}");
    let status = Some(code);
    match code {
        408 | 425 | 429 | 500..=599 => Undelivered::Again { detail, status, after },
        // It is still busy with this very mail, which it knows by its key.
        409 => Undelivered::Later { detail, status: code },
        // Who we are, or where and how we ask: not one mail would be taken.
        401 | 403..=405 | 407 | 300..=399 => Undelivered::Stop { detail, status },
        400..=499 if recipient::is_named(said) => Undelivered::Never { detail, status },
        400..=499 => Undelivered::Refused { detail, status: code },
        // No status of HTTP.
        0..=299 | 600.. => Undelivered::Again { detail, status, after },
    }
}

/// A mail without an answer may have been taken; the service knows it by its key when it comes again.
fn unanswered(error: &reqwest::Error) -> Undelivered {
    if let Some(why) = untrusted(error) {
        return Undelivered::Stop { detail: format!("TLS with the mail service failed: {why}"), status: None };
    }
    let what = match (error.is_timeout(), error.is_connect()) {
        (true, _) => "did not answer in time",
        (false, true) => "cannot be reached",
        (false, false) => "did not answer",
    };
    // The root of the chain has no URL in it.
    Undelivered::Again { detail: format!("the mail service {what}: {}", root(error)), status: None, after: None }
}

/// The beginning of an answer's body.
async fn said(mut answer: Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_ANSWER
        && let Ok(Some(chunk)) = answer.chunk().await
    {
        bytes.extend_from_slice(&chunk[..chunk.len().min(MAX_ANSWER - bytes.len())]);
    }
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

fn authorities(path: &Path) -> Result<Vec<Certificate>, ConfigError> {
    let wants = "the path of a readable file with certificates in PEM";
    let wrong = |why: &dyn std::fmt::Display| {
        ConfigError::wrong("mailer.http.ca_file", format_args!("{path:?} ({why})"), wants)
    };
    let pem = std::fs::read(path).map_err(|error| wrong(&error))?;
    let authorities = Certificate::from_pem_bundle(&pem).map_err(|error| wrong(&root(&error)))?;
    if authorities.is_empty() {
        return Err(wrong(&"it holds none"));
    }
    Ok(authorities)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::proxy::Proxy;

    #[test]
    fn the_token_and_a_key_in_the_query_are_secrets() {
        let url = Url::parse("https://mail.example/send?v=2&format=json&key=s3cr3t-key%2B1").unwrap();
        let service = mailer::Http {
            url,
            token: Some("t0ken".to_owned().into()),
            ca_file: None,
            proxy: Proxy::Direct { unused: Vec::new() },
        };
        let http = Http::new(&service, Duration::from_secs(1), Duration::from_secs(1)).unwrap();
        assert_eq!(http.secrets(), ["t0ken", "s3cr3t-key+1"]);
    }

    /// Every status there can be, in runs of the same meaning.
    #[test]
    fn every_status_has_its_meaning() {
        let named = |status| match classify(status, None, "") {
            Undelivered::Again { .. } => "again",
            Undelivered::Later { .. } => "later",
            Undelivered::Refused { .. } => "refused",
            Undelivered::Never { .. } => "never",
            Undelivered::Stop { .. } => "stop",
        };
        let mut table = String::new();
        let mut start = 300;
        for status in 300..=599_u16 {
            if status == 599 || named(status) != named(status + 1) {
                table += &format!("{start}..={status}: {}\n", named(status));
                start = status + 1;
            }
        }
        insta::assert_snapshot!(table, @r"
        300..=399: stop
        400..=400: refused
        401..=401: stop
        402..=402: refused
        403..=405: stop
        406..=406: refused
        407..=407: stop
        408..=408: again
        409..=409: later
        410..=424: refused
        425..=425: again
        426..=428: refused
        429..=429: again
        430..=499: refused
        500..=599: again
        ");
        assert!(matches!(classify(422, None, "no such recipient"), Undelivered::Never { status: Some(422), .. }));
        assert!(matches!(classify(403, None, "no such recipient"), Undelivered::Stop { .. }));
    }
}
