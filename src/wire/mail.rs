//! The record of what became of a mail: the type `mail` in the stream of outcomes. It never holds the address, nor the password.

use std::borrow::Cow;

use lapin::BasicProperties;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::{Text, json, moment, persistent, schema, short};
use crate::domain::mailing::{MailEnd, Mailed, Unsent};
use crate::domain::user::UserId;

/// The `type` of the record.
pub const TYPE: &str = "mail";
/// The next hop took it.
const NOTIFIED: &str = "notified";
/// It was given up.
const FAILED: &str = "notification_failed";

/// What became of a notification.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "Mail")]
struct Record<'a> {
    /// The job that the notification comes from.
    job_id: &'a str,
    /// The org's name in the worker's configuration.
    org: &'a str,
    /// Whose password was set: the id at the org.
    user_id: &'a str,
    /// The batch that the job belongs to.
    batch: Option<&'a str>,
    /// The notification's id; the mail's `Message-ID` begins with it.
    notification_id: &'a str,
    /// `notified`: the next hop took it; `notification_failed`: it was given up.
    outcome: &'a str,
    /// Why it was given up: `superseded`, `expired`, `undeliverable`, `retries_exhausted`, `invalid_notification`, `cannot_open`,
    /// `not_sealed` or `address_not_allowed`.
    reason: Option<&'a str>,
    /// The code of the next hop's last answer; null where there was none.
    status: Option<u16>,
    /// Tries that counted.
    attempts: u32,
    /// When the password was set.
    #[schemars(schema_with = "schema::moment")]
    issued_at: String,
    /// When it ended.
    #[schemars(schema_with = "schema::moment")]
    finished_at: String,
}

/// What the exchange of outcomes gets for a mail.
pub fn schema() -> Schema {
    schema::of::<Record<'_>>()
}

/// What follows the org in the routing key, and in the record.
pub const fn outcome(end: &MailEnd) -> &'static str {
    if end.unsent.is_none() { NOTIFIED } else { FAILED }
}

/// The record of a mail's end.
pub fn record(end: &MailEnd) -> (Vec<u8>, BasicProperties) {
    let record = Record {
        job_id: end.job.as_str(),
        org: &end.org,
        user_id: UserId::as_str(&end.user),
        batch: end.batch.as_deref(),
        notification_id: &end.note,
        outcome: outcome(end),
        reason: end.unsent.map(Unsent::as_str),
        status: end.status,
        attempts: end.attempts,
        issued_at: moment(end.issued_at),
        finished_at: moment(end.at),
    };
    (json(&record), persistent().with_type(TYPE.into()).with_correlation_id(short(end.job.as_str())))
}

/// The record as it is read: other programs that deliver mails may say less.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read<'a> {
    #[serde(borrow)]
    job_id: Cow<'a, str>,
    #[serde(borrow)]
    org: Cow<'a, str>,
    #[serde(borrow, default)]
    batch: Option<Text<'a>>,
    #[serde(borrow, default)]
    notification_id: Option<Text<'a>>,
    #[serde(borrow)]
    outcome: Cow<'a, str>,
    #[serde(borrow, default)]
    reason: Option<Text<'a>>,
    #[serde(borrow, default)]
    issued_at: Option<Text<'a>>,
    #[serde(borrow, default)]
    finished_at: Option<Text<'a>>,
}

/// What a record of the type `mail` says; `None` where it cannot be read.
pub fn read(body: &[u8]) -> Option<Mailed<'_>> {
    let Read { job_id, org, batch, notification_id, outcome, reason, issued_at, finished_at } =
        serde_json::from_slice(body).ok()?;
    let notified = match &*outcome {
        NOTIFIED => true,
        FAILED => false,
        _ => return None,
    };
    let at = |text: Option<Text<'_>>| text.and_then(|text| text.0.parse().ok());
    // A notification need not carry its batch: the id of its job begins with it.
    let batch = batch.map(|text| text.0).or_else(|| Some(job_id.split_once('/')?.0.to_owned().into()));
    Some(Mailed {
        batch,
        note: notification_id.map(|text| text.0),
        notified,
        unsent: reason.and_then(|reason| Unsent::named(&reason.0)),
        issued_at: at(issued_at),
        at: at(finished_at),
        org,
        job: job_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::job::JobId;
    use jiff::Timestamp;

    fn end(unsent: Option<Unsent>) -> MailEnd {
        MailEnd {
            note: "n-1".into(),
            job: JobId::new("j-1"),
            org: "main".into(),
            user: UserId::parse("u-1").unwrap(),
            batch: Some("monday".into()),
            issued_at: Timestamp::from_second(1_800_000_000).unwrap(),
            unsent,
            status: Some(250),
            attempts: 1,
            at: Timestamp::from_second(1_800_000_001).unwrap(),
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let (body, properties) = record(&end(None));
        assert_eq!(
            String::from_utf8_lossy(&body),
            r#"{"jobId":"j-1","org":"main","userId":"u-1","batch":"monday","notificationId":"n-1","outcome":"notified","reason":null,"status":250,"attempts":1,"issuedAt":"2027-01-15T08:00:00Z","finishedAt":"2027-01-15T08:00:01Z"}"#
        );
        assert_eq!((properties.kind().clone(), properties.delivery_mode()), (Some(TYPE.into()), &Some(2)));
        assert_eq!(read(&body), Some(Mailed::of(&end(None))));
        for reason in Unsent::ALL {
            let (body, _) = record(&end(Some(reason)));
            assert_eq!(read(&body), Some(Mailed::of(&end(Some(reason)))));
        }
    }

    #[test]
    fn a_record_of_another_program_may_say_less() {
        let mailed = read(br#"{"jobId":"b-1/d/u","org":"main","outcome":"notification_failed"}"#).unwrap();
        assert_eq!((mailed.batch.as_deref(), mailed.notified, mailed.note), (Some("b-1"), false, None));
        assert_eq!(read(br#"{"jobId":"j","org":"main","outcome":"opened"}"#), None);
        assert_eq!(read(b"{"), None);
    }
}
