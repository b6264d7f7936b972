//! What may be set beside the password.

use super::refusal::Refusal;

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

#[cfg(test)]
mod tests {
    use super::*;

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
