//! A job that is published again, to wait at the broker or to be taken later: a fresh message, with what it has been through in
//! headers of ours. (None of them begins with `x-`: the broker's own are ignored, refused or doubled on some version.)

use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use super::{moment, properties};
use crate::domain::outcome::PasswordSet;

/// Calls that counted so far.
const TRIED: &str = "resetd-tried";
/// Those of them that were probes: they bring the job no nearer to being given up.
const PROBES: &str = "resetd-probes";
/// No try before this moment.
const UNTIL: &str = "resetd-until";
/// Names the checkpoint of the worker that published it, which has its password.
const RESUME_TOKEN: &str = "resetd-resume-token";
/// What version 0.1 called it: written and read too for one release, since a worker of that version may take the job.
const OLD_RESUME_TOKEN: &str = "resetd-trip";
/// Deliveries that ended without the job being settled, before it was published again.
const DELIVERIES: &str = "resetd-deliveries";
/// How often the org's minimum age of a password refused a try.
const TOO_SOON: &str = "resetd-too-soon";
/// Whether an earlier try may have set a password; a dead letter says it under the same name.
pub(super) const PASSWORD_SET: &str = "resetd-password-set";

/// What a job carries along when it is published again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetryHeaders {
    /// Calls that counted so far.
    pub tried: u32,
    /// Those of them that were probes: they bring the job no nearer to being given up.
    pub probes: u32,
    /// No try before this moment.
    pub until: Option<Timestamp>,
    /// Under which name the worker that published it remembers its password.
    pub resume_token: Option<String>,
    /// Deliveries that ended without the job being settled.
    pub deliveries: u64,
    /// How often the org's minimum age of a password refused a try.
    pub too_soon: u32,
    /// Whether an earlier try may have set a password: the job says so whatever its later tries bring, in whichever process.
    pub may_be_set: bool,
}

/// What a delivered job carries; nothing, where it comes from its producer. What cannot be read counts as not there.
pub fn retry_headers(from: &BasicProperties) -> RetryHeaders {
    let header = |name| from.headers().as_ref().and_then(|headers| headers.inner().get(name));
    let number = |name| header(name).and_then(properties::integer).and_then(|n| u64::try_from(n).ok());
    let count = |name| number(name).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let text = |name| header(name).and_then(properties::text);
    RetryHeaders {
        tried: count(TRIED),
        probes: count(PROBES),
        until: text(UNTIL).and_then(|text| text.parse().ok()),
        resume_token: text(RESUME_TOKEN).or_else(|| text(OLD_RESUME_TOKEN)).map(str::to_owned),
        deliveries: number(DELIVERIES).unwrap_or(0),
        too_soon: count(TOO_SOON),
        may_be_set: says_it_may_be_set(from),
    }
}

/// Whether these properties, of a job or of its dead letter, say that a password may be set by it.
pub(super) fn says_it_may_be_set(from: &BasicProperties) -> bool {
    let said = from.headers().as_ref().and_then(|headers| headers.inner().get(PASSWORD_SET)).and_then(properties::text);
    said.is_some_and(|said| said == PasswordSet::Unknown.as_str() || said == PasswordSet::Yes.as_str())
}

/// That a password may be set by the job, in its headers.
pub(super) fn say_it_may_be_set(headers: &mut FieldTable) {
    headers.insert(PASSWORD_SET.into(), AMQPValue::LongString(PasswordSet::Unknown.as_str().into()));
}

/// The properties of a job that is published again: as it came, less the marks of the broker, with its retry headers.
pub fn properties(from: &BasicProperties, retry_headers: &RetryHeaders) -> BasicProperties {
    let mut headers = headers(from);
    let mut say = |name: &str, value: AMQPValue| {
        headers.insert(name.into(), value);
    };
    say(TRIED, AMQPValue::LongLongInt(retry_headers.tried.into()));
    if retry_headers.probes > 0 {
        say(PROBES, AMQPValue::LongLongInt(retry_headers.probes.into()));
    }
    if let Some(until) = retry_headers.until {
        say(UNTIL, AMQPValue::LongString(moment(until).into()));
    }
    if let Some(token) = &retry_headers.resume_token {
        for name in [RESUME_TOKEN, OLD_RESUME_TOKEN] {
            say(name, AMQPValue::LongString(token.as_str().into()));
        }
    }
    if retry_headers.deliveries > 0 {
        say(DELIVERIES, AMQPValue::LongLongInt(retry_headers.deliveries.try_into().unwrap_or(i64::MAX)));
    }
    if retry_headers.too_soon > 0 {
        say(TOO_SOON, AMQPValue::LongLongInt(retry_headers.too_soon.into()));
    }
    if retry_headers.may_be_set {
        say_it_may_be_set(&mut headers);
    }
    kept(from).with_headers(headers).with_delivery_mode(2)
}

