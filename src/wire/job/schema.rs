//! The JSON Schema of a job: what `parse` takes, said to whoever writes jobs. It is written beside the parser, out of the same limits, and a
//! test compares the two on some thousand bodies.
//!
//! What a schema cannot say: the size of a body, a field that stands twice, the bytes of an address and most of what it may not have outside
//! ASCII, and what the worker's configuration decides (`wire.allowed_attributes`, `notification.fallback_address`).

use schemars::{Schema, json_schema};
use serde_json::{Map, Value, json};

use super::field::{ATTRIBUTES, PASSWORD, USER_ID, USER_NAME};
use crate::domain::attribute::AttributeName;
use crate::domain::user::{UserId, UserName};
use crate::wire::recipient::{self, FIELDS};
use crate::wire::schema::{CONTROL, absent};

/// The schema of a body. Without intent its other fields are not looked at.
pub fn schema() -> Schema {
    json_schema!({
        "title": "Job",
        "description": "The wish to reset a user's password. At most 64 KiB of JSON in UTF-8.",
        "type": "object",
        "properties": properties(),
        "additionalProperties": false,
        "if": {"required": [PASSWORD], "properties": {PASSWORD: {"not": {"enum": [false, null, ""]}}}},
        "then": {"allOf": [who(), recipient::schema(), attributes()]},
        "examples": [
            {USER_ID: "0f6e7c1a-5b7e-4e0b-9d0c-6f1f5d1c2a3b", PASSWORD: true, "email": "agent@example.com", ATTRIBUTES: {"title": "Agent"}},
        ],
    })
}

/// What is said of each field.
fn properties() -> Map<String, Value> {
    let user = [
        (USER_ID, "The user's id at Genesys Cloud."),
        (USER_NAME, "The name the user logs in with, in place of the id, which the worker then asks the org for."),
        (
            PASSWORD,
            "The intent to reset. Absent, false, null or \"\": nothing is done, and the job is acked. The value itself is never used.",
        ),
    ];
    let recipient = FIELDS.iter().map(|field| (field.name, field.description));
    let beside = "What is set beside the password, as far as the worker's wire.allowed_attributes allows it.";
    let all = user.into_iter().chain(recipient).chain([(ATTRIBUTES, beside)]);
    all.map(|(name, description)| (name.to_owned(), json!({"description": description}))).collect()
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

/// Each becomes an operation; none is the password by another way.
fn attributes() -> Value {
    let refused = json!({"anyOf": [{"const": AttributeName::EXTENSION}, {"pattern": "(?:^|[:.])[Pp][Aa][Ss][Ss][Ww][Oo][Rr][Dd]$"}]});
    let name = json!({"maxLength": AttributeName::MAX, "pattern": r"^[\x21-\x7e]+$", "not": refused});
    json!({"properties": {ATTRIBUTES: {"type": ["object", "null"], "propertyNames": name}}})
}

#[cfg(test)]
mod tests;
