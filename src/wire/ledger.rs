//! The records of the stream of outcomes: read, as far as the index and the statistics want to know them, and the worker's own two, written.
//!
//! Anyone may publish there: a record that cannot be read is passed over. 432,000 are read at a worker's start, so that nothing is
//! copied which need not be.

use std::borrow::Cow;
use std::time::Duration;

use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::AMQPValue;
use serde::{Deserialize, Serialize};

use super::batch::{self, About};
use super::mail;
use super::outcome::{self, ASKED_AT};
use super::properties::integer;
use super::{Text, json, moment, persistent, state};
use crate::domain::batch::Record;
use crate::domain::blocked::Status;
use crate::domain::ended::Ended;
use crate::domain::job::Lane;
use crate::domain::ledger::{Entry, Fence, WorkerName};
use crate::domain::mailing::Mailed;
use crate::domain::outcome::OutcomeKind;

/// The `type` of the record of one who leads, or is about to.
const FENCE: &str = "fence";
/// The `type` of the record of one who gave that up.
const RELEASED: &str = "released";
/// The `type` of a dead letter that an operator gave up for good.
pub const DROPPED: &str = "dropped";
/// The longest that a call is believed to take: a successor waits for it.
const LONGEST_CALL: Duration = Duration::from_secs(600);
/// The longest name or id that is believed, in bytes: what an AMQP short string holds.
const MAX_NAME: usize = 255;
/// The header in which the broker says where in its stream a record stands.
const OFFSET: &str = "x-stream-offset";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Done<'a> {
    #[serde(borrow)]
    job_id: Cow<'a, str>,
    #[serde(borrow)]
    org: Cow<'a, str>,
    #[serde(borrow, default)]
    user_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    batch: Option<Text<'a>>,
    #[serde(borrow, default)]
    lane: Option<Text<'a>>,
    #[serde(borrow)]
    outcome: Cow<'a, str>,
    #[serde(borrow, default)]
    reason: Option<Text<'a>>,
    #[serde(borrow, default)]
    detail: Option<Text<'a>>,
    #[serde(default)]
    status: Option<u16>,
    #[serde(borrow)]
    finished_at: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dropped<'a> {
    #[serde(borrow)]
    job_id: Cow<'a, str>,
    #[serde(borrow)]
    org: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Leader<'a> {
    #[serde(borrow)]
    org: Cow<'a, str>,
    #[serde(borrow)]
    worker: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    fence: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    term: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    longest_call_ms: Option<u64>,
    #[serde(borrow)]
    at: Cow<'a, str>,
}

/// What a record tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerRecord<'a> {
    /// A job ended.
    Ended(Ended<'a>),
    /// A failed job was given up for good.
    Dropped {
        /// Its org.
        org: Cow<'a, str>,
        /// Its id.
        job: Cow<'a, str>,
    },
    /// A batch is sent.
    Batch(About<'a>),
    /// What became of a mail.
    Mailed(Mailed<'a>),
    /// Who leads, or led.
    Leader(Entry<'a>),
    /// The worker of an org says how it stands.
    State {
        /// The org.
        org: Cow<'a, str>,
        /// How it stands.
        status: Status,
    },
}

impl LedgerRecord<'_> {
    /// What it says of a batch; `None` where it is about none.
    pub fn of_batch(&self) -> Option<About<'_>> {
        let about = |org, batch, record| About { org: Cow::Borrowed(org), batch: Cow::Borrowed(batch), record };
        match self {
            Self::Ended(ended) => Some(about(&*ended.org, ended.batch.as_deref()?, Record::of_end(ended)?)),
            Self::Mailed(mailed) => Some(about(&*mailed.org, mailed.batch.as_deref()?, Record::of_mail(mailed))),
            Self::Batch(About { org, batch, record }) => Some(about(org, batch, record.clone())),
            Self::Dropped { .. } | Self::Leader(_) | Self::State { .. } => None,
        }
    }
}

/// What a record says; `None` where it is none of these, or cannot be read.
pub fn read<'a>(body: &'a [u8], properties: &BasicProperties) -> Option<LedgerRecord<'a>> {
    match properties.kind().as_ref()?.as_str() {
        outcome::TYPE => ended(body, properties).map(LedgerRecord::Ended),
        DROPPED => {
            let Dropped { job_id, org } = serde_json::from_slice(body).ok()?;
            Some(LedgerRecord::Dropped { org, job: job_id })
        }
        FENCE => {
            let Leader { org, worker, fence, term, longest_call_ms, at } = leader(body)?;
            let id = fence.filter(|id| fits(id))?;
            let longest_call = longest_call_ms.map(|ms| Duration::from_millis(ms).min(LONGEST_CALL));
            let fence = Fence { worker, id, term, longest_call, at: at.parse().ok()? };
            Some(LedgerRecord::Leader(Entry::Fence { org, fence }))
        }
        RELEASED => {
            let Leader { org, worker, term, at, .. } = leader(body)?;
            Some(LedgerRecord::Leader(Entry::Released { org, worker, term, at: at.parse().ok()? }))
        }
        batch::BATCH => batch::announced(body).map(LedgerRecord::Batch),
        mail::TYPE => mail::read(body).map(LedgerRecord::Mailed),
        state::STATE => state::read(body, properties).map(|(org, status)| LedgerRecord::State { org, status }),
        _ => None,
    }
}

