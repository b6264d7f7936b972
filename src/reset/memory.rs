//! How far a job has come, kept over a lost broker: after a PATCH the password exists nowhere else, so the redelivered job
//! goes on from there, with the same password and without a second call.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;

use crate::domain::job::{JobId, Reset, Who};
use crate::domain::language::Language;
use crate::domain::notification::Issued;
use crate::domain::outcome::{OutcomeKind, PasswordSet, Reason};
use crate::domain::password::{NoRandomness, Password, PasswordKind};
use crate::domain::retry::Progress;
use crate::domain::trace::TraceParent;
use crate::domain::user::{EmailAddress, UserId, UserName};
use crate::wire::again::RetryHeaders;
use crate::wire::redact::{without_addresses, without_name};

/// A job that the broker does not deliver again within this was settled elsewhere, or its queue is gone.
const KEPT: Duration = Duration::from_secs(600);
/// A password that is set, or may be, exists nowhere else: it is kept as long as a job may be thought to come back.
const KEPT_IF_SET: Duration = Duration::from_secs(24 * 3600);

/// A job that was published again and has not come back within this comes from a queue that was emptied, or is too late to matter.
const KEPT_ALONE: Duration = Duration::from_secs(3600);
/// So many of those are remembered; of more the oldest are taken for what may be known by another's end.
const MAX_ALONE: usize = 100_000;
/// An ack that was sent so long before its connection was lost has reached the broker: a silent one is noticed before.
const ACK_IN_DOUBT: Duration = Duration::from_secs(60);

/// How a job ended, before anybody was told.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    pub(super) kind: OutcomeKind,
    pub(super) reason: Option<Reason>,
    pub(super) detail: Option<String>,
}

impl Ending {
    pub(super) fn of(kind: OutcomeKind) -> Self {
        Self { kind, reason: None, detail: None }
    }

    /// Whether the ledger takes note of it.
    pub(super) fn is_noted(&self) -> bool {
        matches!(self.kind, OutcomeKind::Succeeded | OutcomeKind::PassedThrough)
    }

    pub(super) fn dead(reason: Reason, detail: Option<String>) -> Self {
        let kind = if reason == Reason::Expired { OutcomeKind::Expired } else { OutcomeKind::Failed };
        Self { kind, reason: Some(reason), detail }
    }
}

/// One job's trip so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Trip {
    password: Option<Password>,
    /// The tries and what they left.
    pub(super) progress: Progress,
    /// Its place in its producer's trace: a notification goes on in it, though it may be told with no job in flight.
    pub(super) trace: Option<TraceParent>,
    /// The batch it belongs to, for the same reason.
    pub(super) batch: Option<String>,
    /// When it was asked for, where its producer said; for the same reason.
    pub(super) asked_at: Option<Timestamp>,
    /// Whose password, once the body was read, or the org was asked.
    pub(super) user: Option<UserId>,
    /// Whether a search has just found them: the PATCH is the second half of the same try.
    pub(super) is_just_found: bool,
    /// The name that the job gives in its place.
    pub(super) name: Option<UserName>,
    /// Who is told, once the password is set.
    pub(super) email: Option<EmailAddress>,
    /// The language they prefer.
    pub(super) language: Option<Language>,
    /// That it was set.
    pub(super) issued: Option<Issued>,
    /// From then on, until who is to be told was told.
    not_notified: Option<Arc<NotNotified>>,
    /// When its last call ended.
    pub(super) called: Option<Instant>,
    /// Its own wait: no try before this moment.
    pub(super) until: Option<Timestamp>,
    /// The org's last answer, scrubbed, for the reply.
    pub(super) response: Option<Value>,
    /// How it ended.
    pub(super) ending: Option<Ending>,
    /// Notification or dead letter confirmed, where there is one.
    told: bool,
    /// Outcome confirmed.
    pub(super) recorded: bool,
    /// Reply confirmed, or dropped, or nobody asked for one.
    pub(super) replied: bool,
    /// That this process had this very delivery, and did not settle it: what else is known of an equal job is not its own end.
    pub(super) left_undone: bool,
    /// That it may also have been published again, so that either may find that the other was done.
    pub(super) has_copy: bool,
    /// Of a job without an id that this process published again: when it acked the delivery before, so that there is no other of it.
    /// What else is known of an equal job is not its own end.
    acked: Option<Instant>,
}

impl Trip {
    /// The job's password: made once, the same in all its tries.
    pub(super) fn password(&mut self, kind: PasswordKind) -> Result<Password, NoRandomness> {
        if let Some(password) = &self.password {
            return Ok(password.clone());
        }
        let password = Password::generate(kind)?;
        Ok(self.password.insert(password).clone())
    }

