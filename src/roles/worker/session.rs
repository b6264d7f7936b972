//! One org's session, under its lease: take jobs from both lanes, hand each to the pipeline, and in the end let those in hand finish.
//!
//! It works in shifts: first one by one while the head of a lane looks like a job that ends its worker; then by the prefetch; and
//! where no call can be made for long, everything is given back, once, and probes go one by one until one passes. While the bulk lane
//! is closed, the interactive one goes on alone.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::Either;
use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TrackedFuture;

use super::takeover::Held;
use super::{Crew, Office};
use crate::amqp::claim::REPEAT;
use crate::amqp::consumer::{Delivery, Intake};
use crate::amqp::link::Link;
use crate::amqp::trouble::Trouble;
use crate::board::Session as Standing;
use crate::domain::job::Lane;
use crate::pipeline::{self, Desk};

/// What is kept of the grace for publishing what the last calls bring.
const LAST_PUBLISHES: Duration = Duration::from_secs(2);
/// What is kept of it for closing channels and connections, even where the broker does not answer.
const GOODBYES: Duration = Duration::from_secs(2);
/// How often it is looked whether no call can be made for long.
const LOOK: Duration = Duration::from_millis(500);
/// How often it is looked whether calls can be made again, and an empty lane looked at by a probe.
const PROBE: Duration = Duration::from_secs(1);

/// How a session ended.
pub(super) enum End {
    /// The process is to end, and what was in hand is finished or goes back.
    Drained,
    /// Something happened; the next session may do better.
    Trouble(Trouble),
}

/// Why a shift ended that is followed by another one.
enum Shift {
    /// A job came that may end its worker.
    Suspect,
    /// No call can be made for long.
    Shut,
    /// All is well: by the prefetch.
    Clear,
}

/// Runs one session to its end, and says whether no job is at work any more.
pub(super) async fn run(crew: &Crew<'_>, office: &Office, link: &Arc<Link>, held: &Held) -> (End, bool) {
    let mut session = match crew.shutdown.run_until_cancelled(Session::open(crew, office, link, held)).await {
        Some(Ok(session)) => session,
        Some(Err(trouble)) => return (End::Trouble(trouble), true),
        None => return (End::Drained, true),
    };
    office.works();
    crew.board.session(&office.org.name, Standing::Active);
    tracing::info!(org = office.org.name, "at work on both lanes");
    let (renewed, pulse) = (held.lease.renewed().clone(), link.pulse.clone());
    office.org.gate.admit(Some(Box::new(move || renewed.is_fresh() && pulse.is_alive())));
    let end = session.work(crew, office, held).await;
    if let End::Trouble(trouble) = &end {
        crew.board.session(&office.org.name, Standing::Starting(format!("{trouble}; calls in the air are waited for")));
    }
    let clean = session.finish(&end, crew).await;
    (end, clean)
}

struct Session {
    desk: Arc<Desk>,
    lanes: [Intake; 2],
    jobs: TaskTracker,
    /// Those of them that are the bulk lane's.
    of_bulk: TaskTracker,
    /// Whether the bulk lane is closed, and what was taken from it is not given back yet.
    bulk_returns: bool,
}

impl Session {
    async fn open(crew: &Crew<'_>, office: &Office, link: &Arc<Link>, held: &Held) -> Result<Self, Trouble> {
        let org = &office.org;
        let desk = Desk {
            org: Arc::clone(org),
            publisher: Arc::clone(&held.publisher),
            draining: CancellationToken::new(),
            over: held.lease.gone().child_token(),
            returning: CancellationToken::new(),
            bulk_closed: CancellationToken::new(),
            probing: false,
            link: Arc::clone(link),
            lease: held.lease.renewed().clone(),
            declaring: Arc::new(Mutex::default()),
        };
        let prefetch = crew.config.amqp.prefetch;
        let lanes = [
            Intake::open(&link.consuming, org.names.lane(Lane::Interactive), Lane::Interactive, prefetch).await?,
            Intake::open(&link.consuming, org.names.lane(Lane::Bulk), Lane::Bulk, prefetch).await?,
        ];
        Ok(Self {
            desk: Arc::new(desk),
            lanes,
            jobs: TaskTracker::new(),
            of_bulk: TaskTracker::new(),
            bulk_returns: false,
        })
    }

