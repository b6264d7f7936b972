//! The trip of one job, from top to bottom; each stage is one line here and one function below.
//!
//! ```text
//! delivery → parse → ledger → who (a search, where a userName is given) → turn → password → gate (lease, breaker, pause, token, limiter) → PATCH → classify
//!          → again, wait at the broker, or give up
//!          → notification or dead letter confirmed → outcome confirmed → reply → ack
//! ```

mod again;
mod debts;
mod desk;
mod memory;
pub mod org;
mod search;
mod ticket;
mod tries;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, MaybeDone, maybe_done};

use crate::amqp::consumer::Delivery;
use crate::domain::delay_tier::DelayTier;
use crate::domain::job::{Intent, Who};
use crate::domain::outcome::{OutcomeKind, Reason};
use crate::domain::user::UserId;
use crate::failpoint::{self, Stage};
use crate::scim::token::Token;
use crate::throttle::gate::Reserved;
use crate::throttle::jobs_in_flight::As;
use crate::throttle::user_order::Turn;
use crate::wire::job::Invalid;
pub use debts::collect;
pub use desk::{Desk, Returns};
use memory::{Ending, Key, Trip};
use ticket::Ticket;
pub use ticket::{is_early, must_run_alone};

/// The broker delivers a job so often at most; its last delivery is spent on the dead letter.
const LAST_DELIVERY: u64 = 19;

/// How a job leaves our jobs in flight before it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// Unsettled: the session is over, or everything is given back. The broker delivers it again.
    Unsettled,
    /// Unsettled too, and its session gives it back by itself: its lane is closed, and others of it go on.
    Returned,
    /// It is published again, and this delivery acked.
    Again(Berth),
}

/// Where a job waits that is published again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Berth {
    /// At the end of its own lane.
    Lane,
    /// Parked, until it comes back to its lane by itself.
    DelayTier(DelayTier),
}

/// A job in flight, with its place in its user's line.
pub struct Arrival {
    delivery: Delivery,
    ticket: Ticket,
    intent: Option<Result<Intent, Invalid>>,
    place: Option<Place>,
    reserved: Reserved<Token>,
    key: Key,
    trip: Trip,
}

type Place = MaybeDone<BoxFuture<'static, Turn>>;

/// Reads a job and takes its place in its user's line, before the next job is looked at: so two jobs of one user run in the
/// order they came. One that may not run yet takes its place when it may; one that is only to wait is not even read.
pub async fn arrive(desk: &Desk, delivery: Delivery, taken: As) -> Arrival {
    let in_flight = desk.org.jobs_in_flight.take(delivery.lane, taken);
    let reserved = desk.org.gate.reserve(delivery.lane);
    let ticket = Ticket::of(&delivery, &desk.org.name, &desk.org.names, desk.org.hold, in_flight);
    let key = ticket.key(&delivery);
    // Looked at in the order of the lane: of two equal jobs the one whose turn is first goes on where one of them was cut off.
    let trip = desk.org.memory.recall(&key, delivery.redelivered, &ticket.retry_headers);
    if taken == As::Waiting {
        return Arrival { delivery, ticket, intent: None, place: None, reserved, key, trip };
    }
    // What ended its worker each time may have been the reading. A panic in here is met again, and caught, in the job's own task.
    let read = || catch_unwind(AssertUnwindSafe(|| ticket.intent(&delivery, &desk.org.rules))).ok();
    let intent = ticket.may_be_delivered().is_ok().then(read).flatten();
    let mut place = match &intent {
        Some(Ok(Intent::Reset(reset))) if !ticket.is_early() => Some(place(desk, &reset.who.key())),
        Some(Ok(_) | Err(_)) | None => None,
    };
    if let Some(place) = &mut place {
        let _ = futures_util::poll!(place);
    }
    Arrival { delivery, ticket, intent, place, reserved, key, trip }
}

