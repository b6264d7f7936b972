//! What changes the gate's state from outside: a pause, a stop, an answer. Each is shown on the board, in the metrics and the log.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::permit::Reported;
use super::state::{State, Stop};
use crate::board::{Board, ClosedLane};
use crate::domain::breaker::{BreakerState, BreakerView};
use crate::domain::job::Lane;
use crate::domain::retry::{HaltCause, RetryPolicy};
use crate::domain::subject::Subject;
use crate::domain::user::UserId;
use crate::telemetry::logs::millis;
use crate::telemetry::metrics;
use crate::throttle::breaker::{Change, Opening, Pass, Stand, Verdict};
use crate::throttle::guard::Closed;

/// What a gate, its dispatcher and its permits share.
pub(super) struct Shared<T> {
    pub(super) subject: Subject,
    pub(super) policy: RetryPolicy,
    pub(super) board: Board,
    pub(super) state: Mutex<State<T>>,
    pub(super) changed: Notify,
    /// Somebody may have given room back at the guard: for whoever takes jobs.
    pub(super) room: Notify,
    /// Notified of each success.
    pub(super) succeeded: Notify,
}

impl<T> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("subject", &self.subject).finish_non_exhaustive()
    }
}

impl<T> Shared<T> {
    pub(super) fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send> Reported for Shared<T> {
    fn answered(&self, pass: Pass, user: &UserId, verdict: Verdict, is_judged: bool) {
        let mut state = self.lock();
        let now = Instant::now();
        let verdict = if is_judged {
            let is_suspect = state.doubts.is_suspect(user);
            if verdict == Verdict::Faulted {
                state.doubts.failed(user);
            }
            verdict.unless_suspect(is_suspect)
        } else {
            verdict
        };
        if verdict != Verdict::Throttled {
            state.adaptive_rate.answered(now);
        }
        let change = state.breaker.answered(pass, user, verdict, now, rand::random());
        if let Some(change) = change {
            self.show_breaker(&state, now);
            self.log(change, &state, now);
        }
        drop(state);
        if pass.probe || change.is_some() {
            self.changed.notify_one();
        }
    }

    fn ended(&self, lane: Lane) {
        let mut state = self.lock();
        let has_guard = state.guard.ended(lane);
        let may_go_on = has_guard && !state.lanes.is_empty();
        drop(state);
        if may_go_on {
            self.changed.notify_one();
        }
        if has_guard {
            self.room.notify_one();
        }
    }

    fn vanished(&self, pass: Pass) {
        self.lock().breaker.vanished(pass);
        self.changed.notify_one();
    }
}

impl<T> Shared<T> {
    pub(super) fn pause(&self, state: &mut State<T>, until: Instant, wait: Duration) {
        if state.paused_until.is_none_or(|paused| paused < until) {
            state.paused_until = Some(until);
            metrics::paused(&self.subject);
            tracing::info!(org = self.subject.org(), delay_ms = millis(wait), "all calls of the org pause");
            self.changed.notify_one();
        }
    }

    pub(super) fn stop(&self, cause: HaltCause, why: &str) {
        let first = {
            // The board is written under the lock, so that it cannot say the opposite of a later change.
            let mut state = self.lock();
            if !state.hidden {
                self.board.stop(&self.subject, cause, why);
            }
            let stop = Stop::again(state.stops.get(&cause), cause, self.policy.halted, Instant::now(), why);
            state.stops.insert(cause, stop).is_none()
        };
        if first {
            tracing::error!(
                org = self.subject.org(),
                reason = why,
                "processing is halted until this is resolved: nothing is lost, and it retries by itself, at least every 5 min"
            );
        }
    }

    pub(super) fn resolved(&self, cause: HaltCause) {
        let was_stopped = {
            let mut state = self.lock();
            let was_stopped = state.stops.remove(&cause).is_some();
            state.patch_is_foreign &= cause != HaltCause::ForeignAnswer;
            if was_stopped {
                self.board.resolved(&self.subject, cause);
            }
            was_stopped
        };
        if was_stopped {
            tracing::info!(org = self.subject.org(), ?cause, "processing resumed");
            self.changed.notify_one();
        }
    }

    /// Another process has the org: nothing of how it stands here is shown.
    pub(super) fn stand_by(&self) {
        let mut state = self.lock();
        if state.hidden {
            return;
        }
        state.hidden = true;
        state.stops.keys().for_each(|cause| self.board.resolved(&self.subject, *cause));
        self.show_breaker(&state, Instant::now());
        Lane::ALL.iter().for_each(|lane| self.tell_lane(&mut state, *lane, None));
    }

