//! What a job needs of the session it runs in: where to publish, whether it still may, and how to know that it must leave.

use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Mutex;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::memory::{Ending, Trip};
use super::org::Org;
use super::ticket::Ticket;
use super::{Berth, Leave, debts};
use crate::amqp::consumer::Delivery;
use crate::amqp::error::{ANSWER, BrokerError};
use crate::amqp::lease::{PUBLISH_GRACE, Renewed};
use crate::amqp::link::Link;
use crate::amqp::publisher::{Message, Publisher, Unpublished};
use crate::amqp::topology;
use crate::domain::delay_tier::DelayTier;
use crate::domain::job::Lane;
use crate::domain::outcome::{OutcomeKind, superseded};
use crate::domain::user::UserId;
use crate::telemetry::metrics;

/// As long as one declaration counts for everybody whose message found no queue.
const DECLARED: Duration = Duration::from_millis(900);
/// How much later one that runs alone comes again, where it is not its user's turn.
const TURN: Duration = Duration::from_secs(5);
/// How often a lease that is not fresh, or a line that a probe waits at, is looked at again.
const LOOK: Duration = Duration::from_millis(50);

/// When the topology was declared again last, and what came of it.
pub(super) type Declaring = Mutex<Option<(Instant, Result<(), BrokerError>)>>;

/// Deliveries whose lane is closed. One by one and in their order they go back, which is kept by that.
#[derive(Debug, Clone, Default)]
pub struct Returns(Arc<std::sync::Mutex<Vec<Delivery>>>);

impl Returns {
    pub(super) fn put(&self, delivery: Delivery) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(delivery);
    }

    /// Takes them out, in the order in which they came.
    pub fn take(&self) -> Vec<Delivery> {
        let mut all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        all.sort_by_key(Delivery::place);
        all
    }
}

/// One org's desk. Its clones share everything but how jobs leave: each shift of a session has its own [`Desk::returning`].
#[derive(Debug, Clone)]
pub struct Desk {
    /// What outlives the session.
    pub org: Arc<Org>,
    /// Where everything owed is published.
    pub publisher: Arc<Publisher>,
    /// Cancelled when nothing new is begun: a job that was never tried goes back at once, the others finish.
    pub draining: CancellationToken,
    /// Cancelled when nothing is waited for any more: the broker or the lease is lost, or the grace has ended. A call in flight
    /// is still finished.
    pub over: CancellationToken,
    /// Cancelled when all deliveries are given back, since no call can be made for long. Jobs that wait leave.
    pub returning: CancellationToken,
    /// Cancelled when that lane closes. Its jobs leave whose password cannot be set yet; the others end.
    pub closed: [CancellationToken; Lane::COUNT],
    /// How long after the beginning of a drain the last call is made.
    pub last_call: Duration,
    /// What left since its lane is closed, to be given back.
    pub returns: Returns,
    /// Whether jobs run one by one to see if calls can be made again: one that would have to wait leaves.
    pub probing: bool,
    /// The connections, for declaring the topology again.
    pub link: Arc<Link>,
    /// The lease's age.
    pub lease: Renewed,
    /// When it was declared again last, and what came of it: one declares for all who wait.
    pub declaring: Arc<Declaring>,
}

impl Desk {
    /// The desk for the next shift: jobs by the prefetch, or one by one as probes.
    pub fn shift(&self, probing: bool) -> Self {
        Self { returning: CancellationToken::new(), closed: Default::default(), probing, ..self.clone() }
    }

    /// Whether its shift is over: jobs that start at it would leave at once. Then nothing is in flight.
    pub fn has_ended(&self) -> bool {
        self.probing || self.returning.is_cancelled()
    }

    /// The desk for a lane that is open again.
    pub fn with_open(&self, lane: Lane) -> Self {
        let mut closed = self.closed.clone();
        closed[lane.index()] = CancellationToken::new();
        Self { closed, ..self.clone() }
    }

    /// Waits for something, unless the job has to leave first; one that was never tried does not wait through a drain.
    pub(super) async fn unless_left<T>(
        &self,
        something: impl Future<Output = T>,
        ticket: &Ticket,
        trip: &Trip,
    ) -> Result<T, Leave> {
        let drained =
            async { if trip.is_tried() { std::future::pending().await } else { self.draining.cancelled().await } };
        tokio::select! {
            biased;
            () = self.over.cancelled() => Err(Leave::Unsettled),
            () = drained => Err(Leave::Unsettled),
            leave = self.left(ticket, trip) => Err(leave),
            value = something => Ok(value),
        }
    }