fn place(desk: &Desk, user: &UserId) -> Place {
    let (user_order, user) = (desk.org.user_order.clone(), user.clone());
    maybe_done(Box::pin(async move { user_order.take(&user).await }))
}

/// Takes one job from its delivery to its ack. A panic on the way to its settling that nothing else has caught ends the session,
/// so that the delivery comes again and is not held for good.
pub async fn handle(desk: Arc<Desk>, arrival: Arrival) {
    let over = desk.over.clone();
    if AssertUnwindSafe(settle(desk, arrival)).catch_unwind().await.is_err() {
        over.cancel();
    }
}

/// A job that was taken, and goes back before it was begun.
pub fn given_back(desk: &Desk, delivery: &Delivery) {
    let in_flight = desk.org.jobs_in_flight.take(delivery.lane, As::Waiting);
    let ticket = Ticket::of(delivery, &desk.org.name, &desk.org.names, desk.org.hold, in_flight);
    let key = ticket.key(delivery);
    let trip = desk.org.memory.recall(&key, delivery.redelivered, &ticket.retry_headers);
    desk.org.memory.keep(key, trip);
    ticket.span.left("given back");
}

/// What was reached is kept in memory where the session ends first, so that the redelivered job goes on from there.
async fn settle(desk: Arc<Desk>, arrival: Arrival) {
    // What it has reserved is free again when it ended or left, whether it has set a password or not.
    let Arrival { delivery, ticket, intent, place, reserved: _reserved, key, mut trip } = arrival;
    trip.trace.clone_from(&ticket.trace);
    trip.batch = ticket.batch();
    trip.asked_at = ticket.asked_at();
    let travelled = AssertUnwindSafe(travel(&desk, &ticket, &delivery, intent, place, &mut trip)).catch_unwind().await;
    let paid = match travelled {
        Ok(paid) => paid,
        Err(_panic) => after_panic(&desk, &ticket, &delivery, &mut trip).await,
    };
    match paid {
        Ok(()) => {
            if delivery.ack(&desk.over).await {
                desk.settled(&ticket, &trip);
            } else {
                desk.org.memory.keep(key, trip);
            }
        }
        Err(Leave::Unsettled) => {
            ticket.span.left("given back");
            desk.org.memory.keep(key, trip);
        }
        Err(Leave::Returned) => {
            ticket.span.left("given back");
            desk.org.memory.keep(key, trip);
            desk.returns.put(delivery);
        }
        Err(Leave::Again(berth)) => again::publish(&desk, &ticket, delivery, trip, key, berth).await,
    }
}

/// The stages, in order, within the user's turn. Each is skipped that a trip before this one had reached.
async fn travel(
    desk: &Desk,
    ticket: &Ticket,
    delivery: &Delivery,
    intent: Option<Result<Intent, Invalid>>,
    place: Option<Place>,
    trip: &mut Trip,
) -> Result<(), Leave> {
    if ticket.in_flight.only_waits() {
        // It must run alone, and does so as soon as it may be tried: by a delivery of its own.
        desk.wait_its_time(ticket, trip).await?;
        return Err(Leave::Again(Berth::Lane));
    }
    let mut held = Held::default();
    if let Some(mut place) = place {
        let _turn = ticket.span.wait("wait for the user's turn");
        desk.in_turn(&mut place, ticket, trip).await?;
        held.first = Pin::new(&mut place).take_output();
    }
    if trip.ending.is_none() {
        let ending = match reset(desk, ticket, delivery, intent, trip, &mut held).await {
            Ok(ending) => ending,
            Err(Halt::Dead { reason, detail }) => Ending::dead(reason, detail),
            Err(Halt::Leave(leave)) => return Err(leave),
        };
        trip.ending = Some(ending);
    } else if desk.is_recorded(ticket, trip) {
        trip.recorded = true;
    }
    debts::pay(desk, ticket, delivery, trip).await
}

