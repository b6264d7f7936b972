//! The lifecycle of one mail, from top to bottom; each stage is a few lines here and a function below or in a file of its own.
//!
//! ```text
//! delivery → parse → turn → ledger (sent already? newest?) → own wait → key → connection → gate → open → write → deliver → classify
//!          → again, delay, or give up
//!          → record, or dead mail and record, confirmed → ack
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use tokio::time::sleep;
use zeroize::Zeroize;

use super::context::{MailerContext, person};
use super::state::{Ending, MailState, Session};
use super::{attempt, settle};
use crate::amqp::consumer::Delivery;
use crate::consumer::{Leave, RequeueTarget};
use crate::domain::mailing::{About, Standing, Unsent};
use crate::domain::note::{Content, Note};
use crate::domain::{job::Lane, refusal::Refusal};
use crate::telemetry::logs::millis;
use crate::throttle::jobs_in_flight::{As, InHand};
use crate::throttle::user_order::Turn;
use crate::transport::seal::CannotOpen;
use crate::wire::redact::Scrubber;
use crate::wire::{again, dead_mail, moment, notification};

/// A mail in flight, with its place in its person's line.
pub struct Arrival {
    delivery: Delivery,
    in_flight: InHand,
    mail: MailState,
    turn: Option<BoxFuture<'static, Turn>>,
}

/// Reads a mail and takes its place in its person's line, before the next one is looked at.
pub(super) fn arrive(session: &Session, delivery: Delivery) -> Arrival {
    let context = &session.shared;
    let (now, in_flight) = (Timestamp::now(), context.jobs_in_flight.take(delivery.lane, As::One));
    let read = catch_unwind(AssertUnwindSafe(|| notification::read(&delivery.body, &delivery.properties, now)));
    let note = read.unwrap_or_else(|_panic| Err(Refusal("the mailer's own code failed on it".into())));
    let note = note.map(|(note, warning)| {
        if let Some(warning) = warning {
            tracing::warn!(mail.id = %note.id, job.id = %note.job, org = note.org, "{warning}");
        }
        Arc::new(note)
    });
    let mut scrubber = Scrubber::default();
    let place = note.as_ref().ok().map(|note| {
        context.ledger.seen(&about(note));
        context.in_flight.enter(note)
    });
    match note.as_ref().map(|note| &note.content) {
        Ok(Content::Open(words)) => scrubber.add(words.password.expose()),
        Ok(Content::Sealed(_)) => {}
        Err(_) => dead_mail::passwords(&delivery.body).iter().for_each(|password| scrubber.add(password)),
    }
    let turn = note.as_ref().ok().map(|note| context.user_order.line_up(&person(note)));
    let retry_headers = again::retry_headers(&delivery.properties);
    let held_until = delivery.came + context.hold;
    Arrival {
        delivery,
        in_flight,
        mail: MailState { note, retry_headers, status: None, scrubber, held_until, place, turn: None },
        turn,
    }
}

/// Takes one mail from its delivery to its ack.
pub(super) async fn handle(session: Arc<Session>, arrival: Arrival) {
    let Arrival { mut delivery, in_flight: _in_flight, mut mail, turn } = arrival;
    let ran = AssertUnwindSafe(run(&session, &mut mail, turn)).catch_unwind().await;
    let ending = ran.unwrap_or_else(|_panic| {
        Ok(Ending::Unsent(Unsent::InvalidNotification, "the mailer's own code failed on it".into()))
    });
    let settled = match ending {
        Ok(ending) => settle::publish_results(&session, &delivery, &mail, &ending).await,
        Err(leave) => Err(leave),
    };
    match settled {
        Ok(()) => {
            delivery.body.zeroize();
            delivery.ack(&session.over).await;
        }
        Err(Leave::Unsettled | Leave::Returned) => delivery.body.zeroize(),
        Err(Leave::Again(target)) => settle::requeue(&session, delivery, &mail, target).await,
    }
}

