//! What may be kept of the properties and headers of a job, or of a mail, that is given up: those that the contract names, where they
//! are of the form that it gives them; of others the names. Whatever else a producer sends along may be a secret.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use super::properties::{BATCH, NOT_AFTER, NOT_BEFORE};
use super::trace::TRACEPARENT;
use super::{again, properties, short_name, trace};
use crate::domain::refusal::Refusal;

/// The header by which a dead letter names the values that it lost.
pub(super) const MISSING: &str = "resetd-missing";
/// A moment that is longer than this says nothing more by that.
const MAX_MOMENT: usize = 64;
/// What is missing of a job whose body is that of a letter that had lost something.
const LOST_BEFORE: &str = "what an earlier letter of it had lost";

/// The properties that are kept, and the names of others that a producer gave.
pub(super) fn properties(from: &BasicProperties) -> (BasicProperties, Vec<String>) {
    let mut kept = BasicProperties::default().with_delivery_mode(2);
    macro_rules! keep {
        ($($get:ident $set:ident),*) => { $(if let Some(value) = from.$get() { kept = kept.$set(value.clone()); })* };
    }
    keep!(content_type with_content_type, priority with_priority, correlation_id with_correlation_id,
        reply_to with_reply_to, timestamp with_timestamp, app_id with_app_id);
    if let Some(id) = from.message_id().as_ref().filter(|id| !id.is_lossy()) {
        kept = kept.with_message_id(id.clone());
    }
    let others = [
        ("content_encoding", from.content_encoding().is_some()),
        ("type", from.kind().is_some()),
        ("cluster_id", from.cluster_id().is_some()),
    ];
    let left_out = others.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| format!("property {name}"));
    (kept, left_out.collect())
}

/// The headers that are kept, and the names of those that are not.
#[derive(Default)]
pub(super) struct Headers {
    /// By which a producer wishes something.
    pub(super) kept: FieldTable,
    /// A wish that nobody can read: without it this is not the job that it was.
    pub(super) missing: Vec<String>,
    /// Which say nothing to us.
    pub(super) left_out: Vec<String>,
}

/// The headers by which a producer wishes something, those that can be read. The marks of the broker, of a retry, and those that are
/// written anew are not named.
pub(super) fn headers(from: &BasicProperties, written: &[&str]) -> Headers {
    let mut headers = Headers::default();
    let Some(table) = from.headers() else { return headers };
    for (name, value) in table.inner() {
        let named = || format!("header {}", short_name(name.as_str()));
        let kept = match name.as_str() {
            TRACEPARENT => {
                if trace::parent(from).is_none() {
                    headers.left_out.push(named());
                    continue;
                }
                Some(value.clone())
            }
            BATCH => properties::batch(Some(table)).ok().map(|_| value.clone()),
            NOT_BEFORE => moment(table, NOT_BEFORE, value),
            NOT_AFTER => moment(table, NOT_AFTER, value),
            other => {
                if !again::is_taken_off(other) && !written.contains(&other) {
                    headers.left_out.push(named());
                }
                continue;
            }
        };
        match kept {
            Some(value) => _ = headers.kept.insert(name.clone(), value),
            None => headers.missing.push(named()),
        }
    }
    if has_lost(from) {
        headers.missing.push(LOST_BEFORE.into());
    }
    headers
}

/// A moment that can be read, and is as short as one is.
fn moment(table: &FieldTable, name: &'static str, value: &AMQPValue) -> Option<AMQPValue> {
    let moment = properties::moment(Some(table), name).ok()?;
    let is_long = properties::text(value).is_some_and(|text| text.len() > MAX_MOMENT);
    match moment.filter(|_| is_long) {
        Some(moment) => Some(AMQPValue::LongString(moment.to_string().into())),
        None => Some(value.clone()),
    }
}

/// Whether these are the properties of a dead letter that lost a value.
fn has_lost(from: &BasicProperties) -> bool {
    let missing = from.headers().as_ref().and_then(|headers| headers.inner().get(MISSING));
    match missing {
        None | Some(AMQPValue::Void) => false,
        Some(AMQPValue::FieldArray(names)) => !names.as_slice().is_empty(),
        Some(_) => true,
    }
}

