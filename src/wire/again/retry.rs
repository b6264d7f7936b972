//! What a job or a mail has been through, in one header with a version: `resetd-retry`, a JSON object in which what is zero or not there is
//! left out.

use std::borrow::Cow;
use std::num::NonZeroU32;

use jiff::Timestamp;
use lapin::types::{AMQPValue, FieldTable};
use serde::{Deserialize, Serialize};

use crate::wire::{Text, moment, properties};

/// The header's name.
pub(super) const NAME: &str = "resetd-retry";
/// The version that is written.
const VERSION: NonZeroU32 = NonZeroU32::MIN;

/// What a job carries along when it is published again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetryHeaders {
    /// Calls that counted so far.
    pub tried: u32,
    /// Those of them that were probes: they bring the job no nearer to being given up.
    pub probes: u32,
    /// No try before this moment.
    pub until: Option<Timestamp>,
    /// Names the checkpoint of the worker that published it, which has its password.
    pub resume_token: Option<String>,
    /// Deliveries that ended without the job being settled, before it was published again.
    pub deliveries: u64,
    /// How often the org's minimum age of a password refused a try.
    pub too_soon: u32,
    /// Whether an earlier try may have set a password: the job says so whatever its later tries bring, in whichever process. It is a header
    /// of its own, which a dead letter has too.
    pub may_be_set: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Twin<'a> {
    v: NonZeroU32,
    #[serde(default, skip_serializing_if = "is_nothing")]
    tried: u32,
    #[serde(default, skip_serializing_if = "is_nothing")]
    probes: u32,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    until: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    resume_token: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "is_nothing")]
    deliveries: u64,
    #[serde(default, skip_serializing_if = "is_nothing")]
    too_soon: u32,
}

fn is_nothing<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What the header says. One that cannot be read as a whole counts as not there: a job never fails for it.
///
/// Of a later version that is read which this one knows of: it was written by a worker that comes back after a rollback, and a job whose
/// tries were forgotten would have all of them again. So a later version may add fields, and gives those of this one no other meaning.
pub(super) fn read(headers: &FieldTable) -> Option<RetryHeaders> {
    let twin: Twin<'_> = serde_json::from_str(properties::text(headers.inner().get(NAME)?)?).ok()?;
    Some(RetryHeaders {
        tried: twin.tried,
        probes: twin.probes,
        until: twin.until.map(|text| text.0.parse()).transpose().ok()?,
        resume_token: twin.resume_token.map(|text| text.0.into_owned()),
        deliveries: twin.deliveries,
        too_soon: twin.too_soon,
        may_be_set: false,
    })
}

pub(super) fn write(headers: &mut FieldTable, carried: &RetryHeaders) {
    let twin = Twin {
        v: VERSION,
        tried: carried.tried,
        probes: carried.probes,
        until: carried.until.map(|until| Text(Cow::Owned(moment(until)))),
        resume_token: carried.resume_token.as_deref().map(|token| Text(Cow::Borrowed(token))),
        deliveries: carried.deliveries,
        too_soon: carried.too_soon,
    };
    headers.insert(NAME.into(), AMQPValue::LongString(crate::wire::json(&twin).into()));
}
