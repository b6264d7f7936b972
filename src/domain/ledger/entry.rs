//! What a record of the stream says, as far as the index wants to know it.

use std::borrow::Cow;
use std::time::Duration;

use jiff::Timestamp;

use crate::domain::batch::key;
use crate::domain::ended::Ended;
use crate::domain::outcome::OutcomeKind;

/// The name of a worker process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkerName(String);

impl WorkerName {
    /// Takes a name as it is.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// A name that no other process has: of the machine, the process, and a word made up for this run.
    pub fn of(host: &str, process: u32, word: &str) -> Self {
        let plain = |c: &char| c.is_ascii_alphanumeric() || "._-".contains(*c);
        let host: String = host.chars().filter(plain).take(64).collect();
        Self(format!("{host}/{process}/{word}"))
    }

    /// As people call it: the machine and the process, or the beginning of a name of another kind.
    pub fn shown(&self) -> String {
        match self.0.split('/').collect::<Vec<_>>()[..] {
            [host, process, _] if !host.is_empty() => format!("{host}, process {process}"),
            [_, process, _] => format!("process {process}"),
            _ => self.0.chars().take(8).collect(),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who led an org last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// Nobody did, or who did gave it up with everything done.
    Nobody,
    /// This worker did, and did not say that it is done.
    Was(WorkerName),
}

/// A record of a leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence<'a> {
    /// The worker.
    pub worker: Cow<'a, str>,
    /// The fence's own id, by which its writer knows that it has read all before it.
    pub id: Cow<'a, str>,
    /// Where it only says again who leads, or marks a place: the id of the first fence of that term. Such a one changes nothing that is known.
    pub term: Option<Cow<'a, str>>,
    /// The longest that a call of this worker takes, where it says.
    pub longest_call: Option<Duration>,
    /// When.
    pub at: Timestamp,
}

/// A record that the index takes note of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A job need not be done again.
    Done {
        /// Its org.
        org: Cow<'a, str>,
        /// Its id, as a batch knows it.
        job: Cow<'a, str>,
        /// Whose password was set and when that was asked for, where it was and somebody said.
        reset: Option<(Cow<'a, str>, Timestamp)>,
        /// When it ended.
        at: Timestamp,
    },
    /// A worker leads an org, or is about to.
    Fence {
        /// The org.
        org: Cow<'a, str>,
        /// What it says.
        fence: Fence<'a>,
    },
    /// A worker gave its leading of an org up, with nothing left in flight.
    Released {
        /// The org.
        org: Cow<'a, str>,
        /// The worker.
        worker: Cow<'a, str>,
        /// The id of the fence with which its term began; one of release 0.1 does not say.
        term: Option<Cow<'a, str>>,
        /// When.
        at: Timestamp,
    },
}

impl<'a> Entry<'a> {
    /// What the index notes of a job's end; `None`: the job may come again.
    pub fn of(ended: &Ended<'a>) -> Option<Self> {
        let user = match ended.kind {
            OutcomeKind::Succeeded => ended.user.clone(),
            OutcomeKind::PassedThrough => None,
            OutcomeKind::Failed | OutcomeKind::Superseded | OutcomeKind::Expired | OutcomeKind::Duplicate => {
                return None;
            }
        };
        Some(Self::Done {
            org: ended.org.clone(),
            job: match key(ended.batch.as_deref(), &ended.job) {
                Cow::Owned(job) => Cow::Owned(job),
                Cow::Borrowed(_) => ended.job.clone(),
            },
            reset: user.zip(ended.asked_at),
            at: ended.at,
        })
    }
}
