//! What became of jobs lately, for whoever looks on: how many ended in each minute of the last hour, the last ones, the failures
//! that nobody has resolved, and how far the batches are. One pure fold over the stream of outcomes, so that every worker tells the same; all of it bounded.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;

use super::batch::{self, Record};
use super::blocked::Status;
use super::ended::Ended;
use super::job::Lane;
use super::mailing::{Mailed, Unsent};
use super::outcome::{OutcomeKind, Reason};

mod batches;
mod failures;
mod hour;
mod mails;

use batches::Batches;
pub use batches::Stage;
use failures::Failures;
use hour::Hour;
pub use hour::{Count, MINUTES};
pub use mails::{MailLine, Mails, MailsLately};

/// So many of the last jobs are told.
const LATEST: usize = 30;

/// One of the last jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When it ended.
    pub at: Timestamp,
    /// Its id.
    pub job: Box<str>,
    /// Whose password.
    pub user: Option<Box<str>>,
    /// The lane it came by.
    pub lane: Option<Lane>,
    /// How it ended.
    pub kind: OutcomeKind,
    /// Why, where it was dead-lettered.
    pub reason: Option<Reason>,
    /// The status of the org's last answer.
    pub status: Option<u16>,
    /// What became of its mail; `None`: nothing was heard of that.
    pub mail: Option<Posted>,
}

/// What became of the mail of a job, as its record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// The next hop took it.
    Sent,
    /// It was given up.
    Failed,
    /// A newer password was set, and its mail is the one that counts.
    Superseded,
}

impl Posted {
    fn of(mailed: &Mailed<'_>) -> Self {
        match mailed.unsent {
            _ if mailed.notified => Self::Sent,
            Some(Unsent::Superseded) => Self::Superseded,
            Some(
                Unsent::Expired
                | Unsent::Undeliverable
                | Unsent::RetriesExhausted
                | Unsent::InvalidNotification
                | Unsent::CannotOpen
                | Unsent::NotSealed
                | Unsent::AddressNotAllowed,
            )
            | None => Self::Failed,
        }
    }
}

impl Line {
    /// What it is told after.
    fn key(&self) -> (Timestamp, &str) {
        (self.at, &self.job)
    }
}

/// What is told of one org at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lately {
    /// What ended in each minute of the last hour, the oldest first; the last one is not over yet.
    pub minutes: Vec<Count>,
    /// Jobs that ended in the last 60 s.
    pub per_minute: u64,
    /// Jobs a minute by which a time left is estimated; `None` where none ended lately.
    pub completion_rate: Option<f64>,
    /// How the org's worker stands.
    pub status: Option<Status>,
    /// How many jobs failed within a day, by their reason (`other`: one that is not known here), and have not ended otherwise since.
    pub failures: BTreeMap<&'static str, u32>,
    /// Whose the newest of them are, by reason: users, or jobs where their users are not known.
    pub failed: BTreeMap<&'static str, Vec<Box<str>>>,
    /// The last jobs, the newest first.
    pub latest: Vec<Line>,
    /// The batches of the last day, the one heard of last first.
    pub batches: Vec<Stage>,
}

/// The fold: the orgs it was made for, and nothing of any other, since anyone may publish to the stream.
#[derive(Debug, Default)]
pub struct Statistics {
    orgs: BTreeMap<String, Tale>,
}

#[derive(Debug, Default)]
struct Tale {
    hour: Hour,
    failures: Failures,
    latest: VecDeque<Line>,
    /// The last mails by their jobs: a mail's record may stand before its job's.
    mails: VecDeque<(Box<str>, Posted)>,
    batches: Batches,
    /// As its worker said last.
    status: Option<Status>,
}

