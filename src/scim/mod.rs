//! The org's two endpoints: the token's, and SCIM Users. What touches the network here decides nothing; `classify` decides and touches nothing.

pub mod classify;
pub mod client;
pub mod foreign;
pub mod probe;
mod refusal;
pub mod token;

use std::time::Duration;

use crate::config::proxy::Proxy;

/// A client for all calls of the process: no retries and no redirects of its own, since every call passes the gate, and no proxy but
/// the configured one.
///
/// # Errors
/// Where the system has no CA certificates.
pub fn http_client(proxy: &Proxy) -> Result<reqwest::Client, NoClient> {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("resetd/", env!("CARGO_PKG_VERSION")))
        .retry(reqwest::retry::never())
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(5))
        // Load balancers drop idle connections sooner than reqwest's 90 s.
        .pool_idle_timeout(Duration::from_secs(15))
        .tcp_nodelay(true);
    proxy.on(builder).and_then(reqwest::ClientBuilder::build).map_err(|error| NoClient(error.without_url().to_string()))
}

/// TLS could not be set up.
#[derive(Debug, thiserror::Error)]
#[error(
    "the HTTPS client cannot be built: {0}; are CA certificates installed (Debian: apt-get install ca-certificates)?"
)]
pub struct NoClient(String);

/// At most `limit` bytes of an answer's body, as far as it comes: its status counts, whatever becomes of the rest.
async fn body(mut answer: reqwest::Response, limit: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < limit
        && let Ok(Some(chunk)) = answer.chunk().await
    {
        bytes.extend_from_slice(&chunk[..chunk.len().min(limit - bytes.len())]);
    }
    bytes
}
