//! Settling an ended job: notification or dead letter, then outcome, then reply, each confirmed before the next.

use jiff::Timestamp;
use lapin::BasicProperties;
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::delivery::DeliveryInfo;
use super::job::Job;
use super::org::{OrgContext, Session};
use super::state::{Ending, JobState};
use crate::amqp::publisher::{Message, Publisher, Unpublished};
use crate::consumer::{Leave, PUBLISH_AGAIN};
use crate::domain::ended::Ended;
use crate::domain::job::{JobId, Lane};
use crate::domain::notification::Notification;
use crate::domain::outcome::{Outcome, OutcomeKind, PasswordSet};
use crate::domain::retry::HaltCause;
use crate::failpoint::{self, Stage};
use crate::telemetry::metrics;
use crate::transport::seal::Seal;
use crate::wire;

/// How often a reply is refused before it is dropped.
const REPLY_TRIES: u32 = 3;

/// Publishes all that is not published yet, in order.
pub(super) async fn publish_results(job: &mut Job<'_>) -> Result<(), Leave> {
    let Some(ending) = job.state.ending.clone() else {
        return Err(Leave::Unsettled);
    };
    let outcome = outcome(job.org, &job.info.id, job.info.lane, &job.state, &ending);
    if !job.state.was_notified() {
        if outcome.kind == OutcomeKind::Succeeded {
            notify(job).await?;
        } else if outcome.reason.is_some() {
            dead_letter(job, &outcome).await?;
        }
        job.state.is_now_notified();
        failpoint::reach(Stage::Notified, job.info.id.as_str());
    }
    if !job.state.recorded {
        let (body, properties) = wire::outcome::record(&outcome);
        let properties = wire::trace::continued(properties, job.info.trace.as_ref());
        let key = format!("{}.{}", job.org.name, outcome.kind.as_str());
        let message = Message { exchange: &job.org.names.outcomes(), key: &key, body: &body, properties };
        job.publish("an outcome", &message, &job.policy()).await?;
        job.state.recorded = true;
        job.org.ledger.note(&Ended::of(&outcome));
        failpoint::reach(Stage::Recorded, job.info.id.as_str());
    }
    if !job.state.replied {
        reply(job, &outcome).await?;
        job.state.replied = true;
        failpoint::reach(Stage::Replied, job.info.id.as_str());
    }
    Ok(())
}

/// The record of the job's end.
fn outcome(org: &OrgContext, job: &JobId, lane: Lane, state: &JobState, ending: &Ending) -> Outcome {
    Outcome {
        job: job.clone(),
        org: org.name.clone(),
        lane,
        user: state.user.clone(),
        batch: state.batch.clone(),
        asked_at: state.asked_at,
        kind: ending.kind,
        reason: ending.reason,
        status: state.progress.status,
        attempts: state.progress.attempts,
        password_set: if state.issued.is_some() { PasswordSet::Yes } else { state.progress.password_set },
        detail: ending.detail.clone(),
        finished_at: Timestamp::now(),
    }
}

async fn notify(job: &Job<'_>) -> Result<(), Leave> {
    let (body, properties) = notification(job.org, &job.info.id, &job.state).ok_or_else(|| {
        // As where the broker is lost: what was set is kept in memory, and the session starts anew.
        job.session.over.cancel();
        Leave::Unsettled
    })?;
    let message = Message { exchange: &job.org.names.notifications(), key: "email", body: &body, properties };
    job.publish("a notification", &message, &job.policy()).await
}

