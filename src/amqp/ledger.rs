//! The ledger: what this process has read of the stream of outcomes. It outlives connections; [`Ledger::follow`] reads the stream
//! on one, while somebody holds a [`Reading`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::error::{ANSWER, BrokerError};
use crate::domain::blocked::Status;
use crate::domain::ended::Ended;
use crate::domain::job::{JobId, Lane};
use crate::domain::ledger::{Entry, FenceRead, Holder, LedgerIndex, Place as Position, Room, WorkerName};
use crate::domain::mailing::{About, MailIndex, Mailed, Standing};
use crate::domain::outcome::OutcomeKind;
use crate::domain::statistics::{Lately, Mails, MailsLately, Statistics};
use crate::domain::user::UserId;
use crate::wire;
use crate::wire::ledger::LedgerRecord;

mod follow;
mod place;

use place::Place;

/// So many fences that were read are remembered, for whoever asks for his a moment later.
const FENCES: usize = 1_024;

/// A consumer that got nothing for so long, though the stream has a record, was not handed its first one.
const MISSED: Duration = Duration::from_secs(2);

/// A handle to what is known; cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    stream: String,
    kept: Mutex<Kept>,
    /// How many want it read.
    readers: watch::Sender<usize>,
    /// Changes when a record of a leader was read, and when a consumer attached.
    fenced: watch::Sender<()>,
    /// A consumer is to attach again.
    attach_again: watch::Sender<()>,
}

#[derive(Debug)]
struct Kept {
    index: LedgerIndex,
    /// What a mailer wants to know; nobody else keeps it, and a mailer keeps no jobs in `index`.
    mails: Option<MailIndex>,
    mails_told: Mails,
    statistics: Statistics,
    place: Place,
    /// The ids of fences and what was known when each was read, the newest last.
    fences: VecDeque<(String, FenceRead)>,
    /// When a record was read last.
    read_at: Instant,
    /// Since when a consumer is attached a day back that has got nothing yet.
    silent: Option<Instant>,
    /// When a consumer attached last.
    attached: Instant,
    records: u64,
    warned: bool,
}

/// While one of these lives, the stream is read.
#[derive(Debug)]
pub struct Reading(Ledger);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.0.readers.send_modify(|readers| *readers -= 1);
    }
}

impl Ledger {
    /// Of a stream, by its name at the broker. Nothing is known yet.
    pub fn new(stream: impl Into<String>) -> Self {
        Self::telling(stream, std::iter::empty())
    }

