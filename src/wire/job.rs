//! The body of a job: bytes in, an intent or a refusal out. A refusal names the field, the rule and the value's shape, never the value.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::domain::job::{AllowedAttributes, Attribute, AttributeName, EmailAddress, Intent, Refusal, Reset, UserId};
use crate::domain::outcome::Reason;

/// The largest body, in bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// What the configuration says of a valid job.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Which attributes a job may set.
    pub allowed: AllowedAttributes,
    /// Who is told where a job names nobody.
    pub fallback: Option<EmailAddress>,
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

    fn about(self, user: &UserId) -> Self {
        Self { user: Some(user.clone()), ..self }
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
    let fields: Fields<'_> = serde_json::from_slice(body).map_err(|error| not_an_object(body, &error))?;
    if let Some(problem) = fields.problem {
        return Err(Invalid::job(problem));
    }
    if !asks_for_reset(fields.password) {
        return Ok(Intent::PassThrough);
    }
    let user = user_id(fields.user_id)?;
    let rest = || {
        let email = address(fields.email, fields.emails, rules)?;
        let attributes = attributes(fields.attributes, &rules.allowed)?;
        Ok((email, attributes))
    };
    let (email, attributes) = rest().map_err(|invalid: Invalid| invalid.about(&user))?;
    Ok(Intent::Reset(Reset { user, email, attributes }))
}

/// The top level, its values unread.
#[derive(Default)]
struct Fields<'a> {
    user_id: Option<&'a RawValue>,
    password: Option<&'a RawValue>,
    email: Option<&'a RawValue>,
    emails: Option<&'a RawValue>,
    attributes: Option<&'a RawValue>,
    problem: Option<String>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Top;
        impl<'de> Visitor<'de> for Top {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields<'de>, M::Error> {
                let mut fields = Fields::default();
                while let Some(Name(name)) = map.next_key()? {
                    let value: &RawValue = map.next_value()?;
                    fields.take(&name, value);
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Top)
    }
}

impl<'a> Fields<'a> {
    fn take(&mut self, name: &str, value: &'a RawValue) {
        let place = match name {
            "userId" => &mut self.user_id,
            "password" => &mut self.password,
            "email" => &mut self.email,
            "emails" => &mut self.emails,
            "attributes" => &mut self.attributes,
            other => {
                let known = "userId, password, email, emails and attributes";
                self.problem.get_or_insert_with(|| {
                    format!("{}: unknown field; a job has {known}; move it under attributes", short(other))
                });
                return;
            }
        };
        if place.replace(value).is_some() {
            self.problem.get_or_insert_with(|| format!("{name}: the field stands twice; it must stand once"));
        }
    }
}

/// A key, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

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
fn asks_for_reset(password: Option<&RawValue>) -> bool {
    password.is_some_and(|value| !matches!(value.get(), "false" | "null" | "\"\""))
}

fn user_id(value: Option<&RawValue>) -> Result<UserId, Invalid> {
    match text(value) {
        Text::Absent => Err(Invalid::job("userId: it is missing; it must be the user's id at Genesys Cloud, as text")),
        Text::Other(shape) => Err(Invalid::job(format!("userId: it is {shape}; it must be text"))),
        Text::Given(text) => Ok(UserId::parse(&text)?),
    }
}

fn address(email: Option<&RawValue>, emails: Option<&RawValue>, rules: &Rules) -> Result<EmailAddress, Invalid> {
    let (field, found) = match text(email) {
        Text::Absent => ("emails[0].value", first_of(emails)?),
        found @ (Text::Given(_) | Text::Other(_)) => ("email", found),
    };
    match found {
        Text::Given(text) => Ok(EmailAddress::parse(field, &text)?),
        Text::Other(shape) => {
            Err(Invalid::job(format!("{field}: it is {shape}; it must be text of the form local@domain")))
        }
        Text::Absent => rules.fallback.clone().ok_or_else(|| Invalid {
            reason: Reason::NoAddress,
            detail: "email: it is missing, emails[0].value too, and notification.fallback_address is not set".into(),
            user: None,
        }),
    }
}