/// The stages, in order, within the person's turn, until it ends.
async fn run(session: &Session, mail: &mut MailState, turn: Option<BoxFuture<'static, Turn>>) -> Result<Ending, Leave> {
    let context = &session.shared;
    let note = match &mail.note {
        Ok(note) => Arc::clone(note),
        Err(refusal) => return Ok(Ending::Unsent(Unsent::InvalidNotification, refusal.0.clone())),
    };
    let overtaken = mail.overtaken();
    if let Some(turn) = turn {
        mail.turn = Some(mail.unless_left(session, turn).await?);
    }
    let expires = expiry(&note, context.ttl);
    loop {
        if let Some(ending) = known_end(context, &note, overtaken.is_cancelled()) {
            return Ok(ending);
        }
        if let Some((reason, why)) = context.refuses(&note) {
            return Ok(Ending::Unsent(reason, why.into()));
        }
        if let Some(wait) = mail.retry_headers.until.and_then(ahead) {
            let waited = overtaken.run_until_cancelled(wait_its_time(session, mail, wait)).await;
            waited.transpose()?;
            mail.retry_headers.until = None;
            continue;
        }
        if let Some(detail) = lacks_key(context, &note).filter(|_| ahead(expires).is_some()) {
            return Err(wait_for_its_key(context, &note, &detail));
        }
        // The connection first: between the permit and the delivery nothing is waited for.
        let pass = async {
            let slot = context.courier.slot().await;
            (slot, context.gate.pass(Lane::Interactive, Some(expires), false).await)
        };
        let (slot, permit) = match overtaken.run_until_cancelled(mail.unless_left(session, pass)).await {
            None => continue,
            Some(passed) => passed?,
        };
        let Ok(permit) = permit else {
            let detail = format!("issued at {}, and older than notification.ttl", note.issued_at);
            return Ok(Ending::Unsent(Unsent::Expired, detail));
        };
        // The process may have been held up between the permit and here, and another mailer may lead; and a newer mail may have come
        // while this one waited.
        if !session.proof.is_fresh() || known_end(context, &note, overtaken.is_cancelled()).is_some() {
            continue;
        }
        if let Some(ending) = attempt::attempt(context, mail, &note, slot, permit).await {
            return Ok(ending);
        }
    }
}

/// Whether nothing is left to be sent.
fn known_end(context: &MailerContext, note: &Note, overtaken: bool) -> Option<Ending> {
    if let Some(sent) = context.was_sent(note) {
        return Some(Ending::Sent(sent));
    }
    let superseded = |detail: &str| Some(Ending::Unsent(Unsent::Superseded, detail.into()));
    match context.ledger.standing(&about(note)) {
        Standing::Notified => Some(Ending::Known),
        Standing::Superseded => superseded("a newer password was set"),
        Standing::Due if overtaken => superseded("a newer notification is here"),
        Standing::Due => None,
    }
}

/// What the ledger asks of a notification.
fn about(note: &Note) -> About<'_> {
    About {
        note: note.id.as_str(),
        org: &note.org,
        job: note.job.as_str(),
        user: note.user.as_str(),
        issued_at: note.issued_at,
    }
}

/// Until when it may be sent.
fn expiry(note: &Note, ttl: Duration) -> Timestamp {
    let ttl = SignedDuration::try_from(ttl).unwrap_or(SignedDuration::MAX);
    note.issued_at.checked_add(ttl).unwrap_or(Timestamp::MAX)
}

/// How long until then.
fn ahead(until: Timestamp) -> Option<Duration> {
    Duration::try_from(until.duration_since(Timestamp::now())).ok().filter(|wait| !wait.is_zero())
}

/// A short wait is spent in memory, a longer one in a delay queue.
async fn wait_its_time(session: &Session, mail: &MailState, wait: Duration) -> Result<(), Leave> {
    let retry = &session.shared.retry;
    if wait > retry.inline_max {
        return Err(Leave::Again(RequeueTarget::Delayed(retry.delays.fitting(wait))));
    }
    mail.unless_left(session, sleep(wait)).await
}

/// What is said of the key that opens it, where that is not here.
fn lacks_key(context: &MailerContext, note: &Note) -> Option<String> {
    let Content::Sealed(sealed) = &note.content else { return None };
    match context.keys.find(sealed) {
        Err(error @ CannotOpen::UnknownKey { .. }) => Some(error.to_string()),
        // What nobody can open is said when it is its turn.
        Ok(()) | Err(CannotOpen::NotSealed | CannotOpen::Foreign { .. } | CannotOpen::Damaged { .. }) => None,
    }
}

/// It waits at the broker by itself, before the gate, so that it costs the others neither time nor a permit: about as long again as it
/// has waited already, until somebody gives us the key or it is too old.
fn wait_for_its_key(context: &MailerContext, note: &Note, detail: &str) -> Leave {
    let delays = &context.retry.delays;
    let tier = delays.fitting(Timestamp::now().duration_since(note.issued_at).try_into().unwrap_or_default());
    let delay_ms = millis(delays.of(tier));
    tracing::warn!(mail.id = %note.id, job.id = %note.job, org = note.org, delay_ms, detail, "a mail waits for its key");
    context.lacks_key(&format!(
        "a mail cannot be opened: {detail} (last seen at {}); such mails wait at the broker while others are sent; add that private key to mailer.open_with and start the mailer again",
        moment(Timestamp::now())
    ));
    Leave::Again(RequeueTarget::Delayed(tier))
}
