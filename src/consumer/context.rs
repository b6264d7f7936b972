//! What a delivery can do with the session it is handled in: wait for something, and know that it must leave.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::term::Term;
use super::workload::{IntakeMode, IntakeState, Leave, LeavePolicy, RequeueTarget, SessionContext, WhenHeld, Workload};
use crate::amqp::consumer::Delivery;
use crate::amqp::link::Link;

/// How often a gate is looked at that a probe waits at.
const LOOK: Duration = Duration::from_millis(50);

impl LeavePolicy {
    /// The same for what is leaving already, with a limit of its own.
    pub fn leaving(self, held_until: Instant) -> Self {
        Self { held_until, returning: None, closed: None, held: WhenHeld::GivesUp, ..self }
    }

    fn leave(&self, intake: &IntakeState) -> Option<Leave> {
        let returning = self.returning.filter(|_| intake.mode == IntakeMode::Returning);
        returning.or_else(|| self.closed.filter(|_| intake.closed[self.lane.index()]))
    }
}

impl<W: Workload> SessionContext<W> {
    pub(super) fn new(shared: Arc<W>, link: Arc<Link>, term: &Term, last_call: Duration) -> Self {
        Self {
            shared,
            publisher: Arc::clone(&term.publisher),
            proof: term.proof(),
            draining: CancellationToken::new(),
            over: term.lost().child_token(),
            intake: watch::Sender::default(),
            last_call,
            left: Mutex::default(),
            link,
            declared: AsyncMutex::default(),
        }
    }

    /// Everything is given back: whatever only waits leaves.
    pub fn return_all(&self) {
        self.intake.send_modify(|intake| intake.mode = IntakeMode::Returning);
    }

    /// Waits until everything is given back.
    pub(super) async fn until_returning(&self) {
        // The sender lives as long as this.
        let _ = self.intake.subscribe().wait_for(|intake| intake.mode == IntakeMode::Returning).await;
    }

    /// Waits for something, unless the delivery has to leave first.
    ///
    /// # Errors
    /// How it leaves.
    pub async fn unless_left<T>(&self, policy: &LeavePolicy, something: impl Future<Output = T>) -> Result<T, Leave> {
        let drained =
            async { if policy.drains { self.draining.cancelled().await } else { std::future::pending().await } };
        tokio::select! {
            biased;
            () = self.over.cancelled() => Err(Leave::Unsettled),
            () = drained => Err(Leave::Unsettled),
            leave = self.left(policy) => Err(leave),
            value = something => Ok(value),
        }
    }

    /// How a delivery leaves while the session goes on: with all others, as a probe that did not pass, or because it was held for as long
    /// as any may be.
    pub(super) async fn left(&self, policy: &LeavePolicy) -> Leave {
        let mut intake = self.intake.subscribe();
        let told = async {
            let told = intake.wait_for(|intake| policy.leave(intake).is_some()).await;
            // The sender lives as long as this.
            told.ok().and_then(|intake| policy.leave(&intake)).unwrap_or(Leave::Unsettled)
        };
        tokio::select! {
            leave = told => leave,
            () = self.shut_again(policy) => Leave::Again(RequeueTarget::Queue),
            () = sleep_until(policy.held_until) => self.held_too_long(policy),
        }
    }

    fn held_too_long(&self, policy: &LeavePolicy) -> Leave {
        match policy.held {
            WhenHeld::GivesUp => Leave::Unsettled,
            WhenHeld::Leaves(leave) if self.shared.gate().shut(Instant::now()).is_none() => leave,
            // Nothing moves at all, and under an alarm nothing is published either.
            WhenHeld::Leaves(_) | WhenHeld::ReturnsAll => {
                self.return_all();
                policy.returning.unwrap_or(Leave::Unsettled)
            }
        }
    }

    /// For a probe: that no call can be made again.
    async fn shut_again(&self, policy: &LeavePolicy) {
        if policy.returning.is_none() || self.intake.borrow().mode != IntakeMode::Probing {
            return std::future::pending().await;
        }
        loop {
            sleep(LOOK).await;
            let now = Instant::now();
            if self.shared.gate().shut(now).is_some_and(|until| until > now + 4 * LOOK) {
                return;
            }
        }
    }

    /// Waits until a drain has begun whose last call is made before that moment.
    pub async fn drained_before(&self, moment: Instant) {
        self.draining.cancelled().await;
        if Instant::now() + self.last_call >= moment {
            std::future::pending().await
        }
    }

    /// A delivery has left since its lane is closed: its session gives it back.
    pub fn returns(&self, delivery: Delivery) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).push(delivery);
    }

    /// Takes those out, in the order in which they came.
    pub(super) fn take_returned(&self) -> Vec<Delivery> {
        let mut all = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        all.sort_by_key(Delivery::place);
        all
    }

    /// These came, and go back: each is known to be undone, whatever an equal one has come to.
    pub(super) fn not_begun(&self, deliveries: Vec<Delivery>) {
        deliveries.iter().for_each(|delivery| W::given_back(self, delivery));
    }
}

#[cfg(test)]
mod tests {
    use super::super::workload::PublishRight;
    use super::*;
    use crate::domain::job::Lane;

    #[test]
    fn a_delivery_leaves_with_all_others_or_with_its_lane_unless_it_is_leaving_already() {
        let again = Leave::Again(RequeueTarget::Queue);
        let policy = LeavePolicy {
            lane: Lane::Bulk,
            held_until: Instant::now(),
            drains: true,
            returning: Some(again),
            closed: Some(Leave::Returned),
            held: WhenHeld::ReturnsAll,
            has_ended: false,
            publishes: PublishRight::Always,
        };
        let finished = LeavePolicy { closed: None, ..policy };
        let leaving = policy.leaving(Instant::now());
        let bulk_closed = Lane::ALL.map(|lane| lane == Lane::Bulk);
        let interactive_closed = Lane::ALL.map(|lane| lane == Lane::Interactive);
        for (mode, closed, expected) in [
            (IntakeMode::Normal, [false; Lane::COUNT], [None, None]),
            (IntakeMode::Isolated, interactive_closed, [None, None]),
            (IntakeMode::Normal, bulk_closed, [Some(Leave::Returned), None]),
            (IntakeMode::Probing, [false; Lane::COUNT], [None, None]),
            (IntakeMode::Returning, bulk_closed, [Some(again), Some(again)]),
        ] {
            let intake = IntakeState { mode, closed };
            assert_eq!([policy.leave(&intake), finished.leave(&intake)], expected, "{intake:?}");
            assert_eq!(leaving.leave(&intake), None, "{intake:?}");
        }
    }
}
