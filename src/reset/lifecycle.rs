//! The lifecycle of one job, from top to bottom; each stage is a few lines here and a function below or in a file of its own.
//!
//! ```text
//! delivery → parse → ledger → own wait → turn → resolve user → password → gate → PATCH → classify
//!          → again, delay, or give up
//!          → notification or dead letter confirmed → outcome confirmed → reply → ack
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::checkpoints::Key;
use super::delivery::DeliveryInfo;
use super::job::Job;
use super::org::{OrgContext, Session};
use super::state::{Ending, Interrupted, JobState};
use super::{attempts, requeue, search, settle};
use crate::amqp::consumer::Delivery;
use crate::consumer::{Leave, RequeueTarget};
use crate::domain::job::{Intent, Reset, Who};
use crate::domain::outcome::{OutcomeKind, Reason};
use crate::domain::user::UserId;
use crate::failpoint::{self, Stage};
use crate::scim::token::Token;
use crate::throttle::gate::Reserved;
use crate::throttle::jobs_in_flight::As;
use crate::throttle::user_order::Turn;
use crate::wire::job::Invalid;

/// A job in flight, with its place in its user's line.
pub struct Arrival {
    delivery: Delivery,
    info: DeliveryInfo,
    intent: Option<Result<Intent, Invalid>>,
    place: Option<Place>,
    reserved: Reserved<Token>,
    key: Key,
    state: JobState,
}

type Place = BoxFuture<'static, Turn>;

/// The turns that a job has.
#[derive(Default)]
struct TurnsHeld {
    /// By what the job says: its user's id, or what stands in for it.
    first: Option<Turn>,
    /// By the id that was found, where the job says a name: another job may say the id itself.
    found: Option<Turn>,
}

/// Reads a job and takes its place in its user's line, before the next job is looked at: so two jobs of one user run in the
/// order they came. One that may not run yet takes its place when it may; one that is only to wait is not even read.
pub(super) async fn arrive(session: &Session, delivery: Delivery, taken: As) -> Arrival {
    let org = &session.shared;
    let reserved = org.gate.reserve(delivery.lane);
    let (info, key, state) = recall(org, &delivery, taken);
    if taken == As::Waiting {
        return Arrival { delivery, info, intent: None, place: None, reserved, key, state };
    }
    // What ended its worker each time may have been the reading. A panic in here is met again, and caught, in the job's own task.
    let read = || catch_unwind(AssertUnwindSafe(|| info.intent(&delivery, &org.rules))).ok();
    let intent = info.may_be_delivered().is_ok().then(read).flatten();
    let place = match &intent {
        Some(Ok(Intent::Reset(reset))) if !info.is_early() => Some(org.user_order.line_up(&reset.who.key())),
        Some(Ok(_) | Err(_)) | None => None,
    };
    Arrival { delivery, info, intent, place, reserved, key, state }
}

/// Takes one job from its delivery to its ack. What was reached is kept in memory where the session ends first, so that the redelivered
/// job goes on from there.
pub(super) async fn handle(session: Arc<Session>, arrival: Arrival) {
    // What it has reserved is free again when it ended or left, whether it has set a password or not.
    let Arrival { delivery, info, intent, place, reserved: _reserved, key, mut state } = arrival;
    state.trace.clone_from(&info.trace);
    state.batch = info.batch();
    state.asked_at = info.asked_at();
    state.lane = Some(info.lane);
    let org = Arc::clone(&session.shared);
    let mut job = Job { session: &session, org: &org, delivery: &delivery, info: &info, state };
    let settled = match AssertUnwindSafe(run(&mut job, intent, place)).catch_unwind().await {
        Ok(settled) => settled,
        Err(_panic) => after_panic(&mut job).await,
    };
    let Job { state, .. } = job;
    match settled {
        Ok(()) => {
            if delivery.ack(&session.over).await {
                settle::report(&org, &info, &state);
            } else {
                org.checkpoints.keep(key, state);
            }
        }
        Err(Leave::Unsettled) => {
            info.span.left("given back");
            org.checkpoints.keep(key, state);
        }
        Err(Leave::Returned) => {
            info.span.left("given back");
            org.checkpoints.keep(key, state);
            session.returns(delivery);
        }
        Err(Leave::Again(target)) => requeue::requeue(&session, &info, delivery, state, key, target).await,
    }
}

