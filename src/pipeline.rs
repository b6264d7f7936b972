//! The trip of one job, from top to bottom; each stage is one line here and one function below.
//!
//! ```text
//! delivery → parse → turn → password → gate (token, limiter) → PATCH → classify → again, or give up
//!          → notification or dead letter confirmed → outcome confirmed → reply → ack
//! ```

mod debts;
mod desk;
mod memory;
pub mod org;
mod ticket;
mod tries;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, MaybeDone, maybe_done};

use crate::amqp::consumer::Delivery;
use crate::domain::job::Intent;
use crate::domain::outcome::{OutcomeKind, Reason};
use crate::domain::user::UserId;
use crate::org::turns::Turn;
use crate::telemetry::metrics::InFlight;
use crate::wire::job::{self, Invalid};
pub use desk::Desk;
use memory::{Ending, Trip};
use ticket::Ticket;

/// The broker delivers a job so often at most; its last delivery is spent on the dead letter.
const LAST_DELIVERY: u64 = 19;

/// Nothing more can be done in this session: the job is not settled, and the broker delivers it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Over;

/// A job in hand, with its place in its user's line.
pub struct Arrival {
    delivery: Delivery,
    ticket: Ticket,
    intent: Option<Result<Intent, Invalid>>,
    place: Option<Place>,
}

type Place = MaybeDone<BoxFuture<'static, Turn>>;

/// Reads a job and takes its place in its user's line, before the next job is looked at: so two jobs of one user run in the
/// order they came. One that may not run yet takes its place when it may.
pub async fn arrive(desk: &Desk, delivery: Delivery) -> Arrival {
    let ticket = Ticket::of(&delivery);
    // A panic in here is met again, and caught, in the job's own task.
    let intent = catch_unwind(AssertUnwindSafe(|| job::parse(&delivery.body, &desk.org.rules))).ok();
    let mut place = match &intent {
        Some(Ok(Intent::Reset(reset))) if !ticket.is_early() => Some(place(desk, &reset.user)),
        Some(Ok(_) | Err(_)) | None => None,
    };
    if let Some(place) = &mut place {
        let _ = futures_util::poll!(place);
    }
    Arrival { delivery, ticket, intent, place }
}

fn place(desk: &Desk, user: &UserId) -> Place {
    let (turns, user) = (desk.org.turns.clone(), user.clone());
    maybe_done(Box::pin(async move { turns.take(&user).await }))
}

/// Takes one job from its delivery to its ack. What was reached is kept in memory where the session ends first, so that the
/// redelivered job goes on from there.
pub async fn handle(desk: Arc<Desk>, arrival: Arrival) {
    let Arrival { delivery, ticket, intent, place } = arrival;
    let _in_flight = InFlight::enter(&desk.org.name, delivery.lane);
    let key = ticket.key(&delivery);
    let Some(mut trip) = desk.org.memory.recall(&key, delivery.redelivered) else {
        // It had succeeded, and all it owed was confirmed: only its ack had been lost.
        delivery.ack(&desk.over).await;
        return;
    };
    let travelled = AssertUnwindSafe(travel(&desk, &ticket, &delivery, intent, place, &mut trip)).catch_unwind().await;
    let paid = match travelled {
        Ok(paid) => paid,
        Err(_panic) => after_panic(&desk, &ticket, &delivery, &mut trip).await,
    };
    if paid.is_ok() && delivery.ack(&desk.over).await {
        desk.settled(&ticket, &trip, key);
    } else {
        desk.org.memory.keep(key, trip);
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
) -> Result<(), Over> {
    let mut turn = None;
    if let Some(mut place) = place {
        desk.until_over(&mut place, trip).await?;
        turn = Pin::new(&mut place).take_output();
    }
    if trip.ending.is_none() {
        let intent = intent.unwrap_or_else(|| job::parse(&delivery.body, &desk.org.rules));
        let ending = match reset(desk, ticket, intent, trip, &mut turn).await {
            Ok(ending) => ending,
            Err(Halt::Dead { reason, detail }) => Ending::dead(reason, detail),
            Err(Halt::Over) => return Err(Over),
        };
        trip.ending = Some(ending);
    }
    debts::pay(desk, ticket, delivery, trip).await
}

/// Why a job gets no further.
#[derive(Debug)]
enum Halt {
    /// It is given up: a dead letter.
    Dead { reason: Reason, detail: Option<String> },
    /// The session is over.
    Over,
}

impl From<Over> for Halt {
    fn from(Over: Over) -> Self {
        Halt::Over
    }
}

/// From what the body asks for to a password that is set.
async fn reset(
    desk: &Desk,
    ticket: &Ticket,
    intent: Result<Intent, Invalid>,
    trip: &mut Trip,
    turn: &mut Option<Turn>,
) -> Result<Ending, Halt> {
    ticket.may_be_delivered()?;
    let reset = match intent {
        Ok(Intent::Reset(reset)) => reset,
        Ok(Intent::PassThrough) => return Ok(Ending::of(OutcomeKind::PassedThrough)),
        Err(invalid) => {
            trip.user = invalid.user;
            return Err(Halt::Dead { reason: invalid.reason, detail: Some(invalid.detail) });
        }
    };
    trip.user = Some(reset.user.clone());
    let wishes = ticket.wishes()?;
    if turn.is_none() {
        desk.wait_until(wishes.not_before, trip).await?;
        *turn = Some(desk.until_over(desk.org.turns.take(&reset.user), trip).await?);
    }
    let password = trip
        .password(desk.org.password)
        .map_err(|error| Halt::Dead { reason: Reason::WorkerFault, detail: Some(error.to_string()) })?;
    trip.email = Some(reset.email.clone());
    if trip.issued.is_none() {
        tries::set_password(desk, ticket, &reset, wishes.not_after, &password, trip).await?;
    }
    Ok(Ending::of(OutcomeKind::Succeeded))
}

/// A panic in a job's own code is its dead letter. One in paying what it owes ends the session: the job is delivered again, and
/// goes on from where it was, until its deliveries are used up.
async fn after_panic(desk: &Desk, ticket: &Ticket, delivery: &Delivery, trip: &mut Trip) -> Result<(), Over> {
    if trip.ending.is_none() {
        let detail = Some("the worker's own code panicked; its log has the place".into());
        trip.ending = Some(Ending::dead(Reason::WorkerFault, detail));
        if let Ok(paid) = AssertUnwindSafe(debts::pay(desk, ticket, delivery, trip)).catch_unwind().await {
            return paid;
        }
    }
    desk.over.cancel();
    Err(Over)
}
