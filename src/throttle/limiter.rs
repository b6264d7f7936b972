//! The one limiter: governor, over tokio's clock, so that a test can pause it.
//!
//! With a rate of N a minute and a configured burst b, governor's burst B is b + 1 where N ≥ 100 B, else b: a permit that comes
//! a millisecond late keeps its slot, and the lateness does not add up. Its period is 60 s / (N − B), or 60 s / N where B is 1,
//! and it starts empty. So never more than N permits are given in any 60 s, after a restart either.
//!
//! One for a lowered rate takes its place whole, since governor cannot change a quota. It has a burst of 1, is never faster than
//! the full one's period, and starts empty too, so that all of them together still keep to N.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

const MINUTE_NS: u64 = 60_000_000_000;

/// tokio's clock, as the time since the limiter was made.
#[derive(Debug, Clone)]
struct SinceStart(Instant);

impl Clock for SinceStart {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// What is configured.
#[derive(Debug, Clone, Copy)]
struct Full {
    per_minute: NonZeroU32,
    burst: NonZeroU32,
}

/// Gives permits at the org's rate.
#[derive(Debug)]
pub struct Limiter {
    full: Full,
    clock: SinceStart,
    governor: RateLimiter<NotKeyed, InMemoryState, SinceStart, NoOpMiddleware<Duration>>,
}

impl Limiter {
    /// Never more than `per_minute` permits in any 60 s, at most `burst` (or one more) of them at once.
    pub fn new(per_minute: NonZeroU32, burst: NonZeroU32) -> Self {
        Self::empty(Full { per_minute, burst }, shape(per_minute, burst))
    }

    /// A fresh one in place of this one, for that rate or the configured one, whichever is lower.
    pub fn paced(&self, per_minute: NonZeroU32) -> Self {
        let full = shape(self.full.per_minute, self.full.burst);
        if per_minute >= self.full.per_minute {
            return Self::empty(self.full, full);
        }
        let (burst, period) = shape(per_minute, NonZeroU32::MIN);
        Self::empty(self.full, (burst, period.max(full.1)))
    }

    /// The configured rate.
    pub fn full_rate(&self) -> NonZeroU32 {
        self.full.per_minute
    }

    fn empty(full: Full, (burst, period): (NonZeroU32, Duration)) -> Self {
        let clock = SinceStart(Instant::now());
        // A period is at least 1 ns, which is all that governor asks for.
        let quota = Quota::with_period(period).unwrap_or_else(|| Quota::per_minute(full.per_minute)).allow_burst(burst);
        let governor = RateLimiter::direct_with_clock(quota, clock.clone());
        // Started empty: what was given before a restart is not known.
        let _ = governor.check_n(burst);
        Self { full, clock, governor }
    }

