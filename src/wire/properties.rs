//! A job's AMQP properties: its id, what its producer wished, and how often it was delivered.

use jiff::{SignedDuration, Timestamp};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use schemars::{Schema, json_schema};
use sha2::{Digest, Sha256};

use super::{quoted, redact, schema};
use crate::domain::job::{JobId, Wishes};
use crate::domain::outcome::span;
use crate::domain::refusal::Refusal;

/// How far ahead of our clock a producer's may be.
pub(super) const MAX_AHEAD: SignedDuration = SignedDuration::from_mins(5);
/// The longest batch name, in characters.
const MAX_BATCH: usize = 255;
/// The batch it belongs to.
pub(super) const BATCH: &str = "batch";
/// No call before this moment.
pub(super) const NOT_BEFORE: &str = "not-before";
/// No call after this moment.
pub(super) const NOT_AFTER: &str = "not-after";

/// The job's id: its `message_id`, or a name made from what it says.
pub fn job_id(body: &[u8], properties: &BasicProperties) -> JobId {
    message_id(properties).map_or_else(|| derived(body, properties), JobId::new)
}

/// The `message_id`, where there is one. One that was not UTF-8 is none: what is left of it may be left of others too, and of two jobs
/// of one id only one is done.
pub(super) fn message_id(properties: &BasicProperties) -> Option<&str> {
    let given = properties.message_id().as_ref().filter(|id| !id.is_lossy());
    given.map(ShortString::as_str).filter(|id| !id.is_empty())
}

/// Refuses text that is not UTF-8 in a property or in a header's name, which AMQP wants it to be (0-9-1, section 4.2.5.3), and RabbitMQ
/// does not ask for: it was read with U+FFFD in place of such bytes.
///
/// # Errors
/// Where there is any: which property it is, or what is left of the header's name.
pub fn readable(properties: &BasicProperties) -> Result<(), Refusal> {
    let texts = [
        ("content_type", properties.content_type()),
        ("content_encoding", properties.content_encoding()),
        ("correlation_id", properties.correlation_id()),
        ("reply_to", properties.reply_to()),
        ("expiration", properties.expiration()),
        ("message_id", properties.message_id()),
        ("type", properties.kind()),
        ("user_id", properties.user_id()),
        ("app_id", properties.app_id()),
        ("cluster_id", properties.cluster_id()),
    ];
    let lossy = |text: &Option<ShortString>| text.as_ref().is_some_and(ShortString::is_lossy);
    if let Some((name, _)) = texts.iter().find(|(_, text)| lossy(text)) {
        return Err(Refusal(format!("{name}: it holds bytes that are not UTF-8")));
    }
    match properties.headers().as_ref().and_then(lossy_name) {
        Some(name) => {
            Err(Refusal(format!("header {}: its name holds bytes that are not UTF-8", quoted(name.as_str()))))
        }
        None => Ok(()),
    }
}

/// The first name in a table, or in one within it, that was not UTF-8.
fn lossy_name(table: &FieldTable) -> Option<&ShortString> {
    fn within(value: &AMQPValue) -> Option<&ShortString> {
        if let AMQPValue::FieldTable(table) = value {
            lossy_name(table)
        } else if let AMQPValue::FieldArray(values) = value {
            values.as_slice().iter().find_map(within)
        } else {
            None
        }
    }
    table.inner().iter().find_map(|(name, value)| if name.is_lossy() { Some(name) } else { within(value) })
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

/// 9999-12-31T23:59:59Z, in seconds since 1970.
const END_OF_9999: u64 = 253_402_300_799;

/// A moment of a header.
pub(super) fn moment(headers: Option<&FieldTable>, name: &'static str) -> Result<Option<Timestamp>, Refusal> {
    let wrong = |what: &str| {
        Refusal(format!("header {name}: it is {what}; it must be a moment such as 2026-11-23T18:00:00Z (RFC 3339)"))
    };
    match headers.and_then(|headers| headers.inner().get(name)) {
        None | Some(AMQPValue::Void) => Ok(None),
        Some(AMQPValue::Timestamp(seconds)) => {
            // As of a text: the last hours of the year 9999 are the last moment there is.
            let last = (*seconds <= END_OF_9999).then_some(Timestamp::MAX);
            moment_asked(*seconds).or(last).map(Some).ok_or_else(|| wrong("out of range"))
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

    /// As it is read from the wire.
    fn latin1() -> ShortString {
        ShortString::from_utf8_lossy(b"Z\xfcrich".to_vec())
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_wherever_it_stands_and_text_with_its_mark_is_not() {
        let bare = BasicProperties::default;
        let headers = |name: ShortString, value: AMQPValue| {
            let mut table = FieldTable::default();
            table.insert("first".into(), AMQPValue::Void).insert(name, value);
            table
        };
        let nested = AMQPValue::FieldTable(headers(latin1(), AMQPValue::Void));
        let listed = AMQPValue::FieldArray(vec![AMQPValue::Boolean(true), nested.clone()].into());
        let cases = [
            ("content_type: ", bare().with_content_type(latin1())),
            ("content_encoding: ", bare().with_content_encoding(latin1())),
            ("correlation_id: ", bare().with_correlation_id(latin1())),
            ("reply_to: ", bare().with_reply_to(latin1())),
            ("expiration: ", bare().with_expiration(latin1())),
            ("message_id: ", bare().with_message_id(latin1())),
            ("type: ", bare().with_type(latin1())),
            ("user_id: ", bare().with_user_id(latin1())),
            ("app_id: ", bare().with_app_id(latin1())),
            ("cluster_id: ", bare().with_cluster_id(latin1())),
            ("header \"Z\\u{fffd}rich\": ", bare().with_headers(headers(latin1(), AMQPValue::Void))),
            ("header \"Z\\u{fffd}rich\": ", bare().with_headers(headers("a".into(), nested))),
            ("header \"Z\\u{fffd}rich\": ", bare().with_headers(headers("a".into(), listed))),
        ];
        for (start, properties) in cases {
            let refusal = readable(&properties).unwrap_err().to_string();
            assert!(refusal.starts_with(start) && refusal.contains("not UTF-8"), "{refusal}");
        }
        let bytes = AMQPValue::LongString(b"Z\xfcrich"[..].into());
        let text = "Z\u{fffd}rich";
        assert_eq!(readable(&bare().with_app_id(text.into()).with_headers(headers(text.into(), bytes))), Ok(()));
    }

    #[test]
    fn a_message_id_that_is_not_utf8_names_no_job() {
        let named = BasicProperties::default().with_message_id(latin1());
        assert_eq!(job_id(b"{}", &named), job_id(b"{}", &BasicProperties::default()));
        let marked = BasicProperties::default().with_message_id("Z\u{fffd}rich".into());
        assert_eq!(job_id(b"{}", &marked).as_str(), "Z\u{fffd}rich");
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
        assert_eq!(read(AMQPValue::Timestamp(253_402_300_799)), Ok(Some(Timestamp::MAX)));
        assert!(read(AMQPValue::Timestamp(253_402_300_800)).is_err() && read(AMQPValue::Timestamp(u64::MAX)).is_err());
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
