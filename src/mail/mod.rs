//! The mailer: the lifecycle of its mails, as the engine of `consumer` runs it. How a mail gets to the next hop is in `transport`.

mod attempt;
mod context;
mod in_flight;
mod lifecycle;
mod settle;
mod state;

use std::sync::Arc;
use std::time::Duration;

use crate::amqp::consumer::Delivery;
use crate::amqp::error::ANSWER;
use crate::amqp::topology::{self, Thing};
use crate::consumer::Workload;
use crate::domain::job::Lane;
use crate::domain::retry::HaltCause;
use crate::domain::subject::Subject;
use crate::throttle::gate::Gate;
use crate::throttle::jobs_in_flight::{As, JobsInFlight};
pub use context::MailerContext;
use state::Session;

impl Workload for MailerContext {
    type Token = ();
    type Arrival = lifecycle::Arrival;

    /// Its queue has no limit to speak of.
    const RETURNS_COUNT: bool = false;
    /// A delivery ends by itself, and its record is published: cut off, it would be made once more.
    const ENDS_WITH_GRACE: bool = false;
    const WHAT: &'static str = "mails";

    fn subject(&self) -> &Subject {
        &Subject::Mailer
    }

    fn gate(&self) -> &Gate<()> {
        &self.gate
    }

    fn in_flight(&self) -> &JobsInFlight {
        &self.jobs_in_flight
    }

    fn queues(&self) -> Vec<(Lane, String)> {
        vec![(Lane::Interactive, self.names.emails())]
    }

    fn topology(&self) -> Vec<Thing> {
        topology::mailers_things(&self.names, &self.retry.delays)
    }

    fn longest_call(&self) -> Duration {
        self.longest
    }

    fn after_last_call(&self) -> Duration {
        ANSWER
    }

    fn is_all_confirmed(&self) -> bool {
        self.are_all_recorded()
    }

    async fn finish_before_intake(session: &Session) -> bool {
        // Nothing in flight waits for a queue to take what it publishes; the next that does finds out anew.
        session.shared.gate.resolved(HaltCause::Unpublishable);
        true
    }

    async fn arrive(session: &Session, delivery: Delivery, _taken: As) -> lifecycle::Arrival {
        lifecycle::arrive(session, delivery)
    }

    async fn handle(session: Arc<Session>, arrival: lifecycle::Arrival) {
        lifecycle::handle(session, arrival).await;
    }
}
