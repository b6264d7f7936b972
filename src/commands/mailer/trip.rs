//! The trip of one mail, from top to bottom; each stage is one line here and one function below.
//!
//! ```text
//! delivery → parse → sent already? → its own wait → turn → newest? → its key here? → slot → gate (lease, breaker, pause, too old?, limiter) → open → write → next hop
//!          → again, wait at the broker, or give up
//!          → record, or dead mail and record, confirmed → ack
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, MaybeDone, maybe_done};
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep, timeout};
use zeroize::Zeroize;

use super::debts;
use super::desk::{Berth, Desk, Leave};
use super::in_flight::Place;
use super::office::{Office, Sent, person};
use crate::amqp::consumer::Delivery;
use crate::domain::job::{Lane, without_addresses};
use crate::domain::mailing::{About, Standing, Unsent};
use crate::domain::note::{Content, Note, Words};
use crate::domain::refusal::Refusal;
use crate::domain::retry::{HaltCause, backoff};
use crate::domain::user::UserId;
use crate::failpoint::{self, Stage};
use crate::telemetry::logs::millis;
use crate::telemetry::metrics;
use crate::throttle::gate::{Permit, Verdict};
use crate::throttle::user_order::Turn;
use crate::transport::seal::CannotOpen;
use crate::transport::{Delivered, Undelivered};
use crate::wire::again::{self, RetryHeaders};
use crate::wire::dead_mail;
use crate::wire::redact::Scrubber;
use crate::wire::{moment, notification};

/// Beyond the longest that a delivery takes: the courier ends it by itself.
const TO_SPARE: Duration = Duration::from_secs(2);

/// A mail in flight, with its place in its person's line.
pub(super) struct Arrival {
    delivery: Delivery<()>,
    mail: Mail,
    turn: Option<MaybeDone<BoxFuture<'static, Turn>>>,
}

/// What is known of it on its way.
pub(super) struct Mail {
    pub(super) note: Result<Note, Refusal>,
    pub(super) retry_headers: RetryHeaders,
    /// The code of the next hop's last answer.
    pub(super) status: Option<u16>,
    /// What must not be in any text of the next hop's that is kept.
    pub(super) scrubber: Scrubber,
    pub(super) held_until: Instant,
    place: Option<Place>,
    /// Nobody else sends to its person until it is settled.
    turn: Option<Turn>,
}

/// How it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// A record says that it was sent: only its ack had been lost.
    Known,
    /// The next hop has taken it.
    Sent(Sent),
    /// It is not sent, and why.
    Unsent(Unsent, String),
}

/// Reads a mail and takes its place in its person's line, before the next one is looked at.
pub(super) fn arrive(desk: &Desk, delivery: Delivery<()>) -> Arrival {
    let office = &desk.office;
    let now = Timestamp::now();
    let read = catch_unwind(AssertUnwindSafe(|| notification::read(&delivery.body, &delivery.properties, now)));
    let note = read.unwrap_or_else(|_panic| Err(Refusal("the mailer's own code failed on it".into())));
    let note = note.map(|(note, warning)| {
        if let Some(warning) = warning {
            tracing::warn!(mail.id = %note.id, job.id = %note.job, org = note.org, "{warning}");
        }
        note
    });
    let mut scrubber = Scrubber::default();
    let place = note.as_ref().ok().map(|note| {
        office.ledger.seen(&about(note));
        office.in_flight.enter(note)
    });
    match &note {
        Ok(Note { content: Content::Open(words), .. }) => scrubber.add(words.password.expose()),
        Ok(Note { content: Content::Sealed(_), .. }) => {}
        Err(_) => dead_mail::passwords(&delivery.body).iter().for_each(|password| scrubber.add(password)),
    }
    let turn = note.as_ref().ok().map(|note| {
        let (user_order, person) = (office.user_order.clone(), person(note));
        let turn: BoxFuture<'static, Turn> = Box::pin(async move { user_order.take(&person).await });
        let mut turn = maybe_done(turn);
        let _ = (&mut turn).now_or_never();
        turn
    });
    let retry_headers = again::retry_headers(&delivery.properties);
    let held_until = delivery.came + office.hold;
    Arrival {
        delivery,
        mail: Mail { note, retry_headers, status: None, scrubber, held_until, place, turn: None },
        turn,
    }
}

