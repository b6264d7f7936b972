//! What the org has counted: the calls as they arrived, and how they were answered.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

const MINUTE: Duration = Duration::from_secs(60);

/// The counters of an org since its start; `GET /sim/stats` answers them as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// PATCH calls received.
    pub calls: u64,
    /// PATCH calls by the status of the answer, beside them `hang` and `cut`.
    pub by_status: BTreeMap<String, u64>,
    /// SCIM calls that the quota refused.
    pub throttled: u64,
    /// Requests to the token endpoint.
    pub token_requests: u64,
    /// Tokens that were issued.
    pub tokens_issued: u64,
    /// Most PATCH calls in flight at once.
    pub peak_in_flight: u64,
    /// Most PATCH calls received in any 60 s.
    pub peak_per_minute: u64,
    /// How often a password was set, over all users.
    pub password_sets: u64,
    /// When the first PATCH call came, in milliseconds since the start of the org.
    pub first_call_ms: Option<u64>,
    /// When the last PATCH call came, in milliseconds since the start of the org.
    pub last_call_ms: Option<u64>,
    /// Users whose password was set.
    pub users: u64,
    /// How often the password was set of the user for whom it was set most often.
    pub sets_by_user_max: u64,
}

/// How a PATCH call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Answered(StatusCode),
    Hung,
    Cut,
}

/// The running counters.
#[derive(Default)]
pub(super) struct Tally {
    stats: Stats,
    statuses: BTreeMap<u16, u64>,
    hung: u64,
    cut: u64,
    in_flight: u64,
    last_minute: VecDeque<Duration>,
}

impl Tally {
    /// A PATCH call has come; `now` is since the start of the org.
    pub(super) fn arrived(&mut self, now: Duration) {
        let stats = &mut self.stats;
        stats.calls += 1;
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        stats.first_call_ms.get_or_insert(millis);
        stats.last_call_ms = Some(millis);
        self.in_flight += 1;
        stats.peak_in_flight = stats.peak_in_flight.max(self.in_flight);
        while self.last_minute.front().is_some_and(|first| now.saturating_sub(*first) >= MINUTE) {
            self.last_minute.pop_front();
        }
        self.last_minute.push_back(now);
        let minute = u64::try_from(self.last_minute.len()).unwrap_or(u64::MAX);
        stats.peak_per_minute = stats.peak_per_minute.max(minute);
    }

    pub(super) fn ended(&mut self, ending: Ending) {
        match ending {
            Ending::Answered(status) => *self.statuses.entry(status.as_u16()).or_default() += 1,
            Ending::Hung => self.hung += 1,
            Ending::Cut => self.cut += 1,
        }
    }

    /// A PATCH call is over, answered or given up.
    pub(super) fn left(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    pub(super) fn throttled(&mut self) {
        self.stats.throttled += 1;
    }

    pub(super) fn token_requested(&mut self) {
        self.stats.token_requests += 1;
    }

    pub(super) fn token_issued(&mut self) {
        self.stats.tokens_issued += 1;
    }

    /// The counters so far; those about users are left at zero.
    pub(super) fn stats(&self) -> Stats {
        let mut stats = self.stats.clone();
        stats.by_status = self.statuses.iter().map(|(status, count)| (status.to_string(), *count)).collect();
        let others = [("hang", self.hung), ("cut", self.cut)];
        stats.by_status.extend(others.into_iter().filter(|(_, n)| *n > 0).map(|(k, n)| (k.to_owned(), n)));
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_of_any_sixty_seconds_and_not_of_a_calendar_minute() {
        let mut tally = Tally::default();
        for second in [0, 50, 55, 60, 65, 200] {
            tally.arrived(Duration::from_secs(second));
        }
        assert_eq!(tally.stats().peak_per_minute, 4, "50, 55, 60 and 65; 0 and 60 are a minute apart");
        assert_eq!((tally.stats().first_call_ms, tally.stats().last_call_ms), (Some(0), Some(200_000)));
    }
}
