//! The record in which the worker of an org says how it stands: the rate in force, and what keeps its jobs. Written straight to the stream
//! of outcomes, for those who follow a batch and for workers that stand by.

use std::borrow::Cow;

use jiff::Timestamp;
use lapin::BasicProperties;
use serde::{Deserialize, Serialize};

use super::by_lane::ByLane;
use super::{Text, json, moment, persistent};
use crate::domain::blocked::{Blocked, Cause, Status};
use crate::domain::job::Lane;
use crate::domain::ledger::WorkerName;

/// The `type` of the record.
pub const STATE: &str = "state";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    org: &'a str,
    worker: &'a str,
    rate_per_minute: u32,
    blocked: Option<Block<'a>>,
    #[serde(flatten)]
    closed: ByLane<Option<Block<'a>>>,
    at: String,
}

#[derive(Serialize)]
struct Block<'a> {
    cause: Cow<'static, str>,
    reason: &'a str,
    until: Option<String>,
}

impl<'a> Block<'a> {
    fn of(blocked: &'a Blocked) -> Self {
        Self { cause: blocked.cause.as_str(), reason: &blocked.reason, until: blocked.until.map(moment) }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read<'a> {
    #[serde(borrow)]
    org: Cow<'a, str>,
    rate_per_minute: u32,
    #[serde(borrow, default)]
    blocked: Option<ReadBlock<'a>>,
    #[serde(borrow, flatten)]
    closed: ByLane<Option<ReadBlock<'a>>>,
}

#[derive(Deserialize)]
struct ReadBlock<'a> {
    #[serde(borrow)]
    cause: Cow<'a, str>,
    #[serde(borrow)]
    reason: Cow<'a, str>,
    #[serde(borrow, default)]
    until: Option<Text<'a>>,
}

impl ReadBlock<'_> {
    fn blocked(self) -> Option<Blocked> {
        let until = self.until.and_then(|until| until.0.parse().ok());
        Some(Blocked { cause: Cause::named(&self.cause)?, reason: self.reason.into_owned(), until })
    }
}

/// The record of how an org's worker stands.
pub fn record(org: &str, worker: &WorkerName, status: &Status, at: Timestamp) -> (Vec<u8>, BasicProperties) {
    let record = Record {
        org,
        worker: worker.as_str(),
        rate_per_minute: status.rate,
        blocked: status.blocked.as_ref().map(Block::of),
        closed: ByLane::all(status.closed.each_ref().map(|closed| closed.as_ref().map(Block::of)))
            // `bulk` has been there from the first, null while that lane is open.
            .without(|lane, closed| closed.is_none() && lane != Lane::Bulk),
        at: moment(at),
    };
    (json(&record), persistent().with_type(STATE.into()))
}

/// Whose record it is and what it says; `None` where it is none, or cannot be read.
pub fn read<'a>(body: &'a [u8], properties: &BasicProperties) -> Option<(Cow<'a, str>, Status)> {
    properties.kind().as_ref().filter(|kind| kind.as_str() == STATE)?;
    let Read { org, rate_per_minute, blocked, closed } = serde_json::from_slice(body).ok()?;
    let closed = closed.values().map(|block| block.flatten().and_then(ReadBlock::blocked));
    Some((org, Status { rate: rate_per_minute, blocked: blocked.and_then(ReadBlock::blocked), closed }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_written_and_a_cause_that_is_not_known_is_none() {
        let at = Timestamp::from_second(1_800_000_000).unwrap();
        let blocked = Blocked { cause: Cause::Halted, reason: "the org refuses a fresh token".into(), until: Some(at) };
        let bulk = Blocked { cause: Cause::LaneClosed(Lane::Bulk), reason: "its hours".into(), until: None };
        let mut status = Status { rate: 300, blocked: Some(blocked), closed: [const { None }; Lane::COUNT] };
        let (body, _) = record("main", &WorkerName::new("w"), &status, at);
        assert!(
            String::from_utf8_lossy(&body).contains(r#"},"bulk":null,"at":"#),
            "{}",
            String::from_utf8_lossy(&body)
        );
        status.closed[Lane::Bulk.index()] = Some(bulk);
        let (body, properties) = record("main", &WorkerName::new("w"), &status, at);
        assert_eq!(
            String::from_utf8_lossy(&body),
            r#"{"org":"main","worker":"w","ratePerMinute":300,"blocked":{"cause":"halted","reason":"the org refuses a fresh token","until":"2027-01-15T08:00:00Z"},"bulk":{"cause":"bulk_closed","reason":"its hours","until":null},"at":"2027-01-15T08:00:00Z"}"#
        );
        assert_eq!(read(&body, &properties), Some(("main".into(), status.clone())));
        let reason = "too many".into();
        let cause = Cause::LaneClosed(Lane::Interactive);
        status.closed[Lane::Interactive.index()] = Some(Blocked { cause, reason, until: Some(at) });
        let (body, properties) = record("main", &WorkerName::new("w"), &status, at);
        assert_eq!(read(&body, &properties), Some(("main".into(), status)));
        let later = br#"{"org":"main","ratePerMinute":60,"blocked":{"cause":"unheard_of","reason":""}}"#;
        let read = |body| read(body, &properties).map(|(_, status)| status);
        assert_eq!(read(later), Some(Status { rate: 60, blocked: None, closed: [const { None }; Lane::COUNT] }));
        let newer = br#"{"org":"main","ratePerMinute":60,"no-lane":{"n":1},"bulk":null,"at":5}"#;
        assert_eq!(read(newer), read(later), "another lane, and what else there may be, is passed over");
        assert_eq!((read(b"{"), read(br#"{"org":"main"}"#)), (None, None));
    }
}
