//! Publishing a job again: it waits at the broker and holds nobody's place, or comes back as a fresh message, so that being held
//! up is not counted against it.

use jiff::Timestamp;
use tokio::time::Instant;
use uuid::Uuid;

use super::Berth;
use super::debts::owe;
use super::desk::Desk;
use super::memory::{Key, Trip};
use super::ticket::Ticket;
use crate::amqp::consumer::Delivery;
use crate::amqp::error::ANSWER;
use crate::amqp::publisher::Message;
use crate::failpoint::{self, Stage};
use crate::wire::again::{self, RetryHeaders};

/// Publishes it again and acks this delivery; where that fails it is not settled, and the broker delivers it again.
pub(super) async fn publish(desk: &Desk, ticket: &Ticket, delivery: Delivery, mut trip: Trip, key: Key, berth: Berth) {
    // What it has come to in this process alone: a password, or an end of which somebody may have been told.
    let is_ours_to_keep = trip.may_be_set() || trip.ending.is_some();
    // Equal jobs without an id share a name: which of them is done can only be known by another.
    let has_no_id = ticket.id.is_derived();
    let name = (is_ours_to_keep || has_no_id).then(|| Uuid::new_v4().to_string());
    if let Some(name) = name.as_ref().filter(|_| is_ours_to_keep) {
        desk.org.memory.keep(Key::Again(ticket.id.clone(), name.clone()), trip.clone());
    }
    ticket.span.left("published again");
    let retry_headers = RetryHeaders {
        tried: trip.progress.attempts,
        probes: trip.progress.probes,
        until: trip.until.filter(|until| *until > Timestamp::now()),
        trip: name.clone(),
        deliveries: ticket.carried_deliveries(),
        too_soon: trip.progress.too_soon,
        may_be_set: trip.has_ever_set(),
    };
    let names = &desk.org.names;
    let exchange = match berth {
        Berth::Lane => names.resets(),
        Berth::DelayTier(tier) => names.parked_exchange(tier),
    };
    let properties = again::properties(&delivery.properties, &retry_headers);
    let message = Message { exchange: &exchange, key: &names.lane_key(ticket.lane), body: &delivery.body, properties };
    // It is leaving already: only the session's end stops it, and a limit of its own.
    let mut leaving = ticket.clone();
    leaving.held_until = Instant::now() + ANSWER;
    let published = owe(&desk.shift(false), "a job that waits", &message, &leaving, &trip).await;
    // Where this delivery is not settled, both may come.
    trip.has_copy = true;
    if published.is_ok() {
        failpoint::reach(Stage::Again, ticket.id.as_str());
        tracing::debug!(job.id = %ticket.id, org = desk.org.name, lane = ticket.lane.as_str(), ?berth, "published again");
        if !delivery.ack(&desk.over).await {
            // Both will come, with one password.
            desk.org.memory.keep(key, trip);
        } else if let Some(name) = name.filter(|_| has_no_id) {
            desk.org.memory.is_alone(name);
        }
    } else {
        desk.org.memory.keep(key, trip);
        desk.returning.cancel();
    }
}
