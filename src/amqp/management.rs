//! The broker's management API, by HTTP: what AMQP does not tell, such as the nodes on which a queue has replicas. `resetd check` alone
//! reads it.

use std::time::Duration;

use reqwest::{Client, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;

use super::error::ANSWER;
use crate::config::amqp::Amqp;
use crate::wire::management::{Node, Queue, Refused};

/// The longest answer that is read, in bytes: a queue's has each of its consumers.
const LONGEST: usize = 4 * 1024 * 1024;
/// How long the network may take to open a connection.
const CONNECT: Duration = Duration::from_secs(3);

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The user is not known there, or may not see this.
    #[error("{0}")]
    Forbidden(String),
    /// There is no such thing, or nobody who answers.
    #[error("{0}")]
    Failed(String),
}

/// Where it is, and as whom it is asked.
#[derive(Debug)]
pub struct Management {
    http: Client,
    /// Without user and password.
    base: Url,
    /// What is asked: with them, where the URL has its own.
    url: Url,
    /// Those of `amqp.url`, where it has not.
    login: Option<(String, SecretString)>,
    vhost: String,
}

impl Management {
    /// `None` where the configuration does not say where it is.
    ///
    /// # Errors
    /// Where TLS cannot be set up.
    pub fn of(amqp: &Amqp) -> Option<Result<Self, Unanswered>> {
        let (url, uri) = (amqp.management_url.as_ref()?, amqp.uri()?);
        let url = Url::parse(url.expose_secret()).ok()?;
        let mut base = url.clone();
        // An URL with a host takes both.
        let _ = (base.set_username(""), base.set_password(None));
        let user = uri.authority.userinfo;
        let login = url.username().is_empty().then(|| (user.username, SecretString::from(user.password)));
        // Not by `http.proxy`: it is in the broker's network.
        let mut http = Client::builder()
            .user_agent(concat!("resetd/", env!("CARGO_PKG_VERSION")))
            .retry(reqwest::retry::never())
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .no_proxy();
        if let Some(ca) = &amqp.tls.ca {
            // Those that cannot be read are passed over, as for the broker.
            http = http.tls_certs_only(ca.iter().filter_map(|der| reqwest::Certificate::from_der(der).ok()));
        }
        let built = http.build().map_err(|error| Unanswered::Failed(chain(&error.without_url())));
        Some(built.map(|http| Self { http, base, url, login, vhost: uri.vhost }))
    }

    /// Where it is.
    pub fn place(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// All nodes of the cluster, those that are down too.
    ///
    /// # Errors
    /// Where it does not say.
    pub async fn nodes(&self) -> Result<Vec<Node>, Unanswered> {
        let missing = || Unanswered::Failed("404: no management API is there".into());
        self.get(&["api", "nodes"]).await?.ok_or_else(missing)
    }

    /// One queue of the vhost of `amqp.url`; `None` where there is none of that name.
    ///
    /// # Errors
    /// Where it does not say.
    pub async fn queue(&self, name: &str) -> Result<Option<Queue>, Unanswered> {
        self.get(&["api", "queues", &self.vhost, name]).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<Option<T>, Unanswered> {
        let mut url = self.url.clone();
        // An URL with a host takes it. A slash in a name is escaped.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let mut request = self.http.get(url);
        if let Some((user, password)) = &self.login {
            request = request.basic_auth(user, Some(password.expose_secret()));
        }
        let failed = |error: reqwest::Error| Unanswered::Failed(chain(&error.without_url()));
        let mut answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > LONGEST {
                return Err(Unanswered::Failed(format!("its answer is longer than {} MiB", LONGEST >> 20)));
            }
            body.extend_from_slice(&chunk);
        }
        match status {
            StatusCode::OK => serde_json::from_slice(&body)
                .map(Some)
                .map_err(|_| Unanswered::Failed("its answer is not that of a management API".into())),
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let Refused { reason } = serde_json::from_slice(&body).unwrap_or_default();
                Err(Unanswered::Forbidden(format!("{}: {reason}", status.as_u16())))
            }
            other => Err(Unanswered::Failed(format!("it answers {other}"))),
        }
    }
}

/// An error with all that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
