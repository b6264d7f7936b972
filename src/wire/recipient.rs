//! How a job says who is told: its fields for that, read, described to producers, and written again. What parses, describes, keeps or shows a job takes them from here.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::schema::{CONTROL, absent};
use super::value::{Text, shape_of, text};
use crate::domain::recipient::{EmailAddress, Recipient};
use crate::domain::refusal::Refusal;

const EMAIL: &str = "email";
const EMAILS: &str = "emails";

/// A field that says who is told.
#[derive(Debug)]
pub struct Field {
    /// Its name in a job.
    pub name: &'static str,
    /// Of a list as SCIM has it (RFC 7643, section 4.1.2), whose first `value` counts: the field that says the same as text.
    pub list_of: Option<&'static str>,
    /// What producers are told of it.
    pub description: &'static str,
}

/// All of them, in the order in which they are read: the first that is given counts.
pub const FIELDS: [Field; 2] = [
    Field {
        name: EMAIL,
        list_of: None,
        description: "Who is told. Without it and without emails[0].value the worker's notification.fallback_address is, or else the job is dead-lettered.",
    },
    Field { name: EMAILS, list_of: Some(EMAIL), description: "The same, as SCIM has it: the first one's value." },
];

/// The names of those that are text, and so a column of a CSV file each.
pub fn columns() -> impl Iterator<Item = &'static str> {
    FIELDS.iter().filter(|field| field.list_of.is_none()).map(|field| field.name)
}

/// What is said where none is given.
pub(super) const MISSING: &str = "email: it is missing, emails[0].value too";

/// The field that a recipient is written to, and its value.
pub fn written(recipient: &Recipient) -> (&'static str, &str) {
    match recipient {
        Recipient::Email(_) => (EMAIL, recipient.as_str()),
    }
}

impl Field {
    /// The place of its value in a job, for refusals.
    pub(super) fn place(&self) -> String {
        self.list_of.map_or_else(|| self.name.to_owned(), |_| format!("{}[0].value", self.name))
    }

    /// Its text, or that of the first in its list.
    pub(super) fn text(&self, value: Option<&RawValue>) -> Result<Text, Refusal> {
        #[derive(Deserialize)]
        struct Entry<'a> {
            #[serde(borrow)]
            value: Option<&'a RawValue>,
        }
        if self.list_of.is_none() {
            return Ok(text(value));
        }
        let Some(list) = value.filter(|raw| raw.get() != "null") else { return Ok(Text::Absent) };
        let (name, shape) = (self.name, shape_of(list.get()));
        let wrong = || Refusal(format!("{name}: it is {shape}; it must be a list of objects with a value"));
        let list: Vec<&RawValue> = serde_json::from_str(list.get()).map_err(|_| wrong())?;
        let Some(first) = list.first() else { return Ok(Text::Absent) };
        let entry: Entry<'_> = serde_json::from_str(first.get()).map_err(|_| wrong())?;
        Ok(text(entry.value))
    }

    /// Whom its value names; `None`: nobody.
    pub(super) fn recipient(&self, value: Option<&RawValue>) -> Result<Option<Recipient>, Refusal> {
        match self.text(value)? {
            Text::Absent => Ok(None),
            Text::Given(text) => Recipient::parse(&self.place(), &text).map(Some),
            Text::Other(shape) => {
                Err(Refusal(format!("{}: it is {shape}; it must be text of the form local@domain", self.place())))
            }
        }
    }

    /// Whether a text names somebody.
    pub(super) fn fits(&self, text: &str) -> bool {
        Recipient::parse(self.name, text).is_ok()
    }
}

/// Outside ASCII, what is no letter or digit and still comes into addresses: what is not seen, and quotes and dashes. Not all of it:
/// a class of Unicode's is not known to every validator.
const UNWRITTEN: &str = r"\u00a0-\u00a9\u00ab-\u00b1\u00b4\u00b6-\u00b8\u00bb\u00bf\u00d7\u00f7\u2000-\u206f\u2e00-\u2e2e\ufeff\uff20\ufffd";

/// What is allowed of them: `email`, or else the first of `emails`, or neither.
pub(super) fn schema() -> Value {
    let address = address();
    let value = json!({"anyOf": [absent(), address]});
    let first = json!({"type": "object", "properties": {"value": value}});
    json!({"anyOf": [
        {"required": [EMAIL], "properties": {EMAIL: address}},
        {"properties": {EMAIL: absent(), EMAILS: {"type": ["array", "null"], "prefixItems": [first]}}},
    ]})
}

fn address() -> Value {
    let other = format!(r#"\s{CONTROL}{UNWRITTEN}<>.,;:()\[\]\\"@"#);
    // In a class none of these has to be escaped, and where a validator reads patterns by Unicode (ECMA-262, flag u) most of them must not.
    let marks: String = EmailAddress::MARKS.chars().filter(|c| !"-_".contains(*c)).collect();
    let (edge, inner) = (format!("[^{other}{marks}_-]"), format!("[^{other}{marks}]"));
    let label = format!("{edge}(?:{inner}{{0,61}}{edge})?");
    let short = format!("(?=[^@]{{1,{}}}@)", EmailAddress::MAX_LOCAL);
    let pattern = format!(r"^{short}[^{other}]+(?:\.[^{other}]+)*@{label}(?:\.{label})*$");
    json!({"type": "string", "maxLength": EmailAddress::MAX, "pattern": pattern})
}
