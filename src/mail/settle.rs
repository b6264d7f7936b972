//! Settling an ended mail: the dead mail where it was given up, then the record, each confirmed before the next. And publishing again
//! one that waits at the broker.

use jiff::Timestamp;

use super::context::Sent;
use super::state::{Ending, MailState, Session};
use crate::amqp::consumer::Delivery;
use crate::amqp::names::EMAIL_KEY;
use crate::amqp::publisher::Message;
use crate::consumer::{Leave, RequeueTarget};
use crate::domain::job::JobId;
use crate::domain::mailing::{MailEnd, Mailed, Unsent};
use crate::domain::note::Note;
use crate::domain::user::UserId;
use crate::failpoint::{self, Stage};
use crate::telemetry::metrics;
use crate::wire;
use crate::wire::dead_mail::{Death, Remains};
use crate::wire::redact::without_addresses;

/// Publishes everything, in order.
pub(super) async fn publish_results(
    session: &Session,
    delivery: &Delivery,
    mail: &MailState,
    ending: &Ending,
) -> Result<(), Leave> {
    let context = &session.shared;
    let policy = mail.policy_of_publish();
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
    if let Some(reason) = unsent.filter(|reason| reason.is_dead_lettered()) {
        let death = Death { reason, detail: detail.clone(), status, attempts, at };
        let (body, properties) = wire::dead_mail::message(&remains, &delivery.properties, &death);
        let message = Message { exchange: "", key: &context.names.emails_dead(), body: &body, properties };
        session.publish_until_confirmed("a dead mail", &message, &policy).await?;
    }
    let Some(end) = end(mail, &remains, unsent, (status, attempts), at) else {
        let reason = without_addresses(&detail);
        tracing::warn!(reason, "a message of the email queue is no notification: it is a dead mail now");
        metrics::mail_ended("", "notification_failed", Unsent::InvalidNotification.as_str());
        return Ok(());
    };
    failpoint::reach(Stage::Notified, &end.note);
    let (body, properties) = wire::mail::record(&end);
    let outcome = wire::mail::outcome(&end);
    let message = Message {
        exchange: &context.names.outcomes(),
        key: &format!("{}.{outcome}", end.org),
        body: &body,
        properties: wire::trace::continued(properties, wire::trace::parent(&delivery.properties).as_ref()),
    };
    session.publish_until_confirmed("what became of a mail", &message, &policy).await?;
    context.ledger.note_mail(&Mailed::of(&end));
    context.is_recorded(&end.note);
    failpoint::reach(Stage::Recorded, &end.note);
    log(&end, &detail);
    metrics::mail_ended(context.org_label(&end.org), outcome, end.unsent.map_or("", Unsent::as_str));
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
    mail: &MailState,
    remains: &Remains,
    unsent: Option<Unsent>,
    (status, attempts): (Option<u16>, u32),
    at: Timestamp,
) -> Option<MailEnd> {
    if let Ok(Note { id, job, org, user, batch, issued_at, .. }) = mail.note.as_deref() {
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

/// Publishes a mail again, to wait at the broker or to be taken later: a fresh message with what it has been through. It does not expire:
/// behind others it would be gone, unsaid, before its turn came; the mailer looks at its age itself.
pub(super) async fn requeue(session: &Session, delivery: Delivery, mail: &MailState, target: RequeueTarget) {
    let names = &session.shared.names;
    let (exchange, key) = match target {
        RequeueTarget::Queue => (names.notifications(), EMAIL_KEY.to_owned()),
        RequeueTarget::Delayed(tier) => (String::new(), names.emails_parked(tier)),
    };
    let mut properties = wire::again::properties(&delivery.properties, &mail.retry_headers);
    if let Ok(note) = &mail.note {
        properties = wire::notification::published_again(properties, note);
    }
    let message = Message { exchange: &exchange, key: &key, body: &delivery.body, properties };
    if session.publish_until_confirmed("a mail that waits", &message, &mail.policy_of_publish()).await.is_ok() {
        failpoint::reach(Stage::Again, mail.note.as_ref().map_or("", |note| note.id.as_str()));
        delivery.ack(&session.over).await;
    }
}
