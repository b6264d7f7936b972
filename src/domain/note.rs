//! A notification as it is read back from the email queue, by who tells the person.

use std::fmt;

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::job::JobId;
use super::language::Language;
use super::password::Password;
use super::recipient::Recipient;
use super::refusal::Refusal;
use super::user::UserId;

/// The notification's own id: one for each password set. It names the mail too, in a `Message-ID`, so it has no character that would
/// need quoting there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NoteId(String);

impl NoteId {
    /// The longest id, in characters.
    const MAX: usize = 128;

    /// Checks an id.
    ///
    /// # Errors
    /// Where it is empty, too long, or holds another character than `A-Z a-z 0-9 _ -`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        if (1..=Self::MAX).contains(&text.len()) && text.bytes().all(fits) {
            return Ok(Self(text.to_owned()));
        }
        Err(Refusal(format!(
            "notificationId: it is a text of {} characters; it must be 1 to {} of A-Z a-z 0-9 _ -",
            text.chars().count(),
            Self::MAX
        )))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NoteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything a notification says.
#[derive(Debug)]
pub struct Note {
    /// Its own id.
    pub id: NoteId,
    /// The job it comes from.
    pub job: JobId,
    /// The org's name in the worker's configuration.
    pub org: String,
    /// Whose password was set.
    pub user: UserId,
    /// Who is told.
    pub to: Recipient,
    /// One line, without the password.
    pub subject: String,
    /// When the password was set.
    pub issued_at: Timestamp,
    /// The language the person prefers, where the job said so.
    pub language: Option<Language>,
    /// The batch that the job belongs to.
    pub batch: Option<String>,
    /// What nobody else may read.
    pub content: Content,
}

/// The part of a notification that holds the password.
#[derive(Debug)]
pub enum Content {
    /// For everybody to read who reads the queue.
    Open(Words),
    /// For who has the key: a compact JWE of [`Words`].
    Sealed(String),
}

/// What the person is told. Its `Debug` hides it.
#[derive(Clone)]
pub struct Words {
    /// What they log in with.
    pub password: Password,
    /// The text with the password in it.
    pub body: Zeroizing<String>,
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Words(…)")
    }
}
