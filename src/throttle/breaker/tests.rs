//! The breaker, by its rules: what opens it, for how long, and what closes it.

use std::fmt;

use super::*;
use proptest::prelude::*;

fn user(name: impl fmt::Display) -> UserId {
    UserId::parse(&name.to_string()).unwrap()
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A breaker whose clock moves only by hand, and whose chance is the middle: 5 s are 5 s.
struct Bench {
    breaker: Breaker,
    now: Instant,
}

fn bench() -> Bench {
    let now = Instant::now();
    Bench { breaker: Breaker::new(now), now }
}

impl Bench {
    fn answer(&mut self, name: impl fmt::Display, verdict: Verdict) -> Option<Change> {
        let pass = self.breaker.permit();
        self.late(pass, name, verdict)
    }

    fn late(&mut self, pass: Pass, name: impl fmt::Display, verdict: Verdict) -> Option<Change> {
        self.breaker.answered(pass, &user(name), verdict, self.now, 0.5)
    }

    fn open(&mut self) -> Instant {
        for n in 0..5 {
            self.answer(n, Verdict::Faulted);
        }
        self.probe_at()
    }

    fn probe_at(&self) -> Instant {
        match self.breaker.stand() {
            Stand::Open(opening) => opening.probe_at,
            other @ (Stand::Closed | Stand::HalfOpen { .. }) => panic!("not open: {other:?}"),
        }
    }

    fn ripe(&mut self) {
        self.now = self.probe_at();
        assert!(self.breaker.ripen(self.now, true, false));
    }
}

#[test]
fn what_each_end_of_a_try_says() {
    let table = [
        (None, Verdict::Worked),
        (Some(Failure::Throttled { wait: None }), Verdict::Throttled),
        (Some(Failure::Unavailable { wait: seconds(7) }), Verdict::Faulted),
        (Some(Failure::Fault { may_have_set: false, wait: None }), Verdict::Faulted),
        (Some(Failure::Fault { may_have_set: true, wait: None }), Verdict::Faulted),
        (Some(Failure::TokenRefused), Verdict::Neutral),
        (Some(Failure::Forbidden { client: true }), Verdict::Worked),
        (Some(Failure::Forbidden { client: false }), Verdict::Worked),
        (Some(Failure::Foreign { odd: false, may_have_set: true }), Verdict::Neutral),
        (Some(Failure::Foreign { odd: true, may_have_set: false }), Verdict::Neutral),
        (Some(Failure::NotFound), Verdict::Worked),
        (Some(Failure::Conflict), Verdict::Worked),
        (Some(Failure::Rejected), Verdict::Worked),
    ];
    for (failure, verdict) in table {
        assert_eq!(Verdict::of(failure.as_ref()), verdict, "{failure:?}");
        let of_search = if verdict == Verdict::Worked { Verdict::Neutral } else { verdict };
        assert_eq!(Verdict::of_search(failure.as_ref()), of_search, "{failure:?}");
        let of_suspect = if verdict == Verdict::Faulted { Verdict::Neutral } else { verdict };
        assert_eq!((verdict.unless_suspect(false), verdict.unless_suspect(true)), (verdict, of_suspect));
    }
}

#[test]
fn five_faults_in_a_row_from_three_users_open_it() {
    let mut bench = bench();
    let changes = ["a", "b", "c", "a", "b"].map(|name| bench.answer(name, Verdict::Faulted));
    let cause = Cause::FaultsInRow { faults: 5 };
    assert_eq!(changes, [None, None, None, None, Some(Change::Opened(cause))]);
    assert_eq!(cause.label(), "faults_in_row");
    assert_eq!(cause.to_string(), "5 calls in a row failed, of several users");
}

#[test]
fn one_or_two_bad_users_never_open_it_alone() {
    let mut bench = bench();
    for n in 0..500 {
        assert_eq!(bench.answer(n % 2, Verdict::Faulted), None);
        bench.now += Duration::from_millis(100);
    }
}

#[test]
fn a_success_ends_the_row_and_a_429_or_401_does_not() {
    let mut bench = bench();
    for verdict in [Verdict::Worked, Verdict::Neutral, Verdict::Throttled] {
        (0..4).for_each(|n| assert_eq!(bench.answer(n, Verdict::Faulted), None));
        bench.answer("x", verdict);
        let opened = bench.answer("y", Verdict::Faulted).is_some();
        assert_eq!(opened, verdict != Verdict::Worked, "{verdict:?}");
        bench = self::bench();
    }
}

/// `faults` of 20 calls fail, never five in a row, a call each `step`; returns the last change.
fn mixed(faults: usize, users: usize, step: Duration) -> Option<Change> {
    let mut bench = bench();
    let mut last = None;
    for n in 0..20 {
        // The fault comes last of each pair, so that the 20th call is one.
        let fails = n % 2 == 1 && n / 2 >= 10 - faults;
        let verdict = if fails { Verdict::Faulted } else { Verdict::Worked };
        last = bench.answer(n / 2 % users, verdict);
        bench.now += step;
    }
    last
}

#[test]
fn half_of_twenty_calls_in_30_s_from_three_users_open_it() {
    let cause = Cause::HalfOfCalls { faults: 10, calls: 20 };
    assert_eq!(mixed(10, 3, seconds(1)), Some(Change::Opened(cause)));
    assert_eq!(cause.label(), "half_of_calls");
    assert_eq!(cause.to_string(), "10 of the 20 calls of the last 30 s failed, of several users");
    assert_eq!(mixed(9, 3, seconds(1)), None, "less than half");
    assert_eq!(mixed(10, 2, seconds(1)), None, "of two users only");
    assert_eq!(mixed(10, 3, seconds(2)), None, "not within 30 s");
}

#[test]
fn it_is_open_for_5_s_and_twice_as_long_after_each_failed_probe_up_to_5_min() {
    let mut bench = bench();
    let mut waits = vec![bench.open() - bench.now];
    for _ in 0..8 {
        bench.ripe();
        assert_eq!(bench.answer("p", Verdict::Faulted), Some(Change::OpenedAgain));
        waits.push(bench.probe_at() - bench.now);
    }
    assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300].map(seconds));
}

