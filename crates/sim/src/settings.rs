//! What the simulated org is like: its client, its quota, how passwords and extensions are written, its users.

use std::{str::FromStr, time::Duration};

use serde::Deserialize;
use thiserror::Error;

use super::{Fault, Secret, span};

/// The settings of an org; every field has a default. In a file, durations are text such as `250ms` or `60s`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The id of the one OAuth client. Default `demo`.
    pub client_id: String,
    /// The secret of that client. Default `demo-secret`.
    pub client_secret: Secret,
    /// How long a token is good for. Default 24 h, as at Genesys Cloud (`docs/development/facts.md#tokens`).
    #[serde(deserialize_with = "span::deserialize")]
    pub token_ttl: Duration,
    /// What the token answer says in `scope`; the field is left out where this is `None`, the default.
    pub scope: Option<String>,
    /// How a password is written in a PATCH. Default `sha256`.
    pub password: PasswordForm,
    /// Where extension attributes are in a PATCH. Default `envelope`.
    pub extensions: ExtensionForm,
    /// Whether a plaintext password must fit the default policy of Genesys Cloud. Default true.
    pub policy: bool,
    /// How long a password must stay before it may be set again: until then a PATCH of it is refused with the moment. Default 0,
    /// which is no such rule.
    #[serde(deserialize_with = "span::deserialize")]
    pub min_age: Duration,
    /// How many of a user's last passwords, the one in force included, are refused. Default 0, which is no such rule.
    pub history: usize,
    /// How many SCIM calls one window admits; 0 is without limit. Default 300.
    pub quota: u32,
    /// The length of a window; windows are counted from the start of the org. Default 60 s.
    #[serde(deserialize_with = "span::deserialize")]
    pub window: Duration,
    /// How `Retry-After` is written on a 429 of the quota. Default `seconds`.
    pub retry_after: RetryAfterForm,
    /// How long every answer is held back. Default 0.
    #[serde(deserialize_with = "span::deserialize")]
    pub latency: Duration,
    /// Up to so much is added to `latency`, at random. Default 0.
    #[serde(deserialize_with = "span::deserialize")]
    pub latency_jitter: Duration,
    /// The ids of the users there are; any other is a 404. `None`, the default: every id exists.
    pub users: Option<Vec<String>>,
    /// The faults to begin with.
    pub faults: Vec<Fault>,
}

/// How a password is written in a PATCH.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PasswordForm {
    /// Its SHA-256 in 64 lower-case hex digits.
    Sha256,
    /// The password itself, as Genesys Cloud takes it.
    Plaintext,
}

/// Where the extension attributes are in a PATCH (`docs/contract.md#what-the-org-gets`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExtensionForm {
    /// In a separate `Extensions` array, with paths that begin with `genesys:`.
    Envelope,
    /// Among the operations, each with a path that is a URN.
    Urn,
}

/// How `Retry-After` is written on a 429 of the quota (RFC 9110, section 10.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RetryAfterForm {
    /// Whole seconds to the end of the window, rounded up.
    Seconds,
    /// The end of the window as an HTTP date, rounded up to a second.
    Date,
    /// No such header.
    Absent,
    /// The text `0`.
    Zero,
}

/// Settings that no org can have.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The client id is empty or has a colon, which HTTP Basic cannot carry (RFC 7617, section 2).
    #[error("client_id is `{0}`; it must not be empty and must not contain a colon")]
    ClientId(String),
    /// A quota needs a window to be counted in.
    #[error("window is 0s; with a quota it must be longer than that")]
    Window,
    /// A seeded user has no id.
    #[error("users has an empty id at position {0}, counted from 0")]
    User(usize),
}

/// A word that is none of the choices.
#[derive(Debug, Error)]
#[error("it is `{got}`; write one of: {choices}")]
pub struct ChoiceError {
    got: String,
    choices: &'static str,
}

impl Settings {
    /// Finds what `serde` alone does not: see [`SettingsError`].
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        if self.client_id.is_empty() || self.client_id.contains(':') {
            return Err(SettingsError::ClientId(self.client_id.clone()));
        }
        if self.quota > 0 && self.window.is_zero() {
            return Err(SettingsError::Window);
        }
        match self.users.iter().flatten().position(String::is_empty) {
            Some(position) => Err(SettingsError::User(position)),
            None => Ok(()),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            client_id: "demo".to_owned(),
            client_secret: Secret::from("demo-secret"),
            token_ttl: Duration::from_secs(86_400),
            scope: None,
            password: PasswordForm::Sha256,
            extensions: ExtensionForm::Envelope,
            policy: true,
            min_age: Duration::ZERO,
            history: 0,
            quota: 300,
            window: Duration::from_secs(60),
            retry_after: RetryAfterForm::Seconds,
            latency: Duration::ZERO,
            latency_jitter: Duration::ZERO,
            users: None,
            faults: Vec::new(),
        }
    }
}

impl FromStr for PasswordForm {
    type Err = ChoiceError;

    fn from_str(text: &str) -> Result<Self, ChoiceError> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "plaintext" => Ok(Self::Plaintext),
            _ => Err(ChoiceError { got: text.to_owned(), choices: "sha256, plaintext" }),
        }
    }
}

impl FromStr for ExtensionForm {
    type Err = ChoiceError;

    fn from_str(text: &str) -> Result<Self, ChoiceError> {
        match text {
            "envelope" => Ok(Self::Envelope),
            "urn" => Ok(Self::Urn),
            _ => Err(ChoiceError { got: text.to_owned(), choices: "envelope, urn" }),
        }
    }
}

/// How the org takes passwords and extensions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forms {
    pub(super) password: PasswordForm,
    pub(super) extensions: ExtensionForm,
    pub(super) policy: bool,
}
