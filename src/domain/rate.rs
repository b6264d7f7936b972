//! How fast jobs end: a count of the last 60 s, for people, and the rate by which a time left is estimated. Pure: time is an argument.

use std::collections::VecDeque;

use jiff::Timestamp;

/// The time over which the rate is stated, in seconds.
pub const WINDOW: i64 = 60;
/// How long an end is kept, in seconds: where few end within a minute, an estimate looks back so far.
const KEPT: i64 = 600;
/// So many ends are a rate.
const ENOUGH: u64 = 10;
/// A pause of so many seconds is still a part of the work; after a longer one what went before says nothing of what comes.
const LULL: i64 = 10;

/// Ends by the second, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ends(VecDeque<(i64, u64)>);

impl Ends {
    /// A job ended. They come almost in order, and the oldest go.
    pub fn note(&mut self, at: Timestamp) {
        let second = at.as_second();
        let place = self.0.iter().rposition(|(known, _)| *known <= second);
        match place {
            Some(place) if self.0[place].0 == second => self.0[place].1 += 1,
            Some(place) => self.0.insert(place + 1, (second, 1)),
            None => self.0.push_front((second, 1)),
        }
        let newest = self.0.back().map_or(second, |(newest, _)| *newest);
        while self.0.front().is_some_and(|(oldest, _)| *oldest <= newest - KEPT) {
            self.0.pop_front();
        }
    }

    /// How many ended in the last 60 s: a count, whatever went before, so that it is never above what the limiter allows in 60 s
    /// because of the part of a minute that was looked at.
    pub fn within_a_minute(&self, now: Timestamp) -> u64 {
        self.within(now, WINDOW)
    }

    /// Within 59 seconds and the part of this one that is over, for 60.
    fn within(&self, now: Timestamp, seconds: i64) -> u64 {
        let since = self.second(now) - seconds;
        self.0.iter().rev().take_while(|(second, _)| *second > since).map(|(_, ends)| ends).sum()
    }

    /// Jobs a minute by which the time left is estimated; `None` where none ended lately. `in_force`: how many calls a minute the
    /// org's limiter admits, where that is known.
    ///
    /// Where it has gone on for a minute, what ended in it; where it begins, or goes on after a lull, the last minute says little, and the
    /// rate in force says what comes.
    pub fn completion_rate(&self, now: Timestamp, in_force: Option<u32>) -> Option<f64> {
        let now_second = self.second(now);
        // Of one call a minute, one in three minutes is not late.
        let three = in_force.map_or(0, |rate| 3 * 60 / i64::from(rate.max(1)));
        let newest = self.0.back()?.0;
        if now_second - newest >= three.max(WINDOW) {
            return None;
        }
        let begun = self.begun(three.clamp(LULL, WINDOW))?;
        let age = now_second - begun + 1;
        if age < WINDOW {
            return in_force.map(f64::from).or_else(|| self.since(begun, now));
        }
        let over = |seconds: i64| Some((self.within(now, seconds), seconds)).filter(|(ends, _)| *ends >= ENOUGH);
        // Of whole minutes: in a part of one as many may end as in a whole one, by the limit.
        let minutes = age.min(KEPT) / WINDOW * WINDOW;
        let measured = over(WINDOW).or_else(|| over(minutes));
        #[expect(clippy::cast_precision_loss, reason = "a count of jobs, and a few minutes")]
        let a_minute = |(ends, seconds): (u64, i64)| ends as f64 * 60.0 / seconds as f64;
        let few = || Some((self.within(now, minutes), minutes));
        measured.map(a_minute).or_else(|| in_force.map(f64::from)).or_else(|| few().map(a_minute))
    }

    /// By whichever clock is ahead, ours or that of who wrote of the newest: no more than a minute is counted for one.
    fn second(&self, now: Timestamp) -> i64 {
        self.0.back().map_or(i64::MIN, |(newest, _)| *newest).max(now.as_second())
    }

    /// Since which second they end without a longer pause than this.
    fn begun(&self, lull: i64) -> Option<i64> {
        let mut begun = self.0.back()?.0;
        for (second, _) in self.0.iter().rev() {
            if begun - second > lull {
                break;
            }
            begun = *second;
        }
        Some(begun)
    }

