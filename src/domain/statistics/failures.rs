//! The jobs whose last word is that they failed: there is a dead letter of each, unless somebody took it away unsaid.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use jiff::Timestamp;

use crate::domain::ended::Ended;
use crate::domain::ledger::KEPT;
use crate::domain::outcome::Reason;

/// Failures at most; the oldest is forgotten for a newer one.
const MAX_OPEN: usize = 20_000;
/// So many of a reason are named, the newest.
const NAMED: usize = 5;

/// A failed job.
#[derive(Debug, Clone)]
struct Open {
    reason: Option<Reason>,
    /// The user, or the job where that is not known.
    who: Box<str>,
    at: Timestamp,
}

impl Open {
    fn reason(&self) -> &'static str {
        self.reason.map_or("other", Reason::as_str)
    }

    /// What it is named after.
    fn key(&self) -> (Timestamp, &str) {
        (self.at, &self.who)
    }
}

#[derive(Debug, Default)]
pub(super) struct Failures {
    key: RandomState,
    open: HashMap<u64, Open>,
    /// The same in the order they came, to be forgotten in it.
    order: VecDeque<(Timestamp, u64)>,
}

impl Failures {
    pub(super) fn failed(&mut self, ended: &Ended<'_>, at: Timestamp, now: Timestamp) {
        let Ended { job, user, .. } = ended;
        let id = self.key.hash_one(&**job);
        if now.duration_since(at) > KEPT || self.open.get(&id).is_some_and(|known| known.at >= at) {
            return;
        }
        let who = user.as_ref().unwrap_or(job).as_ref().into();
        self.open.insert(id, Open { reason: ended.reason(), who, at });
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
        for open in self.young(now) {
            *reasons.entry(open.reason()).or_default() += 1;
        }
        reasons
    }

    /// The users of the newest of each reason, or their jobs where these are not known; the newest first.
    pub(super) fn named(&self, now: Timestamp) -> BTreeMap<&'static str, Vec<Box<str>>> {
        let mut newest: BTreeMap<&'static str, Vec<&Open>> = BTreeMap::new();
        for open in self.young(now) {
            let known = newest.entry(open.reason()).or_default();
            let place = known.iter().position(|other| other.key() < open.key()).unwrap_or(known.len());
            if place < NAMED {
                known.insert(place, open);
                known.truncate(NAMED);
            }
        }
        newest.into_iter().map(|(reason, open)| (reason, open.iter().map(|open| open.who.clone()).collect())).collect()
    }

    fn young(&self, now: Timestamp) -> impl Iterator<Item = &Open> {
        self.open.values().filter(move |open| now.duration_since(open.at) <= KEPT)
    }
}