    /// What the body says of whose password it is, and of who is told.
    pub(super) fn addressed(&mut self, reset: &Reset) {
        self.email = Some(reset.email.clone());
        self.language = reset.language();
        match &reset.who {
            Who::Id(user) => self.user = Some(user.clone()),
            Who::Name(name) => self.name = Some(name.clone()),
        }
    }

    /// What the org said, fit for the log, which holds no address; a name often is one.
    pub(super) fn loggable(&self, detail: &str) -> String {
        let name = self.name.as_ref().map(UserName::as_str);
        let said = name.map_or_else(|| detail.to_owned(), |name| without_name(detail, name, "[name]"));
        without_addresses(&said)
    }

    /// The password that was set, for its notification.
    pub(super) fn set(&self) -> Option<(&Password, &Issued, &EmailAddress)> {
        Some((self.password.as_ref()?, self.issued.as_ref()?, self.email.as_ref()?))
    }

    /// Its password is set; `not_notified` counts it.
    pub(super) fn is_now_set(&mut self, issued: Issued, not_notified: NotNotified) {
        self.issued = Some(issued);
        self.not_notified = Some(Arc::new(not_notified));
    }

    /// Notification or dead letter are confirmed.
    pub(super) fn is_now_notified(&mut self) {
        self.told = true;
        self.not_notified = None;
    }

    /// Whether they are.
    pub(super) fn was_notified(&self) -> bool {
        self.told
    }

    /// Whether its password is set, and who is to be told of it was not told yet.
    fn owes_notification(&self) -> bool {
        let has_succeeded = self.ending.as_ref().is_some_and(|ending| ending.kind == OutcomeKind::Succeeded);
        has_succeeded && !self.told && self.set().is_some()
    }

    /// A fresh one, of a job that carries this along.
    pub(super) fn with(retry_headers: &RetryHeaders) -> Self {
        let password_set = if retry_headers.may_be_set { PasswordSet::Unknown } else { PasswordSet::No };
        let RetryHeaders { tried: attempts, probes, too_soon, .. } = *retry_headers;
        let progress = Progress { attempts, probes, too_soon, password_set, ..Progress::default() };
        Self { progress, until: retry_headers.until, ..Self::default() }
    }

    /// Whether its password is set, or may be: then it exists in this process alone, and the job is not left to the broker.
    pub(super) fn may_be_set(&self) -> bool {
        self.issued.is_some() || self.progress.may_be_this_one
    }

    /// Whether any password is set by the job, or may be: this one, or one that a process before has sent.
    pub(super) fn has_ever_set(&self) -> bool {
        self.may_be_set() || self.progress.password_set != PasswordSet::No
    }

    /// Gives a password up that may be set: nobody was told it, and the next try makes another. Whether there was one.
    pub(super) fn gives_password_up(&mut self) -> bool {
        let may_be_set = std::mem::take(&mut self.progress.may_be_this_one);
        if may_be_set {
            self.password = None;
        }
        may_be_set
    }

    /// Whether any call was made for it.
    pub(super) fn is_tried(&self) -> bool {
        self.progress != Progress::default() || self.issued.is_some()
    }

    /// Whether this process knows that this very job was not done.
    pub(super) fn is_undone(&self) -> bool {
        self.left_undone || self.acked.is_some()
    }

    fn got_somewhere(&self) -> bool {
        self.is_tried() || self.ending.is_some()
    }
}

/// What a trip is remembered by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// A job's id and a hash of its body and of who asked: a producer that gives one id to two jobs gets neither the other's
    /// password, and two who asked for the same each get an answer.
    Delivered(JobId, u64),
    /// A job's id and the name that this process gave its trip when it published the job again.
    Again(JobId, String),
}

impl Key {
    /// The job's id.
    pub(super) fn job(&self) -> &JobId {
        match self {
            Key::Delivered(job, _) | Key::Again(job, _) => job,
        }
    }
}

/// The trips of deliveries that were not settled, since a session was lost or all was given back.
#[derive(Debug, Default)]
pub(super) struct Memory {
    kept: Mutex<Kept>,
    not_notified: Arc<AtomicUsize>,
}

/// One of those that [`Memory::not_notified`] counts, as long as it exists.
#[derive(Debug)]
pub(super) struct NotNotified(Arc<AtomicUsize>);

