//! The records of the stream of outcomes: read, as far as the book wants to know them, and the worker's own two, written.
//!
//! Anyone may publish there: a record that cannot be read is passed over. 432,000 are read at a worker's start, so that nothing is
//! copied which need not be.

use std::borrow::Cow;

use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::AMQPValue;
use serde::{Deserialize, Serialize};

use super::outcome::ASKED_AT;
use super::properties::integer;
use super::{json, moment, persistent};
use crate::domain::ledger::{Entry, WorkerName};
use crate::domain::outcome::OutcomeKind;

/// The `type` of a job's end.
const OUTCOME: &str = "outcome";
/// The `type` of a lease that was taken.
const FENCE: &str = "fence";
/// The `type` of a lease that was given back.
const RELEASED: &str = "released";
/// The longest name or id that is believed, in bytes: what an AMQP short string holds.
const MAX_NAME: usize = 255;
/// The header in which the broker says where in its stream a record stands.
const OFFSET: &str = "x-stream-offset";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Done<'a> {
    #[serde(borrow)]
    job_id: Cow<'a, str>,
    #[serde(borrow)]
    org: Cow<'a, str>,
    #[serde(borrow, default)]
    user_id: Option<Text<'a>>,
    #[serde(borrow)]
    outcome: Cow<'a, str>,
    #[serde(borrow)]
    finished_at: Cow<'a, str>,
}

/// Borrows within an `Option` too, which a bare `Cow` does not.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Serialize, Deserialize)]
struct Lease<'a> {
    #[serde(borrow)]
    org: Cow<'a, str>,
    #[serde(borrow)]
    worker: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    fence: Option<Cow<'a, str>>,
    #[serde(borrow)]
    at: Cow<'a, str>,
}

/// What a record says; `None` where it is none of these, cannot be read, or tells of a job that may come again.
pub fn entry<'a>(body: &'a [u8], properties: &BasicProperties) -> Option<Entry<'a>> {
    match properties.kind().as_ref()?.as_str() {
        OUTCOME => done(body, properties),
        FENCE => {
            let Lease { org, worker, fence, at } = lease(body)?;
            let id = fence.filter(|id| !id.is_empty() && id.len() <= MAX_NAME)?;
            Some(Entry::Fence { org, worker, id, at: at.parse().ok()? })
        }
        RELEASED => {
            let Lease { org, worker, fence: _, at } = lease(body)?;
            Some(Entry::Released { org, worker, at: at.parse().ok()? })
        }
        _ => None,
    }
}

fn done<'a>(body: &'a [u8], properties: &BasicProperties) -> Option<Entry<'a>> {
    let Done { job_id, org, user_id, outcome, finished_at } = serde_json::from_slice(body).ok()?;
    let user = if outcome == OutcomeKind::Succeeded.as_str() {
        user_id
    } else if outcome == OutcomeKind::PassedThrough.as_str() {
        None
    } else {
        return None;
    };
    let reset = user.and_then(|user| Some((user.0, asked_at(properties)?)));
    Some(Entry::Done { org, job: job_id, reset, at: finished_at.parse().ok()? })
}

fn asked_at(properties: &BasicProperties) -> Option<Timestamp> {
    let seconds = properties.headers().as_ref()?.inner().get(ASKED_AT).and_then(integer)?;
    Timestamp::from_second(seconds).ok()
}

fn lease(body: &[u8]) -> Option<Lease<'_>> {
    let lease: Lease<'_> = serde_json::from_slice(body).ok()?;
    let fits = |name: &str| !name.is_empty() && name.len() <= MAX_NAME;
    (fits(&lease.org) && fits(&lease.worker)).then_some(lease)
}

/// Where in its stream a record stands.
pub fn offset(properties: &BasicProperties) -> Option<u64> {
    let offset: &AMQPValue = properties.headers().as_ref()?.inner().get(OFFSET)?;
    integer(offset).and_then(|offset| u64::try_from(offset).ok())
}

/// The record of a worker that took an org's lease; `id` is this fence's own.
pub fn fence(org: &str, worker: &WorkerName, id: &str, at: Timestamp) -> (Vec<u8>, BasicProperties) {
    write(FENCE, org, worker, Some(id), at)
}

/// The record of a worker that gives an org's lease back.
pub fn released(org: &str, worker: &WorkerName, at: Timestamp) -> (Vec<u8>, BasicProperties) {
    write(RELEASED, org, worker, None, at)
}

