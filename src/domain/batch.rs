//! How far a batch is: a pure fold over the records of the stream of outcomes that are about it. RabbitMQ is the only thing that
//! holds state, so whoever wants to know reads these.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use jiff::Timestamp;

use super::blocked::{Blocked, Cause, Status};
use super::ended;
use super::job::Lane;
use super::mailing::{Mailed, Unsent};
use super::outcome::OutcomeKind;
use super::rate::Ends;

/// Job ids of one batch at most; more than these are not counted. 48 bytes each.
const MAX_JOBS: usize = 1_000_000;

/// A record about a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// Its jobs are about to be sent.
    Announced(Announced),
    /// One of its jobs ended.
    Ended(Ended<'a>),
    /// The person of one of its jobs was notified, or could not be.
    Mailed {
        /// The job's id.
        job: Cow<'a, str>,
        /// What became of the mail.
        mail: MailOutcome,
        /// When that was, where the record says so.
        at: Option<Timestamp>,
    },
}

impl<'a> Record<'a> {
    /// What the end of a job says of its batch; `None` where its lane is not known.
    pub fn of_end(ended: &'a ended::Ended<'_>) -> Option<Self> {
        let job = key(ended.batch.as_deref(), &ended.job);
        Some(Self::Ended(Ended { job, lane: ended.lane?, kind: ended.kind, at: ended.at }))
    }

    /// What the end of a mail does.
    pub fn of_mail(mailed: &'a Mailed<'_>) -> Self {
        let job = key(mailed.batch.as_deref(), &mailed.job);
        Self::Mailed { job, mail: mailed.into(), at: mailed.at }
    }
}

/// By what a job of a batch is known. An id that is made of the batch and a user, as `enqueue` makes it, is the same in any case, since
/// the user is: a later run may spell them otherwise. Any other id is as it stands.
pub fn key<'a>(batch: Option<&str>, job: &'a str) -> Cow<'a, str> {
    let user = batch.and_then(|batch| job.strip_prefix(batch)).filter(|rest| rest.starts_with('/'));
    match (batch, user) {
        (Some(batch), Some(user)) if user.chars().any(char::is_uppercase) => {
            Cow::Owned(format!("{batch}{}", user.to_lowercase()))
        }
        (Some(_) | None, Some(_) | None) => Cow::Borrowed(job),
    }
}

/// What became of a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailOutcome {
    /// The next hop took it.
    Sent,
    /// It was given up.
    Failed,
    /// It was not sent, since the person has the mail of a newer reset.
    Superseded,
}

impl From<&Mailed<'_>> for MailOutcome {
    fn from(mailed: &Mailed<'_>) -> Self {
        match mailed.unsent {
            _ if mailed.notified => Self::Sent,
            Some(Unsent::Superseded) => Self::Superseded,
            Some(_) | None => Self::Failed,
        }
    }
}

/// What a producer says before it sends a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// The lane they go by.
    pub lane: Lane,
    /// How many they are.
    pub jobs: u64,
    /// When that was.
    pub at: Timestamp,
    /// No job of it is called before this moment.
    pub not_before: Option<Timestamp>,
}

/// How one job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended<'a> {
    /// Its id.
    pub job: Cow<'a, str>,
    /// The lane it came by.
    pub lane: Lane,
    /// How it ended.
    pub kind: OutcomeKind,
    /// When.
    pub at: Timestamp,
}

/// A job, by 128 bits that nobody outside can aim at.
type Hash = [u64; 2];

#[derive(Debug, Clone, Copy, Default)]
struct Job {
    kind: Option<OutcomeKind>,
    mail: Option<MailOutcome>,
    /// The announcement since which it ended last.
    round: u32,
}

/// How far one batch of one org is.
///
/// Records are noted in the order in which they stand in the stream. Whoever starts to read anew starts with a fresh one of these.
#[derive(Debug)]
pub struct Progress {
    keys: [RandomState; 2],
    jobs: HashMap<Hash, Job>,
    /// Whether there were more job ids than are kept.
    is_cut: bool,
    lane: Option<Lane>,
    announced: Option<Announced>,
    /// The most that any announcement said: a batch that is fixed and sent again has fewer jobs the second time.
    most: u64,
    round: u32,
    /// Jobs that ended since the newest announcement.
    ended: u64,
    counts: Counts,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    /// When its jobs ended lately.
    ends: Ends,
}

