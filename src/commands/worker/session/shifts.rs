//! How a session takes jobs from both lanes and jobs in flight each to its lifecycle: in shifts.
//!
//! First one by one while the head of a lane looks like a job that ends its worker; then by the prefetch; and where no call can be made
//! for long, everything is given back, once, and probes go one by one until one passes. While a lane is closed, the other one goes on
//! alone; where the guard has room for few of its jobs, no more are taken.
//!
//! A job that must run alone waits until nobody is at work: jobs that only wait, for their own next try or for their user's turn, are
//! not waited for, and go on after it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until};

use super::Session;
use crate::amqp::consumer::Delivery;
use crate::amqp::error::BrokerError;
use crate::domain::job::Lane;
use crate::reset::{self, Desk};
use crate::throttle::gate::Room;
use crate::throttle::jobs_in_flight::As;

/// How often it is looked whether no call can be made for long.
const LOOK: Duration = Duration::from_millis(500);
/// How long those take that leave since their lane is closed.
const LEAVING: Duration = Duration::from_millis(300);
/// How often it is looked whether calls can be made again, and an empty lane looked at by a probe.
const PROBE: Duration = Duration::from_secs(1);

/// A lane is consumed while the guard has room for so many times the prefetch: then no consumer takes more than there is room for
/// between two looks at it, though both lanes' jobs in flight set a password each. Else no more of its jobs are taken than there is
/// room for.
const PLENTY: u32 = 3;
/// So many interactive jobs go before one of the bulk lane while jobs run alone: it keeps a tenth, as at the gate.
const BEFORE_BULK: usize = 9;

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
    pub(super) async fn shifts(&mut self) -> Result<Infallible, BrokerError> {
        self.tell_who_is_owed().await;
        let mut next = self.one_by_one().await?;
        loop {
            next = match next {
                Shift::Clear => self.by_the_prefetch().await?,
                Shift::Suspect => {
                    self.finish_taken().await?;
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
        while !reset::collect(&self.desk).await {
            sleep(PROBE).await;
        }
    }

    /// JobsInFlight over one job after the other.
    async fn by_the_prefetch(&mut self) -> Result<Shift, BrokerError> {
        self.renew_desk();
        if self.is_shut_for_long() {
            return Ok(Shift::Shut);
        }
        let org = Arc::clone(&self.desk.org);
        self.tend_lanes().await?;
        let mut look = looks();
        loop {
            if !self.suspects.is_empty() {
                return Ok(Shift::Suspect);
            }
            let [interactive, bulk] = &mut self.lanes;
            let (lane, delivery) = tokio::select! {
                () = self.desk.returning.cancelled() => return Ok(Shift::Shut),
                _ = look.tick() => {
                    if self.is_shut_for_long() {
                        return Ok(Shift::Shut);
                    }
                    self.tend_lanes().await?;
                    continue;
                }
                () = org.gate.room_freed() => {
                    self.tend_lanes().await?;
                    continue;
                }
                delivery = interactive.next(), if interactive.is_consumed() => (Lane::Interactive, delivery),
                delivery = bulk.next(), if bulk.is_consumed() => (Lane::Bulk, delivery),
            };
            let delivery = delivery.ok_or_else(|| self.ended(lane))?;
            self.hand(delivery).await;
            if Lane::ALL.iter().any(|lane| org.gate.room(*lane).is_some()) {
                self.tend_lanes().await?;
            }
        }
    }

    fn ended(&self, lane: Lane) -> BrokerError {
        let queue = self.desk.org.names.lane(lane);
        BrokerError::Retry(format!("consuming queue {queue} ended; the broker cancelled it, or the queue was deleted"))
    }

    /// The desk of the jobs in flight: they leave with all others. With nothing in flight after a shift that is over, a new one.
    fn renew_desk(&mut self) {
        if self.desk.has_ended() {
            self.desk = Arc::new(self.desk.shift(false));
        }
    }

    /// Takes jobs from each lane while that is open: by consuming it, or as many as the guard has room for where those are few.
    async fn tend_lanes(&mut self) -> Result<(), BrokerError> {
        self.tend_closing().await?;
        for lane in Lane::ALL {
            self.tend(lane).await?;
        }
        Ok(())
    }

    async fn tend(&mut self, lane: Lane) -> Result<(), BrokerError> {
        let gate = &self.desk.org.gate;
        if gate.is_closed(lane) {
            return Ok(());
        }
        let prefetch = u32::from(self.prefetch);
        // A little more where it begins, so that it does not begin and end with each job.
        let is_consumed = self.lanes[lane.index()].is_consumed();
        let plenty = if is_consumed { PLENTY } else { PLENTY + 1 } * prefetch;
        if gate.room(lane).is_none_or(|room| room.all >= plenty) {
            if !is_consumed {
                self.lanes[lane.index()].consume().await?;
            }
            return Ok(());
        }
        for delivery in self.lanes[lane.index()].rest().await {
            self.hand(delivery).await;
        }
        let org = &self.desk.org;
        let free = org.gate.room(lane).map_or(prefetch, |room| room.free);
        let most = free.min(prefetch.saturating_sub(org.jobs_in_flight.count(lane)));
        if self.suspects.is_empty() && most > 0 {
            for delivery in self.lanes[lane.index()].take(u16::try_from(most).unwrap_or(u16::MAX)).await? {
                self.hand(delivery).await;
            }
        }
        Ok(())
    }

    /// Where a lane closes, its jobs leave whose password cannot be set yet, and go back to it.
    async fn tend_closing(&mut self) -> Result<(), BrokerError> {
        for lane in Lane::ALL {
            let is_closed = self.desk.org.gate.is_closed(lane);
            let has_closed = self.desk.closed[lane.index()].is_cancelled();
            if is_closed && !has_closed {
                self.desk.closed[lane.index()].cancel();
                self.have_left = Instant::now() + LEAVING;
                for delivery in self.lanes[lane.index()].rest().await {
                    self.hand(delivery).await;
                }
            }
            if !is_closed && has_closed {
                self.desk = Arc::new(self.desk.with_open(lane));
            }
        }
        if self.have_left <= Instant::now() {
            for delivery in self.desk.returns.take() {
                delivery.give_back().await?;
            }
        }
        Ok(())
    }

    /// Whether a job may be taken from that lane now: it is open, and the guard has room for one.
    fn may_take(&self, lane: Lane) -> bool {
        let gate = &self.desk.org.gate;
        !gate.is_closed(lane) && gate.room(lane).is_none_or(|Room { free, .. }| free > 0)
    }

    /// Whether no call can be made for so long that jobs should not be held meanwhile.
    fn is_shut_for_long(&self) -> bool {
        let now = Instant::now();
        self.desk.org.gate.shut(now).is_some_and(|until| until > now + self.desk.org.long)
    }

    /// While the head of a lane is a job that may end its worker, one at a time, with nobody else at work: so it takes no neighbours along.
    /// The interactive lane goes first.
    async fn one_by_one(&mut self) -> Result<Shift, BrokerError> {
        self.renew_desk();
        loop {
            let mut suspects = 0;
            for (lane, most) in [(Lane::Interactive, BEFORE_BULK), (Lane::Bulk, 1)] {
                for _ in 0..most {
                    self.tend_closing().await?;
                    let may = self.may_take(lane);
                    let delivery = if may { self.lanes[lane.index()].get().await? } else { None };
                    let Some(delivery) = delivery else { break };
                    suspects += usize::from(self.run(delivery).await?);
                    if self.desk.returning.is_cancelled() {
                        break;
                    }
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

    /// JobsInFlight a job over; one that must run alone, when nobody is at work, and then waits until it is not either. `true`: it was such a job.
    async fn run(&mut self, delivery: Delivery) -> Result<bool, BrokerError> {
        let alone = must_run_alone(&delivery);
        if alone {
            self.nobody_at_work().await?;
            self.start(delivery, As::Alone).await;
            self.nobody_at_work().await?;
        } else {
            self.hand(delivery).await;
        }
        Ok(alone)
    }

    /// Waits until nobody is at work. A lane that closes meanwhile gives its jobs back.
    async fn nobody_at_work(&mut self) -> Result<(), BrokerError> {
        let jobs_in_flight = self.desk.org.jobs_in_flight.clone();
        let mut look = looks();
        loop {
            tokio::select! {
                () = jobs_in_flight.none_at_work(&Lane::ALL) => return Ok(()),
                _ = look.tick() => self.tend_waiting().await?,
            }
        }
    }

    /// While jobs at work are waited for: those of a bulk lane that closes are given back, and all leave where no call can be made for
    /// long.
    async fn tend_waiting(&mut self) -> Result<(), BrokerError> {
        if self.is_shut_for_long() {
            self.desk.returning.cancel();
        }
        self.tend_closing().await
    }

    /// Nothing is in flight. As soon as a call could be made again, one job at a time is taken and tried, until one has left the gate
    /// open. The lanes take order of a user, and a job that did not pass goes to the end of its own: so no user is every probe.
    async fn probe(&mut self) -> Result<(), BrokerError> {
        let org = Arc::clone(&self.desk.org);
        tracing::warn!(
            org = org.name,
            "no call can be made for long: all jobs went back to their queues; one at a time is tried"
        );
        let mut turn = Lane::ALL;
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
            for lane in turn {
                let delivery = if self.may_take(lane) { self.lanes[lane.index()].get().await? } else { None };
                let Some(delivery) = delivery else { continue };
                found = true;
                self.start(delivery, As::One).await;
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

    /// JobsInFlight a job over, or puts it aside where it must run alone. One that must, and may not be tried yet, only waits meanwhile.
    async fn hand(&mut self, delivery: Delivery) {
        if must_run_alone(&delivery) {
            self.suspects.push(delivery);
        } else {
            let taken = if reset::must_run_alone(&delivery) { As::Waiting } else { As::One };
            self.start(delivery, taken).await;
        }
    }

    async fn start(&self, delivery: Delivery, taken: As) {
        let arrival = reset::arrive(&self.desk, delivery, taken).await;
        // On the heap at once: it is some kilobytes, and would be copied at each hand-over.
        self.jobs.spawn(Box::pin(reset::handle(Arc::clone(&self.desk), arrival)));
    }

    /// Takes no more, and waits until no job is in flight; those that wait too long leave by themselves.
    async fn stop_taking(&mut self) {
        for lane in &mut self.lanes {
            not_begun(&self.desk, lane.rest().await);
        }
        self.none_in_hand().await;
    }

    /// Takes no more, and lets those end that were taken already: returning them would count against each. Only those that must run alone
    /// are given back. While the others of the bulk lane end, the interactive one goes on.
    async fn finish_taken(&mut self) -> Result<(), BrokerError> {
        for delivery in self.lanes[1].rest().await {
            self.hand(delivery).await;
        }
        let (jobs_in_flight, returning) = (self.desk.org.jobs_in_flight.clone(), self.desk.returning.clone());
        let mut look = looks();
        loop {
            let delivery = tokio::select! {
                () = jobs_in_flight.none_at_work(&[Lane::Bulk]) => break,
                () = returning.cancelled() => break,
                _ = look.tick() => {
                    self.tend_waiting().await?;
                    continue;
                }
                delivery = self.lanes[0].next(), if self.lanes[0].is_consumed() => delivery,
            };
            let delivery = delivery.ok_or_else(|| self.ended(Lane::Interactive))?;
            self.hand(delivery).await;
        }
        for delivery in self.lanes[0].rest().await {
            self.hand(delivery).await;
        }
        self.nobody_at_work().await?;
        // Each by itself, since those that wait stay in flight.
        let mut suspects = std::mem::take(&mut self.suspects);
        suspects.sort_by_key(|delivery| (delivery.lane.index(), delivery.place()));
        for delivery in suspects {
            reset::given_back(&self.desk, &delivery);
            delivery.give_back().await?;
        }
        Ok(())
    }

    async fn none_in_hand(&self) {
        self.jobs.close();
        self.jobs.wait().await;
        self.jobs.reopen();
    }

    /// With nothing in flight: gives back whatever was taken.
    async fn give_back(&mut self) -> Result<(), BrokerError> {
        not_begun(&self.desk, std::mem::take(&mut self.suspects));
        drop(self.desk.returns.take());
        for lane in &self.lanes {
            lane.give_back().await?;
        }
        Ok(())
    }
}

/// Whether a job must run alone now. While it may not be tried yet it only waits, which it need not do alone.
fn must_run_alone(delivery: &Delivery) -> bool {
    reset::must_run_alone(delivery) && !reset::is_early(delivery)
}

fn looks() -> Interval {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look
}

/// These came, and go back: each is known to be undone, whatever an equal job has come to.
pub(super) fn not_begun(desk: &Desk, deliveries: Vec<Delivery>) {
    deliveries.iter().for_each(|delivery| reset::given_back(desk, delivery));
}
