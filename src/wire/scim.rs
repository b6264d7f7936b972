//! SCIM as this org takes it: the PATCH in both wire forms, and what its answers say.
//!
//! Sources: RFC 7644, sections 3.5.2 (PATCH) and 3.12 (errors); the extension's urn and the platform's own error body: `docs/ARCHITECTURE.md`, "Facts".

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::secret_json;
use crate::domain::{attribute::Attribute, form::ExtensionForm};

const PATCH_OP: &str = "urn:ietf:params:scim:api:messages:2.0:PatchOp";
const ENVELOPE: &str = "urn:ietf:params:scim:schemas:extension:genesys:2.0:User";
const URN: &str = "urn:ietf:params:scim:schemas:extension:genesys:purecloud:2.0:User";

#[derive(Serialize)]
struct Patch<'a> {
    schemas: [&'a str; 1],
    #[serde(rename = "Operations")]
    operations: Vec<Operation<'a>>,
    #[serde(rename = "Extensions", skip_serializing_if = "Vec::is_empty")]
    extensions: Vec<Extension<'a>>,
}

#[derive(Serialize)]
struct Operation<'a> {
    op: &'a str,
    path: String,
    value: Value<'a>,
}

#[derive(Serialize)]
struct Extension<'a> {
    schema: &'a str,
    operations: Vec<Operation<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Value<'a> {
    Text(&'a str),
    Json(&'a RawValue),
}

fn replace<'a>(path: String, value: Value<'a>) -> Operation<'a> {
    Operation { op: "replace", path, value }
}

/// The body that sets the password and the attributes beside it. The bytes zero themselves.
///
/// # Errors
/// Where an attribute's value is not JSON, which parsing a job rules out.
pub fn patch(
    password: &str,
    attributes: &[Attribute],
    form: ExtensionForm,
) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
    let mut operations = vec![replace("password".into(), Value::Text(password))];
    let mut envelope = Vec::new();
    for Attribute { name, json } in attributes {
        let value = Value::Json(serde_json::from_str(json)?);
        match (name.extension(), form) {
            (None, _) => operations.push(replace(name.as_str().to_owned(), value)),
            (Some(_), ExtensionForm::Envelope) => envelope.push(replace(name.as_str().to_owned(), value)),
            (Some(bare), ExtensionForm::Urn) => operations.push(replace(format!("{URN}:{bare}"), value)),
        }
    }
    let extensions =
        if envelope.is_empty() { Vec::new() } else { vec![Extension { schema: ENVELOPE, operations: envelope }] };
    Ok(secret_json(&Patch { schemas: [PATCH_OP], operations, extensions }))
}

/// What an error's body says, of both kinds: SCIM's (`scimType`, `detail`) and the platform's (`code`, `message`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ErrorBody {
    /// RFC 7644, section 3.12.
    #[serde(deserialize_with = "text")]
    pub scim_type: Option<String>,
    /// What SCIM says of it.
    #[serde(deserialize_with = "text")]
    pub detail: Option<String>,
    /// The platform's code, such as `missing.permissions`.
    #[serde(deserialize_with = "text")]
    pub code: Option<String>,
    /// What the platform says of it.
    #[serde(deserialize_with = "text")]
    pub message: Option<String>,
}

/// Text, or nothing where something else stands there: one odd field must not hide the others.
fn text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(serde_json::Value::deserialize(deserializer)?.as_str().map(str::to_owned))
}

impl ErrorBody {
    /// Reads a body; what is no JSON object says nothing.
    pub fn parse(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }

    /// Both halves in one line, or `None` where the body said nothing.
    pub fn line(&self) -> Option<String> {
        let parts = [&self.scim_type, &self.detail, &self.code, &self.message];
        let said: Vec<&str> = parts.into_iter().flatten().map(String::as_str).filter(|part| !part.is_empty()).collect();
        (!said.is_empty()).then(|| said.join(": "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::attribute::AttributeName;

    fn attribute(name: &str, json: &str) -> Attribute {
        Attribute { name: AttributeName::parse(name).unwrap(), json: json.into() }
    }

    fn body(attributes: &[Attribute], form: ExtensionForm) -> String {
        String::from_utf8(patch("p-w", attributes, form).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn a_password_alone_has_one_operation_and_no_extensions() {
        let expected = r#"{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[{"op":"replace","path":"password","value":"p-w"}]}"#;
        assert_eq!(body(&[], ExtensionForm::Envelope), expected);
        assert_eq!(body(&[], ExtensionForm::Urn), expected);
    }

    #[test]
    fn extension_attributes_go_into_the_envelope_or_become_operations() {
        let both = [
            attribute("title", "\"Agent\""),
            attribute("genesys:routingLanguages", r#"[{"value":"en","proficiency":4.0}]"#),
        ];
        insta::assert_snapshot!(body(&both, ExtensionForm::Envelope), @r#"{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[{"op":"replace","path":"password","value":"p-w"},{"op":"replace","path":"title","value":"Agent"}],"Extensions":[{"schema":"urn:ietf:params:scim:schemas:extension:genesys:2.0:User","operations":[{"op":"replace","path":"genesys:routingLanguages","value":[{"value":"en","proficiency":4.0}]}]}]}"#);
        insta::assert_snapshot!(body(&both, ExtensionForm::Urn), @r#"{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[{"op":"replace","path":"password","value":"p-w"},{"op":"replace","path":"title","value":"Agent"},{"op":"replace","path":"urn:ietf:params:scim:schemas:extension:genesys:purecloud:2.0:User:routingLanguages","value":[{"value":"en","proficiency":4.0}]}]}"#);
    }

    #[test]
    fn both_error_bodies_are_read_and_odd_fields_hide_nothing() {
        let scim = ErrorBody::parse(br#"{"schemas":["x"],"status":"400","scimType":"invalidVers","detail":"stale"}"#);
        assert_eq!(scim.line().unwrap(), "invalidVers: stale");
        let platform = ErrorBody::parse(
            br#"{"message":"no","code":"missing.permissions","status":403,"contextId":"c","details":[],"errors":[]}"#,
        );
        assert_eq!(platform.line().unwrap(), "missing.permissions: no");
        assert_eq!(ErrorBody::parse(br#"{"detail":7,"code":"c"}"#).line().unwrap(), "c");
        for nothing in ["", "<html>", "[]", "null", "{}"] {
            assert_eq!(ErrorBody::parse(nothing.as_bytes()).line(), None, "{nothing}");
        }
    }
}
