//! The page's data as it is written: ids, names and numbers, no address, and of the org's words only those that say why calls fail.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::leader::Leader;
use crate::amqp::depths::Depth;
use crate::amqp::names::Names;
use crate::board::ClosedLane;
use crate::domain::blocked;
use crate::domain::breaker::BreakerView;
use crate::domain::job::{Lane, without_addresses};
use crate::domain::mailing::Unsent;
use crate::domain::outcome::{OutcomeKind, Reason};
use crate::domain::statistics::{self, Posted};
use crate::throttle::gate::Meter;
use crate::wire::by_lane::ByLane;
use crate::wire::moment;

/// What there is to see at one moment.
pub(super) struct PageState {
    pub(super) at: Timestamp,
    pub(super) worker: String,
    pub(super) ready: bool,
    pub(super) orgs: BTreeMap<String, Org>,
    /// `None`: this is a worker.
    pub(super) mailer: Option<Mailer>,
}

/// The moment itself is no change.
impl PartialEq for PageState {
    fn eq(&self, other: &Self) -> bool {
        let parts = |view: &'_ Self| (view.worker.clone(), view.ready);
        parts(self) == parts(other) && self.orgs == other.orgs && self.mailer == other.mailer
    }
}

impl PageState {
    pub(super) fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Written<'a> {
            at: String,
            worker: &'a str,
            ready: bool,
            orgs: &'a BTreeMap<String, Org>,
            #[serde(skip_serializing_if = "Option::is_none")]
            mailer: Option<&'a Mailer>,
        }
        let (at, mailer) = (moment(self.at), self.mailer.as_ref());
        let written = Written { at, worker: &self.worker, ready: self.ready, orgs: &self.orgs, mailer };
        // Nothing in it can fail to be written.
        serde_json::to_string(&written).unwrap_or_default()
    }
}

/// What an org and the mailer both show.
#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Standing {
    pub(super) role: &'static str,
    pub(super) reason: Option<String>,
    pub(super) status_line: StatusLine,
    pub(super) leader: Leader,
    /// `null`: another process spends it.
    pub(super) quota: Option<Quota>,
    pub(super) breaker: Option<Breaker>,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Org {
    #[serde(flatten)]
    pub(super) standing: Standing,
    /// `interactiveClosed` and `bulkClosed`; `null`: that lane is open.
    #[serde(flatten)]
    pub(super) closed: ByLane<Option<Closed>>,
    pub(super) queues: Queues,
    /// Jobs that ended in the last 60 s.
    pub(super) per_minute: u64,
    /// What keeps jobs from ending; `null`: nothing does.
    pub(super) blocked: Option<Blocked>,
    /// `null`: nothing waits but what is delayed, something keeps it, or none ended lately.
    pub(super) seconds_left: Option<f64>,
    /// Succeeded, failed, skipped: for each of the last 60 minutes, the oldest first.
    pub(super) minutes: Vec<[u32; 3]>,
    pub(super) batches: Vec<Batch>,
    pub(super) failures: Vec<Failures>,
    pub(super) latest: Vec<Line>,
}

/// What a mailer shows.
#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mailer {
    #[serde(flatten)]
    pub(super) standing: Standing,
    pub(super) ready: Option<u32>,
    pub(super) in_flight: Option<u32>,
    pub(super) delayed: Option<u32>,
    pub(super) dead: Option<u32>,
    /// Mails that were sent in the last 60 s.
    pub(super) per_minute: u64,
    /// Sent, given up, superseded: for each of the last 60 minutes, the oldest first.
    pub(super) minutes: Vec<[u32; 3]>,
    pub(super) unsent: Vec<UnsentMails>,
    pub(super) latest: Vec<MailLine>,
}

/// Mails that were not sent within a day, for a reason.
#[derive(PartialEq, Serialize)]
pub(super) struct UnsentMails {
    reason: &'static str,
    message: &'static str,
    mails: u32,
}

impl UnsentMails {
    pub(super) fn of(reason: &'static str, mails: u32) -> Self {
        Self { reason, message: Unsent::named(reason).map_or("", Unsent::message), mails }
    }
}

/// One of the last mails.
#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MailLine {
    at: String,
    notification_id: String,
    job_id: String,
    org: String,
    outcome: &'static str,
    reason: Option<&'static str>,
}

impl MailLine {
    pub(super) fn of(line: &statistics::MailLine) -> Self {
        Self {
            at: moment(line.at),
            notification_id: line.note.to_string(),
            job_id: without_addresses(&line.job),
            org: line.org.to_string(),
            outcome: if line.unsent.is_none() { "notified" } else { "notification_failed" },
            reason: line.unsent.map(Unsent::as_str),
        }
    }
}

/// Is it moving, and if not, why.
#[derive(PartialEq, Serialize)]
pub(super) struct StatusLine {
    pub(super) state: &'static str,
    pub(super) text: String,
    #[serde(serialize_with = "optional_moment")]
    pub(super) until: Option<Timestamp>,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Quota {
    configured: u32,
    at_work: u32,
    spent: u32,
    waiting: usize,
    #[serde(serialize_with = "optional_moment")]
    paused_until: Option<Timestamp>,
}

impl Quota {
    pub(super) fn of(meter: &Meter, works: bool) -> Option<Self> {
        works.then(|| Self {
            configured: meter.configured,
            at_work: meter.rate,
            spent: meter.spent,
            waiting: meter.waiting,
            paused_until: seconds(meter.paused_until),
        })
    }
}

/// A breaker that is not closed.
#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Breaker {
    state: &'static str,
    cause: String,
    next_probe: String,
}

