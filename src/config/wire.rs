//! How a reset is written on the wire: two choices without a silent default, since the wrong one leaves people unable to log in.

use super::{ConfigError, raw};
use crate::domain::form::{ExtensionForm, Form, PasswordForm};

/// Makes both choices, or says what each means.
pub(super) fn chosen(raw: &raw::Wire) -> Result<Form, ConfigError> {
    Ok(Form { password: password(raw)?, extensions: extensions(raw)? })
}

/// How the password is written.
pub(super) fn password(raw: &raw::Wire) -> Result<PasswordForm, ConfigError> {
    match raw.password.as_deref() {
        Some("sha256") => Ok(PasswordForm::Sha256),
        Some("plaintext") => Ok(PasswordForm::Plaintext),
        Some(other) => {
            Err(ConfigError::wrong("wire.password", format_args!("{other:?}"), "\"sha256\" or \"plaintext\""))
        }
        None => Err(ConfigError::new(
            "wire.password is not chosen: \"sha256\" sends the SHA-256 of the password in hex, for an org whose logins hash what is typed (config/spec.toml). \
             \"plaintext\" sends the password itself over TLS, which is what Genesys Cloud takes as the password that logs in (config/genesys-cloud.toml).",
        )),
    }
}

/// Where the extension's attributes go.
pub(super) fn extensions(raw: &raw::Wire) -> Result<ExtensionForm, ConfigError> {
    match raw.extensions.as_deref() {
        Some("envelope") => Ok(ExtensionForm::Envelope),
        Some("urn") => Ok(ExtensionForm::Urn),
        Some(other) => Err(ConfigError::wrong("wire.extensions", format_args!("{other:?}"), "\"envelope\" or \"urn\"")),
        None => Err(ConfigError::new(
            "wire.extensions is not chosen: \"envelope\" puts attributes that begin with genesys: into an Extensions array of their own (config/spec.toml). \
             \"urn\" makes each an operation whose path is Genesys Cloud's extension urn (config/genesys-cloud.toml).",
        )),
    }
}
