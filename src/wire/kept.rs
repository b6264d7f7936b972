//! What may be kept of a job's body where it is looked at by others, in a dead letter above all: by permission and not by prohibition.
//! The fields of a job and the attributes that the configuration allows, each where its value is of the form it must have; of all else
//! the name.

use serde_json::Value;
use serde_json::value::RawValue;

use super::job::{MAX_BODY, asks_for_reset, field};
use super::object::{Pairs, Whole, is_reserved, names};
use super::recipient::{FIELDS, Field};
use super::redact::speaks_of_a_secret;
use super::short_name;
use super::value::{Text, text};
use crate::domain::attribute::{AllowedAttributes, AttributeName};
use crate::domain::user::{UserId, UserName};

/// What is missing where nothing of a body is kept.
const BODY: &str = "body";

/// What is kept of a body, and the names of what is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// A body with what is kept; empty where nothing is.
    pub body: Vec<u8>,
    /// What is not kept though it counts: without it this is not the job that it was. Each name once, fit for one line of text.
    pub missing: Vec<String>,
    /// What is not kept and is not read either.
    pub left_out: Vec<String>,
}

impl Kept {
    fn nothing() -> Self {
        Self { missing: vec![BODY.into()], ..Self::default() }
    }

    /// Says of a value that is not kept that it is missing, or, where nobody reads it, that it is left out.
    fn say(&mut self, name: String, counts: bool) {
        let names = if counts { &mut self.missing } else { &mut self.left_out };
        if !names.contains(&name) {
            names.push(name);
        }
    }
}

/// What may be kept of a body. Where nothing is missing, it is read as the body itself is: see [`super::job::parse`].
pub fn of(body: &[u8], allowed: &AllowedAttributes) -> Kept {
    let Some(pairs) = fields(body) else { return Kept::nothing() };
    let once = pairs.once();
    let only = |name: &str| once.get(name).copied().flatten();
    // What is not read needs no form.
    let is_read = asks_for_reset(only(field::PASSWORD));
    let is_given = |field: &Field| !matches!(field.text(only(field.name)), Ok(Text::Absent));
    let mut kept = Kept::default();
    let mut written = Object::default();
    for (name, _) in &pairs.0 {
        let Some(value) = only(name) else {
            kept.say(short_name(name), true);
            continue;
        };
        let mut counts = is_read;
        let value = match name.as_ref() {
            field::USER_ID => text_of_form(value, |text| UserId::parse(text).is_ok()),
            field::USER_NAME => text_of_form(value, |text| UserName::parse(text).is_ok()),
            field::PASSWORD => Some(if asks_for_reset(Some(value)) { "true".into() } else { value.get().into() }),
            field::ATTRIBUTES => attributes(value, allowed, is_read, &mut kept),
            other => match FIELDS.iter().position(|field| field.name == other) {
                // Only the first that is given is read.
                Some(at) => {
                    counts &= !FIELDS[..at].iter().any(is_given);
                    recipient(&FIELDS[at], value, &mut kept)
                }
                None => {
                    counts = true;
                    None
                }
            },
        };
        match value {
            Some(value) => written.say(name, &value),
            None => kept.say(short_name(name), counts),
        }
    }
    let written = written.end();
    // `true` may be longer than what stood in its place.
    if written.len() > MAX_BODY {
        return Kept::nothing();
    }
    Kept { body: written.into_bytes(), ..kept }
}

/// The top level of what could be a job, as [`super::job::parse`] takes it.
fn fields(body: &[u8]) -> Option<Pairs<'_>> {
    if body.len() > MAX_BODY {
        return None;
    }
    let Whole = serde_json::from_slice(body).ok()?;
    serde_json::from_slice(body).ok()
}

/// A text that fits, or none (`null` or `""`), as it was written; and one word that does not fit, so that it can be seen whose job it was.
fn text_of_form(value: &RawValue, fits: impl Fn(&str) -> bool) -> Option<String> {
    let is_kept = match text(Some(value)) {
        Text::Absent => true,
        Text::Given(text) => fits(&text) || is_a_word(&text),
        Text::Other(_) => false,
    };
    is_kept.then(|| value.get().to_owned())
}

/// Neither a sentence nor something that holds names and values.
fn is_a_word(text: &str) -> bool {
    let is_plain = |c: char| c.is_alphanumeric() || "._~-/@+\\#%$!".contains(c);
    text.len() <= 256 && text.chars().all(is_plain) && !speaks_of_a_secret(text)
}

/// Who is told; of a list the first, which alone is read. What else is there is named.
fn recipient(field: &Field, value: &RawValue, kept: &mut Kept) -> Option<String> {
    if field.list_of.is_none() {
        return text_of_form(value, |text| field.fits(text));
    }
    let first = first_of(field, value)?;
    let entries: Vec<&RawValue> = serde_json::from_str(value.get()).unwrap_or_default();
    let entry = entries.first().and_then(|first| serde_json::from_str::<Pairs<'_>>(first.get()).ok());
    for (name, _) in entry.iter().flat_map(|entry| &entry.0).filter(|(name, _)| name != "value") {
        kept.say(format!("{}[0].{}", field.name, short_name(name)), false);
    }
    if entries.len() > 1 {
        kept.say(format!("{}[1]", field.name), false);
    }
    Some(first)
}

fn first_of(field: &Field, value: &RawValue) -> Option<String> {
    match field.text(Some(value)).ok()? {
        Text::Absent => Some("[]".into()),
        Text::Given(text) if field.fits(&text) || is_a_word(&text) => {
            Some(format!(r#"[{{"value":{}}}]"#, Value::from(text)))
        }
        Text::Given(_) | Text::Other(_) => None,
    }
}

/// Those that are allowed, their values as they were written. One that speaks of a secret, in its name or in a key within it, is not
/// kept though it is allowed.
fn attributes(value: &RawValue, allowed: &AllowedAttributes, is_read: bool, kept: &mut Kept) -> Option<String> {
    if value.get() == "null" {
        return Some("null".into());
    }
    let pairs: Pairs<'_> = serde_json::from_str(value.get()).ok()?;
    let once = pairs.once();
    let mut written = Object::default();
    for (name, value) in &pairs.0 {
        let is_once = once.get(name.as_ref()).is_some_and(Option::is_some);
        let is_allowed = AttributeName::parse(name).is_ok_and(|name| allowed.allow(&name));
        let mut is_plain = !speaks_of_a_secret(name) && !is_reserved(name);
        names(value, &mut |key| is_plain &= !speaks_of_a_secret(key) && !is_reserved(key));
        if is_once && is_allowed && is_plain {
            written.say(name, value.get());
        } else {
            kept.say(format!("{}.{}", field::ATTRIBUTES, short_name(name)), is_read);
        }
    }
    Some(written.end())
}

/// A JSON object as it is written.
#[derive(Default)]
struct Object(String);

impl Object {
    fn say(&mut self, name: &str, json: &str) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        self.0 += &Value::from(name).to_string();
        self.0.push(':');
        self.0 += json;
    }

    fn end(mut self) -> String {
        if self.0.is_empty() {
            self.0.push('{');
        }
        self.0.push('}');
        self.0
    }
}

#[cfg(test)]
mod tests;
