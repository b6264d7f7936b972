//! A few users whose calls always fail, among others and in an outage, with every wait as long as it is: jobs as the pipeline tries them.

use futures_util::future::join_all;

use super::*;
use crate::domain::failure::Failure;
use crate::domain::outcome::Reason;
use crate::domain::retry::{Next, Progress, decide};

const FAULT: Failure = Failure::Fault { may_have_set: true, wait: None };
const CALL: Duration = Duration::from_millis(50);

/// How a job ended, and how many seconds after the start.
type End = (Option<Reason>, f64);

impl Bench {
    /// Tries until it is done or given up; `fails` says of each call whether it does.
    async fn job(&self, lane: Lane, name: impl fmt::Display, fails: impl Fn(f64) -> bool) -> End {
        let (user, mut progress) = (user(name), Progress::default());
        loop {
            let caller = Caller { user: user.clone(), goes_on: false };
            let permit = self.gate.pass_for(Some(caller), lane, None, false).await.unwrap();
            let is_failure = fails(self.elapsed());
            tokio::time::sleep(CALL).await;
            let counts_as_probe = permit.is_probe() && !self.gate.is_suspect(&user);
            if !is_failure {
                self.gate.succeeded(&user);
                permit.answered(&user, Verdict::Worked);
                return (None, self.elapsed());
            }
            permit.answered(&user, Verdict::Faulted);
            progress.note(&FAULT, 0, counts_as_probe);
            match decide(&FAULT, &progress, 0, &POLICY, rand::random()).next {
                Next::After(delay) => {
                    tokio::select! {
                        biased;
                        () = self.gate.is_to_be_confirmed(&user) => {}
                        () = tokio::time::sleep(delay) => {}
                    }
                }
                Next::DeadLetter(reason) => {
                    self.gate.ended(&user);
                    return (Some(reason), self.elapsed());
                }
                other @ (Next::Again | Next::FreshToken | Next::Hold(_) | Next::At(_)) => panic!("{other:?}"),
            }
        }
    }
}

/// 60 users at 3,000 calls a minute, of whom 8 always fail.
async fn eight_among_sixty(is_bad: impl Fn(usize) -> bool, lane: impl Fn(usize) -> Lane) {
    let bench = bench(3000, Ok);
    let ends = join_all((0..60).map(|n| {
        let bad = is_bad(n);
        bench.job(lane(n), n, move |_| bad)
    }));
    let ends = ends.await;
    let last = |bad: bool| {
        let of = ends.iter().enumerate().filter(|(n, _)| is_bad(*n) == bad);
        of.map(|(_, (_, at))| *at).fold(0.0, f64::max)
    };
    for (n, (reason, _)) in ends.iter().enumerate() {
        assert_eq!(*reason, is_bad(n).then_some(Reason::RetriesExhausted), "{n}");
    }
    // Without them it takes 1.2 s.
    assert!(last(false) <= 1.2 + 15.0, "the others were done after {} s", last(false));
    assert!(last(true) <= 180.0, "the eight were given up after {} s", last(true));
}

