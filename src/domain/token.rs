//! Why there is no token to call with, named by what is done next.

use std::time::Duration;

/// A token that could not be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenError {
    /// The client is refused, or its token lacks a scope: processing halts until somebody fixes it. In the provider's words.
    Refused(String),
    /// The endpoint failed: it is asked again, after the wait that it named or a backoff.
    Failed {
        /// What happened.
        why: String,
        /// How long it asked us to wait.
        wait: Option<Duration>,
    },
}
