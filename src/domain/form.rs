//! How a reset is written on the wire: two choices that the configuration must make.

/// What the org gets as the password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordForm {
    /// The SHA-256 of the password, in hex.
    Sha256,
    /// The password as it is to be typed.
    Plaintext,
}

/// How the extension's attributes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtensionForm {
    /// In an `Extensions` array of their own.
    Envelope,
    /// As operations, each with the extension's urn in its path.
    Urn,
}

/// Both choices, made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// What the org gets as the password.
    pub password: PasswordForm,
    /// Where the extension's attributes go.
    pub extensions: ExtensionForm,
}
