//! The JSON Schema of a job: what `parse` takes, said to whoever writes jobs. It is written beside the parser, out of the same limits, and a
//! test compares the two on some thousand bodies.
//!
//! What a schema cannot say: the size of a body, a field that stands twice, the bytes of an address and most of what it may not have outside
//! ASCII, and what the worker's configuration decides (`wire.allowed_attributes`, `notification.fallback_address`).

use schemars::{Schema, json_schema};
use serde_json::{Value, json};

use super::field::{ATTRIBUTES, EMAIL, EMAILS, PASSWORD, USER_ID, USER_NAME};
use crate::domain::attribute::AttributeName;
use crate::domain::user::{EmailAddress, UserId, UserName};

/// Control characters, for a class of a pattern.
const CONTROL: &str = r"\x00-\x1f\x7f-\x9f";
/// Outside ASCII, what is no letter or digit and still comes into addresses: what is not seen, and quotes and dashes. Not all of it:
/// a class of Unicode's is not known to every validator.
const UNWRITTEN: &str = r"\u00a0-\u00a9\u00ab-\u00b1\u00b4\u00b6-\u00b8\u00bb\u00bf\u00d7\u00f7\u2000-\u206f\u2e00-\u2e2e\ufeff\uff20\ufffd";

/// The schema of a body. Without intent its other fields are not looked at.
pub fn schema() -> Schema {
    json_schema!({
        "title": "Job",
        "description": "The wish to reset a user's password. At most 64 KiB of JSON in UTF-8.",
        "type": "object",
        "properties": {
            USER_ID: {"description": "The user's id at Genesys Cloud."},
            USER_NAME: {"description": "The name the user logs in with, in place of the id, which the worker then asks the org for."},
            PASSWORD: {"description": "The intent to reset. Absent, false, null or \"\": nothing is done, and the job is acked. The value itself is never used."},
            EMAIL: {"description": "Who is told. Without it and without emails[0].value the worker's notification.fallback_address is, or else the job is dead-lettered."},
            EMAILS: {"description": "The same, as SCIM has it: the first one's value."},
            ATTRIBUTES: {"description": "What is set beside the password, as far as the worker's wire.allowed_attributes allows it."},
        },
        "additionalProperties": false,
        "if": {"required": [PASSWORD], "properties": {PASSWORD: {"not": {"enum": [false, null, ""]}}}},
        "then": {"allOf": [who(), address(), attributes()]},
        "examples": [
            {USER_ID: "0f6e7c1a-5b7e-4e0b-9d0c-6f1f5d1c2a3b", PASSWORD: true, EMAIL: "agent@example.com", ATTRIBUTES: {"title": "Agent"}},
        ],
    })
}

/// What counts as if the field were not there.
fn absent() -> Value {
    json!({"enum": [null, ""]})
}

/// One of both, and not both.
fn who() -> Value {
    let id = json!({
        "type": "string", "minLength": 1, "maxLength": UserId::MAX, "pattern": format!("^[A-Za-z0-9{}]+$", UserId::MARKS),
        "not": {"enum": [".", ".."]},
    });
    let name =
        json!({"type": "string", "minLength": 1, "maxLength": UserName::MAX, "pattern": format!("^[^{CONTROL}]+$")});
    json!({"oneOf": [
        {"required": [USER_ID], "properties": {USER_ID: id, USER_NAME: absent()}},
        {"required": [USER_NAME], "properties": {USER_NAME: name, USER_ID: absent()}},
    ]})
}

/// `email`, or else the first of `emails`, or neither.
fn address() -> Value {
    let other = format!(r#"\s{CONTROL}{UNWRITTEN}<>.,;:()\[\]\\"@"#);
    // In a class none of these has to be escaped, and where a validator reads patterns by Unicode (ECMA-262, flag u) most of them must not.
    let marks: String = EmailAddress::MARKS.chars().filter(|c| !"-_".contains(*c)).collect();
    let (edge, inner) = (format!("[^{other}{marks}_-]"), format!("[^{other}{marks}]"));
    let label = format!("{edge}(?:{inner}{{0,61}}{edge})?");
    let short = format!("(?=[^@]{{1,{}}}@)", EmailAddress::MAX_LOCAL);
    let pattern = format!(r"^{short}[^{other}]+(?:\.[^{other}]+)*@{label}(?:\.{label})*$");
    let address = json!({"type": "string", "maxLength": EmailAddress::MAX, "pattern": pattern});
    let value = json!({"anyOf": [absent(), address]});
    let first = json!({"type": "object", "properties": {"value": value}});
    json!({"anyOf": [
        {"required": [EMAIL], "properties": {EMAIL: address}},
        {"properties": {EMAIL: absent(), EMAILS: {"type": ["array", "null"], "prefixItems": [first]}}},
    ]})
}

/// Each becomes an operation; none is the password by another way.
fn attributes() -> Value {
    let refused = json!({"anyOf": [{"const": AttributeName::EXTENSION}, {"pattern": "(?:^|[:.])[Pp][Aa][Ss][Ss][Ww][Oo][Rr][Dd]$"}]});
    let name = json!({"maxLength": AttributeName::MAX, "pattern": r"^[\x21-\x7e]+$", "not": refused});
    json!({"properties": {ATTRIBUTES: {"type": ["object", "null"], "propertyNames": name}}})
}

#[cfg(test)]
mod tests;
