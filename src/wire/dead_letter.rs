//! A dead letter: the job as it came, less its secrets and the broker's own marks, with the reason in its headers.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use schemars::{Schema, json_schema};

use super::{again, moment, redact, schema};
use crate::domain::outcome::Outcome;

/// Why it was given up.
pub(super) const REASON: &str = "resetd-reason";
/// What exactly was wrong.
pub(super) const DETAIL: &str = "resetd-detail";
/// The status of the org's last answer.
pub(super) const STATUS: &str = "resetd-status";
/// Calls that counted.
pub(super) const ATTEMPTS: &str = "resetd-attempts";
/// What is known of the password.
pub(super) const PASSWORD_SET: &str = again::PASSWORD_SET;
/// The lane it came by.
pub(super) const LANE: &str = "resetd-lane";
/// When it was given up.
pub(super) const DEAD_AT: &str = "resetd-dead-at";

/// The longest `resetd-detail`, in characters.
pub(super) const MAX_DETAIL: usize = 512;

/// Producers' headers that still fit into one frame beside ours, in bytes.
const MAX_HEADERS: usize = 120 * 1024;

/// About how many bytes a table takes in a frame.
#[expect(clippy::wildcard_enum_match_arm, reason = "AMQP's own kinds of values; all others are of a few bytes")]
fn size(table: &FieldTable) -> usize {
    fn of(value: &AMQPValue) -> usize {
        match value {
            AMQPValue::LongString(text) => text.len() + 5,
            AMQPValue::ShortString(text) => text.as_str().len() + 2,
            AMQPValue::ByteArray(bytes) => bytes.len() + 5,
            AMQPValue::FieldArray(values) => values.as_slice().iter().map(of).sum::<usize>() + 5,
            AMQPValue::FieldTable(table) => size(table) + 5,
            _ => 9,
        }
    }
    table.inner().iter().map(|(name, value)| name.as_str().len() + 1 + of(value)).sum()
}

/// Body and properties of the letter for a job that ended with `outcome`.
pub fn message(body: &[u8], properties: &BasicProperties, outcome: &Outcome) -> (Vec<u8>, BasicProperties) {
    let mut headers = again::headers(properties);
    let mut detail = outcome.detail.clone().unwrap_or_default();
    if size(&headers) > MAX_HEADERS {
        // They would be refused by the broker, and the job would come back again and again.
        detail =
            format!("its headers, {} bytes, do not fit into a dead letter and are left out; {detail}", size(&headers));
        headers = FieldTable::default();
    }
    let mut say = |name: &str, value: AMQPValue| {
        headers.insert(name.into(), value);
    };
    let text = |text: &str| AMQPValue::LongString(text.into());
    say(REASON, text(outcome.reason.map_or("", |reason| reason.as_str())));
    say(DETAIL, text(redact::cut(&detail, MAX_DETAIL)));
    say(STATUS, outcome.status.map_or(AMQPValue::Void, |status| AMQPValue::LongInt(status.into())));
    say(ATTEMPTS, AMQPValue::LongLongInt(outcome.attempts.into()));
    say(PASSWORD_SET, text(outcome.password_set.as_str()));
    say(LANE, text(outcome.lane.as_str()));
    say(DEAD_AT, text(&moment(outcome.finished_at)));
    (redact::body(body), again::kept(properties).with_headers(headers).with_delivery_mode(2))
}

/// The headers that a worker adds. What the broker itself dead-letters comes without them.
pub fn headers_schema() -> Schema {
    let generator = &mut schema::generator();
    json_schema!({
        "title": "Dead letter's headers",
        "type": "object",
        "properties": {
            REASON: schema::about("Why it was given up.", schema::reason(generator)),
            DETAIL: {"type": "string", "maxLength": MAX_DETAIL, "description": "What exactly was wrong."},
            STATUS: {"type": ["integer", "null"], "description": "The status of the org's last answer; void where there was none."},
            ATTEMPTS: {"type": "integer", "minimum": 0, "description": "Calls that counted."},
            PASSWORD_SET: schema::about("Whether the password is set; `unknown` where a call that failed may have been carried out.", schema::password_set(generator)),
            LANE: schema::about("Which of the two queues it came by.", schema::lane(generator)),
            DEAD_AT: schema::about("When it was given up.", schema::moment(generator)),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::job::{JobId, Lane};
    use crate::domain::outcome::{OutcomeKind, PasswordSet, Reason};
    use jiff::Timestamp;

    fn outcome() -> Outcome {
        Outcome {
            job: JobId::new("j"),
            org: "main".into(),
            lane: Lane::Bulk,
            user: None,
            batch: None,
            asked_at: None,
            kind: OutcomeKind::Failed,
            reason: Some(Reason::NotFound),
            status: Some(404),
            attempts: 1,
            password_set: PasswordSet::No,
            detail: Some("é".repeat(600)),
            finished_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn headers_that_fit_into_no_frame_are_left_out_and_said_so() {
        let mut headers = FieldTable::default();
        headers.insert("x-mine".into(), AMQPValue::LongString("v".repeat(MAX_HEADERS).into()));
        let (_, properties) = message(b"{}", &BasicProperties::default().with_headers(headers), &outcome());
        let headers = properties.headers().clone().unwrap_or_default();
        assert!(!headers.contains_key("x-mine"));
        let AMQPValue::LongString(detail) = &headers.inner()["resetd-detail"] else { panic!() };
        assert!(detail.to_string().starts_with("its headers, 122892 bytes"), "{detail}");
    }

    #[test]
    fn a_letter_keeps_what_came_less_the_brokers_marks_and_the_password() {
        let mut headers = FieldTable::default();
        for name in [
            "x-death",
            "x-first-death-queue",
            "x-last-death-reason",
            "x-delivery-count",
            "x-acquired-count",
            "CC",
            "BCC",
            "x-mine",
            "batch",
        ] {
            headers.insert(name.into(), AMQPValue::LongString("v".into()));
        }
        let came = BasicProperties::default()
            .with_headers(headers)
            .with_message_id("j".into())
            .with_reply_to("r".into())
            .with_expiration("5".into())
            .with_user_id("guest".into())
            .with_type("t".into())
            .with_timestamp(7);
        let (body, properties) = message(br#"{"password":"hunter2"}"#, &came, &outcome());
        assert_eq!(body, br#"{"password":true}"#);
        let names: Vec<_> =
            properties.headers().as_ref().unwrap().inner().keys().map(|k| k.as_str().to_owned()).collect();
        assert_eq!(
            names,
            [
                "batch",
                "resetd-attempts",
                "resetd-dead-at",
                "resetd-detail",
                "resetd-lane",
                "resetd-password-set",
                "resetd-reason",
                "resetd-status",
                "x-mine"
            ]
        );
        assert!(properties.expiration().is_none() && properties.user_id().is_none());
        assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "j");
        assert_eq!((properties.timestamp(), properties.delivery_mode()), (&Some(7), &Some(2)));
        let AMQPValue::LongString(detail) = &properties.headers().as_ref().unwrap().inner()["resetd-detail"] else {
            panic!()
        };
        assert_eq!(detail.to_string().chars().count(), 512);
    }
}
