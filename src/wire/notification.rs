//! The message for the email queue, written and read back: section 5 of the contract.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use schemars::{JsonSchema, Schema, json_schema};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Text, properties, schema, secret_json};
use crate::domain::job::{JobId, Refusal};
use crate::domain::language::Language;
use crate::domain::note::{Content, Note, NoteId, Words};
use crate::domain::notification::Notification;
use crate::domain::password::Password;
use crate::domain::user::{EmailAddress, UserId};

/// The `type` of the message.
pub const TYPE: &str = "password-reset";
/// The language the person prefers.
const LANGUAGE: &str = "resetd-language";

/// What tells the person, for whoever sends mails. It holds the password.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "Notification")]
struct Body<'a> {
    /// One for each password set, and the `message_id` too: a repeated one may be dropped.
    notification_id: &'a str,
    /// The job it comes from; the `correlation_id` too.
    job_id: &'a str,
    /// The org's name in the worker's configuration.
    org: &'a str,
    /// Whose password was set: the id at the org.
    user_id: &'a str,
    /// Who is told.
    to: &'a str,
    /// One line; it never holds the password.
    subject: &'a str,
    /// The text, with the password in it.
    body: &'a str,
    /// The password alone, for who writes a text of their own.
    temporary_password: &'a str,
    /// When the org confirmed that it is set.
    #[schemars(schema_with = "schema::moment")]
    issued_at: String,
}

/// What tells the person, sealed: who has the private key alone reads the password.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "SealedNotification")]
struct SealedBody<'a> {
    /// One for each password set, and the `message_id` too: a repeated one may be dropped.
    notification_id: &'a str,
    /// The job it comes from; the `correlation_id` too.
    job_id: &'a str,
    /// The org's name in the worker's configuration.
    org: &'a str,
    /// Whose password was set: the id at the org.
    user_id: &'a str,
    /// Who is told.
    to: &'a str,
    /// One line; it never holds the password.
    subject: &'a str,
    /// A compact JWE (RSA-OAEP-256, A256GCM) to the key that its header names by `kid`. In it is JSON: `temporaryPassword` and `body`.
    sealed: &'a str,
    /// When the org confirmed that it is set.
    #[schemars(schema_with = "schema::moment")]
    issued_at: String,
}

/// What is sealed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Secret<'a> {
    temporary_password: &'a str,
    body: &'a str,
}

/// What the email queue gets.
pub fn schema() -> Schema {
    schema::of::<Body<'_>>()
}

/// What it gets where notifications are sealed.
pub fn sealed_schema() -> Schema {
    schema::of::<SealedBody<'_>>()
}

/// What is to be sealed of it. The bytes zero themselves.
pub fn secret(notification: &Notification<'_>) -> Zeroizing<Vec<u8>> {
    let body = notification.template.body(notification.password);
    secret_json(&Secret { temporary_password: notification.password.expose(), body: &body })
}

/// Body and properties. The bytes hold the password, unless its [`secret`] is given sealed, and zero themselves.
pub fn message(
    notification: &Notification<'_>,
    sealed: Option<&str>,
    ttl: Duration,
) -> (Zeroizing<Vec<u8>>, BasicProperties) {
    let (notification_id, job_id) = (notification.issued.notification_id.as_str(), notification.job.as_str());
    let (org, user_id, to) = (notification.org, notification.user.as_str(), notification.to.as_str());
    let (subject, issued_at) = (notification.template.subject(), super::moment(notification.issued.at));
    let body = match sealed {
        Some(sealed) => {
            secret_json(&SealedBody { notification_id, job_id, org, user_id, to, subject, sealed, issued_at })
        }
        None => {
            let body = notification.template.body(notification.password);
            let temporary_password = notification.password.expose();
            let body = &body;
            secret_json(&Body {
                notification_id,
                job_id,
                org,
                user_id,
                to,
                subject,
                body,
                temporary_password,
                issued_at,
            })
        }
    };
    let properties = super::persistent()
        .with_type(TYPE.into())
        .with_message_id(notification.issued.notification_id.as_str().into())
        .with_correlation_id(super::short(notification.job.as_str()))
        .with_expiration(ttl.as_millis().to_string().into());
    (body, headed(properties, notification))
}

