//! The adaptive rate in a small simulated world with virtual time: an org with a quota for each window, and a worker that always has jobs.

use super::*;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

fn seconds(n: f64) -> Duration {
    Duration::from_secs_f64(n)
}

fn adaptive_rate(configured: u32, now: Instant) -> AdaptiveRate {
    AdaptiveRate::new(NonZeroU32::new(configured).unwrap(), now)
}

/// What became of a run.
#[derive(Debug)]
struct Run {
    took: f64,
    calls: u32,
    /// Calls refused after the first window.
    refused: u32,
    /// The rate at work at the end of each minute.
    rates: Vec<u32>,
}

/// Makes calls until `jobs` are admitted, by an org that admits `quota(start of the window)` calls in each `window` seconds.
fn run(configured: u32, jobs: u32, window: f64, adapts: bool, quota: impl Fn(f64) -> u32) -> Run {
    let start = Instant::now();
    let mut adaptive_rate = adaptive_rate(configured, start);
    let mut run = Run { took: 0.0, calls: 0, refused: 0, rates: Vec::new() };
    let (mut at, mut paused_until, mut admitted, mut chance) = (0.0_f64, 0.0_f64, 0, 1_u64);
    let mut in_window = (0_u64, 0);
    // When each outstanding answer comes, in microseconds, and the wait it asks for.
    let mut answers: BinaryHeap<Reverse<(u64, Option<u64>)>> = BinaryHeap::new();
    while admitted < jobs {
        // The next call is made at the limiter's leave and after the pause, unless an answer comes before.
        let call_at = at.max(paused_until);
        if let Some(Reverse((came, wait))) = answers.peek().copied().filter(|answer| answer.0.0 as f64 / 1e6 <= call_at)
        {
            answers.pop();
            let came = came as f64 / 1e6;
            let now = start + seconds(came);
            match wait {
                None => adaptive_rate.answered(now),
                Some(wait) => {
                    paused_until = paused_until.max(came + wait as f64);
                    adaptive_rate.throttled(now, now + Duration::from_secs(wait));
                }
            }
            continue;
        }
        let now = start + seconds(call_at);
        adaptive_rate.settle(now);
        adaptive_rate.creep(now);
        while run.rates.len() < (call_at / 60.0) as usize {
            run.rates.push(adaptive_rate.per_minute().get());
        }
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let latency = 0.05 + 0.05 * (chance >> 33) as f64 / f64::from(1_u32 << 31);
        let arrives = call_at + latency / 2.0;
        let number = (arrives / window) as u64;
        if number != in_window.0 {
            in_window = (number, 0);
        }
        run.calls += 1;
        let left = (number + 1) as f64 * window - arrives;
        let refused = in_window.1 >= quota(number as f64 * window);
        if refused {
            run.refused += u32::from(number > 0);
        } else {
            in_window.1 += 1;
            admitted += 1;
        }
        answers.push(Reverse((((call_at + latency) * 1e6) as u64, refused.then_some(left.ceil() as u64))));
        let rate = if adapts { adaptive_rate.per_minute().get() } else { configured };
        at = call_at + 60.0 / f64::from(rate);
        run.took = call_at + latency;
    }
    run
}

#[test]
fn with_half_the_quota_few_calls_are_refused_and_little_time_is_lost() {
    for configured in [96, 120, 240, 600, 1_200, 6_000, 60_000] {
        let quota = configured / 24;
        // About five minutes' worth.
        let jobs = quota * 60;
        let adapting = run(configured, jobs, 5.0, true, |_| quota);
        let obeying = run(configured, jobs, 5.0, false, |_| quota);
        let refused = f64::from(adapting.refused) / f64::from(adapting.calls);
        let longer = adapting.took / obeying.took;
        assert!(refused <= 0.05, "{configured}: {refused} refused, {adapting:?}");
        assert!(longer <= 1.15, "{configured}: {longer} times as long, {adapting:?}, {obeying:?}");
    }
}

#[test]
fn an_org_that_admits_what_is_configured_never_changes_the_rate() {
    for (configured, window) in [(60, 60.0), (600, 60.0), (6_000, 60.0), (600, 5.0)] {
        // The limiter's own margin: never more than the quota in any window.
        let quota = (f64::from(configured) * window / 60.0) as u32 + 1;
        let run = run(configured, configured * 8, window, true, |_| quota);
        assert!(run.rates.len() >= 7 && run.rates.iter().all(|rate| *rate == configured), "{run:?}");
        assert_eq!(run.refused, 0, "{configured}");
    }
}

