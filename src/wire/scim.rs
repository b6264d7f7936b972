//! SCIM as this org takes it: the PATCH in both wire forms, the search for a user by name, and what its answers say.
//!
//! Sources: RFC 7644, sections 3.4.2 (search), 3.5.2 (PATCH) and 3.12 (errors); the extension's urn and the platform's own error body:
//! `docs/development/facts.md#genesys-cloud`.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::secret_json;
use crate::domain::{
    attribute::Attribute,
    form::ExtensionForm,
    user::{UserId, UserName},
};

const PATCH_OP: &str = "urn:ietf:params:scim:api:messages:2.0:PatchOp";
const ERROR: &str = "urn:ietf:params:scim:api:messages:2.0:Error";
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

/// The query that searches for a user by name: the filter's value is a JSON string (RFC 7644, section 3.4.2.2), and everything but
/// unreserved characters is percent-encoded (RFC 3986, section 2.1).
pub fn search(name: &UserName) -> String {
    let value = serde_json::Value::from(name.as_str());
    let mut query = String::from("filter=");
    for byte in format!("userName eq {value}").bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            query.push(char::from(byte));
        } else {
            query += &format!("%{byte:02X}");
        }
    }
    query
}

/// Whom a search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// One user of this name.
    One(UserId),
    /// Nobody.
    Nobody,
    /// More than one, or more than the answer shows.
    Several,
}

/// Reads the answer to a search; `None` where it is none (RFC 7644, section 3.4.2). Only a user of exactly that name is taken,
/// whatever the org made of the filter.
pub fn found(body: &[u8], name: &UserName) -> Option<Found> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct List {
        total_results: u64,
        #[serde(rename = "Resources", default)]
        resources: Vec<Resource>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Resource {
        #[serde(deserialize_with = "text", default)]
        id: Option<String>,
        #[serde(deserialize_with = "text", default)]
        user_name: Option<String>,
    }
    let list: List = serde_json::from_slice(body).ok()?;
    let is_whole = list.total_results <= list.resources.len() as u64;
    let mut same = list.resources.iter().filter(|user| user.user_name.as_deref().is_some_and(|other| name.is(other)));
    match (same.next(), same.next()) {
        (Some(user), None) if is_whole => Some(Found::One(UserId::parse(user.id.as_deref()?).ok()?)),
        (None, _) if is_whole => Some(Found::Nobody),
        (Some(_) | None, _) => Some(Found::Several),
    }
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
    /// Whether the platform lists more beside that, in `errors` or `details`.
    #[serde(skip)]
    pub lists_more: bool,
}

/// Where the platform lists what else is wrong.
#[derive(Default, Deserialize)]
#[serde(default)]
struct More {
    errors: serde_json::Value,
    details: serde_json::Value,
}

impl More {
    fn is_there(&self) -> bool {
        let says_nothing = |value: &serde_json::Value| {
            value.is_null() || value.as_array().is_some_and(Vec::is_empty) || value.as_str() == Some("")
        };
        !says_nothing(&self.errors) || !says_nothing(&self.details)
    }
}

/// Text, or nothing where something else stands there: one odd field must not hide the others.
fn text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(serde_json::Value::deserialize(deserializer)?.as_str().map(str::to_owned))
}

impl ErrorBody {
    /// Reads a body; what is no JSON object says nothing.
    pub fn parse(body: &[u8]) -> Self {
        let said: Self = serde_json::from_slice(body).unwrap_or_default();
        let more: More = serde_json::from_slice(body).unwrap_or_default();
        Self { lists_more: more.is_there(), ..said }
    }

    /// Both halves in one line, or `None` where the body said nothing.
    pub fn line(&self) -> Option<String> {
        let parts = [&self.scim_type, &self.detail, &self.code, &self.message];
        let said: Vec<&str> = parts.into_iter().flatten().map(String::as_str).filter(|part| !part.is_empty()).collect();
        (!said.is_empty()).then(|| said.join(": "))
    }
}

/// What an answer's body looks like, as far as it shows whose answer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// There is none.
    Nothing,
    /// An error, SCIM's (RFC 7644, section 3.12) or the platform's own.
    Error,
    /// Another JSON object, such as a SCIM resource; or the beginning of one, of which no more came.
    Object,
    /// A page for people.
    Html,
    /// Anything else.
    Other,
}

impl Said {
    /// Judges a body by its `Content-Type`, and by itself.
    pub fn of(content_type: Option<&str>, body: &[u8]) -> Self {
        let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body).trim_ascii();
        let kind = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let is_of = |kinds: &[&str]| kinds.iter().any(|known| kind.eq_ignore_ascii_case(known));
        match body.first() {
            None => Self::Nothing,
            Some(_) if is_of(&["text/html", "application/xhtml+xml"]) => Self::Html,
            Some(b'<') if kind.is_empty() || is_of(&["application/octet-stream"]) => Self::Html,
            Some(b'{') if is_error(body) => Self::Error,
            Some(b'{') => Self::Object,
            Some(_) => Self::Other,
        }
    }
}