impl Breaker {
    /// For the page: its moment in whole seconds.
    pub(super) fn of(breaker: &BreakerView) -> Self {
        let next_probe = moment(seconds(Some(breaker.next_probe)).unwrap_or(breaker.next_probe));
        Self { next_probe, ..Self::because(breaker, breaker.cause.clone()) }
    }

    /// With its moment as it is, and the cause in these words.
    pub(super) fn because(breaker: &BreakerView, cause: String) -> Self {
        Self { state: breaker.state.as_str(), cause, next_probe: breaker.next_probe.to_string() }
    }
}

/// What keeps jobs from ending, in place of an estimate.
#[derive(PartialEq, Serialize)]
pub(super) struct Blocked {
    cause: Cow<'static, str>,
    /// The cause in a few words.
    text: Cow<'static, str>,
    reason: String,
    /// What happens at `until`.
    then: &'static str,
    #[serde(serialize_with = "optional_moment")]
    until: Option<Timestamp>,
}

impl Blocked {
    pub(super) fn of(blocked: &blocked::Blocked) -> Self {
        let blocked::Blocked { cause, reason, until } = blocked;
        let (reason, until) = (reason.clone(), seconds(*until));
        Self { cause: cause.as_str(), text: cause.words(), reason, then: cause.then(), until }
    }
}

/// A lane that is closed.
#[derive(PartialEq, Serialize)]
pub(super) struct Closed {
    cause: String,
    #[serde(serialize_with = "optional_moment")]
    until: Option<Timestamp>,
}

impl Closed {
    pub(super) fn of(closed: &ClosedLane) -> Self {
        Self { cause: closed.cause.clone(), until: seconds(Some(closed.until)) }
    }
}

/// What is queued and what is in flight; `null` where it is not known.
#[derive(PartialEq, Serialize)]
pub(super) struct Queues {
    #[serde(flatten)]
    lanes: ByLane<Queue>,
    delayed: Option<u32>,
    dead: Option<u32>,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Queue {
    name: String,
    ready: Option<u32>,
    in_flight: Option<u32>,
}

impl Queues {
    pub(super) fn of(names: &Names, depth: Option<&Depth>, in_flight: Option<[u32; Lane::COUNT]>) -> Self {
        let queue = |lane: Lane| Queue {
            name: names.lane(lane),
            ready: depth.map(|depth| depth.lanes[lane.index()]),
            in_flight: in_flight.map(|in_flight| in_flight[lane.index()]),
        };
        Self {
            lanes: ByLane::all(Lane::ALL.map(queue)),
            delayed: depth.map(|depth| depth.parked),
            dead: depth.map(|depth| depth.dead),
        }
    }
}

/// Jobs that failed for a reason within a day, and are not resolved.
#[derive(PartialEq, Serialize)]
pub(super) struct Failures {
    reason: &'static str,
    message: &'static str,
    jobs: u32,
    /// The users of the newest of them, or their jobs where the users are not known.
    who: Vec<String>,
}

impl Failures {
    pub(super) fn of(reason: &'static str, jobs: u32, who: Option<&Vec<Box<str>>>) -> Self {
        let message = Reason::named(reason).map_or("Its dead letter says why", Reason::message);
        let who = who.into_iter().flatten().map(|who| without_addresses(who)).collect();
        Self { reason, message, jobs, who }
    }
}

/// How far a batch is.
#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Batch {
    name: String,
    jobs: Option<u64>,
    done: u64,
    failed: u64,
    notified: u64,
    not_notified: u64,
    queued: u64,
    per_minute: u64,
    blocked: Option<Blocked>,
    seconds_left: Option<f64>,
    heard_at: String,
}

impl Batch {
    pub(super) fn of(stage: &statistics::Stage) -> Self {
        Self {
            name: stage.name.to_string(),
            jobs: stage.jobs,
            done: stage.done,
            failed: stage.failed,
            notified: stage.notified,
            not_notified: stage.not_notified,
            queued: stage.queued,
            per_minute: stage.per_minute,
            blocked: stage.blocked.as_ref().map(Blocked::of),
            seconds_left: stage.seconds_left.map(f64::round),
            heard_at: moment(stage.heard),
        }
    }
}

/// One of the last jobs.
#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line {
    at: String,
    job_id: String,
    user_id: Option<String>,
    lane: Option<&'static str>,
    outcome: &'static str,
    reason: Option<&'static str>,
    status: Option<u16>,
    /// `queued`, `sent`, `failed` or `superseded`; `null`: the job set no password.
    mail: Option<&'static str>,
}

impl Line {
    pub(super) fn of(line: &statistics::Line) -> Self {
        Self {
            at: moment(line.at),
            job_id: without_addresses(&line.job),
            user_id: line.user.as_deref().map(str::to_owned),
            lane: line.lane.map(Lane::as_str),
            outcome: line.kind.as_str(),
            reason: line.reason.map(Reason::as_str),
            status: line.status,
            mail: (line.kind == OutcomeKind::Succeeded).then_some(match line.mail {
                None => "queued",
                Some(Posted::Sent) => "sent",
                Some(Posted::Failed) => "failed",
                Some(Posted::Superseded) => "superseded",
            }),
        }
    }
}

/// In whole seconds: what is computed anew from a clock each time must not look like a change.
pub(super) fn seconds(at: Option<Timestamp>) -> Option<Timestamp> {
    at.and_then(|at| at.round(jiff::Unit::Second).ok())
}

#[expect(clippy::ref_option, reason = "what serde calls it with")]
fn optional_moment<S: serde::Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    at.map(moment).serialize(serializer)
}