#[test]
fn it_recovers_when_the_others_leave_and_follows_when_they_come() {
    // Alone for 5 min, then with others who take four fifths, then alone again.
    let share = |at: f64| if (300.0..600.0).contains(&at) { 20 } else { 100 };
    let run = run(1_200, 40_000, 5.0, true, share);
    assert_eq!(run.rates[..5], [1_200; 5]);
    assert!(run.rates[5..10].iter().all(|rate| (200..=280).contains(rate)), "{run:?}");
    assert!(run.rates[10..].windows(2).all(|two| two[0] <= two[1]), "{run:?}");
    // Five times as much takes 33 min at 5 % a minute.
    assert!(run.rates[43] < 1_200 + 1 && *run.rates.last().unwrap() == 1_200, "{run:?}");
}

/// A pause's 429, and the answers between its end and the next one's.
struct Bench {
    adaptive_rate: AdaptiveRate,
    start: Instant,
}

fn bench(configured: u32) -> Bench {
    let start = Instant::now();
    Bench { adaptive_rate: adaptive_rate(configured, start), start }
}

impl Bench {
    fn at(&self, second: u64) -> Instant {
        self.start + Duration::from_secs(second)
    }

    fn throttled(&mut self, at: u64, until: u64) -> u32 {
        self.adaptive_rate.throttled(self.at(at), self.at(until));
        self.adaptive_rate.per_minute().get()
    }

    fn answered(&mut self, at: u64, answers: u32) {
        (0..answers).for_each(|_| self.adaptive_rate.answered(self.at(at)));
    }

    fn settled(&mut self, at: u64) -> u32 {
        self.adaptive_rate.settle(self.at(at));
        self.adaptive_rate.per_minute().get()
    }
}

#[test]
fn the_first_429_only_marks_the_end_of_its_pause() {
    let mut bench = bench(600);
    bench.answered(3, 20);
    bench.throttled(4, 5);
    assert_eq!(bench.settled(5), 600);
    bench.answered(10, 20);
    assert_eq!((bench.throttled(14, 15), bench.settled(15)), (600, 126), "20 in 10 s, and 5 % more");
}

#[test]
fn several_429s_of_calls_in_flight_belong_to_one_pause() {
    let mut bench = bench(600);
    bench.throttled(4, 5);
    bench.answered(10, 20);
    bench.throttled(11, 15);
    bench.throttled(12, 14);
    assert_eq!((bench.throttled(12, 25), bench.settled(24), bench.settled(25)), (600, 600, 63));
}

#[test]
fn too_few_answers_are_no_estimate_unless_they_are_all_of_a_minute() {
    let mut bench = bench(600);
    bench.throttled(0, 1);
    bench.throttled(1, 2);
    assert_eq!(bench.settled(2), 600, "a Retry-After that is short is no sign of a lower quota");
    bench.answered(3, 4);
    bench.throttled(3, 61);
    assert_eq!(bench.settled(61), 30, "never less than a twentieth");
}

#[test]
fn it_never_falls_below_one_a_minute() {
    let mut bench = bench(4);
    bench.throttled(0, 1);
    bench.throttled(70, 100);
    assert_eq!(bench.settled(100), 1);
}

#[test]
fn time_in_which_nobody_waited_makes_no_estimate_lower() {
    let mut bench = bench(600);
    bench.throttled(0, 1);
    bench.answered(2, 20);
    bench.adaptive_rate.filled(bench.at(2), false);
    bench.adaptive_rate.filled(bench.at(10), true);
    bench.throttled(20, 21);
    assert_eq!(bench.settled(21), 600, "much of the time was empty");
    bench.answered(22, 20);
    bench.adaptive_rate.filled(bench.at(30), false);
    bench.adaptive_rate.filled(bench.at(31), true);
    bench.throttled(31, 32);
    assert_eq!(bench.settled(32), 126, "a second of eleven does not count");
    // Time that was empty and goes on over the end of a pause counts for both sides.
    bench.adaptive_rate.filled(bench.at(33), false);
    bench.answered(33, 20);
    bench.throttled(34, 40);
    bench.answered(41, 20);
    bench.throttled(50, 60);
    assert_eq!(bench.settled(60), 126);
}

#[test]
fn it_creeps_up_by_5_percent_a_minute_from_the_end_of_a_pause_and_not_above_the_configured_rate() {
    let mut bench = bench(600);
    bench.throttled(0, 1);
    bench.answered(2, 200);
    bench.throttled(20, 61);
    let mut creep = |at| {
        bench.adaptive_rate.settle(bench.at(at));
        bench.adaptive_rate.creep(bench.at(at));
        bench.adaptive_rate.per_minute().get()
    };
    assert_eq!(
        [creep(60), creep(61), creep(65), creep(121), creep(181), creep(1_261), creep(7_261)],
        [600, 210, 210, 220, 231, 557, 600]
    );
}
