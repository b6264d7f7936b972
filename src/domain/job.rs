//! A reset job: who, under which name, with which attributes, and how long it may wait.

use std::fmt;

use jiff::Timestamp;

/// Why a piece of a job was refused: what the rule is and the shape of what came, never its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// The id a job goes by, in logs, outcomes and dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(String);

impl JobId {
    /// Takes the producer's `message_id`, or the name derived where it has none.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

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

/// The name of an attribute that is set beside the password. Never the password itself, in any spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeName(String);

impl AttributeName {
    /// The longest name, in characters.
    pub const MAX: usize = 256;
    /// What marks an attribute of Genesys Cloud's own extension.
    pub const EXTENSION: &str = "genesys:";

    /// Checks a name: printable ASCII without spaces, and not the password by another way.
    ///
    /// # Errors
    /// Where it is empty, too long, or holds another character.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let count = text.chars().count();
        if text.strip_prefix(Self::EXTENSION).unwrap_or(text).is_empty() {
            return Err(Refusal("attributes: a name is empty; name the attribute, such as \"title\"".into()));
        }
        if count > Self::MAX || !text.chars().all(|c| c.is_ascii_graphic()) {
            return Err(Refusal(format!(
                "attributes: a name of {count} characters is too long or holds a space or a character outside ASCII; it must be 1 to 256 printable ASCII characters"
            )));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as it came.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without `genesys:`, where it is one of the extension's.
    pub fn extension(&self) -> Option<&str> {
        self.0.strip_prefix(Self::EXTENSION)
    }

    /// Whether it would write the password beside the worker's own (SCIM names ignore case: RFC 7643, section 2.1).
    pub fn is_password(&self) -> bool {
        let last = self.0.rsplit([':', '.']).next().unwrap_or_default();
        last.eq_ignore_ascii_case("password")
    }
}

/// Which attributes a job may set: exact names, or `prefix*`.
#[derive(Debug, Clone, Default)]
pub struct AllowedAttributes(Vec<String>);

impl AllowedAttributes {
    /// Takes the patterns of `wire.allowed_attributes`.
    pub fn new(patterns: Vec<String>) -> Self {
        Self(patterns)
    }

    /// Whether a job may set it. The password is never allowed, whatever the patterns say.
    pub fn allow(&self, name: &AttributeName) -> bool {
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => name.as_str().starts_with(prefix),
            None => name.as_str() == pattern,
        };
        !name.is_password() && self.0.iter().any(fits)
    }
}

/// One attribute and its value, which is JSON text as the producer wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Which attribute.
    pub name: AttributeName,
    /// Its new value: valid JSON.
    pub json: String,
}

/// The lane a job came by. Interactive jobs get the next permit before bulk ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Somebody waits for it: the help desk.
    Interactive,
    /// Thousands at once: an onboarding window.
    Bulk,
}

impl Lane {
    /// Both lanes.
    pub const ALL: [Lane; 2] = [Lane::Interactive, Lane::Bulk];

    /// The lane's name in messages, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Lane::Interactive => "interactive",
            Lane::Bulk => "bulk",
        }
    }
}

/// What its producer said of a job beside its body; all of it optional.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// When the reset was asked for.
    pub asked_at: Option<Timestamp>,
    /// No PATCH before this moment.
    pub not_before: Option<Timestamp>,
    /// No PATCH after this moment.
    pub not_after: Option<Timestamp>,
    /// The batch it belongs to.
    pub batch: Option<String>,
}

/// What a well-formed body asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// It carries no intent to reset: it is acked and nothing is called.
    PassThrough,
    /// A password is to be set.
    Reset(Reset),
}

/// A reset that may be carried out: every field checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// Whose password.
    pub user: UserId,
    /// Who is told.
    pub email: EmailAddress,
    /// What is set beside it, in the order it came.
    pub attributes: Vec<Attribute>,
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

    fn allowed(patterns: &[&str], name: &str, fits: bool) {
        let allowed = AllowedAttributes::new(patterns.iter().map(ToString::to_string).collect());
        assert_eq!(allowed.allow(&AttributeName::parse(name).unwrap()), fits, "{name} by {patterns:?}");
    }

    #[test]
    fn attributes_are_allowed_by_name_or_prefix_and_the_password_never() {
        allowed(&["title", "genesys:*"], "title", true);
        allowed(&["title", "genesys:*"], "titles", false);
        allowed(&["title", "genesys:*"], "genesys:routingSkills", true);
        allowed(&["title"], "genesys:routingSkills", false);
        allowed(&["*"], "anything", true);
        for password in
            ["password", "PASSWORD", "urn:ietf:params:scim:schemas:core:2.0:User:password", "genesys:password"]
        {
            allowed(&["*", "password"], password, false);
        }
    }

    #[test]
    fn an_attribute_name_is_printable_and_not_empty() {
        for bad in ["", "genesys:", "a b", "tïtle", "a\u{7}"] {
            assert!(AttributeName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
