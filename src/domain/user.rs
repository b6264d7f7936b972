//! Whom a reset is for: the user at the org.

use std::borrow::Cow;
use std::fmt;

use sha2::{Digest, Sha256};

use super::refusal::Refusal;

/// Genesys Cloud's own id of a user: 1 to 128 unreserved URI characters (RFC 3986, section 2.3), so that it is one path segment as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(String);

impl UserId {
    /// The longest id, in characters.
    pub const MAX: usize = 128;
    /// What it may hold beside ASCII letters and digits.
    pub const MARKS: &str = "._~-";

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
        if let Some(at) = text.chars().position(|c| !(c.is_ascii_alphanumeric() || Self::MARKS.contains(c))) {
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

    /// By it ids are compared where two spellings of one user must meet, and it does no harm if two users do.
    #[must_use]
    pub fn in_lower_case(&self) -> Self {
        Self(self.0.to_ascii_lowercase())
    }
}

/// A user's id by which what was noted of them is found again. Genesys Cloud's ids are UUIDs, which are the same in any case (RFC 9562,
/// section 4); any other id of SCIM is not (RFC 7643, section 3.1).
pub fn canonical(id: &str) -> Cow<'_, str> {
    let is_uuid = id.len() == 36
        && id.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    if is_uuid { Cow::Owned(id.to_ascii_lowercase()) } else { Cow::Borrowed(id) }
}

/// The name a user logs in with (RFC 7643, section 4.1.1), by which the org is asked for the id. It often is an address, so its `Debug`
/// hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct UserName(String);

impl UserName {
    /// The longest name, in characters.
    pub const MAX: usize = 256;

    /// Checks a name.
    ///
    /// # Errors
    /// Where it is empty, too long, or holds a control character.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let count = text.chars().count();
        let wrong = |what: String| {
            Refusal(format!("userName: {what}; it must be 1 to {} characters without control characters", Self::MAX))
        };
        if text.is_empty() {
            return Err(wrong("it is empty".into()));
        }
        if count > Self::MAX {
            return Err(wrong(format!("it has {count} characters")));
        }
        if let Some(at) = text.chars().position(char::is_control) {
            return Err(wrong(format!("character {} of {count} is a control character", at + 1)));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether another name is this one: in any case, as the attribute is defined (RFC 7643, section 4.1.1, `caseExact` false).
    pub fn is(&self, other: &str) -> bool {
        self.0.to_lowercase() == other.to_lowercase()
    }

    /// What stands in for the user's id while that is not known: in their line, in the breaker and in the run of the forbidden.
    pub fn key(&self) -> UserId {
        UserId(hex::encode(Sha256::digest(self.0.to_lowercase())))
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserName(…)")
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

    #[test]
    fn a_uuid_is_the_same_user_in_any_case_and_no_other_id_is() {
        let uuid = "0F6E7C1A-1f00-4c2e-9d3b-AAAAAAAAAAAA";
        assert_eq!(canonical(uuid), uuid.to_lowercase());
        for other in
            ["U-1", "", &uuid[1..], "0F6E7C1A_1f00-4c2e-9d3b-AAAAAAAAAAAA", "GF6E7C1A-1f00-4c2e-9d3b-AAAAAAAAAAAA"]
        {
            assert_eq!(canonical(other), other);
        }
    }

    #[test]
    fn a_user_name_is_any_text_of_one_line_and_the_same_in_any_case() {
        let parse = |text: &str| UserName::parse(text);
        for good in ["a", "agent@example.com", "Zoë \"Q\" O'Neil\\x", &"ü".repeat(256)] {
            assert!(parse(good).is_ok(), "{good:?}");
        }
        for bad in ["", "a\nb", "\u{7f}", &"x".repeat(257)] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        let name = parse("Agent@Example.com").unwrap();
        assert!(name.is("agent@example.COM") && !name.is("agent@example.co"));
        assert_eq!(name.key(), parse("agent@example.com").unwrap().key());
        assert!(UserId::parse(name.key().as_str()).is_ok());
        assert!(!format!("{name:?}").contains("xample"));
    }

    #[test]
    fn a_refusal_never_repeats_the_value() {
        let text = "hunter2 secret";
        assert!(!UserId::parse(text).unwrap_err().to_string().contains("hunter2"));
    }
}
