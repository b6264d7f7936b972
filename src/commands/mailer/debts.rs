//! What an ended mail owes: the dead mail where it was given up, then the record, each confirmed before the next. And a mail that waits
//! at the broker.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{sleep, sleep_until};

use super::desk::{Berth, Desk, Leave};
use super::office::Sent;
use super::trip::{Ending, Mail};
use crate::amqp::consumer::Delivery;
use crate::amqp::error::ANSWER;
use crate::amqp::names::EMAIL_KEY;
use crate::amqp::publisher::{Message, Unpublished};
use crate::amqp::topology;
use crate::domain::job::JobId;
use crate::domain::mailing::{MailEnd, Mailed, Unsent};
use crate::domain::note::Note;
use crate::domain::retry::HaltCause;
use crate::domain::user::UserId;
use crate::failpoint::{self, Stage};
use crate::telemetry::metrics;
use crate::wire;
use crate::wire::dead_mail::{Death, Remains};
use crate::wire::redact::without_addresses;

/// How long a message that no queue takes waits until it is published again.
const PUBLISH_AGAIN: Duration = Duration::from_secs(1);

/// Pays everything, in order.
pub(super) async fn pay(desk: &Desk, delivery: &Delivery<()>, mail: &Mail, ending: &Ending) -> Result<(), Leave> {
    let (unsent, detail, status, attempts) = match ending {
        Ending::Known => return Ok(()),
        // Perhaps in the session before: then this delivery itself knows nothing of it.
        Ending::Sent(Sent { status, attempts }) => (None, format!("status {status}"), Some(*status), *attempts),
        Ending::Unsent(reason, detail) => (Some(*reason), detail.clone(), mail.status, mail.retry_headers.tried),
    };
    let mut remains = Remains::of(&delivery.body, &mail.scrubber);
    if mail.note.is_err() {
        remains = remains.without_text();
    }
    // As the record has it: it is read again from the stream, and must count once.
    let at = wire::to_the_millisecond(Timestamp::now());
    if let Some(reason) = unsent.filter(|reason| reason.is_buried()) {
        let death = Death { reason, detail: detail.clone(), status, attempts, at };
        let (body, properties) = wire::dead_mail::message(&remains, &delivery.properties, &death);
        let message = Message { exchange: "", key: &desk.office.names.emails_dead(), body: &body, properties };
        owe(desk, mail, "a dead mail", &message).await?;
    }
    let Some(end) = end(mail, &remains, unsent, (status, attempts), at) else {
        let reason = without_addresses(&detail);
        tracing::warn!(reason, "a message of the email queue is no notification: it is a dead mail now");
        metrics::mail_ended("", "notification_failed", Unsent::InvalidNotification.as_str());
        return Ok(());
    };
    failpoint::reach(Stage::LedgerRecord, &end.note);
    let (body, properties) = wire::mail::record(&end);
    let outcome = wire::mail::outcome(&end);
    let message = Message {
        exchange: &desk.office.names.outcomes(),
        key: &format!("{}.{outcome}", end.org),
        body: &body,
        properties: wire::trace::continued(properties, wire::trace::parent(&delivery.properties).as_ref()),
    };
    owe(desk, mail, "what became of a mail", &message).await?;
    desk.office.ledger.note_mail(&Mailed::of(&end));
    desk.office.is_recorded(&end.note);
    failpoint::reach(Stage::Recorded, &end.note);
    log(&end, &detail);
    metrics::mail_ended(desk.office.org_label(&end.org), outcome, end.unsent.map_or("", Unsent::as_str));
    Ok(())
}

/// One line for each mail that was given up, without its address.
fn log(end: &MailEnd, detail: &str) {
    let (id, job, org, status, attempts) = (&end.note, &end.job, &end.org, end.status, end.attempts);
    let detail = without_addresses(detail);
    match end.unsent {
        None => tracing::debug!(mail.id = id, job.id = %job, org, status, attempts, "sent"),
        Some(Unsent::Superseded) => {
            tracing::info!(mail.id = id, job.id = %job, org, detail, "not sent: it is superseded");
        }
        Some(
            reason @ (Unsent::Expired
            | Unsent::Undeliverable
            | Unsent::RetriesExhausted
            | Unsent::InvalidNotification
            | Unsent::CannotOpen
            | Unsent::NotSealed
            | Unsent::AddressNotAllowed),
        ) => {
            let reason = reason.as_str();
            tracing::warn!(mail.id = id, job.id = %job, org, reason, status, attempts, detail, "not sent: it is a dead mail now");
        }
    }
}

