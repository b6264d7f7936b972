//! A dead mail: what is left of a notification whose mail was given up. It says who, which job and why, and never the password.

use std::collections::BTreeMap;

use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use schemars::{JsonSchema, Schema, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::dead_letter::{ATTEMPTS, DEAD_AT, DETAIL, MAX_DETAIL, REASON, STATUS};
use super::object::Pairs;
use super::properties::{self, integer, text};
use super::redact::{Scrubber, cut};
use super::trace::TRACEPARENT;
use super::{json, ledger, moment, notification, permitted, persistent, recipient, schema};
use crate::domain::mailing::Unsent;
use crate::domain::note::NoteId;
use crate::domain::recipient::Recipient;
use crate::domain::user::UserId;

/// The longest value of a message that is no notification that is kept, in characters.
const MAX_VALUE: usize = 512;
/// The headers that are kept: of others nobody knows what they hold.
const KEPT: [&str; 2] = [properties::BATCH, TRACEPARENT];

/// What is kept of a notification. A message that was none has what could be read of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(title = "Dead mail")]
pub struct Remains {
    /// The notification's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notification_id: Option<String>,
    /// The job it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// The org's name in the worker's configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    /// Whose password was set: the id at the org.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// Who was to be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// One line; it never holds the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When the password was set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::moment")]
    pub issued_at: Option<String>,
}

/// The passwords of a message that is no notification, as far as they can be told.
pub fn passwords(body: &[u8]) -> Vec<Zeroizing<String>> {
    let Pairs(pairs) = serde_json::from_slice(body).unwrap_or(Pairs(Vec::new()));
    let named = pairs.iter().filter(|(name, _)| name == "temporaryPassword");
    named.filter_map(|(_, value)| serde_json::from_str(value.get()).ok().map(Zeroizing::new)).collect()
}

impl Remains {
    /// Of a message of the email queue: the fields that may be kept and no other, each where it is of the form that it has in a
    /// notification and stands once.
    pub fn of(body: &[u8], scrubber: &Scrubber) -> Self {
        let pairs: Pairs<'_> = serde_json::from_slice(body).unwrap_or(Pairs(Vec::new()));
        let once = pairs.once();
        let take = |name: &str| {
            let value: &RawValue = once.get(name).copied().flatten()?;
            let text: String = serde_json::from_str(value.get()).ok()?;
            let is_kept = notification::has_form(name, &text);
            is_kept.then(|| scrubber.text(&text).chars().filter(|c| !c.is_control()).take(MAX_VALUE).collect())
        };
        Self {
            notification_id: take("notificationId"),
            job_id: take("jobId"),
            org: take("org"),
            user_id: take("userId"),
            to: take("to"),
            subject: take("subject"),
            issued_at: take("issuedAt"),
        }
    }

    /// The same without the text of whoever wrote what is no notification: a password may stand in it that nobody knows for one.
    pub fn without_text(self) -> Self {
        Self { subject: None, ..self }
    }
}

/// Why a mail was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// Why.
    pub reason: Unsent,
    /// What exactly was wrong, less secrets.
    pub detail: String,
    /// The code of the next hop's last answer.
    pub status: Option<u16>,
    /// Tries that counted.
    pub attempts: u32,
    /// When.
    pub at: Timestamp,
}

