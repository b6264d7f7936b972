//! The page's data: once as JSON, and live by server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use jiff::Timestamp;

use super::auth::Admission;
use super::page::refusal;
use super::shown::Shown;

/// `GET /state`: what there is to see, once.
pub(super) async fn state(State(shown): State<Arc<Shown>>, asked: Parts) -> Response {
    if let Some(refusal) = refusal(shown.guard.admits(&asked).await) {
        return refusal;
    }
    shown.live.snapshot().depths.freshen().await;
    ([(CONTENT_TYPE, "application/json")], shown.live.snapshot().view().to_json()).into_response()
}

/// `GET /events`: what there is to see, at once, and then whatever changes.
pub(super) async fn events(State(shown): State<Arc<Shown>>, asked: Parts) -> Response {
    let admission = shown.guard.admits(&asked).await;
    if let Some(refusal) = refusal(admission) {
        return refusal;
    }
    let changes = shown.live.latest.subscribe();
    let Some(viewer) = shown.live.enter() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many pages are open\n").into_response();
    };
    let first: Arc<str> = shown.live.snapshot().view().to_json().into();
    let rest = stream::unfold((changes, viewer), |(mut changes, viewer)| async {
        loop {
            changes.changed().await.ok()?;
            let latest = changes.borrow_and_update().clone();
            if let Some(latest) = latest {
                return Some((latest, (changes, viewer)));
            }
        }
    });
    let all = stream::once(async { first }).chain(rest).map(|json| Ok::<_, Infallible>(Event::default().data(json)));
    let ended = shown.ended.clone();
    let all = all.take_until(async move {
        tokio::select! { () = ended.cancelled() => {}, () = over(admission) => {} }
    });
    Sse::new(all).keep_alive(KeepAlive::default()).into_response()
}

/// Waits until whoever was admitted is not any more.
async fn over(admission: Admission) {
    let Admission::Granted(Some(until)) = admission else { return std::future::pending().await };
    let ahead = Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default();
    tokio::time::sleep(ahead).await;
}
