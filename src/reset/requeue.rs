//! Publishing a job again: it waits at the broker and holds nobody's place, or comes back as a fresh message, so that being held
//! up is not counted against it.

use jiff::Timestamp;
use tokio::time::Instant;
use uuid::Uuid;

use super::checkpoints::Key;
use super::delivery::DeliveryInfo;
use super::job::Job;
use super::org::Session;
use super::state::JobState;
use crate::amqp::consumer::Delivery;
use crate::amqp::error::ANSWER;
use crate::amqp::publisher::Message;
use crate::consumer::RequeueTarget;
use crate::failpoint::{self, Stage};
use crate::wire::again::{self, RetryHeaders};

/// Publishes it again and acks this delivery; where that fails it is not settled, and the broker delivers it again.
pub(super) async fn requeue(
    session: &Session,
    info: &DeliveryInfo,
    delivery: Delivery,
    state: JobState,
    key: Key,
    target: RequeueTarget,
) {
    let org = &*session.shared;
    // What it has come to in this process alone: a password, or an end of which somebody may have been notified.
    let is_ours_to_keep = state.may_be_set() || state.ending.is_some();
    // Equal jobs without an id share a name: which of them is done can only be known by another.
    let has_no_id = info.id.is_derived();
    let name = (is_ours_to_keep || has_no_id).then(|| Uuid::new_v4().to_string());
    if let Some(name) = name.as_ref().filter(|_| is_ours_to_keep) {
        org.checkpoints.keep(Key::Again(info.id.clone(), name.clone()), state.clone());
    }
    info.span.left("published again");
    let retry_headers = RetryHeaders {
        tried: state.progress.attempts,
        probes: state.progress.probes,
        until: state.until.filter(|until| *until > Timestamp::now()),
        resume_token: name.clone(),
        deliveries: info.carried_deliveries(),
        too_soon: state.progress.too_soon,
        may_be_set: state.has_ever_set(),
    };
    let names = &org.names;
    let exchange = match target {
        RequeueTarget::Queue => names.resets(),
        RequeueTarget::Delayed(tier) => names.parked_exchange(tier),
    };
    let properties = again::properties(&delivery.properties, &retry_headers);
    let message = Message { exchange: &exchange, key: &names.lane_key(info.lane), body: &delivery.body, properties };
    // It is leaving already: only the session's end stops it, and a limit of its own.
    let job = Job { session, org, delivery: &delivery, info, state };
    let leaving = job.policy().leaving(Instant::now() + ANSWER);
    let published = job.publish("a job that waits", &message, &leaving).await;
    // Where this delivery is not settled, both may come.
    let mut state = job.state;
    state.has_copy = true;
    if published.is_ok() {
        failpoint::reach(Stage::Again, info.id.as_str());
        tracing::debug!(job.id = %info.id, org = org.name, lane = info.lane.as_str(), to = ?target, "published again");
        if !delivery.ack(&session.over).await {
            // Both will come, with one password.
            org.checkpoints.keep(key, state);
        } else if let Some(name) = name.filter(|_| has_no_id) {
            org.checkpoints.is_alone(name);
        }
    } else {
        org.checkpoints.keep(key, state);
        session.return_all();
    }
}
