//! Who leads: elected, and with what the process before has done read to its end. `docs/adr/0006` argues why two can never call at once.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::time::{Instant, sleep};

use super::process::{Consumer, Supervisor};
use super::term::Term;
use super::workload::Workload;
use crate::amqp::claim::{FORMER_LEADER_DELAY, REPEAT, after_another};
use crate::amqp::error::BrokerError;
use crate::amqp::lease::FRESH;
use crate::amqp::link::Link;
use crate::amqp::publisher::Publisher;
use crate::board::Session as Standing;
use crate::domain::ledger::Before;
use crate::telemetry::logs::millis;

impl<W: Workload> Consumer<W> {
    /// Where all lost the broker, the former leader goes first: it remembers how far it has come.
    pub(super) async fn after_former_leader(&self) {
        if !self.claim.was_ours() {
            sleep(FORMER_LEADER_DELAY).await;
        }
    }

    /// Stands by until this process leads and nobody else can still be at work.
    pub(super) async fn elect(&self, supervisor: &Supervisor<'_, W>, link: &Link) -> Result<Term, BrokerError> {
        link.declare(&self.shared.topology()).await?;
        // Read from now on, so that little is left to read when the time comes.
        let _reading = supervisor.ledger.reading();
        let stands_by = || {
            self.works();
            self.shared.gate().stand_by();
            supervisor.board.session(self.shared.subject(), Standing::Standby);
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
                supervisor.board.session(shared.subject(), Standing::Starting(why));
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
    pub(super) async fn repeat(&self, publisher: &Publisher) -> Infallible {
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
