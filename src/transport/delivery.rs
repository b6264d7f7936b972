//! One delivery: the mail, the trait of what brings it to the next hop, and what comes of it.

use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::OwnedSemaphorePermit;
use zeroize::Zeroizing;

use crate::domain::note::NoteId;
use crate::domain::password::Password;
use crate::domain::recipient::Recipient;

/// One mail, ready to be sent. Its `Debug` hides what it says and to whom.
pub struct Mail {
    /// The notification's id: by it a second delivery can be recognised.
    pub id: NoteId,
    /// Who is told.
    pub to: Recipient,
    /// What they log in with: it is taken out of all that is told of a failure.
    pub password: Password,
    /// One line, without the password.
    pub subject: String,
    /// The text, with the password.
    pub text: Zeroizing<String>,
    /// The same as HTML, where there is a template for it.
    pub html: Option<Zeroizing<String>>,
}

impl fmt::Debug for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mail").field("id", &self.id).finish_non_exhaustive()
    }
}

/// One way to the next hop.
pub(super) trait Transport: fmt::Debug + Send + Sync {
    /// How long one delivery takes at most.
    fn longest(&self) -> Duration;

    /// The secrets that must not be told of a failure.
    fn secrets(&self) -> Vec<&str>;

    /// Waits until there is room for one more delivery, which it has until the permit is dropped; `None`: there always is.
    fn room(&self) -> BoxFuture<'_, Option<OwnedSemaphorePermit>> {
        Box::pin(std::future::ready(None))
    }

    /// Brings one mail to the next hop, once.
    fn deliver<'a>(&'a self, mail: &'a Mail) -> BoxFuture<'a, Result<Delivered, Undelivered>>;

    /// Ends the connections that nobody uses.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// The next hop answers for the mail from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// The code of its answer: 250, or a 2xx of HTTP.
    pub status: u16,
}

/// Why a mail was not delivered, named by what is done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undelivered {
    /// It is tried again: a passing trouble of the next hop's own, or of the way there, whoever the mail is for.
    Again {
        /// What happened.
        detail: String,
        /// The code of the answer; `None` where there was none.
        status: Option<u16>,
        /// How long the next hop asked us to wait.
        after: Option<Duration>,
    },
    /// It is tried again, and nobody else waits for that: the next hop works, and does not take this mail yet. It knows the sender too
    /// little, or a mailbox is full.
    Later {
        /// What happened.
        detail: String,
        /// The code of the answer.
        status: u16,
    },
    /// This mail is refused, and nothing says that it is for its recipient: it is given up, unless so many different recipients in a row
    /// are refused that it is the mailer who is.
    Refused {
        /// What happened.
        detail: String,
        /// The code of the answer.
        status: u16,
    },
    /// This mail is not taken, whenever it comes: it is given up.
    Never {
        /// What happened.
        detail: String,
        /// The code of the answer; `None` where it was not even sent.
        status: Option<u16>,
    },
    /// No mail is taken until an operator has resolved something: the login, the encryption, the certificate.
    Stop {
        /// What happened.
        detail: String,
        /// The code of the answer; `None` where there was none.
        status: Option<u16>,
    },
}

impl Undelivered {
    /// The same, with its detail as `tell` makes it.
    pub(super) fn told(self, tell: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Again { detail, status, after } => Self::Again { detail: tell(detail), status, after },
            Self::Later { detail, status } => Self::Later { detail: tell(detail), status },
            Self::Refused { detail, status } => Self::Refused { detail: tell(detail), status },
            Self::Never { detail, status } => Self::Never { detail: tell(detail), status },
            Self::Stop { detail, status } => Self::Stop { detail: tell(detail), status },
        }
    }
}

/// What rustls has against a connection, at whatever depth of an error it is found. It often comes within an error of the system's,
/// whose own source passes it over.
pub(super) fn untrusted(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        let within = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let found = error.downcast_ref::<rustls::Error>();
        if let Some(why) = found.or_else(|| within.and_then(|error| error.downcast_ref())) {
            return Some(why.to_string());
        }
        next = error.source();
    }
    None
}
