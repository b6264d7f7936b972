//! The ladder of parked queues: a job that waits long for itself waits at the broker, tier after tier, and holds nobody's place.

use std::time::Duration;

/// One parked queue's fixed wait. (A message's own time to live would count only at the head of its queue.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DelayTier {
    /// 15 seconds.
    Short,
    /// 2 minutes.
    Middle,
    /// 10 minutes.
    Long,
}

impl DelayTier {
    /// All of them, the shortest first.
    pub const ALL: [DelayTier; 3] = [DelayTier::Short, DelayTier::Middle, DelayTier::Long];

    /// Its name in exchanges and queues.
    pub const fn as_str(self) -> &'static str {
        match self {
            DelayTier::Short => "15s",
            DelayTier::Middle => "2m",
            DelayTier::Long => "10m",
        }
    }
}

/// How long each parked queue holds a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delays([Duration; DelayTier::ALL.len()]);

impl Default for Delays {
    /// What the queues' names say.
    fn default() -> Self {
        Self([15, 120, 600].map(Duration::from_secs))
    }
}

impl Delays {
    /// Others than the names say, the shortest first.
    pub fn new(delays: [Duration; DelayTier::ALL.len()]) -> Self {
        Self(delays)
    }

    /// How long this one holds a job.
    pub fn of(&self, tier: DelayTier) -> Duration {
        self.0[tier as usize]
    }

    /// The longest that is not longer than the wait; the shortest where none is.
    pub fn fitting(&self, wait: Duration) -> DelayTier {
        DelayTier::ALL.into_iter().rev().find(|tier| self.of(*tier) <= wait).unwrap_or(DelayTier::Short)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_tier_that_fits_is_taken() {
        let fitting = |seconds| Delays::default().fitting(Duration::from_secs(seconds)).as_str();
        assert_eq!([1, 14, 15, 119].map(fitting), ["15s"; 4]);
        assert_eq!([120, 599].map(fitting), ["2m"; 2]);
        assert_eq!([600, 86_400].map(fitting), ["10m"; 2]);
    }
}