    /// Takes a permit, or says how long until the next one.
    ///
    /// # Errors
    /// The time until one can be had; never zero.
    pub fn check(&self) -> Result<(), Duration> {
        self.governor
            .check()
            .map_err(|not_until| not_until.wait_time_from(self.clock.now()).max(Duration::from_nanos(1)))
    }
}

/// governor's burst and period.
fn shape(per_minute: NonZeroU32, burst: NonZeroU32) -> (NonZeroU32, Duration) {
    let rate = u64::from(per_minute.get());
    let one_more = burst.saturating_add(1);
    let burst = if rate >= 100 * u64::from(one_more.get()) { one_more } else { burst };
    let refilled = if burst.get() == 1 { rate } else { rate.saturating_sub(burst.get().into()).max(1) };
    // Rounded up: a period that is short by a fraction of a nanosecond would add up to one permit more.
    (burst, Duration::from_nanos(MINUTE_NS.div_ceil(refilled)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn nonzero(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    fn shaped(rate: u32, burst: u32, expected: (u32, u64)) {
        let (burst, period) = shape(nonzero(rate), nonzero(burst));
        assert_eq!((burst.get(), period.as_nanos() as u64), expected, "{rate} a minute");
    }

    #[test]
    fn the_shape_is_the_one_in_the_design() {
        shaped(1, 1, (1, 60_000_000_000));
        shaped(60, 1, (1, 1_000_000_000));
        shaped(199, 1, (1, 301_507_538));
        shaped(200, 1, (2, 303_030_304));
        shaped(300, 1, (2, 201_342_282));
        shaped(300, 50, (50, 240_000_000));
        shaped(100_000, 1, (2, 600_013));
    }

    /// Takes permits as greedily as can be for `span`, pausing after some, and returns when each was given, in nanoseconds.
    async fn greedy(rate: u32, burst: u32, span: Duration, idle_after: usize) -> Vec<u64> {
        let limiter = Limiter::new(nonzero(rate), nonzero(burst));
        let start = Instant::now();
        let mut given = Vec::new();
        while start.elapsed() < span {
            match limiter.check() {
                Ok(()) => {
                    given.push(start.elapsed().as_nanos() as u64);
                    if given.len() == idle_after {
                        tokio::time::advance(Duration::from_secs(90)).await;
                    }
                }
                Err(wait) => tokio::time::advance(wait).await,
            }
        }
        given
    }

    fn most_in_a_minute(given: &[u64]) -> usize {
        let mut window = VecDeque::new();
        let mut most = 0;
        for at in given {
            window.push_back(*at);
            while window.front().is_some_and(|first| at - first >= MINUTE_NS) {
                window.pop_front();
            }
            most = most.max(window.len());
        }
        most
    }

    fn paused() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn never_more_than_the_rate_in_any_60_s(rate in prop_oneof![1_u32..400, 400_u32..100_000], burst in 1_u32..60, idle_after in 0_usize..400) {
            let burst = burst.min(rate.saturating_sub(1).max(1));
            let given = paused().block_on(greedy(rate, burst, Duration::from_secs(200), idle_after));
            prop_assert!(most_in_a_minute(&given) <= rate as usize, "{} of {rate}", most_in_a_minute(&given));
        }
    }

    /// Takes permits as greedily as can be, and swaps the limiter after as many as `swaps` says, for the share that it says.
    async fn swapping(rate: u32, burst: u32, swaps: &[(usize, f64)]) -> Vec<u64> {
        let mut limiter = Limiter::new(nonzero(rate), nonzero(burst));
        let start = Instant::now();
        let mut given = Vec::new();
        for (permits, share) in swaps {
            let mut left = *permits;
            while left > 0 && start.elapsed() < Duration::from_secs(400) {
                match limiter.check() {
                    Ok(()) => {
                        given.push(start.elapsed().as_nanos() as u64);
                        left -= 1;
                    }
                    Err(wait) => tokio::time::advance(wait).await,
                }
            }
            if *permits == 0 {
                tokio::time::advance(Duration::from_secs(70)).await;
            }
            limiter = limiter.paced(nonzero(((f64::from(rate) * share) as u32).clamp(1, rate)));
        }
        given
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn never_more_than_the_rate_in_any_60_s_however_often_it_is_swapped(
            rate in prop_oneof![1_u32..400, 400_u32..10_000],
            burst in 1_u32..60,
            swaps in prop::collection::vec((prop_oneof![Just(0_usize), 1_usize..300], prop_oneof![Just(1.0), 0.9..1.0_f64, 0.0..1.0_f64]), 1..40),
        ) {
            let burst = burst.min(rate.saturating_sub(1).max(1));
            let given = paused().block_on(swapping(rate, burst, &swaps));
            prop_assert!(most_in_a_minute(&given) <= rate as usize, "{} of {rate}", most_in_a_minute(&given));
        }
    }

    #[test]
    fn a_lowered_one_spends_its_whole_rate_whatever_the_burst() {
        paused().block_on(async {
            let limiter = Limiter::new(nonzero(300), nonzero(50)).paced(nonzero(150));
            let start = Instant::now();
            let mut given = 0;
            while start.elapsed() < Duration::from_secs(600) {
                match limiter.check() {
                    Ok(()) => given += 1,
                    Err(wait) => tokio::time::advance(wait).await,
                }
            }
            assert!((1_499..=1_500).contains(&given), "{given}");
        });
    }

    #[test]
    fn the_whole_quota_is_spent() {
        for rate in [1_u32, 60, 300, 1_200, 100_000] {
            let given = paused().block_on(greedy(rate, 1, Duration::from_secs(600), usize::MAX));
            assert!(given.len() as f64 >= 10.0 * f64::from(rate) * 0.98 - 2.0, "{} at {rate}", given.len());
        }
    }

    #[test]
    fn it_starts_empty() {
        paused().block_on(async {
            let limiter = Limiter::new(nonzero(300), nonzero(50));
            assert_eq!(limiter.check().unwrap_err(), Duration::from_millis(240));
        });
    }
}
