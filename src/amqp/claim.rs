//! The claim to do what one process alone may do: an org's jobs, or the mails. Stand by until the lease is ours, then read the ledger
//! up to a fence of our own, so that everything is known that the process before has done. `docs/adr/0006` has the argument.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use lapin::BasicProperties;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::error::BrokerError;
use super::lease::{FRESH, Lease, PUBLISH_GRACE};
use super::ledger::Ledger;
use super::link::Link;
use super::publisher::{Message, Publisher, Unpublished};
use crate::domain::ledger::{Before, Holder, Tenure, WorkerName};
use crate::domain::subject::Subject;
use crate::wire;

/// How often the ledger is told whose the lease is: well within the day that one who starts reads of it.
pub const REPEAT: Duration = Duration::from_secs(3600);
/// How much later than the process before all others try, after the broker was lost.
pub const FORMER_LEADER_DELAY: Duration = Duration::from_secs(3);
/// How often one who stands by looks.
const TRY: Duration = Duration::from_millis(250);
/// How long the record may take that the lease is given up: under an alarm it would take for ever.
const RELEASED: Duration = Duration::from_secs(1);
/// Beside the calls of the process before, and their publish grace: for the steps between a look at the clock and the action.
const TO_SPARE: Duration = Duration::from_millis(500);

/// A name for this process that no other has.
pub fn process_name() -> WorkerName {
    // What this machine is called, for people; empty where it does not say.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    WorkerName::of(host.unwrap_or_default().trim(), std::process::id(), &Uuid::new_v4().to_string())
}

/// How long the process before may still be at work, from when its lease is ours: where one call takes at most `longest`.
pub fn after_another(longest: Duration) -> Duration {
    FRESH + longest + PUBLISH_GRACE + TO_SPARE
}

/// One claim, over every connection.
#[derive(Debug)]
pub struct Claim {
    subject: Subject,
    queue: String,
    stream: String,
    name: WorkerName,
    ledger: Ledger,
    tenure: Mutex<Tenure>,
}

impl Claim {
    /// Of `subject`'s lease, which is this queue; the ledger is kept in `stream`; `name` is what this process is called in it.
    pub fn new(subject: impl Into<Subject>, queue: String, stream: String, name: WorkerName, ledger: Ledger) -> Self {
        Self { subject: subject.into(), queue, stream, name, ledger, tenure: Mutex::default() }
    }

    fn tenure(&self) -> MutexGuard<'_, Tenure> {
        self.tenure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this process held the lease last, as far as it knows.
    pub fn was_ours(&self) -> bool {
        self.tenure().is_settled() && self.ledger.holder(self.subject.in_ledger()) == Holder::Was(self.name.clone())
    }

    /// Looks until the lease is free, and takes it; `standing_by` is called each time that it is another's.
    ///
    /// # Errors
    /// Where a connection is lost, or the broker refuses it for another reason than that somebody holds it.
    pub async fn stand_by(&self, link: &Link, standing_by: impl Fn()) -> Result<Lease, BrokerError> {
        let lost = || BrokerError::Retry("a connection to the broker was lost".into());
        let publisher = Publisher::of(Arc::clone(&link.pool));
        let mut said = false;
        loop {
            let tried = Instant::now();
            // One that a session before had is this connection's still.
            let is_ours = link.leases().contains(&self.queue);
            let is_free = is_ours
                || !link.lost().run_until_cancelled(is_held(&publisher, &self.queue)).await.ok_or_else(lost)??;
            if is_free && let Some(lease) = Lease::take(link, self.queue.clone()).await? {
                return Ok(lease);
            }
            standing_by();
            if !said {
                tracing::info!(org = self.subject.org(), "standing by: another process has the lease");
                said = true;
            }
            if timeout(TRY.saturating_sub(tried.elapsed()), link.lost().cancelled()).await.is_ok() {
                return Err(lost());
            }
        }
    }

    /// Writes a fence into the ledger and reads up to it: who held the lease before.
    ///
    /// # Errors
    /// Where it cannot be written, or is not read.
    pub async fn fence(&self, publisher: &Publisher) -> Result<Before, BrokerError> {
        let id = Uuid::new_v4().to_string();
        self.tenure().claims(&id);
        self.write_fence(publisher, &id).await?;
        self.ledger.until_fence(&id).await?;
        Ok(self.tenure().before(&self.name, |id| self.ledger.before_fence(id)))
    }

    /// It is taken over completely.
    pub fn settles(&self) {
        self.tenure().settles();
    }

    /// Says again that the lease is ours: one who starts reads the ledger of a day, and must find out who holds it.
    pub async fn repeat(&self, publisher: &Publisher) {
        let id = Uuid::new_v4().to_string();
        self.tenure().claims_again(&id);
        if let Err(trouble) = self.write_fence(publisher, &id).await {
            tracing::warn!(org = self.subject.org(), reason = %trouble, "the ledger could not be told whose the lease is");
        }
    }

    /// Gives the lease up, with everything done: the next process need not wait.
    pub async fn release(&self, lease: Lease, link: &Link, publisher: &Publisher) {
        let record = wire::ledger::released(self.subject.in_ledger(), &self.name, Timestamp::now());
        let written = timeout(RELEASED, self.write(publisher, record)).await;
        let late = || BrokerError::Retry(format!("not confirmed within {} s", RELEASED.as_secs()));
        if let Err(trouble) = written.unwrap_or_else(|_| Err(late())) {
            tracing::warn!(org = self.subject.org(), reason = %trouble, "the lease could not be released cleanly; who takes over waits a little");
        }
        lease.release(link).await;
        tracing::info!(org = self.subject.org(), "released");
    }

    async fn write_fence(&self, publisher: &Publisher, id: &str) -> Result<(), BrokerError> {
        self.write(publisher, wire::ledger::fence(self.subject.in_ledger(), &self.name, id, Timestamp::now())).await
    }

    async fn write(
        &self,
        publisher: &Publisher,
        (body, properties): (Vec<u8>, BasicProperties),
    ) -> Result<(), BrokerError> {
        let message = Message { exchange: "", key: &self.stream, body: &body, properties };
        let published = publisher.publish(&message).await;
        published.map_err(|unpublished| BrokerError::Retry(format!("writing to the ledger: {unpublished}")))
    }
}

/// Whether somebody holds the lease. What is published to its queue expires there at once, and comes back where there is no such queue:
/// nothing is refused. To declare what another holds would be, and each refusal costs the connection one of its channels.
///
/// # Errors
/// Where the connection is lost.
pub async fn is_held(publisher: &Publisher, lease: &str) -> Result<bool, BrokerError> {
    let properties = BasicProperties::default().with_expiration("0".into());
    match publisher.publish(&Message { exchange: "", key: lease, body: b"", properties }).await {
        // One that is just being deleted may refuse it.
        Ok(()) | Err(Unpublished::Refused { .. }) => Ok(true),
        Err(Unpublished::Returned { .. }) => Ok(false),
        Err(Unpublished::Lost(trouble)) => Err(trouble),
    }
}
