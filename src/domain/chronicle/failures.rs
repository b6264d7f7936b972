//! The jobs whose last word is that they failed: there is a dead letter of each, unless somebody took it away unsaid.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use jiff::Timestamp;

use crate::domain::ledger::KEPT;
use crate::domain::outcome::Reason;

/// Failures at most; the oldest is forgotten for a newer one.
const MAX_OPEN: usize = 20_000;

/// A failed job.
#[derive(Debug, Clone, Copy)]
struct Open {
    reason: Option<Reason>,
    at: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct Failures {
    key: RandomState,
    open: HashMap<u64, Open>,
    /// The same in the order they came, to be forgotten in it.
    order: VecDeque<(Timestamp, u64)>,
}

impl Failures {
    pub(super) fn failed(&mut self, job: &str, reason: Option<Reason>, at: Timestamp, now: Timestamp) {
        let id = self.key.hash_one(job);
        if now.duration_since(at) > KEPT || self.open.get(&id).is_some_and(|known| known.at >= at) {
            return;
        }
        self.open.insert(id, Open { reason, at });
        self.order.push_back((at, id));
        while let Some((at, id)) = self.order.front() {
            if now.duration_since(*at) <= KEPT && self.order.len() <= MAX_OPEN {
                break;
            }
            // It may have failed again since.
            if self.open.get(id).is_some_and(|open| open.at == *at) {
                self.open.remove(id);
            }
            self.order.pop_front();
        }
    }

    /// It ended otherwise, or was given up for good, at that moment.
    pub(super) fn closed(&mut self, job: &str, at: Timestamp) {
        if self.open.is_empty() {
            return;
        }
        let id = self.key.hash_one(job);
        if self.open.get(&id).is_some_and(|open| open.at <= at) {
            self.open.remove(&id);
        }
    }

    pub(super) fn by_reason(&self, now: Timestamp) -> BTreeMap<&'static str, u32> {
        let mut reasons = BTreeMap::new();
        for open in self.open.values().filter(|open| now.duration_since(open.at) <= KEPT) {
            *reasons.entry(open.reason.map_or("other", Reason::as_str)).or_default() += 1;
        }
        reasons
    }
}
