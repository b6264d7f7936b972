//! Which notification of a person is the one to send: what is known from the stream of outcomes, and from the notifications that were
//! seen here. Jobs, users and notifications are kept as keyed hashes of 128 bits, and forgotten after a day. Pure.
//!
//! The order in which passwords were set is the order of the jobs' outcomes in the stream; no clock decides it. `issuedAt` speaks only
//! against it: a job whose outcome was recorded late, after that of a newer one, does not make the newer one's mail old.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use jiff::Timestamp;

use super::Mailed;
use crate::domain::ledger::{KEPT, Room};
use crate::domain::user::canonical;

/// Jobs, and notifications that were sent, at most: a day of two orgs at 300 a minute, and more; some 100 bytes each. The oldest hour is forgotten
/// for a newer one.
const MAX_IDS: usize = 1_000_000;
const HOUR: i64 = 3600;

/// By 128 bits that nobody outside can aim at.
type Hash = [u64; 2];

/// What is asked of a notification.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Its id.
    pub note: &'a str,
    /// The org.
    pub org: &'a str,
    /// The job it comes from.
    pub job: &'a str,
    /// Whose password was set.
    pub user: &'a str,
    /// When.
    pub issued_at: Timestamp,
}

/// How a notification stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is to be sent.
    Due,
    /// The next hop has taken it already.
    Notified,
    /// A newer password was set since.
    Superseded,
}

/// What is known of a job.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// The place of its success among all successes, and when it ended, in milliseconds.
    place: Option<(u64, i64)>,
    /// The newest `issuedAt` of its notifications that were seen, in milliseconds.
    issued: Option<i64>,
}

#[derive(Debug, Default)]
struct Generation {
    jobs: HashMap<Hash, Known>,
    /// The last success of each user: its place and its job.
    users: HashMap<Hash, (u64, Hash)>,
    notified: HashSet<Hash>,
}

/// The index.
#[derive(Debug)]
pub struct MailIndex {
    keys: [RandomState; 2],
    max_ids: usize,
    hours: BTreeMap<i64, Generation>,
    places: u64,
    /// The newest hour that was forgotten before its time: what is read of it again is not taken for news.
    forgotten: i64,
}

impl Default for MailIndex {
    fn default() -> Self {
        Self::with_room(MAX_IDS)
    }
}

impl MailIndex {
    fn with_room(max_ids: usize) -> Self {
        let keys = [RandomState::new(), RandomState::new()];
        Self { keys, max_ids, hours: BTreeMap::new(), places: 0, forgotten: i64::MIN }
    }

    /// A job has set a user's password.
    pub fn succeeded(&mut self, org: &str, job: &str, user: Option<&str>, at: Timestamp, now: Timestamp) -> Room {
        let ended = at.as_millisecond();
        let id = self.hash(org, "job", job);
        // The same record, read again; a job of the same name that ended later is another one.
        if self.job(id).place.is_some_and(|(_, known)| ended <= known) {
            return Room::Enough;
        }
        let user = user.map(|user| self.hash(org, "user", &canonical(user)));
        let place = self.places + 1;
        let Some(generation) = self.generation(at, now) else { return Room::Enough };
        generation.jobs.entry(id).or_default().place = Some((place, ended));
        if let Some(user) = user {
            generation.users.insert(user, (place, id));
        }
        self.places = place;
        self.make_room()
    }

    /// A mail ended.
    pub fn ended(&mut self, mailed: &Mailed<'_>, now: Timestamp) -> Room {
        let at = mailed.at.unwrap_or(now);
        let job = self.hash(&mailed.org, "job", &mailed.job);
        let note = mailed.note.as_ref().filter(|_| mailed.notified).map(|note| self.hash("", "note", note));
        let Some(generation) = self.generation(at, now) else { return Room::Enough };
        if let Some(issued) = mailed.issued_at {
            generation.issued(job, issued);
        }
        generation.notified.extend(note);
        self.make_room()
    }

    /// A notification came.
    pub fn seen(&mut self, about: &About<'_>, now: Timestamp) -> Room {
        let job = self.hash(about.org, "job", about.job);
        let Some(generation) = self.generation(now, now) else { return Room::Enough };
        generation.issued(job, about.issued_at);
        self.make_room()
    }

