//! The messages as they stand on the wire: JSON and header twins of what `domain` means.
//!
//! Nothing in `domain` is serialised; what crosses the wire is converted here, in both directions.

pub mod dead_letter;
pub mod job;
pub mod notification;
pub mod outcome;
pub mod properties;
pub mod redact;
pub mod scim;
pub mod token;

use jiff::{Timestamp, Unit};
use lapin::BasicProperties;
use lapin::types::ShortString;
use zeroize::Zeroizing;

/// The bytes of a message, zeroed when dropped, since some of them hold a password.
fn json(message: &impl serde::Serialize) -> Zeroizing<Vec<u8>> {
    // Reserved at once, so that growing leaves no copy behind; only a body template of pages outgrows it.
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    // Writing plain structs of text and numbers into memory has no way to fail.
    if serde_json::to_writer(&mut *bytes, message).is_err() {
        bytes.clear();
    }
    bytes
}

/// JSON that outlives a restart of the broker.
fn persistent() -> BasicProperties {
    BasicProperties::default().with_content_type("application/json".into()).with_delivery_mode(2)
}

/// A text cut to what an AMQP short string holds: 255 bytes.
fn short(text: &str) -> ShortString {
    text[..text.floor_char_boundary(255)].into()
}

/// RFC 3339 in UTC, to the millisecond.
fn moment(at: Timestamp) -> String {
    at.round(Unit::Millisecond).unwrap_or(at).to_string()
}