/// Takes one mail from its delivery to its ack. What is not settled comes again.
pub(super) async fn handle(desk: Arc<Desk>, arrival: Arrival) {
    let over = desk.over.clone();
    if AssertUnwindSafe(settle(desk, arrival)).catch_unwind().await.is_err() {
        over.cancel();
    }
}

async fn settle(desk: Arc<Desk>, arrival: Arrival) {
    let Arrival { mut delivery, mut mail, turn } = arrival;
    let _in_flight = metrics::MailInFlight::enter();
    let travelled = AssertUnwindSafe(travel(&desk, &mut mail, turn)).catch_unwind().await;
    let ending = travelled.unwrap_or_else(|_panic| {
        Ok(Ending::Unsent(Unsent::InvalidNotification, "the mailer's own code failed on it".into()))
    });
    let paid = match ending {
        Ok(ending) => debts::pay(&desk, &delivery, &mail, &ending).await,
        Err(leave) => Err(leave),
    };
    match paid {
        Ok(()) => {
            delivery.body.zeroize();
            delivery.ack(&desk.over).await;
        }
        Err(Leave::Unsettled) => delivery.body.zeroize(),
        Err(Leave::Again(berth)) => debts::publish_again(&desk, delivery, &mail, berth).await,
    }
}

/// Everything up to its end.
async fn travel(
    desk: &Desk,
    mail: &mut Mail,
    turn: Option<MaybeDone<BoxFuture<'static, Turn>>>,
) -> Result<Ending, Leave> {
    let office = Arc::clone(&desk.office);
    let note = match &mail.note {
        Ok(note) => note,
        Err(refusal) => return Ok(Ending::Unsent(Unsent::InvalidNotification, refusal.0.clone())),
    };
    let (hold, overtaken) = (mail.held_until, mail.place.as_ref().map(|place| place.overtaken.clone()));
    let overtaken = overtaken.unwrap_or_default();
    if let Some(mut turn) = turn {
        desk.unless_left(hold, &mut turn).await?;
        mail.turn = Pin::new(&mut turn).take_output();
    }
    let expires = expiry(note, office.ttl);
    loop {
        if let Some(ending) = standing(desk, note, overtaken.is_cancelled()) {
            return Ok(ending);
        }
        if let Some((reason, why)) = office.refuses(note) {
            return Ok(Ending::Unsent(reason, why.into()));
        }
        if let Some(wait) = mail.retry_headers.until.and_then(ahead) {
            let waited = overtaken.run_until_cancelled(wait_its_time(desk, hold, wait));
            waited.await.transpose()?;
            mail.retry_headers.until = None;
            continue;
        }
        if let Some(detail) = lacks_key(desk, note).filter(|_| ahead(expires).is_some()) {
            return Err(wait_for_its_key(desk, note, &detail));
        }
        // The slot first: between the permit and the delivery nothing is waited for.
        let pass = async {
            let slot = office.courier.slot().await;
            (slot, office.gate.pass(Lane::Interactive, Some(expires), false).await)
        };
        let (slot, permit) = match overtaken.run_until_cancelled(desk.unless_left(hold, pass)).await {
            None => continue,
            Some(left) => left?,
        };
        let Ok(permit) = permit else {
            let detail = format!("issued at {}, and older than notification.ttl", note.issued_at);
            return Ok(Ending::Unsent(Unsent::Expired, detail));
        };
        // The process may have been held up between the permit and here, and another mailer may have the lease; and a newer mail may
        // have come while this one waited.
        if !desk.lease.is_fresh() || standing(desk, note, overtaken.is_cancelled()).is_some() {
            continue;
        }
        let words = match open(desk, note) {
            Ok(words) => words,
            Err(detail) => {
                permit.answered(&note.user, Verdict::Neutral);
                return Ok(Ending::Unsent(Unsent::CannotOpen, detail));
            }
        };
        office.has_opened();
        mail.scrubber.add(words.password.expose());
        let written = match office.templates.mail(note, &words) {
            Ok(written) => written,
            Err(unwritten) => {
                permit.answered(&note.user, Verdict::Neutral);
                let why =
                    format!("no mail can be written: {unwritten}; fix mailer.templates and start the mailer again");
                office.gate.stop(HaltCause::MailRefused, &why);
                continue;
            }
        };
        let began = Instant::now();
        let delivering = timeout(office.longest + TO_SPARE, slot.deliver(&written));
        let delivered = delivering.await.unwrap_or_else(|_late| {
            let detail = format!("no answer within {} s", office.longest.as_secs());
            Err(Undelivered::Again { detail, status: None, after: None })
        });
        let delivered = office.in_its_row(note, delivered);
        metrics::mail_tried(status_of(&delivered), began.elapsed());
        mail.status = status_of(&delivered).or(mail.status);
        let is_probe = permit.is_probe();
        report(&office, permit, note, &delivered);
        if let Err(Undelivered::Again { detail, after: None, .. }) = &delivered {
            office.gate.faulted(&without_addresses(&mail.scrubber.text(detail)));
        }
        match delivered {
            Ok(Delivered { status }) => {
                let sent = Sent { status, attempts: mail.retry_headers.tried + 1 };
                office.has_sent(note, sent);
                failpoint::reach(Stage::Delivered, note.id.as_str());
                return Ok(Ending::Sent(sent));
            }
            Err(Undelivered::Refused { detail, .. }) => {
                mail.retry_headers.tried += 1;
                return Ok(Ending::Unsent(Unsent::Undeliverable, mail.scrubber.text(&detail)));
            }
            Err(Undelivered::Never { detail, status }) => {
                mail.retry_headers.tried += u32::from(status.is_some());
                return Ok(Ending::Unsent(Unsent::Undeliverable, mail.scrubber.text(&detail)));
            }
            Err(Undelivered::Stop { detail, .. }) => {
                let detail = mail.scrubber.text(&detail);
                office.gate.stop(HaltCause::MailRefused, &format!("no mail can be sent: {detail}"));
            }
            Err(Undelivered::Again { detail, after: Some(wait), .. }) => failed(note, mail, Some(wait), &detail),
            Err(Undelivered::Again { detail, after: None, .. } | Undelivered::Later { detail, .. }) => {
                mail.retry_headers.tried += 1;
                mail.retry_headers.probes += u32::from(is_probe);
                if mail.retry_headers.tried.saturating_sub(mail.retry_headers.probes) >= office.policy.max_attempts {
                    return Ok(Ending::Unsent(Unsent::RetriesExhausted, mail.scrubber.text(&detail)));
                }
                let wait = backoff(&office.policy, mail.retry_headers.tried, rand::random());
                failed(note, mail, Some(wait), &detail);
                let wait = SignedDuration::try_from(wait).unwrap_or_default();
                mail.retry_headers.until = Timestamp::now().checked_add(wait).ok();
            }
        }
    }
}