/// The mail's end; `None` where the message does not even say whose it was.
fn end(
    mail: &Mail,
    remains: &Remains,
    unsent: Option<Unsent>,
    (status, attempts): (Option<u16>, u32),
    at: Timestamp,
) -> Option<MailEnd> {
    if let Ok(Note { id, job, org, user, batch, issued_at, .. }) = &mail.note {
        return Some(MailEnd {
            note: id.as_str().to_owned(),
            job: job.clone(),
            org: org.clone(),
            user: user.clone(),
            batch: batch.clone(),
            issued_at: *issued_at,
            unsent,
            status,
            attempts,
            at,
        });
    }
    let Remains { notification_id, job_id, org, user_id, issued_at, .. } = remains;
    let is_name = |org: &&String| org.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    Some(MailEnd {
        note: notification_id.clone()?,
        job: JobId::new(job_id.clone()?),
        org: org.as_ref().filter(is_name)?.clone(),
        user: UserId::parse(user_id.as_ref()?).ok()?,
        batch: None,
        // A moment ahead would make every real mail of that job an older one.
        issued_at: issued_at.as_ref().and_then(|text| text.parse().ok()).unwrap_or(at).min(at),
        unsent,
        status,
        attempts,
        at,
    })
}

/// Publishes until it is confirmed. What no queue takes has the topology declared again; while that does not help, processing halts.
async fn owe(desk: &Desk, mail: &Mail, what: &str, message: &Message<'_>) -> Result<(), Leave> {
    let mut stopped = false;
    loop {
        // What was written may still be confirmed for a while after the session is over; but no delivery is held too long for it.
        let given_up = async {
            desk.over.cancelled().await;
            sleep(ANSWER).await;
        };
        let published = tokio::select! {
            biased;
            published = desk.publisher.publish(message) => published,
            () = given_up => return Err(Leave::Unsettled),
            () = sleep_until(mail.held_until) => return Err(desk.held_too_long()),
        };
        let unpublished = match published {
            Ok(()) => {
                if stopped {
                    desk.office.gate.resolved(HaltCause::Unpublishable);
                }
                return Ok(());
            }
            Err(Unpublished::Lost(trouble)) => {
                tracing::warn!(reason = %trouble, "{what} could not be confirmed; the session starts anew");
                desk.over.cancel();
                return Err(Leave::Unsettled);
            }
            Err(unpublished @ (Unpublished::Returned { .. } | Unpublished::Refused { .. })) => unpublished,
        };
        let things = topology::mailers_things(&desk.office.names, &desk.office.retry.delays);
        let resolved = tokio::select! {
            () = desk.over.cancelled() => return Err(Leave::Unsettled),
            resolved = desk.link.declare(&things) => resolved,
        };
        if stopped || resolved.is_err() || matches!(unpublished, Unpublished::Refused { .. }) {
            let cure =
                resolved.err().map_or_else(|| "bind or empty that queue".to_owned(), |trouble| trouble.to_string());
            let why = format!("{what} cannot be published: {unpublished}; {cure}");
            desk.office.gate.stop(HaltCause::Unpublishable, &why);
            tokio::select! {
                () = desk.over.cancelled() => return Err(Leave::Unsettled),
                () = sleep_until(mail.held_until) => return Err(desk.held_too_long()),
                () = sleep(PUBLISH_AGAIN) => {}
            }
        }
        stopped = true;
    }
}

/// Publishes a mail again, to wait at the broker or to be taken later: a fresh message with what it has been through. It does not expire:
/// behind others it would be gone, unsaid, before its turn came; the mailer looks at its age itself.
pub(super) async fn publish_again(desk: &Desk, delivery: Delivery<()>, mail: &Mail, berth: Berth) {
    let names = &desk.office.names;
    let (exchange, key) = match berth {
        Berth::Queue => (names.notifications(), EMAIL_KEY.to_owned()),
        Berth::DelayTier(tier) => (String::new(), names.emails_parked(tier)),
    };
    let mut properties = wire::again::properties(&delivery.properties, &mail.retry_headers);
    if let Ok(note) = &mail.note {
        properties = wire::notification::published_again(properties, note);
    }
    let message = Message { exchange: &exchange, key: &key, body: &delivery.body, properties };
    if owe(desk, mail, "a mail that waits", &message).await.is_ok() {
        failpoint::reach(Stage::Again, mail.note.as_ref().map_or("", |note| note.id.as_str()));
        delivery.ack(&desk.over).await;
    }
}
