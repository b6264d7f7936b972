//! The reset worker of one org: the lifecycle of its jobs, as the engine of `consumer` runs it.

mod attempts;
mod checkpoints;
mod delivery;
mod job;
mod lifecycle;
mod org;
mod report;
mod requeue;
mod search;
mod settle;
mod state;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crate::amqp::consumer::Delivery;
use crate::amqp::publisher::Publisher;
use crate::amqp::topology::{self, Thing};
use crate::consumer::Workload;
use crate::domain::job::Lane;
use crate::domain::subject::Subject;
use crate::scim::token::Token;
use crate::throttle::gate::Gate;
use crate::throttle::jobs_in_flight::{As, JobsInFlight};
use org::Session;
pub use org::{OrgContext, Process};

/// What is kept of the grace for publishing what the last calls bring.
const LAST_PUBLISHES: Duration = Duration::from_secs(2);

impl Workload for OrgContext {
    type Token = Token;
    type Arrival = lifecycle::Arrival;

    const RETURNS_COUNT: bool = true;
    const ENDS_WITH_GRACE: bool = true;
    const WHAT: &'static str = "calls";

    fn subject(&self) -> &Subject {
        &self.subject
    }

    fn gate(&self) -> &Gate<Token> {
        &self.gate
    }

    fn in_flight(&self) -> &JobsInFlight {
        &self.jobs_in_flight
    }

    fn queues(&self) -> Vec<(Lane, String)> {
        Lane::ALL.map(|lane| (lane, self.names.lane(lane))).into()
    }

    fn topology(&self) -> Vec<Thing> {
        topology::things(&self.names, &self.retry.delays)
    }

    fn longest_call(&self) -> Duration {
        self.config.request_timeout
    }

    fn after_last_call(&self) -> Duration {
        self.config.request_timeout + LAST_PUBLISHES
    }

    fn is_all_confirmed(&self) -> bool {
        !self.checkpoints.has_unrecorded()
    }

    async fn publish_left(&self, publisher: &Publisher, may_publish: &(dyn Fn() -> bool + Sync)) -> bool {
        settle::publish_left(self, publisher, may_publish).await
    }

    fn forget(&self) {
        self.checkpoints.forget();
        self.gate.start_empty();
    }

    /// What others have reset within the hour counts at the guard of each lane. (It knows of each that is our own, whether the ledger has
    /// its outcome yet or not.)
    fn takes_over(&self) {
        self.gate.were_reset(self.ledger.reset_lately(&self.name).into_iter());
    }

    fn begins_session(&self) {
        self.checkpoints.acks_may_be_lost();
    }

    async fn finish_before_intake(session: &Session) -> bool {
        settle::notify_pending(session).await
    }

    async fn until_authorized(&self) {
        self.until_granted().await;
    }

    async fn report(&self, publisher: &Publisher) -> Infallible {
        report::report(self, publisher).await
    }

    /// One that may end its worker runs alone. While it may not be tried yet it only waits, which it need not do alone.
    fn taken_as(delivery: &Delivery) -> As {
        match (delivery::must_run_alone(delivery), delivery::is_early(delivery)) {
            (true, true) => As::Waiting,
            (true, false) => As::Alone,
            (false, _) => As::One,
        }
    }

    async fn arrive(session: &Session, delivery: Delivery, taken: As) -> lifecycle::Arrival {
        lifecycle::arrive(session, delivery, taken).await
    }

    async fn handle(session: Arc<Session>, arrival: lifecycle::Arrival) {
        lifecycle::handle(session, arrival).await;
    }

    fn given_back(session: &Session, delivery: &Delivery) {
        lifecycle::given_back(session, delivery);
    }
}
