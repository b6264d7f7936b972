//! A simulated Genesys Cloud org over HTTP: the OAuth token endpoint and SCIM Users, strict about what it takes, with a
//! quota of its own and scripted faults. It stands alone and knows nothing of `resetd`, so that a field name that is
//! wrong there cannot agree with itself here.
//!
//! From the outside in: `server` has the routes, `oauth`, `scim`, `listing` and `control` answer them, `play` carries out
//! a scripted fault, `org` holds the state behind one mutex that is never held across an await, and the rest are its
//! parts: pure, with the time as an argument. What is absent on purpose: the state is lost with the process, and a
//! `PATCH` knows no `If-Match`.

mod server;
mod socket;

mod control;
mod incoming;
mod listing;
mod oauth;
mod scim;

mod answer;
mod media;
mod play;

mod org;
mod quota;
mod script;
mod tally;
mod tokens;
mod users;

mod aging;
mod attribute;
mod invalid;
mod operation;
mod password;
mod patch;

mod fault;
mod fault_fields;
mod fault_reply;
mod fault_text;
mod secret;
mod settings;
mod span;

pub use fault::{Fault, FaultError};
pub use org::Org;
pub use secret::Secret;
pub use settings::{ChoiceError, ExtensionForm, PasswordForm, RetryAfterForm, Settings, SettingsError};
pub use span::parse as parse_duration;
pub use tally::Stats;
pub use users::UserView;
