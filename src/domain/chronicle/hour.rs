//! How many jobs ended in each minute of the last hour, and how fast it goes now. A record that is told twice counts once.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use jiff::Timestamp;

use crate::domain::outcome::OutcomeKind;

/// Minutes that are told.
pub const MINUTES: i64 = 60;
/// The steps within a minute, in seconds, by which the present rate is known.
const STEP: i64 = 10;
/// Records that are known again at most; the minutes whose records are not take no more.
const MAX_KNOWN: usize = 100_000;
/// So many jobs within a minute are a rate; fewer are counted over a longer time.
const ENOUGH: u32 = 10;
/// The longer time, in minutes.
const LONGER: i64 = 10;

/// What ended within a minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Passwords set.
    pub succeeded: u32,
    /// Dead letters.
    pub failed: u32,
    /// Neither was needed.
    pub other: u32,
}

impl Count {
    fn add(&mut self, kind: OutcomeKind) {
        let count = match kind {
            OutcomeKind::Succeeded => &mut self.succeeded,
            OutcomeKind::Failed | OutcomeKind::Expired => &mut self.failed,
            OutcomeKind::PassedThrough | OutcomeKind::Superseded | OutcomeKind::Duplicate => &mut self.other,
        };
        *count = count.saturating_add(1);
    }

    /// All that ended.
    pub fn all(self) -> u32 {
        self.succeeded.saturating_add(self.failed).saturating_add(self.other)
    }
}

#[derive(Debug, Default)]
pub(super) struct Hour {
    key: RandomState,
    /// By the minute, counted from 1970.
    minutes: BTreeMap<i64, Minute>,
    /// How many records are known, of all minutes.
    pub(super) known: usize,
}

#[derive(Debug, Default)]
struct Minute {
    count: Count,
    /// How many ended in each step.
    steps: [u32; 6],
    known: HashSet<u64>,
    /// Its records are not known any more: who tells of one again cannot be told from who tells of a new one.
    closed: bool,
}

impl Hour {
    pub(super) fn ended(&mut self, job: &str, kind: OutcomeKind, at: Timestamp, now: Timestamp) {
        // One minute more than is told: the oldest hour of resets begins within it.
        let (minute, oldest) = (minute(at), minute(now) - MINUTES - 1);
        if minute <= oldest {
            return;
        }
        while self.minutes.first_key_value().is_some_and(|(first, _)| *first <= oldest) {
            self.known -= self.minutes.pop_first().map_or(0, |(_, gone)| gone.known.len());
        }
        let record = self.key.hash_one((job, kind, at.as_millisecond()));
        let counted = self.minutes.entry(minute).or_default();
        if counted.closed || counted.known.contains(&record) {
            return;
        }
        counted.count.add(kind);
        let step = at.as_second().rem_euclid(60) / STEP;
        counted.steps[usize::try_from(step).unwrap_or(0)] += 1;
        if self.known == MAX_KNOWN {
            self.forget(minute);
        }
        if self.known < MAX_KNOWN {
            self.known += 1;
            self.minutes.entry(minute).or_default().known.insert(record);
        }
    }

    /// Makes room, of the oldest minute before this one.
    fn forget(&mut self, before: i64) {
        if let Some((_, oldest)) = self.minutes.range_mut(..before).find(|(_, minute)| !minute.known.is_empty()) {
            self.known -= oldest.known.len();
            oldest.known = HashSet::new();
            oldest.closed = true;
        }
    }

    pub(super) fn minutes(&self, now: Timestamp) -> Vec<Count> {
        let last = minute(now);
        let count = |minute| self.minutes.get(&minute).map_or_else(Count::default, |minute| minute.count);
        (last - MINUTES + 1..=last).map(count).collect()
    }

    /// When passwords were set within the last hour, the oldest first: each at the end of its minute, or now.
    pub(super) fn resets(&self, now: Timestamp) -> Vec<Timestamp> {
        let end = |minute: i64| Timestamp::from_second((minute + 1) * 60).map_or(now, |end| end.min(now));
        let lately = self.minutes.range(minute(now) - MINUTES..);
        lately.flat_map(|(minute, counted)| (0..counted.count.succeeded).map(move |_| end(*minute))).collect()
    }

    /// Of the last minute; where few ended in it, of the time since the first of the last ten minutes' ended.
    pub(super) fn per_minute(&self, now: Timestamp) -> f64 {
        let last = now.as_second().div_euclid(STEP);
        let into = now.as_second() - last * STEP + 1;
        let rate = |jobs: u32, steps: i64| f64::from(jobs) * 60.0 / ((steps * STEP + into) as f64);
        let within = |steps: i64| (last - steps..=last).map(|step| self.step(step)).sum::<u32>();
        let steps = 60 / STEP;
        let recent = within(steps);
        if recent >= ENOUGH {
            let begun = (last - steps..=last).find(|step| self.step(*step) > 0).unwrap_or(last);
            return rate(recent, if self.is_lull(begun) { last - begun } else { steps });
        }
        let first = (last - LONGER * steps..=last).find(|step| self.step(*step) > 0);
        first.map_or(0.0, |first| rate(within(last - first), (last - first).max(steps)))
    }

    /// Whether nothing ended in the minute before that step: what came after it is a beginning, not an average.
    fn is_lull(&self, step: i64) -> bool {
        (step - 60 / STEP..step).all(|step| self.step(step) == 0)
    }

    fn step(&self, step: i64) -> u32 {
        let (minute, within) = (step.div_euclid(60 / STEP), step.rem_euclid(60 / STEP));
        self.minutes.get(&minute).map_or(0, |minute| minute.steps[usize::try_from(within).unwrap_or(0)])
    }
}

fn minute(at: Timestamp) -> i64 {
    at.as_second().div_euclid(60)
}