/// Whether a JSON object is an error: by its schema, or by the fields that each of the two kinds has. Their `status`, where there is one,
/// must be that of a failure.
fn is_error(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Marks {
        #[serde(default)]
        schemas: serde_json::Value,
        #[serde(default)]
        status: serde_json::Value,
    }
    let Ok(marks) = serde_json::from_slice::<Marks>(body) else { return false };
    let said = ErrorBody::parse(body);
    let schemas = marks.schemas.as_array().into_iter().flatten().filter_map(serde_json::Value::as_str);
    let is_scim = schemas.into_iter().any(|schema| schema.eq_ignore_ascii_case(ERROR));
    let status = marks.status.as_u64().or_else(|| marks.status.as_str()?.parse().ok());
    let has_fields = (said.detail.is_some() && status.is_some()) || (said.code.is_some() && said.message.is_some());
    is_scim || (has_fields && status.is_none_or(|status| status >= 400))
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
    fn a_name_is_escaped_for_the_filter_and_for_the_query() {
        let query = |name: &str| search(&UserName::parse(name).unwrap());
        assert_eq!(query("a@b.c"), "filter=userName%20eq%20%22a%40b.c%22");
        assert_eq!(query(r#"x" or "1"#), "filter=userName%20eq%20%22x%5C%22%20or%20%5C%221%22");
        assert_eq!(query(r"a\b&c=d+ü%41#"), "filter=userName%20eq%20%22a%5C%5Cb%26c%3Dd%2B%C3%BC%2541%23%22");
    }

    #[test]
    fn only_the_one_user_of_exactly_that_name_is_found() {
        let name = UserName::parse("Ann@x").unwrap();
        let check = |total: u64, users: &[(&str, &str)], expected: Option<Found>| {
            let users: Vec<_> =
                users.iter().map(|(id, name)| serde_json::json!({"id": id, "userName": name})).collect();
            let list = serde_json::json!({"totalResults": total, "Resources": users}).to_string();
            assert_eq!(found(list.as_bytes(), &name), expected, "{list}");
        };
        let one = || Some(Found::One(UserId::parse("u-1").unwrap()));
        check(1, &[("u-1", "ann@X")], one());
        check(0, &[], Some(Found::Nobody));
        check(1, &[("u-1", "ann@xy")], Some(Found::Nobody));
        check(2, &[("u-1", "ann@x"), ("u-2", "joann@x")], one());
        check(2, &[("u-1", "ann@x"), ("u-2", "Ann@x")], Some(Found::Several));
        check(9, &[("u-1", "ann@x")], Some(Found::Several));
        check(9, &[("u-1", "bob@x")], Some(Found::Several));
        check(1, &[("../u", "ann@x")], None);
        assert_eq!(found(br#"{"totalResults":0}"#, &name), Some(Found::Nobody));
        assert_eq!(
            found(br#"{"totalResults":1,"Resources":[{"id":7,"userName":["ann@x"]}]}"#, &name),
            Some(Found::Nobody)
        );
        for none in ["", "[]", "{}", "<html>", r#"{"totalResults":"1"}"#] {
            assert_eq!(found(none.as_bytes(), &name), None, "{none}");
        }
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

    #[test]
    fn a_body_shows_whose_answer_it_is() {
        let scim = r#"{"schemas":["urn:ietf:params:scim:api:messages:2.0:Error"],"status":"404","detail":"no user"}"#;
        let platform = r#"{"message":"no","code":"not.found","status":404,"contextId":"c","details":[],"errors":[]}"#;
        let user =
            r#"{"schemas":["urn:ietf:params:scim:schemas:core:2.0:User"],"id":"u-1","detail":"x","active":true}"#;
        let json = Some("application/json; charset=utf-8");
        for (kind, body, said) in [
            (None, "", Said::Nothing),
            (Some("text/html"), " \r\n", Said::Nothing),
            (json, scim, Said::Error),
            (None, scim, Said::Error),
            (json, platform, Said::Error),
            (json, r#"{"schemas":["urn:ietf:params:scim:api:messages:2.0:error"]}"#, Said::Error),
            (json, r#"{"status":400,"detail":"bad"}"#, Said::Error),
            (json, r#"{"code":"a.b","message":"c"}"#, Said::Error),
            (json, user, Said::Object),
            (Some("application/scim+json"), &user[..40], Said::Object),
            (json, r#"{"code":"ok","message":"OK","status":200}"#, Said::Object),
            (json, r#"{"message":"no Route matched with those values"}"#, Said::Object),
            (json, "{}", Said::Object),
            (json, "\u{feff}{}", Said::Object),
            (Some("Text/HTML; charset=utf-8"), "<!DOCTYPE html><html></html>", Said::Html),
            (Some("text/html"), r#"{"ok":true}"#, Said::Html),
            (Some("application/xhtml+xml"), "<html/>", Said::Html),
            (None, "<html>", Said::Html),
            (Some("text/plain"), "<html>", Said::Other),
            (Some("text/plain"), "OK", Said::Other),
            (json, "[]", Said::Other),
            (json, "null", Said::Other),
        ] {
            assert_eq!(Said::of(kind, body.as_bytes()), said, "{kind:?} {body}");
        }
    }
}