fn ended<'a>(body: &'a [u8], properties: &BasicProperties) -> Option<Ended<'a>> {
    let Done { job_id, org, user_id, batch, lane, outcome, reason, detail, status, finished_at } =
        serde_json::from_slice(body).ok()?;
    let name = |name: Option<Text<'a>>| name.map(|text| text.0).filter(|text| text.len() <= MAX_NAME);
    // As long as a job's may be, which is counted in characters.
    let batch = batch.map(|text| text.0).filter(|text| text.chars().count() <= MAX_NAME);
    (job_id.len() <= MAX_NAME).then_some(())?;
    Some(Ended {
        org,
        job: job_id,
        user: name(user_id),
        batch,
        asked_at: asked_at(properties),
        lane: lane.and_then(|lane| Lane::named(&lane.0).ok()),
        kind: OutcomeKind::named(&outcome)?,
        reason: reason.map(|reason| reason.0),
        detail: detail.map(|detail| detail.0),
        status,
        at: finished_at.parse().ok()?,
    })
}

fn asked_at(properties: &BasicProperties) -> Option<Timestamp> {
    let seconds = properties.headers().as_ref()?.inner().get(ASKED_AT).and_then(integer)?;
    Timestamp::from_second(seconds).ok()
}

fn leader(body: &[u8]) -> Option<Leader<'_>> {
    let leader: Leader<'_> = serde_json::from_slice(body).ok()?;
    let is_believed = fits(&leader.org) && fits(&leader.worker) && leader.term.as_deref().is_none_or(fits);
    is_believed.then_some(leader)
}

fn fits(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME
}

/// Where in its stream a record stands.
pub fn offset(properties: &BasicProperties) -> Option<u64> {
    let offset: &AMQPValue = properties.headers().as_ref()?.inner().get(OFFSET)?;
    integer(offset).and_then(|offset| u64::try_from(offset).ok())
}

/// The record of a worker that leads an org, or is about to.
pub fn fence(org: &str, fence: &Fence<'_>) -> (Vec<u8>, BasicProperties) {
    let Fence { worker, id, term, longest_call, at } = fence;
    let millis = longest_call.map(|longest| u64::try_from(longest.as_millis()).unwrap_or(u64::MAX));
    let at = moment(*at);
    write(
        FENCE,
        &Leader {
            org: org.into(),
            worker: (&**worker).into(),
            fence: Some((&**id).into()),
            term: term.as_deref().map(Cow::Borrowed),
            longest_call_ms: millis,
            at: at.as_str().into(),
        },
    )
}

/// The record of a worker that gives its leading of an org up; its term began with the fence of this id.
pub fn released(org: &str, worker: &WorkerName, term: &str, at: Timestamp) -> (Vec<u8>, BasicProperties) {
    let at = moment(at);
    write(
        RELEASED,
        &Leader {
            org: org.into(),
            worker: worker.as_str().into(),
            fence: None,
            term: Some(term.into()),
            longest_call_ms: None,
            at: at.as_str().into(),
        },
    )
}

fn write(kind: &str, record: &Leader<'_>) -> (Vec<u8>, BasicProperties) {
    (json(record), persistent().with_type(kind.into()))
}

#[cfg(test)]
mod tests;
