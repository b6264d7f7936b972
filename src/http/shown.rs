//! What every route is answered from.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::auth::Guard;
use super::live::Live;
use crate::board::{self, Role};
use crate::domain::subject::Subject;
use crate::telemetry::metrics;

/// How old the text of the metrics may be that is answered.
const RENDERED: Duration = Duration::from_millis(100);

/// What the process shows, and to whom.
pub(super) struct Shown {
    pub(super) board: watch::Receiver<board::State>,
    pub(super) recorder: PrometheusHandle,
    /// The metrics as they were written last.
    pub(super) written: Mutex<Option<(Instant, Bytes)>>,
    pub(super) guard: Guard,
    pub(super) live: Arc<Live>,
    /// Cancelled when the process ends: a page that is open somewhere does not hold it.
    pub(super) ended: CancellationToken,
}

impl Shown {
    /// The metrics as text. Writing them is work, and anybody may ask for them: it is done so often at most.
    pub(super) fn figures(&self) -> Bytes {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, text)) = &*written
            && at.elapsed() < RENDERED
        {
            return text.clone();
        }
        let state = self.board.borrow().clone();
        let orgs = state.orgs.iter().map(|(name, org)| (Subject::Org(name.clone()), org));
        for (subject, row) in orgs.chain(state.mailer.as_ref().map(|mailer| (Subject::Mailer, mailer))) {
            metrics::active(&subject, row.works());
            metrics::no_leader(&subject, row.has_no_leader());
            metrics::halted(&subject, row.role().0 == Role::Halted);
        }
        metrics::tasks(tokio::runtime::Handle::current().metrics().num_alive_tasks());
        self.recorder.run_upkeep();
        let text = Bytes::from(self.recorder.render());
        *written = Some((Instant::now(), text.clone()));
        text
    }
}