    /// One that can tell of these orgs what became of their jobs lately.
    pub fn telling<'a>(stream: impl Into<String>, orgs: impl Iterator<Item = &'a str>) -> Self {
        Self::keeping(stream, orgs, None)
    }

    /// One that knows of mails, and not of jobs.
    pub fn of_mails(stream: impl Into<String>) -> Self {
        Self::keeping(stream, std::iter::empty(), Some(MailIndex::default()))
    }

    fn keeping<'a>(stream: impl Into<String>, orgs: impl Iterator<Item = &'a str>, mails: Option<MailIndex>) -> Self {
        let kept = Kept {
            index: LedgerIndex::default(),
            mails,
            mails_told: Mails::default(),
            statistics: Statistics::new(orgs),
            place: Place::default(),
            fences: VecDeque::new(),
            read_at: Instant::now(),
            silent: None,
            attached: Instant::now(),
            records: 0,
            warned: false,
        };
        Self(Arc::new(Shared {
            stream: stream.into(),
            kept: Mutex::new(kept),
            readers: watch::Sender::new(0),
            fenced: watch::Sender::new(()),
            attach_again: watch::Sender::new(()),
        }))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wants it read until the guard is dropped.
    pub fn reading(&self) -> Reading {
        self.0.readers.send_modify(|readers| *readers += 1);
        Reading(self.clone())
    }

    /// Takes note of a job's end that this process itself brought about, as long as it does not read it.
    pub fn note(&self, ended: &Ended<'_>) {
        self.kept().ended(ended, Timestamp::now());
    }

    /// Takes note of a mail's end that this process itself brought about.
    pub fn note_mail(&self, mailed: &Mailed<'_>) {
        self.kept().mailed(mailed, Timestamp::now());
    }

    /// A notification came: see [`MailIndex::seen`].
    pub fn seen(&self, about: &About<'_>) {
        let mut kept = self.kept();
        let room = kept.mails.as_mut().map(|mails| mails.seen(about, Timestamp::now()));
        kept.warn_if_full(room);
    }

    /// See [`MailIndex::standing`].
    pub fn standing(&self, about: &About<'_>) -> Standing {
        self.kept().mails.as_ref().map_or(Standing::Due, |mails| mails.standing(about))
    }

    /// See [`Statistics::lately`].
    pub fn lately(&self, org: &str) -> Option<Lately> {
        self.lately_with(org, None)
    }

    /// The same of an org that is ours, which stands so.
    pub fn lately_with(&self, org: &str, own: Option<&Status>) -> Option<Lately> {
        self.kept().statistics.lately(org, Timestamp::now(), own)
    }

    /// What became of mails lately.
    pub fn mails_lately(&self) -> MailsLately {
        self.kept().mails_told.lately(Timestamp::now())
    }

    /// By jobs of which lane passwords were set within the last hour, and when, the oldest first: each at the end of its minute, so that none
    /// is forgotten early.
    pub fn reset_lately(&self, org: &str) -> Vec<(Lane, Timestamp)> {
        self.kept().statistics.resets(org, Timestamp::now())
    }

    /// See [`LedgerIndex::is_done`].
    pub fn is_done(&self, org: &str, job: &JobId, batch: Option<&str>, redelivered: bool) -> bool {
        self.kept().index.is_done(org, job, batch, redelivered, Timestamp::now())
    }

    /// See [`LedgerIndex::newest`].
    pub fn newest(&self, org: &str, user: &UserId) -> Option<Timestamp> {
        self.kept().index.newest(org, user)
    }

    /// See [`LedgerIndex::holder`]. After one's own fence that is oneself: [`Ledger::until_fence`] says who it was before.
    pub fn holder(&self, org: &str) -> Holder {
        self.kept().index.holder(org)
    }

    /// See [`LedgerIndex::leader`].
    pub fn leader(&self, org: &str) -> Option<(WorkerName, Timestamp)> {
        self.kept().index.leader(org)
    }

    /// How many records were read.
    pub fn records(&self) -> u64 {
        self.kept().records
    }

    /// Waits until the fence with this id was read, and with it all that was written before it. It is read for as long.
    /// Returns what is known of those before it.
    ///
    /// # Errors
    /// Where nothing at all was read for 10 s: write another and try again. The stream is attached to again, since a place beyond its end
    /// waits for ever.
    pub async fn until_fence(&self, id: &str) -> Result<FenceRead, BrokerError> {
        let _reading = self.reading();
        let mut fenced = self.0.fenced.subscribe();
        let begun = Instant::now();
        loop {
            fenced.borrow_and_update();
            let silent_since = {
                let kept = self.kept();
                if let Some(read) = kept.fence(id) {
                    return Ok(read);
                }
                kept.read_at.max(begun)
            };
            let (deadline, missed) = (silent_since + ANSWER, self.missed(begun));
            if missed.is_some_and(|at| Instant::now() >= at) {
                tracing::debug!(
                    stream = self.0.stream,
                    "attached before the first record, and never handed it: attaching again"
                );
                self.attach_again();
                continue;
            }
            if Instant::now() >= deadline {
                // One that has just attached is finding out whether it is the same stream, which takes it so long.
                if self.kept().attached.elapsed() > ANSWER + Duration::from_secs(1) {
                    self.attach_again();
                }
                return Err(BrokerError::Retry(format!(
                    "nothing was read from stream {} for {} s, not even the record just written to it",
                    self.0.stream,
                    ANSWER.as_secs()
                )));
            }
            // The sender lives as long as `self`: either a fence came, or it is time to look again.
            let look = missed.map_or(deadline, |at| at.min(deadline));
            let _ = tokio::time::timeout_at(look, fenced.changed()).await;
        }
    }

    /// When a consumer must have missed what it was attached for: it got nothing, though a record is there since `written`. RabbitMQ 3.10 hands
    /// nothing to one that attached while the stream got its first record (`docs/development/facts.md#streams`).
    fn missed(&self, written: Instant) -> Option<Instant> {
        self.kept().silent.map(|silent| silent.max(written) + MISSED)
    }

    /// Waits until the one who led before this fence has given that up, with nobody else after it. It is read for as long.
    pub async fn until_released(&self, org: &str, read: &FenceRead) {
        let _reading = self.reading();
        let mut fenced = self.0.fenced.subscribe();
        while !self.kept().index.is_released(org, read) {
            // The sender lives as long as `self`.
            let _ = fenced.changed().await;
        }
    }

    /// Has the consumer attach again, where it gets nothing: at its place, which then shows whether the stream is still the same.
    fn attach_again(&self) {
        self.kept().silent = None;
        self.0.attach_again.send_replace(());
    }

    /// A record came, and will be applied.
    fn heard(&self) {
        let mut kept = self.kept();
        kept.read_at = Instant::now();
        kept.silent = None;
    }

    /// Applies a record.
    fn apply(&self, delivery: lapin::message::Delivery) {
        let told = wire::ledger::read(&delivery.data, &delivery.properties);
        let (now, offset) = (Timestamp::now(), wire::ledger::offset(&delivery.properties));
        let mut kept = self.kept();
        kept.read_at = Instant::now();
        kept.silent = None;
        kept.records += 1;
        match &told {
            Some(LedgerRecord::Ended(ended)) => kept.ended(ended, now),
            // The record has no clock of its own that counts: it is later than whatever was read before it.
            Some(LedgerRecord::Dropped { org, job }) => kept.statistics.dropped(org, job, now),
            Some(LedgerRecord::Batch(about)) => kept.statistics.batch(&about.org, &about.batch, &about.record, now),
            Some(LedgerRecord::Mailed(mailed)) => kept.mailed(mailed, now),
            Some(LedgerRecord::Leader(entry)) => kept.leader(entry, offset.unwrap_or_default(), now),
            Some(LedgerRecord::State { org, status }) => kept.statistics.stands(org, status),
            None => {}
        }
        let is_of_leader = matches!(told, Some(LedgerRecord::Leader(_)));
        if let Some(offset) = offset {
            kept.place.read(offset, delivery.data, now);
        }
        drop(kept);
        if is_of_leader {
            self.0.fenced.send_replace(());
        }
    }
}

