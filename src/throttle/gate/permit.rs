//! The right to make one call, and the report of what it brought.

use std::fmt;
use std::sync::Arc;

use crate::domain::job::Lane;
use crate::domain::user::UserId;
use crate::throttle::breaker::{Pass, Verdict};

/// The job's `not-after` had passed when its turn came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired;

/// Who is told what became of a permit.
pub(super) trait Reported: Send + Sync {
    /// The call of that permit ended. `is_judged`: whether it counts for what is known of the user.
    fn answered(&self, pass: Pass, user: &UserId, verdict: Verdict, is_judged: bool);
    /// The call of a permit ended, or was never made.
    fn ended(&self, lane: Lane);
    /// The call of that permit will bring no answer.
    fn vanished(&self, pass: Pass);
}

/// The right to make one call, with the token to make it with. Dropped without a report it counts for nothing, and a probe's
/// place is free again.
pub struct Permit<T> {
    token: T,
    report: Report,
}

/// What is owed to the breaker and the adaptive rate.
struct Report {
    shared: Arc<dyn Reported>,
    lane: Lane,
    pass: Pass,
    /// Whether what it brings counts for what is known of its user.
    is_judged: bool,
    is_made: bool,
}

impl<T> Permit<T> {
    pub(super) fn new(token: T, lane: Lane, pass: Pass, is_judged: bool, shared: Arc<dyn Reported>) -> Self {
        Self { token, report: Report { shared, lane, pass, is_judged, is_made: false } }
    }

    /// The token to make the call with.
    pub fn token(&self) -> &T {
        &self.token
    }

    /// Whether this call decides if the breaker closes.
    pub fn is_probe(&self) -> bool {
        self.report.pass.probe
    }

    /// Reports what the call for that user brought, and gives the token back.
    pub fn answered(mut self, user: &UserId, verdict: Verdict) -> T {
        self.report.is_made = true;
        self.report.shared.answered(self.report.pass, user, verdict, self.report.is_judged);
        self.token
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.shared.ended(self.lane);
        if self.pass.probe && !self.is_made {
            self.shared.vanished(self.pass);
        }
    }
}

impl<T> fmt::Debug for Permit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("pass", &self.report.pass).finish_non_exhaustive()
    }
}
