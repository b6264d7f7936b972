//! How many permits were given in the last 60 s, to the second: what an operator compares with the quota. Pure: time is an argument.

use tokio::time::Instant;

const SECONDS: u64 = 60;

/// Permits by the second they were given in.
#[derive(Debug)]
pub struct Spent {
    since: Instant,
    /// A second, counted from `since`, and its permits; each takes the place of the one 60 s before.
    seconds: [(u64, u32); SECONDS as usize],
}

impl Spent {
    /// None yet.
    pub fn new(now: Instant) -> Self {
        Self { since: now, seconds: [(0, 0); SECONDS as usize] }
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.since).as_secs()
    }

    /// A permit is given.
    pub fn one(&mut self, now: Instant) {
        let second = self.second(now);
        let place = &mut self.seconds[usize::try_from(second % SECONDS).unwrap_or(0)];
        if place.0 != second {
            *place = (second, 0);
        }
        place.1 = place.1.saturating_add(1);
    }

    /// How many were given in the last 60 s.
    pub fn within_a_minute(&self, now: Instant) -> u32 {
        let second = self.second(now);
        self.seconds.iter().filter(|(at, _)| at + SECONDS > second).map(|(_, permits)| permits).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_permit_counts_for_a_minute() {
        let start = Instant::now();
        let mut spent = Spent::new(start);
        let after = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(spent.within_a_minute(start), 0);
        for ms in [0, 900, 1_000, 30_000] {
            spent.one(after(ms));
        }
        for (ms, permits) in [(30_000, 4), (59_999, 4), (60_000, 2), (60_999, 2), (61_000, 1), (89_999, 1), (90_000, 0)]
        {
            assert_eq!(spent.within_a_minute(after(ms)), permits, "after {ms} ms");
        }
        spent.one(after(90_500));
        assert_eq!(spent.within_a_minute(after(90_500)), 1, "the place of the permit at 30 s is taken over");
        assert_eq!(spent.within_a_minute(after(10_000_000)), 0);
    }
}
