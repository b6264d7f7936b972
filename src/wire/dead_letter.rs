//! A dead letter: what is permitted of the job, the names of what is not, and the reason in its headers.

use lapin::BasicProperties;
use lapin::types::AMQPValue;
use schemars::{Schema, json_schema};

use super::permitted::{self, MISSING};
use super::properties::{job_id, message_id};
use super::{again, kept, moment, redact, schema};
use crate::domain::attribute::AllowedAttributes;
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
/// The names of what it does not keep, and nobody would read.
pub(super) const LEFT_OUT: &str = "resetd-left-out";
/// What a job was called that had no `message_id`: what is left of its body may make another name.
pub(super) const JOB_ID: &str = "resetd-job-id";

/// All that are written anew, so that those of an earlier letter are not named as left out.
const WRITTEN: [&str; 10] = [REASON, DETAIL, STATUS, ATTEMPTS, PASSWORD_SET, LANE, DEAD_AT, LEFT_OUT, JOB_ID, MISSING];

/// The longest `resetd-detail`, in characters.
pub(super) const MAX_DETAIL: usize = 512;
/// So many names are said; of more their number.
const MAX_NAMES: usize = 32;

/// Body and properties of the letter for a job that ended with `outcome`.
pub fn message(
    body: &[u8],
    properties: &BasicProperties,
    outcome: &Outcome,
    allowed: &AllowedAttributes,
) -> (Vec<u8>, BasicProperties) {
    let of_body = kept::of(body, allowed);
    let of_headers = permitted::headers(properties, &WRITTEN);
    let (fresh, of_properties) = permitted::properties(properties);
    let mut headers = of_headers.kept;
    let mut say = |name: &str, value: AMQPValue| {
        headers.insert(name.into(), value);
    };
    let text = |text: &str| AMQPValue::LongString(text.into());
    say(REASON, text(outcome.reason.map_or("", |reason| reason.as_str())));
    say(DETAIL, text(redact::cut(outcome.detail.as_deref().unwrap_or_default(), MAX_DETAIL)));
    say(STATUS, outcome.status.map_or(AMQPValue::Void, |status| AMQPValue::LongInt(status.into())));
    say(ATTEMPTS, AMQPValue::LongLongInt(outcome.attempts.into()));
    say(PASSWORD_SET, text(outcome.password_set.as_str()));
    say(LANE, text(outcome.lane.as_str()));
    say(DEAD_AT, text(&moment(outcome.finished_at)));
    let missing = [of_body.missing, of_headers.missing].concat();
    if !missing.is_empty() {
        say(MISSING, names(missing));
    }
    let left_out = [of_body.left_out, of_headers.left_out, of_properties].concat();
    if !left_out.is_empty() {
        say(LEFT_OUT, names(left_out));
    }
    if message_id(properties).is_none() {
        say(JOB_ID, text(job_id(body, properties).as_str()));
    }
    (of_body.body, fresh.with_headers(headers))
}

/// A list of names, of which a job may have thousands.
fn names(mut names: Vec<String>) -> AMQPValue {
    let more = names.len().saturating_sub(MAX_NAMES);
    names.truncate(MAX_NAMES);
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    let names: Vec<AMQPValue> = names.into_iter().map(|name| AMQPValue::LongString(name.into())).collect();
    AMQPValue::FieldArray(names.into())
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
            LANE: schema::about("The lane it came by.", schema::lane(generator)),
            DEAD_AT: schema::about("When it was given up.", schema::moment(generator)),
            MISSING: {"type": "array", "items": {"type": "string"}, "description": "The names of values that the job had and the letter has not: it cannot be replayed. Not there where nothing is missing."},
            LEFT_OUT: {"type": "array", "items": {"type": "string"}, "description": "The names of what is not kept and says nothing to a worker, such as other headers."},
            JOB_ID: {"type": "string", "description": "The name of a job that has no message_id."},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::job::{JobId, Lane};
    use crate::domain::outcome::{OutcomeKind, PasswordSet, Reason};
    use jiff::Timestamp;
    use lapin::types::FieldTable;

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

    fn allowed() -> AllowedAttributes {
        AllowedAttributes::new(vec!["title".into()])
    }

    /// The names of a header.
    fn said(properties: &BasicProperties, name: &str) -> Vec<String> {
        let headers = properties.headers().clone().unwrap_or_default();
        match headers.inner().get(name) {
            Some(AMQPValue::FieldArray(names)) => {
                names.as_slice().iter().map(|name| super::super::properties::text(name).unwrap().to_owned()).collect()
            }
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn headers_however_large_and_names_however_many_fit_into_a_frame() {
        let mut headers = FieldTable::default();
        headers.insert("x-mine".into(), AMQPValue::LongString("v".repeat(120 * 1024).into()));
        let fields: Vec<String> = (0..1_000).map(|n| format!("\"{n}{}\":0", "\u{10ffff}".repeat(60))).collect();
        let body = format!("{{{}}}", fields[..200].join(","));
        let (_, properties) =
            message(body.as_bytes(), &BasicProperties::default().with_headers(headers), &outcome(), &allowed());
        assert_eq!(said(&properties, "resetd-left-out"), ["header x-mine"]);
        let missing = said(&properties, "resetd-missing");
        assert_eq!((missing.len(), missing[32].as_str()), (33, "and 168 more"));
        assert!(missing.iter().map(String::len).sum::<usize>() < 32 * 1024, "{missing:?}");
    }

    #[test]
    fn a_job_without_a_name_keeps_the_one_made_from_all_of_its_body() {
        let body = br#"{"userId":"u","what":1}"#;
        let name = job_id(body, &BasicProperties::default());
        let (kept, properties) = message(body, &BasicProperties::default(), &outcome(), &allowed());
        assert_eq!(kept, br#"{"userId":"u"}"#);
        assert_eq!(
            properties.headers().as_ref().unwrap().inner()["resetd-job-id"],
            AMQPValue::LongString(name.as_str().into())
        );
    }

    #[test]
    fn a_letter_keeps_what_is_permitted_and_names_the_rest() {
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
            "resetd-missing",
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
        let body = br#"{"password":"hunter2","attributes":{"title":"x","pin":"hunter2"}}"#;
        let (body, properties) = message(body, &came, &outcome(), &allowed());
        assert_eq!(body, br#"{"password":true,"attributes":{"title":"x"}}"#);
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
                "resetd-left-out",
                "resetd-missing",
                "resetd-password-set",
                "resetd-reason",
                "resetd-status",
            ]
        );
        assert_eq!(said(&properties, "resetd-left-out"), ["header x-mine", "property type"]);
        assert_eq!(said(&properties, "resetd-missing"), ["attributes.pin", "what an earlier letter of it had lost"]);
        assert!(properties.expiration().is_none() && properties.user_id().is_none() && properties.kind().is_none());
        assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "j");
        assert_eq!((properties.timestamp(), properties.delivery_mode()), (&Some(7), &Some(2)));
        let AMQPValue::LongString(detail) = &properties.headers().as_ref().unwrap().inner()["resetd-detail"] else {
            panic!()
        };
        assert_eq!(detail.to_string().chars().count(), 512);
    }
}
