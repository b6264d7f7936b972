//! Why nothing moves in an org, or in its bulk lane, and until when: what stands in place of an estimate.

use jiff::Timestamp;

use super::job::Lane;

/// What keeps jobs from ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No worker holds the org's lease.
    NoWorker,
    /// The worker does not consume yet, or not again yet.
    Starting,
    /// Processing is halted until an operator acts.
    Halted,
    /// The circuit breaker is not closed.
    BreakerOpen,
    /// No call is made while the broker confirms nothing, or the lease is not renewed.
    Unconfirmed,
    /// No token is granted.
    NoToken,
    /// All calls wait, as the org asked.
    Paused,
    /// The interactive lane is closed.
    InteractiveClosed,
    /// The bulk lane is closed.
    BulkClosed,
    /// The jobs' own `not-before` is ahead.
    NotBefore,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::NoWorker,
        Self::Starting,
        Self::Halted,
        Self::BreakerOpen,
        Self::Unconfirmed,
        Self::NoToken,
        Self::Paused,
        Self::InteractiveClosed,
        Self::BulkClosed,
        Self::NotBefore,
    ];

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == name)
    }

    /// The name in `/state`, `batch --json` and the records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoWorker => "no_worker",
            Self::Starting => "starting",
            Self::Halted => "halted",
            Self::BreakerOpen => "breaker_open",
            Self::Unconfirmed => "unconfirmed",
            Self::NoToken => "no_token",
            Self::Paused => "paused",
            Self::InteractiveClosed => "interactive_closed",
            Self::BulkClosed => "bulk_closed",
            Self::NotBefore => "not_before",
        }
    }

    /// The same in a few words, for people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::NoWorker => "no worker",
            Self::Starting => "the worker is starting",
            Self::Halted => "halted",
            Self::BreakerOpen => "breaker open",
            Self::Unconfirmed => "no call is made",
            Self::NoToken => "no token",
            Self::Paused => "paused",
            Self::InteractiveClosed => "interactive lane closed",
            Self::BulkClosed => "bulk lane closed",
            Self::NotBefore => "waits for its not-before",
        }
    }

    /// What happens at the moment that is given with it.
    pub const fn then(self) -> &'static str {
        match self {
            Self::Halted | Self::BreakerOpen | Self::NoToken => "next try",
            Self::NoWorker
            | Self::Starting
            | Self::Unconfirmed
            | Self::Paused
            | Self::InteractiveClosed
            | Self::BulkClosed
            | Self::NotBefore => "until",
        }
    }
}

/// What keeps jobs from ending, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// What it is.
    pub cause: Cause,
    /// Why, in words.
    pub reason: String,
    /// Until when at least, or when the next try is; `None` where nobody knows.
    pub until: Option<Timestamp>,
}

/// What the worker of an org says of itself beside the outcomes of its jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The rate in force, in calls a minute.
    pub rate: u32,
    /// What keeps the jobs of both lanes.
    pub blocked: Option<Blocked>,
    /// What keeps those of the interactive lane.
    pub interactive: Option<Blocked>,
    /// What keeps those of the bulk lane.
    pub bulk: Option<Blocked>,
}

impl Status {
    /// What keeps the jobs of a lane.
    pub fn blocked(&self, lane: Lane) -> Option<&Blocked> {
        let own = match lane {
            Lane::Interactive => self.interactive.as_ref(),
            Lane::Bulk => self.bulk.as_ref(),
        };
        self.blocked.as_ref().or(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_closes_a_lane_keeps_no_other_and_what_keeps_both_comes_first() {
        let blocked = |cause| Blocked { cause, reason: String::new(), until: None };
        let mut status = Status { rate: 300, blocked: None, interactive: None, bulk: Some(blocked(Cause::BulkClosed)) };
        let causes = |status: &Status| Lane::ALL.map(|lane| status.blocked(lane).map(|blocked| blocked.cause));
        assert_eq!(causes(&status), [None, Some(Cause::BulkClosed)]);
        status.interactive = Some(blocked(Cause::InteractiveClosed));
        assert_eq!(causes(&status), [Some(Cause::InteractiveClosed), Some(Cause::BulkClosed)]);
        status.blocked = Some(blocked(Cause::Halted));
        assert_eq!(causes(&status), [Some(Cause::Halted); 2]);
        assert_eq!(Cause::ALL.map(|cause| Cause::named(cause.as_str())), Cause::ALL.map(Some));
    }
}
