//! A job's AMQP properties: its id, what its producer wished, and how often it was delivered.

use jiff::{SignedDuration, Timestamp};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use schemars::{Schema, json_schema};
use sha2::{Digest, Sha256};

use super::{redact, schema};
use crate::domain::job::{JobId, Refusal, Wishes};
use crate::domain::outcome::span;

/// How far ahead of our clock a producer's may be.
pub(super) const MAX_AHEAD: SignedDuration = SignedDuration::from_mins(5);
/// The longest batch name, in characters.
const MAX_BATCH: usize = 255;
/// The batch it belongs to.
pub(super) const BATCH: &str = "batch";
/// No call before this moment.
const NOT_BEFORE: &str = "not-before";
/// No call after this moment.
const NOT_AFTER: &str = "not-after";

/// The job's id: its `message_id`, or a name made from what it says.
pub fn job_id(body: &[u8], properties: &BasicProperties) -> JobId {
    let given = properties.message_id().as_ref().map(|id| id.as_str()).filter(|id| !id.is_empty());
    given.map_or_else(|| derived(body, properties), JobId::new)
}

/// `sha256:` and the hash of the redacted body, `timestamp` and `correlation_id`, with a zero byte between them.
fn derived(body: &[u8], properties: &BasicProperties) -> JobId {
    let mut hash = Sha256::new();
    hash.update(redact::body(body));
    hash.update([0]);
    hash.update(properties.timestamp().map(|seconds| seconds.to_string()).unwrap_or_default());
    hash.update([0]);
    hash.update(properties.correlation_id().as_ref().map(|id| id.as_str()).unwrap_or_default());
    JobId::derived(format!("sha256:{}", hex::encode(hash.finalize())))
}

/// The properties that a job of ours is published with.
pub fn job_properties(id: &str, asked_at: Timestamp) -> BasicProperties {
    asked(super::persistent().with_message_id(super::short(id)), asked_at)
}

/// The same, saying when it was asked for: in whole seconds, as AMQP has it.
pub(super) fn asked(properties: BasicProperties, at: Timestamp) -> BasicProperties {
    properties.with_timestamp(u64::try_from(at.as_second()).unwrap_or_default())
}

/// That moment read back.
pub(super) fn moment_asked(seconds: u64) -> Option<Timestamp> {
    i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok())
}

/// The same, with all that its producer wishes.
pub fn wished(id: &str, wishes: &Wishes) -> BasicProperties {
    let mut headers = FieldTable::default();
    let mut say = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        }
    };
    say(BATCH, wishes.batch.clone());
    say(NOT_BEFORE, wishes.not_before.map(super::moment));
    say(NOT_AFTER, wishes.not_after.map(super::moment));
    job_properties(id, wishes.asked_at.unwrap_or_else(Timestamp::now)).with_headers(headers)
}

/// What its producer wished, and a warning where a wish was not taken as it came.
///
/// # Errors
/// Where a header of ours cannot be read; such a job is dead-lettered.
pub fn wishes(properties: &BasicProperties, now: Timestamp) -> Result<(Wishes, Option<String>), Refusal> {
    let (asked_at, warning) = asked_at(*properties.timestamp(), now);
    let headers = properties.headers().as_ref();
    let wishes = Wishes {
        asked_at,
        not_before: moment(headers, NOT_BEFORE)?,
        not_after: moment(headers, NOT_AFTER)?,
        batch: batch(headers)?,
    };
    Ok((wishes, warning))
}

fn asked_at(seconds: Option<u64>, now: Timestamp) -> (Option<Timestamp>, Option<String>) {
    let Some(seconds) = seconds else { return (None, None) };
    match moment_asked(seconds) {
        Some(asked) if asked.duration_since(now) <= MAX_AHEAD => (Some(asked), None),
        asked => {
            let by = asked.map(|asked| format!(", by {}", span(asked.duration_since(now)))).unwrap_or_default();
            let warning = format!(
                "its timestamp is more than 5 minutes ahead of this worker's clock{by}; it counts as asked for now, {}. The clock of its \
                 producer is ahead, or this worker's is behind (AMQP timestamps are in seconds)",
                super::moment(now)
            );
            (Some(now), Some(warning))
        }
    }
}

