//! What the org has counted: the calls as they arrived, and how they were answered.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// The counters of an org since its start; `GET /sim/stats` answers them as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// PATCH calls received.
    pub calls: u64,
    /// GET calls of SCIM received: searches, and users that were read.
    pub reads: u64,
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
    /// Most SCIM calls received in any 60 s, PATCH and GET together, as the quota counts them.
    pub peak_per_minute: u64,
    /// PATCH calls that came by another token than the one before them, though theirs had been used within the second before: two
    /// clients call at once.
    pub interleaved: u64,
    /// How often a password was set, over all users.
    pub password_sets: u64,
    /// When the first SCIM call came, in milliseconds since the start of the org.
    pub first_call_ms: Option<u64>,
    /// When the last SCIM call came, in milliseconds since the start of the org.
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
    /// The tokens of the last second's calls, each with when it was used last, in that order.
    last_second: Vec<(String, Duration)>,
}

impl Tally {
    /// A PATCH call has come by this token; `now` is since the start of the org.
    pub(super) fn arrived(&mut self, token: &str, now: Duration) {
        self.stats.calls += 1;
        self.in_flight += 1;
        self.stats.peak_in_flight = self.stats.peak_in_flight.max(self.in_flight);
        self.counted(now);
        self.used(token, now);
    }

    /// A GET call has come.
    pub(super) fn read(&mut self, now: Duration) {
        self.stats.reads += 1;
        self.counted(now);
    }

    /// A call has come that counts against the quota.
    fn counted(&mut self, now: Duration) {
        let stats = &mut self.stats;
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        stats.first_call_ms.get_or_insert(millis);
        stats.last_call_ms = Some(millis);
        while self.last_minute.front().is_some_and(|first| now.saturating_sub(*first) >= MINUTE) {
            self.last_minute.pop_front();
        }
        self.last_minute.push_back(now);
        let minute = u64::try_from(self.last_minute.len()).unwrap_or(u64::MAX);
        stats.peak_per_minute = stats.peak_per_minute.max(minute);
    }

    fn used(&mut self, token: &str, now: Duration) {
        self.last_second.retain(|(_, used)| now.saturating_sub(*used) < SECOND);
        let known = self.last_second.iter().position(|(known, _)| known == token);
        if let Some(known) = known {
            self.stats.interleaved += u64::from(known + 1 < self.last_second.len());
            self.last_second.remove(known);
        }
        self.last_second.push((token.to_owned(), now));
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
            tally.arrived("a", Duration::from_secs(second));
        }
        assert_eq!(tally.stats().peak_per_minute, 4, "50, 55, 60 and 65; 0 and 60 are a minute apart");
        assert_eq!((tally.stats().first_call_ms, tally.stats().last_call_ms), (Some(0), Some(200_000)));
    }

    #[test]
    fn the_peak_is_of_patches_and_reads_together() {
        let mut tally = Tally::default();
        for second in 0..3 {
            tally.read(Duration::from_secs(second));
            tally.arrived("a", Duration::from_secs(second));
        }
        let stats = tally.stats();
        assert_eq!((stats.calls, stats.reads, stats.peak_per_minute), (3, 3, 6));
    }

    #[test]
    fn two_clients_that_call_at_once_are_told_from_two_one_after_the_other() {
        let interleaved = |calls: &[(&str, u64)]| {
            let mut tally = Tally::default();
            calls.iter().for_each(|(token, at)| tally.arrived(token, Duration::from_millis(*at)));
            tally.stats().interleaved
        };
        assert_eq!(interleaved(&[("a", 0), ("a", 100), ("b", 200), ("b", 300)]), 0);
        assert_eq!(interleaved(&[("a", 0), ("b", 500), ("a", 1000)]), 0, "a second later");
        assert_eq!(interleaved(&[("a", 0), ("b", 100), ("a", 200), ("b", 300), ("b", 400)]), 2);
    }
}
