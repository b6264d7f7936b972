//! The one task that gives an org's permits.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout_at};

use super::permit::{Permit, Reported};
use super::shared::Shared;
use super::state::{Move, State};
use crate::domain::retry::{HaltCause, backoff};
use crate::domain::token::TokenError;
use crate::telemetry::logs::millis;

/// Where the dispatcher gets the token that goes with each permit.
pub type TokenSource<T> = Box<dyn Fn() -> BoxFuture<'static, Result<T, TokenError>> + Send + Sync>;

pub(super) async fn dispatch<T: Send + 'static>(shared: Arc<Shared<T>>, tokens: TokenSource<T>) {
    let mut failures = 0;
    loop {
        // Apart, so that the lock is not held while the token is fetched.
        let next = shared.next_move(&mut shared.lock(), Instant::now());
        let wake = match next {
            Move::Idle => None,
            Move::Until(until) => Some(until),
            Move::Serve => match tokens().await {
                Ok(token) => {
                    failures = 0;
                    match serve(&shared, token) {
                        None => continue,
                        Some(until) => Some(until),
                    }
                }
                Err(trouble) => {
                    shared.trouble(trouble, &mut failures);
                    continue;
                }
            },
        };
        match wake {
            None => shared.changed.notified().await,
            Some(until) => drop(timeout_at(until, shared.changed.notified()).await),
        }
    }
}

/// The last look and the permit, with nothing awaited between. `Some`: look again then.
fn serve<T: Send + 'static>(shared: &Arc<Shared<T>>, token: T) -> Option<Instant> {
    shared.resolved(HaltCause::ClientRefused);
    let now = Instant::now();
    let mut state = shared.lock();
    match shared.next_move(&mut state, now) {
        Move::Serve => {}
        Move::Idle => return None,
        // A pause began while the token was fetched.
        Move::Until(until) => return Some(until),
    }
    if let Err(wait) = state.limiter.check() {
        return Some(now + wait);
    }
    let next = state.let_through(now)?;
    let pass = state.breaker.permit();
    // Only now: a limiter that is swapped starts empty, as this one is now.
    state.adaptive_rate.creep(now);
    shared.repace(&mut state);
    drop(state);
    // Whoever left since gives the permit back by dropping it, so the lock must be free.
    drop(next.permit.send(Ok(Permit::new(
        token,
        next.lane,
        pass,
        next.user.is_some(),
        Arc::clone(shared) as Arc<dyn Reported>,
    ))));
    None
}

impl<T> Shared<T> {
    fn next_move(&self, state: &mut State<T>, now: Instant) -> Move {
        if state.ripen(now) {
            self.show_breaker(state, now);
        }
        let next = state.look(now);
        self.repace(state);
        next
    }

    fn repace(&self, state: &mut State<T>) {
        let before = state.rate;
        if state.repace() {
            self.show_rate(state);
            if state.rate < before {
                tracing::info!(
                    org = self.subject.org(),
                    per_minute = state.rate,
                    "others share the quota: the rate is lowered"
                );
            }
        }
    }

    /// The token is asked for again later.
    pub(super) fn trouble(&self, trouble: TokenError, failures: &mut u32) {
        match trouble {
            TokenError::Refused(why) => self.stop(HaltCause::ClientRefused, &why),
            TokenError::Failed { why, wait } => {
                *failures += 1;
                let delay = wait.unwrap_or_else(|| backoff(&self.policy, *failures, rand::random()));
                self.lock().no_token_until = Some(Instant::now() + delay.max(Duration::from_millis(1)));
                tracing::warn!(
                    org = self.subject.org(),
                    reason = why,
                    attempt = *failures,
                    delay_ms = millis(delay),
                    "no token; jobs wait"
                );
            }
        }
    }
}