impl Statistics {
    /// An empty one for these orgs.
    pub fn new<'a>(orgs: impl Iterator<Item = &'a str>) -> Self {
        Self { orgs: orgs.map(|org| (org.to_owned(), Tale::default())).collect() }
    }

    /// A job ended. The same may be told twice: once by who did it, once by the stream.
    pub fn ended(&mut self, ended: &Ended<'_>, now: Timestamp) {
        let Some(tale) = self.orgs.get_mut(&*ended.org) else { return };
        // A clock that is ahead must not make its record stay.
        let at = ended.at.min(now);
        tale.hour.ended(&ended.job, ended.kind, ended.lane, at, now);
        match ended.kind {
            OutcomeKind::Failed | OutcomeKind::Expired => tale.failures.failed(ended, at, now),
            OutcomeKind::Succeeded | OutcomeKind::PassedThrough | OutcomeKind::Superseded | OutcomeKind::Duplicate => {
                tale.failures.closed(&ended.job, at)
            }
        }
        tale.latest(ended, at);
        if let (Some(batch), Some(Record::Ended(end))) = (&ended.batch, Record::of_end(ended)) {
            tale.batches.note(batch, &Record::Ended(batch::Ended { at, ..end }), Some(at), now);
        }
    }

    /// Something else is told of a batch: that it is sent, or what became of a mail.
    pub fn batch(&mut self, org: &str, batch: &str, record: &Record<'_>, now: Timestamp) {
        let at = match record {
            Record::Announced(announced) => Some(announced.at),
            Record::Ended(ended) => Some(ended.at),
            Record::Mailed { at, .. } => *at,
        };
        if let Some(tale) = self.orgs.get_mut(org) {
            tale.batches.note(batch, record, at.map(|at| at.min(now)), now);
        }
    }

    /// A mail ended.
    pub fn mailed(&mut self, mailed: &Mailed<'_>, now: Timestamp) {
        if let Some(tale) = self.orgs.get_mut(&*mailed.org) {
            tale.mailed(&mailed.job, Posted::of(mailed));
        }
        if let Some(batch) = &mailed.batch {
            self.batch(&mailed.org, batch, &Record::of_mail(mailed), now);
        }
    }

    /// An operator gave a failed job up for good.
    pub fn dropped(&mut self, org: &str, job: &str, at: Timestamp) {
        if let Some(tale) = self.orgs.get_mut(org) {
            tale.failures.closed(job, at);
        }
    }

    /// The org's worker says how it stands.
    pub fn stands(&mut self, org: &str, status: &Status) {
        if let Some(tale) = self.orgs.get_mut(org) {
            tale.status = Some(status.clone());
        }
    }

    /// By jobs of which lane passwords of an org were set within the last hour, and when, the oldest first: each at the end of its minute, or
    /// now.
    pub fn resets(&self, org: &str, now: Timestamp) -> Vec<(Lane, Timestamp)> {
        self.orgs.get(org).map(|tale| tale.hour.resets(now)).unwrap_or_default()
    }

    /// What there is to tell of an org. `own`: how it stands here, where it is ours; else what its worker said last counts.
    pub fn lately(&self, org: &str, now: Timestamp, own: Option<&Status>) -> Option<Lately> {
        let tale = self.orgs.get(org)?;
        let status = own.or(tale.status.as_ref());
        let ends = tale.hour.ends();
        Some(Lately {
            minutes: tale.hour.minutes(now),
            per_minute: ends.within_a_minute(now),
            completion_rate: ends.completion_rate(now, status.map(|status| status.rate)),
            status: status.cloned(),
            failures: tale.failures.by_reason(now),
            failed: tale.failures.named(now),
            latest: tale.latest.iter().cloned().collect(),
            batches: tale.batches.stages(status, now),
        })
    }
}

impl Tale {
    fn mailed(&mut self, job: &str, posted: Posted) {
        // One that was given up may have been sent in the end, never the other way round.
        let after = |before: Option<Posted>| if before == Some(Posted::Sent) { before } else { Some(posted) };
        let known = self.mails.iter().position(|(known, _)| **known == *job).and_then(|place| self.mails.remove(place));
        let posted = after(known.map(|(_, before)| before)).unwrap_or(posted);
        self.mails.push_front((job.into(), posted));
        self.mails.truncate(LATEST);
        let is_of_it = |line: &&mut Line| *line.job == *job && line.kind == OutcomeKind::Succeeded;
        if let Some(line) = self.latest.iter_mut().find(is_of_it) {
            line.mail = after(line.mail);
        }
    }

    fn latest(&mut self, ended: &Ended<'_>, at: Timestamp) {
        let mail = self.mails.iter().find(|(job, _)| **job == *ended.job).map(|(_, posted)| *posted);
        let line = || Line {
            at,
            job: Box::from(&*ended.job),
            user: ended.user.as_deref().map(Box::from),
            lane: ended.lane,
            kind: ended.kind,
            reason: ended.reason(),
            status: ended.status,
            mail: mail.filter(|_| ended.kind == OutcomeKind::Succeeded),
        };
        // One order for all who tell it, whatever came first here. Nearly all come in it: those need no look at the others.
        let key = (at, &*ended.job);
        if self.latest.front().is_none_or(|newest| newest.key() < key) {
            self.latest.push_front(line());
        } else {
            let place = self.latest.iter().position(|known| known.key() <= key).unwrap_or(self.latest.len());
            if place == LATEST || self.latest.get(place).is_some_and(|known| known.key() == key) {
                return;
            }
            self.latest.insert(place, line());
        }
        self.latest.truncate(LATEST);
    }
}

#[cfg(test)]
mod tests;