    /// Shift after shift, until something ends that.
    async fn work(&mut self, crew: &Crew<'_>, office: &Office, held: &Held) -> End {
        let (over, shutdown) = (self.desk.over.clone(), crew.shutdown.clone());
        let claiming = async {
            loop {
                sleep(REPEAT).await;
                office.claim.repeat(&held.publisher).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => End::Drained,
            () = over.cancelled() => End::Trouble(Trouble::Again("a connection, a channel or the lease was lost".into())),
            Err(trouble) = self.shifts() => End::Trouble(trouble),
            never = claiming => match never {},
        }
    }

    async fn shifts(&mut self) -> Result<Infallible, Trouble> {
        self.tell_who_is_owed().await;
        let mut next = self.one_by_one().await?;
        loop {
            next = match next {
                Shift::Clear => self.by_the_prefetch().await?,
                Shift::Suspect => {
                    self.finish_taken().await;
                    self.give_back().await?;
                    if self.desk.returning.is_cancelled() { Shift::Shut } else { self.one_by_one().await? }
                }
                Shift::Shut => {
                    self.desk.returning.cancel();
                    self.stop_taking().await;
                    self.give_back().await?;
                    self.probe().await?;
                    self.one_by_one().await?
                }
            };
        }
    }

    /// Whose password was set before all was given back is told before any other job of theirs is taken.
    async fn tell_who_is_owed(&self) {
        while !pipeline::collect(&self.desk).await {
            sleep(PROBE).await;
        }
    }

    /// Hands over one job after the other.
    async fn by_the_prefetch(&mut self) -> Result<Shift, Trouble> {
        // The same desk as those have that were taken one by one and are still in hand: they leave with all others.
        if self.desk.has_ended() {
            self.desk = Arc::new(self.desk.shift(false));
        }
        if self.is_shut_for_long() {
            return Ok(Shift::Shut);
        }
        self.lanes[0].consume().await?;
        self.tend_bulk().await?;
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let [interactive, bulk] = &mut self.lanes;
            let (lane, delivery) = tokio::select! {
                () = self.desk.returning.cancelled() => return Ok(Shift::Shut),
                _ = look.tick() => {
                    if self.is_shut_for_long() {
                        return Ok(Shift::Shut);
                    }
                    self.tend_bulk().await?;
                    continue;
                }
                delivery = interactive.next() => (Lane::Interactive, delivery),
                delivery = bulk.next(), if bulk.is_consumed() => (Lane::Bulk, delivery),
            };
            match delivery {
                Some(delivery) if pipeline::must_run_alone(&delivery) => return Ok(Shift::Suspect),
                Some(delivery) => self.start(delivery).await,
                None => {
                    let queue = self.desk.org.names.lane(lane);
                    return Err(Trouble::Again(format!(
                        "consuming queue {queue} ended; the broker cancelled it, or the queue was deleted"
                    )));
                }
            }
        }
    }

    /// Consumes the bulk lane while it is open. Where it closes, its jobs leave, and are given back when none of them is in hand.
    async fn tend_bulk(&mut self) -> Result<(), Trouble> {
        let closed = self.desk.org.gate.bulk_closed().is_some();
        let [_, bulk] = &mut self.lanes;
        if closed && bulk.is_consumed() {
            bulk.cancel().await;
            self.desk.bulk_closed.cancel();
            self.bulk_returns = true;
        }
        if self.bulk_returns && self.of_bulk.is_empty() {
            bulk.give_back().await?;
            self.bulk_returns = false;
        }
        if !closed && !bulk.is_consumed() && !self.bulk_returns {
            if self.desk.bulk_closed.is_cancelled() {
                self.desk = Arc::new(self.desk.with_bulk_open());
            }
            bulk.consume().await?;
        }
        Ok(())
    }

    /// Whether no call can be made for so long that jobs should not be held meanwhile.
    fn is_shut_for_long(&self) -> bool {
        let now = Instant::now();
        self.desk.org.gate.shut(now).is_some_and(|until| until > now + self.desk.org.long)
    }

    async fn start(&self, delivery: Delivery) {
        let lane = delivery.lane;
        let arrival = pipeline::arrive(&self.desk, delivery).await;
        // On the heap at once: it is some kilobytes, and would be copied at each hand-over.
        self.jobs.spawn(self.track(lane, Box::pin(pipeline::handle(Arc::clone(&self.desk), arrival))));
    }

    fn track<F: Future>(&self, lane: Lane, job: F) -> Either<F, TrackedFuture<F>> {
        match lane {
            Lane::Interactive => Either::Left(job),
            Lane::Bulk => Either::Right(self.of_bulk.track_future(job)),
        }
    }

    /// Takes no more, and waits until no job is in hand; those that wait too long leave by themselves.
    async fn stop_taking(&mut self) {
        for lane in &mut self.lanes {
            lane.cancel().await;
        }
        self.none_in_hand().await;
    }

    /// Takes no more, and lets those end that were taken already: returning them would count against each. Only those that run alone
    /// are left, to be given back.
    async fn finish_taken(&mut self) {
        let mut taken = Vec::new();
        for lane in &mut self.lanes {
            taken.extend(lane.rest().await);
        }
        for delivery in taken.into_iter().filter(|delivery| !pipeline::must_run_alone(delivery)) {
            self.start(delivery).await;
        }
        self.none_in_hand().await;
    }

    async fn none_in_hand(&self) {
        self.jobs.close();
        self.jobs.wait().await;
        self.jobs.reopen();
    }

