//! The way to the next hop, whichever is configured.

use std::time::Duration;

use super::{Delivered, Mail, Undelivered};
use crate::config::ConfigError;
use crate::config::mailer::Mailer;

/// Brings mails to the next hop. Its clones share the connections.
#[derive(Debug, Clone)]
pub struct Courier {
    longest: Duration,
}

impl Courier {
    /// For what the configuration says; `after_max` is the longest `Retry-After` that is obeyed.
    ///
    /// # Errors
    /// Where a file of certificates cannot be read.
    pub fn new(mailer: &Mailer, after_max: Duration) -> Result<Self, ConfigError> {
        let _ = after_max;
        Ok(Self { longest: mailer.settings.timeout * 3 })
    }

    /// How long one delivery takes at most.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// Brings one mail to the next hop, once.
    ///
    /// # Errors
    /// See [`Undelivered`].
    #[expect(clippy::unused_async, reason = "the ways to the next hop come next")]
    pub async fn deliver(&self, mail: &Mail) -> Result<Delivered, Undelivered> {
        Err(Undelivered::Stop { detail: format!("{} has no way yet", mail.id), status: None })
    }
}
