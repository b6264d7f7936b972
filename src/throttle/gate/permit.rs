//! The right to make one call, and the report of what it brought.

use std::fmt;
use std::sync::Arc;

use super::{Shared, Verdict};
use crate::domain::job::Lane;
use crate::domain::user::UserId;
use crate::throttle::breaker::Pass;

/// The right to make one call, with the token to make it with. Dropped without a report it counts for nothing, and a probe's
/// place is free again.
pub struct Permit<T> {
    token: T,
    report: Report<T>,
}

/// What is owed to the breaker and the adaptive rate.
struct Report<T> {
    shared: Arc<Shared<T>>,
    lane: Lane,
    pass: Pass,
    /// Whether what it brings counts for what is known of its user.
    is_judged: bool,
    is_made: bool,
}

impl<T> Permit<T> {
    pub(super) fn new(token: T, lane: Lane, pass: Pass, is_judged: bool, shared: Arc<Shared<T>>) -> Self {
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

impl<T> Drop for Report<T> {
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
