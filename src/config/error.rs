//! What is wrong with a configuration.

/// A configuration that cannot be used: which key, what it has, what it wants. The process ends with 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("configuration: {0}")]
pub struct ConfigError(String);

impl ConfigError {
    /// A key whose value does not do.
    pub fn wrong(key: &str, got: impl std::fmt::Display, wants: &str) -> Self {
        Self(format!("{key} is {got}; it must be {wants}"))
    }

    /// A key that must be given.
    pub fn missing(key: &str, wants: &str) -> Self {
        Self(format!("{key} is not set; it must be {wants}"))
    }

    /// Any other sentence.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}
