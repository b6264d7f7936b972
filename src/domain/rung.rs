//! The ladder of parked queues: a job that waits long for itself waits at the broker, rung after rung, and holds nobody's place.

use std::time::Duration;

/// One parked queue's fixed wait. (A message's own time to live would count only at the head of its queue.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// 15 seconds.
    Short,
    /// 2 minutes.
    Middle,
    /// 10 minutes.
    Long,
}

impl Rung {
    /// All of them, the shortest first.
    pub const ALL: [Rung; 3] = [Rung::Short, Rung::Middle, Rung::Long];

    /// Its name in exchanges and queues.
    pub const fn as_str(self) -> &'static str {
        match self {
            Rung::Short => "15s",
            Rung::Middle => "2m",
            Rung::Long => "10m",
        }
    }

    /// How long it holds a job.
    pub const fn wait(self) -> Duration {
        match self {
            Rung::Short => Duration::from_secs(15),
            Rung::Middle => Duration::from_secs(120),
            Rung::Long => Duration::from_secs(600),
        }
    }

    /// The longest that is not longer than the wait; the shortest where none is.
    pub fn fitting(wait: Duration) -> Self {
        Self::ALL.into_iter().rev().find(|rung| rung.wait() <= wait).unwrap_or(Rung::Short)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_rung_that_fits_is_taken() {
        let fitting = |seconds| Rung::fitting(Duration::from_secs(seconds)).as_str();
        assert_eq!([1, 14, 15, 119].map(fitting), ["15s"; 4]);
        assert_eq!([120, 599].map(fitting), ["2m"; 2]);
        assert_eq!([600, 86_400].map(fitting), ["10m"; 2]);
    }
}
