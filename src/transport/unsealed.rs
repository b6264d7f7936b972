//! What follows from the system's random source failing.

use aws_lc_rs::error::Unspecified;

/// It could not be sealed: the system's random source failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a notification could not be sealed: the system's random source failed")]
pub struct Unsealed;

impl From<Unspecified> for Unsealed {
    fn from(_: Unspecified) -> Self {
        Self
    }
}
