//! From a notification to the person: the mail it becomes, and its way to the next hop, by SMTP or by HTTP; and what seals
//! it for those who may read it, and opens it again.
//!
//! What goes wrong is named by what is done next. Nothing here waits, tries again or knows of a queue: that is the role's.

pub mod courier;
pub mod keys;
pub mod seal;
pub mod templates;

use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::domain::note::NoteId;
use crate::domain::user::EmailAddress;

pub use courier::Courier;
pub use templates::Templates;

/// One mail, ready to be sent. Its `Debug` hides what it says and to whom.
pub struct Mail {
    /// The notification's id: by it a second delivery can be recognised.
    pub id: NoteId,
    /// Who is told.
    pub to: EmailAddress,
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

/// The next hop answers for the mail from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// The code of its answer: 250, or a 2xx of HTTP.
    pub status: u16,
}

/// Why a mail was not delivered, named by what is done next. `detail` is in the next hop's words and may repeat what the mail says: it
/// is scrubbed before it goes anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undelivered {
    /// It is tried again: a passing trouble of the next hop, or of the way there.
    Again {
        /// What happened.
        detail: String,
        /// The code of the answer; `None` where there was none.
        status: Option<u16>,
        /// How long the next hop asked us to wait.
        after: Option<Duration>,
    },
    /// This mail is not taken, whenever it comes: it is given up.
    Never {
        /// What happened.
        detail: String,
        /// The code of the answer; `None` where it was not even sent.
        status: Option<u16>,
    },
    /// No mail is taken until an operator has mended something: the login, the encryption, the certificate.
    Stop {
        /// What happened.
        detail: String,
        /// The code of the answer; `None` where there was none.
        status: Option<u16>,
    },
}
