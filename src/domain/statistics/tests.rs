//! What is told of a stream of outcomes, however often and in whatever order its records come.

use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::domain::batch::MailOutcome;

/// The beginning of a minute.
const START: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).unwrap()
}

fn ended(job: &str, kind: OutcomeKind, seconds: i64) -> Ended<'static> {
    Ended {
        org: "main".into(),
        job: job.to_owned().into(),
        user: Some("u-1".into()),
        batch: None,
        asked_at: None,
        lane: Some(Lane::Bulk),
        kind,
        reason: (kind == OutcomeKind::Failed).then_some(Reason::NotFound.as_str().into()),
        detail: None,
        status: Some(200),
        at: at(seconds),
    }
}

fn statistics() -> Statistics {
    Statistics::new(["main"].into_iter())
}

fn lately(statistics: &Statistics, seconds: i64) -> Lately {
    statistics.lately("main", at(seconds), None).unwrap()
}

#[test]
fn what_ended_is_counted_by_the_minute_for_an_hour() {
    let mut statistics = statistics();
    for (job, kind, seconds) in [
        ("a", OutcomeKind::Succeeded, 0),
        ("b", OutcomeKind::Succeeded, 59),
        ("c", OutcomeKind::Failed, 60),
        ("d", OutcomeKind::Duplicate, 61),
    ] {
        statistics.ended(&ended(job, kind, seconds), at(seconds));
    }
    let told = lately(&statistics, 61).minutes;
    assert_eq!(told.len(), 60);
    assert_eq!(told[58], Count { succeeded: 2, failed: 0, other: 0 });
    assert_eq!(told[59], Count { succeeded: 0, failed: 1, other: 1 });
    assert_eq!(lately(&statistics, 59 * 60 + 59).minutes[0].succeeded, 2, "the oldest of sixty");
    assert_eq!(lately(&statistics, 60 * 60).minutes[0].failed, 1);
    assert_eq!(lately(&statistics, 62 * 60).minutes.iter().map(|minute| minute.all()).sum::<u32>(), 0);
}

#[test]
fn a_record_that_is_told_twice_counts_once_and_a_job_that_ends_again_counts_again() {
    let mut statistics = statistics();
    for seconds in [1, 1, 2] {
        statistics.ended(&ended("a", OutcomeKind::Failed, seconds), at(5));
    }
    let told = lately(&statistics, 5);
    assert_eq!((told.minutes[59].failed, told.latest.len()), (2, 2));
    assert_eq!(told.failures, [("not_found", 1)].into());
}

#[test]
fn the_rate_is_a_count_of_the_last_minute_and_the_pace_says_what_comes() {
    let mut statistics = statistics();
    let said = |statistics: &Statistics, seconds| {
        let status = Status { rate: 300, blocked: None, closed: [const { None }; Lane::COUNT] };
        let lately = statistics.lately("main", at(seconds), Some(&status)).unwrap();
        (lately.per_minute, lately.completion_rate.map(f64::round))
    };
    assert_eq!(said(&statistics, 0), (0, None));
    // Five a second, from the 600th second on.
    for n in 0..600 {
        statistics.ended(&ended(&format!("j{n}"), OutcomeKind::Succeeded, 600 + n / 5), at(600 + n / 5));
        if n == 99 {
            assert_eq!(said(&statistics, 619), (100, Some(300.0)), "it begins");
        }
    }
    assert_eq!(said(&statistics, 719), (300, Some(300.0)));
    assert_eq!(said(&statistics, 779), (0, None));
}

#[test]
fn what_the_orgs_worker_said_last_counts_where_the_org_is_not_ours() {
    let mut statistics = statistics();
    let status = |rate| Status { rate, blocked: None, closed: [const { None }; Lane::COUNT] };
    let known =
        |statistics: &Statistics, own| statistics.lately("main", at(0), own).unwrap().status.map(|said| said.rate);
    assert_eq!(known(&statistics, None), None);
    statistics.stands("main", &status(60));
    statistics.stands("other", &status(1));
    assert_eq!((known(&statistics, None), known(&statistics, Some(&status(300)))), (Some(60), Some(300)));
}

#[test]
fn the_newest_who_failed_are_named_by_their_reason() {
    let mut statistics = statistics();
    for n in 0..8 {
        let mut failed = ended(&format!("b/u-{n}"), OutcomeKind::Failed, n);
        failed.user = (n != 7).then(|| format!("u-{n}").into());
        statistics.ended(&failed, at(10));
    }
    statistics.ended(&ended("b/u-5", OutcomeKind::Succeeded, 9), at(10));
    let named: Vec<Box<str>> = ["b/u-7", "u-6", "u-4", "u-3", "u-2"].map(Box::from).into();
    assert_eq!(lately(&statistics, 10).failed, [("not_found", named)].into());
}

