//! Why nothing moves in an org, or in one of its lanes, and until when: what stands in place of an estimate.

use std::borrow::Cow;

use jiff::Timestamp;

use super::job::Lane;

/// What keeps jobs from ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No worker is registered for the org.
    NoWorker,
    /// The worker does not consume yet, or not again yet.
    Starting,
    /// Processing is halted until an operator acts.
    Halted,
    /// The circuit breaker is not closed.
    BreakerOpen,
    /// No call is made while the broker confirms nothing, or no ping comes back.
    Unconfirmed,
    /// No token is granted.
    NoToken,
    /// All calls wait, as the org asked.
    Paused,
    /// That lane is closed.
    LaneClosed(Lane),
    /// The jobs' own `not-before` is ahead.
    NotBefore,
}

impl Cause {
    /// Those that are of no lane.
    const OF_ALL_LANES: [Self; 8] = [
        Self::NoWorker,
        Self::Starting,
        Self::Halted,
        Self::BreakerOpen,
        Self::Unconfirmed,
        Self::NoToken,
        Self::Paused,
        Self::NotBefore,
    ];

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::OF_ALL_LANES.into_iter().chain(Lane::ALL.map(Self::LaneClosed))
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|cause| cause.as_str() == name)
    }

    /// The name in `/state`, `batch --json` and the records.
    pub fn as_str(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::NoWorker => "no_worker",
            Self::Starting => "starting",
            Self::Halted => "halted",
            Self::BreakerOpen => "breaker_open",
            Self::Unconfirmed => "unconfirmed",
            Self::NoToken => "no_token",
            Self::Paused => "paused",
            Self::LaneClosed(lane) => return Cow::Owned(format!("{}_closed", lane.as_str())),
            Self::NotBefore => "not_before",
        })
    }

    /// The same in a few words, for people.
    pub fn words(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::NoWorker => "no worker",
            Self::Starting => "the worker is starting",
            Self::Halted => "halted",
            Self::BreakerOpen => "breaker open",
            Self::Unconfirmed => "no call is made",
            Self::NoToken => "no token",
            Self::Paused => "paused",
            Self::LaneClosed(lane) => return Cow::Owned(format!("{} lane closed", lane.as_str())),
            Self::NotBefore => "waits for its not-before",
        })
    }

    /// What happens at the moment that is given with it.
    pub const fn then(self) -> &'static str {
        match self {
            Self::Halted | Self::BreakerOpen | Self::NoToken => "next try",
            Self::NoWorker
            | Self::Starting
            | Self::Unconfirmed
            | Self::Paused
            | Self::LaneClosed(_)
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
    /// What keeps the jobs of all lanes.
    pub blocked: Option<Blocked>,
    /// What keeps those of each lane.
    pub closed: [Option<Blocked>; Lane::COUNT],
}

impl Status {
    /// What keeps the jobs of a lane.
    pub fn blocked(&self, lane: Lane) -> Option<&Blocked> {
        self.blocked.as_ref().or(self.closed[lane.index()].as_ref())
    }

    /// What keeps a lane in which something waits, the last of them first: then nobody knows when all are done. What keeps a lane in which
    /// nothing waits keeps nothing.
    pub fn keeps_any(&self, waits: impl Fn(Lane) -> bool) -> Option<&Blocked> {
        let mut waiting = Lane::ALL.into_iter().rev().filter(|lane| waits(*lane));
        self.blocked.as_ref().or_else(|| waiting.find_map(|lane| self.blocked(lane)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_closes_a_lane_keeps_no_other_and_what_keeps_both_comes_first() {
        let blocked = |cause| Blocked { cause, reason: String::new(), until: None };
        let mut status = Status { rate: 300, blocked: None, closed: [const { None }; Lane::COUNT] };
        let causes = |status: &Status| Lane::ALL.map(|lane| status.blocked(lane).map(|blocked| blocked.cause));
        status.closed[Lane::Bulk.index()] = Some(blocked(Cause::LaneClosed(Lane::Bulk)));
        assert_eq!(causes(&status)[Lane::FIRST.index()], None);
        assert_eq!(causes(&status)[Lane::Bulk.index()], Some(Cause::LaneClosed(Lane::Bulk)));
        status.closed = Lane::ALL.map(|lane| Some(blocked(Cause::LaneClosed(lane))));
        assert_eq!(causes(&status), Lane::ALL.map(|lane| Some(Cause::LaneClosed(lane))));
        status.blocked = Some(blocked(Cause::Halted));
        assert_eq!(causes(&status), [Some(Cause::Halted); Lane::COUNT]);
        assert!(Cause::all().all(|cause| Cause::named(&cause.as_str()) == Some(cause)));
        status.blocked = None;
        for lane in Lane::ALL {
            status.closed = Lane::ALL.map(|other| (other == lane).then(|| blocked(Cause::LaneClosed(lane))));
            let keeps = |waits: &dyn Fn(Lane) -> bool| status.keeps_any(waits).map(|blocked| blocked.cause);
            assert_eq!(keeps(&|_| true), Some(Cause::LaneClosed(lane)), "whichever of those that wait it is");
            assert_eq!((keeps(&|other| other != lane), keeps(&|_| false)), (None, None));
        }
        let [first, bulk] = [Lane::Interactive, Lane::Bulk].map(|lane| Cause::LaneClosed(lane).as_str());
        assert_eq!((&*first, &*bulk), ("interactive_closed", "bulk_closed"));
    }
}
