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

fn told_of<'a>(body: &'a [u8], properties: &BasicProperties) -> Option<Ended<'a>> {
    match read(body, properties)? {
        LedgerRecord::Ended(ended) => Some(ended),
        other @ (LedgerRecord::Dropped { .. }
        | LedgerRecord::Batch(_)
        | LedgerRecord::Mailed(_)
        | LedgerRecord::Leader(_)
        | LedgerRecord::State { .. }) => {
            panic!("{other:?} is no job's end")
        }
    }
}

fn entry<'a>(body: &'a [u8], properties: &BasicProperties) -> Option<Entry<'a>> {
    match read(body, properties)? {
        LedgerRecord::Ended(ended) => Entry::of(&ended),
        LedgerRecord::Dropped { .. }
        | LedgerRecord::Batch(_)
        | LedgerRecord::Mailed(_)
        | LedgerRecord::State { .. } => None,
        LedgerRecord::Leader(entry) => Some(entry),
    }
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
        assert_eq!(told_of(&body, &properties), Some(Ended::of(&outcome)), "{kind:?}");
        assert_eq!(entry(&body, &properties), Entry::of(&Ended::of(&outcome)), "{kind:?}");
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
    let at = at(1_800_000_000);
    let mut first = Fence {
        worker: worker.as_str().into(),
        id: "id-1".into(),
        term: None,
        longest_call: Some(Duration::from_millis(2_500)),
        at,
    };
    let (body, properties) = fence("main", &first);
    assert_eq!(
        String::from_utf8_lossy(&body),
        r#"{"org":"main","worker":"host-1 \"a\"","fence":"id-1","longestCallMs":2500,"at":"2027-01-15T08:00:00Z"}"#
    );
    assert_eq!(properties.delivery_mode(), &Some(2));
    assert_eq!(entry(&body, &properties), Some(Entry::Fence { org: "main".into(), fence: first.clone() }));

    first.term = Some("id-0".into());
    let (body, properties) = fence("main", &first);
    assert_eq!(entry(&body, &properties), Some(Entry::Fence { org: "main".into(), fence: first.clone() }));

    // One of release 0.1.
    let body = br#"{"org":"main","worker":"host-1 \"a\"","fence":"id-1","at":"2027-01-15T08:00:00Z"}"#;
    let old = Fence { term: None, longest_call: None, ..first };
    assert_eq!(entry(body, &properties), Some(Entry::Fence { org: "main".into(), fence: old }));

    let (body, properties) = released("main", &worker, "id-1", at);
    assert_eq!(
        String::from_utf8_lossy(&body),
        r#"{"org":"main","worker":"host-1 \"a\"","term":"id-1","at":"2027-01-15T08:00:00Z"}"#
    );
    let (org, name) = ("main".into(), worker.as_str().into());
    assert_eq!(entry(&body, &properties), Some(Entry::Released { org, worker: name, term: Some("id-1".into()), at }));
}

#[test]
fn a_bad_record_is_passed_over() {
    let long = format!(r#"{{"org":"main","worker":"{}","fence":"f","at":"2027-01-15T08:00:00Z"}}"#, "w".repeat(256));
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
        assert_eq!(read(body.as_bytes(), &kind(name)), None, "{name} {body}");
    }
    let (body, _) = record(&outcome(OutcomeKind::Succeeded, "job-1"));
    assert_eq!(read(&body, &BasicProperties::default()), None, "without a type");
}

#[test]
fn what_is_not_known_here_is_left_out_of_a_jobs_end_and_what_is_no_name_makes_it_none() {
    let ended = |rest: &str| {
        let body =
            format!(r#"{{"jobId":"j","org":"main","outcome":"failed","finishedAt":"2027-01-15T08:00:00Z",{rest}}}"#);
        told_of(body.as_bytes(), &kind("outcome")).map(|ended| (ended.lane, ended.reason(), ended.status))
    };
    assert_eq!(ended(r#""lane":"slow","reason":"bored","status":null"#), Some((None, None, None)));
    let known = (Some(Lane::Bulk), Some(Reason::NotFound), Some(404));
    assert_eq!(ended(r#""lane":"bulk","reason":"not_found","status":404,"more":[1]"#), Some(known));
    let long = outcome(OutcomeKind::Failed, &"j".repeat(256));
    assert_eq!(read(&record(&long).0, &kind("outcome")), None);
}

#[test]
fn a_batch_is_named_by_as_many_characters_as_a_job_may_name_it_by() {
    let batch = |name: &str| {
        let mut outcome = outcome(OutcomeKind::Failed, "j");
        outcome.batch = Some(name.to_owned());
        told_of(&record(&outcome).0, &kind("outcome")).unwrap().batch.map(std::borrow::Cow::into_owned)
    };
    assert_eq!(batch(&"批".repeat(255)), Some("批".repeat(255)));
    assert_eq!(batch(&"批".repeat(256)), None);
}

#[test]
fn a_letter_that_was_dropped_is_read() {
    let body = br#"{"jobId":"j-1","org":"main","userId":"u","reason":"not_found","droppedAt":"2027-01-15T08:00:00Z"}"#;
    assert_eq!(read(body, &kind("dropped")), Some(LedgerRecord::Dropped { org: "main".into(), job: "j-1".into() }));
    assert_eq!(read(b"{}", &kind("dropped")), None);
}

#[test]
fn the_announcement_of_a_batch_is_read() {
    let announced =
        crate::domain::batch::Announced { lane: Lane::Bulk, jobs: 7, at: at(1_800_000_000), not_before: None };
    let (body, properties) = batch::announcement("main", "b-1", &announced);
    let Some(LedgerRecord::Batch(about)) = read(&body, &properties) else { panic!("it is one") };
    assert_eq!((&*about.org, &*about.batch), ("main", "b-1"));
}

proptest! {
    #[test]
    fn no_record_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200), at in 0..4_usize) {
        let _ = read(&body, &kind([crate::wire::outcome::TYPE, FENCE, RELEASED, DROPPED][at]));
    }

    #[test]
    fn any_job_is_read_as_it_was_written(job in ".{0,60}", seconds in 0..2_000_000_000_i64) {
        let mut outcome = outcome(OutcomeKind::Succeeded, &job);
        outcome.asked_at = Some(at(seconds));
        let (body, properties) = record(&outcome);
        prop_assert_eq!(told_of(&body, &properties), Some(Ended::of(&outcome)));
    }
}
