//! The batches of which something was heard lately, and how far each is.

use std::collections::VecDeque;

use jiff::Timestamp;

use crate::domain::batch::{Progress, Record};
use crate::domain::blocked::{Blocked, Status};
use crate::domain::ledger::KEPT;

/// Batches at most; the one that was silent for longest is forgotten for a new one.
const MAX_BATCHES: usize = 12;
/// Jobs of all of them at most, at 48 bytes each; then the one that was silent for longest is forgotten.
const MAX_JOBS: u64 = 500_000;

#[derive(Debug)]
struct Batch {
    name: Box<str>,
    heard: Timestamp,
    progress: Progress,
}

/// The last one that was heard of stands last.
#[derive(Debug, Default)]
pub(super) struct Batches(VecDeque<Batch>);

/// How far one batch is.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// Its name.
    pub name: Box<str>,
    /// How many jobs it has, where somebody said so.
    pub jobs: Option<u64>,
    /// How many have ended.
    pub done: u64,
    /// How many of these with what a producer may not be content.
    pub failed: u64,
    /// How many people were notified, where a mailer says so.
    pub notified: u64,
    /// How many of the mails were given up.
    pub not_notified: u64,
    /// How many notifications are queued, as far as nothing else was heard of them.
    pub queued: u64,
    /// Jobs that ended in the last 60 s.
    pub per_minute: u64,
    /// What keeps its jobs from ending.
    pub blocked: Option<Blocked>,
    /// How long it will take; `None` where that is not known, or something keeps it.
    pub seconds_left: Option<f64>,
    /// When something was heard of it last.
    pub heard: Timestamp,
}

impl Batches {
    /// Takes note of a record of a batch, not older than a day. `at`: when it was written, where it says so; one that does not is no
    /// later than what was heard before, since it may be read long after.
    pub(super) fn note(&mut self, name: &str, record: &Record<'_>, at: Option<Timestamp>, now: Timestamp) {
        let known = self.0.iter().position(|batch| *batch.name == *name);
        let heard = known.and_then(|place| self.0.get(place)).map(|batch| batch.heard);
        let Some(at) = at.or(heard).filter(|at| now.duration_since(*at) <= KEPT) else { return };
        let known = known.and_then(|place| self.0.remove(place));
        let mut batch = known.unwrap_or_else(|| Batch { name: name.into(), heard: at, progress: Progress::default() });
        batch.heard = batch.heard.max(at);
        batch.progress.note(record);
        self.0.push_back(batch);
        while self.0.len() > MAX_BATCHES || (self.0.len() > 1 && self.jobs() > MAX_JOBS) {
            self.0.pop_front();
        }
    }

    fn jobs(&self) -> u64 {
        let ended = |batch: &Batch| {
            let counts = batch.progress.counts();
            let done = counts.succeeded + counts.passed_through + counts.duplicate;
            done + counts.given_up()
        };
        self.0.iter().map(ended).sum()
    }

    /// The last one that was heard of first.
    pub(super) fn stages(&self, status: Option<&Status>, now: Timestamp) -> Vec<Stage> {
        let young = self.0.iter().rev().filter(|batch| now.duration_since(batch.heard) <= KEPT);
        young.map(|batch| batch.stage(status, now)).collect()
    }
}

impl Batch {
    fn stage(&self, status: Option<&Status>, now: Timestamp) -> Stage {
        let progress = &self.progress;
        let blocked = progress.blocked(status, now);
        let in_force = status.map(|status| status.rate);
        let left = if blocked.is_none() { progress.time_left(now, in_force) } else { None };
        Stage {
            name: self.name.clone(),
            jobs: progress.total(),
            done: progress.done(),
            failed: progress.counts().given_up(),
            notified: progress.counts().notified,
            not_notified: progress.counts().notification_failed,
            queued: progress.not_notified(),
            per_minute: progress.ended_lately(now),
            blocked,
            seconds_left: left.map(|left| left.as_secs_f64()),
            heard: self.heard,
        }
    }
}
