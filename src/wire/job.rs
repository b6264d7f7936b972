//! The body of a job: bytes in, an intent or a refusal out. A refusal names the field, the rule and the value's shape, never the value.
//! `schema` says the same to its producers.

use serde_json::value::RawValue;

use super::object::{Pairs, Whole, is_reserved, names};
use super::quoted;
use super::recipient::{FIELDS, MISSING};
use super::value::{Text, shape_of, text};
use crate::domain::attribute::{AllowedAttributes, Attribute, AttributeName};
use crate::domain::job::{Intent, Reset, Who};
use crate::domain::outcome::Reason;
use crate::domain::recipient::{AllowedDomains, Recipient};
use crate::domain::refusal::Refusal;
use crate::domain::user::{UserId, UserName};

/// The largest body, in bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// The fields of a job: there is no other but those that say who is told, [`FIELDS`].
pub(super) mod field {
    pub(in crate::wire) const USER_ID: &str = "userId";
    pub(in crate::wire) const USER_NAME: &str = "userName";
    pub(in crate::wire) const PASSWORD: &str = "password";
    pub(in crate::wire) const ATTRIBUTES: &str = "attributes";
}

/// What the configuration says of a valid job.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Which attributes a job may set.
    pub allowed: AllowedAttributes,
    /// Who is told where a job names nobody.
    pub fallback: Option<Recipient>,
    /// Who may be told at all.
    pub domains: AllowedDomains,
}

/// A body that is no job. It causes a dead letter before any PATCH.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Invalid {
    /// The reason it is dead-lettered for.
    pub reason: Reason,
    /// Field, rule and the value's shape.
    pub detail: String,
    /// Whose password it was about, where that much was readable.
    pub user: Option<UserId>,
}

impl Invalid {
    fn job(detail: impl Into<String>) -> Self {
        Self { reason: Reason::InvalidJob, detail: detail.into(), user: None }
    }

    fn about(self, who: &Who) -> Self {
        Self { user: who.id().cloned(), ..self }
    }
}

impl From<Refusal> for Invalid {
    fn from(refusal: Refusal) -> Self {
        Self::job(refusal.0)
    }
}

/// Reads a body. JSON, size and unknown fields are checked first, then the intent; without one its other fields are not read.
///
/// # Errors
/// Where it is no valid job; see [`Invalid`].
pub fn parse(body: &[u8], rules: &Rules) -> Result<Intent, Invalid> {
    if body.len() > MAX_BODY {
        return Err(Invalid::job(format!("body: it has {} bytes; it must have at most {MAX_BODY}", body.len())));
    }
    // Read as a whole first: what is nested too deep, or has half a character in a value that is handed on unread, is no job.
    let Whole = serde_json::from_slice(body).map_err(|error| not_an_object(body, &error))?;
    let pairs = serde_json::from_slice(body).map_err(|error| not_an_object(body, &error))?;
    let fields = Fields::of(&pairs);
    if let Some(problem) = fields.problem {
        return Err(Invalid::job(problem));
    }
    if !asks_for_reset(fields.password) {
        return Ok(Intent::PassThrough);
    }
    let who = who(fields.user_id, fields.user_name)?;
    let rest = || {
        let recipient = recipient(&fields.recipient, rules)?;
        let attributes = attributes(fields.attributes, &rules.allowed)?;
        Ok((recipient, attributes))
    };
    let (recipient, attributes) = rest().map_err(|invalid: Invalid| invalid.about(&who))?;
    Ok(Intent::Reset(Reset { who, recipient, attributes }))
}

/// The top level, its values unread.
#[derive(Default)]
struct Fields<'a> {
    user_id: Option<&'a RawValue>,
    user_name: Option<&'a RawValue>,
    password: Option<&'a RawValue>,
    /// Of each of [`FIELDS`].
    recipient: [Option<&'a RawValue>; FIELDS.len()],
    attributes: Option<&'a RawValue>,
    problem: Option<String>,
}

impl<'a> Fields<'a> {
    fn of(Pairs(pairs): &Pairs<'a>) -> Self {
        let mut fields = Self::default();
        pairs.iter().for_each(|(name, value)| fields.take(name, value));
        fields
    }

    fn take(&mut self, name: &str, value: &'a RawValue) {
        let place = match name {
            field::USER_ID => &mut self.user_id,
            field::USER_NAME => &mut self.user_name,
            field::PASSWORD => &mut self.password,
            field::ATTRIBUTES => &mut self.attributes,
            other => match FIELDS.iter().position(|field| field.name == other) {
                Some(at) => &mut self.recipient[at],
                None => return self.is_unknown(other),
            },
        };
        if place.replace(value).is_some() {
            self.problem.get_or_insert_with(|| format!("{name}: the field stands twice; it must stand once"));
        }
    }

