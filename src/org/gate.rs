//! The gate that every single try passes: one dispatcher gives the permits, and at the moment of each it looks at the stopped
//! line, the pause, the token, the job's `not-after` and the limiter, in this order, with nothing awaited between the last look
//! and the permit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::lanes::Lanes;
use super::limiter::Limiter;
use crate::board::Board;
use crate::domain::job::Lane;
use crate::domain::retry::{RetryPolicy, StopCause, backoff};
use crate::domain::token::TokenTrouble;
use crate::telemetry::metrics;

/// How often a stopped line tries again by itself.
pub const STOPPED_RETRY: Duration = Duration::from_secs(15);

/// Where the dispatcher gets the token that goes with each permit.
pub type TokenSource<T> = Box<dyn Fn() -> BoxFuture<'static, Result<T, TokenTrouble>> + Send + Sync>;

/// The job's `not-after` had passed when its turn came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired;

/// One org's gate. Dropping it ends its dispatcher.
#[derive(Debug)]
pub struct Gate<T> {
    shared: Arc<Shared<T>>,
    _dispatcher: DropGuard,
}

#[derive(Debug)]
struct Shared<T> {
    org: String,
    limiter: Limiter,
    policy: RetryPolicy,
    board: Board,
    state: Mutex<State<T>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<T> {
    lanes: Lanes<Waiting<T>>,
    paused_until: Option<Instant>,
    stops: BTreeMap<StopCause, Stop>,
}

/// Since when the line is stopped for a cause, and when the next try is let through.
#[derive(Debug, Clone, Copy)]
struct Stop {
    since: Instant,
    until: Instant,
}

#[derive(Debug)]
struct Waiting<T> {
    not_after: Option<Timestamp>,
    permit: oneshot::Sender<Result<T, Expired>>,
}

impl<T: Send + 'static> Gate<T> {
    /// Opens the gate and starts its dispatcher.
    pub fn open(org: &str, limiter: Limiter, policy: RetryPolicy, board: Board, tokens: TokenSource<T>) -> Self {
        let state = State { lanes: Lanes::default(), paused_until: None, stops: BTreeMap::new() };
        let shared = Arc::new(Shared {
            org: org.to_owned(),
            limiter,
            policy,
            board,
            state: Mutex::new(state),
            changed: Notify::new(),
        });
        let closed = CancellationToken::new();
        tokio::spawn(closed.clone().run_until_cancelled_owned(dispatch(Arc::clone(&shared), tokens)));
        Self { shared, _dispatcher: closed.drop_guard() }
    }

    /// Waits for a permit, and the token to use it with. Whoever stops waiting costs nothing.
    ///
    /// # Errors
    /// Where `not_after` passed first; no permit is spent on that.
    pub async fn pass(&self, lane: Lane, not_after: Option<Timestamp>) -> Result<T, Expired> {
        let asked = Instant::now();
        let (permit, granted) = oneshot::channel();
        self.shared.lock().lanes.push(lane, Waiting { not_after, permit });
        self.shared.changed.notify_one();
        match granted.await {
            Ok(granted) => {
                metrics::permitted(&self.shared.org, lane, asked.elapsed());
                granted
            }
            // The dispatcher ends only with the gate, and whoever waits here holds that.
            Err(_) => std::future::pending().await,
        }
    }

    /// Every call of the org waits this long from now, or longer where that was asked for before.
    pub fn pause(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut state = self.shared.lock();
        let later = state.paused_until.is_none_or(|paused| paused < until);
        if later {
            state.paused_until = Some(until);
            drop(state);
            metrics::paused(&self.shared.org);
            tracing::info!(org = self.shared.org, delay_ms = wait.as_millis(), "all calls of the org pause");
            self.shared.changed.notify_one();
        }
    }

    /// The line stops, and why; one try is let through every 15 s to see whether it was mended.
    pub fn stop(&self, cause: StopCause, why: &str) {
        self.shared.stop(cause, why);
    }

    /// What stopped the line is mended.
    pub fn mended(&self, cause: StopCause) {
        self.shared.mended(cause);
    }

    /// Whether the line is stopped for this cause.
    pub fn is_stopped(&self, cause: StopCause) -> bool {
        self.shared.lock().stops.contains_key(&cause)
    }

    /// Waits until the line has been stopped for this cause for that long. It is seen at most that much later.
    pub async fn stopped_for(&self, cause: StopCause, limit: Duration) {
        loop {
            let since = self.shared.lock().stops.get(&cause).map(|stop| stop.since);
            let (now, end) = (Instant::now(), since.map(|since| since + limit));
            match end {
                Some(end) if end <= now => return,
                Some(end) => sleep_until(end).await,
                None => sleep_until(now + limit).await,
            }
        }
    }
}

