//! What tells the person: the message for the email queue.

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::job::JobId;
use super::language::Language;
use super::password::Password;
use super::recipient::Recipient;
use super::user::UserId;

/// What stands for the password in `notification.body`.
const PLACEHOLDER: &str = "{password}";

/// Subject and body as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    subject: String,
    body: String,
}

/// The text that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// It must be one line without `{password}`.
    Subject(String),
    /// It must hold `{password}`.
    Body(String),
}

impl Template {
    /// Takes the texts of the configuration.
    ///
    /// # Errors
    /// Where the subject holds `{password}` or a control character, or the body does not hold `{password}`.
    pub fn new(subject: String, body: String) -> Result<Self, Unfit> {
        if subject.contains(PLACEHOLDER) || subject.contains(char::is_control) {
            return Err(Unfit::Subject(subject));
        }
        if body.contains(PLACEHOLDER) { Ok(Self { subject, body }) } else { Err(Unfit::Body(body)) }
    }

    /// The subject: it never holds the password.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The body with the password in its place.
    pub fn body(&self, password: &Password) -> Zeroizing<String> {
        Zeroizing::new(self.body.replace(PLACEHOLDER, password.expose()))
    }
}

/// That a password was set: made once for each, and kept until the job is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The notification's own id: one for each password set.
    pub notification_id: String,
    /// When the PATCH was confirmed.
    pub at: Timestamp,
}

/// Everything the message says.
#[derive(Debug)]
pub struct Notification<'a> {
    /// Its own id and when the password was set.
    pub issued: &'a Issued,
    /// The job it comes from.
    pub job: &'a JobId,
    /// When that job was asked for, where its producer said.
    pub asked_at: Option<Timestamp>,
    /// The org's name in the configuration.
    pub org: &'a str,
    /// Whose password was set.
    pub user: &'a UserId,
    /// Who is told.
    pub to: &'a Recipient,
    /// The texts.
    pub template: &'a Template,
    /// What they will log in with.
    pub password: &'a Password,
    /// The language they prefer, where the job says so.
    pub language: Option<&'a Language>,
    /// The batch that the job belongs to.
    pub batch: Option<&'a str>,
}
