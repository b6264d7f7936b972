//! Why a breaker opened.

use std::fmt;

/// Why it opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Calls of several users failed, and none between them succeeded.
    FaultsInRow {
        /// How many.
        faults: u32,
    },
    /// Half of the latest calls failed, or more.
    HalfOfCalls {
        /// How many failed.
        faults: u32,
        /// Of how many.
        calls: u32,
    },
}

impl Cause {
    /// The label in the metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::FaultsInRow { .. } => "faults_in_row",
            Self::HalfOfCalls { .. } => "half_of_calls",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FaultsInRow { faults } => write!(f, "{faults} calls in a row failed, of several users"),
            Self::HalfOfCalls { faults, calls } => {
                write!(f, "{faults} of the {calls} calls of the last 30 s failed, of several users")
            }
        }
    }
}
