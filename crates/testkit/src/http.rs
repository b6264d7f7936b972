//! Requests to what a test has started. One client for the process: making one reads the machine's certificates, which took 20 ms of
//! processor time for each look of a test that looks 50 times a second.

use std::sync::LazyLock;

/// The client. It keeps no connection open, since each test has a runtime of its own.
pub fn client() -> &'static reqwest::Client {
    static CLIENT: LazyLock<reqwest::Client> =
        LazyLock::new(|| reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap());
    &CLIENT
}

/// Asks for a URL.
pub async fn get(url: impl reqwest::IntoUrl) -> reqwest::Result<reqwest::Response> {
    client().get(url).send().await
}
