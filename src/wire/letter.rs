//! A dead letter read back: what an operator asks of it, and the fresh job that it becomes when it is replayed.

use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::properties::{integer, job_id, message_id, text};
use super::{again, dead_letter, ledger, moment, persistent, redact, schema, short};
use crate::domain::job::{JobId, Lane};
use crate::domain::user::UserId;

/// Before the name of a job that had none: with it as its `message_id`, a letter that is replayed twice is done once. (The bare name
/// counts as done for redeliveries only, so that two equal jobs are two jobs.)
const REPLAYED: &str = "replay:";
/// What all headers of ours begin with; a replayed job begins without them.
const OURS: &str = "resetd-";

/// Who gave the job up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// A worker, which says why in its headers.
    Worker,
    /// The broker itself; its reason is in `x-death`.
    Broker,
}

/// A dead letter without its body: no mail address and no secret. What its headers do not say, or say in an odd way, is not there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Letter {
    /// The job's id.
    pub job: JobId,
    /// Whose password, where the body tells.
    pub user: Option<UserId>,
    /// The login name that stands in place of the id.
    pub user_name: Option<String>,
    /// The batch it belongs to.
    pub batch: Option<String>,
    /// Why it was given up.
    pub reason: String,
    /// By whom.
    pub by: By,
    /// What exactly was wrong.
    pub detail: Option<String>,
    /// The status of the org's last answer.
    pub status: Option<u16>,
    /// Calls that counted.
    pub attempts: Option<u32>,
    /// What is known of the password: `yes`, `no` or `unknown`.
    pub password_set: Option<String>,
    /// The lane it came by.
    pub lane: Lane,
    /// When it was given up.
    pub dead_at: Option<Timestamp>,
    /// Whether its body was kept: without one it cannot be replayed.
    pub kept: bool,
}

impl Letter {
    /// Reads a message of the queue of dead letters.
    pub fn read(body: &[u8], properties: &BasicProperties) -> Self {
        let headers = Headers(properties.headers().as_ref());
        let death = headers.death();
        let who: Who = serde_json::from_slice(body).unwrap_or_default();
        let number = |name: &str| headers.get(name).and_then(integer);
        let (reason, by) = match (headers.text(dead_letter::REASON), death) {
            (Some(reason), _) => (reason, By::Worker),
            (None, Some(death)) => (Headers(Some(death)).text("reason").unwrap_or_default(), By::Broker),
            (None, None) => ("unknown".to_owned(), By::Broker),
        };
        let died_at = || match Headers(death).get("time") {
            Some(AMQPValue::Timestamp(seconds)) => Timestamp::from_second(i64::try_from(*seconds).ok()?).ok(),
            Some(_) | None => None,
        };
        Self {
            job: job_id(body, properties),
            user: who.user_id.as_ref().and_then(Value::as_str).and_then(|id| UserId::parse(id).ok()),
            user_name: who.user_name.as_ref().and_then(Value::as_str).map(str::to_owned),
            batch: headers.text("batch"),
            reason,
            by,
            detail: headers.text(dead_letter::DETAIL).filter(|detail| !detail.is_empty()),
            status: number(dead_letter::STATUS).and_then(|status| u16::try_from(status).ok()),
            attempts: number(dead_letter::ATTEMPTS).and_then(|attempts| u32::try_from(attempts).ok()),
            password_set: headers.text(dead_letter::PASSWORD_SET),
            lane: headers.lane(),
            dead_at: headers.text(dead_letter::DEAD_AT).and_then(|text| text.parse().ok()).or_else(died_at),
            kept: !body.is_empty(),
        }
    }
}

/// As far as a body tells whom it is about; one odd field does not hide the other.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Who {
    user_id: Option<Value>,
    user_name: Option<Value>,
}

struct Headers<'a>(Option<&'a FieldTable>);

impl<'a> Headers<'a> {
    fn get(&self, name: &str) -> Option<&'a AMQPValue> {
        self.0?.inner().get(name)
    }

    fn text(&self, name: &str) -> Option<String> {
        self.get(name).and_then(text).map(str::to_owned)
    }

    /// The broker's newest record of a dead-lettering.
    fn death(&self) -> Option<&'a FieldTable> {
        let Some(AMQPValue::FieldArray(deaths)) = self.get("x-death") else { return None };
        match deaths.as_slice().first() {
            Some(AMQPValue::FieldTable(death)) => Some(death),
            Some(_) | None => None,
        }
    }

    /// The worker says it; what the broker dead-lettered lay in the queue of its lane.
    fn lane(&self) -> Lane {
        let bulk = match self.text(dead_letter::LANE) {
            Some(lane) => lane == Lane::Bulk.as_str(),
            None => Headers(self.death()).text("queue").is_some_and(|queue| queue.ends_with(".bulk")),
        };
        if bulk { Lane::Bulk } else { Lane::Interactive }
    }
}

