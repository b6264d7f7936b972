//! How far a job has come, kept over a lost broker: after a PATCH the password exists nowhere else, so the redelivered job
//! goes on from there, with the same password and without a second call.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::state::{JobState, Unnotified};
use crate::domain::job::JobId;
use crate::wire::again::RetryHeaders;

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

/// What a job is remembered by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// A job's id and a hash of its body and of who asked: a producer that gives one id to two jobs gets neither the other's
    /// password, and two who asked for the same each get an answer.
    Delivered(JobId, u64),
    /// A job's id and the name that this process gave its state when it published the job again.
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

/// The states of jobs whose deliveries were not settled, since a session was lost or all was given back.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    kept: Mutex<Kept>,
    unnotified: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Kept {
    /// One for each delivery: two jobs may be equal.
    states: HashMap<Key, Vec<(Instant, JobState)>>,
    /// Jobs whose states were forgotten with a password that may be set.
    unknown: HashMap<Key, Instant>,
    /// Jobs without an id that were published again, by the name of their state: when the delivery before was acked.
    alone: HashMap<String, Instant>,
    /// The same in the order of their acks.
    alone_order: VecDeque<(Instant, String)>,
}

impl Kept {
    /// The state of one delivery of that key, the furthest first: a password that is set is notified first.
    fn take(&mut self, key: &Key) -> Option<JobState> {
        let states = self.states.get_mut(key)?;
        states.retain(is_fresh);
        let furthest = states.iter().position(|(_, state)| state.got_somewhere()).unwrap_or_default();
        let taken = (furthest < states.len()).then(|| states.swap_remove(furthest).1);
        if states.is_empty() {
            self.states.remove(key);
        }
        taken
    }

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

impl Checkpoints {
    /// A job without an id was published again under this name, and the delivery before it is acked: there is no other of it.
    pub(super) fn is_alone(&self, name: String) {
        self.lock().is_alone(name);
    }

    /// A connection was lost, perhaps with acks on their way: whose was one of the last may come once more.
    pub(super) fn acks_may_be_lost(&self) {
        let mut kept = self.lock();
        let Kept { states, alone, .. } = &mut *kept;
        let in_doubt = |acked: &Instant| acked.elapsed() < ACK_IN_DOUBT;
        alone.retain(|_, acked| !in_doubt(acked));
        for (_, state) in states.values_mut().flatten() {
            state.acked = state.acked.filter(|acked| !in_doubt(acked));
        }
    }

    /// Where this job left off, or a fresh state. Only a redelivered message, or one that was published again, can be one that was cut
    /// short: a replayed letter of the same id is a fresh one. Of equal jobs that were cut short each delivery gets the state of one.
    ///
    /// Nothing is known here of a job whose ack was lost: the ledger has its end. An equal job must not be taken for it.
    pub(super) fn recall(&self, key: &Key, redelivered: bool, retry_headers: &RetryHeaders) -> JobState {
        let is_delivered = matches!(key, Key::Delivered(..));
        if is_delivered && !redelivered {
            return JobState::with(retry_headers);
        }
        let mut kept = self.lock();
        let acked = kept.take_alone(key);
        if let Some(mut state) = kept.take(key) {
            (state.left_undone, state.acked) = (is_delivered, acked.or(state.acked));
            return state;
        }
        let is_unknown = kept.unknown.remove(key).is_some_and(|since| since.elapsed() < KEPT);
        let mut state = JobState::with(&RetryHeaders {
            may_be_set: retry_headers.may_be_set || is_unknown,
            ..retry_headers.clone()
        });
        state.acked = acked;
        state
    }

    /// Keeps the state of a delivery that is not settled, and forgets those that nobody came back for.
    pub(super) fn keep(&self, key: Key, state: JobState) {
        let mut kept = self.lock();
        kept.states.retain(|_, states| {
            states.retain(is_fresh);
            !states.is_empty()
        });
        kept.states.entry(key).or_default().push((Instant::now(), state));
    }

    /// A state whose password is set and whose notification is not confirmed.
    pub(super) fn pending_notification(&self) -> Option<(Key, JobState)> {
        self.find(JobState::is_notification_pending)
    }

    /// The notification of the state that [`Checkpoints::pending_notification`] gave is confirmed.
    pub(super) fn notified(&self, key: &Key) {
        self.change(key, JobState::is_notification_pending, JobState::is_now_notified);
    }

