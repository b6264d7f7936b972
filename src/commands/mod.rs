//! The commands: one for each subcommand, which puts the parts together. A command is `run(config, …, shutdown)`: the caller owns
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

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::amqp::names::Names;
use crate::config::Config;
use crate::consumer::{Consumer, Workload};
use crate::http::{self, Snapshot, Source};
use crate::telemetry::metrics;

/// What the page shows of a consumer.
fn source<W: Workload>(names: &Names, consumer: &Consumer<W>) -> Source {
    let gate = Arc::clone(&consumer.shared);
    Source {
        names: names.clone(),
        meter: Box::new(move || gate.gate().meter()),
        candidate: Box::new(consumer.candidate()),
        jobs_in_flight: consumer.shared.in_flight().clone(),
    }
}

/// Works while health, metrics and the page are served.
async fn serve_while<T>(
    (listener, recorder): (TcpListener, PrometheusHandle),
    snapshot: Snapshot,
    config: &Config,
    work: impl Future<Output = T>,
) -> T {
    let (ended, served) = (CancellationToken::new(), config.http.clone());
    let shutdown = ended.clone();
    let serving = tokio::spawn(async move { http::serve(listener, snapshot, &served, recorder, shutdown).await });
    let worked = work.await;
    ended.cancel();
    let _ = serving.await;
    metrics::broker_connected(false);
    worked
}

/// Says at the start where the environment names a proxy that is not used.
fn warn_of_proxy(proxy: &crate::config::proxy::Proxy) {
    if let Some(unused) = proxy.unused() {
        tracing::warn!("{unused}; set http.proxy = \"env\" where it is meant for them too, or http.proxy to another");
    }
}
