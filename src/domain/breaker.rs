//! How a circuit breaker that is not closed looks from outside.

use jiff::Timestamp;

/// How a breaker that is not closed stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// No call is made.
    Open,
    /// One call is made at a time.
    HalfOpen,
}

impl BreakerState {
    /// The name in `/readyz`.
    pub const fn as_str(self) -> &'static str {
        match self {
            BreakerState::Open => "open",
            BreakerState::HalfOpen => "half_open",
        }
    }
}

/// A breaker that is not closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerView {
    /// How it stands.
    pub state: BreakerState,
    /// Why it opened, as the metrics call it.
    pub kind: &'static str,
    /// The same in words.
    pub cause: String,
    /// From when on a probe is let through.
    pub next_probe: Timestamp,
}
