//! One try to deliver a mail, with its permit at hand, and what follows from the next hop's answer.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, timeout};

use super::context::{MailerContext, Sent};
use super::state::{Ending, MailState};
use crate::domain::mailing::Unsent;
use crate::domain::note::{Content, Note, Words};
use crate::domain::retry::{HaltCause, backoff};
use crate::domain::user::UserId;
use crate::failpoint::{self, Stage};
use crate::telemetry::logs::millis;
use crate::telemetry::metrics;
use crate::throttle::gate::{Permit, Verdict};
use crate::transport::{Delivered, Mail, Slot, Undelivered};
use crate::wire::notification;
use crate::wire::redact::without_addresses;

/// Beyond the longest that a delivery takes: the courier ends it by itself.
const TO_SPARE: Duration = Duration::from_secs(2);

/// Opens, writes and delivers it. `None`: it is tried again.
pub(super) async fn attempt(
    context: &MailerContext,
    mail: &mut MailState,
    note: &Note,
    slot: Slot<'_>,
    permit: Permit<()>,
) -> Option<Ending> {
    let words = match open(context, note) {
        Ok(words) => words,
        Err(detail) => {
            permit.answered(&note.user, Verdict::Neutral);
            return Some(Ending::Unsent(Unsent::CannotOpen, detail));
        }
    };
    context.has_opened();
    mail.scrubber.add(words.password.expose());
    let written = match context.templates.mail(note, &words) {
        Ok(written) => written,
        Err(unwritten) => {
            permit.answered(&note.user, Verdict::Neutral);
            let why = format!("no mail can be written: {unwritten}; fix mailer.templates and start the mailer again");
            context.gate.stop(HaltCause::MailRefused, &why);
            return None;
        }
    };
    let delivered = context.in_its_row(note, deliver(context, slot, &written).await);
    mail.status = status_of(&delivered).or(mail.status);
    let is_probe = permit.is_probe();
    report(context, permit, note, &delivered);
    if let Err(Undelivered::Again { detail, after: None, .. }) = &delivered {
        context.gate.faulted(&without_addresses(&mail.scrubber.text(detail)));
    }
    follow(context, mail, note, delivered, is_probe)
}

/// Nobody can open it, where it does not open here: its key is not missing.
fn open(context: &MailerContext, note: &Note) -> Result<Words, String> {
    match &note.content {
        Content::Open(words) => Ok(words.clone()),
        Content::Sealed(sealed) => {
            let opened = context.keys.open(sealed).map_err(|error| error.to_string())?;
            notification::words(&opened, note).map_err(|refusal| refusal.0)
        }
    }
}

async fn deliver(context: &MailerContext, slot: Slot<'_>, written: &Mail) -> Result<Delivered, Undelivered> {
    let began = Instant::now();
    let delivered = timeout(context.longest + TO_SPARE, slot.deliver(written)).await.unwrap_or_else(|_late| {
        let detail = format!("no answer within {} s", context.longest.as_secs());
        Err(Undelivered::Again { detail, status: None, after: None })
    });
    metrics::mail_tried(status_of(&delivered), began.elapsed());
    delivered
}

/// What a try says of the next hop.
fn report(context: &MailerContext, permit: Permit<()>, note: &Note, delivered: &Result<Delivered, Undelivered>) {
    match delivered {
        // It took this one, or would take others; but while it refuses everybody, only a mail that it takes shows the opposite.
        Ok(_)
        | Err(Undelivered::Later { .. } | Undelivered::Refused { .. } | Undelivered::Never { status: Some(_), .. }) => {
            permit.answered(&note.user, Verdict::Worked);
            if !context.is_refused() {
                context.gate.resolved(HaltCause::MailRefused);
            }
        }
        // Of other mails this says nothing.
        Err(Undelivered::Never { status: None, .. } | Undelivered::Stop { .. }) => {
            permit.answered(&note.user, Verdict::Neutral);
        }
        Err(Undelivered::Again { after: Some(wait), .. }) => {
            permit.answered(&note.user, Verdict::Throttled);
            context.gate.throttled(*wait);
        }
        // It counts as if it were of several recipients: while the next hop is away, one mail that waits opens the breaker, and is not
        // given up.
        Err(Undelivered::Again { after: None, .. }) => {
            let anybody = UserId::parse(&uuid::Uuid::new_v4().to_string());
            permit.answered(&anybody.unwrap_or_else(|_| note.user.clone()), Verdict::Faulted);
        }
    }
}

/// What it does to this mail. `None`: it is tried again.
fn follow(
    context: &MailerContext,
    mail: &mut MailState,
    note: &Note,
    delivered: Result<Delivered, Undelivered>,
    is_probe: bool,
) -> Option<Ending> {
    match delivered {
        Ok(Delivered { status }) => {
            let sent = Sent { status, attempts: mail.retry_headers.tried + 1 };
            context.has_sent(note, sent);
            failpoint::reach(Stage::Delivered, note.id.as_str());
            return Some(Ending::Sent(sent));
        }
        Err(Undelivered::Refused { detail, .. }) => {
            mail.retry_headers.tried += 1;
            return Some(Ending::Unsent(Unsent::Undeliverable, mail.scrubber.text(&detail)));
        }
        Err(Undelivered::Never { detail, status }) => {
            mail.retry_headers.tried += u32::from(status.is_some());
            return Some(Ending::Unsent(Unsent::Undeliverable, mail.scrubber.text(&detail)));
        }
        Err(Undelivered::Stop { detail, .. }) => {
            let detail = mail.scrubber.text(&detail);
            context.gate.stop(HaltCause::MailRefused, &format!("no mail can be sent: {detail}"));
        }
        Err(Undelivered::Again { detail, after: Some(wait), .. }) => failed(note, mail, wait, &detail),
        Err(Undelivered::Again { detail, after: None, .. } | Undelivered::Later { detail, .. }) => {
            mail.retry_headers.tried += 1;
            mail.retry_headers.probes += u32::from(is_probe);
            if mail.retry_headers.tried.saturating_sub(mail.retry_headers.probes) >= context.policy.max_attempts {
                return Some(Ending::Unsent(Unsent::RetriesExhausted, mail.scrubber.text(&detail)));
            }
            let wait = backoff(&context.policy, mail.retry_headers.tried, rand::random());
            failed(note, mail, wait, &detail);
            let wait = SignedDuration::try_from(wait).unwrap_or_default();
            mail.retry_headers.until = Timestamp::now().checked_add(wait).ok();
        }
    }
    None
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

fn failed(note: &Note, mail: &MailState, wait: Duration, detail: &str) {
    let (delay_ms, detail) = (millis(wait), mail.scrubber.text(detail));
    tracing::info!(mail.id = %note.id, job.id = %note.job, org = note.org, attempt = mail.retry_headers.tried, status = mail.status, delay_ms, detail, "a try failed");
}