/// The message for the person; `None`: it cannot be sealed.
fn notification(org: &OrgContext, job: &JobId, state: &JobState) -> Option<(Zeroizing<Vec<u8>>, BasicProperties)> {
    let (password, issued, to) = state.set()?;
    let notification = Notification {
        issued,
        job,
        asked_at: state.asked_at,
        org: &org.name,
        user: state.user.as_ref()?,
        to,
        template: &org.notification.template,
        password,
        language: state.language.as_ref(),
        batch: state.batch.as_deref(),
    };
    let close = |seal: &Seal| seal.close(&wire::notification::secret(&notification));
    let sealed = match org.seal.as_deref().map(close).transpose() {
        Ok(sealed) => sealed,
        Err(unsealed) => {
            tracing::error!(job.id = %job, org = org.name, reason = %unsealed, "the notification cannot be sealed");
            return None;
        }
    };
    let (body, properties) = wire::notification::message(&notification, sealed.as_deref(), org.expires);
    Some((body, wire::trace::continued(properties, state.trace.as_ref())))
}

/// With no job in flight: notifies those whose password is set by a job that was given back before that. Else a job of the same user that
/// comes before it sets a newer password, and the mail of the older one is the last to arrive. `false`: a queue takes nothing, and
/// processing is halted; or this process is not known to lead.
pub(super) async fn notify_pending(session: &Session) -> bool {
    let org = &session.shared;
    let mut declared = false;
    while let Some((key, state)) = org.checkpoints.pending_notification() {
        let Some((body, properties)) = notification(org, key.job(), &state) else {
            session.over.cancel();
            return false;
        };
        let message = Message { exchange: &org.names.notifications(), key: "email", body: &body, properties };
        let placed = session.publisher.place().await;
        if !session.proof.is_fresh() {
            return false;
        }
        let published = match placed {
            Ok(place) => place.publish(&message).await,
            Err(unpublished) => Err(unpublished),
        };
        let unpublished = match published {
            Ok(()) => {
                org.checkpoints.notified(&key);
                continue;
            }
            Err(Unpublished::Lost(_)) => {
                session.over.cancel();
                return false;
            }
            Err(unpublished @ (Unpublished::Returned { .. } | Unpublished::Refused { .. })) => unpublished,
        };
        if session.declare_again().await.is_err() || declared || matches!(unpublished, Unpublished::Refused { .. }) {
            let why = format!("a notification cannot be published: {unpublished}; bind or empty that queue");
            org.gate.stop(HaltCause::Unpublishable, &why);
            return false;
        }
        declared = true;
    }
    // Nobody in flight waits for a queue to take what it publishes.
    org.gate.resolved(HaltCause::Unpublishable);
    true
}

/// Whether the ledger has the outcome of a job that was given back: it was written, and only its confirm was lost. (A name made from what a
/// job says may be another job's record.)
pub(super) fn is_recorded(org: &OrgContext, job: &JobId, state: &JobState) -> bool {
    let notified = state.was_notified() && state.ending.as_ref().is_some_and(Ending::is_noted);
    notified && org.ledger.is_done(&org.name, job, state.batch.as_deref(), false)
}

/// After a session whose connection was lost, with none of its calls in flight: publishes by another connection the notifications and
/// outcomes of the passwords that it has set, so that a successor need not wait for what they may be on their way by. `may_publish` ends
/// before a successor reads for the last time what was done. What cannot be published is kept for whoever leads next.
/// `true`: nothing is left.
pub(super) async fn publish_left(
    org: &OrgContext,
    publisher: &Publisher,
    may_publish: &(dyn Fn() -> bool + Sync),
) -> bool {
    let publish = async |exchange: &str, key: &str, (body, properties): (&[u8], BasicProperties)| {
        let place = publisher.place().await.ok()?;
        if !may_publish() {
            return None;
        }
        place.publish(&Message { exchange, key, body, properties }).await.ok()
    };
    // What may be set, and is not known to be, cannot be published.
    let is_known = !org.checkpoints.may_be_set();
    let mut left = 0;
    while let Some((key, state)) = org.checkpoints.pending_outcome() {
        let Some((ending, lane)) = state.ending.as_ref().zip(state.lane) else { return false };
        if is_recorded(org, key.job(), &state) {
            org.checkpoints.recorded(&key);
            continue;
        }
        if !state.was_notified() {
            let Some((body, properties)) = notification(org, key.job(), &state) else { return false };
            if publish(&org.names.notifications(), "email", (&body, properties)).await.is_none() {
                return false;
            }
            org.checkpoints.notified(&key);
        }
        let outcome = outcome(org, key.job(), lane, &state, ending);
        let (body, properties) = wire::outcome::record(&outcome);
        let properties = wire::trace::continued(properties, state.trace.as_ref());
        let routed = format!("{}.{}", org.name, outcome.kind.as_str());
        if publish(&org.names.outcomes(), &routed, (&body, properties)).await.is_none() {
            return false;
        }
        org.checkpoints.recorded(&key);
        org.ledger.note(&Ended::of(&outcome));
        left += 1;
    }
    if left > 0 {
        tracing::info!(org = org.name, jobs = left, "published what the lost connection had not confirmed");
    }
    is_known
}

