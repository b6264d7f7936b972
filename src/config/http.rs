//! The section of what is served over HTTP, and of how others are called by it.

use std::net::SocketAddr;

use secrecy::{ExposeSecret, SecretString};

use super::proxy::Proxy;
use super::{ConfigError, Environment, mailer, raw, strength, value};

/// Fewer bits could be guessed by whoever has the time: NIST SP 800-131A calls everything below 112 weak, and 128 is what is common.
const LEAST_BITS: f64 = 128.0;
/// What makes one.
const MAKE: &str = "openssl rand -hex 32";

/// Where health, metrics and the page are served, and to whom.
#[derive(Debug, Clone)]
pub struct Http {
    /// The address.
    pub listen: SocketAddr,
    /// What whoever wants to see the page or its data must know; `None`: everybody on this machine sees them.
    pub token: Option<SecretString>,
    /// Names and addresses beside this machine's own under which the page may be asked for, in lower case.
    pub allowed_hosts: Vec<String>,
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
        token.as_ref().map(check_token).transpose()?;
        let allowed_hosts = raw.allowed_hosts.0.iter().map(|host| allowed_host(host)).collect::<Result<_, _>>()?;
        Ok(Self { listen, token, allowed_hosts, proxy: Proxy::check(&raw, environment)? })
    }

    /// What is needed before anything is served: beyond this machine the page is shown only to those who know the token.
    pub(super) fn check_served(&self) -> Result<(), ConfigError> {
        if self.token.is_none() && !self.listen.ip().to_canonical().is_loopback() {
            return Err(ConfigError::missing(
                "http.token",
                &format!(
                    "a secret of at least 128 bits, such as the output of: {MAKE} (or http.token_file, a file with it), since http.listen is {}, which others than this machine can reach",
                    self.listen
                ),
            ));
        }
        Ok(())
    }
}

/// Whether it can be sent, and not be guessed.
fn check_token(token: &SecretString) -> Result<(), ConfigError> {
    let token = token.expose_secret();
    let wants = format!("at least 128 bits of printable ASCII without blanks, such as the output of: {MAKE}");
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let got = "a text with characters that no header can carry (it is not repeated here)";
        return Err(ConfigError::wrong("http.token", got, &wants));
    }
    let bits = strength::bits(token);
    if bits < LEAST_BITS {
        let got = format!(
            "guessable: about {bits:.0} bits by its length, its alphabet and what repeats in it (it is not repeated here)"
        );
        return Err(ConfigError::wrong("http.token", got, &wants));
    }
    Ok(())
}

/// A host as requests name it: without a port, and an IPv6 address without its brackets.
fn allowed_host(text: &str) -> Result<String, ConfigError> {
    let host = text.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
    mailer::is_host(&host).then_some(host).ok_or_else(|| {
        let wants = "names or addresses without scheme and port, such as resetd.example.com";
        ConfigError::wrong("http.allowed_hosts", format_args!("{text:?}"), wants)
    })
}
