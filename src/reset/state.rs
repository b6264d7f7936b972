//! How far one job has come in its lifecycle.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use jiff::Timestamp;
use serde_json::Value;

use crate::consumer::Leave;
use crate::domain::job::{Lane, Reset, Who};
use crate::domain::language::Language;
use crate::domain::notification::Issued;
use crate::domain::outcome::{OutcomeKind, PasswordSet, Reason};
use crate::domain::password::{NoRandomness, Password, PasswordKind};
use crate::domain::recipient::Recipient;
use crate::domain::retry::Progress;
use crate::domain::trace::TraceParent;
use crate::domain::user::{UserId, UserName};
use crate::wire::again::RetryHeaders;
use crate::wire::redact::{without_addresses, without_name};

/// How a job ended, before anybody is notified.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    pub(super) kind: OutcomeKind,
    pub(super) reason: Option<Reason>,
    pub(super) detail: Option<String>,
}

impl Ending {
    pub(super) fn of(kind: OutcomeKind) -> Self {
        Self { kind, reason: None, detail: None }
    }

    /// Whether the ledger takes note of it.
    pub(super) fn is_noted(&self) -> bool {
        matches!(self.kind, OutcomeKind::Succeeded | OutcomeKind::PassedThrough)
    }

    pub(super) fn dead(reason: Reason, detail: Option<String>) -> Self {
        let kind = if reason == Reason::Expired { OutcomeKind::Expired } else { OutcomeKind::Failed };
        Self { kind, reason: Some(reason), detail }
    }
}

/// Why a job gets no further.
#[derive(Debug)]
pub(super) enum Interrupted {
    /// It is given up: a dead letter.
    Dead { reason: Reason, detail: Option<String> },
    /// It leaves before it ended.
    Leave(Leave),
}

impl Interrupted {
    pub(super) fn dead(reason: Reason, detail: impl Into<String>) -> Self {
        Self::Dead { reason, detail: Some(detail.into()) }
    }
}

impl From<Leave> for Interrupted {
    fn from(leave: Leave) -> Self {
        Self::Leave(leave)
    }
}

/// What is known of one job so far.
#[derive(Debug, Clone, Default)]
pub(super) struct JobState {
    pub(super) password: Option<Password>,
    /// The tries and what they left.
    pub(super) progress: Progress,
    /// Its place in its producer's trace: a notification goes on in it, though it may be sent with no job in flight.
    pub(super) trace: Option<TraceParent>,
    /// The batch it belongs to, for the same reason.
    pub(super) batch: Option<String>,
    /// When it was asked for, where its producer said; for the same reason.
    pub(super) asked_at: Option<Timestamp>,
    /// The lane it came by; for the same reason.
    pub(super) lane: Option<Lane>,
    /// Whose password, once the body was read, or the org was asked.
    pub(super) user: Option<UserId>,
    /// Whether a search has just found them: the PATCH is the second half of the same try.
    pub(super) is_just_found: bool,
    /// The name that the job gives in its place.
    pub(super) name: Option<UserName>,
    /// Who is notified, once the password is set.
    pub(super) recipient: Option<Recipient>,
    /// The language they prefer.
    pub(super) language: Option<Language>,
    /// That it was set.
    pub(super) issued: Option<Issued>,
    /// From then on, until that is notified.
    unnotified: Option<Arc<Unnotified>>,
    /// When its last call ended.
    pub(super) called: Option<Instant>,
    /// Its own wait: no try before this moment.
    pub(super) until: Option<Timestamp>,
    /// The org's last answer, scrubbed, for the reply.
    pub(super) response: Option<Value>,
    /// How it ended.
    pub(super) ending: Option<Ending>,
    /// Notification or dead letter confirmed, where there is one.
    notified: bool,
    /// Outcome confirmed.
    pub(super) recorded: bool,
    /// Reply confirmed, or dropped, or nobody asked for one.
    pub(super) replied: bool,
    /// That this process had this very delivery, and did not settle it: what else is known of an equal job is not its own end.
    pub(super) left_undone: bool,
    /// That it may also have been published again, so that either may find that the other was done.
    pub(super) has_copy: bool,
    /// Of a job without an id that this process published again: when it acked the delivery before, so that there is no other of it.
    /// What else is known of an equal job is not its own end.
    pub(super) acked: Option<Instant>,
}

