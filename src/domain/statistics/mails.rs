//! What became of mails lately, for whoever looks on: how many were sent in each minute of the last hour, why others were not, and the
//! last ones. A fold over the stream like that of the outcomes, and as bounded.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use jiff::Timestamp;

use super::hour::{Count, Hour};
use crate::domain::ledger::KEPT;
use crate::domain::mailing::{Mailed, Unsent};
use crate::domain::outcome::OutcomeKind;

/// So many of the last mails are told.
const LATEST: usize = 30;
/// Mails that were not sent at most; the oldest is forgotten for a newer one.
const MAX_UNSENT: usize = 20_000;

/// One of the last mails: by its id, never by its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailLine {
    /// When it ended.
    pub at: Timestamp,
    /// The notification's id.
    pub note: Box<str>,
    /// The job it comes from.
    pub job: Box<str>,
    /// The org.
    pub org: Box<str>,
    /// Why it was not sent; `None`: it was.
    pub unsent: Option<Unsent>,
}

impl MailLine {
    /// What it is told after.
    fn key(&self) -> (Timestamp, &str) {
        (self.at, &self.note)
    }
}

/// What is told at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MailsLately {
    /// What ended in each minute of the last hour, the oldest first.
    pub minutes: Vec<Count>,
    /// Mails that were sent in the last 60 s.
    pub per_minute: u64,
    /// How many were not sent within a day, by their reason.
    pub unsent: BTreeMap<&'static str, u32>,
    /// The last ones, the newest first.
    pub latest: Vec<MailLine>,
}

/// The fold.
#[derive(Debug, Default)]
pub struct Mails {
    hour: Hour,
    sent: Hour,
    key: RandomState,
    /// By a hash of the mail: the same may be told twice, once by who did it and once by the stream.
    unsent: HashMap<u64, (Timestamp, Unsent)>,
    order: VecDeque<u64>,
    latest: VecDeque<MailLine>,
}

impl Mails {
    /// A mail ended.
    pub fn ended(&mut self, mailed: &Mailed<'_>, now: Timestamp) {
        let (Some(note), Some(at)) = (&mailed.note, mailed.at) else { return };
        // A clock that is ahead must not make its record stay.
        let at = at.min(now);
        let kind = match (mailed.notified, mailed.unsent) {
            (true, _) => OutcomeKind::Succeeded,
            (false, Some(Unsent::Superseded)) => OutcomeKind::Superseded,
            (false, _) => OutcomeKind::Failed,
        };
        self.hour.ended(note, kind, None, at, now);
        if mailed.notified {
            self.sent.ended(note, kind, None, at, now);
        }
        if let Some(reason) = mailed.unsent.filter(|_| now.duration_since(at) <= KEPT) {
            let id = self.key.hash_one(note);
            if self.unsent.insert(id, (at, reason)).is_none() {
                self.order.push_back(id);
            }
            if self.order.len() > MAX_UNSENT
                && let Some(oldest) = self.order.pop_front()
            {
                self.unsent.remove(&oldest);
            }
        }
        self.latest(mailed, note, at);
    }

    fn latest(&mut self, mailed: &Mailed<'_>, note: &str, at: Timestamp) {
        let line = MailLine {
            at,
            note: note.into(),
            job: mailed.job.as_ref().into(),
            org: mailed.org.as_ref().into(),
            unsent: mailed.unsent,
        };
        let place = self.latest.iter().position(|known| known.key() <= line.key()).unwrap_or(self.latest.len());
        if place == LATEST || self.latest.get(place).is_some_and(|known| known.key() == line.key()) {
            return;
        }
        self.latest.insert(place, line);
        self.latest.truncate(LATEST);
    }

    /// What there is to tell.
    pub fn lately(&self, now: Timestamp) -> MailsLately {
        let mut unsent = BTreeMap::new();
        for (_, reason) in self.unsent.values().filter(|(at, _)| now.duration_since(*at) <= KEPT) {
            *unsent.entry(reason.as_str()).or_default() += 1;
        }
        MailsLately {
            minutes: self.hour.minutes(now),
            per_minute: self.sent.ends().within_a_minute(now),
            unsent,
            latest: self.latest.iter().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_mail_that_is_told_twice_counts_once() {
        let mut mails = Mails::default();
        let mailed = |note: &'static str, unsent: Option<Unsent>, seconds: i64| Mailed {
            org: "main".into(),
            job: "j".into(),
            batch: None,
            note: Some(note.into()),
            notified: unsent.is_none(),
            unsent,
            issued_at: None,
            at: Some(at(seconds)),
        };
        for _ in 0..2 {
            mails.ended(&mailed("a", None, 0), at(10));
            mails.ended(&mailed("b", Some(Unsent::Expired), 2), at(10));
            mails.ended(&mailed("c", Some(Unsent::Superseded), 1), at(10));
        }
        let told = mails.lately(at(10));
        let last = told.minutes.last().copied().unwrap();
        assert_eq!((last.succeeded, last.failed, last.other), (1, 1, 1));
        assert_eq!(told.unsent, BTreeMap::from([("expired", 1), ("superseded", 1)]));
        let ids: Vec<&str> = told.latest.iter().map(|line| &*line.note).collect();
        assert_eq!(ids, ["b", "c", "a"]);
        assert_eq!(mails.lately(at(90_000)).unsent.len(), 0);
    }
}
