//! A job's end, as the stream of outcomes tells it.

use std::borrow::Cow;

use jiff::{Timestamp, Unit};

use super::job::Lane;
use super::outcome::{Outcome, OutcomeKind, Reason};

/// A job's end, as the stream tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended<'a> {
    /// Its org.
    pub org: Cow<'a, str>,
    /// Its id.
    pub job: Cow<'a, str>,
    /// Whose password.
    pub user: Option<Cow<'a, str>>,
    /// The batch it belongs to.
    pub batch: Option<Cow<'a, str>>,
    /// When it was asked for, in whole seconds, where somebody said.
    pub asked_at: Option<Timestamp>,
    /// The lane it came by.
    pub lane: Option<Lane>,
    /// How it ended.
    pub kind: OutcomeKind,
    /// Why, where it was dead-lettered, as its record says; see [`Ended::reason`].
    pub reason: Option<Cow<'a, str>>,
    /// What exactly was wrong.
    pub detail: Option<Cow<'a, str>>,
    /// The status of the org's last answer.
    pub status: Option<u16>,
    /// When.
    pub at: Timestamp,
}

impl<'a> Ended<'a> {
    /// What the stream will tell of a worker's own outcome.
    pub fn of(outcome: &'a Outcome) -> Self {
        Self {
            org: Cow::Borrowed(&outcome.org),
            job: Cow::Borrowed(outcome.job.as_str()),
            user: outcome.user.as_ref().map(|user| Cow::Borrowed(user.as_str())),
            batch: outcome.batch.as_deref().map(Cow::Borrowed),
            asked_at: outcome.asked_at.and_then(|at| Timestamp::from_second(at.as_second()).ok()),
            lane: Some(outcome.lane),
            kind: outcome.kind,
            reason: outcome.reason.map(|reason| Cow::Borrowed(reason.as_str())),
            detail: outcome.detail.as_deref().map(Cow::Borrowed),
            status: outcome.status,
            at: outcome.finished_at.round(Unit::Millisecond).unwrap_or(outcome.finished_at),
        }
    }

    /// Why it was dead-lettered, where the reason is known here.
    pub fn reason(&self) -> Option<Reason> {
        self.reason.as_deref().and_then(Reason::named)
    }
}