/// The stages, in order, within the user's turn. Each is skipped that the job had reached before.
async fn run(job: &mut Job<'_>, intent: Option<Result<Intent, Invalid>>, place: Option<Place>) -> Result<(), Leave> {
    if job.info.in_flight.only_waits() {
        // It must run alone, and does so as soon as it may be tried: by a delivery of its own.
        job.wait_its_time().await?;
        return Err(Leave::Again(RequeueTarget::Queue));
    }
    let mut turns = TurnsHeld::default();
    if let Some(place) = place {
        let _turn = job.info.span.wait("wait for the user's turn");
        turns.first = Some(job.in_turn(place).await?);
    }
    if job.state.ending.is_none() {
        let ending = match reset(job, intent, &mut turns).await {
            Ok(ending) => ending,
            Err(Interrupted::Dead { reason, detail }) => Ending::dead(reason, detail),
            Err(Interrupted::Leave(leave)) => return Err(leave),
        };
        job.state.ending = Some(ending);
    } else if settle::is_recorded(job.org, &job.info.id, &job.state) {
        job.state.recorded = true;
    }
    settle::publish_results(job).await
}

/// From what the body asks for to a password that is set.
async fn reset(
    job: &mut Job<'_>,
    intent: Option<Result<Intent, Invalid>>,
    turns: &mut TurnsHeld,
) -> Result<Ending, Interrupted> {
    let info = job.info;
    info.may_be_delivered()?;
    failpoint::reach(Stage::Arrived, info.id.as_str());
    // An equal job that is done is another one than a delivery that this process knows to have left undone.
    let came_before = job.state.has_copy || !job.state.is_undone() && info.came_before(job.delivery);
    let reset = match intent.unwrap_or_else(|| info.intent(job.delivery, &job.org.rules)) {
        Ok(Intent::Reset(reset)) => reset,
        Ok(Intent::PassThrough) => {
            let known = job.known_end(came_before, None);
            return Ok(known.unwrap_or_else(|| Ending::of(OutcomeKind::PassedThrough)));
        }
        Err(invalid) => {
            job.state.user = invalid.user;
            return Err(Interrupted::dead(invalid.reason, invalid.detail));
        }
    };
    job.state.addressed(&reset);
    let not_after = info.wishes()?.not_after;
    if let Some(known) = job.known_end(came_before, job.state.user.as_ref()) {
        return Ok(known);
    }
    job.wait_its_time().await?;
    let org = job.org;
    if turns.first.is_none() {
        let _turn = info.span.wait("wait for the user's turn");
        turns.first = Some(job.in_turn(org.user_order.take(&reset.who.key())).await?);
    }
    let user = match &reset.who {
        Who::Id(user) => user.clone(),
        Who::Name(name) => {
            let user = search::find(job, name, not_after).await?;
            turns.found = Some(job.in_turn(org.user_order.take(&user)).await?);
            user
        }
    };
    // Again: while it waited for its turn, the job before it may have been this one, or a newer one.
    if let Some(known) = job.known_end(came_before, Some(&user)) {
        return Ok(known);
    }
    set_password(job, &user, &reset, not_after).await?;
    Ok(Ending::of(OutcomeKind::Succeeded))
}

async fn set_password(
    job: &mut Job<'_>,
    user: &UserId,
    reset: &Reset,
    not_after: Option<jiff::Timestamp>,
) -> Result<(), Interrupted> {
    let password = job
        .state
        .password(job.org.password)
        .map_err(|error| Interrupted::dead(Reason::WorkerFault, error.to_string()))?;
    let set = attempts::set_password(job, user, reset, not_after, &password).await;
    if let (Err(Interrupted::Dead { reason: Reason::NotFound, .. }), Who::Name(name)) = (&set, &reset.who) {
        job.org.user_ids.forget(name);
    }
    set
}

/// A panic in a job's own code is its dead letter. One in publishing its results ends the session: the job is delivered again, and goes
/// on from where it was, until its deliveries are used up.
async fn after_panic(job: &mut Job<'_>) -> Result<(), Leave> {
    if job.state.ending.is_none() {
        let detail = Some("the worker's own code panicked; its log has the place".into());
        job.state.ending = Some(Ending::dead(Reason::WorkerFault, detail));
        if let Ok(settled) = AssertUnwindSafe(settle::publish_results(job)).catch_unwind().await {
            return settled;
        }
    }
    job.session.over.cancel();
    Err(Leave::Unsettled)
}

/// How far it has come before. Looked at in the order of the lane: of two equal jobs the one whose turn is first goes on where one of
/// them was cut off.
fn recall(org: &OrgContext, delivery: &Delivery, taken: As) -> (DeliveryInfo, Key, JobState) {
    let in_flight = org.jobs_in_flight.take(delivery.lane, taken);
    let info = DeliveryInfo::of(delivery, &org.name, &org.names, org.hold, in_flight);
    let key = info.key(delivery);
    let state = org.checkpoints.recall(&key, delivery.redelivered, &info.retry_headers);
    (info, key, state)
}

/// A job that was taken, and goes back before it was begun.
pub(super) fn given_back(session: &Session, delivery: &Delivery) {
    let (info, key, state) = recall(&session.shared, delivery, As::Waiting);
    session.shared.checkpoints.keep(key, state);
    info.span.left("given back");
}