/// Jobs by how they ended, each counted once, and by whether somebody was told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// The password is set.
    pub succeeded: u64,
    /// Given up.
    pub failed: u64,
    /// Asked for nothing.
    pub passed_through: u64,
    /// A newer reset of the same user had succeeded.
    pub superseded: u64,
    /// Too late.
    pub expired: u64,
    /// Done before this batch's records begin.
    pub duplicate: u64,
    /// The next hop took the mail.
    pub notified: u64,
    /// The mail was given up.
    pub notification_failed: u64,
    /// The person has the mail of a newer reset.
    pub notification_superseded: u64,
}

impl Counts {
    fn of(&mut self, kind: OutcomeKind) -> &mut u64 {
        match kind {
            OutcomeKind::Succeeded => &mut self.succeeded,
            OutcomeKind::Failed => &mut self.failed,
            OutcomeKind::PassedThrough => &mut self.passed_through,
            OutcomeKind::Superseded => &mut self.superseded,
            OutcomeKind::Expired => &mut self.expired,
            OutcomeKind::Duplicate => &mut self.duplicate,
        }
    }

    fn mail(&mut self, mail: MailOutcome) -> &mut u64 {
        match mail {
            MailOutcome::Sent => &mut self.notified,
            MailOutcome::Failed => &mut self.notification_failed,
            MailOutcome::Superseded => &mut self.notification_superseded,
        }
    }

    /// Those that were given up. (Where a newer reset had succeeded, the person has that one's password.)
    pub fn given_up(&self) -> u64 {
        self.failed + self.expired
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            keys: [RandomState::new(), RandomState::new()],
            jobs: HashMap::new(),
            is_cut: false,
            lane: None,
            announced: None,
            most: 0,
            round: 0,
            ended: 0,
            counts: Counts::default(),
            first: None,
            last: None,
            ends: Ends::default(),
        }
    }
}

impl Progress {
    /// Takes note of a record of this batch.
    pub fn note(&mut self, record: &Record<'_>) {
        match record {
            Record::Announced(announced) => {
                self.lane = Some(announced.lane);
                self.announced = Some(*announced);
                self.most = self.most.max(announced.jobs);
                self.round = self.round.saturating_add(1);
                self.ended = 0;
            }
            Record::Ended(ended) => self.ended(ended),
            Record::Mailed { job, mail, at: _ } => {
                let Some(mut known) = self.job(job) else { return };
                // A mail that was told to have failed may have been sent in the end, never the other way round.
                if known.mail != Some(MailOutcome::Sent) {
                    if let Some(before) = known.mail.replace(*mail) {
                        *self.counts.mail(before) -= 1;
                    }
                    *self.counts.mail(*mail) += 1;
                    self.keep(job, known);
                }
            }
        }
    }

    fn ended(&mut self, ended: &Ended<'_>) {
        self.lane.get_or_insert(ended.lane);
        let Some(mut job) = self.job(&ended.job) else { return };
        let is_first = job.kind.is_none();
        if is_first || job.round != self.round {
            self.ended += 1;
            self.finished(ended.at);
        }
        let is_sent_again = job.round != self.round;
        job.round = self.round;
        // One that was done stays done: the same id again is a duplicate, or a replay that came too late. Where it was sent again and was
        // tried anew, since nobody knew it any more, the newest call counts, and the mail was about a password from before.
        let is_done = matches!(job.kind, Some(OutcomeKind::Succeeded | OutcomeKind::PassedThrough));
        let is_undone = is_done && is_sent_again && ended.kind == OutcomeKind::Failed;
        if is_undone && let Some(mail) = job.mail.take() {
            *self.counts.mail(mail) -= 1;
        }
        if !is_done || is_undone {
            if let Some(before) = job.kind.replace(ended.kind) {
                *self.counts.of(before) -= 1;
            }
            *self.counts.of(ended.kind) += 1;
        }
        self.keep(&ended.job, job);
    }

    fn finished(&mut self, at: Timestamp) {
        self.first = Some(self.first.map_or(at, |first| first.min(at)));
        self.last = Some(self.last.map_or(at, |last| last.max(at)));
        self.ends.note(at);
    }

    fn hash(&self, job: &str) -> Hash {
        self.keys.each_ref().map(|key| key.hash_one(job))
    }

