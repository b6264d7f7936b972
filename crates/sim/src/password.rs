//! A password as it comes in a PATCH, and as it is kept: only ever as its SHA-256.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::settings::PasswordForm;

/// The SHA-256 of a password. No `Debug`, no way out: it can only be compared.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Digest([u8; 32]);

impl Digest {
    pub(super) fn of(password: &str) -> Self {
        Self(Sha256::digest(password.as_bytes()).into())
    }
}

/// Reads the value of a `password` operation. An `Err` says what is wrong with it, and never repeats it.
pub(super) fn read(value: &Value, form: PasswordForm, policy: bool) -> Result<Digest, &'static str> {
    let text = value.as_str().filter(|text| !text.is_empty()).ok_or("password must be a non-empty string")?;
    match form {
        PasswordForm::Sha256 => from_hex(text),
        PasswordForm::Plaintext if policy && !fits_policy(text) => {
            Err("password does not fit the policy: at least 8 characters, with a lower-case and an upper-case letter, \
             a digit and a special character")
        }
        PasswordForm::Plaintext => Ok(Digest::of(text)),
    }
}

fn from_hex(text: &str) -> Result<Digest, &'static str> {
    let wrong = "password must be 64 lower-case hex digits, the SHA-256 of the password";
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(wrong);
    }
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| wrong)?;
    Ok(Digest(bytes))
}

/// The default policy of Genesys Cloud (`docs/development/facts.md#passwords`).
fn fits_policy(text: &str) -> bool {
    text.chars().count() >= 8
        && text.chars().any(char::is_lowercase)
        && text.chars().any(char::is_uppercase)
        && text.chars().any(|letter| letter.is_ascii_digit())
        && text.chars().any(|letter| !letter.is_alphanumeric() && !letter.is_whitespace())
}
