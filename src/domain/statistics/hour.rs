//! How many jobs ended in each minute of the last hour, and in the last 60 s. A record that is told twice counts once.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use jiff::Timestamp;

use crate::domain::job::Lane;
use crate::domain::outcome::OutcomeKind;
use crate::domain::rate::Ends;

/// Minutes that are told.
pub const MINUTES: i64 = 60;
/// Records that are known again at most; the minutes whose records are not take no more.
const MAX_KNOWN: usize = 100_000;

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
    /// The last of them, to the second.
    ends: Ends,
}

#[derive(Debug, Default)]
struct Minute {
    count: Count,
    /// Passwords set, by the lane of the job; of one that says none, bulk.
    resets: [u32; Lane::COUNT],
    known: HashSet<u64>,
    /// Its records are not known any more: who tells of one again cannot be told from who tells of a new one.
    closed: bool,
}

impl Hour {
    pub(super) fn ended(&mut self, job: &str, kind: OutcomeKind, lane: Option<Lane>, at: Timestamp, now: Timestamp) {
        // One minute more than is shown: the oldest hour of resets begins within it.
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
        if kind == OutcomeKind::Succeeded {
            let resets = &mut counted.resets[lane.unwrap_or(Lane::Bulk).index()];
            *resets = resets.saturating_add(1);
        }
        self.ends.note(at);
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

    /// When jobs ended lately.
    pub(super) fn ends(&self) -> &Ends {
        &self.ends
    }

    /// By jobs of which lane passwords were set within the last hour, and when, the oldest first: each at the end of its minute, or now.
    pub(super) fn resets(&self, now: Timestamp) -> Vec<(Lane, Timestamp)> {
        let end = |minute: i64| Timestamp::from_second((minute + 1) * 60).map_or(now, |end| end.min(now));
        let lately = self.minutes.range(minute(now) - MINUTES..);
        let of = |minute: i64, counted: &Minute| {
            let of_lane = |lane: Lane| (0..counted.resets[lane.index()]).map(move |_| (lane, end(minute)));
            Lane::ALL.into_iter().flat_map(of_lane).collect::<Vec<_>>()
        };
        lately.flat_map(|(minute, counted)| of(*minute, counted)).collect()
    }
}

fn minute(at: Timestamp) -> i64 {
    at.as_second().div_euclid(60)
}
