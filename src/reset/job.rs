//! One job in flight: what it waits for, and how it leaves before it ended.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep_until};

use super::delivery::DeliveryInfo;
use super::org::{OrgContext, Session};
use super::state::{Ending, JobState};
use crate::amqp::consumer::Delivery;
use crate::amqp::publisher::Message;
use crate::consumer::{Leave, LeavePolicy, PublishRight, RequeueTarget, WhenHeld};
use crate::domain::delay_tier::DelayTier;
use crate::domain::outcome::{OutcomeKind, superseded};
use crate::domain::user::UserId;

/// How much later one that runs alone comes again, where it is not its user's turn.
const TURN: Duration = Duration::from_secs(5);

/// One job in flight.
pub(super) struct Job<'a> {
    pub(super) session: &'a Session,
    pub(super) org: &'a OrgContext,
    pub(super) delivery: &'a Delivery,
    pub(super) info: &'a DeliveryInfo,
    /// How far it has come.
    pub(super) state: JobState,
}

impl Job<'_> {
    /// How it leaves before it ended, as far as it has come.
    pub(super) fn policy(&self) -> LeavePolicy {
        let (info, state) = (self.info, &self.state);
        // Delayed, unless its password may be set and is known to this process alone.
        let target = if state.may_be_set() { RequeueTarget::Queue } else { RequeueTarget::Delayed(DelayTier::Short) };
        let again = Leave::Again(target);
        let is_finished_if_closed = state.may_be_set() || state.ending.is_some();
        LeavePolicy {
            lane: info.lane,
            held_until: info.held_until,
            drains: !state.is_tried(),
            returning: Some(if info.is_often_returned() { again } else { Leave::Unsettled }),
            closed: (!is_finished_if_closed).then(|| if info.may_be_returned() { Leave::Returned } else { again }),
            held: WhenHeld::Leaves(again),
            has_ended: state.ending.is_some(),
            publishes: PublishRight::WhileLeading(state.called),
        }
    }

    /// Waits for something, unless the job has to leave first.
    pub(super) async fn unless_left<T>(&self, something: impl Future<Output = T>) -> Result<T, Leave> {
        self.session.unless_left(&self.policy(), something).await
    }

    /// Publishes until it is confirmed, unless the job has to leave first.
    pub(super) async fn publish(&self, what: &str, message: &Message<'_>, policy: &LeavePolicy) -> Result<(), Leave> {
        let to = if message.exchange.is_empty() { message.key } else { message.exchange };
        let _publishing = self.info.span.publish(to);
        self.session.publish_until_confirmed(what, message, policy).await
    }

    /// Where it waits until a moment that is published again: in its lane where that is soon, else in a delay queue.
    pub(super) fn waiting_place(&self, moment: Timestamp) -> RequeueTarget {
        let wait = Duration::try_from(moment.duration_since(Timestamp::now())).unwrap_or_default();
        let retry = &self.org.retry;
        if wait > retry.inline_max { RequeueTarget::Delayed(retry.delays.fitting(wait)) } else { RequeueTarget::Queue }
    }

    /// Waits until the job may be tried: in memory where that is soon, or where its password may be set; else at the broker.
    pub(super) async fn wait_its_time(&self) -> Result<(), Leave> {
        let moment = self.info.not_before().max(self.state.until);
        let ahead = moment.and_then(|moment| Duration::try_from(moment.duration_since(Timestamp::now())).ok());
        let Some(wait) = ahead.filter(|wait| !wait.is_zero()) else { return Ok(()) };
        if wait > self.org.retry.inline_max && !self.state.may_be_set() {
            return Err(Leave::Again(RequeueTarget::Delayed(self.org.retry.delays.fitting(wait))));
        }
        if self.info.in_flight.is_alone() {
            // After a wait it would go on beside others: it comes again, waits, and then runs alone.
            return Err(Leave::Again(RequeueTarget::Queue));
        }
        let _wait = self.info.span.wait("wait until it may be tried");
        let tried = Instant::now() + wait;
        tokio::select! {
            () = self.session.drained_before(tried) => Err(Leave::Unsettled),
            waited = self.resting(sleep_until(tried)) => waited,
        }
    }

    /// Waits for something as [`Job::unless_left`] does, and is not at work meanwhile: who must run alone does not wait for it.
    async fn resting<T>(&self, something: impl Future<Output = T>) -> Result<T, Leave> {
        self.info.in_flight.rest();
        let waited = async {
            let value = something.await;
            self.info.in_flight.goes_on().await;
            value
        };
        self.unless_left(waited).await
    }

    /// Waits for its user's turn. One that runs alone would keep everybody waiting for it: it leaves, and comes again a little later.
    pub(super) async fn in_turn<T>(&mut self, turn: impl Future<Output = T>) -> Result<T, Leave> {
        let mut turn = pin!(turn);
        if let Poll::Ready(taken) = futures_util::poll!(turn.as_mut()) {
            return Ok(taken);
        }
        if self.info.in_flight.is_alone() {
            self.state.until = Timestamp::now().checked_add(SignedDuration::try_from(TURN).unwrap_or_default()).ok();
            return Err(Leave::Again(RequeueTarget::Queue));
        }
        self.resting(turn).await
    }

    /// Whether the ledger knows the job's end already: done before, or a newer reset of its user has succeeded.
    pub(super) fn known_end(&self, came_before: bool, user: Option<&UserId>) -> Option<Ending> {
        let (org, ledger, info) = (&self.org.name, &self.org.ledger, self.info);
        if ledger.is_done(org, &info.id, self.state.batch.as_deref(), came_before) {
            return Some(Ending::of(OutcomeKind::Duplicate));
        }
        let (asked_at, newest) = (info.asked_at()?, ledger.newest(org, user?)?);
        let detail = || Some(superseded(asked_at, info.clock, newest));
        (asked_at.as_second() < newest.as_second())
            .then(|| Ending { detail: detail(), ..Ending::of(OutcomeKind::Superseded) })
    }
}