    /// What is known of a job; `None` where there is no room for one more.
    fn job(&mut self, job: &str) -> Option<Job> {
        let known = self.jobs.get(&self.hash(job)).copied();
        if known.is_none() && self.jobs.len() >= MAX_JOBS {
            self.is_cut = true;
            return None;
        }
        Some(known.unwrap_or_default())
    }

    fn keep(&mut self, job: &str, known: Job) {
        self.jobs.insert(self.hash(job), known);
    }

    /// Whether a job counts as given up. `job`: its [`key`].
    pub fn is_given_up(&self, job: &str) -> bool {
        let kind = self.jobs.get(&self.hash(job)).and_then(|job| job.kind);
        matches!(kind, Some(OutcomeKind::Failed | OutcomeKind::Expired))
    }

    /// Whether a job's mail counts as given up. `job`: its [`key`].
    pub fn is_mail_given_up(&self, job: &str) -> bool {
        self.jobs.get(&self.hash(job)).and_then(|job| job.mail) == Some(MailOutcome::Failed)
    }

    /// Whether anything is known of it.
    pub fn is_known(&self) -> bool {
        self.announced.is_some() || !self.jobs.is_empty()
    }

    /// Whether it has more jobs than are counted.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The lane it goes by.
    pub fn lane(&self) -> Option<Lane> {
        self.lane
    }

    /// When it was announced last, and with how many jobs.
    pub fn announced(&self) -> Option<Announced> {
        self.announced
    }

    /// How its jobs ended.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How many jobs it has, where somebody said so.
    pub fn total(&self) -> Option<u64> {
        self.announced.map(|_| self.most.max(self.seen()))
    }

    /// How many jobs have not ended since it was announced last, where somebody said how many it has.
    pub fn waiting(&self) -> Option<u64> {
        self.announced.map(|announced| announced.jobs.saturating_sub(self.ended))
    }

    /// How many jobs are done, well or not; those that were sent again and have not ended since are not.
    pub fn done(&self) -> u64 {
        self.total().zip(self.waiting()).map_or(self.seen(), |(total, waiting)| total.saturating_sub(waiting))
    }

    /// Whether all of it has ended, as far as anybody said how much that is.
    pub fn is_done(&self) -> bool {
        self.waiting() == Some(0)
    }

    /// Passwords that were set and of whose mails nothing was heard yet, where a mailer takes part.
    pub fn not_notified(&self) -> u64 {
        let Counts { succeeded, notified, notification_failed, notification_superseded, .. } = self.counts;
        succeeded.saturating_sub(notified + notification_failed + notification_superseded)
    }

    /// Jobs of which an outcome was seen.
    fn seen(&self) -> u64 {
        let Counts { succeeded, failed, passed_through, superseded, expired, duplicate, .. } = self.counts;
        succeeded + failed + passed_through + superseded + expired + duplicate
    }

    /// When its first job ended.
    pub fn first_finish(&self) -> Option<Timestamp> {
        self.first
    }

    /// When its last one did so far.
    pub fn last_finish(&self) -> Option<Timestamp> {
        self.last
    }

    /// How many jobs ended in the last 60 s.
    pub fn ended_lately(&self, now: Timestamp) -> u64 {
        self.ends.within_a_minute(now)
    }

    /// What keeps its jobs from ending, as far as the org's worker says: `None` where nothing does, or all of it has ended.
    pub fn blocked(&self, status: Option<&Status>, now: Timestamp) -> Option<Blocked> {
        if self.is_done() {
            return None;
        }
        let by_worker = status.and_then(|status| status.blocked(self.lane.unwrap_or(Lane::Interactive)));
        let wished = self.announced.and_then(|announced| announced.not_before).filter(|begin| *begin > now);
        by_worker.cloned().or_else(|| {
            let reason = "its jobs were sent with a not-before that is ahead".to_owned();
            wished.map(|begin| Blocked { cause: Cause::NotBefore, reason, until: Some(begin) })
        })
    }

    /// How long it will take until all of it has ended, where nothing keeps it: see [`Ends::completion_rate`].
    pub fn time_left(&self, now: Timestamp, in_force: Option<u32>) -> Option<Duration> {
        let waiting = self.waiting()?;
        if waiting == 0 {
            return Some(Duration::ZERO);
        }
        #[expect(clippy::cast_precision_loss, reason = "an estimate in seconds")]
        Duration::try_from_secs_f64(waiting as f64 * 60.0 / self.ends.completion_rate(now, in_force)?).ok()
    }
}

#[cfg(test)]
mod tests;