    /// How a notification that was [`MailIndex::seen`] stands.
    pub fn standing(&self, about: &About<'_>) -> Standing {
        let note = self.hash("", "note", about.note);
        if self.hours.values().any(|generation| generation.notified.contains(&note)) {
            return Standing::Notified;
        }
        let own = self.hash(about.org, "job", about.job);
        let (job, issued) = (self.job(own), about.issued_at.as_millisecond());
        // A worker that was killed between the PATCH and its outcome has set another password for the same job.
        if job.issued.is_some_and(|newest| newest > issued) {
            return Standing::Superseded;
        }
        let user = self.hash(about.org, "user", &canonical(about.user));
        let last = self.hours.values().filter_map(|generation| generation.users.get(&user)).max();
        match (job.place, last) {
            (Some((place, _)), Some((last, other)))
                if *last > place && *other != own && self.job(*other).issued.is_none_or(|newest| newest >= issued) =>
            {
                Standing::Superseded
            }
            (Some(_) | None, Some(_) | None) => Standing::Due,
        }
    }

    fn hash(&self, org: &str, kind: &str, name: &str) -> Hash {
        self.keys.each_ref().map(|key| key.hash_one((org, kind, name)))
    }

    fn job(&self, id: Hash) -> Known {
        let all = self.hours.values().filter_map(|generation| generation.jobs.get(&id));
        all.fold(Known::default(), |sum, known| Known {
            place: sum.place.max(known.place),
            issued: sum.issued.max(known.issued),
        })
    }

    /// Where something of that moment is kept; `None`: it is too old.
    fn generation(&mut self, at: Timestamp, now: Timestamp) -> Option<&mut Generation> {
        // A clock that is ahead must not make its record outlive the others.
        let at = at.min(now);
        let oldest = (now.as_second() - KEPT.as_secs()).div_euclid(HOUR);
        while self.hours.first_key_value().is_some_and(|(hour, _)| *hour < oldest) {
            self.hours.pop_first();
        }
        let hour = at.as_second().div_euclid(HOUR);
        (now.duration_since(at) <= KEPT && hour > self.forgotten).then(|| self.hours.entry(hour).or_default())
    }

    fn make_room(&mut self) -> Room {
        let ids =
            self.hours.values().map(|generation| generation.jobs.len().max(generation.notified.len())).sum::<usize>();
        if ids <= self.max_ids || self.hours.len() < 2 {
            return Room::Enough;
        }
        if let Some((hour, _)) = self.hours.pop_first() {
            self.forgotten = hour;
        }
        Room::Full
    }
}