/// What the message says beside the body that the contract gives it, where there is something to say.
fn headed(properties: BasicProperties, notification: &Notification<'_>) -> BasicProperties {
    let language = notification.language.map(|language| (LANGUAGE, language.as_str()));
    let batch = notification.batch.map(|batch| (properties::BATCH, batch));
    let mut headers = FieldTable::default();
    for (name, value) in [language, batch].into_iter().flatten() {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let properties = match notification.asked_at {
        Some(at) => properties::asked(properties, at),
        None => properties,
    };
    if headers.inner().is_empty() { properties } else { properties.with_headers(headers) }
}

/// The headers that a worker adds where there is something to say.
pub fn headers_schema() -> Schema {
    json_schema!({
        "title": "Notification's headers",
        "type": "object",
        "properties": {
            LANGUAGE: {"type": "string", "description": "The language that the job's `preferredLanguage` names, as a tag of RFC 5646."},
            properties::BATCH: {"type": "string", "description": "The batch that the job belongs to."},
        },
    })
}

/// The message as it is read back. The two that hold the password are there, or `sealed` in their place.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read<'a> {
    #[serde(borrow)]
    notification_id: Text<'a>,
    #[serde(borrow)]
    job_id: Text<'a>,
    #[serde(borrow)]
    org: Text<'a>,
    #[serde(borrow)]
    user_id: Text<'a>,
    #[serde(borrow)]
    to: Text<'a>,
    #[serde(borrow)]
    subject: Text<'a>,
    #[serde(borrow)]
    body: Option<Text<'a>>,
    #[serde(borrow)]
    temporary_password: Option<Text<'a>>,
    #[serde(borrow)]
    sealed: Option<Text<'a>>,
    #[serde(borrow)]
    issued_at: Text<'a>,
}

/// What was sealed, once it is opened.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Opened<'a> {
    #[serde(borrow)]
    body: Text<'a>,
    #[serde(borrow)]
    temporary_password: Text<'a>,
}

/// Reads a message of the email queue. A header that cannot be read counts as not there: it holds up nobody's password.
///
/// # Errors
/// Where it is no notification. The refusal names the field and the rule, never a value.
pub fn read(body: &[u8], from: &BasicProperties) -> Result<Note, Refusal> {
    let Read { notification_id, job_id, org, user_id, to, subject, body, temporary_password, sealed, issued_at } =
        serde_json::from_slice(body).map_err(|error| unreadable("body", body.len(), &error))?;
    let headers = from.headers().as_ref();
    let language = headers.and_then(|headers| headers.inner().get(LANGUAGE)).and_then(properties::text);
    let content = match (body, temporary_password, sealed) {
        (Some(body), Some(password), None) => Content::Open(words_of(body, password)?),
        (None, None, Some(sealed)) => Content::Sealed(sealed.0.into_owned()),
        (..) => {
            return Err(Refusal(
                "body: it must have the fields body and temporaryPassword, or the field sealed in place of both".into(),
            ));
        }
    };
    Ok(Note {
        id: NoteId::parse(&notification_id.0)?,
        job: named(&job_id.0)?,
        org: org_of(&org.0)?,
        user: UserId::parse(&user_id.0)?,
        to: EmailAddress::parse("to", &to.0)?,
        subject: line(&subject.0)?,
        issued_at: issued_at.0.parse().map_err(|_| {
            Refusal("issuedAt: it is none; it must be a moment such as 2026-11-23T18:00:00Z (RFC 3339)".into())
        })?,
        language: language.and_then(Language::parse),
        batch: properties::batch(headers).ok().flatten(),
        content,
    })
}

/// Reads what was sealed: the JSON object of `temporaryPassword` and `body`.
///
/// # Errors
/// As [`read`].
pub fn words(opened: &[u8]) -> Result<Words, Refusal> {
    let Opened { body, temporary_password } =
        serde_json::from_slice(opened).map_err(|error| unreadable("sealed", opened.len(), &error))?;
    words_of(body, temporary_password)
}

/// Where it cannot be read, and not what stands there: the library's own words may repeat it.
fn unreadable(what: &str, bytes: usize, error: &serde_json::Error) -> Refusal {
    use serde_json::error::Category;
    let wrong = match error.classify() {
        Category::Data => "a field is missing, stands twice or is no text",
        Category::Eof => "it ends too early",
        Category::Syntax | Category::Io => "it is not JSON",
    };
    let (line, column) = (error.line(), error.column());
    Refusal(format!("{what}: {wrong}, at line {line} column {column} of {bytes} bytes; it must be a notification"))
}

fn words_of(body: Text<'_>, password: Text<'_>) -> Result<Words, Refusal> {
    // An owned one is taken over, so that no copy stays behind.
    let (body, password) = (Zeroizing::new(body.0.into_owned()), Zeroizing::new(password.0.into_owned()));
    if password.is_empty() || password.chars().any(char::is_control) {
        return Err(Refusal(
            "temporaryPassword: it is empty or holds a control character; it must be a password".into(),
        ));
    }
    Ok(Words { password: Password::told(password), body })
}

fn named(job: &str) -> Result<JobId, Refusal> {
    if job.is_empty() || job.len() > 255 {
        return Err(Refusal(format!("jobId: it has {} bytes; it must have 1 to 255", job.len())));
    }
    Ok(JobId::new(job))
}

/// An org's name stands in routing keys.
fn org_of(org: &str) -> Result<String, Refusal> {
    let fits = org.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if fits && (1..=32).contains(&org.len()) {
        return Ok(org.to_owned());
    }
    Err(Refusal(format!("org: it is no org's name (a text of {} characters)", org.chars().count())))
}

