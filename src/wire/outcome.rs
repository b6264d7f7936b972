//! The record of a job's end, as `outcomes` and `reply_to` get it: `docs/contract.md#outcomes`.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::Value;

use super::{json, moment, persistent, schema, short};
use crate::domain::outcome::Outcome;

/// The largest `scimResponse`, in bytes of JSON.
pub const MAX_RESPONSE: usize = 16 * 1024;
/// When the reset was asked for, in seconds since 1970: what a ledger needs to know which of two is newer.
pub const ASKED_AT: &str = "resetd-asked-at";

/// The `type` of the message.
pub const TYPE: &str = "outcome";

/// How a job ended. It never holds a secret.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "Outcome")]
struct Record<'a> {
    /// Its `message_id`, or the name that was made of what it says.
    job_id: &'a str,
    /// The org's name in the worker's configuration.
    org: &'a str,
    /// The lane it came by.
    #[schemars(schema_with = "schema::lane")]
    lane: &'a str,
    /// Whose password: the id at the org; null where it is not known.
    user_id: Option<&'a str>,
    /// The batch it belongs to.
    batch: Option<&'a str>,
    /// How it ended.
    #[schemars(schema_with = "schema::outcome")]
    outcome: &'a str,
    /// Whether its producer may be content: true for `succeeded`, `passed_through` and `duplicate`.
    success: bool,
    /// Why it was dead-lettered; null where it was not.
    #[schemars(schema_with = "schema::reason_or_null")]
    reason: Option<&'a str>,
    /// The status of the org's last answer; null where there was none.
    status: Option<u16>,
    /// Calls that counted: those not answered, and those answered by anything but a 429 or a first 401.
    attempts: u32,
    /// Whether the password is set; `unknown` where a call that failed may have been carried out.
    #[schemars(schema_with = "schema::password_set")]
    password_set: &'a str,
    /// The outcome in words.
    message: &'a str,
    /// What exactly was wrong, in the org's words where it had some.
    detail: Option<&'a str>,
    /// When it ended.
    #[schemars(schema_with = "schema::moment")]
    finished_at: String,
}

/// An outcome, sent to the job's `reply_to`, with what the org said.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "Reply")]
struct Reply<'a> {
    #[serde(flatten)]
    record: Record<'a>,
    /// The org's JSON answer to the last call, less secrets; null where there was none, or where it is larger than 16 KiB.
    scim_response: Option<&'a Value>,
}

/// What the exchange of outcomes gets.
pub fn schema() -> Schema {
    schema::of::<Record<'_>>()
}

/// What a job's `reply_to` gets.
pub fn reply_schema() -> Schema {
    schema::of::<Reply<'_>>()
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
        persistent().with_type(TYPE.into()).with_correlation_id(short(outcome.job.as_str())).with_headers(headers);
    (json(&twin(outcome)), properties)
}

/// What the producer gets who asked for a reply: the record, and the org's answer where it is JSON of at most 16 KiB.
pub fn reply(outcome: &Outcome, correlation_id: Option<&str>, response: Option<&Value>) -> (Vec<u8>, BasicProperties) {
    let response = response.filter(|value| value.to_string().len() <= MAX_RESPONSE);
    let mut properties = persistent().with_type(TYPE.into());
    if let Some(id) = correlation_id {
        properties = properties.with_correlation_id(short(id));
    }
    (json(&Reply { record: twin(outcome), scim_response: response }), properties)
}
