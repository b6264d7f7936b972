//! Everything that the page is made of, as the worker hands it over, and how it is put together at one moment.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use super::leader::Leader;
use super::page_state::{self, PageState};
use super::status_line::{Of, StatusLine, status_line};
use crate::amqp::depths::{Depth, Depths};
use crate::amqp::election::Candidate;
use crate::amqp::ledger::Ledger;
use crate::amqp::names::Names;
use crate::board::{self, ClosedLane, OrgState, Role};
use crate::domain::blocked::Blocked;
use crate::domain::job::Lane;
use crate::domain::ledger::WorkerName;
use crate::domain::subject::Subject;
use crate::throttle::gate::Meter;
use crate::throttle::jobs_in_flight::JobsInFlight;
use crate::throttle::status::status;
use crate::wire::by_lane::ByLane;

/// What is known older than this is said to be old.
const OLD: SignedDuration = SignedDuration::from_secs(15);

/// Where the numbers of one org, or of the mails, come from.
pub struct Source {
    /// What its things are called at the broker.
    pub names: Names,
    /// How its gate stands.
    pub meter: Box<dyn Fn() -> Meter + Send + Sync>,
    /// How it stands as a candidate for leading; `None`: it is not registered.
    pub candidate: Box<dyn Fn() -> Option<Candidate> + Send + Sync>,
    /// What is in flight.
    pub jobs_in_flight: JobsInFlight,
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
    pub mails: Option<Source>,
}

impl Snapshot {
    /// How the gate of an org stands.
    pub(super) fn meter(&self, org: &str) -> Option<Meter> {
        self.orgs.get(org).map(|source| (source.meter)())
    }

    /// How the mailer's gate stands.
    pub(super) fn mailers_meter(&self) -> Option<Meter> {
        self.mails.as_ref().map(|mails| (mails.meter)())
    }

    /// Who leads an org.
    pub(super) fn leader(&self, org: &str) -> Option<Leader> {
        self.orgs.get(org).map(|source| self.leader_of(&org.into(), source))
    }

    /// Who sends the mails.
    pub(super) fn mailers_leader(&self) -> Option<Leader> {
        self.mails.as_ref().map(|source| self.leader_of(&Subject::Mailer, source))
    }

    fn leader_of(&self, subject: &Subject, source: &Source) -> Leader {
        let newest = self.ledger.leader(subject.in_ledger());
        Leader::of(newest.as_ref(), &self.worker, (source.candidate)().unwrap_or_default())
    }

    /// What there is to see now.
    pub(super) fn view(&self) -> PageState {
        let now = Timestamp::now();
        let state = self.board.borrow().clone();
        let mailer = self.mails.as_ref().zip(state.mailer.as_ref());
        let rows = state.orgs.iter().filter_map(|(name, row)| Some((name, row, self.orgs.get(name)?)));
        PageState {
            at: now,
            worker: self.worker.shown(),
            ready: state.ready(),
            mailer: mailer.map(|(source, row)| self.mailer(row, source)),
            orgs: rows.map(|(name, row, source)| (name.clone(), self.org(name, row, source))).collect(),
        }
    }