/// Whether a header is taken off: the broker's own, those that route, and our retry headers. Each of the first loses, refuses or doubles
/// the message on some version.
pub(super) fn is_taken_off(name: &str) -> bool {
    let brokers = ["x-death", "x-delivery-count", "x-acquired-count", "CC", "BCC"];
    let ours = [TRIED, PROBES, UNTIL, RESUME_TOKEN, OLD_RESUME_TOKEN, DELIVERIES, TOO_SOON, PASSWORD_SET];
    brokers.contains(&name)
        || ours.contains(&name)
        || name.starts_with("x-first-death-")
        || name.starts_with("x-last-death-")
}

/// The headers that survive.
pub(super) fn headers(from: &BasicProperties) -> FieldTable {
    let mut headers = FieldTable::default();
    for (name, value) in from.headers().iter().flat_map(|table| table.inner()) {
        if !is_taken_off(name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    headers
}

/// The properties that survive: all but `expiration` and `user_id`, and a `message_id` that was not UTF-8, which names no job.
pub(super) fn kept(from: &BasicProperties) -> BasicProperties {
    let mut kept = BasicProperties::default();
    macro_rules! keep {
        ($($get:ident $set:ident),*) => { $(if let Some(value) = from.$get() { kept = kept.$set(value.clone()); })* };
    }
    keep!(content_type with_content_type, content_encoding with_content_encoding, priority with_priority,
        correlation_id with_correlation_id, reply_to with_reply_to,
        timestamp with_timestamp, kind with_type, app_id with_app_id, cluster_id with_cluster_id);
    match from.message_id().as_ref().filter(|id| !id.is_lossy()) {
        Some(id) => kept.with_message_id(id.clone()),
        None => kept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_job_carries_is_read_as_it_was_written_and_replaces_what_it_carried_before() {
        let mut headers = FieldTable::default();
        for name in ["x-death", "x-delivery-count", "x-first-death-queue", "x-last-death-reason", "CC"] {
            headers.insert(name.into(), AMQPValue::LongLongInt(7));
        }
        headers.insert("batch".into(), AMQPValue::LongString("b".into()));
        let came =
            BasicProperties::default().with_message_id("j".into()).with_expiration("1000".into()).with_headers(headers);
        let until = Timestamp::from_second(1_800_000_000).ok();
        let first = RetryHeaders {
            tried: 3,
            probes: 1,
            until,
            resume_token: Some("t".into()),
            deliveries: 4,
            too_soon: 2,
            may_be_set: true,
        };
        let again = properties(&came, &first);
        assert_eq!(retry_headers(&again), first);
        assert_eq!((again.expiration(), again.message_id().clone()), (&None, Some("j".into())));
        let names: Vec<String> =
            again.headers().iter().flat_map(|t| t.inner().keys()).map(ToString::to_string).collect();
        let expected =
            ["batch", DELIVERIES, PASSWORD_SET, PROBES, RESUME_TOKEN, TOO_SOON, TRIED, OLD_RESUME_TOKEN, UNTIL];
        assert_eq!(names, expected);
        let second = RetryHeaders { tried: 4, ..RetryHeaders::default() };
        assert_eq!(retry_headers(&properties(&again, &second)), second);
    }

    #[test]
    fn a_resume_token_is_read_under_the_name_of_version_0_1_too() {
        for name in [RESUME_TOKEN, OLD_RESUME_TOKEN] {
            let mut headers = FieldTable::default();
            headers.insert(name.into(), AMQPValue::LongString("t".into()));
            let read = retry_headers(&BasicProperties::default().with_headers(headers));
            assert_eq!(read.resume_token.as_deref(), Some("t"), "{name}");
        }
    }

    #[test]
    fn a_job_of_a_producer_carries_nothing_whatever_it_says() {
        assert_eq!(retry_headers(&BasicProperties::default()), RetryHeaders::default());
        let mut headers = FieldTable::default();
        headers.insert(TRIED.into(), AMQPValue::LongLongInt(-1));
        headers.insert(UNTIL.into(), AMQPValue::LongString("tomorrow".into()));
        headers.insert(RESUME_TOKEN.into(), AMQPValue::Boolean(true));
        headers.insert(PASSWORD_SET.into(), AMQPValue::LongString("perhaps".into()));
        assert_eq!(retry_headers(&BasicProperties::default().with_headers(headers)), RetryHeaders::default());
    }
}