/// What a try says of the next hop.
fn report(office: &Office, permit: Permit<()>, note: &Note, delivered: &Result<Delivered, Undelivered>) {
    match delivered {
        // It took this one, or would take others; but while it refuses everybody, only a mail that it takes shows the opposite.
        Ok(_)
        | Err(Undelivered::Later { .. } | Undelivered::Refused { .. } | Undelivered::Never { status: Some(_), .. }) => {
            permit.answered(&note.user, Verdict::Worked);
            if !office.is_refused() {
                office.gate.resolved(HaltCause::MailRefused);
            }
        }
        // Of other mails this says nothing.
        Err(Undelivered::Never { status: None, .. } | Undelivered::Stop { .. }) => {
            permit.answered(&note.user, Verdict::Neutral);
        }
        Err(Undelivered::Again { after: Some(wait), .. }) => {
            permit.answered(&note.user, Verdict::Throttled);
            office.gate.throttled(*wait);
        }
        // It counts as if it were of several people: while the next hop is away, one mail that waits opens the breaker, and is not
        // given up.
        Err(Undelivered::Again { after: None, .. }) => {
            let anybody = UserId::parse(&uuid::Uuid::new_v4().to_string());
            permit.answered(&anybody.unwrap_or_else(|_| note.user.clone()), Verdict::Faulted);
        }
    }
}

