//! What a mail needs of the session it is sent in: where to publish, whether it still may, and how to know that it must leave.

use std::sync::Arc;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::office::Office;
use crate::amqp::lease::Renewed;
use crate::amqp::link::Link;
use crate::amqp::publisher::Publisher;
use crate::domain::delay_tier::DelayTier;

/// How often a line that a probe waits at is looked at again.
const LOOK: std::time::Duration = std::time::Duration::from_millis(50);

/// How a mail leaves our jobs in flight before it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// Unsettled: the session is over, or everything is given back. The broker delivers it again.
    Unsettled,
    /// It is published again, and this delivery acked.
    Again(Berth),
}

/// Where a mail waits that is published again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Berth {
    /// At the end of the email queue.
    Queue,
    /// Parked, until it comes back by itself.
    DelayTier(DelayTier),
}

/// One shift's desk.
#[derive(Debug, Clone)]
pub(super) struct Desk {
    /// What outlives the session.
    pub(super) office: Arc<Office>,
    /// Where everything owed is published.
    pub(super) publisher: Arc<Publisher>,
    /// The connections, for declaring the topology again.
    pub(super) link: Arc<Link>,
    /// The lease's age.
    pub(super) lease: Renewed,
    /// Cancelled when nothing new is begun: a mail that waits goes back, one in flight is finished.
    pub(super) draining: CancellationToken,
    /// Cancelled when nothing is waited for any more: the broker or the lease is lost, or the grace is nearly over. A delivery in
    /// the air is still finished.
    pub(super) over: CancellationToken,
    /// Cancelled when all deliveries are given back, since nothing can be sent for long.
    pub(super) returning: CancellationToken,
    /// Whether mails go one by one to see if any can be sent again: one that would have to wait leaves.
    pub(super) probing: bool,
}

impl Desk {
    /// The desk for the next shift: mails by the prefetch, or one by one as probes.
    pub(super) fn shift(&self, probing: bool) -> Self {
        Self { returning: CancellationToken::new(), probing, ..self.clone() }
    }

    /// Waits for something, unless the mail has to leave first.
    pub(super) async fn unless_left<T>(
        &self,
        held_until: Instant,
        something: impl Future<Output = T>,
    ) -> Result<T, Leave> {
        tokio::select! {
            biased;
            () = self.over.cancelled() => Err(Leave::Unsettled),
            () = self.draining.cancelled() => Err(Leave::Unsettled),
            () = self.returning.cancelled() => Err(Leave::Unsettled),
            () = self.shut_again() => Err(Leave::Again(Berth::Queue)),
            () = sleep_until(held_until) => Err(self.held_too_long()),
            value = something => Ok(value),
        }
    }

    /// No delivery is held for longer than the broker bears: everything goes back, which costs a mail nothing (its queue has no limit
    /// to speak of), and comes again.
    pub(super) fn held_too_long(&self) -> Leave {
        self.returning.cancel();
        Leave::Unsettled
    }

    /// For a probe: that nothing can be sent again.
    async fn shut_again(&self) {
        if !self.probing {
            return std::future::pending().await;
        }
        loop {
            sleep(LOOK).await;
            if self.office.gate.shut(Instant::now()).is_some() {
                return;
            }
        }
    }
}
