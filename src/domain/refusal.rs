//! A rule that a piece of a job, or of a notification, breaks.

/// Why a piece of a job was refused: what the rule is and the shape of what came, never its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);