impl Kept {
    /// The stream is another one, or may be.
    fn forget_place(&mut self) {
        self.silent = None;
        self.place.forget();
        self.index.forget_stream();
    }

    fn fence(&self, id: &str) -> Option<FenceRead> {
        self.fences.iter().rev().find(|(known, _)| known == id).map(|(_, read)| read.clone())
    }

    fn leader(&mut self, entry: &Entry<'_>, place: Position, now: Timestamp) {
        match entry {
            Entry::Fence { org, fence } => {
                let read = self.index.read_fence(org, &fence.worker, place);
                if self.fences.len() == FENCES {
                    self.fences.pop_front();
                }
                self.fences.push_back((fence.id.to_string(), read));
            }
            Entry::Done { .. } | Entry::Released { .. } => {}
        }
        let room = self.index.note(entry, place, now);
        self.warn_if_full(Some(room));
    }

    fn ended(&mut self, ended: &Ended<'_>, now: Timestamp) {
        if let Some(mails) = &mut self.mails {
            if ended.kind == OutcomeKind::Succeeded {
                let room = mails.succeeded(&ended.org, &ended.job, ended.user.as_deref(), ended.at, now);
                self.warn_if_full(Some(room));
            }
        } else if let Some(entry) = Entry::of(ended) {
            let room = self.index.note(&entry, 0, now);
            self.warn_if_full(Some(room));
        }
        self.statistics.ended(ended, now);
    }

    fn mailed(&mut self, mailed: &Mailed<'_>, now: Timestamp) {
        let room = self.mails.as_mut().map(|mails| mails.ended(mailed, now));
        self.warn_if_full(room);
        if self.mails.is_some() {
            self.mails_told.ended(mailed, now);
        }
        self.statistics.mailed(mailed, now);
    }

    fn warn_if_full(&mut self, room: Option<Room>) {
        if room == Some(Room::Full) && !self.warned {
            self.warned = true;
            tracing::warn!(
                "the ledger is full: the oldest of what was done within 24 h is forgotten, and would be done again if it came again"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn reset(job: &str, at: Timestamp) -> Ended<'_> {
        Ended {
            org: "main".into(),
            job: job.into(),
            user: None,
            batch: None,
            asked_at: None,
            lane: None,
            kind: OutcomeKind::Succeeded,
            reason: None,
            detail: None,
            status: Some(200),
            at,
        }
    }

    #[test]
    fn who_takes_over_counts_each_reset_for_at_least_an_hour_and_at_most_a_minute_longer() {
        let now = Timestamp::now();
        for ago in (0..4_000).step_by(7) {
            let at = now - SignedDuration::from_secs(ago);
            let ledger = Ledger::telling("stream", std::iter::once("main"));
            ledger.note(&reset("job", at));
            let told = ledger.reset_lately("main");
            let (hour, later) = (SignedDuration::from_hours(1), SignedDuration::from_secs(61));
            match told.as_slice() {
                [(_, told)] => {
                    assert!((at..=at + later).contains(told) && *told <= Timestamp::now(), "{ago} s ago: {told}")
                }
                told => assert!(told.is_empty() && now.duration_since(at) >= hour, "{ago} s ago: {told:?}"),
            }
        }
    }
}