    /// As it has gone since then, where no other rate is known: the first one only begins the time.
    fn since(&self, begun: i64, now: Timestamp) -> Option<f64> {
        let seconds = self.second(now) - begun;
        let ends = self.within(now, seconds + 1);
        #[expect(clippy::cast_precision_loss, reason = "a count of jobs within a minute")]
        (ends >= 2 && seconds >= 1).then(|| (ends - 1) as f64 * 60.0 / seconds as f64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    /// So many a second in each of these seconds.
    fn ends(of: impl IntoIterator<Item = (std::ops::Range<i64>, u64)>) -> Ends {
        let mut ends = Ends::default();
        for (seconds, each) in of {
            seconds.for_each(|second| (0..each).for_each(|_| ends.note(at(second))));
        }
        ends
    }

    #[track_caller]
    fn check(ends: &Ends, now: i64, in_force: Option<u32>, count: u64, completion_rate: Option<f64>) {
        let said = (ends.within_a_minute(at(now)), ends.completion_rate(at(now), in_force).map(f64::round));
        assert_eq!(said, (count, completion_rate), "at {now} with {in_force:?}");
    }

    #[test]
    fn the_count_is_of_the_last_60_s_and_the_estimate_of_them_or_of_the_rate_in_force() {
        check(&Ends::default(), 0, Some(300), 0, None);
        // Five a second.
        let steady = ends([(0..100, 5)]);
        for (now, in_force, count, completion_rate) in [
            // A clock that is behind.
            (6, Some(300), 300, Some(300.0)),
            (99, Some(300), 300, Some(300.0)),
            // It is slower than it might be, and stands still.
            (99, Some(3_000), 300, Some(300.0)),
            (99, None, 300, Some(300.0)),
            (130, Some(300), 145, Some(145.0)),
            (159, Some(300), 0, None),
        ] {
            check(&steady, now, in_force, count, completion_rate);
        }
        // Seven within seven seconds say what comes only by the rate in force.
        check(&ends([(0..7, 1)]), 6, Some(60), 7, Some(60.0));
        check(&ends([(0..7, 1)]), 6, None, 7, Some(60.0));
        check(&ends([(0..1, 1)]), 0, None, 1, None);
        // After a lull: four minutes at 300, then nothing for 50 s, then 2 s.
        check(&ends([(0..240, 5), (290..292, 5)]), 291, Some(300), 50, Some(300.0));
        // Short pauses belong to it.
        check(&ends([(0..50, 2), (59..100, 2)]), 99, Some(300), 102, Some(102.0));
        // By a limit of seven a minute: ten in 61 s are no more than that.
        let seven = ends([(0..1, 4), (20..21, 1), (40..41, 1), (60..61, 4)]);
        check(&seven, 60, Some(7), 6, Some(7.0));
        // Few in a minute, over ten minutes, and fewer than that.
        check(&ends((0..20).map(|n| (n * 30..n * 30 + 1, 1))), 575, Some(6), 2, Some(2.0));
        check(&ends((0..8).map(|n| (n * 60..n * 60 + 1, 1))), 425, Some(1), 1, Some(1.0));
    }

    proptest! {
        /// Where no 60 s have more than the limit, neither the count nor the estimate has.
        #[test]
        fn neither_is_above_the_limit_where_no_minute_is(
            limit in 1_u32..400, gaps in prop::collection::vec(0_i64..200_000, 1..400), later in 0_i64..100_000, known in any::<bool>(),
        ) {
            let (mut ends, mut given, mut now) = (Ends::default(), VecDeque::new(), 0);
            for gap in gaps {
                // A permit comes a whole minute after the one that is the limit's number before it, at the earliest.
                let least = if given.len() == limit as usize { given.pop_front().unwrap_or(0) + 60_000 } else { 0 };
                now = (now + gap / i64::from(limit)).max(least);
                given.push_back(now);
                ends.note(Timestamp::from_millisecond(now).unwrap());
            }
            let now = Timestamp::from_millisecond(now + later).unwrap();
            prop_assert!(ends.within_a_minute(now) <= u64::from(limit));
            if known {
                let completion_rate = ends.completion_rate(now, Some(limit)).unwrap_or(0.0);
                prop_assert!(completion_rate <= f64::from(limit), "{completion_rate}");
            }
        }

        #[test]
        fn in_whatever_order_they_come_they_are_the_same(mut seconds in prop::collection::vec(0_i64..500, 1..200)) {
            let noted = |seconds: &[i64]| {
                let mut ends = Ends::default();
                seconds.iter().for_each(|second| ends.note(at(*second)));
                ends
            };
            let one = noted(&seconds);
            seconds.sort_unstable();
            prop_assert_eq!(one, noted(&seconds));
        }
    }
}
