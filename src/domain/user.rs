//! Whom a reset is for: the user at the org, and the address that is told.

use std::fmt;

use super::job::Refusal;

/// Genesys Cloud's own id of a user: 1 to 128 unreserved URI characters (RFC 3986, section 2.3), so that it is one path segment as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(String);

impl UserId {
    /// The longest id, in characters.
    pub const MAX: usize = 128;

    /// Checks an id.
    ///
    /// # Errors
    /// Where it is empty, too long, `.` or `..`, or holds another character than `A-Z a-z 0-9 . _ ~ -`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let wrong = |what: String| {
            Refusal(format!("userId: {what}; it must be 1 to 128 of A-Z a-z 0-9 . _ ~ -, not \".\" or \"..\""))
        };
        if text.is_empty() {
            return Err(wrong("it is empty".into()));
        }
        if text.chars().count() > Self::MAX {
            return Err(wrong(format!("it has {} characters", text.chars().count())));
        }
        if let Some(at) = text.chars().position(|c| !(c.is_ascii_alphanumeric() || "._~-".contains(c))) {
            return Err(wrong(format!("character {} of {} is not allowed", at + 1, text.chars().count())));
        }
        if text == "." || text == ".." {
            return Err(wrong("it is a dot segment".into()));
        }
        Ok(Self(text.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where the notification goes: `local@domain`. Its `Debug` hides it: no log holds an address.
#[derive(Clone, PartialEq, Eq)]
pub struct EmailAddress(String);

impl EmailAddress {
    /// The longest address, in bytes (RFC 5321, section 4.5.3.1.3).
    pub const MAX: usize = 254;

    /// Checks an address: one `@` with something on both sides, no white space, control character or list.
    ///
    /// # Errors
    /// Where it is not `local@domain`; `field` names the place in the message.
    pub fn parse(field: &str, text: &str) -> Result<Self, Refusal> {
        let wrong = |what: &str| {
            Refusal(format!(
                "{field}: {what} (a text of {} characters); it must be one address of the form local@domain",
                text.chars().count()
            ))
        };
        let Some((local, domain)) = text.rsplit_once('@') else {
            return Err(wrong("it has no @"));
        };
        if local.is_empty() || domain.is_empty() {
            return Err(wrong("one side of the @ is empty"));
        }
        if text.len() > Self::MAX {
            return Err(wrong("it is longer than 254 bytes"));
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || "<>,;:()[]\\\"".contains(c))
            || local.contains('@')
        {
            return Err(wrong("it holds a character that a plain address does not have"));
        }
        if domain.starts_with(['.', '-']) || domain.ends_with(['.', '-']) || domain.contains("..") {
            return Err(wrong("its domain is not a host name"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EmailAddress(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str, fits: bool) {
        assert_eq!(UserId::parse(text).is_ok(), fits, "{text:?}");
    }

    #[test]
    fn a_user_id_is_one_unreserved_path_segment() {
        user("0f6e7c1a-1f00-4c2e-9d3b-aaaaaaaaaaaa", true);
        user("a.b_c~d-E9", true);
        user("...", true);
        user(&"x".repeat(128), true);
        for bad in ["", ".", "..", "a/b", "a b", "a%2fb", "ü", "a?b", "a\n"] {
            user(bad, false);
        }
        user(&"x".repeat(129), false);
    }

    fn email(text: &str, fits: bool) {
        assert_eq!(EmailAddress::parse("email", text).is_ok(), fits, "{text:?}");
    }

    #[test]
    fn an_address_is_local_at_domain() {
        for good in ["agent@example.com", "a.b+c@sub.example.com", "o'neil@example.com", "ü@exämple.com", "a@localhost"]
        {
            email(good, true);
        }
        for bad in [
            "",
            "agent",
            "@example.com",
            "agent@",
            "a@b@c",
            "a b@c",
            "a@b\r\nBcc: x@y",
            "<a@b>",
            "a@b,c@d",
            "a@.b",
            "a@b..c",
        ] {
            email(bad, false);
        }
    }

    #[test]
    fn a_refusal_never_repeats_the_value() {
        let text = "hunter2 secret";
        assert!(!EmailAddress::parse("email", text).unwrap_err().to_string().contains("hunter2"));
        assert!(!UserId::parse(text).unwrap_err().to_string().contains("hunter2"));
    }
}
