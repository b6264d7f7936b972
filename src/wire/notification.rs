//! The message for the email queue, written and read back: `docs/contract.md#notifications`.

use std::time::Duration;

use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use schemars::{JsonSchema, Schema, json_schema};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Text, properties, schema, secret_json};
use crate::domain::job::JobId;
use crate::domain::language::Language;
use crate::domain::note::{Content, Note, NoteId, Words};
use crate::domain::notification::Notification;
use crate::domain::password::Password;
use crate::domain::recipient::Recipient;
use crate::domain::refusal::Refusal;
use crate::domain::user::UserId;

/// The `type` of the message.
pub const TYPE: &str = "password-reset";
/// The language the person prefers.
const LANGUAGE: &str = "resetd-language";
/// When a notification that is published again was issued, in seconds since 1970, as far as the mailer knows.
const ISSUED_AT: &str = "resetd-issued-at";

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
    /// A compact JWE (RSA-OAEP-256, A256GCM) to the key that its header names by `kid`. In it is JSON: `temporaryPassword` and `body`, and
    /// once more `notificationId`, `org`, `userId` and `to`. Where one of these is not the same as outside, nobody is to be told.
    sealed: &'a str,
    /// When the org confirmed that it is set.
    #[schemars(schema_with = "schema::moment")]
    issued_at: String,
}

/// What is sealed: the words, and whom they are for, so that who copies a sealed text into a message of their own does not choose who
/// is told.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Secret<'a> {
    notification_id: &'a str,
    org: &'a str,
    user_id: &'a str,
    to: &'a str,
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
    secret_json(&Secret {
        notification_id: &notification.issued.notification_id,
        org: notification.org,
        user_id: notification.user.as_str(),
        to: notification.to.as_str(),
        temporary_password: notification.password.expose(),
        body: &body,
    })
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

/// What the message says beside its body (`docs/contract.md#notifications`), where there is something to say.
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
    notification_id: Option<Text<'a>>,
    #[serde(borrow)]
    org: Option<Text<'a>>,
    #[serde(borrow)]
    user_id: Option<Text<'a>>,
    #[serde(borrow)]
    to: Option<Text<'a>>,
    #[serde(borrow)]
    body: Text<'a>,
    #[serde(borrow)]
    temporary_password: Text<'a>,
}

/// Reads a message of the email queue, and a warning where something was not taken as it came. A header that cannot be read counts as
/// not there: it holds up nobody's password.
///
/// # Errors
/// Where it is no notification. The refusal names the field and the rule, never a value.
pub fn read(body: &[u8], from: &BasicProperties, now: Timestamp) -> Result<(Note, Option<&'static str>), Refusal> {
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
    let (issued_at, warning) = issued(&issued_at.0, from, now)?;
    let note = Note {
        id: NoteId::parse(&notification_id.0)?,
        job: named(&job_id.0)?,
        org: org_of(&org.0)?,
        user: UserId::parse(&user_id.0)?,
        to: Recipient::parse("to", &to.0)?,
        subject: line(&subject.0)?,
        issued_at,
        language: language.and_then(Language::parse),
        batch: properties::batch(headers).ok().flatten(),
        content,
    };
    Ok((note, warning))
}

/// When the password was set, and a warning where that is not what it says. A worker whose clock is ahead costs nobody their mail: it
/// counts as set when the message came; and nobody's mail is the newest for ever: what is published again says when that was.
fn issued(text: &str, from: &BasicProperties, now: Timestamp) -> Result<(Timestamp, Option<&'static str>), Refusal> {
    let wrong = |_| Refusal("issuedAt: it is none; it must be a moment such as 2026-11-23T18:00:00Z (RFC 3339)".into());
    let issued: Timestamp = text.parse().map_err(wrong)?;
    if issued.duration_since(now) <= properties::MAX_AHEAD {
        return Ok((issued, None));
    }
    let came = from.headers().as_ref().and_then(|headers| headers.inner().get(ISSUED_AT)).and_then(properties::integer);
    let came = came.and_then(|seconds| Timestamp::from_second(seconds).ok()).filter(|came| *came <= now);
    Ok((came.unwrap_or(now), Some("its issuedAt is more than 5 minutes ahead; it counts as issued when it came")))
}

/// The properties of a notification that is published again: they say when it was issued, as far as we know.
pub fn published_again(properties: BasicProperties, note: &Note) -> BasicProperties {
    let mut headers = properties.headers().clone().unwrap_or_default();
    headers.insert(ISSUED_AT.into(), AMQPValue::LongLongInt(note.issued_at.as_second()));
    properties.with_headers(headers)
}

/// Reads what was sealed, for the notification that it came in.
///
/// # Errors
/// As [`read`]; and where it was sealed for another notification, or another person, than it came in.
pub fn words(opened: &[u8], came_in: &Note) -> Result<Words, Refusal> {
    let Opened { notification_id, org, user_id, to, body, temporary_password } =
        serde_json::from_slice(opened).map_err(|error| unreadable("sealed", opened.len(), &error))?;
    let words = words_of(body, temporary_password)?;
    let both = [
        ("notificationId", notification_id, came_in.id.as_str()),
        ("org", org, came_in.org.as_str()),
        ("userId", user_id, came_in.user.as_str()),
        ("to", to, came_in.to.as_str()),
    ];
    // A worker seals all four. Who seals without them has known the password before, and learns nothing by it.
    match both.iter().find(|(_, sealed, outside)| sealed.as_ref().is_some_and(|sealed| sealed.0 != *outside)) {
        None => Ok(words),
        Some((field, ..)) => Err(Refusal(format!(
            "{field}: it is not the one that was sealed: it was changed on its way, or the sealed text is another notification's"
        ))),
    }
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
    Ok(Words { password: Password::known(password), body })
}