    async fn give_back(&mut self) -> Result<(), Trouble> {
        self.bulk_returns = false;
        for lane in &self.lanes {
            lane.give_back().await?;
        }
        Ok(())
    }

    /// While the head of a lane is a job that may end its worker, one at a time, with nothing else in hand: so it takes no neighbours along.
    async fn one_by_one(&mut self) -> Result<Shift, Trouble> {
        self.desk = Arc::new(self.desk.shift(false));
        loop {
            let mut suspects = 0;
            for lane in self.lanes.iter().take(self.open_lanes()) {
                let Some(delivery) = lane.get().await? else { continue };
                let alone = pipeline::must_run_alone(&delivery);
                if alone {
                    suspects += 1;
                    self.none_in_hand().await;
                }
                self.start(delivery).await;
                if alone {
                    self.none_in_hand().await;
                }
            }
            if self.desk.returning.is_cancelled() {
                return Ok(Shift::Shut);
            }
            if suspects == 0 {
                return Ok(Shift::Clear);
            }
        }
    }

    /// How many lanes jobs may be taken from now: the bulk lane is the last one, and may be closed.
    fn open_lanes(&self) -> usize {
        if self.desk.org.gate.bulk_closed().is_some() { 1 } else { 2 }
    }

    /// Nothing is in hand. As soon as a call could be made again, one job at a time is taken and tried, until one has left the gate
    /// open. The lanes take turns, and a job that did not pass goes to the end of its own: so no user is every probe.
    async fn probe(&mut self) -> Result<(), Trouble> {
        let org = Arc::clone(&self.desk.org);
        tracing::warn!(
            org = org.name,
            "no call can be made for long: all jobs went back to their queues; one at a time is tried"
        );
        let mut turn = [0, 1];
        loop {
            while let Some(until) = org.gate.shut(Instant::now()) {
                sleep_until(until.min(Instant::now() + PROBE)).await;
                if org.is_unpublishable() {
                    self.tell_who_is_owed().await;
                }
            }
            self.tell_who_is_owed().await;
            org.until_granted().await;
            self.desk = Arc::new(self.desk.shift(true));
            let mut found = false;
            let open = self.open_lanes();
            for lane in turn.into_iter().filter(|lane| *lane < open) {
                let Some(delivery) = self.lanes[lane].get().await? else { continue };
                found = true;
                self.start(delivery).await;
                break;
            }
            turn.reverse();
            self.none_in_hand().await;
            // A job that ended without a call proves nothing.
            if org.gate.shut(Instant::now()).is_none() && org.gate.is_proved() {
                tracing::info!(org = org.name, "calls can be made again");
                return Ok(());
            }
            self.give_back().await?;
            if !found {
                sleep(PROBE).await;
            }
        }
    }

    /// Lets the jobs in hand end, so that none of them is still at work when its redelivery comes; then closes the channels,
    /// which returns what was not settled. `true`: none of them is at work any more.
    async fn finish(self, end: &End, crew: &Crew<'_>) -> bool {
        let Self { desk, lanes: [mut interactive, mut bulk], jobs, .. } = self;
        jobs.close();
        match end {
            End::Drained => drain(&desk, &mut interactive, &mut bulk, &jobs, crew.config.grace).await,
            End::Trouble(_) => {
                desk.over.cancel();
                let grace_ended = async {
                    crew.shutdown.cancelled().await;
                    sleep(crew.config.grace.saturating_sub(GOODBYES)).await;
                };
                tokio::select! { () = jobs.wait() => {}, () = grace_ended => {} }
            }
        }
        desk.org.gate.admit(None);
        // Whatever could not be published is owed by nobody now; the redelivered jobs find out anew.
        desk.org.publishable();
        tokio::join!(interactive.close(), bulk.close());
        jobs.is_empty()
    }
}

/// Jobs that were never tried go back at once. The others may go on until only the time of one call and its publishes is
/// left of the grace; then only a call in the air is waited for.
async fn drain(desk: &Desk, interactive: &mut Intake, bulk: &mut Intake, jobs: &TaskTracker, grace: Duration) {
    let in_hand = jobs.len();
    tracing::info!(org = desk.org.name, in_hand, "draining");
    desk.draining.cancel();
    tokio::join!(interactive.cancel(), bulk.cancel());
    let grace = grace.saturating_sub(GOODBYES);
    let last_call = grace.saturating_sub(desk.org.config.request_timeout + LAST_PUBLISHES);
    let all = async {
        if tokio::time::timeout(last_call, jobs.wait()).await.is_err() {
            desk.over.cancel();
            jobs.wait().await;
        }
    };
    if tokio::time::timeout(grace, all).await.is_err() {
        tracing::warn!(
            org = desk.org.name,
            in_hand = jobs.len(),
            "shutdown.grace has ended; these jobs go back to their queues"
        );
    }
}