#[tokio::test(start_paused = true)]
async fn eight_bad_users_among_sixty_hold_up_nobody_for_long_and_are_given_up() {
    let all = |_| Lane::Bulk;
    for _ in 0..20 {
        eight_among_sixty(|n| n < 8, all).await;
        eight_among_sixty(|n| n % 7 == 3 && n / 7 < 8, all).await;
        // The bad ones in the lane that goes first.
        eight_among_sixty(|n| n < 8, |n| if n < 8 { Lane::Interactive } else { Lane::Bulk }).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_all_users_for_ten_minutes_gives_up_nobody() {
    let bench = bench(3000, Ok);
    let outage = 600.0;
    let ends = join_all((0..60).map(|n| {
        let lane = if n % 4 == 0 { Lane::Interactive } else { Lane::Bulk };
        bench.job(lane, n, move |now| now < outage)
    }));
    for (n, (reason, at)) in ends.await.into_iter().enumerate() {
        assert_eq!(reason, None, "{n}");
        assert!(at > outage && at <= outage + 310.0, "{n}: {at}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_who_comes_while_the_bad_ones_are_alone_waits_a_few_seconds() {
    let bench = bench(3000, Ok);
    let bad = join_all((0..8).map(|n| bench.job(Lane::Bulk, n, |_| true)));
    let good = async {
        tokio::time::sleep(secs(600)).await;
        let mut waits = Vec::new();
        for n in 0..5 {
            let came = bench.elapsed();
            bench.job(Lane::Interactive, format!("good-{n}"), |_| false).await;
            waits.push(bench.elapsed() - came);
            tokio::time::sleep(secs(60)).await;
        }
        waits
    };
    let (bad, waits) = tokio::join!(bad, good);
    assert!(waits.iter().all(|wait| *wait <= 6.0), "{waits:?}");
    for (n, (reason, at)) in bad.into_iter().enumerate() {
        assert!(reason == Some(Reason::RetriesExhausted) && at > 600.0, "{n}: {reason:?} after {at} s");
    }
}

#[tokio::test(start_paused = true)]
async fn users_known_to_fail_are_no_probe_while_another_one_waits() {
    let bench = bench(6000, Ok);
    let caller = |name: &str| Some(Caller { user: user(name), goes_on: false });
    for name in ["a", "b", "c", "a", "b"] {
        let permit = bench.gate.pass_for(caller(name), Lane::Interactive, None, false).await.unwrap();
        permit.answered(&user(name), Verdict::Faulted);
    }
    assert_eq!(bench.breaker(), Some(BreakerState::Open));
    let mut waiting: Vec<_> = [("c", Lane::Interactive), ("a", Lane::Interactive), ("d", Lane::Bulk)]
        .into_iter()
        .map(|(name, lane)| Box::pin(bench.gate.pass_for(caller(name), lane, None, false)))
        .collect();
    assert!(waiting.iter_mut().all(|waiting| waiting.as_mut().now_or_never().is_none()));
    for (name, at) in [("d", 2), ("c", 0), ("a", 0)] {
        let probe = waiting.remove(at).await.unwrap();
        assert!(probe.is_probe(), "{name}");
        assert!(waiting.iter_mut().all(|waiting| waiting.as_mut().now_or_never().is_none()), "{name}");
        probe.answered(&user(name), Verdict::Faulted);
    }
}

#[tokio::test(start_paused = true)]
async fn the_second_half_of_a_try_goes_on_though_processing_is_halted_and_before_others() {
    let bench = bench(6000, Ok);
    let caller = |name: &str, goes_on| Some(Caller { user: user(name), goes_on });
    bench.gate.stop(HaltCause::Forbidden, "missing.permissions");
    let mut first = Box::pin(bench.gate.pass_for(caller("a", false), Lane::Interactive, None, false));
    assert!(first.as_mut().now_or_never().is_none());
    drop(bench.gate.pass_for(caller("b", true), Lane::Bulk, None, false).await.unwrap());
    assert_eq!((bench.elapsed(), bench.shut()), (0.0, Some(15.0)), "and it is no try more");
    bench.gate.stop(HaltCause::Unpublishable, "no queue takes it");
    let mut owing = Box::pin(bench.gate.pass_for(caller("b", true), Lane::Bulk, None, false));
    tokio::time::timeout(secs(60), &mut owing).await.unwrap_err();
    bench.gate.resolved(HaltCause::Unpublishable);
    owing.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_a_foreign_answer_another_user_is_tried_and_what_it_brings_decides() {
    let bench = bench(6000, Ok);
    let caller = |name: &str| Some(Caller { user: user(name), goes_on: false });
    assert!(!bench.gate.answered_by_another(&user("odd")));
    bench.gate.stop(HaltCause::ForeignAnswer, "foreign_answer");
    assert_eq!(bench.shut(), Some(5.0));
    // Alone, it is tried ever later, at most once a minute.
    let mut at = Vec::new();
    for _ in 0..6 {
        drop(bench.gate.pass_for(caller("odd"), Lane::Interactive, None, false).await.unwrap());
        at.push(bench.elapsed());
        assert!(!bench.gate.answered_by_another(&user("odd")));
        bench.gate.stop(HaltCause::ForeignAnswer, "foreign_answer");
    }
    assert_eq!(at, [5.0, 15.0, 35.0, 75.0, 135.0, 195.0]);
    // Another one who comes waits 5 s from then at most, and is tried before it.
    let mut odd = Box::pin(bench.gate.pass_for(caller("odd"), Lane::Interactive, None, false));
    assert!(odd.as_mut().now_or_never().is_none());
    let other = bench.gate.pass_for(caller("other"), Lane::Bulk, None, false).await.unwrap();
    assert_eq!(bench.elapsed(), 200.0);
    bench.gate.answered_by_org(&user("other"));
    other.answered(&user("other"), Verdict::Worked);
    odd.await.unwrap();
    assert_eq!((bench.elapsed(), bench.role()), (200.0, Role::Active));
    assert!(bench.gate.answered_by_another(&user("odd")), "it is about this one alone");
}

#[tokio::test(start_paused = true)]
async fn one_that_stands_by_shows_nothing_and_one_that_takes_over_from_another_begins_anew() {
    let bench = bench(6000, Ok);
    let shown = || {
        let row = bench.board.watch().borrow().orgs["main"].clone();
        (row.role().0, row.breaker.is_some())
    };
    let trouble = async || {
        bench.open_breaker().await;
        bench.gate.stop(HaltCause::Forbidden, "missing.permissions");
        assert_eq!(shown(), (Role::Halted, true));
    };
    trouble().await;
    bench.gate.stand_by();
    assert_eq!(shown(), (Role::Active, false));
    bench.gate.stop(HaltCause::Forbidden, "a late answer");
    tokio::time::sleep(secs(10)).await;
    assert_eq!(shown(), (Role::Active, false));
    bench.gate.goes_on();
    assert_eq!(shown(), (Role::Halted, true), "nobody else had it meanwhile");
    bench.gate.stand_by();
    bench.gate.start_empty();
    assert_eq!((shown(), bench.shut()), ((Role::Active, false), None));
    assert!(bench.gate.is_proved());
}