/// Whether a text is of the form that the field of this name has.
pub(super) fn has_form(name: &str, text: &str) -> bool {
    match name {
        "notificationId" => NoteId::parse(text).is_ok(),
        "jobId" => named(text).is_ok(),
        "org" => org_of(text).is_ok(),
        "userId" => UserId::parse(text).is_ok(),
        "to" => Recipient::parse("to", text).is_ok(),
        // Its control characters are taken out.
        "subject" => true,
        "issuedAt" => text.parse::<Timestamp>().is_ok(),
        _ => false,
    }
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

    fn read(body: &[u8], properties: &BasicProperties) -> Result<Note, Refusal> {
        super::read(body, properties, "2026-11-23T18:00:00Z".parse().unwrap()).map(|(note, warning)| {
            assert_eq!(warning, None);
            note
        })
    }

    fn written(language: Option<&Language>, batch: Option<&str>) -> (Zeroizing<Vec<u8>>, BasicProperties, String) {
        let (body, properties, password, _) = both(None, language, batch);
        (body, properties, password)
    }

    /// Body and properties, the password, and what would be sealed.
    fn both(
        sealed: Option<&str>,
        language: Option<&Language>,
        batch: Option<&str>,
    ) -> (Zeroizing<Vec<u8>>, BasicProperties, String, Zeroizing<Vec<u8>>) {
        let password = Password::generate(PasswordKind::Policy { length: 20 }).unwrap();
        let notification = Notification {
            issued: &Issued { notification_id: "n-1".into(), at: "2026-11-23T18:00:00Z".parse().unwrap() },
            job: &JobId::new("agents/u-1"),
            asked_at: None,
            org: "main",
            user: &UserId::parse("u-1").unwrap(),
            to: &Recipient::parse("email", "agent@example.com").unwrap(),
            template: &Template::new("Your \"new\" password".into(), "It is:\n{password}".into()).unwrap(),
            password: &password,
            language,
            batch,
        };
        let (body, properties) = message(&notification, sealed, Duration::from_secs(1));
        (body, properties, password.expose().to_owned(), secret(&notification))
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
        let (body, properties, password, secret) = both(Some("a.b.c.d.e"), None, None);
        let note = read(&body, &properties).unwrap();
        assert!(matches!(&note.content, Content::Sealed(sealed) if sealed == "a.b.c.d.e"));
        assert!(!String::from_utf8_lossy(&body).contains(&password));
        let words = words(&secret, &note).unwrap();
        assert_eq!((words.password.expose(), words.body.as_str()), (&*password, &*format!("It is:\n{password}")));
        let open = String::from_utf8(written(None, None).0.to_vec()).unwrap();
        let both = open.replacen('{', r#"{"sealed":"a.b.c.d.e","#, 1);
        assert!(read(both.as_bytes(), &properties).unwrap_err().0.contains("in place of both"));
    }

    #[test]
    fn what_was_sealed_for_one_notification_is_not_read_in_another() {
        let (body, properties, password, secret) = both(Some("a.b.c.d.e"), None, None);
        let outside: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let refusal = |secret: &[u8], outside: &serde_json::Value| {
            let note = read(outside.to_string().as_bytes(), &properties).unwrap();
            words(secret, &note).map(drop).map_err(|refusal| refusal.0)
        };
        assert_eq!(refusal(&secret, &outside), Ok(()));
        for (field, value) in
            [("notificationId", "n-2"), ("org", "other"), ("userId", "u-2"), ("to", "Agent@example.com")]
        {
            let mut changed = outside.clone();
            changed[field] = value.into();
            let said = refusal(&secret, &changed).unwrap_err();
            assert!(said.starts_with(&format!("{field}: it is not the one that was sealed")), "{said}");
            assert!(!said.contains(&password) && !said.contains("example.com"), "{said}");
            // What another producer sealed need not say for whom.
            let mut unbound: serde_json::Value = serde_json::from_slice(&secret).unwrap();
            unbound.as_object_mut().unwrap().remove(field);
            assert_eq!(refusal(unbound.to_string().as_bytes(), &outside), Ok(()));
        }
    }

    #[test]
    fn a_notification_from_the_future_counts_as_issued_when_it_came_first() {
        let (body, properties, _) = written(None, None);
        let issued: Timestamp = "2026-11-23T18:00:00Z".parse().unwrap();
        let came = |properties: &BasicProperties, seconds_before: i64| {
            let now = issued - jiff::SignedDuration::from_secs(seconds_before);
            let (note, warning) = super::read(&body, properties, now).unwrap();
            (note.issued_at.duration_since(now).as_secs(), warning.is_some())
        };
        assert_eq!(came(&properties, -60), (-60, false));
        assert_eq!(came(&properties, 300), (300, false), "no two clocks are the same");
        assert_eq!(came(&properties, 301), (0, true));
        // Published again after it came an hour before it says it was issued; then it comes again half an hour later.
        let hour = issued - jiff::SignedDuration::from_hours(1);
        let (note, _) = super::read(&body, &properties, hour).unwrap();
        let again = published_again(properties.clone(), &note);
        assert_eq!(came(&again, 1_800), (-1_800, true));
        assert_eq!(came(&again, 4_000), (0, true), "nor is it issued later than now");
        assert_eq!(came(&again, 0), (0, false), "what the body says counts as soon as it can be");
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