/// `emails[0].value`, of the SCIM form (RFC 7643, section 4.1.2).
fn first_of(emails: Option<&RawValue>) -> Result<Text, Invalid> {
    #[derive(Deserialize)]
    struct Entry<'a> {
        #[serde(borrow)]
        value: Option<&'a RawValue>,
    }
    let Some(emails) = emails.filter(|raw| raw.get() != "null") else {
        return Ok(Text::Absent);
    };
    let shape =
        || Invalid::job(format!("emails: it is {}; it must be a list of objects with a value", shape_of(emails.get())));
    let list: Vec<&RawValue> = serde_json::from_str(emails.get()).map_err(|_| shape())?;
    let Some(first) = list.first() else {
        return Ok(Text::Absent);
    };
    let entry: Entry<'_> = serde_json::from_str(first.get()).map_err(|_| shape())?;
    Ok(text(entry.value))
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
            return Err(Invalid::job(format!("attributes: {} stands twice; it must stand once", short(name.as_str()))));
        }
        if !allowed.allow(&name) {
            let detail = format!(
                "attributes: {} is not allowed; wire.allowed_attributes lists what is, and the password is never an attribute",
                short(name.as_str())
            );
            return Err(Invalid { reason: Reason::AttributeNotAllowed, detail, user: None });
        }
        attributes.push(Attribute { name, json: json.get().to_owned() });
    }
    Ok(attributes)
}

/// The pairs of an object in their order, repeated names too.
struct Pairs<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Pairs<'de>, M::Error> {
                let mut pairs = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    pairs.push((name, value));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A field that should be text.
enum Text {
    Absent,
    Given(String),
    Other(&'static str),
}

fn text(value: Option<&RawValue>) -> Text {
    let Some(value) = value else { return Text::Absent };
    match serde_json::from_str::<Option<String>>(value.get()) {
        Ok(None) => Text::Absent,
        Ok(Some(text)) if text.is_empty() => Text::Absent,
        Ok(Some(text)) => Text::Given(text),
        Err(_) => Text::Other(shape_of(value.get())),
    }
}

/// What kind of JSON a text is, by its first character.
fn shape_of(json: &str) -> &'static str {
    match json.trim_start().bytes().next() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'"') => "text",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// A name from outside, fit for one line of text.
