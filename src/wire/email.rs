//! What a mail service over HTTP gets: a POST for each mail.

use serde::Serialize;
use zeroize::Zeroizing;

use super::secret_json;

/// The body of the POST. It holds the password.
#[derive(Serialize)]
struct Body<'a> {
    to: &'a str,
    subject: &'a str,
    body: &'a str,
}

/// The bytes. They hold the password and zero themselves.
pub fn message(to: &str, subject: &str, body: &str) -> Zeroizing<Vec<u8>> {
    secret_json(&Body { to, subject, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_has_three_fields() {
        let bytes = message("a@example.com", "Your password", "It is:\n\"x\"");
        let said = r#"{"to":"a@example.com","subject":"Your password","body":"It is:\n\"x\""}"#;
        assert_eq!(String::from_utf8_lossy(&bytes), said);
    }
}
