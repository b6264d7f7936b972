//! What the breaker counts while it is closed: faults in a row, and the calls of the last 30 s in buckets of a second.

use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::time::Instant;

use super::cause::Cause;
use crate::domain::user::UserId;

/// Faults in a row that open it.
const IN_ROW: u32 = 5;
/// From how many users its faults must be: one bad user never opens it alone.
const USERS: usize = 3;
/// The window, in seconds.
const WINDOW: usize = 30;
/// How many calls there must be in the window before their half says anything.
const CALLS: u32 = 20;

/// The counts. Recording costs no allocation.
#[derive(Debug)]
pub(super) struct Counts {
    start: Instant,
    in_row: u32,
    row_users: Few,
    buckets: [Bucket; WINDOW],
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// Since the start; the bucket is taken over by the second that is 30 later.
    second: u64,
    calls: u32,
    faults: u32,
    users: Few,
}

/// Different users, by their hashes, as many as matter.
#[derive(Debug, Clone, Copy, Default)]
struct Few {
    hashes: [u64; USERS],
    len: usize,
}

impl Few {
    fn add(&mut self, hash: u64) {
        if self.len < USERS && !self.hashes[..self.len].contains(&hash) {
            self.hashes[self.len] = hash;
            self.len += 1;
        }
    }

    fn are_enough(&self) -> bool {
        self.len == USERS
    }
}

impl Counts {
    pub(super) fn new(now: Instant) -> Self {
        Self { start: now, in_row: 0, row_users: Few::default(), buckets: [Bucket::default(); WINDOW] }
    }

    pub(super) fn worked(&mut self, now: Instant) {
        self.in_row = 0;
        self.row_users = Few::default();
        self.bucket(now).calls += 1;
    }

    /// One more fault, and whether that is one too many. Only a fault opens the breaker, never a success.
    pub(super) fn faulted(&mut self, user: &UserId, now: Instant) -> Option<Cause> {
        let user = hash(user);
        self.in_row = self.in_row.saturating_add(1);
        self.row_users.add(user);
        let bucket = self.bucket(now);
        bucket.calls += 1;
        bucket.faults += 1;
        bucket.users.add(user);
        if self.in_row >= IN_ROW && self.row_users.are_enough() {
            return Some(Cause::FaultsInRow { faults: self.in_row });
        }
        let latest = self.latest(now);
        let half = latest.calls >= CALLS && latest.faults >= latest.calls.div_ceil(2) && latest.users.are_enough();
        half.then_some(Cause::HalfOfCalls { faults: latest.faults, calls: latest.calls })
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs()
    }

    fn bucket(&mut self, now: Instant) -> &mut Bucket {
        let second = self.second(now);
        let bucket = &mut self.buckets[(second % WINDOW as u64) as usize];
        if bucket.second != second {
            *bucket = Bucket { second, ..Bucket::default() };
        }
        bucket
    }

    fn latest(&self, now: Instant) -> Bucket {
        let second = self.second(now);
        let mut sum = Bucket { second, ..Bucket::default() };
        for bucket in self.buckets.iter().filter(|bucket| bucket.second + (WINDOW as u64) > second) {
            sum.calls += bucket.calls;
            sum.faults += bucket.faults;
            bucket.users.hashes[..bucket.users.len].iter().for_each(|user| sum.users.add(*user));
        }
        sum
    }
}

fn hash(user: &UserId) -> u64 {
    let mut hasher = DefaultHasher::new();
    user.hash(&mut hasher);
    hasher.finish()
}
