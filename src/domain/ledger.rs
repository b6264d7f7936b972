//! What is known of all orgs from the stream of outcomes: which jobs are done, how new each user's newest reset is, and who led
//! an org last. Jobs and users are kept as keyed hashes of 128 bits, and forgotten after a day.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

use jiff::{SignedDuration, Timestamp};

use super::batch::key;
use super::job::JobId;
use super::user::{UserId, canonical};

mod entry;
mod leaders;
mod own_term;

pub use entry::{Entry, Fence, Holder, WorkerName};
use leaders::Leaders;
pub use leaders::{FenceRead, Place};
pub use own_term::{Before, OwnTerm};

/// How long a job counts as done, at least; what it was named by and its user are forgotten up to an hour later.
pub const KEPT: SignedDuration = SignedDuration::from_hours(24);
/// How long a name made from what a job says counts as done: `docs/contract.md#jobs-without-a-message-id`.
pub const DERIVED_KEPT: SignedDuration = SignedDuration::from_mins(10);
/// What such a name begins with, and a producer's own id may.
const DERIVED: &str = "sha256:";
/// Job ids of all orgs at most: a day of four orgs at 300 a minute, and more. The oldest hour is forgotten for a newer one.
pub const MAX_IDS: usize = 2_000_000;
/// Derived names at most: ten minutes of more than 300 a second.
const MAX_DERIVED: usize = 200_000;
/// Orgs at most: anyone who may publish to the stream can make names up.
const MAX_ORGS: usize = 1_000;
/// How far ahead of our clock an `asked_at` may be, as for a job; one further ahead supersedes nothing.
const MAX_AHEAD: SignedDuration = SignedDuration::from_mins(5);
const HOUR: i64 = 3600;

/// Whether there was room for all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Room {
    /// There was.
    Enough,
    /// The oldest was forgotten before its time: such a job would be done again.
    Full,
}

/// A job or a user, by 128 bits that nobody outside can aim at.
type Hash = [u64; 2];

/// What ended within one hour, forgotten as a whole.
#[derive(Debug, Default)]
struct Generation {
    done: HashSet<Hash>,
    newest: HashMap<Hash, i64>,
}

impl Generation {
    fn len(&self) -> usize {
        self.done.len().max(self.newest.len())
    }
}

/// What is known of all orgs.
///
/// A record may be noted twice. Those of leaders count by their places, not by their writers' clocks.
#[derive(Debug)]
pub struct LedgerIndex {
    keys: [RandomState; 2],
    max_ids: usize,
    /// By the hour, counted from 1970.
    hours: BTreeMap<i64, Generation>,
    derived: HashMap<Hash, Timestamp>,
    /// The same in the order they came, to be forgotten in it.
    derived_order: VecDeque<(Timestamp, Hash)>,
    leaders: HashMap<String, Leaders>,
    /// How often the stream may have become another one.
    reading: u64,
}

impl Default for LedgerIndex {
    fn default() -> Self {
        Self::with_room(MAX_IDS)
    }
}

impl LedgerIndex {
    fn with_room(max_ids: usize) -> Self {
        Self {
            keys: [RandomState::new(), RandomState::new()],
            max_ids,
            hours: BTreeMap::new(),
            derived: HashMap::new(),
            derived_order: VecDeque::new(),
            leaders: HashMap::new(),
            reading: 0,
        }
    }

    fn hash(&self, org: &str, name: &str) -> Hash {
        self.keys.each_ref().map(|key| key.hash_one((org, name)))
    }

    /// Takes note of a record at its place. A job that ended a day ago is not noted; a fence of any age is, since nobody else may have come.
    pub fn note(&mut self, entry: &Entry<'_>, place: Place, now: Timestamp) -> Room {
        match entry {
            Entry::Done { org, job, reset, at } => return self.note_done(org, job, reset.as_ref(), *at, now),
            Entry::Fence { org, fence } => {
                if let Some(leaders) = self.leaders.get_mut(&**org) {
                    leaders.next(fence, place);
                } else if self.leaders.len() < MAX_ORGS {
                    self.leaders.insert(org.to_string(), Leaders::first(fence, place));
                }
            }
            Entry::Released { org, worker, term, at } => {
                if let Some(leaders) = self.leaders.get_mut(&**org) {
                    leaders.released(worker, term.as_deref(), *at);
                }
            }
        }
        Room::Enough
    }

    /// The stream is read anew, from a day back: what it says of leaders comes again.
    pub fn forget_leaders(&mut self) {
        self.leaders.clear();
    }

    /// It may be another stream than before: places in that one say nothing of places in this one.
    pub fn forget_stream(&mut self) {
        self.leaders.clear();
        self.reading += 1;
    }

