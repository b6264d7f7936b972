//! Environment variables that stand for keys under the names that their services gave them.

/// The secret of the OAuth client of the org `main`.
pub(super) const CLIENT_SECRET: &str = "GENESYS_CLIENT_SECRET";
/// Where the mail service takes a POST for each mail.
pub(super) const MAIL_SERVICE_URL: &str = "EMAIL_SERVICE_URL";
