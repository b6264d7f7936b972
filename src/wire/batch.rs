//! The announcement of a batch in the stream of outcomes, written before its first job.
//!
//! How many jobs a batch has is known nowhere else, since RabbitMQ is the only state. Anyone may publish there: what cannot be read
//! is passed over.

use std::borrow::Cow;

use lapin::BasicProperties;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::{Text, json, moment, persistent, schema};
use crate::domain::batch::{Announced, Record};
use crate::domain::job::Lane;

/// The `type` of an announcement.
pub const BATCH: &str = "batch";
/// What follows the org in the key of an announcement.
pub const ANNOUNCEMENT_KEY: &str = "batch";
/// The `type` of a mark, by which a reader knows that it has read all that was there before.
const MARK: &str = "mark";

/// A record and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About<'a> {
    /// The org.
    pub org: Cow<'a, str>,
    /// The batch.
    pub batch: Cow<'a, str>,
    /// What it says.
    pub record: Record<'a>,
}

/// Says how many jobs a batch has, before the first of them is sent.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "Batch")]
struct Announcement<'a> {
    /// The name that its jobs have in their header `batch`.
    #[serde(borrow)]
    batch: Cow<'a, str>,
    /// The org's name in the worker's configuration.
    #[serde(borrow)]
    org: Cow<'a, str>,
    /// The lane its jobs go to.
    #[serde(borrow)]
    #[schemars(schema_with = "schema::lane")]
    lane: Cow<'a, str>,
    /// How many there are.
    jobs: u64,
    /// When it was sent.
    #[serde(borrow)]
    #[schemars(schema_with = "schema::moment")]
    enqueued_at: Cow<'a, str>,
    /// No job of it is called before this moment; left out where they may be at once.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::moment")]
    not_before: Option<Text<'a>>,
}

/// What the exchange of outcomes gets before a batch's first job.
pub fn schema() -> Schema {
    schema::of::<Announcement<'_>>()
}

/// The id of a batch's job for one user; no name of a batch that is sent by `enqueue` has a slash.
pub fn job_id(batch: &str, user: &str) -> String {
    format!("{batch}/{user}")
}

/// What is published to `outcomes`, with the key `ORG.batch`, before the first of a batch's jobs.
pub fn announcement(org: &str, batch: &str, announced: &Announced) -> (Vec<u8>, BasicProperties) {
    let at = moment(announced.at);
    let not_before = announced.not_before.map(|begin| Text(moment(begin).into()));
    let record = Announcement {
        batch: batch.into(),
        org: org.into(),
        lane: announced.lane.as_str().into(),
        jobs: announced.jobs,
        enqueued_at: at.as_str().into(),
        not_before,
    };
    (json(&record), persistent().with_type(BATCH.into()))
}

/// What a reader writes straight to the stream, to know it again; it says nothing to anybody else.
pub fn mark(id: &str) -> (Vec<u8>, BasicProperties) {
    (json(&id), persistent().with_type(MARK.into()))
}

/// Whether a record is the mark of this id.
pub fn is_mark(body: &[u8], properties: &BasicProperties, id: &str) -> bool {
    properties.kind().as_ref().is_some_and(|kind| kind.as_str() == MARK) && body == json(&id)
}

/// What an announcement says; `None` where it cannot be read.
pub(super) fn announced(body: &[u8]) -> Option<About<'_>> {
    let Announcement { batch, org, lane, jobs, enqueued_at, not_before } = serde_json::from_slice(body).ok()?;
    let not_before = not_before.and_then(|begin| begin.0.parse().ok());
    let announced = Announced { lane: Lane::named(&lane).ok()?, jobs, at: enqueued_at.parse().ok()?, not_before };
    Some(About { org, batch, record: Record::Announced(announced) })
}

#[cfg(test)]
mod tests {
    use super::super::ledger;
    use super::*;
    use jiff::Timestamp;

    /// A record that is about a batch, with all that it says.
    fn read(kind: &str, body: &str) -> Option<String> {
        let properties = BasicProperties::default().with_type(kind.into());
        let record = ledger::read(body.as_bytes(), &properties)?;
        record.of_batch().map(|about| format!("{about:?} {record:?}"))
    }

    #[test]
    fn an_announcement_is_read_as_it_was_written() {
        let at = Timestamp::from_second(1_800_000_000).unwrap();
        let first = Announced { lane: Lane::Bulk, jobs: 3000, at, not_before: None };
        let (body, properties) = announcement("main", "agents", &first);
        assert_eq!(
            String::from_utf8_lossy(&body),
            r#"{"batch":"agents","org":"main","lane":"bulk","jobs":3000,"enqueuedAt":"2027-01-15T08:00:00Z"}"#
        );
        assert_eq!((properties.delivery_mode(), properties.kind().clone()), (&Some(2), Some("batch".into())));
        let record = ledger::read(&body, &properties).unwrap();
        let read = record.of_batch().unwrap();
        assert_eq!((&*read.org, &*read.batch, read.record), ("main", "agents", Record::Announced(first)));
        let later = Announced { not_before: Some(at), ..first };
        let (body, _) = announcement("main", "agents", &later);
        assert_eq!(announced(&body).unwrap().record, Record::Announced(later));
    }

    #[test]
    fn the_end_of_a_job_is_read_where_it_is_of_a_batch() {
        let end = |batch: &str, outcome: &str| {
            format!(
                r#"{{"jobId":"b/u","org":"main","lane":"bulk","userId":"u","batch":{batch},"outcome":"{outcome}","success":false,"reason":"not_found","detail":"User \"u\" not found","finishedAt":"2027-01-15T08:00:00Z"}}"#
            )
        };
        let said = read("outcome", &end("\"b\"", "failed")).unwrap();
        for part in ["\"main\"", "batch: \"b\"", "Failed", "not_found", "User \\\"u\\\" not found"] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
        for (kind, body) in [
            ("outcome", end("null", "failed")),
            ("outcome", end("\"b\"", "unheard_of")),
            ("dropped", end("\"b\"", "failed")),
            ("outcome", "{".into()),
            (
                "batch",
                r#"{"batch":"b","org":"main","lane":"bulk","jobs":-1,"enqueuedAt":"2027-01-15T08:00:00Z"}"#.into(),
            ),
        ] {
            assert_eq!(read(kind, &body), None, "{kind} {body}");
        }
    }

    #[test]
    fn a_mail_is_of_the_batch_that_its_jobs_id_names() {
        let mail = |rest: &str| format!(r#"{{"jobId":"b-1/d/u","org":"main",{rest}}}"#);
        let said = read("mail", &mail(r#""outcome":"notified""#)).unwrap();
        assert!(said.contains("batch: \"b-1\"") && said.contains("mail: Sent"), "{said}");
        let said = read("mail", &mail(r#""batch":"c","outcome":"notification_failed""#)).unwrap();
        assert!(said.contains("batch: \"c\"") && said.contains("mail: Failed"), "{said}");
        assert_eq!(read("mail", &mail(r#""outcome":"opened""#)), None);
    }
}
