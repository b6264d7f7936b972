//! The attributes of a user: which there are, and what kind of value each of them takes (RFC 7643, section 4.1).

use serde_json::Value;

use super::settings::ExtensionForm;

/// The prefix of an extension attribute in the `envelope` form.
pub(super) const ENVELOPE_PREFIX: &str = "genesys:";
/// The schema of an element of `Extensions` in the `envelope` form.
pub(super) const ENVELOPE_SCHEMA: &str = "urn:ietf:params:scim:schemas:extension:genesys:2.0:User";
/// The schema of the extension in the `urn` form (`docs/development/facts.md#users`).
pub(super) const URN_SCHEMA: &str = "urn:ietf:params:scim:schemas:extension:genesys:purecloud:2.0:User";

/// An attribute that a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attribute {
    Password,
    UserName,
    Text,
    Flag,
    Many,
    Complex,
    Extension,
}

/// The attribute that a path among `Operations` names; `None` where there is none.
pub(super) fn of_operation(path: &str, form: ExtensionForm) -> Option<Attribute> {
    match path {
        "password" => Some(Attribute::Password),
        "userName" => Some(Attribute::UserName),
        "title" | "department" | "displayName" | "preferredLanguage" | "externalId" => Some(Attribute::Text),
        "active" => Some(Attribute::Flag),
        "phoneNumbers" | "emails" | "roles" => Some(Attribute::Many),
        "name" => Some(Attribute::Complex),
        other => {
            let name = other.strip_prefix(URN_SCHEMA)?.strip_prefix(':')?;
            (form == ExtensionForm::Urn && is_name(name)).then_some(Attribute::Extension)
        }
    }
}

/// The attribute that a path within `Extensions` names; `None` where there is none.
pub(super) fn of_extension(path: &str) -> Option<Attribute> {
    path.strip_prefix(ENVELOPE_PREFIX).filter(|name| is_name(name)).map(|_| Attribute::Extension)
}

/// The name of an extension attribute without what is before it; `None` for a core attribute.
pub(super) fn extension_name(path: &str) -> Option<&str> {
    let urn = || path.strip_prefix(URN_SCHEMA).and_then(|rest| rest.strip_prefix(':'));
    path.strip_prefix(ENVELOPE_PREFIX).or_else(urn)
}

/// An attribute's name (RFC 7643, section 2.1).
fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '$'))
}

impl Attribute {
    /// Whether it must always have a value, so that it cannot be removed.
    pub(super) fn is_required(self) -> bool {
        matches!(self, Self::Password | Self::UserName)
    }

    /// What a value must be, where this one is not that.
    pub(super) fn refuses(self, value: &Value) -> Option<&'static str> {
        let all_objects = |items: &Vec<Value>| items.iter().all(Value::is_object);
        let (fits, wanted) = match self {
            Self::Password | Self::Extension => (true, ""),
            Self::UserName => (value.as_str().is_some_and(|text| !text.is_empty()), "a non-empty string"),
            Self::Text => (value.is_string() || value.is_null(), "a string"),
            Self::Flag => (value.is_boolean(), "true or false"),
            Self::Complex => (value.is_object() || value.is_null(), "an object"),
            Self::Many => (
                value.is_null() || value.is_object() || value.as_array().is_some_and(all_objects),
                "an array of objects",
            ),
        };
        (!fits).then_some(wanted)
    }
}