impl Generation {
    fn issued(&mut self, job: Hash, at: Timestamp) {
        let known = self.jobs.entry(job).or_default();
        known.issued = known.issued.max(Some(at.as_millisecond()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    const NOW: i64 = 1_000;

    struct Setup(MailIndex);

    impl Setup {
        fn new() -> Self {
            Self(MailIndex::default())
        }

        fn succeeded(&mut self, job: &str, ended: i64) {
            assert_eq!(self.0.succeeded("main", job, Some("u"), at(ended), at(NOW)), Room::Enough);
        }

        fn seen(&mut self, note: &str, job: &str, issued: i64) -> Standing {
            let about = About { note, org: "main", job, user: "u", issued_at: at(issued) };
            assert_eq!(self.0.seen(&about, at(NOW)), Room::Enough);
            self.0.standing(&about)
        }

        fn told(&mut self, note: &str, job: &str, issued: i64) {
            let mailed = Mailed {
                org: "main".into(),
                job: job.into(),
                batch: None,
                note: Some(note.into()),
                notified: true,
                unsent: None,
                issued_at: Some(at(issued)),
                at: Some(at(NOW)),
            };
            assert_eq!(self.0.ended(&mailed, at(NOW)), Room::Enough);
        }
    }

    #[test]
    fn of_two_jobs_the_one_whose_outcome_stands_later_is_told() {
        let mut setup = Setup::new();
        assert_eq!(setup.seen("n1", "j1", 1), Standing::Due, "nothing is known yet");
        setup.succeeded("j1", 1);
        assert_eq!(setup.seen("n1", "j1", 1), Standing::Due);
        setup.succeeded("j2", 2);
        assert_eq!(setup.seen("n1", "j1", 1), Standing::Superseded);
        assert_eq!(setup.seen("n2", "j2", 2), Standing::Due);
        let other = About { note: "n1", org: "main", job: "j1", user: "another", issued_at: at(1) };
        assert_eq!(setup.0.standing(&other), Standing::Due, "another user's");
        assert_eq!(setup.0.standing(&About { org: "eu", user: "u", ..other }), Standing::Due, "another org's");
        // A UUID is the same user in any case.
        let upper = "0F6E7C1A-5B7E-4E0B-9D0C-6F1F5D1C2A3B";
        for (job, user) in [("j5", upper.to_lowercase()), ("j6", upper.to_owned())] {
            assert_eq!(setup.0.succeeded("main", job, Some(&user), at(5), at(NOW)), Room::Enough);
        }
        let older = About { note: "n5", org: "main", job: "j5", user: &upper.to_lowercase(), issued_at: at(5) };
        assert_eq!(setup.0.standing(&older), Standing::Superseded);
    }

    #[test]
    fn no_clock_decides_where_the_stream_knows_the_order() {
        let mut setup = Setup::new();
        setup.succeeded("j1", 500);
        setup.succeeded("j2", 400);
        assert_eq!(setup.seen("n1", "j1", 500), Standing::Superseded, "the second worker's clock is behind");
        assert_eq!(setup.seen("n2", "j2", 400), Standing::Due);
    }

    #[test]
    fn an_outcome_that_was_recorded_late_does_not_make_a_newer_password_old() {
        let mut setup = Setup::new();
        setup.succeeded("newer", 2);
        setup.succeeded("older", 3);
        assert_eq!(setup.seen("n1", "older", 1), Standing::Due);
        setup.told("n1", "older", 1);
        assert_eq!(setup.seen("n2", "newer", 2), Standing::Due);
    }

    #[test]
    fn a_record_that_is_read_again_changes_nothing() {
        let mut setup = Setup::new();
        for _ in 0..2 {
            setup.succeeded("j1", 1);
            setup.succeeded("j2", 2);
        }
        assert_eq!(setup.seen("n2", "j2", 2), Standing::Due);
        assert_eq!(setup.seen("n1", "j1", 1), Standing::Superseded);
    }

    #[test]
    fn of_two_passwords_of_one_job_the_newer_one_is_told() {
        let mut setup = Setup::new();
        assert_eq!(setup.seen("n1", "j", 1), Standing::Due);
        assert_eq!(setup.seen("n2", "j", 2), Standing::Due);
        assert_eq!(setup.seen("n1", "j", 1), Standing::Superseded);
    }

    #[test]
    fn what_was_told_is_known_for_a_day() {
        let mut setup = Setup::new();
        setup.told("n1", "j1", 1);
        assert_eq!(setup.seen("n1", "j1", 1), Standing::Notified);
        let about = About { note: "n1", org: "main", job: "j1", user: "u", issued_at: at(1) };
        assert_eq!(setup.0.seen(&about, at(NOW + 26 * HOUR)), Room::Enough);
        assert_eq!(setup.0.standing(&about), Standing::Due);
    }

    #[test]
    fn the_oldest_hour_is_forgotten_where_there_is_no_room_and_is_not_read_again() {
        let mut index = MailIndex::with_room(2);
        let hour = |hours: i64| at(hours * HOUR);
        assert_eq!(index.succeeded("main", "j1", Some("u"), hour(0), hour(3)), Room::Enough);
        assert_eq!(index.succeeded("main", "j2", Some("u"), hour(2), hour(3)), Room::Enough);
        assert_eq!(index.succeeded("main", "j3", Some("v"), hour(3), hour(3)), Room::Full);
        assert_eq!(index.succeeded("main", "j1", Some("u"), hour(0), hour(3)), Room::Enough);
        let about = About { note: "n2", org: "main", job: "j2", user: "u", issued_at: hour(2) };
        assert_eq!(index.standing(&about), Standing::Due);
    }
}
