use proptest::prelude::*;

use super::*;
use crate::domain::ended::Ended;
use crate::domain::job::Lane;
use crate::domain::outcome::{Outcome, OutcomeKind, PasswordSet};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn done<'a>(org: &'a str, job: &'a str, reset: Option<(&'a str, i64)>, ended: i64) -> Entry<'a> {
    let reset = reset.map(|(user, asked)| (Cow::Borrowed(user), at(asked)));
    Entry::Done { org: org.into(), job: job.into(), reset, at: at(ended) }
}

fn fence<'a>(worker: &'a str, moment: i64) -> Entry<'a> {
    let at = at(moment);
    let fence = Fence { worker: worker.into(), id: "fence".into(), term: None, longest_call: None, at };
    Entry::Fence { org: "main".into(), fence }
}

fn released<'a>(worker: &'a str, moment: i64) -> Entry<'a> {
    Entry::Released { org: "main".into(), worker: worker.into(), term: None, at: at(moment) }
}

fn index(entries: &[Entry<'_>], now: i64) -> LedgerIndex {
    let mut index = LedgerIndex::default();
    for (place, entry) in (0..).zip(entries) {
        assert_eq!(index.note(entry, place, at(now)), Room::Enough);
    }
    index
}

fn is_done(index: &LedgerIndex, org: &str, job: &str, redelivered: bool, now: i64) -> bool {
    let job = if job.starts_with(DERIVED) { JobId::derived(job) } else { JobId::new(job) };
    index.is_done(org, &job, None, redelivered, at(now))
}

fn newest(index: &LedgerIndex, user: &str) -> Option<Timestamp> {
    index.newest("main", &UserId::parse(user).unwrap())
}

#[test]
fn a_job_is_done_in_its_org_for_a_day_and_at_most_an_hour_more() {
    let index = index(&[done("main", "job-1", None, 0)], 10);
    assert!(is_done(&index, "main", "job-1", false, 10));
    assert!(!is_done(&index, "main", "job-2", false, 10));
    assert!(!is_done(&index, "other", "job-1", false, 10));
    assert!(is_done(&index, "main", "job-1", false, 24 * HOUR));
    assert!(!is_done(&index, "main", "job-1", false, 25 * HOUR + 1));
}

#[test]
fn of_a_batch_a_job_is_done_however_its_user_is_written_and_of_none_as_it_stands() {
    let ended = |job: &'static str, batch: Option<&'static str>| Ended {
        job: job.into(),
        org: "main".into(),
        lane: None,
        user: None,
        batch: batch.map(Into::into),
        asked_at: None,
        kind: OutcomeKind::Succeeded,
        reason: None,
        detail: None,
        status: None,
        at: at(0),
    };
    let mut index = LedgerIndex::default();
    for ended in [ended("One/Abc", Some("One")), ended("Two/Abc", None)] {
        let entry = Entry::of(&ended).unwrap();
        assert_eq!(index.note(&entry, 0, at(0)), Room::Enough);
    }
    let is_done = |job: &str, batch| index.is_done("main", &JobId::new(job), batch, false, at(1));
    assert!(is_done("One/Abc", Some("One")) && is_done("One/aBC", Some("One")));
    assert!(!is_done("one/abc", Some("one")), "a batch's name is as it stands");
    assert!(is_done("Two/Abc", None) && !is_done("Two/aBC", None));
}

#[test]
fn a_name_made_from_the_body_is_done_for_ten_minutes_where_it_is_delivered_again() {
    let mut index = index(&[done("main", "sha256:ab", Some(("u-1", 0)), 0)], 0);
    let check = |index: &LedgerIndex, redelivered, now| is_done(index, "main", "sha256:ab", redelivered, now);
    assert!(check(&index, true, 600));
    assert!(!check(&index, true, 601));
    assert!(!check(&index, false, 0));
    assert_eq!(newest(&index, "u-1"), Some(at(0)), "what it did to its user counts for a day");
    assert_eq!(index.note(&done("main", "sha256:ab", None, 300), 0, at(700)), Room::Enough);
    assert!(check(&index, true, 900), "the later of two equal jobs counts");
    assert_eq!(index.note(&done("main", "sha256:ab", None, 0), 0, at(700)), Room::Enough);
    assert!(check(&index, true, 900), "reading the earlier again changes nothing");
}

#[test]
fn a_producers_own_id_that_looks_like_such_a_name_is_done_for_a_day() {
    let index = index(&[done("main", "sha256:ab", None, 0)], 0);
    assert!(index.is_done("main", &JobId::new("sha256:ab"), None, false, at(24 * HOUR)));
    assert!(!index.is_done("main", &JobId::derived("sha256:ab"), None, true, at(24 * HOUR)));
}

#[test]
fn only_what_is_younger_than_a_day_is_noted_and_a_clock_ahead_counts_as_now() {
    let mut index = index(&[done("main", "old", None, 0), done("main", "ahead", None, 48 * HOUR)], 24 * HOUR + 1);
    assert!(!is_done(&index, "main", "old", false, 24 * HOUR + 1));
    assert!(is_done(&index, "main", "ahead", false, 24 * HOUR + 1));
    assert_eq!(index.note(&done("main", "new", None, 50 * HOUR), 0, at(50 * HOUR)), Room::Enough);
    assert!(!is_done(&index, "main", "ahead", false, 50 * HOUR));
    assert_eq!(index.hours.len(), 1, "what is older was dropped");
}

#[test]
fn the_newest_reset_of_a_user_is_the_one_asked_for_last() {
    let index = index(
        &[
            done("main", "a", Some(("u-1", 50)), 2 * HOUR),
            done("main", "b", Some(("u-1", 20)), 3 * HOUR),
            done("main", "c", Some(("u-2", 10)), HOUR),
            done("main", "d", Some(("u-3", 3 * HOUR + 301)), 3 * HOUR),
            done("other", "e", Some(("u-2", 99)), HOUR),
        ],
        3 * HOUR,
    );
    assert_eq!(newest(&index, "u-1"), Some(at(50)));
    assert_eq!(newest(&index, "u-2"), Some(at(10)));
    assert_eq!(newest(&index, "u-3"), None, "one asked for far ahead of now would supersede everything");
    assert_eq!(newest(&index, "u-4"), None);
    assert_eq!(newest(&index, "U-1"), None, "an id of SCIM is the same only in the same case, unless it is a UUID");
}

#[test]
fn the_holder_is_who_wrote_the_last_fence_and_did_not_release_it() {
    let nobody = Holder::Nobody;
    let was = |name: &str| Holder::Was(WorkerName::new(name));
    let check = |entries: &[Entry<'_>], expected: &Holder| {
        assert_eq!(index(entries, 100).holder("main"), *expected, "{entries:?}");
    };
    check(&[], &nobody);
    check(&[fence("a", 1)], &was("a"));
    check(&[fence("a", 1), fence("b", 2)], &was("b"));
    check(&[fence("a", 1), released("a", 2)], &nobody);
    check(&[fence("a", 1), fence("b", 2), released("a", 3)], &was("b"));
    check(&[fence("a", 1), released("a", 2), fence("a", 3)], &was("a"));
    check(&[released("a", 1)], &nobody);
    // A release of an earlier term, read again.
    check(&[fence("a", 3), released("a", 2)], &was("a"));
    // b's clock is behind a's: the stream's order counts.
    check(&[fence("a", 9), fence("b", 2)], &was("b"));
    // A fence of long ago: whoever leads for days still does.
    check(&[fence("a", -48 * HOUR)], &was("a"));
    assert_eq!(index(&[fence("a", 1)], 1).holder("other"), nobody);
}

#[test]
fn the_oldest_hour_is_forgotten_where_there_is_no_room() {
    let mut index = LedgerIndex::with_room(10);
    let names: Vec<String> = (0..11).map(|n| format!("job-{n}")).collect();
    for (n, job) in (0..).zip(&names) {
        let room = index.note(&done("main", job, None, n * 1000), 0, at(20_000));
        assert_eq!(room, if n < 10 { Room::Enough } else { Room::Full });
    }
    let known: Vec<bool> = names.iter().map(|job| is_done(&index, "main", job, false, 20_000)).collect();
    assert!(known[10] && known.iter().filter(|known| **known).count() >= 7, "{known:?}");
    assert!(!known[0], "{known:?}");
}

#[test]
fn derived_names_have_an_end_too() {
    let mut index = LedgerIndex::default();
    let names: Vec<String> = (0..=MAX_DERIVED).map(|n| format!("sha256:{n}")).collect();
    let rooms: Vec<Room> = names.iter().map(|job| index.note(&done("main", job, None, 0), 0, at(0))).collect();
    assert_eq!(rooms.iter().filter(|room| **room == Room::Full).count(), 1);
    assert!(!is_done(&index, "main", &names[0], true, 0) && is_done(&index, "main", &names[1], true, 0));
    assert_eq!(index.note(&done("main", "sha256:late", None, 601), 0, at(601)), Room::Enough);
    assert_eq!((index.derived.len(), index.derived_order.len()), (1, 1), "what is past its time is dropped");
}

#[test]
fn an_outcome_is_noted_where_the_job_need_not_come_again() {
    let mut outcome = Outcome {
        job: JobId::new("job-1"),
        org: "main".into(),
        lane: Lane::Bulk,
        user: UserId::parse("u-1").ok(),
        batch: None,
        asked_at: Some(at(1)),
        kind: OutcomeKind::Succeeded,
        reason: None,
        status: Some(200),
        attempts: 1,
        password_set: PasswordSet::Yes,
        detail: None,
        finished_at: at(2),
    };
    assert_eq!(Entry::of(&Ended::of(&outcome)), Some(done("main", "job-1", Some(("u-1", 1)), 2)));
    outcome.kind = OutcomeKind::PassedThrough;
    assert_eq!(Entry::of(&Ended::of(&outcome)), Some(done("main", "job-1", None, 2)));
    for kind in [OutcomeKind::Failed, OutcomeKind::Superseded, OutcomeKind::Expired, OutcomeKind::Duplicate] {
        outcome.kind = kind;
        assert_eq!(Entry::of(&Ended::of(&outcome)), None, "{kind:?}");
    }
}

#[test]
fn a_worker_is_called_by_its_machine_and_its_process() {
    let name = WorkerName::of("web-2\n/x", 4711, "0f6e7c1a");
    assert_eq!((name.as_str(), name.shown().as_str()), ("web-2x/4711/0f6e7c1a", "web-2x, process 4711"));
    assert_eq!(WorkerName::of("", 7, "w").shown(), "process 7");
    assert_eq!(WorkerName::new("0f6e7c1a-1f00-4c2e").shown(), "0f6e7c1a");
}

proptest! {
    #[test]
    fn reading_a_part_again_changes_nothing_once_the_end_is_reached(
        records in proptest::collection::vec((0..4_u8, 0..5_u8, 0..30 * HOUR), 1..40),
        from in 0..40_usize,
    ) {
        let names: Vec<String> = (0..5).map(|n| format!("n-{n}")).collect();
        let entries: Vec<Entry<'_>> = records.iter().map(|(kind, name, moment)| {
            let name = names[usize::from(*name)].as_str();
            match kind {
                0 => done("main", name, Some((name, *moment)), *moment),
                1 => done("main", name, None, *moment),
                2 => fence(name, *moment),
                _ => released(name, *moment),
            }
        }).collect();
        let now = 30 * HOUR;
        let once = index(&entries, now);
        // From a fence on, or from the beginning: a day of records holds the last term's fence.
        let from = entries.iter().take(from).rposition(|entry| matches!(entry, Entry::Fence { .. })).unwrap_or(0);
        let again: Vec<Entry<'_>> = entries.iter().chain(&entries[from..]).cloned().collect();
        let twice = index(&again, now);
        prop_assert_eq!(once.holder("main"), twice.holder("main"));
        for name in &names {
            prop_assert_eq!(is_done(&once, "main", name, false, now), is_done(&twice, "main", name, false, now));
            prop_assert_eq!(newest(&once, name), newest(&twice, name));
        }
    }
}

/// Run alone in a release build: `cargo test --release --lib -- --ignored --nocapture the_memory`.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "printing is what it is for")]
fn the_memory_of_a_million_jobs_of_300_000_users() {
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<i64>().unwrap()
    };
    for (title, spread) in [("over a day", 24 * HOUR), ("within one hour", HOUR)] {
        let before = resident();
        let start = std::time::Instant::now();
        let mut index = LedgerIndex::default();
        for n in 0..1_000_000_i64 {
            let (job, user) = (format!("0f6e7c1a-1f00-4c2e-9d3b-{n:012}"), format!("u-{}", n * 7919 % 300_000));
            let moment = n * spread / 1_000_000;
            assert_eq!(index.note(&done("main", &job, Some((&user, moment)), moment), 0, at(spread)), Room::Enough);
        }
        let ids: usize = index.hours.values().map(|generation| generation.done.len()).sum();
        let taken = start.elapsed();
        println!("{title}: {ids} ids, VmRSS grew by {:.1} MB, {taken:?}", (resident() - before) as f64 / 1000.0);
    }
}