/// The properties of the fresh job that a letter becomes; its body is the letter's own. No mark of the broker's goes along and none of
/// ours but that a password may be set by an earlier try: what the fresh job ends with says so too. It keeps its id, or gets one: so that it is done once, however often it is replayed.
pub fn replayed(body: &[u8], properties: &BasicProperties) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in again::headers(properties).inner() {
        if !name.as_str().starts_with(OURS) {
            headers.insert(name.clone(), value.clone());
        }
    }
    if again::says_it_may_be_set(properties) {
        again::say_it_may_be_set(&mut headers);
    }
    let named = message_id(properties).is_some();
    let fresh = again::kept(properties).with_headers(headers).with_delivery_mode(2);
    if named {
        return fresh;
    }
    fresh.with_message_id(short(&format!("{REPLAYED}{}", job_id(body, properties))))
}

/// That an operator took a dead letter away for good.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "Dropped")]
struct Dropped<'a> {
    /// The job's id.
    job_id: &'a str,
    /// The org's name in the worker's configuration.
    org: &'a str,
    /// Which of the two queues it came by.
    #[schemars(schema_with = "schema::lane")]
    lane: &'a str,
    /// Whose password, where the letter told.
    user_id: Option<&'a str>,
    /// The batch it belongs to.
    batch: Option<&'a str>,
    /// Why it had been dead-lettered: a reason of the worker's, or the broker's own (`delivery_limit`, `expired`, …).
    reason: &'a str,
    /// When it had been dead-lettered; null where nothing says so.
    #[schemars(schema_with = "schema::moment_or_null")]
    dead_at: Option<String>,
    /// When it was taken away.
    #[schemars(schema_with = "schema::moment")]
    dropped_at: String,
}

/// What the exchange of outcomes gets for a letter that an operator dropped.
pub fn schema() -> Schema {
    schema::of::<Dropped<'_>>()
}

/// The record of a letter that an operator dropped.
pub fn dropped(letter: &Letter, org: &str, at: Timestamp) -> (Vec<u8>, BasicProperties) {
    let record = Dropped {
        job_id: letter.job.as_str(),
        org,
        lane: letter.lane.as_str(),
        user_id: letter.user.as_ref().map(UserId::as_str),
        batch: letter.batch.as_deref(),
        reason: &letter.reason,
        dead_at: letter.dead_at.map(moment),
        dropped_at: moment(at),
    };
    let properties = persistent().with_type(ledger::DROPPED.into()).with_correlation_id(short(letter.job.as_str()));
    (super::json(&record), properties)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    job_id: &'a str,
    org: &'a str,
    lane: &'a str,
    user_id: Option<&'a str>,
    batch: Option<&'a str>,
    reason: &'a str,
    by: By,
    status: Option<u16>,
    attempts: Option<u32>,
    password_set: Option<&'a str>,
    dead_at: Option<String>,
    detail: Option<&'a str>,
    can_be_replayed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Value>,
}

/// A letter as one line of JSON, for other programs; with its body, less secrets, where one is given.
pub fn line(letter: &Letter, org: &str, body: Option<&[u8]>) -> String {
    let line = Line {
        job_id: letter.job.as_str(),
        org,
        lane: letter.lane.as_str(),
        user_id: letter.user.as_ref().map(UserId::as_str),
        batch: letter.batch.as_deref(),
        reason: &letter.reason,
        by: letter.by,
        status: letter.status,
        attempts: letter.attempts,
        password_set: letter.password_set.as_deref(),
        dead_at: letter.dead_at.map(moment),
        detail: letter.detail.as_deref(),
        can_be_replayed: letter.kept,
        body: body.map(shown),
    };
    serde_json::to_string(&line).unwrap_or_default()
}

/// A body that may be shown: less its secrets (what the broker itself dead-lettered lies as it came), as JSON, or else as a text.
pub fn shown(body: &[u8]) -> Value {
    let body = redact::body(body);
    serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned().into())
}

#[cfg(test)]
mod tests;
