//! A worker's own way to an org, by which a test knows which of several workers called, and when.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::net::TcpListener;

use crate::world::SimOrg;

/// A way of one worker's own to the org, on which it is noted when each call came.
pub struct Door {
    pub base: String,
    came: Arc<Mutex<Vec<Instant>>>,
}

impl Door {
    pub async fn to(org: &SimOrg) -> Self {
        // Where the org listens too.
        let listener = TcpListener::bind((org.host(), 0)).await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let came = Arc::new(Mutex::new(Vec::new()));
        let (noted, behind, http) = (Arc::clone(&came), org.base.clone(), reqwest::Client::new());
        let through = async move |request: axum::extract::Request| {
            if request.method() == axum::http::Method::PATCH {
                noted.lock().unwrap().push(Instant::now());
            }
            hand_on(&http, &behind, request).await
        };
        tokio::spawn(axum::serve(listener, axum::Router::new().fallback(through)).into_future());
        Self { base, came }
    }

    /// When each call came, in their order.
    pub fn calls(&self) -> Vec<Instant> {
        self.came.lock().unwrap().clone()
    }
}

async fn hand_on(http: &reqwest::Client, base: &str, request: axum::extract::Request) -> axum::response::Response {
    let (mut parts, body) = request.into_parts();
    parts.headers.remove("host");
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap_or_default();
    let asked = http.request(parts.method, format!("{base}{}", parts.uri)).headers(parts.headers).body(body);
    // The org is there as long as the test.
    let answer = asked.send().await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    let mut answered = axum::response::Response::new(axum::body::Body::from(answer.bytes().await.unwrap_or_default()));
    *answered.status_mut() = status;
    *answered.headers_mut() = headers;
    answered
}