/// Whether nothing is left to be sent.
fn standing(desk: &Desk, note: &Note, overtaken: bool) -> Option<Ending> {
    if let Some(sent) = desk.office.was_sent(note) {
        return Some(Ending::Sent(sent));
    }
    let superseded = |detail: &str| Some(Ending::Unsent(Unsent::Superseded, detail.into()));
    match desk.office.ledger.standing(&about(note)) {
        Standing::LedgerRecord => Some(Ending::Known),
        Standing::Superseded => superseded("a newer password was set"),
        Standing::Due if overtaken => superseded("a newer notification is here"),
        Standing::Due => None,
    }
}

/// What the ledger asks of a notification.
pub(super) fn about(note: &Note) -> About<'_> {
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

/// A short wait is spent in memory, a longer one parked at the broker.
async fn wait_its_time(desk: &Desk, hold: Instant, wait: Duration) -> Result<(), Leave> {
    if wait > desk.office.retry.inline_max {
        return Err(Leave::Again(Berth::DelayTier(desk.office.retry.delays.fitting(wait))));
    }
    desk.unless_left(hold, sleep(wait)).await
}

/// What is said of the key that opens it, where that is not here.
fn lacks_key(desk: &Desk, note: &Note) -> Option<String> {
    let Content::Sealed(sealed) = &note.content else { return None };
    match desk.office.keys.find(sealed) {
        Err(error @ CannotOpen::UnknownKey { .. }) => Some(error.to_string()),
        // What nobody can open is said when it is its turn.
        Ok(()) | Err(CannotOpen::NotSealed | CannotOpen::Foreign { .. } | CannotOpen::Damaged { .. }) => None,
    }
}

/// It waits at the broker by itself, before the gate, so that it costs the others neither time nor a permit: about as long again as it
/// has waited already, until somebody gives us the key or it is too old.
fn wait_for_its_key(desk: &Desk, note: &Note, detail: &str) -> Leave {
    let delays = &desk.office.retry.delays;
    let tier = delays.fitting(Timestamp::now().duration_since(note.issued_at).try_into().unwrap_or_default());
    let delay_ms = millis(delays.of(tier));
    tracing::warn!(mail.id = %note.id, job.id = %note.job, org = note.org, delay_ms, detail, "a mail waits for its key");
    desk.office.lacks_key(&format!(
        "a mail cannot be opened: {detail} (last seen at {}); such mails wait at the broker while others are sent; add that private key to mailer.open_with and start the mailer again",
        moment(Timestamp::now())
    ));
    Leave::Again(Berth::DelayTier(tier))
}

/// Nobody can open it, where it does not open here: its key is not missing.
fn open(desk: &Desk, note: &Note) -> Result<Words, String> {
    match &note.content {
        Content::Open(words) => Ok(words.clone()),
        Content::Sealed(sealed) => {
            let opened = desk.office.keys.open(sealed).map_err(|error| error.to_string())?;
            notification::words(&opened, note).map_err(|refusal| refusal.0)
        }
    }
}

fn status_of(delivered: &Result<Delivered, Undelivered>) -> Option<u16> {
    match delivered {
        Ok(Delivered { status, .. }) | Err(Undelivered::Later { status, .. } | Undelivered::Refused { status, .. }) => {
            Some(*status)
        }
        Err(
            Undelivered::Again { status, .. } | Undelivered::Never { status, .. } | Undelivered::Stop { status, .. },
        ) => *status,
    }
}

fn failed(note: &Note, mail: &Mail, wait: Option<Duration>, detail: &str) {
    let (delay_ms, detail) = (wait.map(millis), mail.scrubber.text(detail));
    tracing::info!(mail.id = %note.id, job.id = %note.job, org = note.org, attempt = mail.retry_headers.tried, status = mail.status, delay_ms, detail, "a try failed");
}
