//! The circuit breaker of one org: closed, open, half-open. Pure: time and chance are arguments.
//!
//! A call belongs to the era it was permitted in; opening and closing begin a new one. So an answer that comes late neither
//! opens, prolongs nor closes anything.

use std::time::Duration;

use tokio::time::Instant;

pub use self::cause::Cause;
use self::counts::Counts;
use crate::domain::failure::Failure;
use crate::domain::retry::sooner_for_another;
use crate::domain::user::UserId;

/// How long it is open at first.
const FIRST: Duration = Duration::from_secs(5);
/// How long it is open at most.
const LONGEST: Duration = Duration::from_secs(300);

/// What an answer says of the org.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It answered, whatever the answer was.
    Worked,
    /// It failed, or gave no answer.
    Faulted,
    /// 429: its quota was spent.
    Throttled,
    /// 401, or an answer that is not the org's: this says nothing of it.
    Neutral,
}

impl Verdict {
    /// What a try's end says; `None` is a success.
    pub fn of(failure: Option<&Failure>) -> Self {
        match failure {
            Some(Failure::Fault { .. } | Failure::Unavailable { .. }) => Self::Faulted,
            Some(Failure::Throttled { .. }) => Self::Throttled,
            Some(Failure::TokenRefused | Failure::Foreign { .. }) => Self::Neutral,
            None
            | Some(
                Failure::Forbidden { .. }
                | Failure::NotFound
                | Failure::Conflict
                | Failure::TooSoon { .. }
                | Failure::NotInTime
                | Failure::UsedBefore
                | Failure::Rejected,
            ) => Self::Worked,
        }
    }

    /// What the end of a search says: one that is answered says nothing of a PATCH.
    pub fn of_search(failure: Option<&Failure>) -> Self {
        match Self::of(failure) {
            Self::Worked => Self::Neutral,
            other @ (Self::Faulted | Self::Throttled | Self::Neutral) => other,
        }
    }

    /// What it says where the user's failures are known to be their own: nothing.
    pub fn unless_suspect(self, is_suspect: bool) -> Self {
        match self {
            Self::Faulted if is_suspect => Self::Neutral,
            other @ (Self::Worked | Self::Faulted | Self::Throttled | Self::Neutral) => other,
        }
    }
}

/// What a permit is to the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    era: u64,
    /// Whether its answer decides if the breaker closes.
    pub probe: bool,
}

/// What an answer changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was closed and opened.
    Opened(Cause),
    /// A probe failed.
    OpenedAgain,
    /// A probe passed.
    Closed,
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// Calls are made.
    Closed,
    /// No call is made.
    Open(Opening),
    /// One call is made at a time.
    HalfOpen {
        /// Why it had opened, and when it became half-open.
        opening: Opening,
        /// Whether that call's answer is outstanding.
        probe_out: bool,
    },
}

impl Stand {
    /// Whether no probe has failed since it opened.
    pub fn is_at_first(&self) -> bool {
        match self {
            Self::Open(opening) | Self::HalfOpen { opening, .. } => opening.failed_probes == 0,
            Self::Closed => true,
        }
    }
}

/// What it keeps from opening to closing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Why it opened.
    pub cause: Cause,
    /// From when on a probe is let through.
    pub probe_at: Instant,
    /// When it opened, or opened again.
    opened_at: Instant,
    failed_probes: u32,
}

impl Opening {
    /// From when on a probe is let through where calls failed of `many` users, or of a few; and where `another` one waits, whose calls
    /// have not failed.
    pub fn probe_from(&self, many: bool, another: bool) -> Instant {
        let usual = self.probe_at.saturating_duration_since(self.opened_at);
        self.opened_at + sooner_for_another(usual, FIRST, many, another)
    }
}

/// One org's breaker.
#[derive(Debug)]
pub struct Breaker {
    stand: Stand,
    era: u64,
    counts: Counts,
}

impl Breaker {
    /// A closed one.
    pub fn new(now: Instant) -> Self {
        Self { stand: Stand::Closed, era: 0, counts: Counts::new(now) }
    }

    /// A closed one in its place; the answers of calls from before change nothing.
    pub fn anew(&self, now: Instant) -> Self {
        Self { stand: Stand::Closed, era: self.era + 1, counts: Counts::new(now) }
    }

    /// Where it stands.
    pub fn stand(&self) -> Stand {
        self.stand
    }

    /// Makes an open one half-open where its time is over, and says whether it did. `many` and `another`: as [`Opening::probe_from`].
    pub fn ripen(&mut self, now: Instant, many: bool, another: bool) -> bool {
        match self.stand {
            Stand::Open(opening) if opening.probe_from(many, another) <= now => {
                self.stand = Stand::HalfOpen { opening, probe_out: false };
                true
            }
            Stand::Open(_) | Stand::Closed | Stand::HalfOpen { .. } => false,
        }
    }

    /// A permit is given: while it is half-open, the probe's.
    pub fn permit(&mut self) -> Pass {
        let probe = match &mut self.stand {
            Stand::HalfOpen { probe_out, .. } => {
                *probe_out = true;
                true
            }
            Stand::Closed | Stand::Open(_) => false,
        };
        Pass { era: self.era, probe }
    }

    /// The call of that permit will bring no answer: a probe's place is free again.
    pub fn vanished(&mut self, pass: Pass) {
        match &mut self.stand {
            Stand::HalfOpen { probe_out, .. } if pass.probe && pass.era == self.era => *probe_out = false,
            Stand::HalfOpen { .. } | Stand::Closed | Stand::Open(_) => {}
        }
    }

    /// The call of that permit ended. `chance`: uniform in 0..1.
    pub fn answered(
        &mut self,
        pass: Pass,
        user: &UserId,
        verdict: Verdict,
        now: Instant,
        chance: f64,
    ) -> Option<Change> {
        if pass.era != self.era {
            return None;
        }
        match (self.stand, verdict) {
            (_, Verdict::Throttled | Verdict::Neutral) => {
                self.vanished(pass);
                None
            }
            (Stand::Closed, Verdict::Worked) => {
                self.counts.worked(now);
                None
            }
            (Stand::Closed, Verdict::Faulted) => {
                let cause = self.counts.faulted(user, now)?;
                self.open(cause, 0, now, chance);
                Some(Change::Opened(cause))
            }
            (Stand::HalfOpen { .. }, Verdict::Worked) => {
                *self = self.anew(now);
                Some(Change::Closed)
            }
            (Stand::HalfOpen { opening, .. }, Verdict::Faulted) => {
                self.open(opening.cause, opening.failed_probes + 1, now, chance);
                Some(Change::OpenedAgain)
            }
            // No permit is given while it is open.
            (Stand::Open(_), Verdict::Worked | Verdict::Faulted) => None,
        }
    }

    fn open(&mut self, cause: Cause, failed_probes: u32, now: Instant, chance: f64) {
        self.era += 1;
        let probe_at = now + open_for(failed_probes, chance);
        self.stand = Stand::Open(Opening { cause, probe_at, opened_at: now, failed_probes });
    }
}

/// 5 s, doubled with each failed probe and spread by a fifth either way, at most 5 min.
fn open_for(failed_probes: u32, chance: f64) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failed_probes.min(10)).min(LONGEST);
    doubled.mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0)).min(LONGEST)
}

mod cause;
mod counts;

#[cfg(test)]
mod tests;
