//! How a session takes jobs from both lanes and hands each to the pipeline: in shifts.
//!
//! First one by one while the head of a lane looks like a job that ends its worker; then by the prefetch; and where no call can be made
//! for long, everything is given back, once, and probes go one by one until one passes. While the bulk lane is closed, the interactive
//! one goes on alone.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::Either;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::task::task_tracker::TrackedFuture;

use super::Session;
use crate::amqp::consumer::Delivery;
use crate::amqp::trouble::Trouble;
use crate::domain::job::Lane;
use crate::pipeline::{self, Desk};

/// How often it is looked whether no call can be made for long.
const LOOK: Duration = Duration::from_millis(500);
/// How often it is looked whether calls can be made again, and an empty lane looked at by a probe.
const PROBE: Duration = Duration::from_secs(1);

/// Why a shift ended that is followed by another one.
enum Shift {
    /// A job came that may end its worker.
    Suspect,
    /// No call can be made for long.
    Shut,
    /// All is well: by the prefetch.
    Clear,
}

impl Session {
    /// Shift after shift, until one ends in trouble.
    pub(super) async fn shifts(&mut self) -> Result<Infallible, Trouble> {
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
                Some(delivery) if pipeline::must_run_alone(&delivery) => {
                    pipeline::given_back(&self.desk, &delivery);
                    return Ok(Shift::Suspect);
                }
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
            not_begun(&self.desk, bulk.rest().await);
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
            not_begun(&self.desk, lane.rest().await);
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
        for delivery in taken {
            if pipeline::must_run_alone(&delivery) {
                pipeline::given_back(&self.desk, &delivery);
            } else {
                self.start(delivery).await;
            }
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
}

/// These came, and go back: each is known to be undone, whatever an equal job has come to.
pub(super) fn not_begun(desk: &Desk, deliveries: Vec<Delivery>) {
    deliveries.iter().for_each(|delivery| pipeline::given_back(desk, delivery));
}