fn line(subject: &str) -> Result<String, Refusal> {
    if subject.chars().any(char::is_control) {
        return Err(Refusal("subject: it holds a control character; it must be one line of text".into()));
    }
    Ok(subject.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::notification::{Issued, Template};
    use crate::domain::password::PasswordKind;

    fn written(language: Option<&Language>, batch: Option<&str>) -> (Zeroizing<Vec<u8>>, BasicProperties, String) {
        let password = Password::generate(PasswordKind::Policy { length: 20 }).unwrap();
        let notification = Notification {
            issued: &Issued { notification_id: "n-1".into(), at: "2026-11-23T18:00:00Z".parse().unwrap() },
            job: &JobId::new("agents/u-1"),
            asked_at: None,
            org: "main",
            user: &UserId::parse("u-1").unwrap(),
            to: &EmailAddress::parse("email", "agent@example.com").unwrap(),
            template: &Template::new("Your \"new\" password".into(), "It is:\n{password}".into()).unwrap(),
            password: &password,
            language,
            batch,
        };
        let (body, properties) = message(&notification, None, Duration::from_secs(1));
        (body, properties, password.expose().to_owned())
    }

    #[test]
    fn a_notification_is_read_as_it_was_written_and_its_debug_hides_what_it_holds() {
        let language = Language::parse("pt-BR");
        let (body, properties, password) = written(language.as_ref(), Some("agents"));
        let note = read(&body, &properties).unwrap();
        let shown = format!("{note:?}");
        assert!(!shown.contains(&password) && !shown.contains("example.com"), "{shown}");
        assert_eq!((note.id.as_str(), note.job.as_str(), note.org.as_str()), ("n-1", "agents/u-1", "main"));
        assert_eq!((note.user.as_str(), note.to.as_str()), ("u-1", "agent@example.com"));
        assert_eq!(
            (note.subject.as_str(), note.issued_at.to_string()),
            ("Your \"new\" password", "2026-11-23T18:00:00Z".into())
        );
        assert_eq!((note.language, note.batch.as_deref()), (language, Some("agents")));
        let Content::Open(words) = note.content else { panic!("it is not sealed") };
        assert_eq!((words.password.expose(), words.body.as_str()), (&*password, &*format!("It is:\n{password}")));
    }

    #[test]
    fn a_job_that_says_neither_has_no_headers() {
        let (_, properties, _) = written(None, None);
        assert_eq!(
            properties.headers(),
            &None,
            "a consumer of the contract's message finds nothing that it does not name"
        );
    }

    #[test]
    fn a_sealed_one_has_one_field_in_place_of_two_and_holds_the_same_words() {
        let (body, properties, password) = written(None, None);
        let mut json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let fields = json.as_object_mut().unwrap();
        let inner =
            serde_json::json!({"temporaryPassword": fields.remove("temporaryPassword"), "body": fields.remove("body")});
        fields.insert("sealed".into(), "a.b.c.d.e".into());
        let note = read(json.to_string().as_bytes(), &properties).unwrap();
        assert!(matches!(note.content, Content::Sealed(sealed) if sealed == "a.b.c.d.e"));
        assert_eq!(words(inner.to_string().as_bytes()).unwrap().password.expose(), password);
        let both = inner.to_string().replace('{', r#"{"sealed":"x","notificationId":"n","jobId":"j","org":"main","userId":"u","to":"a@b.c","subject":"s","issuedAt":"2026-11-23T18:00:00Z","#);
        assert!(read(both.as_bytes(), &properties).unwrap_err().0.contains("in place of both"));
    }

    #[test]
    fn what_is_no_notification_is_refused_without_repeating_what_it_holds() {
        let whole = serde_json::json!({"notificationId": "n", "jobId": "j", "org": "main", "userId": "u", "to": "a@example.com",
            "subject": "s", "body": "b hunter2", "temporaryPassword": "hunter2", "issuedAt": "2026-11-23T18:00:00Z"});
        let refusal = |body: &str| read(body.as_bytes(), &BasicProperties::default()).unwrap_err().0;
        assert!(read(whole.to_string().as_bytes(), &BasicProperties::default()).is_ok());
        for (field, value) in [
            ("notificationId", "n@x>\r\nBcc: x@y"),
            ("notificationId", ""),
            ("jobId", ""),
            ("org", "main.#"),
            ("userId", "u/../v"),
            ("to", "a@b, c@d"),
            ("subject", "s\r\nBcc: x@y"),
            ("issuedAt", "yesterday"),
            ("temporaryPassword", ""),
            ("temporaryPassword", "hun\nter2"),
        ] {
            let mut bad = whole.clone();
            bad[field] = value.into();
            let said = refusal(&bad.to_string());
            assert!(
                said.starts_with(field) && !said.contains("hunter2") && !said.contains("x@y"),
                "{field} {value:?}: {said}"
            );
            bad.as_object_mut().unwrap().remove(field);
            let said = refusal(&bad.to_string());
            assert!(said.starts_with("body: ") && !said.contains("hunter2"), "{field}: {said}");
        }
        for bad in [
            whole.to_string().replace("\"hunter2\"", "[\"hunter2\"]"),
            "hunter2".into(),
            "{\"hunter2".into(),
            "[]".into(),
        ] {
            let said = refusal(&bad);
            assert!(said.starts_with("body: ") && !said.contains("hunter2"), "{said}");
        }
    }
}
