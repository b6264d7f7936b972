//! What a user of the engine says of itself, and what it sees of a session.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::term::Proof;
use crate::amqp::consumer::Delivery;
use crate::amqp::error::BrokerError;
use crate::amqp::link::Link;
use crate::amqp::publisher::Publisher;
use crate::amqp::topology::Thing;
use crate::domain::delay_tier::DelayTier;
use crate::domain::job::Lane;
use crate::domain::subject::Subject;
use crate::throttle::gate::Gate;
use crate::throttle::jobs_in_flight::{As, JobsInFlight};

/// How a delivery leaves before it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// Unsettled: the session is over, or everything is given back. The broker delivers it again.
    Unsettled,
    /// Unsettled too, and its session gives it back by itself: its lane is closed, and others of it go on.
    Returned,
    /// It is published again, and this delivery acked.
    Again(RequeueTarget),
}

/// Where a delivery waits that is published again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequeueTarget {
    /// At the end of its own queue.
    Queue,
    /// In a delay queue, until it comes back to its own by itself.
    Delayed(DelayTier),
}

/// What one user of the engine does with its deliveries, and all that differs between two of them. It outlives sessions and connections.
pub trait Workload: Send + Sync + Sized + 'static {
    /// What its gate gives along with a permit.
    type Token: Send + 'static;
    /// A delivery that was read, with its place among those of the same user.
    type Arrival: Send + 'static;

    /// Whether a delivery that is returned is counted (`x-delivery-limit`). Then one that comes often runs isolated, in case it ends its
    /// process each time; and nothing is taken after a long pause before one probe has passed.
    const RETURNS_COUNT: bool;
    /// Whether what is in flight when the grace has ended is cut off. Else it is waited for, which ends by itself.
    const ENDS_WITH_GRACE: bool;
    /// What is in flight, in words.
    const WHAT: &'static str;

    /// Whom it works for.
    fn subject(&self) -> &Subject;
    /// What each of its calls passes.
    fn gate(&self) -> &Gate<Self::Token>;
    /// What is in flight.
    fn in_flight(&self) -> &JobsInFlight;
    /// Its queues, each with the lane that it counts for; the one that goes first comes first.
    fn queues(&self) -> Vec<(Lane, String)>;
    /// All that it declares at the broker.
    fn topology(&self) -> Vec<Thing>;
    /// How long one call takes at most: a successor waits for so long.
    fn longest_call(&self) -> Duration;
    /// What is kept of the grace for what the last calls bring.
    fn after_last_call(&self) -> Duration;

    /// Whether the broker has confirmed all that follows from its calls: else a successor has to wait, and to read what is on its way.
    fn is_all_confirmed(&self) -> bool {
        true
    }
    /// With no call in flight, after a connection was lost: publishes by another one what followed from the calls and is not confirmed, as
    /// long as `may_publish`. `true`: all of it is confirmed now.
    fn publish_left(
        &self,
        _publisher: &Publisher,
        _may_publish: &(dyn Fn() -> bool + Sync),
    ) -> impl Future<Output = bool> + Send {
        std::future::ready(self.is_all_confirmed())
    }
    /// Another process has led in between: what this one knows of its calls is void.
    fn forget(&self) {
        self.gate().start_empty();
    }
    /// It leads, after another process or none, and the ledger is read.
    fn takes_over(&self) {}
    /// A session begins, perhaps after one whose acks did not all reach the broker.
    fn begins_session(&self) {}
    /// With nothing in flight: finishes what must be before anything is taken. `false`: it cannot be yet.
    fn finish_before_intake(context: &SessionContext<Self>) -> impl Future<Output = bool> + Send;
    /// Waits until a call may be made as far as that can be found out without one.
    fn until_authorized(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
    /// Tells others how it stands, for as long as it leads.
    fn report(&self, _publisher: &Publisher) -> impl Future<Output = Infallible> + Send {
        std::future::pending()
    }

    /// How a delivery is to be taken.
    fn taken_as(_delivery: &Delivery) -> As {
        As::One
    }
    /// Reads a delivery, before the next one is looked at: so two of one user are handled in the order in which they came.
    fn arrive(
        context: &SessionContext<Self>,
        delivery: Delivery,
        taken: As,
    ) -> impl Future<Output = Self::Arrival> + Send;
    /// Its lifecycle, to the ack. What is not settled comes again.
    fn handle(context: Arc<SessionContext<Self>>, arrival: Self::Arrival) -> impl Future<Output = ()> + Send;
    /// A delivery that was taken goes back before it was begun.
    fn given_back(_context: &SessionContext<Self>, _delivery: &Delivery) {}
}

/// One session, as what is in flight sees it.
pub struct SessionContext<W> {
    /// What outlives the session.
    pub shared: Arc<W>,
    /// Where everything is published.
    pub publisher: Arc<Publisher>,
    /// That this process leads.
    pub proof: Proof,
    /// Cancelled when nothing new is begun: what was never tried goes back at once, the rest is finished.
    pub draining: CancellationToken,
    /// Cancelled when nothing is waited for any more: the broker or the leadership is lost, or the grace has ended. A call in flight is
    /// still finished.
    pub over: CancellationToken,
    pub(super) intake: watch::Sender<IntakeState>,
    /// How long after the beginning of a drain the last call is made.
    pub(super) last_call: Duration,
    /// What left since its lane is closed, to be given back one by one and in order, which is kept by that.
    pub(super) left: Mutex<Vec<Delivery>>,
    /// The connections, for declaring the topology again.
    pub(super) link: Arc<Link>,
    /// When it was declared again last, and what came of it: one declares for all who wait.
    pub(super) declared: AsyncMutex<Option<(Instant, Result<(), BrokerError>)>>,
}

/// How deliveries are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum IntakeMode {
    /// Up to `amqp.prefetch` of each lane at once.
    Normal,
    /// One that may end its process runs with nothing else at work.
    #[default]
    Isolated,
    /// One at a time, to see whether calls can be made again.
    Probing,
    /// None: no call can be made for long, and everything is given back.
    Returning,
}

/// Which of what is in flight has to leave: one value of the session, which each delivery watches. `Session::look` decides it, and a
/// delivery that was held too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct IntakeState {
    pub(super) mode: IntakeMode,
    /// The lanes that are closed while the others go on.
    pub(super) closed: [bool; Lane::COUNT],
}

/// How one delivery leaves before it ended, as far as it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeavePolicy {
    /// The lane it came by.
    pub lane: Lane,
    /// Until when it may be in flight: the broker takes back what is held too long.
    pub held_until: Instant,
    /// Whether it goes back as soon as a drain begins.
    pub drains: bool,
    /// How it leaves with all others; `None`: it is leaving already, and only its limit and the session's end stop it.
    pub returning: Option<Leave>,
    /// How it leaves when its lane is closed; `None`: it is finished all the same.
    pub closed: Option<Leave>,
    /// What follows when it was held too long.
    pub held: WhenHeld,
    /// Whether it has its end: then a confirm is waited for a little, or what is published would be there twice.
    pub has_ended: bool,
    /// Until when what follows from it may be published.
    pub publishes: PublishRight,
}

/// What follows when a delivery was held too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenHeld {
    /// It leaves by itself while calls can be made; else everything is given back.
    Leaves(Leave),
    /// Everything is given back.
    ReturnsAll,
    /// It is given up, and who handles it decides.
    GivesUp,
}

/// Until when something may be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishRight {
    /// While this process is known to lead; and what a call has brought that ended at this moment a little longer.
    WhileLeading(Option<std::time::Instant>),
    /// Always: the record of what cannot be undone.
    Always,
}
