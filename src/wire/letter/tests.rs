//! What is read of letters of both kinds, and what becomes of them.

use lapin::types::FieldArray;
use serde_json::json;

use super::*;
use crate::domain::outcome::{Outcome, OutcomeKind, PasswordSet, Reason};

const BODY: &[u8] = br#"{"userId":"u-1","password":true,"email":"a@example.com"}"#;

fn allowed() -> AllowedAttributes {
    AllowedAttributes::new(vec!["title".into()])
}

fn text_of(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn table(pairs: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert((*name).into(), value.clone());
    }
    table
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// The letter as a worker writes it.
fn of_a_worker() -> (Vec<u8>, BasicProperties) {
    let outcome = Outcome {
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
        detail: Some("Not Found".into()),
        finished_at: at(0),
    };
    let came = BasicProperties::default().with_message_id("j".into()).with_timestamp(7).with_headers(table(&[
        ("batch", text_of("monday")),
        ("not-after", text_of("2099-01-01T00:00:00Z")),
        ("resetd-retry", text_of(r#"{"v":1,"tried":3}"#)),
        ("resetd-tried", AMQPValue::LongLongInt(3)),
    ]));
    super::super::dead_letter::message(BODY, &came, &outcome, &allowed())
}

/// A letter as the broker itself makes it of a job in the bulk lane.
fn of_the_broker() -> BasicProperties {
    let death = |queue: &str, reason: &str, seconds| {
        AMQPValue::FieldTable(table(&[
            ("queue", text_of(queue)),
            ("reason", text_of(reason)),
            ("time", AMQPValue::Timestamp(seconds)),
        ]))
    };
    let deaths = vec![
        death("p.resets.main.bulk", "delivery_limit", 1_800_000_000),
        death("p.resets.main.parked.15s", "expired", 1_700_000_000),
    ];
    BasicProperties::default().with_message_id("j".into()).with_user_id("guest".into()).with_headers(table(&[
        ("x-death", AMQPValue::FieldArray(FieldArray::from(deaths))),
        ("x-first-death-reason", text_of("expired")),
        ("x-delivery-count", AMQPValue::LongLongInt(21)),
        ("resetd-retry", text_of(r#"{"v":1,"deliveries":9}"#)),
        ("resetd-deliveries", AMQPValue::LongLongInt(9)),
        ("x-mine", text_of("mine")),
    ]))
}

#[test]
fn a_workers_letter_is_read_as_it_was_written() {
    let (body, properties) = of_a_worker();
    let letter = DeadLetter::read(&body, &properties);
    let expected = DeadLetter {
        job: JobId::new("j"),
        user: UserId::parse("u-1").ok(),
        user_name: None,
        batch: Some("monday".into()),
        reason: "not_found".into(),
        by: By::Worker,
        detail: Some("Not Found".into()),
        status: Some(404),
        attempts: Some(1),
        password_set: Some("no".into()),
        lane: Ok(Lane::Bulk),
        dead_at: Some(at(0)),
        kept: true,
        missing: vec![],
        left_out: vec![],
    };
    assert_eq!(letter, expected);
}

#[test]
fn what_the_broker_dead_lettered_is_read_from_its_newest_death() {
    let letter = DeadLetter::read(BODY, &of_the_broker());
    assert_eq!((letter.reason.as_str(), letter.by, letter.lane), ("delivery_limit", By::Broker, Ok(Lane::Bulk)));
    assert_eq!((letter.dead_at, letter.status, letter.attempts), (Some(at(0)), None, None));
    let bare = DeadLetter::read(b"", &BasicProperties::default());
    assert_eq!((bare.reason.as_str(), bare.lane, bare.kept), ("unknown", Ok(Lane::Interactive), false));
}

#[test]
fn a_lane_that_is_not_known_is_said_and_no_other_stands_in_for_it() {
    let (body, properties) = of_a_worker();
    let mut headers = properties.headers().clone().unwrap_or_default();
    headers.insert(dead_letter::LANE.into(), AMQPValue::LongString("no-lane".into()));
    let letter = DeadLetter::read(&body, &properties.with_headers(headers));
    let why = format!("{}; {CURE}", UnknownLane("no-lane".into()));
    assert_eq!(letter.hindrance(), Some(why));
    assert!(line(&letter, "main", None).contains(r#""lane":"no-lane""#), "{}", line(&letter, "main", None));
}

#[test]
fn what_is_no_user_id_is_not_shown_as_one() {
    for body in [r#"{"userId":"a@example.com"}"#, r#"{"userId":7}"#, "[]", "hello", ""] {
        assert_eq!(DeadLetter::read(body.as_bytes(), &BasicProperties::default()).user, None, "{body}");
    }
    let named = DeadLetter::read(br#"{"userId":7,"userName":"a@example.com"}"#, &BasicProperties::default());
    assert_eq!(named.user_name.as_deref(), Some("a@example.com"));
    assert!(!line(&named, "main", None).contains('@'), "a line has no address");
}

fn header_names(properties: &BasicProperties) -> Vec<String> {
    properties.headers().iter().flat_map(|table| table.inner().keys()).map(ToString::to_string).collect()
}

#[test]
fn a_replayed_job_is_fresh_and_keeps_its_name_and_its_wishes() {
    let (body, properties) = of_a_worker();
    let fresh = replayed(&body, &properties);
    assert_eq!(header_names(&fresh), ["batch", "not-after"]);
    assert_eq!((fresh.message_id(), fresh.timestamp()), (&Some("j".into()), &Some(7)));
    assert_eq!(fresh.delivery_mode(), &Some(2));
    let fresh = replayed(BODY, &of_the_broker());
    assert_eq!((header_names(&fresh), fresh.user_id()), (vec!["x-mine".to_owned()], &None));
}

#[test]
fn a_job_without_a_name_gets_one_that_stays_the_same_and_counts_as_done() {
    let once = replayed(BODY, &BasicProperties::default());
    let name = once.message_id().as_ref().unwrap().as_str().to_owned();
    assert!(name.starts_with("replay:sha256:"), "{name}");
    assert_eq!(replayed(BODY, &BasicProperties::default()).message_id(), once.message_id());
    assert_eq!(replayed(BODY, &once).message_id(), once.message_id());
    let mut index = crate::domain::ledger::LedgerIndex::default();
    let job = JobId::new(name);
    let entry =
        crate::domain::ledger::Entry::Done { org: "main".into(), job: job.as_str().into(), reset: None, at: at(0) };
    let _ = index.note(&entry, 0, at(0));
    assert!(index.is_done("main", &job, None, false, at(3600)));
}

#[test]
fn a_line_and_a_dropped_record_say_what_a_program_wants_to_know() {
    let (body, properties) = of_a_worker();
    let letter = DeadLetter::read(&body, &properties);
    insta::assert_snapshot!(line(&letter, "main", None), @r#"{"jobId":"j","org":"main","lane":"bulk","userId":"u-1","batch":"monday","reason":"not_found","by":"worker","status":404,"attempts":1,"passwordSet":"no","deadAt":"2027-01-15T08:00:00Z","detail":"Not Found","canBeReplayed":true}"#);
    let (record, properties) = dropped(&letter, "main", at(60));
    insta::assert_snapshot!(String::from_utf8(record).unwrap(), @r#"{"jobId":"j","org":"main","lane":"bulk","userId":"u-1","batch":"monday","reason":"not_found","deadAt":"2027-01-15T08:00:00Z","droppedAt":"2027-01-15T08:01:00Z"}"#);
    assert_eq!(properties.kind().as_ref().map(|kind| kind.as_str()), Some("dropped"));
    assert_eq!(properties.correlation_id().as_ref().map(|id| id.as_str()), Some("j"));
}

#[test]
fn what_is_shown_of_a_body_is_what_a_letter_keeps() {
    let check = |body: &str, shown: Value, names: &[&str]| {
        let not_shown = names.iter().map(ToString::to_string).collect();
        assert_eq!(super::shown(body.as_bytes(), &allowed()), Shown { body: shown, not_shown }, "{body}");
    };
    check(r#"{"password":"hunter2","userId":"u"}"#, json!({"password": true, "userId": "u"}), &[]);
    check(
        r#"{"userId":"u","pin":1,"password":1,"attributes":{"title":"x","y":2}}"#,
        json!({"userId": "u", "password": true, "attributes": {"title": "x"}}),
        &["pin", "attributes.y"],
    );
    check("my pwd is hunter2", Value::Null, &["body"]);
    check("hello", Value::Null, &["body"]);
    check("", Value::Null, &[]);
}

/// The letter of a worker with these headers more.
fn with_more(body: &[u8], more: &[(&str, AMQPValue)]) -> DeadLetter {
    let mut headers = table(&[("resetd-reason", text_of("invalid_job"))]);
    for (name, value) in more {
        headers.insert((*name).into(), value.clone());
    }
    DeadLetter::read(body, &BasicProperties::default().with_headers(headers))
}

#[test]
fn a_letter_that_is_not_its_job_any_more_cannot_be_replayed_and_says_why() {
    let names = AMQPValue::FieldArray(FieldArray::from(vec![text_of("pin"), text_of("header not-after")]));
    let lost = with_more(BODY, &[("resetd-missing", names.clone())]);
    assert!(lost.hindrance().unwrap().starts_with("what its job had, and it has not: pin, header not-after; "));
    assert!(line(&lost, "main", None).contains(r#""canBeReplayed":false,"missing":["pin","header not-after"]"#));
    let old = |detail: &str| with_more(BODY, &[("resetd-detail", text_of(detail))]).hindrance();
    assert!(old("userId: the field stands twice; it must stand once").unwrap().contains("which of both"));
    assert!(old("\"$serde_json::private::RawValue\": unknown field").unwrap().contains("which of both"));
    assert_eq!(old("userId: it is missing"), None);
    assert!(with_more(b"", &[]).hindrance().unwrap().contains("no JSON object"));
    // Of the broker's letters nothing is missing, whatever their producer says.
    let forged = BasicProperties::default().with_headers(table(&[("resetd-missing", names)]));
    assert_eq!(DeadLetter::read(BODY, &forged).hindrance(), None);
}

#[test]
fn a_letter_says_what_a_job_without_an_id_was_called() {
    let name = format!("sha256:{}", "0a".repeat(32));
    let of = |name: &str| with_more(BODY, &[("resetd-job-id", text_of(name))]).job;
    assert_eq!(of(&name), JobId::derived(name.clone()));
    let derived = job_id(BODY, &BasicProperties::default());
    for forged in ["", "job-1", "sha256:", &name[..70], &format!("{name}0"), &name.replace('a', "x")] {
        assert_eq!(of(forged), derived, "{forged}");
    }
    // Of the broker's it is whatever a producer wrote there.
    let headers = table(&[("resetd-job-id", text_of(&name))]);
    let properties = BasicProperties::default().with_headers(headers);
    assert_eq!(DeadLetter::read(BODY, &properties).job, derived);
    assert_eq!(replayed(BODY, &properties).message_id().as_ref().unwrap().as_str(), format!("replay:{derived}"));
}
