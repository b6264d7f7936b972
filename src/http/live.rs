//! The page's data for all who have it open. However many look on, it is put together once a second at most.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

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
    pub(super) latest: watch::Sender<Option<Arc<str>>>,
    viewers: watch::Sender<usize>,
}

/// One page that is open somewhere.
pub(super) struct Viewer(Arc<Live>);

impl Drop for Viewer {
    fn drop(&mut self) {
        self.0.viewers.send_modify(|viewers| *viewers -= 1);
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

    /// A place for one more page; none where too many are open.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Viewer> {
        let entered = self.viewers.send_if_modified(|viewers| {
            let room = *viewers < MAX_VIEWERS;
            *viewers += usize::from(room);
            room
        });
        entered.then(|| Viewer(Arc::clone(self)))
    }
}
