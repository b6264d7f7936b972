use super::*;
use OutcomeKind::{Duplicate, Expired, Failed, PassedThrough, Succeeded, Superseded};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn announced(jobs: u64) -> Record<'static> {
    Record::Announced(Announced { lane: Lane::Bulk, jobs, at: at(0) })
}

fn ended(job: &str, kind: OutcomeKind, seconds: i64) -> Record<'_> {
    let (reason, detail) = (None, None);
    Record::Ended(Ended { job: job.into(), lane: Lane::Bulk, kind, reason, detail, at: at(seconds) })
}

fn mailed(job: &str, told: bool) -> Record<'_> {
    Record::Mailed { job: job.into(), told }
}

fn after(records: &[Record<'_>]) -> Progress {
    let mut progress = Progress::default();
    records.iter().for_each(|record| progress.note(record));
    progress
}

/// Total, waiting and done, then succeeded, failed, passed through, superseded, expired, duplicate.
fn check(records: &[Record<'_>], numbers: (Option<u64>, Option<u64>, u64), counts: [u64; 6]) {
    let progress = after(records);
    assert_eq!((progress.total(), progress.waiting(), progress.done()), numbers, "{records:?}");
    let Counts { succeeded, failed, passed_through, superseded, expired, duplicate, .. } = progress.counts();
    assert_eq!([succeeded, failed, passed_through, superseded, expired, duplicate], counts, "{records:?}");
}

#[test]
fn each_job_counts_once_and_one_that_failed_and_then_succeeded_has_succeeded() {
    let e = ended;
    check(&[], (None, None, 0), [0; 6]);
    check(&[announced(3)], (Some(3), Some(3), 0), [0; 6]);
    check(&[announced(3), e("a", Succeeded, 1)], (Some(3), Some(2), 1), [1, 0, 0, 0, 0, 0]);
    let all = [
        announced(6),
        e("a", Succeeded, 1),
        e("b", Failed, 1),
        e("c", PassedThrough, 1),
        e("d", Superseded, 1),
        e("e", Expired, 1),
        e("f", Duplicate, 1),
    ];
    check(&all, (Some(6), Some(0), 6), [1; 6]);
    check(&[announced(1), e("a", Failed, 1), e("a", Succeeded, 2)], (Some(1), Some(0), 1), [1, 0, 0, 0, 0, 0]);
    check(&[announced(1), e("a", Succeeded, 1), e("a", Duplicate, 2)], (Some(1), Some(0), 1), [1, 0, 0, 0, 0, 0]);
    check(&[announced(1), e("a", Succeeded, 1), e("a", Succeeded, 2)], (Some(1), Some(0), 1), [1, 0, 0, 0, 0, 0]);
    check(&[announced(2), e("a", Failed, 1), e("a", Failed, 2)], (Some(2), Some(1), 1), [0, 1, 0, 0, 0, 0]);
}

#[test]
fn a_batch_that_nobody_announced_has_no_end() {
    let progress = after(&[ended("a", Succeeded, 1)]);
    assert_eq!((progress.total(), progress.done(), progress.is_done(), progress.is_known()), (None, 1, false, true));
    assert_eq!(progress.time_left(at(1)), None);
    assert!(!Progress::default().is_known());
}

#[test]
fn a_batch_sent_again_waits_for_what_was_sent_again() {
    let e = ended;
    let first = [announced(3), e("a", Succeeded, 1), e("b", Succeeded, 1), e("c", Failed, 1)];
    let mended = [&first[..], &[announced(1)]].concat();
    check(&mended, (Some(3), Some(1), 2), [2, 1, 0, 0, 0, 0]);
    check(&[&mended[..], &[e("c", Succeeded, 2)]].concat(), (Some(3), Some(0), 3), [3, 0, 0, 0, 0, 0]);
    let whole = [&first[..2], &[announced(3), e("a", Duplicate, 2), e("b", Succeeded, 2)]].concat();
    check(&whole, (Some(3), Some(1), 2), [2, 0, 0, 0, 0, 0]);
    // A mended user is another user, and so another job.
    check(&[&mended[..], &[e("c2", Succeeded, 2)]].concat(), (Some(4), Some(0), 4), [3, 1, 0, 0, 0, 0]);
}

#[test]
fn mails_count_once_for_each_job_whether_its_end_was_seen_before_or_not() {
    let mails =
        [mailed("a", false), mailed("a", true), ended("a", Succeeded, 1), mailed("a", false), mailed("b", false)];
    let progress = after(&mails);
    let Counts { notified, notification_failed, succeeded, .. } = progress.counts();
    assert_eq!((notified, notification_failed, succeeded), (1, 1, 1));
    assert_eq!(progress.done(), 1);
}

#[test]
fn the_rate_is_that_of_the_last_minute_and_the_time_left_follows_it() {
    let mut progress = after(&[announced(1000)]);
    assert_eq!((progress.rate(at(0)), progress.time_left(at(0))), (None, None));
    progress.note(&ended("0", Succeeded, 0));
    assert_eq!(progress.rate(at(5)), None, "one tells nothing");
    // 5 a second, for 100 s.
    (1..=500).for_each(|n: i64| progress.note(&ended(&n.to_string(), Succeeded, n / 5)));
    let rate = progress.rate(at(100)).unwrap();
    assert!((4.8..=5.1).contains(&rate), "{rate}");
    let left = progress.time_left(at(100)).unwrap().as_secs_f64();
    assert!((97.0..105.0).contains(&left), "{left}");
    assert!(progress.recent.len() <= 60, "{}", progress.recent.len());
    let slower = progress.rate(at(130)).unwrap();
    assert!((2.3..=2.6).contains(&slower), "a line that stands still slows down: {slower}");
    assert_eq!(progress.rate(at(161)), None, "and then nobody can tell");
    assert_eq!((progress.first_finish(), progress.last_finish()), (Some(at(0)), Some(at(100))));
}

#[test]
fn a_short_batch_has_a_rate_too() {
    let mut progress = after(&[announced(12), ended("a", Succeeded, 0)]);
    progress.note(&ended("b", Failed, 1));
    progress.note(&ended("c", Succeeded, 2));
    assert_eq!(progress.rate(at(2)), Some(1.0));
    assert_eq!(progress.time_left(at(2)), Some(Duration::from_secs(9)));
    (3..12).for_each(|n| progress.note(&ended(&n.to_string(), Succeeded, n)));
    assert_eq!((progress.is_done(), progress.time_left(at(12))), (true, Some(Duration::ZERO)));
}