/// Body and properties of a dead mail.
pub fn message(remains: &Remains, from: &BasicProperties, death: &Death) -> (Vec<u8>, BasicProperties) {
    let mut headers = FieldTable::default();
    for (name, value) in permitted::headers(from, &[]).kept.inner() {
        if KEPT.contains(&name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    let mut say = |name: &str, value: AMQPValue| {
        headers.insert(name.into(), value);
    };
    let text = |text: &str| AMQPValue::LongString(text.into());
    let detail = cut(&death.detail, MAX_DETAIL);
    say(REASON, text(death.reason.as_str()));
    say(DETAIL, text(detail));
    say(STATUS, death.status.map_or(AMQPValue::Void, |status| AMQPValue::LongInt(status.into())));
    say(ATTEMPTS, AMQPValue::LongLongInt(death.attempts.into()));
    say(DEAD_AT, text(&moment(death.at)));
    (json(remains), permitted::properties(from).0.with_headers(headers))
}

/// What a dead mail's body is.
pub fn schema() -> Schema {
    schema::of::<Remains>()
}

/// The headers that the mailer adds.
pub fn headers_schema() -> Schema {
    let generator = &mut schema::generator();
    json_schema!({
        "title": "Dead mail's headers",
        "type": "object",
        "properties": {
            REASON: {"enum": Unsent::ALL.map(Unsent::as_str), "description": "Why it was given up; superseded ones are not kept."},
            DETAIL: {"type": "string", "maxLength": MAX_DETAIL, "description": "What exactly was wrong."},
            STATUS: {"type": ["integer", "null"], "description": "The code of the next hop's last answer; void where there was none."},
            ATTEMPTS: {"type": "integer", "minimum": 0, "description": "Tries that counted."},
            DEAD_AT: schema::about("When it was given up.", schema::moment(generator)),
        },
    })
}

/// A dead mail read back. What its headers do not say, or say in an odd way, is not there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeadMail {
    /// By what it is called: the notification's id, or a name made from what is left where it has none that could be one. Two that are
    /// not the same never have one name: a replay makes a job of each.
    pub id: String,
    /// What is kept of the notification; it holds the address.
    pub remains: Remains,
    /// Why it was given up.
    pub reason: String,
    /// What exactly was wrong.
    pub detail: Option<String>,
    /// The code of the next hop's last answer.
    pub status: Option<u16>,
    /// Tries that counted.
    pub attempts: Option<u32>,
    /// The batch that the job belongs to.
    pub batch: Option<String>,
    /// When the job was asked for.
    pub asked_at: Option<Timestamp>,
    /// When it was given up.
    pub dead_at: Option<Timestamp>,
}

impl DeadMail {
    /// Reads a message of the queue of dead mails.
    pub fn read(body: &[u8], from: &BasicProperties) -> Self {
        let header = |name: &str| from.headers().as_ref().and_then(|headers| headers.inner().get(name));
        let said = |name: &str| header(name).and_then(text).map(str::to_owned);
        let number = |name: &str| header(name).and_then(integer);
        let remains: Remains = serde_json::from_slice(body).unwrap_or_default();
        let given = remains.notification_id.as_deref().and_then(|id| NoteId::parse(id).ok());
        Self {
            id: given.map_or_else(|| format!("sha256:{}", hex::encode(Sha256::digest(body))), |id| id.to_string()),
            remains,
            reason: said(REASON).unwrap_or_else(|| "unknown".into()),
            detail: said(DETAIL).filter(|detail| !detail.is_empty()),
            status: number(STATUS).and_then(|status| u16::try_from(status).ok()),
            attempts: number(ATTEMPTS).and_then(|attempts| u32::try_from(attempts).ok()),
            batch: said(properties::BATCH),
            asked_at: from.timestamp().and_then(properties::moment_asked),
            dead_at: said(DEAD_AT).and_then(|text| text.parse().ok()),
        }
    }

    /// The org, the user and the recipient that a new job is made of; `None` where one is not known.
    pub fn whom(&self) -> Option<(&str, UserId, Recipient)> {
        let Remains { org, user_id, to, .. } = &self.remains;
        let (user, to) = (UserId::parse(user_id.as_deref()?), Recipient::parse("to", to.as_deref()?));
        Some((org.as_deref()?, user.ok()?, to.ok()?))
    }
}

/// Before the id of a dead mail, in the id of the job that it becomes: replayed twice it is done once.
const AGAIN: &str = "mail:";

/// The fresh job that a dead mail becomes: the same user and recipient, another id, since the job that it came from has succeeded. It asks
/// for what that job asked for, and so as of the same moment: a reset asked for later, whose password the person has, supersedes it, and
/// of several dead mails of one person the newest alone is done. Where no moment is known it is that of its end: what had succeeded
/// before had superseded the mail. `now`: where not even that can be read.
pub fn again(letter: &DeadMail, user: &UserId, to: &Recipient, now: Timestamp) -> (Vec<u8>, BasicProperties) {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Job<'a> {
        user_id: &'a str,
        password: bool,
        #[serde(flatten)]
        recipient: BTreeMap<&'a str, &'a str>,
    }
    let job = Job { user_id: user.as_str(), password: true, recipient: BTreeMap::from([recipient::written(to)]) };
    let asked_at = letter.asked_at.or(letter.dead_at).unwrap_or(now);
    (json(&job), properties::job_properties(&format!("{AGAIN}{}", letter.id), asked_at))
}

