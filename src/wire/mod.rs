//! The messages as they stand on the wire: JSON and header twins of what `domain` means.
//!
//! Nothing in `domain` is serialised; what crosses the wire is converted here, in both directions.

pub mod again;
pub mod batch;
pub mod by_lane;
pub mod dead_letter;
pub mod dead_mail;
pub mod email;
pub mod job;
pub mod kept;
pub mod ledger;
pub mod letter;
pub mod mail;
pub mod management;
pub mod notification;
pub mod outcome;
pub mod permitted;
pub mod properties;
pub mod recipient;
pub mod redact;
pub mod scim;
pub mod state;
pub mod token;
pub mod trace;
pub mod waits;

mod object;
mod schema;
mod value;

use std::borrow::Cow;

use jiff::fmt::temporal::Pieces;
use jiff::{Timestamp, Unit};
use lapin::BasicProperties;
use lapin::types::ShortString;
use zeroize::Zeroizing;

/// The bytes of a message that may hold a password: written into room that fits, so that growing leaves no copy behind, and
/// zeroed when dropped.
fn secret_json(message: &impl serde::Serialize) -> Zeroizing<Vec<u8>> {
    let mut count = Count(0);
    let _ = serde_json::to_writer(&mut count, message);
    let mut bytes = Zeroizing::new(Vec::with_capacity(count.0));
    // Writing plain structs of text and numbers into memory has no way to fail.
    let _ = serde_json::to_writer(&mut *bytes, message);
    bytes
}

/// The bytes of a message without secrets.
fn json(message: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(message).unwrap_or_default()
}

/// A text that is borrowed from what is read, within an `Option` too, which a bare `Cow` is not.
#[derive(serde::Serialize, serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] std::borrow::Cow<'a, str>);

/// Counts what is written.
struct Count(usize);

impl std::io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// JSON that outlives a restart of the broker.
fn persistent() -> BasicProperties {
    BasicProperties::default().with_content_type("application/json".into()).with_delivery_mode(2)
}

/// A text cut to what an AMQP short string holds: 255 bytes.
fn short(text: &str) -> ShortString {
    text[..text.floor_char_boundary(255)].into()
}

/// A name from outside, fit for one line of text.
fn quoted(name: &str) -> String {
    format!("\"{}\"", short_name(name))
}

/// The same without quotes, for a list of names.
fn short_name(name: &str) -> String {
    let shown: String = name.chars().take(64).flat_map(char::escape_default).collect();
    if name.chars().count() > 64 { format!("{shown}…") } else { shown }
}

/// A moment as records have it, by which what was noted is known again when it is read.
pub fn to_the_millisecond(at: Timestamp) -> Timestamp {
    at.round(Unit::Millisecond).unwrap_or(at)
}

/// A moment in RFC 3339 (section 5.6), in any of its ways. What lies below a nanosecond is cut off, and what lies beyond the last moment
/// that can be reckoned with, some hours before the year 10000, is that one. An hour of an offset is at most 23, as the RFC has it.
pub fn read_moment(text: &str) -> Option<Timestamp> {
    let nanoseconds = 9;
    let text = match text.find(['.', ',']) {
        Some(dot) => {
            let (before, rest) = text.split_at(dot + 1);
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            Cow::Owned(format!("{before}{}{}", &rest[..digits.min(nanoseconds)], &rest[digits..]))
        }
        None => Cow::Borrowed(text),
    };
    let parts = Pieces::parse(&*text).ok()?;
    let (date, time, offset) = (parts.date(), parts.time()?, parts.to_numeric_offset()?);
    if offset.seconds().unsigned_abs() >= 24 * 3600 {
        return None;
    }
    let last = (date.year() == 9999).then_some(Timestamp::MAX);
    offset.to_timestamp(date.to_datetime(time)).ok().or(last)
}

/// RFC 3339 in UTC, to the millisecond.
pub fn moment(at: Timestamp) -> String {
    to_the_millisecond(at).to_string()
}