#[test]
fn a_batch_was_heard_of_when_its_last_record_was_written_however_late_it_is_read() {
    let mut statistics = statistics();
    let mailed =
        |seconds: Option<i64>| Record::Mailed { job: "b/1".into(), mail: MailOutcome::Sent, at: seconds.map(at) };
    let read = at(5_000);
    statistics.batch("main", "b", &mailed(None), read);
    assert_eq!(statistics.lately("main", read, None).unwrap().batches, [], "nobody knows when that was");
    statistics.batch("main", "b", &announced(1, 0), read);
    let mut done = ended("b/1", OutcomeKind::Succeeded, 5);
    done.batch = Some("b".into());
    statistics.ended(&done, read);
    let heard = |statistics: &Statistics| statistics.lately("main", read, None).unwrap().batches[0].heard;
    assert_eq!(heard(&statistics), at(5));
    statistics.batch("main", "b", &mailed(None), read);
    assert_eq!(heard(&statistics), at(5));
    statistics.batch("main", "b", &mailed(Some(9)), read);
    assert_eq!(heard(&statistics), at(9));
}

#[test]
fn a_failure_is_open_until_its_job_ends_otherwise_or_is_dropped_or_a_day_has_passed() {
    let mut statistics = statistics();
    for (n, job) in ["a", "b", "c", "d"].into_iter().enumerate() {
        statistics.ended(&ended(job, OutcomeKind::Failed, n as i64), at(10));
    }
    let mut unnamed = ended("e", OutcomeKind::Failed, 5);
    unnamed.reason = None;
    statistics.ended(&unnamed, at(10));
    assert_eq!(lately(&statistics, 10).failures, [("not_found", 4), ("other", 1)].into());
    statistics.ended(&ended("a", OutcomeKind::Succeeded, 20), at(20));
    statistics.ended(&ended("b", OutcomeKind::Superseded, 20), at(20));
    statistics.dropped("main", "c", at(20));
    statistics.dropped("main", "d", at(1));
    assert_eq!(
        lately(&statistics, 20).failures,
        [("not_found", 1), ("other", 1)].into(),
        "d failed after it was dropped"
    );
    let mut again = ended("d", OutcomeKind::Failed, 30);
    again.reason = Some(Reason::Rejected.as_str().into());
    statistics.ended(&again, at(30));
    assert_eq!(lately(&statistics, 30).failures, [("other", 1), ("rejected", 1)].into(), "what it failed for last");
    assert_eq!(lately(&statistics, 6 + 24 * 3600).failures, [("rejected", 1)].into());
    assert_eq!(lately(&statistics, 31 + 24 * 3600).failures, [].into());
}

#[test]
fn the_last_jobs_are_told_the_newest_first_in_whatever_order_they_come() {
    let mut statistics = statistics();
    for seconds in [5, 3, 4, 3, 9, 5] {
        statistics.ended(&ended(&format!("j{seconds}"), OutcomeKind::Succeeded, seconds), at(10));
    }
    let jobs = |statistics: &Statistics| {
        lately(statistics, 200).latest.iter().map(|line| line.job.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(jobs(&statistics), ["j9", "j5", "j4", "j3"]);
    for seconds in 20..100 {
        statistics.ended(&ended(&format!("j{seconds}"), OutcomeKind::Succeeded, seconds), at(100));
    }
    statistics.ended(&ended("old", OutcomeKind::Succeeded, 1), at(100));
    let told = jobs(&statistics);
    assert_eq!((told.len(), told[0].as_str(), told[29].as_str()), (30, "j99", "j70"));
}

fn mailed(job: &str, unsent: Option<Unsent>) -> Mailed<'static> {
    Mailed {
        org: "main".into(),
        job: job.to_owned().into(),
        batch: None,
        note: None,
        notified: unsent.is_none(),
        unsent,
        issued_at: None,
        at: None,
    }
}

#[test]
fn what_became_of_a_jobs_mail_is_what_its_record_says_whichever_comes_first() {
    let mut statistics = statistics();
    statistics.mailed(&mailed("early", None), at(0));
    for (n, job) in ["early", "queued", "late", "failed", "both", "newer"].into_iter().enumerate() {
        statistics.ended(&ended(job, OutcomeKind::Succeeded, n.try_into().unwrap()), at(100));
    }
    statistics.ended(&ended("late", OutcomeKind::Duplicate, 50), at(100));
    statistics.mailed(&mailed("late", None), at(100));
    statistics.mailed(&mailed("failed", Some(Unsent::Undeliverable)), at(100));
    statistics.mailed(&mailed("both", None), at(100));
    statistics.mailed(&mailed("both", Some(Unsent::Expired)), at(100));
    statistics.mailed(&mailed("newer", Some(Unsent::Superseded)), at(100));
    let said: Vec<_> = lately(&statistics, 100).latest.iter().map(|line| (line.job.to_string(), line.mail)).collect();
    let expected = [
        ("late", None),
        ("newer", Some(Posted::Superseded)),
        ("both", Some(Posted::Sent)),
        ("failed", Some(Posted::Failed)),
        ("late", Some(Posted::Sent)),
        ("queued", None),
        ("early", Some(Posted::Sent)),
    ];
    assert_eq!(said, expected.map(|(job, mail)| (job.to_owned(), mail)));
}

#[test]
fn nothing_is_kept_of_an_org_that_is_not_ours_nor_of_a_clock_that_is_ahead() {
    let mut statistics = statistics();
    let mut other = ended("a", OutcomeKind::Failed, 0);
    other.org = "other".into();
    statistics.ended(&other, at(0));
    assert_eq!((statistics.lately("other", at(0), None), lately(&statistics, 0).latest.len()), (None, 0));
    statistics.ended(&ended("ahead", OutcomeKind::Failed, 7 * 24 * 3600), at(0));
    assert_eq!(lately(&statistics, 0).latest[0].at, at(0));
    assert_eq!(lately(&statistics, 25 * 3600).failures, [].into());
}

#[test]
fn however_many_there_are_it_stays_small_and_counts_no_record_twice_that_it_reads_again() {
    let mut statistics = statistics();
    let records: Vec<_> = (0..150_000).map(|n| ended(&format!("j{n}"), OutcomeKind::Failed, n / 1_000)).collect();
    for _ in 0..2 {
        for record in &records {
            statistics.ended(record, at(150));
        }
        let told = lately(&statistics, 150);
        assert_eq!(told.minutes.iter().map(|minute| minute.failed).sum::<u32>(), 150_000);
        assert_eq!((told.failures["not_found"], told.latest.len()), (20_000, 30));
    }
    assert!(statistics.orgs["main"].hour.known <= 100_000);
}

fn announced(jobs: u64, seconds: i64) -> Record<'static> {
    Record::Announced(batch::Announced { lane: Lane::Bulk, jobs, at: at(seconds), not_before: None })
}

