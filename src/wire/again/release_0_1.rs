//! What release 0.1 wrote in place of `resetd-retry`: a header for each value. For one release they are written and read too, since a
//! worker of 0.1 may take the job in an upgrade or after a rollback.
//!
//! The next release deletes this file. It goes on taking off [`NAMES`] for one release more: jobs of this one carry them still.

use lapin::types::{AMQPValue, FieldTable};

use super::retry::RetryHeaders;
use crate::wire::{moment, properties};

const TRIED: &str = "resetd-tried";
const PROBES: &str = "resetd-probes";
const UNTIL: &str = "resetd-until";
const TRIP: &str = "resetd-trip";
/// What `resetd-trip` was called between 0.1 and this release, which wrote both. A worker of 0.1 passes it on as it came.
const RESUME_TOKEN: &str = "resetd-resume-token";
const DELIVERIES: &str = "resetd-deliveries";
const TOO_SOON: &str = "resetd-too-soon";

/// All of them.
pub(super) const NAMES: [&str; 7] = [TRIED, PROBES, UNTIL, TRIP, RESUME_TOKEN, DELIVERIES, TOO_SOON];

/// What they say, where one of them is there. One that cannot be read counts as not there.
pub(super) fn read(headers: &FieldTable) -> Option<RetryHeaders> {
    let headers = headers.inner();
    if !NAMES.iter().any(|name| headers.contains_key(*name)) {
        return None;
    }
    let number = |name| headers.get(name).and_then(properties::integer).and_then(|n| u64::try_from(n).ok());
    let count = |name| number(name).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let text = |name| headers.get(name).and_then(properties::text);
    Some(RetryHeaders {
        tried: count(TRIED),
        probes: count(PROBES),
        until: text(UNTIL).and_then(|text| text.parse().ok()),
        resume_token: text(TRIP).or_else(|| text(RESUME_TOKEN)).map(str::to_owned),
        deliveries: number(DELIVERIES).unwrap_or(0),
        too_soon: count(TOO_SOON),
        may_be_set: false,
    })
}

pub(super) fn write(headers: &mut FieldTable, carried: &RetryHeaders) {
    let mut say = |name: &str, value: AMQPValue| {
        headers.insert(name.into(), value);
    };
    say(TRIED, AMQPValue::LongLongInt(carried.tried.into()));
    if carried.probes > 0 {
        say(PROBES, AMQPValue::LongLongInt(carried.probes.into()));
    }
    if let Some(until) = carried.until {
        say(UNTIL, AMQPValue::LongString(moment(until).into()));
    }
    if let Some(token) = &carried.resume_token {
        say(TRIP, AMQPValue::LongString(token.as_str().into()));
    }
    if carried.deliveries > 0 {
        say(DELIVERIES, AMQPValue::LongLongInt(carried.deliveries.try_into().unwrap_or(i64::MAX)));
    }
    if carried.too_soon > 0 {
        say(TOO_SOON, AMQPValue::LongLongInt(carried.too_soon.into()));
    }
}
