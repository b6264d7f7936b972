//! What becomes of mails: how each ended, and which of several notifications of one person is the one to send.

use std::borrow::Cow;

use jiff::Timestamp;

use super::job::JobId;
use super::user::UserId;

mod index;

pub use index::{About, MailIndex, Standing};

/// Why a mail was not sent for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unsent {
    /// A newer password was set since: this one does not log in any more.
    Superseded,
    /// It was older than `notification.ttl`.
    Expired,
    /// The next hop refuses it, whenever it comes.
    Undeliverable,
    /// Every try failed.
    RetriesExhausted,
    /// The message is no notification.
    InvalidNotification,
    /// It was sealed, and is damaged, or was sealed for another notification.
    CannotOpen,
    /// It is not sealed, and `mailer.require_sealed` wants it to be.
    NotSealed,
    /// Its address is at a domain that `notification.allowed_domains` does not list.
    AddressNotAllowed,
}

impl Unsent {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Superseded,
        Self::Expired,
        Self::Undeliverable,
        Self::RetriesExhausted,
        Self::InvalidNotification,
        Self::CannotOpen,
        Self::NotSealed,
        Self::AddressNotAllowed,
    ];

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// The name in `resetd-reason`, records and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Superseded => "superseded",
            Self::Expired => "expired",
            Self::Undeliverable => "undeliverable",
            Self::RetriesExhausted => "retries_exhausted",
            Self::InvalidNotification => "invalid_notification",
            Self::CannotOpen => "cannot_open",
            Self::NotSealed => "not_sealed",
            Self::AddressNotAllowed => "address_not_allowed",
        }
    }

    /// The same for people.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Superseded => "A newer password was set: its mail is the one that counts",
            Self::Expired => "It waited for longer than notification.ttl",
            Self::Undeliverable => "The mail service refuses it",
            Self::RetriesExhausted => "Every try failed",
            Self::InvalidNotification => "The message is no notification",
            Self::CannotOpen => "It was sealed, and is damaged or meant for somebody else",
            Self::NotSealed => "It is not sealed, and mailer.require_sealed wants it to be",
            Self::AddressNotAllowed => "The address is at a domain that notification.allowed_domains does not list",
        }
    }

    /// Whether a dead mail is kept of it: somebody is left without a password that logs in.
    pub const fn is_dead_lettered(self) -> bool {
        match self {
            Self::Superseded => false,
            Self::Expired
            | Self::Undeliverable
            | Self::RetriesExhausted
            | Self::InvalidNotification
            | Self::CannotOpen
            | Self::NotSealed
            | Self::AddressNotAllowed => true,
        }
    }
}

/// How a mail ended. It never holds the address, nor the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailEnd {
    /// The notification's id.
    pub note: String,
    /// The job it comes from.
    pub job: JobId,
    /// The org's name in the worker's configuration.
    pub org: String,
    /// Whose password was set.
    pub user: UserId,
    /// The batch that the job belongs to.
    pub batch: Option<String>,
    /// When the password was set.
    pub issued_at: Timestamp,
    /// Why it was not sent; `None`: the next hop took it.
    pub unsent: Option<Unsent>,
    /// The code of the next hop's last answer.
    pub status: Option<u16>,
    /// Tries that counted.
    pub attempts: u32,
    /// When it ended.
    pub at: Timestamp,
}

/// The same as the stream tells it; other programs may say less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailed<'a> {
    /// The org.
    pub org: Cow<'a, str>,
    /// The job's id.
    pub job: Cow<'a, str>,
    /// The batch, where it is said, or the job's id names it.
    pub batch: Option<Cow<'a, str>>,
    /// The notification's id.
    pub note: Option<Cow<'a, str>>,
    /// Whether the next hop took it.
    pub notified: bool,
    /// Why it was not sent.
    pub unsent: Option<Unsent>,
    /// When the password was set.
    pub issued_at: Option<Timestamp>,
    /// When it ended.
    pub at: Option<Timestamp>,
}

impl<'a> Mailed<'a> {
    /// What the stream will tell of a mail's end.
    pub fn of(end: &'a MailEnd) -> Self {
        Self {
            org: Cow::Borrowed(&end.org),
            job: Cow::Borrowed(end.job.as_str()),
            batch: end.batch.as_deref().map(Cow::Borrowed),
            note: Some(Cow::Borrowed(&end.note)),
            notified: end.unsent.is_none(),
            unsent: end.unsent,
            issued_at: Some(end.issued_at),
            at: Some(end.at),
        }
    }
}
