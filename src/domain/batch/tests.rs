use super::*;
use OutcomeKind::{Duplicate, Expired, Failed, PassedThrough, Succeeded, Superseded};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn announced(jobs: u64) -> Record<'static> {
    Record::Announced(Announced { lane: Lane::Bulk, jobs, at: at(0), not_before: None })
}

fn ended(job: &str, kind: OutcomeKind, seconds: i64) -> Record<'_> {
    Record::Ended(Ended { job: job.into(), lane: Lane::Bulk, kind, at: at(seconds) })
}

fn mailed(job: &str, notified: bool) -> Record<'_> {
    let mail = if notified { MailOutcome::Sent } else { MailOutcome::Failed };
    Record::Mailed { job: job.into(), mail, at: None }
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
    assert_eq!(progress.time_left(at(1), None), None);
    assert!(!Progress::default().is_known());
}

#[test]
fn a_batch_sent_again_waits_for_what_was_sent_again() {
    let e = ended;
    let first = [announced(3), e("a", Succeeded, 1), e("b", Succeeded, 1), e("c", Failed, 1)];
    let resolved = [&first[..], &[announced(1)]].concat();
    check(&resolved, (Some(3), Some(1), 2), [2, 1, 0, 0, 0, 0]);
    check(&[&resolved[..], &[e("c", Succeeded, 2)]].concat(), (Some(3), Some(0), 3), [3, 0, 0, 0, 0, 0]);
    let whole = [&first[..2], &[announced(3), e("a", Duplicate, 2), e("b", Succeeded, 2)]].concat();
    check(&whole, (Some(3), Some(1), 2), [2, 0, 0, 0, 0, 0]);
    // A user that was fixed is another user, and so another job.
    check(&[&resolved[..], &[e("c2", Succeeded, 2)]].concat(), (Some(4), Some(0), 4), [3, 1, 0, 0, 0, 0]);
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
fn the_rate_is_that_of_the_last_minute_and_the_time_left_follows_it_or_the_rate_in_force() {
    let mut progress = after(&[announced(1000)]);
    let said = |progress: &Progress, seconds: i64, in_force| {
        let left = progress.time_left(at(seconds), in_force).map(|left| left.as_secs_f64().round());
        (progress.ended_lately(at(seconds)), left)
    };
    assert_eq!(said(&progress, 0, Some(300)), (0, None), "others may go first");
    progress.note(&ended("0", Succeeded, 0));
    assert_eq!(said(&progress, 0, None), (1, None), "one tells nothing");
    assert_eq!(said(&progress, 0, Some(300)), (1, Some(200.0)));
    // 5 a second, for 100 s.
    (1..=500).for_each(|n: i64| progress.note(&ended(&n.to_string(), Succeeded, n / 5)));
    let (count, left) = said(&progress, 100, Some(600));
    assert!((295..=300).contains(&count) && left.is_some_and(|left| (99.0..103.0).contains(&left)), "{count} {left:?}");
    let (count, left) = said(&progress, 130, Some(600));
    assert!(count < 150 && left > Some(190.0), "what stands still slows down: {count} {left:?}");
    assert_eq!(said(&progress, 160, Some(600)), (0, None), "and then nobody can tell");
    assert_eq!((progress.first_finish(), progress.last_finish()), (Some(at(0)), Some(at(100))));
}

#[test]
fn after_a_lull_the_time_left_is_by_the_rate_in_force() {
    let mut progress = after(&[announced(2_500)]);
    (0..500).for_each(|n: i64| progress.note(&ended(&n.to_string(), Succeeded, n / 5)));
    // Nothing for 50 s, and then it goes on.
    (500..510).for_each(|n: i64| progress.note(&ended(&n.to_string(), Succeeded, 150 + n % 2)));
    assert_eq!(progress.time_left(at(151), Some(300)), Some(Duration::from_secs(398)));
}

#[test]
fn a_short_batch_has_a_rate_too() {
    let mut progress = after(&[announced(12), ended("a", Succeeded, 0)]);
    progress.note(&ended("b", Failed, 1));
    progress.note(&ended("c", Succeeded, 2));
    assert_eq!(progress.ended_lately(at(2)), 3);
    assert_eq!(progress.time_left(at(2), None), Some(Duration::from_secs(9)));
    (3..12).for_each(|n| progress.note(&ended(&n.to_string(), Succeeded, n)));
    assert_eq!((progress.is_done(), progress.time_left(at(12), None)), (true, Some(Duration::ZERO)));
}

#[test]
fn what_keeps_its_lane_or_its_own_not_before_keeps_it_until_it_has_ended() {
    let blocked = |cause| Some(Blocked { cause, reason: String::new(), until: None });
    let mut closed = Status { rate: 300, blocked: None, closed: [const { None }; Lane::COUNT] };
    closed.closed[Lane::Bulk.index()] = blocked(Cause::LaneClosed(Lane::Bulk));
    let mut progress = after(&[announced(1)]);
    assert_eq!(progress.blocked(Some(&closed), at(1)), blocked(Cause::LaneClosed(Lane::Bulk)));
    assert_eq!(progress.blocked(None, at(1)), None);
    let later = Announced { lane: Lane::Interactive, jobs: 1, at: at(0), not_before: Some(at(9)) };
    progress.note(&Record::Announced(later));
    let cause =
        |progress: &Progress, seconds| progress.blocked(Some(&closed), at(seconds)).map(|blocked| blocked.cause);
    assert_eq!((cause(&progress, 8), cause(&progress, 9)), (Some(Cause::NotBefore), None));
    progress.note(&ended("a", Expired, 1));
    assert_eq!(cause(&progress, 8), None);
}

#[test]
fn a_mail_that_a_newer_reset_superseded_is_no_failure_and_is_waited_for_no_more() {
    let mail = |mail| Record::Mailed { job: "a".into(), mail, at: None };
    let counts = |records: &[Record<'_>]| {
        let progress = after(records);
        let Counts { notified, notification_failed, notification_superseded, .. } = progress.counts();
        ([notified, notification_failed, notification_superseded], progress.not_notified())
    };
    let succeeded = ended("a", Succeeded, 1);
    assert_eq!(counts(&[announced(1), succeeded.clone()]), ([0, 0, 0], 1));
    let superseded = [announced(1), succeeded.clone(), mail(MailOutcome::Superseded)];
    assert_eq!(counts(&superseded), ([0, 0, 1], 0));
    let sent =
        [announced(1), succeeded, mail(MailOutcome::Failed), mail(MailOutcome::Sent), mail(MailOutcome::Superseded)];
    assert_eq!(counts(&sent), ([1, 0, 0], 0));
}
