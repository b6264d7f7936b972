//! A dead letter read back: what an operator asks of it, and the fresh job that it becomes when it is replayed.

use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::Value;

use super::job::field;
use super::object::Pairs;
use super::permitted::MISSING;
use super::properties::{integer, job_id, message_id, text};
use super::{again, dead_letter, kept, ledger, moment, persistent, schema, short};
use crate::domain::attribute::AllowedAttributes;
use crate::domain::job::{JobId, Lane, UnknownLane};
use crate::domain::outcome::Reason;
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
pub struct DeadLetter {
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
    /// The lane it came by; a later version may have others.
    pub lane: Result<Lane, UnknownLane>,
    /// When it was given up.
    pub dead_at: Option<Timestamp>,
    /// Whether it has a body: without one it cannot be replayed.
    pub kept: bool,
    /// The names of values that its job had and it has not.
    pub missing: Vec<String>,
    /// The names of what was left out of it and says nothing to a worker.
    pub left_out: Vec<String>,
}

/// What to do about a letter that cannot be replayed.
const CURE: &str = "send the job again from where it came";

impl DeadLetter {
    /// Reads a message of the queue of dead letters.
    pub fn read(body: &[u8], properties: &BasicProperties) -> Self {
        let headers = Headers(properties.headers().as_ref());
        let death = headers.death();
        let pairs: Pairs<'_> = serde_json::from_slice(body).unwrap_or(Pairs(Vec::new()));
        let once = pairs.once();
        let said = |name: &str| -> Option<String> {
            let value = once.get(name).copied().flatten()?;
            serde_json::from_str(value.get()).ok()
        };
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
            job: name(body, properties),
            user: said(field::USER_ID).and_then(|id| UserId::parse(&id).ok()),
            user_name: said(field::USER_NAME),
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
            missing: headers.texts(MISSING),
            left_out: headers.texts(dead_letter::LEFT_OUT),
        }
    }

    /// Why it cannot be replayed, if so: it would ask for something else than the job that was given up. What the broker itself
    /// dead-lettered is that job as it came.
    pub fn hindrance(&self) -> Option<String> {
        match (self.by, &self.lane) {
            (By::Broker, _) if !self.kept => Some(format!("it has no body; {CURE}")),
            (By::Worker, _) if !self.kept => {
                Some(format!("nothing of its body was kept (it was no JSON object, or over 64 KiB); {CURE}"))
            }
            (By::Worker, _) if !self.missing.is_empty() => {
                Some(format!("what its job had, and it has not: {}; {CURE}", self.missing.join(", ")))
            }
            (By::Worker, _) if self.kept_one_of_two() => {
                Some(format!("a field stood twice, and which of both was meant is not known; {CURE}"))
            }
            (By::Broker | By::Worker, Err(unknown)) => Some(format!("{unknown}; {CURE}")),
            (By::Broker | By::Worker, Ok(_)) => None,
        }
    }

    /// The name of its lane, known or not.
    pub fn lane(&self) -> &str {
        match &self.lane {
            Ok(lane) => lane.as_str(),
            Err(UnknownLane(name)) => name,
        }
    }

    /// Whether it was written by a version that kept one of two values, or what stood in place of a value, and did not say so.
    fn kept_one_of_two(&self) -> bool {
        let of = |detail: &String| detail.contains("stands twice") || detail.contains("$serde_json::private::");
        self.reason == Reason::InvalidJob.as_str() && self.detail.as_ref().is_some_and(of)
    }
}

/// The job's id: its `message_id`, else what its letter says that it was called, else a name made from what it says.
fn name(body: &[u8], properties: &BasicProperties) -> JobId {
    let headers = Headers(properties.headers().as_ref());
    let is_name = |text: &String| {
        text.strip_prefix("sha256:").is_some_and(|hash| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let is_a_workers = headers.get(dead_letter::REASON).is_some() && message_id(properties).is_none();
    match headers.text(dead_letter::JOB_ID).filter(|text| is_a_workers && is_name(text)) {
        Some(text) => JobId::derived(text),
        None => job_id(body, properties),
    }
}

struct Headers<'a>(Option<&'a FieldTable>);

impl<'a> Headers<'a> {
    fn get(&self, name: &str) -> Option<&'a AMQPValue> {
        self.0?.inner().get(name)
    }

    fn text(&self, name: &str) -> Option<String> {
        self.get(name).and_then(text).map(str::to_owned)
    }

    /// A list of texts.
    fn texts(&self, name: &str) -> Vec<String> {
        match self.get(name) {
            Some(AMQPValue::FieldArray(values)) => {
                values.as_slice().iter().filter_map(text).map(str::to_owned).collect()
            }
            Some(_) | None => Vec::new(),
        }
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
    fn lane(&self) -> Result<Lane, UnknownLane> {
        if let Some(name) = self.text(dead_letter::LANE) {
            return Lane::named(&name);
        }
        let queue = Headers(self.death()).text("queue").unwrap_or_default();
        let last = queue.rsplit('.').next().unwrap_or_default();
        Ok(Lane::named(last).unwrap_or(Lane::FIRST))
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
    fresh.with_message_id(short(&format!("{REPLAYED}{}", name(body, properties))))
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
    /// The lane it came by.
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
pub fn dropped(letter: &DeadLetter, org: &str, at: Timestamp) -> (Vec<u8>, BasicProperties) {
    let record = Dropped {
        job_id: letter.job.as_str(),
        org,
        lane: letter.lane(),
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
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    missing: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    left_out: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_shown: Vec<String>,
}

/// A letter as one line of JSON, for other programs; with what may be shown of its body, where one is given.
pub fn line(letter: &DeadLetter, org: &str, shown: Option<Shown>) -> String {
    let (body, not_shown) = shown.map(|shown| (shown.body, shown.not_shown)).unzip();
    let line = Line {
        job_id: letter.job.as_str(),
        org,
        lane: letter.lane(),
        user_id: letter.user.as_ref().map(UserId::as_str),
        batch: letter.batch.as_deref(),
        reason: &letter.reason,
        by: letter.by,
        status: letter.status,
        attempts: letter.attempts,
        password_set: letter.password_set.as_deref(),
        dead_at: letter.dead_at.map(moment),
        detail: letter.detail.as_deref(),
        can_be_replayed: letter.hindrance().is_none(),
        missing: &letter.missing,
        left_out: &letter.left_out,
        body,
        not_shown: not_shown.unwrap_or_default(),
    };
    serde_json::to_string(&line).unwrap_or_default()
}

/// A body as it may be shown: what the broker itself dead-lettered, or an older version, lies as it came.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown {
    /// What a letter would keep of it; null where that is nothing.
    pub body: Value,
    /// The names of what is there and not shown.
    pub not_shown: Vec<String>,
}

/// What may be shown of a body: what a letter keeps, and of the rest the names.
pub fn shown(body: &[u8], allowed: &AllowedAttributes) -> Shown {
    if body.is_empty() {
        return Shown { body: Value::Null, not_shown: Vec::new() };
    }
    let kept = kept::of(body, allowed);
    let not_shown = [kept.missing, kept.left_out].concat();
    Shown { body: serde_json::from_slice(&kept.body).unwrap_or_default(), not_shown }
}

#[cfg(test)]
mod tests;
