//! Who leads an org, or the mails, as `/readyz` and the page say it.

use jiff::Timestamp;
use serde::Serialize;

use crate::amqp::election::Candidate;
use crate::domain::ledger::WorkerName;

/// Who leads, and how this process stands as a candidate.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Leader {
    /// Whether it is this process.
    pub(super) here: bool,
    /// The process, for those alone who may see the page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    /// Since when at least: the newest fence says it. `null`: nobody has led within a day.
    since: Option<String>,
    /// How old the proof is, where it is this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    proof_age_seconds: Option<f64>,
    /// Whether a ping of this process reached the leader queue lately.
    ping_confirmed: bool,
    /// How many messages lay in the leader queue when one that stands by looked last.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_ready: Option<u32>,
}

impl Leader {
    /// By the newest fence, and by what this candidate saw itself.
    pub(super) fn of(newest: Option<&(WorkerName, Timestamp)>, here: &WorkerName, candidate: Candidate) -> Self {
        let is_here = newest.is_some_and(|(worker, _)| worker == here);
        let Candidate { proof_age, is_confirmed, ready } = candidate;
        Self {
            here: is_here,
            name: newest.map(|(worker, _)| worker.shown()),
            since: newest.map(|(_, since)| since.to_string()),
            proof_age_seconds: proof_age.filter(|_| is_here).map(|age| (age.as_secs_f64() * 1e3).round() / 1e3),
            ping_confirmed: is_confirmed,
            queue_ready: ready.filter(|_| !is_here),
        }
    }

    /// Without what may name a host.
    pub(super) fn without_name(mut self) -> Self {
        self.name = None;
        self
    }

    /// With an age that changes only where it matters: the page is told of each change.
    pub(super) fn in_whole_seconds(mut self) -> Self {
        self.proof_age_seconds = self.proof_age_seconds.map(f64::floor);
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_says_who_leads_and_what_it_saw_itself() {
        let (here, other) = (WorkerName::new("web-1/7/a"), WorkerName::new("web-2/8/b"));
        let since: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let led = Candidate { proof_age: Some(Duration::from_micros(1_234_567)), is_confirmed: true, ready: None };
        let stands_by = Candidate { proof_age: None, is_confirmed: true, ready: Some(2) };
        let said = |leader: &Leader| serde_json::to_string(leader).unwrap();
        let own = Leader::of(Some(&(here.clone(), since)), &here, led);
        let expected = r#"{"here":true,"name":"web-1, process 7","since":"2026-01-02T03:04:05Z","proofAgeSeconds":1.235,"pingConfirmed":true}"#;
        assert_eq!(said(&own), expected);
        assert!(said(&own.in_whole_seconds()).contains(r#""proofAgeSeconds":1.0"#));
        let others = Leader::of(Some(&(other, since)), &here, stands_by);
        let expected = r#"{"here":false,"since":"2026-01-02T03:04:05Z","pingConfirmed":true,"queueReady":2}"#;
        assert_eq!(said(&others.without_name()), expected);
        let nobody = Leader::of(None, &here, Candidate::default());
        assert_eq!(said(&nobody), r#"{"here":false,"since":null,"pingConfirmed":false}"#);
    }
}
