//! The org itself: its settings, and its state behind one mutex with short sections.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use jiff::Timestamp;
use serde_json::Value;
use tokio::{sync::watch, time::Instant};

use super::{
    Fault, Secret, Settings, SettingsError, Stats, UserView,
    aging::Aging,
    answer::Answer,
    operation::Change,
    quota::Quota,
    script::Script,
    settings::Forms,
    tally::{Ending, Tally},
    tokens::Tokens,
    users::Users,
};

/// A simulated org. Clones share its state.
#[derive(Clone)]
pub struct Org {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    started: Instant,
    state: Mutex<State>,
    /// Whether no PATCH is carried out or answered for now.
    holds_calls: watch::Sender<bool>,
}

/// All that changes.
pub(super) struct State {
    /// Of the one client; it may be rotated.
    pub(super) client_secret: Secret,
    pub(super) tokens: Tokens,
    pub(super) quota: Quota,
    pub(super) users: Users,
    pub(super) script: Script,
    pub(super) tally: Tally,
}

impl Org {
    /// An org whose time begins now: its windows and the `from`/`to` of its faults count from here.
    ///
    /// # Errors
    /// Where the settings contradict themselves: see [`SettingsError`].
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        settings.check()?;
        let state = State {
            client_secret: settings.client_secret.clone(),
            tokens: Tokens::default(),
            quota: Quota::new(&settings),
            users: Users::new(
                settings.users.as_deref(),
                Aging { min_age: settings.min_age, history: settings.history },
            ),
            script: Script::new(settings.faults.clone()),
            tally: Tally::default(),
        };
        let holds_calls = watch::Sender::new(false);
        let inner = Inner { settings, started: Instant::now(), state: Mutex::new(state), holds_calls };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The counters so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = self.state();
        let mut stats = state.tally.stats();
        state.users.count(&mut stats);
        stats
    }

    /// Puts a fault in force, behind those there are.
    pub fn add_fault(&self, fault: Fault) {
        self.state().script.add(fault);
    }

    /// Takes all faults out of force.
    pub fn clear_faults(&self) {
        self.state().script.clear();
    }

    /// From now on PATCH calls arrive, and none is carried out or answered before [`Org::release_calls`].
    pub fn hold_calls(&self) {
        self.inner.holds_calls.send_replace(true);
    }

    /// Carries out and answers what was held, and what comes from now on.
    pub fn release_calls(&self) {
        self.inner.holds_calls.send_replace(false);
    }

    /// Makes every token that was issued useless.
    pub fn revoke_tokens(&self) {
        self.state().tokens.revoke_all();
    }

    /// Gives the client another secret: with the old one no token is granted any more. Tokens stay what they are.
    pub fn rotate_client_secret(&self, secret: Secret) {
        self.state().client_secret = secret;
    }

    /// Whether a person with this password gets in.
    #[must_use]
    pub fn logs_in(&self, user_id: &str, password: &str) -> bool {
        self.state().users.logs_in(user_id, password)
    }

    /// What there is to see of a user; `None` where there is no such user. Without seeded users every id exists.
    #[must_use]
    pub fn user(&self, id: &str) -> Option<UserView> {
        self.state().users.view(id)
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    pub(super) fn forms(&self) -> Forms {
        let settings = self.settings();
        Forms { password: settings.password, extensions: settings.extensions, policy: settings.policy }
    }

    /// Since the start of the org. Asked for with the state locked, so that it never runs backwards there.
    pub(super) fn now(&self) -> Duration {
        self.inner.started.elapsed()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A GET call has come.
    pub(super) fn read(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        state.tally.read(self.now());
        state
    }

    /// Lets a call in that has a good token and a place in the quota.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), Answer> {
        let token = bearer(headers);
        let mut state = self.state();
        let now = self.now();
        if !token.is_some_and(|token| state.tokens.accepts(token, now)) {
            let message = "Invalid login credentials.";
            return Err(Answer::genesys(StatusCode::UNAUTHORIZED, "bad.credentials", message));
        }
        let Err(throttled) = state.quota.take(now) else {
            return Ok(());
        };
        state.tally.throttled();
        let message = "Rate limit exceeded the maximum for this OAuth client.";
        let answer = Answer::genesys(StatusCode::TOO_MANY_REQUESTS, "too.many.requests", message);
        Err(Answer { retry_after: throttled.retry_after, ..answer })
    }

    /// Carries out changes that were checked, and answers the user as it is then.
    pub(super) fn apply(&self, id: &str, changes: Vec<Change>) -> Value {
        let mut state = self.state();
        state.users.apply(id, changes, Timestamp::now());
        state.users.resource(id)
    }

    /// Writes an answer with where the quota stands.
    pub(super) fn write(&self, answer: Answer) -> Response {
        let standing = self.state().quota.standing(self.now());
        answer.into_response(standing)
    }

    /// Waits as long as calls are held.
    pub(super) async fn released(&self) {
        // It never fails: the sender lives as long as this org.
        let _ = self.inner.holds_calls.subscribe().wait_for(|held| !held).await;
    }

    /// Waits as long as the settings hold an answer back.
    pub(super) async fn hold_back(&self) {
        let settings = self.settings();
        let wait = settings.latency + settings.latency_jitter.mul_f64(rand::random());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

/// A PATCH call as long as it is in flight, whether it is answered or given up.
pub(super) struct Call {
    org: Org,
}

impl Call {
    pub(super) fn arrived(org: &Org, headers: &HeaderMap) -> Self {
        let mut state = org.state();
        state.tally.arrived(bearer(headers).unwrap_or_default(), org.now());
        drop(state);
        Self { org: org.clone() }
    }

    pub(super) fn ended(&self, ending: Ending) {
        self.org.state().tally.ended(ending);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.org.state().tally.left();
    }
}

/// The token of an `Authorization: Bearer` (RFC 6750, section 2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
