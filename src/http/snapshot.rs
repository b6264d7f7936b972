//! Everything that the page is made of, as the worker jobs in flight it over, and how it is put together at one moment.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use super::page_state::{self, PageState};
use super::status_line::{Of, StatusLine, status_line};
use crate::amqp::depths::{Depth, Depths};
use crate::amqp::ledger::Ledger;
use crate::amqp::names::Names;
use crate::board::{self, OrgState, Role};
use crate::domain::job::Lane;
use crate::domain::ledger::{Holder, WorkerName};
use crate::throttle::gate::Meter;
use crate::throttle::jobs_in_flight::JobsInFlight;
use crate::throttle::status::status;
use crate::wire::by_lane::ByLane;

/// What is known older than this is said to be old.
const OLD: SignedDuration = SignedDuration::from_secs(15);

/// Where one org's numbers come from.
pub struct Source {
    /// What its things are called at the broker.
    pub names: Names,
    /// How its gate stands.
    pub meter: Box<dyn Fn() -> Meter + Send + Sync>,
    /// What is in flight.
    pub jobs_in_flight: JobsInFlight,
}

/// Where a mailer's numbers come from.
pub struct MailSource {
    /// What its lease is called in the ledger.
    pub subject: String,
    /// How its gate stands.
    pub meter: Box<dyn Fn() -> Meter + Send + Sync>,
    /// How many mails are in flight.
    pub in_flight: Box<dyn Fn() -> usize + Send + Sync>,
}

/// Where all of it comes from.
pub struct Snapshot {
    /// What this process is called in the ledger.
    pub worker: WorkerName,
    /// What it knows of itself.
    pub board: watch::Receiver<board::State>,
    /// What became of jobs.
    pub ledger: Ledger,
    /// What is queued.
    pub depths: Depths,
    /// The orgs, by name.
    pub orgs: BTreeMap<String, Source>,
    /// The mails, in a mailer.
    pub mails: Option<MailSource>,
}

impl Snapshot {
    /// That of a mailer: it has no orgs.
    pub fn of_mailer(
        worker: WorkerName,
        board: watch::Receiver<board::State>,
        ledger: Ledger,
        depths: Depths,
        mails: MailSource,
    ) -> Self {
        Self { worker, board, ledger, depths, orgs: BTreeMap::new(), mails: Some(mails) }
    }

    /// How the gate of an org stands, or the mailer's.
    pub(super) fn meter(&self, org: &str) -> Option<Meter> {
        let of_mails = self.mails.as_ref().map(|mails| (mails.meter)());
        self.orgs.get(org).map(|source| (source.meter)()).or(of_mails)
    }

    /// What there is to see now.
    pub(super) fn view(&self) -> PageState {
        let now = Timestamp::now();
        let state = self.board.borrow().clone();
        let mailer = self.mails.as_ref().zip(state.orgs.iter().next());
        let rows = state.orgs.iter().filter_map(|(name, row)| Some((name, row, self.orgs.get(name)?)));
        PageState {
            at: now,
            worker: self.worker.shown(),
            ready: state.ready(),
            mailer: mailer.map(|(source, (name, row))| self.mailer(name, row, source, now)),
            orgs: rows.map(|(name, row, source)| (name.clone(), self.org(name, row, source, now))).collect(),
        }
    }