impl JobState {
    /// The job's password: made once, the same in all its tries.
    pub(super) fn password(&mut self, kind: PasswordKind) -> Result<Password, NoRandomness> {
        if let Some(password) = &self.password {
            return Ok(password.clone());
        }
        let password = Password::generate(kind)?;
        Ok(self.password.insert(password).clone())
    }

    /// What the body says of whose password it is, and of who is notified.
    pub(super) fn addressed(&mut self, reset: &Reset) {
        self.recipient = Some(reset.recipient.clone());
        self.language = reset.language();
        match &reset.who {
            Who::Id(user) => self.user = Some(user.clone()),
            Who::Name(name) => self.name = Some(name.clone()),
        }
    }

    /// What the org said, fit for the log, which holds no address; a name often is one.
    pub(super) fn loggable(&self, detail: &str) -> String {
        let name = self.name.as_ref().map(UserName::as_str);
        let said = name.map_or_else(|| detail.to_owned(), |name| without_name(detail, name, "[name]"));
        without_addresses(&said)
    }

    /// The password that was set, for its notification.
    pub(super) fn set(&self) -> Option<(&Password, &Issued, &Recipient)> {
        Some((self.password.as_ref()?, self.issued.as_ref()?, self.recipient.as_ref()?))
    }

    /// Its password is set; `unnotified` counts it.
    pub(super) fn is_now_set(&mut self, issued: Issued, unnotified: Unnotified) {
        self.issued = Some(issued);
        self.unnotified = Some(Arc::new(unnotified));
    }

    /// Notification or dead letter are confirmed.
    pub(super) fn is_now_notified(&mut self) {
        self.notified = true;
        self.unnotified = None;
    }

    /// Whether they are.
    pub(super) fn was_notified(&self) -> bool {
        self.notified
    }

    /// Whether its password is set and not notified yet.
    pub(super) fn is_notification_pending(&self) -> bool {
        self.has_succeeded() && !self.notified
    }

    /// Whether its password is set, and the ledger is not known to have its outcome.
    pub(super) fn is_outcome_pending(&self) -> bool {
        self.has_succeeded() && !self.recorded
    }

    /// Whether it has come to its end with a password that is set.
    fn has_succeeded(&self) -> bool {
        self.ending.as_ref().is_some_and(|ending| ending.kind == OutcomeKind::Succeeded) && self.set().is_some()
    }

    /// A fresh one, of a job that carries this along.
    pub(super) fn with(retry_headers: &RetryHeaders) -> Self {
        let password_set = if retry_headers.may_be_set { PasswordSet::Unknown } else { PasswordSet::No };
        let RetryHeaders { tried: attempts, probes, too_soon, .. } = *retry_headers;
        let progress = Progress { attempts, probes, too_soon, password_set, ..Progress::default() };
        Self { progress, until: retry_headers.until, ..Self::default() }
    }

    /// Whether its password is set, or may be: then it exists in this process alone, and the job is not left to the broker.
    pub(super) fn may_be_set(&self) -> bool {
        self.issued.is_some() || self.progress.may_be_this_one
    }

    /// Whether any password is set by the job, or may be: this one, or one that a process before has sent.
    pub(super) fn has_ever_set(&self) -> bool {
        self.may_be_set() || self.progress.password_set != PasswordSet::No
    }

    /// Gives a password up that may be set: nobody was notified of it, and the next try makes another. Whether there was one.
    pub(super) fn gives_password_up(&mut self) -> bool {
        let may_be_set = std::mem::take(&mut self.progress.may_be_this_one);
        if may_be_set {
            self.password = None;
        }
        may_be_set
    }

    /// Whether any call was made for it.
    pub(super) fn is_tried(&self) -> bool {
        self.progress != Progress::default() || self.issued.is_some()
    }

    /// Whether this process knows that this very job was not done.
    pub(super) fn is_undone(&self) -> bool {
        self.left_undone || self.acked.is_some()
    }

    pub(super) fn got_somewhere(&self) -> bool {
        self.is_tried() || self.ending.is_some()
    }
}

/// One of those that `Checkpoints::unnotified` counts, as long as it exists.
#[derive(Debug)]
pub(super) struct Unnotified(Arc<AtomicUsize>);

impl Unnotified {
    /// One more.
    pub(super) fn count(all: &Arc<AtomicUsize>) -> Self {
        all.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(all))
    }
}

impl Drop for Unnotified {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