async fn dead_letter(job: &Job<'_>, outcome: &Outcome) -> Result<(), Leave> {
    let (body, properties) =
        wire::dead_letter::message(&job.delivery.body, &job.delivery.properties, outcome, &job.org.rules.allowed);
    let message = Message { exchange: "", key: &job.org.names.dead(), body: &body, properties };
    job.publish("a dead letter", &message, &job.policy()).await
}

/// Tells the producer who asked for it. One whose queue is gone, or that is refused three times, is dropped with a warning.
async fn reply(job: &Job<'_>, outcome: &Outcome) -> Result<(), Leave> {
    let Some(queue) = &job.info.reply_to else { return Ok(()) };
    let correlation = job.delivery.properties.correlation_id().as_ref().map(|id| id.as_str());
    let (body, properties) = wire::outcome::reply(outcome, correlation, job.state.response.as_ref());
    let properties = wire::trace::continued(properties, job.info.trace.as_ref());
    let message = Message { exchange: "", key: queue.as_str(), body: &body, properties };
    // Not by its name, of which each producer may have many.
    let _publishing = job.info.span.publish("a reply");
    for tried in 1..=REPLY_TRIES {
        let reason = match job.session.publish(&message, &job.policy()).await? {
            Ok(()) => return Ok(()),
            Err(Unpublished::Lost(_)) => {
                job.session.over.cancel();
                return Err(Leave::Unsettled);
            }
            Err(Unpublished::Refused { .. }) if tried < REPLY_TRIES => {
                job.unless_left(sleep(PUBLISH_AGAIN)).await?;
                continue;
            }
            Err(unpublished @ (Unpublished::Refused { .. } | Unpublished::Returned { .. })) => unpublished,
        };
        tracing::warn!(job.id = %job.info.id, org = job.org.name, reason = %reason, "the reply is dropped; the job itself is settled");
        return Ok(());
    }
    Ok(())
}

/// The job is settled: one line in the log, one in the metrics.
pub(super) fn report(org: &OrgContext, info: &DeliveryInfo, state: &JobState) {
    let Some(ending) = &state.ending else { return };
    let outcome = outcome(org, &info.id, info.lane, state, ending);
    metrics::job_ended(&outcome);
    info.span.settled(&outcome);
    let (kind, reason) = (outcome.kind.as_str(), outcome.reason.map(|reason| reason.as_str()));
    let detail = outcome.detail.as_ref().map(|detail| state.loggable(detail));
    if outcome.reason.is_some() {
        tracing::warn!(job.id = %outcome.job, org = outcome.org, lane = outcome.lane.as_str(), outcome = kind, reason, status = outcome.status, attempt = outcome.attempts, detail, "job dead-lettered");
    } else if outcome.kind == OutcomeKind::Superseded {
        tracing::warn!(job.id = %outcome.job, org = outcome.org, lane = outcome.lane.as_str(), outcome = kind, detail, "job superseded");
    } else {
        tracing::info!(job.id = %outcome.job, org = outcome.org, lane = outcome.lane.as_str(), outcome = kind, status = outcome.status, attempt = outcome.attempts, "job done");
    }
}