    fn org(&self, name: &str, row: &OrgState, source: &Source, now: Timestamp) -> page_state::Org {
        let meter = (source.meter)();
        let own = status(row, &meter);
        let lately = self.ledger.lately_with(name, own.as_ref()).unwrap_or_default();
        let depth = self.depths.of(name).filter(|depth| now.duration_since(depth.at) <= OLD);
        let (role, reason) = row.role();
        let works = role == Role::Active || (role == Role::Halted && meter.may_call);
        let in_flight = Lane::ALL.map(|lane| source.jobs_in_flight.count(lane));
        let backlog = depth.map(|depth| backlog(&depth, &in_flight));
        let holder = match self.ledger.holder(name) {
            Holder::Was(holder) => Some(holder),
            Holder::Nobody => None,
        };
        // What keeps a lane in which nothing waits keeps nothing.
        let waits = |lane: Lane| depth.is_some_and(|depth| depth.lanes[lane.index()] > 0);
        let blocked = lately.status.as_ref().and_then(|status| {
            let kept = Lane::ALL.into_iter().rev().find(|lane| waits(*lane));
            kept.map_or(status.blocked.as_ref(), |lane| status.blocked(lane)).cloned()
        });
        let about = StatusLine {
            of: Of::Jobs,
            role,
            reason: reason.as_deref(),
            holder: holder.as_ref().filter(|holder| **holder != self.worker).map(WorkerName::shown),
            breaker: row.breaker.as_ref(),
            closed: row.closed.each_ref().map(Option::as_ref),
            meter: &meter,
            per_minute: lately.per_minute,
            backlog,
            in_flight: in_flight.iter().sum(),
            blocked: blocked.as_ref(),
        };
        let (state, text, until) = status_line(&about);
        // What is delayed waits for a time of its own.
        let to_do = backlog.zip(depth).map(|(all, depth)| all.saturating_sub(depth.parked)).filter(|jobs| *jobs > 0);
        let adaptive_rate = lately.adaptive_rate.filter(|_| blocked.is_none());
        page_state::Org {
            role: role.as_str(),
            reason,
            status_line: page_state::StatusLine { state: state.as_str(), text, until },
            held_by: holder.as_ref().map(WorkerName::shown),
            held_here: holder.as_ref() == Some(&self.worker),
            quota: page_state::Quota::of(&meter, works),
            breaker: row.breaker.as_ref().map(page_state::Breaker::of),
            closed: ByLane::all(row.closed.each_ref().map(|closed| closed.as_ref().map(page_state::Closed::of)))
                .ending("Closed"),
            queues: page_state::Queues::of(&source.names, depth.as_ref(), works.then_some(in_flight)),
            per_minute: lately.per_minute,
            seconds_left: to_do
                .zip(adaptive_rate)
                .map(|(jobs, adaptive_rate)| (f64::from(jobs) * 60.0 / adaptive_rate).round()),
            blocked: blocked.as_ref().map(page_state::Blocked::of),
            minutes: lately.minutes.iter().map(|minute| [minute.succeeded, minute.failed, minute.other]).collect(),
            batches: lately.batches.iter().map(page_state::Batch::of).collect(),
            failures: lately
                .failures
                .iter()
                .map(|(reason, jobs)| page_state::Failures::of(reason, *jobs, lately.failed.get(reason)))
                .collect(),
            latest: lately.latest.iter().map(page_state::Line::of).collect(),
        }
    }
}

impl Snapshot {
    fn mailer(&self, name: &str, row: &OrgState, source: &MailSource, now: Timestamp) -> page_state::Mailer {
        let (meter, lately) = ((source.meter)(), self.ledger.mails_lately());
        let depth = self.depths.of(name).filter(|depth| now.duration_since(depth.at) <= OLD);
        let (role, reason) = row.role();
        let works = role == Role::Active || (role == Role::Halted && meter.may_call);
        let in_flight = u32::try_from((source.in_flight)()).unwrap_or(u32::MAX);
        let backlog = depth.map(|depth| self::backlog(&depth, &[in_flight]));
        let holder = match self.ledger.holder(&source.subject) {
            Holder::Was(holder) => Some(holder),
            Holder::Nobody => None,
        };
        let about = StatusLine {
            of: Of::Mails,
            role,
            reason: reason.as_deref(),
            holder: holder.as_ref().filter(|holder| **holder != self.worker).map(WorkerName::shown),
            breaker: row.breaker.as_ref(),
            closed: [None; Lane::COUNT],
            meter: &meter,
            per_minute: lately.per_minute,
            backlog,
            in_flight,
            blocked: None,
        };
        let (state, text, until) = status_line(&about);
        page_state::Mailer {
            role: role.as_str(),
            reason,
            status_line: page_state::StatusLine { state: state.as_str(), text, until },
            held_by: holder.as_ref().map(WorkerName::shown),
            held_here: holder.as_ref() == Some(&self.worker),
            quota: page_state::Quota::of(&meter, works),
            breaker: row.breaker.as_ref().map(page_state::Breaker::of),
            ready: depth.map(|depth| depth.lanes[Lane::FIRST.index()]),
            in_flight: works.then_some(in_flight),
            delayed: depth.map(|depth| depth.parked),
            dead: depth.map(|depth| depth.dead),
            per_minute: lately.per_minute,
            minutes: lately.minutes.iter().map(|minute| [minute.succeeded, minute.failed, minute.other]).collect(),
            unsent: lately.unsent.iter().map(|(reason, mails)| page_state::UnsentMails::of(reason, *mails)).collect(),
            latest: lately.latest.iter().map(page_state::MailLine::of).collect(),
        }
    }
}

/// Jobs that have not ended.
fn backlog(depth: &Depth, in_flight: &[u32]) -> u32 {
    depth.lanes.iter().chain(in_flight).fold(depth.parked, |all, jobs| all.saturating_add(*jobs))
}