#[test]
fn how_far_a_batch_is_is_told_for_a_day_the_one_heard_of_last_first_and_of_twelve_at_most() {
    let mut statistics = statistics();
    statistics.batch("other", "b", &announced(3, 0), at(0));
    statistics.batch("main", "b", &announced(3, 0), at(0));
    for (job, kind) in [("b/1", OutcomeKind::Succeeded), ("b/2", OutcomeKind::Failed)] {
        let mut ended = ended(job, kind, 5);
        ended.batch = Some("b".into());
        // Once by who did it, and by the stream.
        statistics.ended(&ended, at(5));
        statistics.ended(&ended, at(5));
    }
    statistics.batch("main", "empty", &announced(9, 3), at(5));
    let told = |statistics: &Statistics, seconds| {
        let batches = lately(statistics, seconds).batches.into_iter();
        batches.map(|batch| (batch.name.to_string(), batch.jobs, batch.done, batch.failed)).collect::<Vec<_>>()
    };
    assert_eq!(told(&statistics, 9), [("empty".into(), Some(9), 0, 0), ("b".into(), Some(3), 2, 1)]);
    assert_eq!(told(&statistics, 4 + 24 * 3600), [("b".into(), Some(3), 2, 1)]);
    for n in 0..20 {
        statistics.batch("main", &format!("b-{n}"), &announced(1, 10 + n), at(40));
    }
    let names: Vec<String> = told(&statistics, 40).into_iter().map(|(name, ..)| name).collect();
    assert_eq!((names.len(), names[0].as_str(), names[11].as_str()), (12, "b-19", "b-8"));
}

proptest! {
    /// Whoever did them and whoever reads of them later tell the same.
    #[test]
    fn it_tells_the_same_however_often_and_in_whatever_order_it_was_told(
        records in prop::collection::vec((0_u8..12, 0_i64..4_000), 1..80),
        order in any::<prop::sample::Index>(),
    ) {
        let records: Vec<_> = records.into_iter().map(|(job, seconds)| {
            let kind = if job % 3 == 0 { OutcomeKind::Failed } else { OutcomeKind::Succeeded };
            ended(&format!("job-{job}"), kind, seconds)
        }).collect();
        let now = at(4_000) + SignedDuration::from_secs(1);
        let (mut once, mut twice) = (statistics(), statistics());
        for record in &records {
            once.ended(record, now);
        }
        let middle = order.index(records.len());
        for record in records[middle..].iter().chain(&records).chain(&records[..middle]) {
            twice.ended(record, now);
        }
        let (once, twice) = (once.lately("main", now, None).unwrap(), twice.lately("main", now, None).unwrap());
        prop_assert_eq!(once.minutes, twice.minutes);
        prop_assert_eq!(once.failures, twice.failures);
        let ids = |lines: Vec<Line>| lines.into_iter().map(|line| (line.at, line.job)).collect::<std::collections::BTreeSet<_>>();
        if records.len() <= 30 {
            prop_assert_eq!(ids(once.latest), ids(twice.latest));
        }
    }
}