fn moment(headers: Option<&FieldTable>, name: &'static str) -> Result<Option<Timestamp>, Refusal> {
    let wrong = |what: &str| {
        Refusal(format!("header {name}: it is {what}; it must be a moment such as 2026-11-23T18:00:00Z (RFC 3339)"))
    };
    match headers.and_then(|headers| headers.inner().get(name)) {
        None | Some(AMQPValue::Void) => Ok(None),
        Some(AMQPValue::Timestamp(seconds)) => {
            let seconds = i64::try_from(*seconds).map_err(|_| wrong("out of range"))?;
            Timestamp::from_second(seconds).map(Some).map_err(|_| wrong("out of range"))
        }
        Some(value) => {
            let text = text(value).ok_or_else(|| wrong("not text"))?;
            super::read_moment(text)
                .map(Some)
                .ok_or_else(|| wrong(&format!("a text of {} characters that is none", text.chars().count())))
        }
    }
}

pub(super) fn batch(headers: Option<&FieldTable>) -> Result<Option<String>, Refusal> {
    let wrong = |what: String| {
        Refusal(format!("header batch: it is {what}; it must be text of at most {MAX_BATCH} characters"))
    };
    match headers.and_then(|headers| headers.inner().get(BATCH)) {
        None | Some(AMQPValue::Void) => Ok(None),
        Some(value) => {
            let text = text(value).ok_or_else(|| wrong("not text".into()))?;
            let count = text.chars().count();
            if count > MAX_BATCH { Err(wrong(format!("{count} characters long"))) } else { Ok(Some(text.to_owned())) }
        }
    }
}

/// The headers by which a producer wishes something; it may send others too.
pub fn headers_schema() -> Schema {
    let generator = &mut schema::generator();
    json_schema!({
        "title": "Job's headers",
        "type": "object",
        "properties": {
            BATCH: {"type": "string", "maxLength": MAX_BATCH, "description": "The batch it belongs to."},
            NOT_BEFORE: schema::about("No call is made before it.", schema::moment(generator)),
            NOT_AFTER: schema::about("No call is made after it: the job ends as `expired`.", schema::moment(generator)),
        },
    })
}

/// How often the broker says it delivered this message before: 0 at the first time.
///
/// `x-delivery-count` is there from the second delivery on (quorum queues, all versions).
pub fn deliveries_before(properties: &BasicProperties) -> u64 {
    let value = properties.headers().as_ref().and_then(|headers| headers.inner().get("x-delivery-count"));
    value.and_then(integer).and_then(|count| u64::try_from(count).ok()).unwrap_or(0)
}

/// A text of a header, whichever of AMQP's kinds its client chose.
pub(super) fn text(value: &AMQPValue) -> Option<&str> {
    if let AMQPValue::LongString(text) = value {
        std::str::from_utf8(text.as_bytes()).ok()
    } else if let AMQPValue::ShortString(text) = value {
        Some(text.as_str())
    } else {
        None
    }
}

