//! The page's data: once as JSON, and live by server-sent events. However many look on, it is put together once a second at most.

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
use tokio::sync::watch;
use tokio::time::Instant;

use super::Shown;
use super::auth::Admission;
use super::page::refusal;
use super::page_state::PageState;
use super::snapshot::Snapshot;

/// A change is sent at most so often.
const EVERY: Duration = Duration::from_secs(1);
/// Even without a change it is sent so often, so that a page knows that it is not cut off.
const AT_LEAST: Duration = Duration::from_secs(10);
/// Pages at once.
const MAX_VIEWERS: usize = 64;

/// What all viewers see.
pub(super) struct Live {
    snapshot: Snapshot,
    latest: watch::Sender<Option<Arc<str>>>,
    viewers: watch::Sender<usize>,
}

/// One page that is open somewhere.
struct Viewer(Arc<Shown>);

impl Drop for Viewer {
    fn drop(&mut self) {
        self.0.live.viewers.send_modify(|viewers| *viewers -= 1);
    }
}

impl Live {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        Self { snapshot, latest: watch::Sender::new(None), viewers: watch::Sender::new(0) }
    }

    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Looks on while somebody does.
    pub(super) async fn run(&self) {
        let mut viewers = self.viewers.subscribe();
        loop {
            // The sender lives as long as `self`.
            let _ = viewers.wait_for(|viewers| *viewers > 0).await;
            // The active worker notes what it does itself; what others write (a batch's announcement) it only reads.
            let _looking = (self.snapshot.depths.looking(), self.snapshot.ledger.reading());
            let mut last: Option<(PageState, Instant)> = None;
            while *viewers.borrow_and_update() > 0 {
                let view = self.snapshot.view();
                let news = last.as_ref().is_none_or(|(known, at)| *known != view || at.elapsed() >= AT_LEAST);
                if news {
                    self.latest.send_replace(Some(view.to_json().into()));
                    last = Some((view, Instant::now()));
                }
                let _ = tokio::time::timeout(EVERY, viewers.wait_for(|viewers| *viewers == 0)).await;
            }
            self.latest.send_replace(None);
        }
    }

    fn enter(shown: &Arc<Shown>) -> Option<Viewer> {
        let entered = shown.live.viewers.send_if_modified(|viewers| {
            let room = *viewers < MAX_VIEWERS;
            *viewers += usize::from(room);
            room
        });
        entered.then(|| Viewer(Arc::clone(shown)))
    }
}

/// `GET /state`: what there is to see, once.
pub(super) async fn state(State(shown): State<Arc<Shown>>, asked: Parts) -> Response {
    if let Some(refusal) = refusal(shown.guard.admits(&asked).await) {
        return refusal;
    }
    shown.live.snapshot.depths.freshen().await;
    ([(CONTENT_TYPE, "application/json")], shown.live.snapshot.view().to_json()).into_response()
}

/// `GET /events`: what there is to see, at once, and then whatever changes.
pub(super) async fn events(State(shown): State<Arc<Shown>>, asked: Parts) -> Response {
    let admission = shown.guard.admits(&asked).await;
    if let Some(refusal) = refusal(admission) {
        return refusal;
    }
    let changes = shown.live.latest.subscribe();
    let Some(viewer) = Live::enter(&shown) else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many pages are open\n").into_response();
    };
    let first: Arc<str> = shown.live.snapshot.view().to_json().into();
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