impl Drop for NotNotified {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Kept {
    /// One for each delivery: two jobs may be equal.
    trips: HashMap<Key, Vec<(Instant, Trip)>>,
    /// Jobs whose trips were forgotten with a password that may be set.
    unknown: HashMap<Key, Instant>,
    /// Jobs without an id that were published again, by the name of their trip: when the delivery before was acked.
    alone: HashMap<String, Instant>,
    /// The same in the order of their acks.
    alone_order: VecDeque<(Instant, String)>,
}

impl Kept {
    /// The trip of one delivery of that key, the furthest first: a password that is set is told first.
    fn take(&mut self, key: &Key) -> Option<Trip> {
        let trips = self.trips.get_mut(key)?;
        trips.retain(is_fresh);
        let furthest = trips.iter().position(|(_, trip)| trip.got_somewhere()).unwrap_or_default();
        let taken = (furthest < trips.len()).then(|| trips.swap_remove(furthest).1);
        if trips.is_empty() {
            self.trips.remove(key);
        }
        taken
    }
}

impl Kept {
    /// When the delivery before this one was acked, if it is known to be the only one of its job.
    fn take_alone(&mut self, key: &Key) -> Option<Instant> {
        match key {
            Key::Again(_, name) => self.alone.remove(name),
            Key::Delivered(..) => None,
        }
    }

    fn is_alone(&mut self, name: String) {
        let now = Instant::now();
        self.alone.insert(name.clone(), now);
        self.alone_order.push_back((now, name));
        let is_over = |(since, _): &(Instant, String), left: usize| since.elapsed() >= KEPT_ALONE || left > MAX_ALONE;
        while self.alone_order.front().is_some_and(|oldest| is_over(oldest, self.alone_order.len())) {
            if let Some((_, name)) = self.alone_order.pop_front() {
                self.alone.remove(&name);
            }
        }
    }
}

impl Memory {
    /// A job without an id was published again under this name, and the delivery before it is acked: there is no other of it.
    pub(super) fn is_alone(&self, name: String) {
        self.lock().is_alone(name);
    }

    /// A connection was lost, perhaps with acks on their way: whose was one of the last may come once more.
    pub(super) fn acks_may_be_lost(&self) {
        let mut kept = self.lock();
        let Kept { trips, alone, .. } = &mut *kept;
        let in_doubt = |acked: &Instant| acked.elapsed() < ACK_IN_DOUBT;
        alone.retain(|_, acked| !in_doubt(acked));
        for (_, trip) in trips.values_mut().flatten() {
            trip.acked = trip.acked.filter(|acked| !in_doubt(acked));
        }
    }

    /// Where this job left off, or a fresh trip. Only a redelivered message, or one that was published again, can be one that was cut
    /// short: a replayed letter of the same id is a fresh one. Of equal jobs that were cut short each delivery gets the trip of one.
    ///
    /// Nothing is known here of a job whose ack was lost: the ledger has its end. An equal job must not be taken for it.
    pub(super) fn recall(&self, key: &Key, redelivered: bool, retry_headers: &RetryHeaders) -> Trip {
        let is_delivered = matches!(key, Key::Delivered(..));
        if is_delivered && !redelivered {
            return Trip::with(retry_headers);
        }
        let mut kept = self.lock();
        let acked = kept.take_alone(key);
        if let Some(trip) = kept.take(key) {
            return Trip { left_undone: is_delivered, acked: acked.or(trip.acked), ..trip };
        }
        let is_unknown = kept.unknown.remove(key).is_some_and(|since| since.elapsed() < KEPT);
        let trip =
            Trip::with(&RetryHeaders { may_be_set: retry_headers.may_be_set || is_unknown, ..retry_headers.clone() });
        Trip { acked, ..trip }
    }

    /// Keeps the trip of a delivery that is not settled, and forgets those that nobody came back for.
    pub(super) fn keep(&self, key: Key, trip: Trip) {
        let mut kept = self.lock();
        kept.trips.retain(|_, trips| {
            trips.retain(is_fresh);
            !trips.is_empty()
        });
        kept.trips.entry(key).or_default().push((Instant::now(), trip));
    }

    /// A trip whose password is set and whose notification is not confirmed.
    pub(super) fn owed(&self) -> Option<(Key, Trip)> {
        let kept = self.lock();
        let mut all = kept.trips.iter().flat_map(|(key, trips)| trips.iter().map(move |(_, trip)| (key, trip)));
        all.find(|(_, trip)| trip.owes_notification()).map(|(key, trip)| (key.clone(), trip.clone()))
    }

    /// The notification of the trip that [`Memory::owed`] gave is confirmed.
    pub(super) fn told(&self, key: &Key) {
        let mut kept = self.lock();
        let Some(trips) = kept.trips.get_mut(key) else { return };
        let owed = trips.iter().position(|(_, trip)| trip.owes_notification());
        if let Some((_, trip)) = trips.get_mut(owed.unwrap_or_default()) {
            trip.is_now_notified();
        }
    }