    /// What is known of who led an org when this worker's fence is read, before it is noted.
    pub fn read_fence(&self, org: &str, worker: &str, place: Place) -> FenceRead {
        match self.leaders.get(org) {
            Some(leaders) => leaders.read(worker, place, self.reading),
            None if self.leaders.len() < MAX_ORGS => FenceRead::alone(place, self.reading),
            None => FenceRead::of_unknown(place, self.reading),
        }
    }

    fn note_done(
        &mut self,
        org: &str,
        job: &str,
        reset: Option<&(Cow<'_, str>, Timestamp)>,
        at: Timestamp,
        now: Timestamp,
    ) -> Room {
        // A clock that is ahead must not make its record outlive the others.
        let at = at.min(now);
        if now.duration_since(at) > KEPT {
            return Room::Enough;
        }
        let oldest = oldest_hour(now);
        while self.hours.first_key_value().is_some_and(|(hour, _)| *hour < oldest) {
            self.hours.pop_first();
        }
        let id = self.hash(org, job);
        let reset = reset.filter(|(_, asked_at)| asked_at.duration_since(now) <= MAX_AHEAD);
        let user = reset.map(|(user, asked_at)| (self.hash(org, &canonical(user)), asked_at.as_second()));
        let mut room = Room::Enough;
        // The record does not say whose name it is: it is noted as either, and whoever asks knows which he means.
        if job.starts_with(DERIVED) {
            room = self.note_derived(id, at, now);
        }
        let generation = self.hours.entry(hour(at)).or_default();
        generation.done.insert(id);
        if let Some((user, asked_at)) = user {
            let newest = generation.newest.entry(user).or_insert(asked_at);
            *newest = asked_at.max(*newest);
        }
        if self.hours.values().map(Generation::len).sum::<usize>() > self.max_ids {
            self.hours.pop_first();
            room = Room::Full;
        }
        room
    }

    fn note_derived(&mut self, id: Hash, at: Timestamp, now: Timestamp) -> Room {
        if now.duration_since(at) > DERIVED_KEPT || self.derived.get(&id).is_some_and(|known| *known >= at) {
            return Room::Enough;
        }
        self.derived.insert(id, at);
        self.derived_order.push_back((at, id));
        let mut room = Room::Enough;
        while let Some((at, id)) = self.derived_order.front() {
            let young = now.duration_since(*at) <= DERIVED_KEPT;
            if young && self.derived_order.len() <= MAX_DERIVED {
                break;
            }
            if young {
                room = Room::Full;
            }
            // It may have been noted again since, with a later moment.
            if self.derived.get(id) == Some(at) {
                self.derived.remove(id);
            }
            self.derived_order.pop_front();
        }
        room
    }

    /// Whether a job is done. One that is named by what it says is only where the broker delivers it again, and for 10 minutes: two
    /// equal jobs are two jobs. Of a batch it is the same one whatever the case in which its user is written.
    pub fn is_done(&self, org: &str, job: &JobId, batch: Option<&str>, redelivered: bool, now: Timestamp) -> bool {
        let id = self.hash(org, &key(batch, job.as_str()));
        if job.is_derived() {
            let at = self.derived.get(&id);
            return redelivered && at.is_some_and(|at| now.duration_since(*at) <= DERIVED_KEPT);
        }
        self.hours.range(oldest_hour(now)..).any(|(_, generation)| generation.done.contains(&id))
    }

    /// When the newest reset of a user that succeeded was asked for, in whole seconds.
    pub fn newest(&self, org: &str, user: &UserId) -> Option<Timestamp> {
        let user = self.hash(org, &canonical(user.as_str()));
        let newest = self.hours.values().filter_map(|generation| generation.newest.get(&user)).max();
        newest.and_then(|seconds| Timestamp::from_second(*seconds).ok())
    }

    /// Whether the one who led an org before this fence has given that up, and nobody has written a fence since.
    pub fn is_released(&self, org: &str, read: &FenceRead) -> bool {
        self.leaders.get(org).is_some_and(|leaders| leaders.is_released(read))
    }

    /// Who led an org last.
    pub fn holder(&self, org: &str) -> Holder {
        self.leaders.get(org).map_or(Holder::Nobody, Leaders::holder)
    }

    /// Who led an org last and did not say that it is done, and since when: since a day ago at least, where it leads for longer.
    pub fn leader(&self, org: &str) -> Option<(WorkerName, Timestamp)> {
        self.leaders.get(org)?.leader()
    }
}

fn hour(at: Timestamp) -> i64 {
    at.as_second().div_euclid(HOUR)
}

/// The oldest hour of which a part is younger than a day.
fn oldest_hour(now: Timestamp) -> i64 {
    (now.as_second() - KEPT.as_secs()).div_euclid(HOUR)
}

#[cfg(test)]
mod tests;