/// What the dispatcher does next.
enum Move {
    /// Wait for somebody to ask, or for something to change.
    Idle,
    /// Look again then, or when something changes.
    Until(Instant),
    /// Give the next permit, as soon as there are a token and the limiter's leave.
    Serve,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self, cause: StopCause, why: &str) {
        let first = {
            // The board is written under the lock, so that it cannot say the opposite of a later change.
            let mut state = self.lock();
            self.board.stop(&self.org, cause, why);
            let now = Instant::now();
            let since = state.stops.get(&cause).map_or(now, |stop| stop.since);
            state.stops.insert(cause, Stop { since, until: now + STOPPED_RETRY }).is_none()
        };
        if first {
            tracing::error!(
                org = self.org,
                reason = why,
                "the line stops: nothing is lost, and it tries again every 15 s until this is mended"
            );
        }
    }

    fn mended(&self, cause: StopCause) {
        let was_stopped = {
            let mut state = self.lock();
            let was_stopped = state.stops.remove(&cause).is_some();
            if was_stopped {
                self.board.mended(&self.org, cause);
            }
            was_stopped
        };
        if was_stopped {
            tracing::info!(org = self.org, ?cause, "the line goes on");
            self.changed.notify_one();
        }
    }

    fn next_move(&self, now: Instant) -> Move {
        let mut state = self.lock();
        for left in state.lanes.take_out_gone() {
            let _ = left.permit.send(Err(Expired));
        }
        if state.lanes.is_empty() {
            return Move::Idle;
        }
        let stopped = state
            .stops
            .iter()
            .map(|(cause, stop)| if *cause == StopCause::Unpublishable { now + STOPPED_RETRY } else { stop.until })
            .max();
        match stopped.max(state.paused_until).filter(|until| now < *until) {
            Some(until) => Move::Until(until),
            None => Move::Serve,
        }
    }

    /// The last look and the permit, with nothing awaited between. `Some`: look again then.
    fn serve(&self, token: T) -> Option<Instant> {
        self.mended(StopCause::ClientRefused);
        let now = Instant::now();
        match self.next_move(now) {
            Move::Serve => {}
            Move::Idle => return Some(now + STOPPED_RETRY),
            // A pause began while the token was fetched.
            Move::Until(until) => return Some(until),
        }
        if let Err(wait) = self.limiter.check() {
            return Some(now + wait);
        }
        let mut state = self.lock();
        // A line that is stopped lets one try through, and the next one 15 s later.
        state.stops.values_mut().for_each(|stop| stop.until = now + STOPPED_RETRY);
        if let Some(next) = state.lanes.pop() {
            let _ = next.permit.send(Ok(token));
        }
        None
    }
}

impl<T> Lanes<Waiting<T>> {
    /// Takes out whoever left and whoever's `not-after` has passed.
    fn take_out_gone(&mut self) -> Vec<Waiting<T>> {
        let now = Timestamp::now();
        self.take_out(|waiting| waiting.permit.is_closed() || waiting.not_after.is_some_and(|end| end < now))
    }
}

async fn dispatch<T: Send + 'static>(shared: Arc<Shared<T>>, tokens: TokenSource<T>) {
    let mut failures = 0;
    // Until when no token is asked for, after its endpoint failed.
    let mut no_token_until = None;
    loop {
        let wake = match shared.next_move(Instant::now()) {
            Move::Idle => None,
            Move::Until(until) => Some(until),
            Move::Serve => match no_token_until.filter(|until| Instant::now() < *until) {
                Some(until) => Some(until),
                None => match tokens().await {
                    Ok(token) => {
                        failures = 0;
                        match shared.serve(token) {
                            None => continue,
                            Some(until) => Some(until),
                        }
                    }
                    Err(trouble) => {
                        no_token_until = Some(Instant::now() + shared.trouble(trouble, &mut failures));
                        continue;
                    }
                },
            },
        };
        match wake {
            None => shared.changed.notified().await,
            Some(until) => drop(timeout_at(until, shared.changed.notified()).await),
        }
    }
}

impl<T> Shared<T> {
    /// How long until the token is asked for again.
    fn trouble(&self, trouble: TokenTrouble, failures: &mut u32) -> Duration {
        match trouble {
            TokenTrouble::Refused(why) => {
                self.stop(StopCause::ClientRefused, &why);
                STOPPED_RETRY
            }
            TokenTrouble::Failed { why, wait } => {
                *failures += 1;
                let delay = wait.unwrap_or_else(|| backoff(&self.policy, *failures, rand::random()));
                tracing::warn!(
                    org = self.org,
                    reason = why,
                    attempt = *failures,
                    delay_ms = delay.as_millis(),
                    "no token; jobs wait"
                );
                delay
            }
        }
    }
}

#[cfg(test)]
mod tests;
