//! What an ended job owes: notification or dead letter, then outcome, then reply, each confirmed before the next.

use std::time::Duration;

use jiff::Timestamp;
use lapin::BasicProperties;
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::Leave;
use super::desk::Desk;
use super::memory::{Ending, Trip};
use super::ticket::Ticket;
use crate::amqp::consumer::Delivery;
use crate::amqp::publisher::{Message, Unpublished};
use crate::domain::ended::Ended;
use crate::domain::job::JobId;
use crate::domain::notification::Notification;
use crate::domain::outcome::{Outcome, OutcomeKind, PasswordSet};
use crate::domain::retry::HaltCause;
use crate::failpoint::{self, Stage};
use crate::transport::seal::Seal;
use crate::wire;

/// How long a message that no queue takes waits until it is published again.
const PUBLISH_AGAIN: Duration = Duration::from_secs(1);
/// How often a reply is refused before it is dropped.
const REPLY_TRIES: u32 = 3;

/// Pays everything that is not paid yet, in order.
pub(super) async fn pay(desk: &Desk, ticket: &Ticket, delivery: &Delivery, trip: &mut Trip) -> Result<(), Leave> {
    let Some(ending) = trip.ending.clone() else {
        return Err(Leave::Unsettled);
    };
    let outcome = outcome(desk, ticket, trip, &ending);
    if !trip.was_notified() {
        if outcome.kind == OutcomeKind::Succeeded {
            notify(desk, ticket, trip).await?;
        } else if outcome.reason.is_some() {
            dead_letter(desk, ticket, delivery, &outcome, trip).await?;
        }
        trip.is_now_notified();
        failpoint::reach(Stage::LedgerRecord, ticket.id.as_str());
    }
    if !trip.recorded {
        let (body, properties) = wire::outcome::record(&outcome);
        let properties = wire::trace::continued(properties, ticket.trace.as_ref());
        let key = format!("{}.{}", desk.org.name, outcome.kind.as_str());
        let message = Message { exchange: &desk.org.names.outcomes(), key: &key, body: &body, properties };
        owe(desk, "an outcome", &message, ticket, trip).await?;
        trip.recorded = true;
        desk.org.ledger.note(&Ended::of(&outcome));
        failpoint::reach(Stage::Recorded, ticket.id.as_str());
    }
    if !trip.replied {
        reply(desk, ticket, delivery, &outcome, trip).await?;
        trip.replied = true;
        failpoint::reach(Stage::Replied, ticket.id.as_str());
    }
    Ok(())
}

/// The record of the job's end.
pub(super) fn outcome(desk: &Desk, ticket: &Ticket, trip: &Trip, ending: &Ending) -> Outcome {
    Outcome {
        job: ticket.id.clone(),
        org: desk.org.name.clone(),
        lane: ticket.lane,
        user: trip.user.clone(),
        batch: ticket.batch(),
        asked_at: ticket.asked_at(),
        kind: ending.kind,
        reason: ending.reason,
        status: trip.progress.status,
        attempts: trip.progress.attempts,
        password_set: if trip.issued.is_some() { PasswordSet::Yes } else { trip.progress.password_set },
        detail: ending.detail.clone(),
        finished_at: Timestamp::now(),
    }
}

async fn notify(desk: &Desk, ticket: &Ticket, trip: &Trip) -> Result<(), Leave> {
    let (body, properties) = notification(desk, &ticket.id, trip).ok_or(Leave::Unsettled)?;
    let message = Message { exchange: &desk.org.names.notifications(), key: "email", body: &body, properties };
    owe(desk, "a notification", &message, ticket, trip).await
}

fn notification(desk: &Desk, job: &JobId, trip: &Trip) -> Option<(Zeroizing<Vec<u8>>, BasicProperties)> {
    let (password, issued, to) = trip.set()?;
    let notification = Notification {
        issued,
        job,
        asked_at: trip.asked_at,
        org: &desk.org.name,
        user: trip.user.as_ref()?,
        to,
        template: &desk.org.notification.template,
        password,
        language: trip.language.as_ref(),
        batch: trip.batch.as_deref(),
    };
    let close = |seal: &Seal| seal.close(&wire::notification::secret(&notification));
    let sealed = match desk.org.seal.as_deref().map(close).transpose() {
        Ok(sealed) => sealed,
        Err(unsealed) => {
            // As where the broker is lost: what was set is kept in memory, and the session starts anew.
            tracing::error!(job.id = %job, org = desk.org.name, reason = %unsealed, "the session starts anew");
            desk.over.cancel();
            return None;
        }
    };
    let (body, properties) = wire::notification::message(&notification, sealed.as_deref(), desk.org.expires);
    Some((body, wire::trace::continued(properties, trip.trace.as_ref())))
}