    /// The org is this process's: how it stands is shown.
    pub(super) fn is_ours(&self) {
        let mut state = self.lock();
        state.hidden = false;
        state.stops.iter().for_each(|(cause, stop)| self.board.stop(&self.subject, *cause, &stop.why));
        self.show_breaker(&state, Instant::now());
        drop(state);
        self.changed.notify_one();
    }

    /// A job that had reserved room is no longer in flight.
    pub(super) fn free(&self, lane: Lane) {
        if self.lock().guard.free(lane) {
            self.room.notify_one();
        }
    }

    fn log(&self, change: Change, state: &State<T>, now: Instant) {
        let delay_ms = match state.breaker.stand() {
            Stand::Open(opening) => millis(state.latest_probe(opening).saturating_duration_since(now)),
            Stand::HalfOpen { .. } | Stand::Closed => 0,
        };
        match change {
            Change::Opened(cause) => {
                metrics::breaker_opened(&self.subject, cause.label());
                tracing::warn!(org = self.subject.org(), reason = %cause, delay_ms, "the breaker opens: no call is made until a probe passes");
            }
            Change::OpenedAgain => {
                tracing::warn!(org = self.subject.org(), delay_ms, "a probe failed: the breaker stays open")
            }
            Change::Closed => tracing::info!(org = self.subject.org(), "a probe passed: the breaker closes"),
        }
    }

    /// Puts the breaker on the board, under the lock.
    pub(super) fn show_breaker(&self, state: &State<T>, now: Instant) {
        let shown = if state.hidden { Stand::Closed } else { state.breaker.stand() };
        let view = match shown {
            Stand::Closed => None,
            Stand::Open(opening) => Some(Self::breaker(BreakerState::Open, opening, state, now)),
            Stand::HalfOpen { opening, .. } => Some(Self::breaker(BreakerState::HalfOpen, opening, state, now)),
        };
        metrics::breaker(&self.subject, view.as_ref());
        self.board.breaker(&self.subject, view);
    }

    fn breaker(shown: BreakerState, opening: Opening, state: &State<T>, now: Instant) -> BreakerView {
        let probe_at = state.latest_probe(opening);
        let (ahead, past) = (probe_at.saturating_duration_since(now), now.saturating_duration_since(probe_at));
        let cause = match &state.fault {
            Some(fault) => format!("{}; the last one: {fault}", opening.cause),
            None => opening.cause.to_string(),
        };
        let next_probe = Timestamp::now() + ahead - past;
        BreakerView { state: shown, kind: opening.cause.label(), cause, next_probe }
    }

    /// Says that a lane was closed or opened, under the lock.
    pub(super) fn show_lane(&self, state: &mut State<T>, lane: Lane, now: Timestamp) {
        let closed = state.guard.closed(lane, now).filter(|_| !state.hidden);
        self.tell_lane(state, lane, closed);
    }

    fn tell_lane(&self, state: &mut State<T>, lane: Lane, closed: Option<Closed>) {
        let told = &state.closed[lane.index()];
        if closed == *told {
            return;
        }
        let name = lane.as_str();
        match (told, &closed) {
            (before, Some(closed))
                if before.as_ref().is_none_or(|before| before.cause.label() != closed.cause.label()) =>
            {
                tracing::warn!(org = self.subject.org(), lane = name, until = %closed.until, reason = %closed.cause, "the {name} lane is closed; the other one goes on");
            }
            (Some(_), None) if !state.hidden => {
                tracing::info!(org = self.subject.org(), lane = name, "the {name} lane is open again");
            }
            (_, _) => {}
        }
        if let Some(before) = told {
            metrics::lane_closed(&self.subject, lane, before.cause.label(), false);
        }
        if let Some(closed) = &closed {
            metrics::lane_closed(&self.subject, lane, closed.cause.label(), true);
        }
        let view = closed.as_ref().map(|closed| ClosedLane {
            kind: closed.cause.label(),
            cause: closed.cause.to_string(),
            until: closed.until,
        });
        self.board.lane(&self.subject, lane, view);
        state.closed[lane.index()] = closed;
        self.changed.notify_one();
    }

    pub(super) fn show_rate(&self, state: &State<T>) {
        metrics::rate(&self.subject, state.rate);
    }
}