fn short(name: &str) -> String {
    let shown: String = name.chars().take(64).flat_map(char::escape_default).collect();
    if name.chars().count() > 64 { format!("\"{shown}…\"") } else { format!("\"{shown}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules() -> Rules {
        Rules { allowed: AllowedAttributes::new(vec!["genesys:*".into(), "title".into()]), fallback: None }
    }

    fn reset(body: &str) -> Reset {
        match parse(body.as_bytes(), &rules()) {
            Ok(Intent::Reset(reset)) => reset,
            other => panic!("{body}: {other:?}"),
        }
    }

    fn refused(body: &str, reason: Reason, part: &str) {
        let invalid = parse(body.as_bytes(), &rules()).expect_err(body);
        assert_eq!(invalid.reason, reason, "{body}: {invalid}");
        assert!(invalid.detail.contains(part), "{body}: {invalid}");
        assert!(!invalid.detail.contains("hunter2"), "{body}: {invalid}");
    }

    #[test]
    fn a_whole_job_is_read() {
        let job = reset(
            r#"{"userId":"u-1","password":true,"email":"a@example.com","attributes":{"title":"Agent","genesys:routingLanguages":[{"value":"en"}]}}"#,
        );
        assert_eq!((job.user.as_str(), job.email.as_str()), ("u-1", "a@example.com"));
        let names: Vec<_> = job.attributes.iter().map(|a| (a.name.as_str(), a.json.as_str())).collect();
        assert_eq!(names, [("title", "\"Agent\""), ("genesys:routingLanguages", r#"[{"value":"en"}]"#)]);
    }

    #[test]
    fn intent_is_any_value_but_absent_false_null_and_empty() {
        for none in [
            "{}",
            r#"{"password":false}"#,
            r#"{"password":null}"#,
            r#"{"password":""}"#,
            r#"{"userId":7,"email":[],"attributes":3}"#,
        ] {
            assert_eq!(parse(none.as_bytes(), &rules()), Ok(Intent::PassThrough), "{none}");
        }
        for some in ["true", "0", "1", "\"hunter2\"", "[]", "{}", "\" \"", "0.0"] {
            reset(&format!(r#"{{"userId":"u","email":"a@b","password":{some}}}"#));
        }
    }

    #[test]
    fn the_first_of_emails_stands_in_for_email() {
        assert_eq!(
            reset(r#"{"userId":"u","password":1,"emails":[{"value":"x@y","type":"work"},{"value":"z@y"}]}"#)
                .email
                .as_str(),
            "x@y"
        );
        assert_eq!(
            reset(r#"{"userId":"u","password":1,"email":null,"emails":[{"value":"x@y"}]}"#).email.as_str(),
            "x@y"
        );
        assert_eq!(reset(r#"{"userId":"u","password":1,"email":"","emails":[{"value":"x@y"}]}"#).email.as_str(), "x@y");
        assert_eq!(reset(r#"{"userId":"u","password":1,"email":"a@b","emails":7}"#).email.as_str(), "a@b");
    }

    #[test]
    fn a_fallback_stands_in_for_nobody_but_not_for_a_bad_address() {
        let rules = Rules { fallback: EmailAddress::parse("f", "desk@example.com").ok(), ..rules() };
        let Ok(Intent::Reset(job)) = parse(br#"{"userId":"u","password":1,"emails":[]}"#, &rules) else { panic!() };
        assert_eq!(job.email.as_str(), "desk@example.com");
        assert_eq!(
            parse(br#"{"userId":"u","password":1,"email":"nobody"}"#, &rules).unwrap_err().reason,
            Reason::InvalidJob
        );
    }

    #[test]
    fn each_rule_refuses_with_its_field() {
        use Reason::{AttributeNotAllowed, InvalidJob, NoAddress};
        refused("", InvalidJob, "ends too early");
        refused("hunter2", InvalidJob, "not JSON");
        refused("\"hunter2\"", InvalidJob, "not an object");
        refused("[1]", InvalidJob, "not an object");
        refused(r#"{"userId":"u"} x"#, InvalidJob, "not JSON");
        refused(r#"{"userName":"hunter2"}"#, InvalidJob, "move it under attributes");
        refused(r#"{"password":1,"password":2}"#, InvalidJob, "twice");
        refused(r#"{"password":1}"#, InvalidJob, "userId: it is missing");
        refused(r#"{"password":1,"userId":7}"#, InvalidJob, "userId: it is a number");
        refused(r#"{"password":1,"userId":"a/hunter2"}"#, InvalidJob, "userId: character 2");
        refused(r#"{"password":1,"userId":"u"}"#, NoAddress, "fallback_address");
        refused(r#"{"password":1,"userId":"u","emails":[{}]}"#, NoAddress, "emails[0]");
        refused(r#"{"password":1,"userId":"u","email":"hunter2"}"#, InvalidJob, "email: it has no @");
        refused(r#"{"password":1,"userId":"u","email":{"hunter2":1}}"#, InvalidJob, "email: it is an object");
        refused(r#"{"password":1,"userId":"u","emails":"hunter2"}"#, InvalidJob, "emails: it is text");
        refused(r#"{"password":1,"userId":"u","emails":[{"value":"hunter2"}]}"#, InvalidJob, "emails[0].value");
        refused(
            r#"{"password":1,"userId":"u","email":"a@b","attributes":["hunter2"]}"#,
            InvalidJob,
            "attributes: it is a list",
        );
        refused(r#"{"password":1,"userId":"u","email":"a@b","attributes":{"title":1,"title":2}}"#, InvalidJob, "twice");
        refused(r#"{"password":1,"userId":"u","email":"a@b","attributes":{"":1}}"#, InvalidJob, "empty");
        refused(
            r#"{"password":1,"userId":"u","email":"a@b","attributes":{"manager":"hunter2"}}"#,
            AttributeNotAllowed,
            "manager",
        );
        refused(
            r#"{"password":1,"userId":"u","email":"a@b","attributes":{"password":"hunter2"}}"#,
            AttributeNotAllowed,
            "never an attribute",
        );
    }

    #[test]
    fn size_and_unknown_fields_come_before_the_intent() {
        let large = format!(r#"{{"password":false,"email":"{}"}}"#, "x".repeat(MAX_BODY));
        refused(&large, Reason::InvalidJob, "bytes");
        refused(r#"{"password":false,"more":1}"#, Reason::InvalidJob, "unknown field");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_job_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes, &rules());
        }

        #[test]
        fn any_fields_are_a_job_or_an_error(user in any::<String>(), email in any::<String>(), name in any::<String>()) {
            let body = serde_json::json!({"userId": user, "password": true, "email": email, "attributes": {name: 1}});
            let _ = parse(body.to_string().as_bytes(), &rules());
        }
    }
}