/// The order of a user that a job has.
#[derive(Default)]
struct Held {
    /// By what the job says: its user's id, or what stands in for it.
    first: Option<Turn>,
    /// By the id that was found, where the job says a name: another job may say the id itself.
    found: Option<Turn>,
}

/// Why a job gets no further.
#[derive(Debug)]
enum Halt {
    /// It is given up: a dead letter.
    Dead { reason: Reason, detail: Option<String> },
    /// It leaves before it ended.
    Leave(Leave),
}

impl From<Leave> for Halt {
    fn from(leave: Leave) -> Self {
        Halt::Leave(leave)
    }
}

/// From what the body asks for to a password that is set.
async fn reset(
    desk: &Desk,
    ticket: &Ticket,
    delivery: &Delivery,
    intent: Option<Result<Intent, Invalid>>,
    trip: &mut Trip,
    held: &mut Held,
) -> Result<Ending, Halt> {
    ticket.may_be_delivered()?;
    failpoint::reach(Stage::Arrived, ticket.id.as_str());
    // An equal job that is done is another one than a delivery that this process knows to have left undone.
    let came_before = trip.has_copy || !trip.is_undone() && ticket.came_before(delivery);
    let reset = match intent.unwrap_or_else(|| ticket.intent(delivery, &desk.org.rules)) {
        Ok(Intent::Reset(reset)) => reset,
        Ok(Intent::PassThrough) => {
            let known = desk.known_end(ticket, came_before, None);
            return Ok(known.unwrap_or_else(|| Ending::of(OutcomeKind::PassedThrough)));
        }
        Err(invalid) => {
            trip.user = invalid.user;
            return Err(Halt::Dead { reason: invalid.reason, detail: Some(invalid.detail) });
        }
    };
    trip.addressed(&reset);
    let wishes = ticket.wishes()?;
    if let Some(known) = desk.known_end(ticket, came_before, trip.user.as_ref()) {
        return Ok(known);
    }
    desk.wait_its_time(ticket, trip).await?;
    if held.first.is_none() {
        let _turn = ticket.span.wait("wait for the user's turn");
        held.first = Some(desk.in_turn(desk.org.user_order.take(&reset.who.key()), ticket, trip).await?);
    }
    let user = match &reset.who {
        Who::Id(user) => user.clone(),
        Who::Name(name) => {
            let user = search::find(desk, ticket, name, wishes.not_after, trip).await?;
            held.found = Some(desk.in_turn(desk.org.user_order.take(&user), ticket, trip).await?);
            user
        }
    };
    // Again: while it waited for its turn, the job before it may have been this one, or a newer one.
    if let Some(known) = desk.known_end(ticket, came_before, Some(&user)) {
        return Ok(known);
    }
    let password = trip
        .password(desk.org.password)
        .map_err(|error| Halt::Dead { reason: Reason::WorkerFault, detail: Some(error.to_string()) })?;
    let set = tries::set_password(desk, ticket, &user, &reset, wishes.not_after, &password, trip).await;
    if let (Err(Halt::Dead { reason: Reason::NotFound, .. }), Who::Name(name)) = (&set, &reset.who) {
        desk.org.user_ids.forget(name);
    }
    set?;
    Ok(Ending::of(OutcomeKind::Succeeded))
}

/// A panic in a job's own code is its dead letter. One in paying what it owes ends the session: the job is delivered again, and
/// goes on from where it was, until its deliveries are used up.
async fn after_panic(desk: &Desk, ticket: &Ticket, delivery: &Delivery, trip: &mut Trip) -> Result<(), Leave> {
    if trip.ending.is_none() {
        let detail = Some("the worker's own code panicked; its log has the place".into());
        trip.ending = Some(Ending::dead(Reason::WorkerFault, detail));
        if let Ok(paid) = AssertUnwindSafe(debts::pay(desk, ticket, delivery, trip)).catch_unwind().await {
            return paid;
        }
    }
    desk.over.cancel();
    Err(Leave::Unsettled)
}
