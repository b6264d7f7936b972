//! Who leads: the one place that knows by what a leader is elected. `docs/adr/0006` argues why two can never call at once.

use std::sync::Arc;

use tokio::time::{Duration, Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Workload;
use super::supervisor::{Consumer, Supervisor};
use crate::amqp::claim::{REPEAT, after_another};
use crate::amqp::error::BrokerError;
use crate::amqp::lease::{FRESH, Lease, PUBLISH_GRACE, Renewed};
use crate::amqp::link::Link;
use crate::amqp::publisher::Publisher;
use crate::board::Session as Standing;
use crate::domain::ledger::Before;
use crate::telemetry::logs::millis;

/// This process leads, until that is lost or released.
pub(super) struct Term {
    lease: Lease,
    pub(super) publisher: Arc<Publisher>,
}

/// That this process leads: to be looked at before each call and publish.
#[derive(Debug, Clone)]
pub struct Proof(Renewed);

impl Proof {
    /// Whether a call may begin.
    pub fn is_fresh(&self) -> bool {
        self.0.is_fresh()
    }

    /// Whether what a call has brought that ended at that moment may be published, where calls take at most `longest`.
    pub(super) fn allows_publish_of(&self, called: Option<std::time::Instant>, longest: Duration) -> bool {
        let has_just_called = called.is_some_and(|ended| ended.elapsed() < PUBLISH_GRACE);
        has_just_called && self.0.allows_late_publishes(longest) || self.0.is_fresh()
    }
}

impl Term {
    pub(super) fn proof(&self) -> Proof {
        Proof(self.lease.renewed().clone())
    }

    /// Cancelled when it is known to be over.
    pub(super) fn lost(&self) -> &CancellationToken {
        self.lease.gone()
    }
}

impl<W: Workload> Consumer<W> {
    /// Stands by until this process leads and nobody else can still be at work.
    pub(super) async fn elect(&self, supervisor: &Supervisor<'_, W>, link: &Link) -> Result<Term, BrokerError> {
        link.declare(&self.shared.topology()).await?;
        // Read from now on, so that little is left to read when the time comes.
        let _reading = supervisor.ledger.reading();
        let stands_by = || {
            self.works();
            self.shared.gate().stand_by();
            supervisor.board.session(&self.shared.subject().to_string(), Standing::Standby);
        };
        let lease = self.claim.stand_by(link, stands_by).await?;
        let publisher = Arc::new(Publisher::of(Arc::clone(&link.pool)));
        let lost = || BrokerError::Retry("the lease was lost while the ledger was read".into());
        let gone = lease.gone().clone();
        gone.run_until_cancelled(self.fence(supervisor, &publisher)).await.ok_or_else(lost)??;
        Ok(Term { lease, publisher })
    }

    /// Reads the ledger to its end. Where another process led last and did not say that it was done, waits until it can do nothing more.
    async fn fence(&self, supervisor: &Supervisor<'_, W>, publisher: &Publisher) -> Result<(), BrokerError> {
        let (shared, began) = (&self.shared, Instant::now());
        let org = shared.subject().org();
        let before = self.claim.fence(publisher).await?;
        match before {
            Before::Ourselves => shared.gate().goes_on(),
            Before::Nobody => shared.forget(),
            Before::Another => {
                let wait = after_another(shared.longest_call());
                let why = format!(
                    "taking over: for {} s the {} before may still be at work",
                    wait.as_secs_f32(),
                    supervisor.command
                );
                tracing::info!(org, delay_ms = millis(wait), "{why}");
                supervisor.board.session(&shared.subject().to_string(), Standing::Starting(why));
                sleep(FRESH).await;
                // Only now, with the last call of the process before begun: our limiter and its own never count the same second.
                shared.forget();
                sleep(wait - FRESH).await;
                self.claim.fence(publisher).await?;
            }
        }
        if before != Before::Ourselves {
            shared.takes_over();
        }
        self.claim.settles();
        tracing::info!(org, took_ms = millis(began.elapsed()), "active now; history loaded");
        Ok(())
    }

    /// Says again and again that this process leads, for those who start meanwhile.
    pub(super) async fn repeat(&self, publisher: &Publisher) -> std::convert::Infallible {
        loop {
            sleep(REPEAT).await;
            self.claim.repeat(publisher).await;
        }
    }

    /// Gives the leadership up, with everything done: the next process need not wait.
    pub(super) async fn release(&self, term: Term, link: &Link) {
        self.claim.release(term.lease, link, &term.publisher).await;
    }
}
