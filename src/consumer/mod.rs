//! The engine of a leader-elected consumer: it keeps the connections, stands by until it leads, takes deliveries in sessions, publishes
//! what follows from each until that is confirmed, and jobs in flight over. The workers of the orgs and the mailer are its two users.
//!
//! ```text
//! connect → elect → fence → open a session → take deliveries (normal, isolated, probing) → drain → release
//!    ↑_________ a connection, a channel or the leadership was lost __________________|
//! ```

mod context;
mod intake;
mod leadership;
mod session;
mod settle;
mod supervisor;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crate::amqp::consumer::Delivery;
use crate::amqp::publisher::Publisher;
use crate::amqp::topology::Thing;
use crate::domain::delay_tier::DelayTier;
use crate::domain::job::Lane;
use crate::domain::subject::Subject;
use crate::throttle::gate::Gate;
use crate::throttle::jobs_in_flight::{As, JobsInFlight};
pub use context::{LeavePolicy, PublishRight, SessionContext};
pub use settle::PUBLISH_AGAIN;
pub use supervisor::{Consumer, Supervisor};

/// How a delivery leaves our jobs in flight before it ended.
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

    /// Another process has led in between: what this one knows of its calls is void.
    fn forget(&self);
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