    /// What was published may still be confirmed for a while after the session is over; but no delivery is held too long for it. Of a
    /// job that has its ending it is waited for within the time of an answer where all is given back, or it would be there twice.
    pub(super) async fn unless_given_up<T>(
        &self,
        publishing: impl Future<Output = T>,
        ticket: &Ticket,
        trip: &Trip,
    ) -> Result<T, Leave> {
        let over = async {
            self.over.cancelled().await;
            sleep(ANSWER).await;
        };
        let left = async {
            let leave = self.left(ticket, trip).await;
            if trip.ending.is_some() {
                sleep(ANSWER).await;
            }
            leave
        };
        tokio::select! {
            biased;
            value = publishing => Ok(value),
            () = over => Err(Leave::Unsettled),
            leave = left => Err(leave),
        }
    }

    /// How a job leaves while the session goes on: with all others, as a probe that did not pass, or because it was held for as
    /// long as any delivery may be.
    async fn left(&self, ticket: &Ticket, trip: &Trip) -> Leave {
        let closed = async {
            if trip.may_be_set() || trip.ending.is_some() {
                return std::future::pending().await;
            }
            self.closed[ticket.lane.index()].cancelled().await;
        };
        tokio::select! {
            () = self.returning.cancelled() => returned(ticket, trip),
            () = closed => if ticket.may_be_returned() { Leave::Returned } else { Leave::Again(berth(trip)) },
            () = self.shut_again() => Leave::Again(Berth::Lane),
            () = sleep_until(ticket.held_until) => {
                if self.org.gate.shut(tokio::time::Instant::now()).is_none() {
                    return Leave::Again(berth(trip));
                }
                // Nothing moves at all, and under an alarm nothing is published either: everything goes back.
                self.returning.cancel();
                returned(ticket, trip)
            }
        }
    }

    /// For a probe: that no call can be made again.
    async fn shut_again(&self) {
        if !self.probing {
            return std::future::pending().await;
        }
        loop {
            sleep(LOOK).await;
            let now = tokio::time::Instant::now();
            if self.org.gate.shut(now).is_some_and(|until| until > now + 4 * LOOK) {
                return;
            }
        }
    }

    /// Publishes, unless the job has to leave first. The lease is looked at with the place at hand: waiting for one may take longer than
    /// what it allows. While it is not known to be held, the place is another's.
    pub(super) async fn publish(
        &self,
        message: &Message<'_>,
        ticket: &Ticket,
        trip: &Trip,
    ) -> Result<Result<(), Unpublished>, Leave> {
        loop {
            while !self.may_publish(trip) {
                self.unless_left(sleep(LOOK), ticket, trip).await?;
            }
            let place = match self.unless_given_up(self.publisher.place(), ticket, trip).await? {
                Ok(place) => place,
                Err(unpublished) => return Ok(Err(unpublished)),
            };
            if self.may_publish(trip) {
                return self.unless_given_up(place.publish(message), ticket, trip).await;
            }
        }
    }

    /// Whether the lease is known to be held; what a call has just brought may be published a little longer.
    fn may_publish(&self, trip: &Trip) -> bool {
        let has_just_called = trip.called.is_some_and(|ended| ended.elapsed() < PUBLISH_GRACE);
        let is_last_word = has_just_called && self.lease.allows_late_publishes(self.org.config.request_timeout);
        is_last_word || self.lease.is_fresh()
    }

    /// Where a job waits until a moment that is published again: in its lane where that is soon, else parked.
    pub(super) fn waiting_place(&self, moment: Timestamp) -> Berth {
        let wait = Duration::try_from(moment.duration_since(Timestamp::now())).unwrap_or_default();
        if wait > self.org.retry.inline_max {
            Berth::DelayTier(self.org.retry.delays.fitting(wait))
        } else {
            Berth::Lane
        }
    }

    /// Waits until the job may be tried: in memory where that is soon, or where its password may be set; else at the broker.
    pub(super) async fn wait_its_time(&self, ticket: &Ticket, trip: &Trip) -> Result<(), Leave> {
        let moment = ticket.not_before().max(trip.until);
        let ahead = moment.and_then(|moment| Duration::try_from(moment.duration_since(Timestamp::now())).ok());
        let Some(wait) = ahead.filter(|wait| !wait.is_zero()) else { return Ok(()) };
        if wait > self.org.retry.inline_max && !trip.may_be_set() {
            return Err(Leave::Again(Berth::DelayTier(self.org.retry.delays.fitting(wait))));
        }
        if ticket.in_flight.is_alone() {
            // After a wait it would go on beside others: it comes again, waits, and then runs alone.
            return Err(Leave::Again(Berth::Lane));
        }
        let _wait = ticket.span.wait("wait until it may be tried");
        let tried = tokio::time::Instant::now() + wait;
        tokio::select! {
            () = self.drained_before(tried) => Err(Leave::Unsettled),
            waited = self.resting(sleep_until(tried), ticket, trip) => waited,
        }
    }