/// That an operator took a dead mail away for good.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dropped<'a> {
    job_id: &'a str,
    org: Option<&'a str>,
    user_id: Option<&'a str>,
    notification_id: Option<&'a str>,
    batch: Option<&'a str>,
    reason: &'a str,
    dead_at: Option<String>,
    dropped_at: String,
}

/// The record of a dead mail that an operator dropped.
pub fn dropped(letter: &DeadMail, at: Timestamp) -> (Vec<u8>, BasicProperties) {
    let record = Dropped {
        job_id: letter.remains.job_id.as_deref().unwrap_or_default(),
        org: letter.remains.org.as_deref(),
        user_id: letter.remains.user_id.as_deref(),
        notification_id: letter.remains.notification_id.as_deref(),
        batch: letter.batch.as_deref(),
        reason: &letter.reason,
        dead_at: letter.dead_at.map(moment),
        dropped_at: moment(at),
    };
    (json(&record), persistent().with_type(ledger::DROPPED.into()))
}

/// A dead mail as one line of JSON, for other programs; with its address only where that is asked for.
pub fn line(letter: &DeadMail, with_address: bool) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Line<'a> {
        id: &'a str,
        notification_id: Option<&'a str>,
        job_id: Option<&'a str>,
        org: Option<&'a str>,
        user_id: Option<&'a str>,
        batch: Option<&'a str>,
        reason: &'a str,
        status: Option<u16>,
        attempts: Option<u32>,
        issued_at: Option<&'a str>,
        dead_at: Option<String>,
        detail: Option<&'a str>,
        can_be_replayed: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        subject: Option<&'a str>,
    }
    let remains = &letter.remains;
    let line = Line {
        id: &letter.id,
        notification_id: remains.notification_id.as_deref(),
        job_id: remains.job_id.as_deref(),
        org: remains.org.as_deref(),
        user_id: remains.user_id.as_deref(),
        batch: letter.batch.as_deref(),
        reason: &letter.reason,
        status: letter.status,
        attempts: letter.attempts,
        issued_at: remains.issued_at.as_deref(),
        dead_at: letter.dead_at.map(moment),
        // The next hop's words often repeat the address.
        detail: letter.detail.as_deref().filter(|_| with_address),
        can_be_replayed: letter.whom().is_some(),
        to: remains.to.as_deref().filter(|_| with_address),
        subject: remains.subject.as_deref().filter(|_| with_address),
    };
    serde_json::to_string(&line).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTE: &str = r#"{"notificationId":"n","jobId":"j","org":"main","userId":"u","to":"a@example.com","subject":"New","body":"It is hunter22.","temporaryPassword":"hunter22","issuedAt":"2026-11-23T18:00:00Z","other":"hunter22"}"#;

    fn death() -> Death {
        let detail = "é".repeat(600);
        Death { reason: Unsent::Undeliverable, detail, status: Some(550), attempts: 2, at: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn a_dead_mail_keeps_who_and_why_and_no_password() {
        let mut headers = FieldTable::default();
        for name in
            ["x-death", "resetd-retry", "resetd-tried", "resetd-language", "batch", "not-after", "x-of-somebody"]
        {
            headers.insert(name.into(), AMQPValue::LongString("v".into()));
        }
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        headers.insert("traceparent".into(), AMQPValue::LongString(trace.into()));
        let came =
            BasicProperties::default().with_headers(headers).with_message_id("n".into()).with_expiration("5".into());
        let (body, properties) = message(&Remains::of(NOTE.as_bytes(), &Scrubber::default()), &came, &death());
        assert_eq!(
            String::from_utf8_lossy(&body),
            r#"{"notificationId":"n","jobId":"j","org":"main","userId":"u","to":"a@example.com","subject":"New","issuedAt":"2026-11-23T18:00:00Z"}"#
        );
        let names: Vec<_> = properties.headers().as_ref().unwrap().inner().keys().map(ToString::to_string).collect();
        assert_eq!(
            names,
            [
                "batch",
                "resetd-attempts",
                "resetd-dead-at",
                "resetd-detail",
                "resetd-reason",
                "resetd-status",
                "traceparent"
            ]
        );
        assert_eq!((properties.expiration(), properties.message_id().clone()), (&None, Some("n".into())));
        let read = DeadMail::read(&body, &properties);
        assert_eq!((read.id.as_str(), read.reason.as_str(), read.status), ("n", "undeliverable", Some(550)));
        assert_eq!((read.attempts, read.batch.as_deref()), (Some(2), Some("v")));
        assert_eq!(read.detail.as_ref().unwrap().chars().count(), 512);
        let (org, user, to) = read.whom().unwrap();
        assert_eq!((org, user.as_str(), to.as_str()), ("main", "u", "a@example.com"));
    }

    #[test]
    fn of_what_is_no_notification_only_what_may_be_kept_is() {
        let of = |body: &str| {
            let mut scrubber = Scrubber::default();
            scrubber.add("hunter22");
            serde_json::to_string(&Remains::of(body.as_bytes(), &scrubber)).unwrap()
        };
        assert_eq!(of(r#"{"userId":7,"to":"x@y","password":"hunter22"}"#), r#"{"to":"x@y"}"#);
        for odd in [
            r#"{"userId":"Kennwort hunter2","to":"hunter2","org":"hunter 2","issuedAt":"hunter2","notificationId":"hunter 2"}"#,
            r#"{"userId":"a","userId":"b"}"#,
            r#"{"$serde_json::private::RawValue":"{\"userId\":\"b\"}"}"#,
            r#"{"userId":{"$serde_json::private::RawValue":"\"b\""}}"#,
            r#"{"userId":["b"],"Message":"{\"userId\":\"b\"}"}"#,
        ] {
            assert_eq!(of(odd), "{}", "{odd}");
        }
        assert_eq!(of(r#"{"subject":"it is hunter22\n"}"#), r#"{"subject":"it is [redacted]"}"#);
        for bad in ["", "[]", "hunter22", "{"] {
            assert_eq!(of(bad), "{}", "{bad}");
        }
        let read = DeadMail::read(b"{}", &BasicProperties::default());
        assert_eq!((read.reason.as_str(), read.whom()), ("unknown", None));
    }

    #[test]
    fn two_dead_mails_of_two_people_become_two_jobs_whatever_ids_they_have() {
        let (long, cut) = ("n".repeat(300), format!("{}-other", "n".repeat(300)));
        let jobs = |ids: [Option<&str>; 2]| {
            let of = |user: &str, id: Option<&str>| {
                let body =
                    serde_json::json!({"org": "main", "userId": user, "to": "a@example.com", "notificationId": id});
                let letter = DeadMail::read(body.to_string().as_bytes(), &BasicProperties::default());
                let (org, whom, to) = letter.whom().unwrap();
                assert_eq!(org, "main");
                again(&letter, &whom, &to, Timestamp::UNIX_EPOCH).1.message_id().clone().unwrap()
            };
            [of("u-1", ids[0]), of("u-2", ids[1])]
        };
        for ids in [[None, None], [Some(""), Some("")], [Some("?"), Some("?")], [Some(&long), Some(&cut)]] {
            let [one, other] = jobs(ids);
            assert_ne!(one, other, "{ids:?}");
        }
        assert_eq!(jobs([Some("n-1"), None])[0].as_str(), "mail:n-1");
        assert_eq!(jobs([None, None]), jobs([None, None]), "replayed twice it is done once");
    }
}
