//! Who has led an org, by what the ledger says, in the order of its records.

use std::time::Duration;

use jiff::Timestamp;

use super::entry::{Fence, Holder, WorkerName};

/// Where in the ledger a record stands.
pub type Place = u64;

/// What was known when a fence was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FenceRead {
    /// Where it stands.
    pub place: Place,
    /// In which reading of the stream: places of another one, which may be of another stream, say nothing.
    pub reading: u64,
    /// Who led before.
    pub before: Holder,
    /// The term of that one, whether it is over or not.
    pub term: Option<String>,
    /// Where the newest fence of another worker stands.
    pub other: Option<Place>,
    /// The longest that any call takes of all who may have led since one said that it is done; `None`: one of them does not say.
    pub longest_call: Option<Duration>,
}

/// Of one org.
#[derive(Debug)]
pub(super) struct Leaders {
    worker: WorkerName,
    term: String,
    fenced_at: Timestamp,
    place: Place,
    released: bool,
    /// The term that was given up last, whether another had begun to take over meanwhile or not.
    given_up: Option<String>,
    /// Where the newest fence of a worker other than this one stands.
    other: Option<Place>,
    /// See [`FenceRead::longest_call`].
    longest_call: Option<Duration>,
}

impl Leaders {
    /// The first that is known of.
    pub(super) fn first(fence: &Fence<'_>, place: Place) -> Self {
        Self {
            worker: WorkerName::new(&*fence.worker),
            term: fence.term.as_deref().unwrap_or(&fence.id).to_owned(),
            fenced_at: fence.at,
            place,
            released: false,
            given_up: None,
            other: None,
            longest_call: fence.longest_call,
        }
    }

    /// One more. What is read again changes nothing.
    pub(super) fn next(&mut self, fence: &Fence<'_>, place: Place) {
        if place <= self.place || fence.term.is_some() {
            return;
        }
        let is_other = self.worker.as_str() != fence.worker;
        let longest_call = match (self.longest_call, fence.longest_call) {
            (_, next) if self.released => next,
            (Some(before), Some(next)) => Some(before.max(next)),
            (None, _) | (_, None) => None,
        };
        let other = if is_other { Some(self.place) } else { self.other };
        *self = Self { other, longest_call, given_up: self.given_up.take(), ..Self::first(fence, place) };
    }

    /// A worker has given the leadership up, with nothing left in flight. One of an earlier term, or of another worker, ends no later one.
    pub(super) fn released(&mut self, worker: &str, term: Option<&str>, at: Timestamp) {
        // Without a term: both moments are of one worker's clock.
        let is_this = term.map_or(at >= self.fenced_at, |term| term == self.term);
        self.released |= self.worker.as_str() == worker && is_this;
        self.given_up = term.map(str::to_owned);
    }

    pub(super) fn holder(&self) -> Holder {
        self.leader().map_or(Holder::Nobody, |(worker, _)| Holder::Was(worker))
    }

    /// Who led last and did not say that it is done, and since when at least.
    pub(super) fn leader(&self) -> Option<(WorkerName, Timestamp)> {
        (!self.released).then(|| (self.worker.clone(), self.fenced_at))
    }

    /// What is known when this worker's fence is read, before it is noted.
    pub(super) fn read(&self, worker: &str, place: Place, reading: u64) -> FenceRead {
        let other = if self.worker.as_str() == worker { self.other } else { Some(self.place) };
        let term = Some(self.term.clone());
        FenceRead { place, reading, before: self.holder(), term, other, longest_call: self.longest_call }
    }

    /// Whether the one who led before this fence has given that up, and nobody has written a fence since.
    pub(super) fn is_released(&self, read: &FenceRead) -> bool {
        self.place == read.place && self.given_up.is_some() && self.given_up == read.term
    }
}

impl FenceRead {
    /// Where there is no room to know who led: anybody may have, a moment ago.
    pub(super) fn of_unknown(place: Place, reading: u64) -> Self {
        Self { before: Holder::Was(WorkerName::new("")), other: Some(place), ..Self::alone(place, reading) }
    }

    /// Of the first fence that is known of.
    pub(super) fn alone(place: Place, reading: u64) -> Self {
        Self { place, reading, before: Holder::Nobody, term: None, other: None, longest_call: None }
    }
}