/// With no job in flight: tells those whose password is set by a job that was given back before they were told. Else a job of the
/// same user that comes before it sets a newer password, and the mail of the older one is the last to arrive. `false`: a queue takes
/// nothing, and the line is stopped; or the lease is not known to be held.
pub async fn collect(desk: &Desk) -> bool {
    let org = &desk.org;
    let mut declared = false;
    while let Some((key, trip)) = org.memory.owed() {
        let Some((body, properties)) = notification(desk, key.job(), &trip) else { return false };
        let message = Message { exchange: &org.names.notifications(), key: "email", body: &body, properties };
        let placed = desk.publisher.place().await;
        if !desk.lease.is_fresh() {
            return false;
        }
        let published = match placed {
            Ok(place) => place.publish(&message).await,
            Err(unpublished) => Err(unpublished),
        };
        let unpublished = match published {
            Ok(()) => {
                org.memory.told(&key);
                continue;
            }
            Err(Unpublished::Lost(_)) => {
                desk.over.cancel();
                return false;
            }
            Err(unpublished @ (Unpublished::Returned { .. } | Unpublished::Refused { .. })) => unpublished,
        };
        if desk.declare_again().await.is_err() || declared || matches!(unpublished, Unpublished::Refused { .. }) {
            let why = format!("a notification cannot be published: {unpublished}; bind or empty that queue");
            org.gate.stop(HaltCause::Unpublishable, &why);
            return false;
        }
        declared = true;
    }
    org.publishable();
    true
}

async fn dead_letter(
    desk: &Desk,
    ticket: &Ticket,
    delivery: &Delivery,
    outcome: &Outcome,
    trip: &Trip,
) -> Result<(), Leave> {
    let (body, properties) =
        wire::dead_letter::message(&delivery.body, &delivery.properties, outcome, &desk.org.rules.allowed);
    let message = Message { exchange: "", key: &desk.org.names.dead(), body: &body, properties };
    owe(desk, "a dead letter", &message, ticket, trip).await
}

/// Publishes until it is confirmed. What no queue takes has the topology declared again; while that does not help, processing halts.
pub(super) async fn owe(
    desk: &Desk,
    what: &str,
    message: &Message<'_>,
    ticket: &Ticket,
    trip: &Trip,
) -> Result<(), Leave> {
    let _publishing = ticket.span.publish(if message.exchange.is_empty() { message.key } else { message.exchange });
    let mut stopped = false;
    loop {
        let unpublished = match desk.publish(message, ticket, trip).await? {
            Ok(()) => {
                if stopped {
                    desk.org.gate.resolved(HaltCause::Unpublishable);
                }
                return Ok(());
            }
            Err(Unpublished::Lost(trouble)) => {
                tracing::warn!(org = desk.org.name, reason = %trouble, "{what} could not be confirmed; the session starts anew");
                desk.over.cancel();
                return Err(Leave::Unsettled);
            }
            Err(unpublished @ (Unpublished::Returned { .. } | Unpublished::Refused { .. })) => unpublished,
        };
        let resolved = tokio::select! {
            () = desk.over.cancelled() => return Err(Leave::Unsettled),
            resolved = desk.declare_again() => resolved,
        };
        if stopped || resolved.is_err() || matches!(unpublished, Unpublished::Refused { .. }) {
            let cure =
                resolved.err().map_or_else(|| "bind or empty that queue".to_owned(), |trouble| trouble.to_string());
            desk.org.gate.stop(HaltCause::Unpublishable, &format!("{what} cannot be published: {unpublished}; {cure}"));
            desk.unless_left(sleep(PUBLISH_AGAIN), ticket, trip).await?;
        }
        stopped = true;
    }
}

/// Tells the producer who asked for it. One whose queue is gone, or that is refused three times, is dropped with a warning.
async fn reply(desk: &Desk, ticket: &Ticket, delivery: &Delivery, outcome: &Outcome, trip: &Trip) -> Result<(), Leave> {
    let Some(queue) = &ticket.reply_to else { return Ok(()) };
    let correlation = delivery.properties.correlation_id().as_ref().map(|id| id.as_str());
    let (body, properties) = wire::outcome::reply(outcome, correlation, trip.response.as_ref());
    let properties = wire::trace::continued(properties, ticket.trace.as_ref());
    let message = Message { exchange: "", key: queue.as_str(), body: &body, properties };
    // Not by its name, of which each producer may have many.
    let _publishing = ticket.span.publish("a reply");
    for tried in 1..=REPLY_TRIES {
        let reason = match desk.publish(&message, ticket, trip).await? {
            Ok(()) => return Ok(()),
            Err(Unpublished::Lost(_)) => {
                desk.over.cancel();
                return Err(Leave::Unsettled);
            }
            Err(Unpublished::Refused { .. }) if tried < REPLY_TRIES => {
                desk.unless_left(sleep(PUBLISH_AGAIN), ticket, trip).await?;
                continue;
            }
            Err(unpublished @ (Unpublished::Refused { .. } | Unpublished::Returned { .. })) => unpublished,
        };
        tracing::warn!(job.id = %ticket.id, org = desk.org.name, reason = %reason, "the reply is dropped; the job itself is settled");
        return Ok(());
    }
    Ok(())
}