/// Refuses what is a dead letter that lost a value: whoever moved it to a lane, it asks for something else than what was refused.
///
/// # Errors
/// Where it is one.
pub fn whole(properties: &BasicProperties) -> Result<(), Refusal> {
    if has_lost(properties) {
        let cure = "send the job again from where it came, without this header";
        return Err(Refusal(format!("header {MISSING}: this is a dead letter without all that its job had; {cure}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    fn with(pairs: &[(&str, AMQPValue)]) -> BasicProperties {
        let mut table = FieldTable::default();
        for (name, value) in pairs {
            table.insert((*name).into(), value.clone());
        }
        BasicProperties::default().with_headers(table)
    }

    #[test]
    fn wishes_that_can_be_read_are_kept_and_others_are_named() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let long = format!("2027-01-15T08:00:00.{}Z", "0".repeat(100_000));
        let good = with(&[
            ("batch", text("monday")),
            ("traceparent", text(trace)),
            ("not-before", AMQPValue::Timestamp(1_800_000_000)),
            ("not-after", text(&long)),
            ("x-death", text("of the broker")),
            ("resetd-retry", text(r#"{"v":1,"tried":1}"#)),
            ("resetd-tried", AMQPValue::LongLongInt(1)),
            ("resetd-reason", text("forged")),
        ]);
        let read = headers(&good, &["resetd-reason"]);
        let names: Vec<&str> = read.kept.inner().keys().map(|name| name.as_str()).collect();
        assert_eq!(names, ["batch", "not-after", "not-before", "traceparent"]);
        assert_eq!(read.kept.inner()["not-after"], text("2027-01-15T08:00:00Z"));
        let now = jiff::Timestamp::UNIX_EPOCH;
        let again = BasicProperties::default().with_headers(read.kept);
        assert_eq!(properties::wishes(&again, now), properties::wishes(&good, now));
        assert_eq!((read.missing, read.left_out), (vec![], vec![]));

        let bad = headers(
            &with(&[
                ("batch", text(&"b".repeat(256))),
                ("traceparent", text("hunter2")),
                ("not-before", AMQPValue::FieldTable(FieldTable::default())),
                ("not-after", text("hunter2")),
                ("x-password", text("hunter2")),
                ("resetd-pin", text("hunter2")),
                ("a\nb", text("hunter2")),
            ]),
            &[],
        );
        assert!(bad.kept.inner().is_empty());
        assert_eq!(bad.missing, ["header batch", "header not-after", "header not-before"]);
        assert_eq!(bad.left_out, ["header a\\nb", "header resetd-pin", "header traceparent", "header x-password"]);
    }

    #[test]
    fn of_the_properties_those_of_the_contract_are_kept() {
        let came = with(&[])
            .with_message_id("j".into())
            .with_timestamp(7)
            .with_reply_to("r".into())
            .with_correlation_id("c".into())
            .with_content_type("application/json".into())
            .with_priority(3)
            .with_app_id("hr".into());
        let others = came
            .clone()
            .with_content_encoding("e".into())
            .with_type("t".into())
            .with_cluster_id("c".into())
            .with_expiration("5".into())
            .with_user_id("guest".into());
        let expected = came.with_headers(FieldTable::default()).with_delivery_mode(2);
        let (kept, left_out) = properties(&others);
        assert_eq!(kept.with_headers(FieldTable::default()), expected);
        assert_eq!(left_out, ["property content_encoding", "property type", "property cluster_id"]);
    }

    #[test]
    fn a_letter_that_lost_something_is_known_by_its_header() {
        let names = |names: Vec<AMQPValue>| AMQPValue::FieldArray(names.into());
        for (value, lost) in
            [(AMQPValue::Void, false), (names(vec![]), false), (names(vec![text("pin")]), true), (text("pin"), true)]
        {
            let from = with(&[("resetd-missing", value.clone())]);
            assert_eq!(
                (whole(&from).is_err(), headers(&from, &[]).missing.len()),
                (lost, usize::from(lost)),
                "{value:?}"
            );
        }
        assert_eq!(whole(&BasicProperties::default()), Ok(()));
    }
}
