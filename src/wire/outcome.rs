//! The record of a job's end, as `outcomes` and `reply_to` get it: section 6 of the contract.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde::Serialize;
use serde_json::Value;

use super::{json, moment, persistent, short};
use crate::domain::outcome::Outcome;

/// The largest `scimResponse`, in bytes of JSON.
pub const MAX_RESPONSE: usize = 16 * 1024;
/// When the reset was asked for, in seconds since 1970: what a ledger needs to know which of two is newer.
pub const ASKED_AT: &str = "resetd-asked-at";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    job_id: &'a str,
    org: &'a str,
    lane: &'a str,
    user_id: Option<&'a str>,
    batch: Option<&'a str>,
    outcome: &'a str,
    success: bool,
    reason: Option<&'a str>,
    status: Option<u16>,
    attempts: u32,
    password_set: &'a str,
    message: &'a str,
    detail: Option<&'a str>,
    finished_at: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reply<'a> {
    #[serde(flatten)]
    record: Record<'a>,
    scim_response: Option<&'a Value>,
}

fn twin(outcome: &Outcome) -> Record<'_> {
    Record {
        job_id: outcome.job.as_str(),
        org: &outcome.org,
        lane: outcome.lane.as_str(),
        user_id: outcome.user.as_ref().map(|user| user.as_str()),
        batch: outcome.batch.as_deref(),
        outcome: outcome.kind.as_str(),
        success: outcome.kind.is_success(),
        reason: outcome.reason.map(|reason| reason.as_str()),
        status: outcome.status,
        attempts: outcome.attempts,
        password_set: outcome.password_set.as_str(),
        message: outcome.message(),
        detail: outcome.detail.as_deref(),
        finished_at: moment(outcome.finished_at),
    }
}

/// What the stream of outcomes gets.
pub fn record(outcome: &Outcome) -> (Vec<u8>, BasicProperties) {
    let mut headers = FieldTable::default();
    if let Some(asked_at) = outcome.asked_at {
        headers.insert(ASKED_AT.into(), AMQPValue::LongLongInt(asked_at.as_second()));
    }
    let properties =
        persistent().with_type("outcome".into()).with_correlation_id(short(outcome.job.as_str())).with_headers(headers);
    (json(&twin(outcome)), properties)
}

/// What the producer gets who asked for a reply: the record, and the org's answer where it is JSON of at most 16 KiB.
pub fn reply(outcome: &Outcome, correlation_id: Option<&str>, response: Option<&Value>) -> (Vec<u8>, BasicProperties) {
    let response = response.filter(|value| value.to_string().len() <= MAX_RESPONSE);
    let mut properties = persistent().with_type("outcome".into());
    if let Some(id) = correlation_id {
        properties = properties.with_correlation_id(short(id));
    }
    (json(&Reply { record: twin(outcome), scim_response: response }), properties)
}
