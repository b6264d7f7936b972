//! What is served over HTTP: `/healthz`, `/readyz` and `/metrics`, to all; the page at `/` and its data, `/state` and `/events`, to
//! those who may see them. It reads only.

mod attempts;
mod auth;
mod events;
mod headers;
mod hosts;
mod leader;
mod live;
mod page;
mod page_state;
mod peer;
mod server;
mod shown;
mod snapshot;
mod status_line;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::board::{self, ClosedLane};
use crate::config;
use crate::throttle::gate::Meter;
use crate::wire::by_lane::ByLane;
use auth::{Admission, Guard};
use leader::Leader;
use live::Live;
use page_state::Breaker;
use shown::Shown;
pub use snapshot::{Snapshot, Source};

const UPKEEP: Duration = Duration::from_secs(5);
/// The longest body of a request, in bytes: of a sign-in, whose form has a token. All others have none.
const MAX_BODY: usize = 4096;

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    orgs: BTreeMap<String, Org>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mailer: Option<Org>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Org {
    role: &'static str,
    reason: Option<String>,
    /// The rate in force, of the one that is at work.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_per_minute: Option<u32>,
    /// Until when all calls pause, as the far end asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<Leader>,
    #[serde(skip_serializing_if = "Option::is_none")]
    breaker: Option<Breaker>,
    #[serde(flatten)]
    closed: ByLane<Closed>,
}

/// A lane that is closed.
#[derive(Serialize)]
struct Closed {
    state: &'static str,
    cause: String,
    until: String,
}

/// Serves until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    snapshot: Snapshot,
    http: &config::http::Http,
    recorder: PrometheusHandle,
    shutdown: CancellationToken,
) {
    let listen = listener.local_addr().unwrap_or(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0));
    let shown = Arc::new(Shown {
        board: snapshot.board.clone(),
        recorder: recorder.clone(),
        written: Mutex::new(None),
        guard: Guard::new(http.token.as_ref(), listen, &http.allowed_hosts),
        live: Arc::new(Live::new(snapshot)),
        ended: shutdown.clone(),
    });
    let routes = Router::new()
        .route("/", get(page::show).post(page::sign_in))
        .route("/state", get(events::state))
        .route("/events", get(events::events))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::clone(&shown));
    tracing::info!(address = %listen, "listening for /healthz, /readyz, /metrics and the page at /");
    // A client that keeps its connection open must not keep the process: what is left is dropped with the task.
    let serving = server::serve(listener, routes);
    shutdown
        .run_until_cancelled(async { tokio::join!(serving, shown.live.run(), upkeep(recorder, &shown.guard)) })
        .await;
}

/// Samples of histograms pile up until somebody folds them into buckets; nobody may ever ask for `/metrics`. What was not logged of sign-ins
/// that failed is, when its minute is over.
async fn upkeep(recorder: PrometheusHandle, guard: &Guard) {
    let mut every = tokio::time::interval(UPKEEP);
    loop {
        every.tick().await;
        recorder.run_upkeep();
        guard.log();
    }
}

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Words {
    /// Kinds of reasons.
    Kinds,
    /// The reasons, which may name hosts and users.
    All,
}

/// `GET /readyz`, for everybody; in its words for those alone who may see the page.
async fn readyz(State(shown): State<Arc<Shown>>, asked: Parts) -> impl IntoResponse {
    let words = match shown.guard.admits(&asked).await {
        Admission::Granted(_) => Words::All,
        Admission::Refused | Admission::Limited(_) | Admission::Misdirected => Words::Kinds,
    };
    let state = shown.board.borrow().clone();
    let ready = state.ready();
    let snapshot = shown.live.snapshot();
    let rows = state
        .orgs
        .iter()
        .map(|(name, org)| (name.clone(), row(org, snapshot.meter(name).as_ref(), snapshot.leader(name), words)));
    let orgs: BTreeMap<String, Org> = rows.collect();
    let mailer = state
        .mailer
        .as_ref()
        .map(|mailer| row(mailer, snapshot.mailers_meter().as_ref(), snapshot.mailers_leader(), words));
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, orgs, mailer }))
}

fn row(org: &board::OrgState, meter: Option<&Meter>, leader: Option<Leader>, words: Words) -> Org {
    let (role, all) = org.role();
    let said = |kind: &str, all: &str| match words {
        Words::Kinds => kind.to_owned(),
        Words::All => all.to_owned(),
    };
    let reason = all.map(|all| said(&org.kinds().join("; "), &all));
    let meter = meter.filter(|_| org.works());
    let breaker = org.breaker.as_ref();
    let breaker = breaker.map(|breaker| Breaker::because(breaker, said(breaker.kind, &breaker.cause)));
    let closed = org.closed.each_ref().map(|closed| {
        let ClosedLane { kind, cause, until } = closed.as_ref()?;
        Some(Closed { state: "closed", cause: said(kind, cause), until: until.to_string() })
    });
    let rate_per_minute = meter.map(|meter| meter.rate);
    let paused_until = meter.and_then(|meter| page_state::seconds(meter.paused_until)).map(|until| until.to_string());
    let leader = match words {
        Words::All => leader,
        Words::Kinds => leader.map(Leader::without_name),
    };
    Org { role: role.as_str(), reason, rate_per_minute, paused_until, leader, breaker, closed: ByLane::some(closed) }
}

async fn render(State(shown): State<Arc<Shown>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shown.figures())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::{Board, Session};
    use crate::domain::breaker::{BreakerState, BreakerView};

    #[test]
    fn a_breaker_is_shown_only_while_it_is_not_closed() {
        let board = Board::new(["main"].into_iter());
        board.session(&"main".into(), Session::Active);
        let shown =
            || serde_json::to_string(&row(&board.watch().borrow().orgs["main"], None, None, Words::All)).unwrap();
        assert_eq!(shown(), r#"{"role":"active","reason":null}"#);
        let next_probe = "2026-01-02T03:04:05.678Z".parse().unwrap();
        let cause = "5 calls in a row failed".to_owned();
        board.breaker(
            &"main".into(),
            Some(BreakerView { state: BreakerState::HalfOpen, kind: "faults_in_row", cause, next_probe }),
        );
        let breaker =
            r#"{"state":"half_open","cause":"5 calls in a row failed","nextProbe":"2026-01-02T03:04:05.678Z"}"#;
        assert_eq!(shown(), format!(r#"{{"role":"active","reason":null,"breaker":{breaker}}}"#));
    }

    #[test]
    fn the_rate_in_force_and_a_pause_are_said_of_an_org_that_is_at_work_here() {
        let board = Board::new(["main"].into_iter());
        let mut meter = Meter { rate: 240, ..Meter::idle(300) };
        let shown = |meter: &Meter| {
            serde_json::to_string(&row(&board.watch().borrow().orgs["main"], Some(meter), None, Words::All)).unwrap()
        };
        board.session(&"main".into(), Session::Standby(None));
        assert_eq!(shown(&meter), r#"{"role":"standby","reason":null}"#);
        board.session(&"main".into(), Session::Active);
        assert_eq!(shown(&meter), r#"{"role":"active","reason":null,"ratePerMinute":240}"#);
        meter.paused_until = "2026-01-02T03:04:05.678Z".parse().ok();
        let said = r#"{"role":"active","reason":null,"ratePerMinute":240,"pausedUntil":"2026-01-02T03:04:06Z"}"#;
        assert_eq!(shown(&meter), said);
    }
}
