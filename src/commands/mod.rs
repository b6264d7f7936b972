//! The roles: one for each subcommand, which puts the parts together. A role is `run(config, …, shutdown)`: the caller owns
//! sockets and signals, so that a test binds port 0 and says when to stop.

pub mod check;
pub mod completions;
pub mod dead;
pub mod demo;
pub mod enqueue;
pub mod keygen;
pub mod mailer;
pub mod man;
pub mod schema;
pub mod sim;
pub mod worker;

mod stdout;

/// Says at the start where the environment names a proxy that is not used.
fn warn_of_proxy(proxy: &crate::config::proxy::Proxy) {
    if let Some(unused) = proxy.unused() {
        tracing::warn!("{unused}; set http.proxy = \"env\" where it is meant for them too, or http.proxy to another");
    }
}