fn write(kind: &str, org: &str, worker: &WorkerName, id: Option<&str>, at: Timestamp) -> (Vec<u8>, BasicProperties) {
    let at = moment(at);
    let record =
        Lease { org: org.into(), worker: worker.as_str().into(), fence: id.map(Cow::Borrowed), at: at.as_str().into() };
    (json(&record), persistent().with_type(kind.into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::job::{JobId, Lane};
    use crate::domain::outcome::{Outcome, PasswordSet, Reason};
    use crate::domain::user::UserId;
    use crate::wire::outcome::record;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn outcome(kind: OutcomeKind, job: &str) -> Outcome {
        Outcome {
            job: JobId::new(job),
            org: "main".into(),
            lane: Lane::Bulk,
            user: UserId::parse("u-1").ok(),
            batch: Some("b\"1".into()),
            asked_at: Some(at(1_799_999_990)),
            kind,
            reason: Some(Reason::NotFound),
            status: None,
            attempts: 3,
            password_set: PasswordSet::No,
            detail: Some("line\nline".into()),
            finished_at: at(1_800_000_000),
        }
    }

    fn kind(name: &str) -> BasicProperties {
        BasicProperties::default().with_type(name.into())
    }

    fn reset_of(entry: Option<Entry<'_>>) -> Option<(String, Timestamp)> {
        let Some(Entry::Done { reset, .. }) = entry else { panic!("{entry:?} is no job's end") };
        reset.map(|(user, asked_at)| (user.into_owned(), asked_at))
    }

    #[test]
    fn an_outcome_as_we_write_it_is_read_and_only_one_that_need_not_come_again() {
        for (kind, read) in [
            (OutcomeKind::Succeeded, true),
            (OutcomeKind::PassedThrough, true),
            (OutcomeKind::Failed, false),
            (OutcomeKind::Superseded, false),
            (OutcomeKind::Expired, false),
            (OutcomeKind::Duplicate, false),
        ] {
            let outcome = outcome(kind, "job \"1\"\u{1F600}");
            let (body, properties) = record(&outcome);
            assert_eq!(entry(&body, &properties), Entry::of(&outcome), "{kind:?}");
            assert_eq!(entry(&body, &properties).is_some(), read, "{kind:?}");
        }
    }

    #[test]
    fn one_that_nobody_dated_or_without_a_user_supersedes_nothing() {
        let mut undated = outcome(OutcomeKind::Succeeded, "job-1");
        undated.asked_at = None;
        let (body, properties) = record(&undated);
        assert_eq!(reset_of(entry(&body, &properties)), None);
        let (body, _) = record(&outcome(OutcomeKind::Succeeded, "job-1"));
        assert_eq!(reset_of(entry(&body, &kind("outcome"))), None);
        let bare = br#"{"jobId":"j","org":"main","outcome":"succeeded","finishedAt":"2027-01-15T08:00:00Z"}"#;
        assert_eq!(reset_of(entry(bare, &record(&undated).1)), None);
    }

    #[test]
    fn names_are_borrowed_from_the_record() {
        let (body, properties) = record(&outcome(OutcomeKind::Succeeded, "job-1"));
        let Some(Entry::Done { org, job, reset: Some((user, _)), at: _ }) = entry(&body, &properties) else {
            panic!("it is a job's end")
        };
        for name in [org, job, user] {
            assert!(matches!(name, Cow::Borrowed(_)), "{name}");
        }
    }

    #[test]
    fn a_fence_and_a_release_are_read_as_they_were_written() {
        let worker = WorkerName::new("host-1 \"a\"");
        let (body, properties) = fence("main", &worker, "id-1", at(1_800_000_000));
        assert_eq!(
            String::from_utf8_lossy(&body),
            r#"{"org":"main","worker":"host-1 \"a\"","fence":"id-1","at":"2027-01-15T08:00:00Z"}"#
        );
        assert_eq!(properties.delivery_mode(), &Some(2));
        let (org, name, at) = ("main".into(), worker.as_str().into(), at(1_800_000_000));
        assert_eq!(entry(&body, &properties), Some(Entry::Fence { org, worker: name, id: "id-1".into(), at }));

        let (body, properties) = released("main", &worker, at);
        assert_eq!(
            String::from_utf8_lossy(&body),
            r#"{"org":"main","worker":"host-1 \"a\"","at":"2027-01-15T08:00:00Z"}"#
        );
        let (org, name) = ("main".into(), worker.as_str().into());
        assert_eq!(entry(&body, &properties), Some(Entry::Released { org, worker: name, at }));
    }

    #[test]
    fn a_bad_record_is_passed_over() {
        let long =
            format!(r#"{{"org":"main","worker":"{}","fence":"f","at":"2027-01-15T08:00:00Z"}}"#, "w".repeat(256));
        for (name, body) in [
            ("outcome", ""),
            ("outcome", "no JSON"),
            ("outcome", "[]"),
            ("outcome", r#"{"jobId":"j","org":"main","outcome":"succeeded"}"#),
            ("outcome", r#"{"jobId":"j","org":"main","outcome":"succeeded","finishedAt":"yesterday"}"#),
            ("outcome", r#"{"jobId":7,"org":"main","outcome":"succeeded","finishedAt":"2027-01-15T08:00:00Z"}"#),
            ("outcome", r#"{"jobId":"j","org":"main","outcome":"done","finishedAt":"2027-01-15T08:00:00Z"}"#),
            ("fence", r#"{"org":"main","worker":"w","at":"2027-01-15T08:00:00Z"}"#),
            ("fence", r#"{"org":"main","worker":"w","fence":"","at":"2027-01-15T08:00:00Z"}"#),
            ("fence", r#"{"org":"","worker":"w","fence":"f","at":"2027-01-15T08:00:00Z"}"#),
            ("fence", r#"{"org":"main","worker":"w","fence":"f","at":"now"}"#),
            ("fence", &long),
            ("released", r#"{"org":"main","at":"2027-01-15T08:00:00Z"}"#),
            ("mail", r#"{"org":"main","worker":"w","fence":"f","at":"2027-01-15T08:00:00Z"}"#),
        ] {
            assert_eq!(entry(body.as_bytes(), &kind(name)), None, "{name} {body}");
        }
        let (body, _) = record(&outcome(OutcomeKind::Succeeded, "job-1"));
        assert_eq!(entry(&body, &BasicProperties::default()), None, "without a type");
    }

    proptest! {
        #[test]
        fn no_record_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200), at in 0..3_usize) {
            let _ = entry(&body, &kind([OUTCOME, FENCE, RELEASED][at]));
        }

        #[test]
        fn any_job_is_read_as_it_was_written(job in ".{0,60}", seconds in 0..2_000_000_000_i64) {
            let mut outcome = outcome(OutcomeKind::Succeeded, &job);
            outcome.asked_at = Some(at(seconds));
            let (body, properties) = record(&outcome);
            prop_assert_eq!(entry(&body, &properties), Entry::of(&outcome));
        }
    }
}