    /// Counts a password that is set and not notified yet.
    pub(super) fn one_unnotified(&self) -> Unnotified {
        Unnotified::count(&self.unnotified)
    }

    /// A state whose password is set and whose outcome is not confirmed.
    pub(super) fn pending_outcome(&self) -> Option<(Key, JobState)> {
        self.find(JobState::is_outcome_pending)
    }

    /// The outcome of the state that [`Checkpoints::pending_outcome`] gave is confirmed.
    pub(super) fn recorded(&self, key: &Key) {
        self.change(key, JobState::is_outcome_pending, |state| state.recorded = true);
    }

    /// Whether one is kept of a job whose password is set, or may be, and the ledger is not known to have its outcome.
    pub(super) fn has_unrecorded(&self) -> bool {
        self.find(|state| state.may_be_set() && !state.recorded).is_some()
    }

    /// Whether one is kept of a job whose password may be set, which is not known.
    pub(super) fn may_be_set(&self) -> bool {
        self.find(|state| state.may_be_set() && !state.recorded && !state.is_outcome_pending()).is_some()
    }

    fn find(&self, is_meant: impl Fn(&JobState) -> bool) -> Option<(Key, JobState)> {
        let kept = self.lock();
        let mut all = kept.states.iter().flat_map(|(key, states)| states.iter().map(move |(_, state)| (key, state)));
        all.find(|(_, state)| is_meant(state)).map(|(key, state)| (key.clone(), state.clone()))
    }

    fn change(&self, key: &Key, is_meant: impl Fn(&JobState) -> bool, change: impl FnOnce(&mut JobState)) {
        let mut kept = self.lock();
        let states = kept.states.get_mut(key).into_iter().flatten();
        if let Some((_, state)) = states.into_iter().find(|(_, state)| is_meant(state)) {
            change(state);
        }
    }

    /// How many passwords are set whose notification is not confirmed, of jobs in flight and of those that are kept.
    pub(super) fn unnotified(&self) -> usize {
        self.unnotified.load(Ordering::Relaxed)
    }