    fn is_unknown(&mut self, name: &str) {
        let recipient = FIELDS.map(|field| field.name).join(", ");
        self.problem.get_or_insert_with(|| {
            format!(
                "{}: unknown field; a job has userId or userName, password, {recipient} and attributes; move it under attributes",
                quoted(name)
            )
        });
    }
}

fn not_an_object(body: &[u8], error: &serde_json::Error) -> Invalid {
    use serde_json::error::Category;
    let place = format!("line {} column {} of {} bytes", error.line(), error.column(), body.len());
    match error.classify() {
        Category::Data => Invalid::job("body: it is JSON but not an object; it must be one JSON object"),
        Category::Eof => Invalid::job(format!(
            "body: it is not JSON: it ends too early at {place}; it must be one JSON object in UTF-8"
        )),
        Category::Syntax | Category::Io => {
            Invalid::job(format!("body: it is not JSON: the error is at {place}; it must be one JSON object in UTF-8"))
        }
    }
}

/// Absent, `false`, `null` and `""` ask for nothing; any other value does. The value is looked at no further.
pub(super) fn asks_for_reset(password: Option<&RawValue>) -> bool {
    password.is_some_and(|value| !matches!(value.get(), "false" | "null" | "\"\""))
}

/// One of both, and not both.
fn who(user_id: Option<&RawValue>, user_name: Option<&RawValue>) -> Result<Who, Invalid> {
    match (text(user_id), text(user_name)) {
        (Text::Absent, Text::Absent) => Err(Invalid::job(
            "userId: it is missing; it must be the user's id at Genesys Cloud, as text (or give userName in its place)",
        )),
        (Text::Other(shape), _) => Err(Invalid::job(format!("userId: it is {shape}; it must be text"))),
        (_, Text::Other(shape)) => Err(Invalid::job(format!("userName: it is {shape}; it must be text"))),
        (Text::Given(id), Text::Absent) => Ok(Who::Id(UserId::parse(&id)?)),
        (Text::Absent, Text::Given(name)) => Ok(Who::Name(UserName::parse(&name)?)),
        (Text::Given(_), Text::Given(_)) => {
            Err(Invalid::job("userName: it stands beside a userId; a job must have one of both"))
        }
    }
}

/// The first that a field names, or else the fallback.
fn recipient(values: &[Option<&RawValue>], rules: &Rules) -> Result<Recipient, Invalid> {
    for (field, value) in FIELDS.iter().zip(values) {
        let Some(recipient) = field.recipient(*value)? else { continue };
        if rules.domains.allow(&recipient) {
            return Ok(recipient);
        }
        let detail = format!("{}: its domain is none that notification.allowed_domains lists", field.place());
        return Err(Invalid { reason: Reason::AddressNotAllowed, detail, user: None });
    }
    rules.fallback.clone().ok_or_else(|| Invalid {
        reason: Reason::NoAddress,
        detail: format!("{MISSING}, and notification.fallback_address is not set"),
        user: None,
    })
}

fn attributes(value: Option<&RawValue>, allowed: &AllowedAttributes) -> Result<Vec<Attribute>, Invalid> {
    let Some(value) = value.filter(|raw| raw.get() != "null") else {
        return Ok(Vec::new());
    };
    let shape = || Invalid::job(format!("attributes: it is {}; it must be an object", shape_of(value.get())));
    let Pairs(pairs) = serde_json::from_str(value.get()).map_err(|_| shape())?;
    let mut attributes: Vec<Attribute> = Vec::with_capacity(pairs.len());
    for (name, json) in pairs {
        let name = AttributeName::parse(&name)?;
        if attributes.iter().any(|seen| seen.name == name) {
            return Err(Invalid::job(format!(
                "attributes: {} stands twice; it must stand once",
                quoted(name.as_str())
            )));
        }
        if !allowed.allow(&name) {
            let detail = format!(
                "attributes: {} is not allowed; wire.allowed_attributes lists what is, and the password is never an attribute",
                quoted(name.as_str())
            );
            return Err(Invalid { reason: Reason::AttributeNotAllowed, detail, user: None });
        }
        let mut reserved = is_reserved(name.as_str()).then(|| quoted(name.as_str()));
        names(json, &mut |key| {
            if is_reserved(key) {
                reserved.get_or_insert_with(|| quoted(key));
            }
        });
        if let Some(key) = reserved {
            return Err(Invalid::job(format!(
                "attributes: {} has the key {key}, which nobody has a use for; leave it out",
                quoted(name.as_str())
            )));
        }
        attributes.push(Attribute { name, json: json.get().to_owned() });
    }
    Ok(attributes)
}

pub mod schema;

#[cfg(test)]
mod tests;