/// An integer of a header, whichever of AMQP's widths its sender chose.
#[expect(clippy::wildcard_enum_match_arm, reason = "AMQP's own kinds of values, not a decision of ours")]
pub(super) fn integer(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::ShortShortInt(n) => Some((*n).into()),
        AMQPValue::ShortShortUInt(n) => Some((*n).into()),
        AMQPValue::ShortInt(n) => Some((*n).into()),
        AMQPValue::ShortUInt(n) => Some((*n).into()),
        AMQPValue::LongInt(n) => Some((*n).into()),
        AMQPValue::LongUInt(n) => Some((*n).into()),
        AMQPValue::LongLongInt(n) => Some(*n),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn with(name: &str, value: AMQPValue) -> BasicProperties {
        let mut table = FieldTable::default();
        table.insert(name.into(), value);
        BasicProperties::default().with_headers(table)
    }

    fn text_of(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    #[test]
    fn a_job_is_named_by_its_message_id_or_by_what_it_says() {
        let named = BasicProperties::default().with_message_id("job-1".into());
        assert_eq!(job_id(b"{}", &named).as_str(), "job-1");
        let body = br#"{"userId":"u","password":"hunter2"}"#;
        let other_password = br#"{"userId":"u","password":"hunter3"}"#;
        let bare = job_id(body, &BasicProperties::default());
        assert!(bare.as_str().starts_with("sha256:") && bare.as_str().len() == 7 + 64);
        assert_eq!(
            bare,
            job_id(other_password, &BasicProperties::default()),
            "the name must not depend on the password"
        );
        assert_ne!(bare, job_id(body, &BasicProperties::default().with_timestamp(1)));
        assert_ne!(bare, job_id(body, &BasicProperties::default().with_correlation_id("c".into())));
    }

    #[test]
    fn a_timestamp_far_ahead_counts_as_now_with_a_warning() {
        let at = |seconds| asked_at(Some(seconds), now());
        assert_eq!(at(1_800_000_000 - 86_400).0, Timestamp::from_second(1_800_000_000 - 86_400).ok());
        assert_eq!(at(1_800_000_300), (Timestamp::from_second(1_800_000_300).ok(), None));
        assert_eq!(at(1_800_000_301).0, Some(now()));
        let warning = at(1_800_003_600).1.unwrap();
        assert!(
            warning
                .contains("ahead of this worker's clock, by 60 min; it counts as asked for now, 2027-01-15T08:00:00Z")
        );
        assert!(at(1_800_000_000_000).1.is_some(), "milliseconds taken for seconds");
        assert!(at(u64::MAX).1.is_some());
        assert_eq!(asked_at(None, now()), (None, None));
    }

    #[test]
    fn moments_are_rfc_3339_and_refused_otherwise() {
        let read = |value| wishes(&with("not-after", value), now()).map(|(wishes, _)| wishes.not_after);
        assert_eq!(read(text_of("2027-01-15T08:00:00Z")), Ok(Some(now())));
        assert_eq!(read(text_of("2027-01-15T09:00:00+01:00")), Ok(Some(now())));
        assert_eq!(read(text_of("2027-01-15T08:00:00.000000000999Z")), Ok(Some(now())));
        assert_eq!(read(text_of("9999-12-31T23:59:59Z")), Ok(Some(Timestamp::MAX)));
        assert_eq!(read(AMQPValue::Timestamp(1_800_000_000)), Ok(Some(now())));
        assert_eq!(read(AMQPValue::Void), Ok(None));
        let bad =
            ["tomorrow", "2027-01-15", "2027-01-15T08:00:00+25:00", "2027-01-15T08:00:00", "2027-13-15T08:00:00Z"];
        let bad = bad.map(text_of).into_iter().chain([AMQPValue::Boolean(true), AMQPValue::LongLongInt(5)]);
        for bad in bad {
            let refusal = read(bad).unwrap_err().to_string();
            assert!(refusal.contains("not-after") && !refusal.contains("tomorrow"), "{refusal}");
        }
    }

    #[test]
    fn what_we_wish_ourselves_is_read_as_it_was_written() {
        let later = now() + SignedDuration::from_millis(1500);
        let wished_for = Wishes {
            asked_at: Some(now()),
            not_before: Some(now()),
            not_after: Some(later),
            batch: Some("agents".into()),
        };
        assert_eq!(wishes(&wished("j", &wished_for), now()), Ok((wished_for, None)));
        let nothing = Wishes { asked_at: Some(now()), ..Wishes::default() };
        assert_eq!(wishes(&wished("j", &nothing), now()), Ok((nothing, None)));
    }

    #[test]
    fn the_delivery_count_is_read_in_any_width() {
        assert_eq!(deliveries_before(&BasicProperties::default()), 0);
        assert_eq!(deliveries_before(&with("x-delivery-count", AMQPValue::LongLongInt(19))), 19);
        assert_eq!(deliveries_before(&with("x-delivery-count", AMQPValue::ShortShortUInt(3))), 3);
        assert_eq!(deliveries_before(&with("x-delivery-count", text_of("3"))), 0);
    }
}