    /// Forgets all states: another worker has led in between, and has done those jobs in its own way. Of one that it has
    /// not, this much stays true: its password may be set.
    pub(super) fn forget(&self) {
        let mut kept = self.lock();
        (kept.alone, kept.alone_order) = (HashMap::new(), VecDeque::new());
        kept.unknown.retain(|_, since| since.elapsed() < KEPT);
        let may_be_set = |states: &[(Instant, JobState)]| states.iter().any(|(_, state)| state.has_ever_set());
        let forgotten: Vec<_> = kept.states.drain().filter(|(_, states)| may_be_set(states)).collect();
        kept.unknown.extend(forgotten.into_iter().map(|(key, _)| (key, Instant::now())));
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_fresh((since, state): &(Instant, JobState)) -> bool {
    since.elapsed() < if state.may_be_set() { KEPT_IF_SET } else { KEPT }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::domain::notification::Issued;
    use crate::domain::outcome::{OutcomeKind, PasswordSet};
    use crate::domain::password::PasswordKind;
    use crate::domain::recipient::Recipient;
    use crate::reset::state::Ending;

    const NOTHING: RetryHeaders = RetryHeaders {
        tried: 0,
        probes: 0,
        until: None,
        resume_token: None,
        deliveries: 0,
        too_soon: 0,
        may_be_set: false,
    };

    fn tried() -> JobState {
        let mut state = JobState::default();
        state.password(PasswordKind::Hex).unwrap();
        state.progress.attempts = 1;
        state
    }

    #[test]
    fn a_redelivered_job_goes_on_with_the_same_password_and_a_replayed_one_starts_anew() {
        let checkpoints = Checkpoints::default();
        let id = Key::Delivered(JobId::new("j"), 7);
        let state = tried();
        let password = state.password.clone().unwrap();
        checkpoints.keep(id.clone(), state);
        assert!(
            !checkpoints.recall(&id, false, &NOTHING).is_tried(),
            "a fresh message is not the one that was cut short"
        );
        let mut again = checkpoints.recall(&id, true, &NOTHING);
        assert_eq!(again.password(PasswordKind::Hex).unwrap().expose(), password.expose());
        assert!(!checkpoints.recall(&id, true, &NOTHING).is_tried(), "it is recalled once");
        checkpoints.keep(id.clone(), tried());
        assert!(
            !checkpoints.recall(&Key::Delivered(JobId::new("j"), 8), true, &NOTHING).is_tried(),
            "another body under the same id is another job"
        );
    }

    #[test]
    fn equal_jobs_that_were_cut_off_are_as_many_checkpoints_and_the_furthest_goes_on_first() {
        let checkpoints = Checkpoints::default();
        let id = Key::Delivered(JobId::new("j"), 7);
        checkpoints.keep(id.clone(), JobState::default());
        checkpoints.keep(id.clone(), tried());
        checkpoints.keep(id.clone(), JobState::default());
        let recalled = |redelivered| {
            let state = checkpoints.recall(&id, redelivered, &NOTHING);
            (state.is_tried(), state.left_undone)
        };
        assert_eq!(recalled(false), (false, false), "a fresh message is none of them");
        assert_eq!([(); 3].map(|()| recalled(true)), [(true, true), (false, true), (false, true)]);
        assert_eq!(
            recalled(true),
            (false, false),
            "a fourth is one that this process knows nothing of: its ack was lost"
        );
        assert!(checkpoints.lock().states.is_empty());
    }

    #[test]
    fn a_job_that_was_published_again_goes_on_though_it_is_not_redelivered() {
        let checkpoints = Checkpoints::default();
        let name = Key::Again(JobId::new("j"), "t".into());
        checkpoints.keep(name.clone(), tried());
        let again = checkpoints.recall(&name, false, &NOTHING);
        assert!(again.is_tried() && !again.left_undone, "the delivery before it may have been done");
        checkpoints.keep(name.clone(), tried());
        checkpoints.forget();
        assert!(!checkpoints.recall(&name, false, &NOTHING).is_tried(), "another worker has done it in between");
    }

    #[test]
    fn a_job_published_again_whose_delivery_before_is_acked_is_alone_until_a_connection_or_the_lead_is_lost() {
        let checkpoints = Checkpoints::default();
        let key = |name: &str| Key::Again(JobId::derived("sha256:0"), name.into());
        let is_undone = |name: &str| checkpoints.recall(&key(name), false, &NOTHING).is_undone();
        checkpoints.is_alone("a".into());
        assert!(!is_undone("b") && is_undone("a"));
        assert!(!is_undone("a"), "once it is here, the end of its delivery decides");
        // In flight when its session ends, and delivered once more.
        checkpoints.is_alone("a".into());
        let state = checkpoints.recall(&key("a"), false, &NOTHING);
        checkpoints.keep(key("a"), state.clone());
        assert!(is_undone("a"));
        let long_before = Instant::now().checked_sub(ACK_IN_DOUBT);
        let mut acked_then = state.clone();
        acked_then.acked = long_before;
        checkpoints.keep(key("a"), acked_then);
        checkpoints.acks_may_be_lost();
        assert!(is_undone("a"), "its ack was sent long before");
        checkpoints.keep(key("a"), state);
        checkpoints.is_alone("b".into());
        checkpoints.acks_may_be_lost();
        assert!(!is_undone("a") && !is_undone("b"), "either may be the copy of one that comes again");
        checkpoints.is_alone("a".into());
        checkpoints.forget();
        assert!(!is_undone("a"));
    }

    #[test]
    fn no_more_are_known_to_be_alone_than_there_is_room_for() {
        let checkpoints = Checkpoints::default();
        for n in 0..=MAX_ALONE {
            checkpoints.is_alone(n.to_string());
        }
        let kept = checkpoints.lock();
        assert_eq!((kept.alone.len(), kept.alone_order.len()), (MAX_ALONE, MAX_ALONE));
        assert!(!kept.alone.contains_key("0") && kept.alone.contains_key("1"));
    }

    #[test]
    fn that_a_password_may_be_set_is_known_though_another_process_sent_it_or_the_checkpoint_is_forgotten() {
        let checkpoints = Checkpoints::default();
        let (key, again) = (Key::Delivered(JobId::new("j"), 7), Key::Again(JobId::new("j"), "t".into()));
        let carried = checkpoints.recall(&again, false, &RetryHeaders { may_be_set: true, ..NOTHING });
        assert_eq!(carried.progress.password_set, PasswordSet::Unknown);
        assert!(carried.has_ever_set() && !carried.may_be_set(), "this process knows no password that may be set");
        for (may_be_this_one, password_set) in [(true, PasswordSet::Unknown), (false, PasswordSet::No)] {
            let mut state = tried();
            (state.progress.may_be_this_one, state.progress.password_set) = (may_be_this_one, password_set);
            checkpoints.keep(key.clone(), state);
            checkpoints.forget();
            let recalled = checkpoints.recall(&key, true, &NOTHING);
            assert_eq!((recalled.progress.password_set, recalled.progress.attempts), (password_set, 0));
        }
    }

    #[test]
    fn a_password_that_is_given_up_is_made_anew_and_its_job_may_be_left_to_the_broker() {
        let mut state = tried();
        let sent = state.password.clone().unwrap();
        assert!(!state.gives_password_up());
        assert_eq!(state.password(PasswordKind::Hex).unwrap().expose(), sent.expose());
        (state.progress.may_be_this_one, state.progress.password_set) = (true, PasswordSet::Unknown);
        assert!(state.gives_password_up());
        assert_ne!(state.password(PasswordKind::Hex).unwrap().expose(), sent.expose());
        assert!(!state.may_be_set() && state.has_ever_set());
    }

    #[test]
    fn a_password_counts_as_not_notified_until_its_notification_is_confirmed_or_its_checkpoint_is_void() {
        let checkpoints = Checkpoints::default();
        let set = |id: &str| {
            let mut state = tried();
            let issued = Issued { notification_id: id.into(), at: Timestamp::now() };
            state.is_now_set(issued, checkpoints.one_unnotified());
            state.recipient = Recipient::parse("email", "a@example.com").ok();
            state.ending = Some(Ending::of(OutcomeKind::Succeeded));
            (Key::Again(JobId::new(id), "t".into()), state)
        };
        let (in_flight, (told, told_trip), (void, void_trip)) = (set("a"), set("b"), set("c"));
        checkpoints.keep(told.clone(), told_trip.clone());
        checkpoints.keep(void, void_trip);
        drop(told_trip);
        assert_eq!(checkpoints.unnotified(), 3, "one that is kept and in flight too is one");
        checkpoints.notified(&told);
        assert_eq!(checkpoints.unnotified(), 2);
        checkpoints.forget();
        assert_eq!(checkpoints.unnotified(), 1);
        let (_, mut state) = in_flight;
        state.is_now_notified();
        assert_eq!(checkpoints.unnotified(), 0);
    }

    #[test]
    fn what_is_set_is_unrecorded_until_its_outcome_is_confirmed_and_what_may_be_set_until_it_comes_back() {
        let checkpoints = Checkpoints::default();
        let id = Key::Delivered(JobId::new("j"), 7);
        checkpoints.keep(id.clone(), tried());
        assert!(!checkpoints.has_unrecorded() && !checkpoints.may_be_set(), "it was tried, and refused");
        let mut state = tried();
        state.is_now_set(Issued { notification_id: "n".into(), at: Timestamp::now() }, checkpoints.one_unnotified());
        state.recipient = Recipient::parse("email", "a@example.com").ok();
        state.ending = Some(Ending::of(OutcomeKind::Succeeded));
        checkpoints.keep(id.clone(), state);
        assert!(checkpoints.has_unrecorded() && !checkpoints.may_be_set());
        let (pending, state) = checkpoints.pending_outcome().unwrap();
        assert!(pending == id && state.is_notification_pending());
        checkpoints.notified(&id);
        checkpoints.recorded(&id);
        assert!(checkpoints.pending_outcome().is_none() && !checkpoints.has_unrecorded());
        let mut state = tried();
        state.progress.may_be_this_one = true;
        checkpoints.keep(id, state);
        assert!(checkpoints.has_unrecorded() && checkpoints.may_be_set() && checkpoints.pending_outcome().is_none());
    }

    #[test]
    fn of_a_job_that_got_nowhere_it_is_known_that_it_was_left_undone_until_another_worker_has_led() {
        let checkpoints = Checkpoints::default();
        let id = Key::Delivered(JobId::new("j"), 7);
        checkpoints.keep(id.clone(), JobState::default());
        assert!(checkpoints.recall(&id, true, &NOTHING).left_undone);
        checkpoints.keep(id.clone(), JobState::default());
        checkpoints.forget();
        assert!(!checkpoints.recall(&id, true, &NOTHING).left_undone);
    }
}