    /// How the org stands, or the mailer.
    fn part<'a>(&self, of: Of, subject: &Subject, row: &'a OrgState, source: &Source, in_flight: InHand) -> Part<'a> {
        let depth = match subject {
            Subject::Org(name) => self.depths.of(name),
            Subject::Mailer => self.depths.of_the_mails(),
        };
        let depth = depth.filter(|depth| Timestamp::now().duration_since(depth.at) <= OLD);
        let leader = self.leader_of(subject, source).in_whole_seconds();
        Part { of, row, meter: (source.meter)(), depth, in_flight, leader }
    }

    fn org(&self, name: &str, row: &OrgState, source: &Source) -> page_state::Org {
        let in_flight = Lane::ALL.map(|lane| source.jobs_in_flight.count(lane));
        let part = self.part(Of::Jobs, &name.into(), row, source, in_flight);
        let own = status(row, &part.meter);
        let lately = self.ledger.lately_with(name, own.as_ref()).unwrap_or_default();
        let waits = |lane: Lane| part.depth.is_some_and(|depth| depth.lanes[lane.index()] > 0);
        let blocked = lately.status.as_ref().and_then(|status| status.keeps_any(waits)).cloned();
        // What is delayed waits for a time of its own.
        let to_do = part.backlog().zip(part.depth).map(|(all, depth)| all.saturating_sub(depth.parked));
        let completion_rate = lately.completion_rate.filter(|_| blocked.is_none());
        page_state::Org {
            standing: part.standing(row.closed.each_ref().map(Option::as_ref), lately.per_minute, blocked.as_ref()),
            closed: ByLane::all(row.closed.each_ref().map(|closed| closed.as_ref().map(page_state::Closed::of)))
                .ending("Closed"),
            queues: page_state::Queues::of(&source.names, part.depth.as_ref(), part.works().then_some(in_flight)),
            per_minute: lately.per_minute,
            seconds_left: to_do
                .filter(|jobs| *jobs > 0)
                .zip(completion_rate)
                .map(|(jobs, completion_rate)| (f64::from(jobs) * 60.0 / completion_rate).round()),
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

    fn mailer(&self, row: &OrgState, source: &Source) -> page_state::Mailer {
        let lately = self.ledger.mails_lately();
        let in_flight = source.jobs_in_flight.count(Lane::FIRST);
        // Its one queue stands in place of the first lane, as in its depths.
        let by_lane = Lane::ALL.map(|lane| if lane == Lane::FIRST { in_flight } else { 0 });
        let part = self.part(Of::Mails, &Subject::Mailer, row, source, by_lane);
        page_state::Mailer {
            standing: part.standing([None; Lane::COUNT], lately.per_minute, None),
            ready: part.depth.map(|depth| depth.lanes[Lane::FIRST.index()]),
            in_flight: part.works().then_some(in_flight),
            delayed: part.depth.map(|depth| depth.parked),
            dead: part.depth.map(|depth| depth.dead),
            per_minute: lately.per_minute,
            minutes: lately.minutes.iter().map(|minute| [minute.succeeded, minute.failed, minute.other]).collect(),
            unsent: lately.unsent.iter().map(|(reason, mails)| page_state::UnsentMails::of(reason, *mails)).collect(),
            latest: lately.latest.iter().map(page_state::MailLine::of).collect(),
        }
    }
}

/// What is in flight, by lane.
type InHand = [u32; Lane::COUNT];

/// What an org's part of the page and the mailer's are both made of.
struct Part<'a> {
    of: Of,
    row: &'a OrgState,
    meter: Meter,
    /// What is queued, where that was heard lately.
    depth: Option<Depth>,
    in_flight: InHand,
    leader: Leader,
}

impl Part<'_> {
    /// Whether it is at work here.
    fn works(&self) -> bool {
        let (role, _) = self.row.role();
        role == Role::Active || (role == Role::Halted && self.meter.may_call)
    }

    /// What has not ended.
    fn backlog(&self) -> Option<u32> {
        let depth = self.depth?;
        Some(depth.lanes.iter().chain(&self.in_flight).fold(depth.parked, |all, jobs| all.saturating_add(*jobs)))
    }

    fn standing(
        &self,
        closed: [Option<&ClosedLane>; Lane::COUNT],
        per_minute: u64,
        blocked: Option<&Blocked>,
    ) -> page_state::Standing {
        let (role, reason) = self.row.role();
        let (state, text, until) = status_line(&StatusLine {
            of: self.of,
            role,
            reason: reason.as_deref(),
            holder: self.leader.name.clone().filter(|_| !self.leader.here),
            breaker: self.row.breaker.as_ref(),
            closed,
            meter: &self.meter,
            per_minute,
            backlog: self.backlog(),
            in_flight: self.in_flight.iter().sum(),
            blocked,
        });
        page_state::Standing {
            role: role.as_str(),
            reason,
            status_line: page_state::StatusLine { state: state.as_str(), text, until },
            leader: self.leader.clone(),
            quota: page_state::Quota::of(&self.meter, self.works()),
            breaker: self.row.breaker.as_ref().map(page_state::Breaker::of),
        }
    }
}
