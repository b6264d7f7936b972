//! The section of what is served over HTTP, and of how others are called by it.

use std::net::SocketAddr;

use secrecy::{ExposeSecret, SecretString};

use super::proxy::Proxy;
use super::{ConfigError, Environment, raw, value};

/// Fewer could be guessed.
const LEAST: usize = 16;

/// Where health, metrics and the page are served, and to whom.
#[derive(Debug, Clone)]
pub struct Http {
    /// The address.
    pub listen: SocketAddr,
    /// What whoever wants to see the page or its data must know; `None`: everybody on this machine sees them.
    pub token: Option<SecretString>,
    /// How the orgs and the mail service are called.
    pub proxy: Proxy,
}

impl Http {
    pub(super) fn check(raw: raw::Http, environment: &Environment) -> Result<Self, ConfigError> {
        let listen = raw.listen.parse().map_err(|_| {
            let wants = "an address and a port, such as 127.0.0.1:9464";
            ConfigError::wrong("http.listen", format_args!("{:?}", raw.listen), wants)
        })?;
        let token = value::secret("http.token", raw.token.as_ref(), raw.token_file.as_deref())?;
        let fits = |token: &SecretString| {
            let token = token.expose_secret();
            token.len() >= LEAST && token.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if token.as_ref().is_some_and(|token| !fits(token)) {
            return Err(ConfigError::wrong(
                "http.token",
                "too short or has characters that no header can carry (it is not repeated here)",
                "at least 16 characters of printable ASCII without blanks, such as the output of: openssl rand -hex 24",
            ));
        }
        Ok(Self { listen, token, proxy: Proxy::check(&raw, environment)? })
    }

    /// What is needed before anything is served: beyond this machine the page is shown only to those who know the token.
    pub(super) fn check_served(&self) -> Result<(), ConfigError> {
        if self.token.is_none() && !self.listen.ip().to_canonical().is_loopback() {
            return Err(ConfigError::missing(
                "http.token",
                &format!(
                    "a secret of at least 16 characters (or http.token_file, a file with it), since http.listen is {}, which others than this machine can reach",
                    self.listen
                ),
            ));
        }
        Ok(())
    }
}