#[test]
fn while_few_users_fail_another_one_is_let_through_after_5_s_whatever_the_probes_before() {
    let mut bench = bench();
    bench.open();
    for failed in 0..8 {
        let opening = match bench.breaker.stand() {
            Stand::Open(opening) => opening,
            other @ (Stand::Closed | Stand::HalfOpen { .. }) => panic!("{other:?}"),
        };
        let usual = [5, 10, 20, 40, 80, 160, 300, 300][failed];
        let wait = |many, another| (opening.probe_from(many, another) - bench.now).as_secs();
        assert_eq!([wait(true, true), wait(false, true), wait(false, false)], [usual, 5, usual.min(60)]);
        bench.ripe();
        bench.answer("p", Verdict::Faulted);
    }
}

#[test]
fn a_passed_probe_closes_it_and_resets_the_doubling_and_the_counts() {
    let mut bench = bench();
    bench.open();
    bench.ripe();
    bench.answer("p", Verdict::Faulted);
    bench.ripe();
    assert_eq!(bench.answer("p", Verdict::Worked), Some(Change::Closed));
    (0..4).for_each(|n| assert_eq!(bench.answer(n, Verdict::Faulted), None));
    bench.answer(5, Verdict::Faulted);
    assert_eq!(bench.probe_at() - bench.now, seconds(5));
}

#[test]
fn a_probe_that_vanishes_or_says_nothing_frees_its_place() {
    let mut bench = bench();
    bench.open();
    assert!(!bench.breaker.ripen(bench.now, true, true), "not before its time");
    bench.ripe();
    let out = |bench: &Bench| matches!(bench.breaker.stand(), Stand::HalfOpen { probe_out: true, .. });
    let probe = bench.breaker.permit();
    assert!(probe.probe && out(&bench));
    bench.breaker.vanished(probe);
    assert!(!out(&bench));
    for verdict in [Verdict::Throttled, Verdict::Neutral] {
        assert_eq!((bench.answer("p", verdict), out(&bench)), (None, false));
    }
}

#[test]
fn late_answers_of_calls_from_before_it_opened_change_nothing() {
    let mut bench = bench();
    let old = bench.breaker.permit();
    bench.open();
    let open = bench.breaker.stand();
    bench.now += seconds(1);
    for verdict in [Verdict::Faulted, Verdict::Worked] {
        assert_eq!((bench.late(old, "o", verdict), bench.breaker.stand()), (None, open));
    }
    bench.ripe();
    let probe = bench.breaker.permit();
    let half_open = bench.breaker.stand();
    for verdict in [Verdict::Faulted, Verdict::Worked, Verdict::Neutral] {
        assert_eq!((bench.late(old, "o", verdict), bench.breaker.stand()), (None, half_open));
    }
    bench.breaker.vanished(old);
    assert_eq!(bench.breaker.stand(), half_open);
    bench.late(probe, "p", Verdict::Worked);
    (0..9).for_each(|n| assert_eq!(bench.late(old, n, Verdict::Faulted), None));
}

proptest! {
    #[test]
    fn it_is_open_between_4_s_and_5_min(failed in 0_u32..100, chance in 0.0..1.0_f64) {
        let open = open_for(failed, chance);
        prop_assert!(open >= seconds(4) && open <= LONGEST, "{open:?}");
        prop_assert!(open >= FIRST.saturating_mul(1 << failed.min(10)).min(LONGEST).mul_f64(0.79));
    }
}
