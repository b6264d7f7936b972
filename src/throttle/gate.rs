//! The gate that every single try passes: one dispatcher gives the permits, and at the moment of each it looks at the worker's
//! own leave to call, the halt, the breaker, the pause, the token, the job's `not-after` and the limiter, with nothing
//! awaited between the last look and the permit.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::dispatcher::TokenSource;
pub use self::permit::{Expired, Permit};
use self::shared::Shared;
pub use self::state::{CallGuard, Meter};
use self::state::{State, Waiting};
use super::breaker::Stand;
use super::guard::Guard;
use super::limiter::Limiter;
use crate::board::Board;
use crate::domain::job::Lane;
use crate::domain::retry::{HaltCause, RetryPolicy};
use crate::domain::subject::Subject;
use crate::domain::token::TokenError;
use crate::domain::user::UserId;
use crate::telemetry::metrics;

pub use super::breaker::Verdict;

/// So many bytes of what a call met are shown.
const LONGEST_FAULT: usize = 200;

/// Whom a call is for that asks for a permit.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Its user, by whose calls so far it is judged when it is tried.
    pub user: UserId,
    /// Whether it is the second half of a try: the PATCH of one whom a search has just found. It goes on before others, though
    /// processing is halted.
    pub goes_on: bool,
}

/// For how many jobs of a lane the guard has room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// For so many more.
    pub free: u32,
    /// For so many, with those of the lane that are in flight.
    pub all: u32,
}

/// Room at the guard for one job in flight, given back when dropped.
#[derive(Debug)]
pub struct Reserved<T> {
    shared: Arc<Shared<T>>,
    lane: Lane,
}

impl<T> Drop for Reserved<T> {
    fn drop(&mut self) {
        self.shared.free(self.lane);
    }
}

/// One org's gate. Dropping it ends its dispatcher.
#[derive(Debug)]
pub struct Gate<T> {
    shared: Arc<Shared<T>>,
    _dispatcher: DropGuard,
}

