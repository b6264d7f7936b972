//! `/healthz`, `/readyz`, `/metrics`, and a line of text at `/`.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::board::{self, Role};
use crate::telemetry::metrics;

const UPKEEP: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Shown {
    board: watch::Receiver<board::State>,
    recorder: PrometheusHandle,
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    orgs: BTreeMap<String, Org>,
}

#[derive(Serialize)]
struct Org {
    role: &'static str,
    reason: Option<String>,
}

/// Serves until `shutdown`. It is part of the worker's health, so a failure of it is logged and no more.
pub async fn serve(
    listener: TcpListener,
    board: watch::Receiver<board::State>,
    recorder: PrometheusHandle,
    shutdown: CancellationToken,
) {
    let routes = Router::new()
        .route("/", get(|| async { "resetd: see /healthz, /readyz and /metrics\n" }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(Shown { board, recorder: recorder.clone() });
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "listening for /healthz, /readyz and /metrics");
    }
    // A client that keeps its connection open must not keep the process: what is left is dropped with the task.
    let serving = async {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(%error, "the health server ended");
        }
    };
    shutdown.run_until_cancelled(async { tokio::join!(serving, upkeep(recorder)) }).await;
}

/// Samples of histograms pile up until somebody folds them into buckets; nobody may ever ask for `/metrics`.
async fn upkeep(recorder: PrometheusHandle) {
    let mut every = tokio::time::interval(UPKEEP);
    loop {
        every.tick().await;
        recorder.run_upkeep();
    }
}

async fn readyz(State(shown): State<Shown>) -> impl IntoResponse {
    let state = shown.board.borrow().clone();
    let ready = state.ready();
    let row = |org: &board::OrgState| {
        let (role, reason) = org.role();
        Org { role: role.as_str(), reason }
    };
    let orgs = state.orgs.iter().map(|(name, org)| (name.clone(), row(org))).collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, orgs }))
}

async fn render(State(shown): State<Shown>) -> impl IntoResponse {
    for (name, org) in &shown.board.borrow().orgs {
        metrics::line_stopped(name, org.role().0 == Role::Stopped);
    }
    shown.recorder.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shown.recorder.render())
}
