//! What a record of the stream says, as far as the book wants to know it.

use std::borrow::Cow;

use jiff::Timestamp;

use crate::domain::outcome::{Outcome, OutcomeKind};

/// The name of a worker process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkerName(String);

impl WorkerName {
    /// Takes a name as it is.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who held an org's lease last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// Nobody did, or who did gave it back.
    Nobody,
    /// This worker did, and did not say that it is done.
    Was(WorkerName),
}

/// A record that the book takes note of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A job need not be done again.
    Done {
        /// Its org.
        org: Cow<'a, str>,
        /// Its id.
        job: Cow<'a, str>,
        /// Whose password was set and when that was asked for, where it was and somebody said.
        reset: Option<(Cow<'a, str>, Timestamp)>,
        /// When it ended.
        at: Timestamp,
    },
    /// A worker took an org's lease.
    Fence {
        /// The org.
        org: Cow<'a, str>,
        /// The worker.
        worker: Cow<'a, str>,
        /// The fence's own id, by which its writer knows that it has read all before it.
        id: Cow<'a, str>,
        /// When.
        at: Timestamp,
    },
    /// A worker gave an org's lease back, with nothing left in the air.
    Released {
        /// The org.
        org: Cow<'a, str>,
        /// The worker.
        worker: Cow<'a, str>,
        /// When.
        at: Timestamp,
    },
}

impl<'a> Entry<'a> {
    /// What the book notes of a worker's own outcome; `None`: the job may come again.
    pub fn of(outcome: &'a Outcome) -> Option<Self> {
        let user = match outcome.kind {
            OutcomeKind::Succeeded => outcome.user.as_ref(),
            OutcomeKind::PassedThrough => None,
            OutcomeKind::Failed | OutcomeKind::Superseded | OutcomeKind::Expired | OutcomeKind::Duplicate => {
                return None;
            }
        };
        Some(Self::Done {
            org: Cow::Borrowed(&outcome.org),
            job: Cow::Borrowed(outcome.job.as_str()),
            reset: user.zip(outcome.asked_at).map(|(user, asked_at)| (Cow::Borrowed(user.as_str()), asked_at)),
            at: outcome.finished_at,
        })
    }
}
