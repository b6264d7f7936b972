//! A job that is published again, to wait at the broker or to be taken later: a fresh message, with what it has been through in
//! headers of ours. (None of them begins with `x-`: the broker's own are ignored, refused or doubled on some version.)

mod release_0_1;
mod retry;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use super::properties;
use crate::domain::outcome::PasswordSet;
pub use retry::RetryHeaders;

/// Whether an earlier try may have set a password; a dead letter says it under the same name.
pub(super) const PASSWORD_SET: &str = "resetd-password-set";

/// What a delivered job carries; nothing, where it comes from its producer. What cannot be read counts as not there.
pub fn retry_headers(from: &BasicProperties) -> RetryHeaders {
    let carried = from.headers().as_ref().map(carried).unwrap_or_default();
    RetryHeaders { may_be_set: says_it_may_be_set(from), ..carried }
}

fn carried(headers: &FieldTable) -> RetryHeaders {
    match (retry::read(headers), release_0_1::read(headers)) {
        // Both are written as one. Where they differ, a worker of 0.1 came in between: it passes a header that it does not know on as it
        // came, and its own ones are the newer.
        (_, Some(old)) => old,
        (new, None) => new.unwrap_or_default(),
    }
}

/// Whether these properties, of a job or of its dead letter, say that a password may be set by it.
pub(super) fn says_it_may_be_set(from: &BasicProperties) -> bool {
    let said = from.headers().as_ref().and_then(|headers| headers.inner().get(PASSWORD_SET)).and_then(properties::text);
    said.is_some_and(|said| said == PasswordSet::Unknown.as_str() || said == PasswordSet::Yes.as_str())
}

/// That a password may be set by the job, in its headers.
pub(super) fn say_it_may_be_set(headers: &mut FieldTable) {
    headers.insert(PASSWORD_SET.into(), AMQPValue::LongString(PasswordSet::Unknown.as_str().into()));
}

/// The properties of a job that is published again: as it came, less the marks of the broker, with its retry headers.
pub fn properties(from: &BasicProperties, retry_headers: &RetryHeaders) -> BasicProperties {
    let mut headers = headers(from);
    retry::write(&mut headers, retry_headers);
    release_0_1::write(&mut headers, retry_headers);
    if retry_headers.may_be_set {
        say_it_may_be_set(&mut headers);
    }
    kept(from).with_headers(headers).with_delivery_mode(2)
}

/// Whether a header is taken off: the broker's own, those that route, and our retry headers. Each of the first loses, refuses or doubles
/// the message on some version.
pub(super) fn is_taken_off(name: &str) -> bool {
    let brokers = ["x-death", "x-delivery-count", "x-acquired-count", "CC", "BCC"];
    brokers.contains(&name)
        || [retry::NAME, PASSWORD_SET].contains(&name)
        || release_0_1::NAMES.contains(&name)
        || name.starts_with("x-first-death-")
        || name.starts_with("x-last-death-")
}

/// The headers that survive.
pub(super) fn headers(from: &BasicProperties) -> FieldTable {
    let mut headers = FieldTable::default();
    for (name, value) in from.headers().iter().flat_map(|table| table.inner()) {
        if !is_taken_off(name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    headers
}

/// The properties that survive: all but `expiration` and `user_id`, and a `message_id` that was not UTF-8, which names no job.
pub(super) fn kept(from: &BasicProperties) -> BasicProperties {
    let mut kept = BasicProperties::default();
    macro_rules! keep {
        ($($get:ident $set:ident),*) => { $(if let Some(value) = from.$get() { kept = kept.$set(value.clone()); })* };
    }
    keep!(content_type with_content_type, content_encoding with_content_encoding, priority with_priority,
        correlation_id with_correlation_id, reply_to with_reply_to,
        timestamp with_timestamp, kind with_type, app_id with_app_id, cluster_id with_cluster_id);
    match from.message_id().as_ref().filter(|id| !id.is_lossy()) {
        Some(id) => kept.with_message_id(id.clone()),
        None => kept,
    }
}

#[cfg(test)]
mod tests;