    /// Counts a password that is set and that nobody was told of yet.
    pub(super) fn one_untold(&self) -> NotNotified {
        self.not_notified.fetch_add(1, Ordering::Relaxed);
        NotNotified(Arc::clone(&self.not_notified))
    }

    /// How many passwords are set whose notification is not confirmed, of jobs in flight and of those that are kept.
    pub(super) fn not_notified(&self) -> usize {
        self.not_notified.load(Ordering::Relaxed)
    }

    /// Forgets all trips: another worker has held the lease in between, and has done those jobs in its own way. Of one that it has
    /// not, this much stays true: its password may be set.
    pub(super) fn forget(&self) {
        let mut kept = self.lock();
        (kept.alone, kept.alone_order) = (HashMap::new(), VecDeque::new());
        kept.unknown.retain(|_, since| since.elapsed() < KEPT);
        let may_be_set = |trips: &[(Instant, Trip)]| trips.iter().any(|(_, trip)| trip.has_ever_set());
        let forgotten: Vec<_> = kept.trips.drain().filter(|(_, trips)| may_be_set(trips)).collect();
        kept.unknown.extend(forgotten.into_iter().map(|(key, _)| (key, Instant::now())));
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_fresh((since, trip): &(Instant, Trip)) -> bool {
    since.elapsed() < if trip.may_be_set() { KEPT_IF_SET } else { KEPT }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: RetryHeaders =
        RetryHeaders { tried: 0, probes: 0, until: None, trip: None, deliveries: 0, too_soon: 0, may_be_set: false };

    fn tried() -> Trip {
        let mut trip = Trip::default();
        trip.password(PasswordKind::Hex).unwrap();
        trip.progress.attempts = 1;
        trip
    }

    #[test]
    fn a_redelivered_job_goes_on_with_the_same_password_and_a_replayed_one_starts_anew() {
        let memory = Memory::default();
        let id = Key::Delivered(JobId::new("j"), 7);
        let trip = tried();
        let password = trip.password.clone().unwrap();
        memory.keep(id.clone(), trip);
        assert!(!memory.recall(&id, false, &NOTHING).is_tried(), "a fresh message is not the one that was cut short");
        let mut again = memory.recall(&id, true, &NOTHING);
        assert_eq!(again.password(PasswordKind::Hex).unwrap().expose(), password.expose());
        assert!(!memory.recall(&id, true, &NOTHING).is_tried(), "it is recalled once");
        memory.keep(id.clone(), tried());
        assert!(
            !memory.recall(&Key::Delivered(JobId::new("j"), 8), true, &NOTHING).is_tried(),
            "another body under the same id is another job"
        );
    }

    #[test]
    fn equal_jobs_that_were_cut_off_are_as_many_trips_and_the_furthest_goes_on_first() {
        let memory = Memory::default();
        let id = Key::Delivered(JobId::new("j"), 7);
        memory.keep(id.clone(), Trip::default());
        memory.keep(id.clone(), tried());
        memory.keep(id.clone(), Trip::default());
        let recalled = |redelivered| {
            let trip = memory.recall(&id, redelivered, &NOTHING);
            (trip.is_tried(), trip.left_undone)
        };
        assert_eq!(recalled(false), (false, false), "a fresh message is none of them");
        assert_eq!([(); 3].map(|()| recalled(true)), [(true, true), (false, true), (false, true)]);
        assert_eq!(
            recalled(true),
            (false, false),
            "a fourth is one that this process knows nothing of: its ack was lost"
        );
        assert!(memory.lock().trips.is_empty());
    }

    #[test]
    fn a_job_that_was_published_again_goes_on_though_it_is_not_redelivered() {
        let memory = Memory::default();
        let name = Key::Again(JobId::new("j"), "t".into());
        memory.keep(name.clone(), tried());
        let again = memory.recall(&name, false, &NOTHING);
        assert!(again.is_tried() && !again.left_undone, "the delivery before it may have been done");
        memory.keep(name.clone(), tried());
        memory.forget();
        assert!(!memory.recall(&name, false, &NOTHING).is_tried(), "another worker has done it in between");
    }

    #[test]
    fn a_job_published_again_whose_delivery_before_is_acked_is_alone_until_a_connection_or_the_lease_is_lost() {
        let memory = Memory::default();
        let key = |name: &str| Key::Again(JobId::derived("sha256:0"), name.into());
        let is_undone = |name: &str| memory.recall(&key(name), false, &NOTHING).is_undone();
        memory.is_alone("a".into());
        assert!(!is_undone("b") && is_undone("a"));
        assert!(!is_undone("a"), "once it is here, the end of its delivery decides");
        // in flight when its session ends, and delivered once more.
        memory.is_alone("a".into());
        let trip = memory.recall(&key("a"), false, &NOTHING);
        memory.keep(key("a"), trip.clone());
        assert!(is_undone("a"));
        memory.keep(key("a"), Trip { acked: Instant::now().checked_sub(ACK_IN_DOUBT), ..trip.clone() });
        memory.acks_may_be_lost();
        assert!(is_undone("a"), "its ack was sent long before");
        memory.keep(key("a"), trip);
        memory.is_alone("b".into());
        memory.acks_may_be_lost();
        assert!(!is_undone("a") && !is_undone("b"), "either may be the copy of one that comes again");
        memory.is_alone("a".into());
        memory.forget();
        assert!(!is_undone("a"));
    }

    #[test]
    fn no_more_are_known_to_be_alone_than_there_is_room_for() {
        let memory = Memory::default();
        for n in 0..=MAX_ALONE {
            memory.is_alone(n.to_string());
        }
        let kept = memory.lock();
        assert_eq!((kept.alone.len(), kept.alone_order.len()), (MAX_ALONE, MAX_ALONE));
        assert!(!kept.alone.contains_key("0") && kept.alone.contains_key("1"));
    }

    #[test]
    fn that_a_password_may_be_set_is_known_though_another_process_sent_it_or_the_trip_is_forgotten() {
        let memory = Memory::default();
        let (key, again) = (Key::Delivered(JobId::new("j"), 7), Key::Again(JobId::new("j"), "t".into()));
        let carried = memory.recall(&again, false, &RetryHeaders { may_be_set: true, ..NOTHING });
        assert_eq!(carried.progress.password_set, PasswordSet::Unknown);
        assert!(carried.has_ever_set() && !carried.may_be_set(), "this process knows no password that may be set");
        for (may_be_this_one, password_set) in [(true, PasswordSet::Unknown), (false, PasswordSet::No)] {
            let mut trip = tried();
            (trip.progress.may_be_this_one, trip.progress.password_set) = (may_be_this_one, password_set);
            memory.keep(key.clone(), trip);
            memory.forget();
            let recalled = memory.recall(&key, true, &NOTHING);
            assert_eq!((recalled.progress.password_set, recalled.progress.attempts), (password_set, 0));
        }
    }

    #[test]
    fn a_password_that_is_given_up_is_made_anew_and_its_job_may_be_left_to_the_broker() {
        let mut trip = tried();
        let sent = trip.password.clone().unwrap();
        assert!(!trip.gives_password_up());
        assert_eq!(trip.password(PasswordKind::Hex).unwrap().expose(), sent.expose());
        (trip.progress.may_be_this_one, trip.progress.password_set) = (true, PasswordSet::Unknown);
        assert!(trip.gives_password_up());
        assert_ne!(trip.password(PasswordKind::Hex).unwrap().expose(), sent.expose());
        assert!(!trip.may_be_set() && trip.has_ever_set());
    }

    #[test]
    fn a_password_counts_as_untold_from_when_it_is_set_until_its_notification_is_confirmed_or_its_trip_is_void() {
        let memory = Memory::default();
        let set = |id: &str| {
            let mut trip = tried();
            let issued = Issued { notification_id: id.into(), at: Timestamp::now() };
            trip.is_now_set(issued, memory.one_untold());
            (Key::Again(JobId::new(id), "t".into()), trip)
        };
        let (in_flight, (told, told_trip), (void, void_trip)) = (set("a"), set("b"), set("c"));
        memory.keep(told.clone(), told_trip.clone());
        memory.keep(void, void_trip);
        drop(told_trip);
        assert_eq!(memory.not_notified(), 3, "one that is kept and in flight too is one");
        memory.told(&told);
        assert_eq!(memory.not_notified(), 2);
        memory.forget();
        assert_eq!(memory.not_notified(), 1);
        let (_, mut trip) = in_flight;
        trip.is_now_notified();
        assert_eq!(memory.not_notified(), 0);
    }

    #[test]
    fn of_a_job_that_got_nowhere_it_is_known_that_it_was_left_undone_until_another_worker_has_led() {
        let memory = Memory::default();
        let id = Key::Delivered(JobId::new("j"), 7);
        memory.keep(id.clone(), Trip::default());
        assert!(memory.recall(&id, true, &NOTHING).left_undone);
        memory.keep(id.clone(), Trip::default());
        memory.forget();
        assert!(!memory.recall(&id, true, &NOTHING).left_undone);
    }
}