impl<T: Send + 'static> Gate<T> {
    /// Makes the gate and starts its dispatcher. It gives no permit before [`Gate::admit`].
    pub fn open(
        subject: impl Into<Subject>,
        limiter: Limiter,
        guard: Guard,
        policy: RetryPolicy,
        board: Board,
        tokens: TokenSource<T>,
    ) -> Self {
        let state = State::new(limiter, guard, Instant::now());
        let shared = Arc::new(Shared {
            subject: subject.into(),
            policy,
            board,
            state: Mutex::new(state),
            changed: Notify::new(),
            room: Notify::new(),
            succeeded: Notify::new(),
        });
        shared.show_breaker(&shared.lock(), Instant::now());
        shared.show_rate(&shared.lock());
        let closed = CancellationToken::new();
        tokio::spawn(closed.clone().run_until_cancelled_owned(dispatcher::dispatch(Arc::clone(&shared), tokens)));
        Self { shared, _dispatcher: closed.drop_guard() }
    }

    /// Waits for a permit, and the token to use it with. Whoever stops waiting costs nothing. `begun`: the job's password may be set
    /// already, so that it is let through though its lane is closed.
    ///
    /// # Errors
    /// Where `not_after` passed first; no permit is spent on that.
    pub async fn pass(&self, lane: Lane, not_after: Option<Timestamp>, begun: bool) -> Result<Permit<T>, Expired> {
        self.pass_for(None, lane, not_after, begun).await
    }

    /// The same for a call that is about one user, and is judged by what came of that user's calls before.
    ///
    /// # Errors
    /// As [`Gate::pass`].
    pub async fn pass_for(
        &self,
        caller: Option<Caller>,
        lane: Lane,
        not_after: Option<Timestamp>,
        begun: bool,
    ) -> Result<Permit<T>, Expired> {
        let asked = Instant::now();
        let (permit, granted) = oneshot::channel();
        let goes_on = caller.as_ref().is_some_and(|caller| caller.goes_on);
        let user = caller.map(|caller| caller.user);
        self.shared.lock().lanes.push(lane, Waiting { lane, user, goes_on, begun, not_after, permit });
        self.shared.changed.notify_one();
        match granted.await {
            Ok(granted) => {
                metrics::permitted(&self.shared.subject, lane, asked.elapsed());
                granted
            }
            // The dispatcher ends only with the gate, and whoever waits here holds that.
            Err(_) => std::future::pending().await,
        }
    }

    /// From now on permits are given while `call_guard` says so at the moment of each; with `None`, none at all.
    pub fn admit(&self, call_guard: Option<CallGuard>) {
        self.shared.lock().call_guard = call_guard;
        self.shared.changed.notify_one();
    }

    /// After a takeover: what the worker before has called is not known, so the limiter is empty, at the configured rate; and what halted
    /// this process before may be resolved since.
    pub fn start_empty(&self) {
        let mut state = self.shared.lock();
        state.stops.keys().for_each(|cause| self.shared.board.resolved(&self.shared.subject, *cause));
        state.start_empty(Instant::now());
        self.shared.show_rate(&state);
        drop(state);
        self.shared.is_ours();
    }

    /// Every call of the org waits this long from now, or longer where that was asked for before.
    pub fn pause(&self, wait: Duration) {
        let now = Instant::now();
        self.shared.pause(&mut self.shared.lock(), now + wait, wait);
    }

    /// A call was answered 429: a pause, by whose end the rate may be lowered.
    pub fn throttled(&self, wait: Duration) {
        let mut state = self.shared.lock();
        let now = Instant::now();
        state.adaptive_rate.throttled(now, now + wait);
        self.shared.pause(&mut state, now + wait, wait);
    }

    /// What the last call that failed met, for whoever looks at a breaker that is not closed.
    pub fn faulted(&self, why: &str) {
        let mut state = self.shared.lock();
        state.fault = Some(why[..why.floor_char_boundary(LONGEST_FAULT)].to_owned());
        if state.breaker.stand() != Stand::Closed {
            self.shared.show_breaker(&state, Instant::now());
        }
    }

    /// Processing is halted, and why; one try is let through after 15 s (5 s for an answer that is not the org's), and ever later, to see
    /// whether it was resolved.
    pub fn stop(&self, cause: HaltCause, why: &str) {
        self.shared.stop(cause, why);
    }

    /// What halted processing is resolved.
    pub fn resolved(&self, cause: HaltCause) {
        self.shared.resolved(cause);
    }

    /// The user's password was set. To be told before the permit is given back.
    pub fn succeeded(&self, user: &UserId) {
        self.shared.lock().doubts.succeeded(user);
        self.shared.succeeded.notify_waiters();
        self.shared.changed.notify_one();
    }

    /// The org itself answered a PATCH of the user, though it did not do it: whoever else answers, does not answer all.
    pub fn answered_by_org(&self, user: &UserId) {
        self.shared.lock().doubts.answered(user);
        self.resolved(HaltCause::ForeignAnswer);
    }

    /// The org itself answered a search. That shows the way to it for a search alone: a proxy may let a GET through and no PATCH. So it
    /// ends a halt that searches brought about, and none that a PATCH did.
    pub fn search_answered_by_org(&self, name: &UserId) {
        let mut state = self.shared.lock();
        if state.patch_is_foreign {
            return;
        }
        state.doubts.answered(name);
        drop(state);
        self.resolved(HaltCause::ForeignAnswer);
    }

    /// A search ended its job, and no PATCH follows. Where that was the try of a halt, the next job is the try in its place, at once: a
    /// queue of users whom the org does not know is worked off, however long the halt.
    pub fn search_led_nowhere(&self) {
        let mut state = self.shared.lock();
        let now = Instant::now();
        if let Some(stop) = state.stops.get_mut(&HaltCause::ForeignAnswer) {
            stop.showed_nothing(now);
            drop(state);
            self.shared.changed.notify_one();
        }
    }

    /// Somebody else than the org answered the user's PATCH. `true`: that is about this user alone, since the org answered another one.
    pub fn answered_by_another(&self, user: &UserId) -> bool {
        let mut state = self.shared.lock();
        let is_odd = state.doubts.foreign(user);
        state.patch_is_foreign |= !is_odd;
        is_odd
    }

    /// Likewise a search.
    pub fn search_answered_by_another(&self, name: &UserId) -> bool {
        self.shared.lock().doubts.foreign(name)
    }

    /// Whether the user's failures are known to be their own, and not the org's.
    pub fn is_suspect(&self, user: &UserId) -> bool {
        self.shared.lock().doubts.is_suspect(user)
    }

    /// The user's job has ended.
    pub fn ended(&self, user: &UserId) {
        self.shared.lock().doubts.ended(user);
    }

    /// Waits until another user's success has followed the user's first failure: a second call then shows whose fault that is, and is not
    /// to be waited for.
    pub async fn is_to_be_confirmed(&self, user: &UserId) {
        loop {
            let mut success = std::pin::pin!(self.shared.succeeded.notified());
            success.as_mut().enable();
            if self.shared.lock().doubts.is_to_be_confirmed(user) {
                return;
            }
            success.await;
        }
    }

    /// Another process has the org: what halts this one, its breaker and its guard are nobody's concern.
    pub fn stand_by(&self) {
        self.shared.stand_by();
    }

    /// The org is this process's, and nobody else had it since it was so last: what it knew of it holds.
    pub fn goes_on(&self) {
        self.shared.is_ours();
    }

    /// Whether processing is halted for this cause.
    pub fn is_halted(&self, cause: HaltCause) -> bool {
        self.shared.lock().stops.contains_key(&cause)
    }

    /// Whether a lane is closed. Everybody is told where that has changed.
    pub fn is_closed(&self, lane: Lane) -> bool {
        let mut state = self.shared.lock();
        self.shared.show_lane(&mut state, lane, Timestamp::now());
        state.closed[lane.index()].is_some()
    }

    /// For how many jobs more of that lane the guard has room, and for how many in all with those of it that are in flight; `None`: for
    /// as many as may come.
    pub fn room(&self, lane: Lane) -> Option<Room> {
        let (state, now) = (self.shared.lock(), Timestamp::now());
        let free = state.guard.room(lane, now)?;
        Some(Room { free, all: state.guard.room_in_all(lane, now)? })
    }

    /// A job of that lane is taken: it has its room at the guard for as long as this lives.
    pub fn reserve(&self, lane: Lane) -> Reserved<T> {
        self.shared.lock().guard.reserve(lane);
        Reserved { shared: Arc::clone(&self.shared), lane }
    }

    /// Waits until somebody may have given room back.
    pub async fn room_freed(&self) {
        self.shared.room.notified().await;
    }

    /// Somebody's password was set by a job of that lane.
    pub fn reset(&self, lane: Lane) {
        self.shared.lock().guard.reset(lane, Timestamp::now());
    }

    /// So many were reset before by others, by jobs of these lanes at these moments in their order.
    pub fn were_reset(&self, resets: impl Iterator<Item = (Lane, Timestamp)>) {
        self.shared.lock().guard.begin(resets);
        self.shared.changed.notify_one();
    }

    /// Until when no call can be made at least, or `None` where one could be made now. The limiter does not count, nor who waits.
    pub fn shut(&self, now: Instant) -> Option<Instant> {
        self.shared.lock().shut(now)
    }

    /// Whether nothing is left to be proved: processing is not halted, and the breaker is closed. A gate that is not shut may still let
    /// one call through to see.
    pub fn is_proved(&self) -> bool {
        let state = self.shared.lock();
        state.stops.is_empty() && state.breaker.stand() == Stand::Closed
    }

    /// How it stands now.
    pub fn meter(&self) -> Meter {
        self.shared.lock().meter(Instant::now())
    }

    /// No token was granted: it is asked for again later, by the dispatcher and whoever else needs one.
    pub fn no_token(&self, trouble: TokenError, failures: &mut u32) {
        self.shared.trouble(trouble, failures);
    }
}

mod dispatcher;
mod permit;
mod shared;
mod state;

#[cfg(test)]
mod tests;
