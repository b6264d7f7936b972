//! What a job needs of the session it runs in: where to publish, and how to know that the session is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::memory::{Key, Trip};
use super::org::Org;
use super::ticket::Ticket;
use super::{Over, debts};
use crate::amqp::link::Link;
use crate::amqp::publisher::Publisher;
use crate::amqp::topology;
use crate::amqp::trouble::Trouble;
use crate::domain::outcome::OutcomeKind;
use crate::domain::user::EmailAddress;
use crate::telemetry::metrics;

/// As long as one declaration counts for everybody whose message found no queue.
const DECLARED: Duration = Duration::from_millis(900);

/// One org's desk, for as long as one session lasts.
#[derive(Debug)]
pub struct Desk {
    /// What outlives the session.
    pub org: Arc<Org>,
    /// Where everything owed is published.
    pub publisher: Publisher,
    /// Cancelled when nothing new is begun: a job that was never tried goes back at once, the others finish.
    pub draining: CancellationToken,
    /// Cancelled when nothing is waited for any more: the broker is lost, or the grace has ended. A call in the air is still finished.
    pub over: CancellationToken,
    /// The connections, for declaring the topology again.
    pub link: Arc<Link>,
    /// When it was declared again last, and what came of it: one declares for all who wait.
    pub declaring: Mutex<Option<(Instant, Result<(), Trouble>)>>,
}

impl Desk {
    /// Waits for something, unless the session ends first; a job that was never tried does not wait through a drain.
    pub(super) async fn until_over<T>(&self, something: impl Future<Output = T>, trip: &Trip) -> Result<T, Over> {
        let drained =
            async { if trip.is_tried() { std::future::pending().await } else { self.draining.cancelled().await } };
        tokio::select! {
            biased;
            () = self.over.cancelled() => Err(Over),
            () = drained => Err(Over),
            value = something => Ok(value),
        }
    }

    /// Waits in memory until that moment, where there is one and it is ahead.
    pub(super) async fn wait_until(&self, moment: Option<Timestamp>, trip: &Trip) -> Result<(), Over> {
        let ahead = moment.and_then(|moment| Duration::try_from(moment.duration_since(Timestamp::now())).ok());
        match ahead {
            Some(wait) => self.until_over(tokio::time::sleep(wait), trip).await,
            None => Ok(()),
        }
    }

    /// Declares the topology again, after a message found no queue.
    pub(super) async fn declare_again(&self) -> Result<(), Trouble> {
        let mut last = self.declaring.lock().await;
        if let Some((at, declared)) = last.as_ref()
            && at.elapsed() < DECLARED
        {
            return declared.clone();
        }
        let declared = topology::declare_on(&self.link.publishing, &self.org.names).await;
        *last = Some((Instant::now(), declared.clone()));
        declared
    }

    /// The job is settled: one line in the log, one in the metrics.
    pub(super) fn settled(&self, ticket: &Ticket, trip: &Trip, key: Key) {
        let Some(ending) = &trip.ending else { return };
        let outcome = debts::outcome(self, ticket, trip, ending);
        if outcome.kind == OutcomeKind::Succeeded {
            self.org.memory.succeeded(key);
        }
        metrics::job_ended(&outcome);
        let (kind, reason) = (outcome.kind.as_str(), outcome.reason.map(|reason| reason.as_str()));
        let detail = match (&outcome.detail, &trip.email) {
            (Some(detail), Some(email)) => Some(loggable(detail, email)),
            (detail, _) => detail.clone(),
        };
        if outcome.reason.is_some() {
            tracing::warn!(job.id = %outcome.job, org = outcome.org, lane = outcome.lane.as_str(), outcome = kind, reason, status = outcome.status, attempt = outcome.attempts, detail, "job dead-lettered");
        } else {
            tracing::info!(job.id = %outcome.job, org = outcome.org, lane = outcome.lane.as_str(), outcome = kind, status = outcome.status, attempt = outcome.attempts, "job done");
        }
    }
}

/// What the org said, fit for the log, which holds no address.
pub(super) fn loggable(detail: &str, email: &EmailAddress) -> String {
    detail.replace(email.as_str(), "[address]")
}