    /// Waits until a drain has begun whose last call is made before that moment.
    async fn drained_before(&self, moment: tokio::time::Instant) {
        self.draining.cancelled().await;
        if tokio::time::Instant::now() + self.last_call >= moment {
            std::future::pending().await
        }
    }

    /// Waits for something as [`Desk::unless_left`] does, and is not at work meanwhile: who must run alone does not wait for it.
    async fn resting<T>(&self, something: impl Future<Output = T>, ticket: &Ticket, trip: &Trip) -> Result<T, Leave> {
        ticket.in_flight.rest();
        let waited = async {
            let value = something.await;
            ticket.in_flight.goes_on().await;
            value
        };
        self.unless_left(waited, ticket, trip).await
    }

    /// Waits for its user's turn. One that runs alone would keep everybody waiting for it: it leaves, and comes again a little later.
    pub(super) async fn in_turn<T>(
        &self,
        turn: impl Future<Output = T>,
        ticket: &Ticket,
        trip: &mut Trip,
    ) -> Result<T, Leave> {
        let mut turn = pin!(turn);
        if let Poll::Ready(taken) = futures_util::poll!(turn.as_mut()) {
            return Ok(taken);
        }
        if ticket.in_flight.is_alone() {
            trip.until = Timestamp::now().checked_add(SignedDuration::try_from(TURN).unwrap_or_default()).ok();
            return Err(Leave::Again(Berth::Lane));
        }
        self.resting(turn, ticket, trip).await
    }

    /// Whether the ledger knows the job's end already: done before, or a newer reset of its user has succeeded.
    pub(super) fn known_end(&self, ticket: &Ticket, came_before: bool, user: Option<&UserId>) -> Option<Ending> {
        let (org, ledger) = (&self.org.name, &self.org.ledger);
        if ledger.is_done(org, &ticket.id, came_before) {
            return Some(Ending::of(OutcomeKind::Duplicate));
        }
        let (asked_at, newest) = (ticket.asked_at()?, ledger.newest(org, user?)?);
        let detail = || Some(superseded(asked_at, ticket.clock, newest));
        (asked_at.as_second() < newest.as_second())
            .then(|| Ending { detail: detail(), ..Ending::of(OutcomeKind::Superseded) })
    }

    /// Whether the ledger has the outcome of a job that was given back: it was written, and only its confirm was lost. (A name made
    /// from what a job says may be another job's record.)
    pub(super) fn is_recorded(&self, ticket: &Ticket, trip: &Trip) -> bool {
        let told = trip.was_notified() && trip.ending.as_ref().is_some_and(Ending::is_noted);
        told && self.org.ledger.is_done(&self.org.name, &ticket.id, false)
    }

    /// Declares the topology again, after a message found no queue.
    pub(super) async fn declare_again(&self) -> Result<(), BrokerError> {
        let mut last = self.declaring.lock().await;
        if let Some((at, declared)) = last.as_ref()
            && at.elapsed() < DECLARED
        {
            return declared.clone();
        }
        let declared = self.link.declare(&topology::things(&self.org.names, &self.org.retry.delays)).await;
        *last = Some((Instant::now(), declared.clone()));
        declared
    }

    /// The job is settled: one line in the log, one in the metrics.
    pub(super) fn settled(&self, ticket: &Ticket, trip: &Trip) {
        let Some(ending) = &trip.ending else { return };
        let outcome = debts::outcome(self, ticket, trip, ending);
        metrics::job_ended(&outcome);
        ticket.span.settled(&outcome);
        let (kind, reason) = (outcome.kind.as_str(), outcome.reason.map(|reason| reason.as_str()));
        let detail = outcome.detail.as_ref().map(|detail| trip.loggable(detail));
        if outcome.reason.is_some() {
            tracing::warn!(job.id = %outcome.job, org = outcome.org, lane = outcome.lane.as_str(), outcome = kind, reason, status = outcome.status, attempt = outcome.attempts, detail, "job dead-lettered");
        } else if outcome.kind == OutcomeKind::Superseded {
            tracing::warn!(job.id = %outcome.job, org = outcome.org, lane = outcome.lane.as_str(), outcome = kind, detail, "job superseded");
        } else {
            tracing::info!(job.id = %outcome.job, org = outcome.org, lane = outcome.lane.as_str(), outcome = kind, status = outcome.status, attempt = outcome.attempts, "job done");
        }
    }
}

/// How a job leaves with all others: unsettled, unless that brings it near its delivery limit.
fn returned(ticket: &Ticket, trip: &Trip) -> Leave {
    if ticket.is_often_returned() { Leave::Again(berth(trip)) } else { Leave::Unsettled }
}

/// Where a job goes that cannot be held any longer: parked, unless its password may be set and is known to this process alone.
fn berth(trip: &Trip) -> Berth {
    if trip.may_be_set() { Berth::Lane } else { Berth::DelayTier(DelayTier::Short) }
}
