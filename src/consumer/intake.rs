//! How a session takes deliveries, in three modes, and hands each to its lifecycle.
//!
//! Isolated while the head of a lane looks like one that ends its process; then normal, up to the prefetch; and where no call can be made
//! for long, everything is given back, once, and probes go one by one until one passes. While a lane is closed, the others go on alone;
//! where the guard has room for few of its deliveries, no more are taken.
//!
//! What runs isolated waits until nothing else is at work: what only waits, for its own next try or for its user's turn, is not waited
//! for, and goes on after it.

use std::convert::Infallible;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until};

use super::session::Session;
use super::workload::{IntakeMode, IntakeState, Workload};
use crate::amqp::consumer::{Delivery, Intake};
use crate::amqp::error::BrokerError;
use crate::domain::job::Lane;
use crate::domain::retry::HaltCause;
use crate::throttle::gate::Room;
use crate::throttle::jobs_in_flight::As;

/// How often it is looked whether no call can be made for long.
const LOOK: Duration = Duration::from_millis(500);
/// How long those take that leave since their lane is closed.
const LEAVING: Duration = Duration::from_millis(300);
/// How often it is looked whether calls can be made again, and an empty lane looked at by a probe.
const PROBE: Duration = Duration::from_secs(1);

/// A lane is consumed while the guard has room for so many times the prefetch: then no consumer takes more than there is room for
/// between two looks at it, though all lanes' jobs in flight set a password each. Else no more of its jobs are taken than there is
/// room for.
const PLENTY: u32 = 3;
/// So many of the first lane go before one of another while deliveries run isolated: that one keeps a tenth, as at the gate.
const BEFORE_OTHERS: usize = 9;

impl<W: Workload> Session<W> {
    /// One mode after the other, until one ends in trouble.
    pub(super) async fn take_in(&mut self) -> Result<Infallible, BrokerError> {
        self.finish_before_intake().await;
        let mut mode = IntakeMode::Isolated;
        loop {
            mode = match mode {
                IntakeMode::Normal => self.normal().await?,
                IntakeMode::Isolated if W::RETURNS_COUNT => self.isolated().await?,
                IntakeMode::Isolated => IntakeMode::Normal,
                IntakeMode::Probing | IntakeMode::Returning => self.probing().await?,
            };
        }
    }

    async fn finish_before_intake(&self) {
        while !W::finish_before_intake(&self.context).await {
            sleep(PROBE).await;
        }
    }

    /// Decides what has to leave: the one place for every mode. Where no call can be made for long that is everything; where a lane
    /// closes, what of it may, and that goes back to it.
    async fn look(&mut self) -> Result<(), BrokerError> {
        let (gate, now) = (self.context.shared.gate(), Instant::now());
        if gate.shut(now).is_some_and(|until| until > now + self.long) {
            self.context.return_all();
            return Ok(());
        }
        for at in 0..self.lanes.len() {
            let lane = self.lanes[at].lane();
            let is_closed = self.context.shared.gate().is_closed(lane);
            let was_closed = self.context.intake.borrow().closed[lane.index()];
            if is_closed == was_closed {
                continue;
            }
            self.context.intake.send_modify(|intake| intake.closed[lane.index()] = is_closed);
            if is_closed {
                self.have_left = now + LEAVING;
                self.rest(at).await;
            }
        }
        if self.have_left <= Instant::now() {
            for delivery in self.context.take_returned() {
                delivery.give_back().await?;
            }
        }
        Ok(())
    }

    fn is_returning(&self) -> bool {
        self.context.intake.borrow().mode == IntakeMode::Returning
    }

    /// Goes on in another mode, unless all has to be returned first.
    fn enter(&self, mode: IntakeMode) {
        let change = |intake: &mut IntakeState| {
            intake.mode = if intake.mode == IntakeMode::Returning { intake.mode } else { mode }
        };
        self.context.intake.send_modify(change);
    }

    /// With nothing in flight: begins anew.
    fn begin(&self, mode: IntakeMode) {
        self.context.intake.send_replace(IntakeState { mode, ..IntakeState::default() });
    }

    /// Hands over one delivery after the other.
    async fn normal(&mut self) -> Result<IntakeMode, BrokerError> {
        self.enter(IntakeMode::Normal);
        self.tend_lanes().await?;
        let context = Arc::clone(&self.context);
        let mut look = looks();
        while self.suspects.is_empty() {
            if self.is_returning() {
                return Ok(IntakeMode::Probing);
            }
            let came = tokio::select! {
                () = context.until_returning() => continue,
                _ = look.tick() => None,
                () = context.shared.gate().room_freed() => None,
                came = next_of(&mut self.lanes) => Some(came),
            };
            if let Some((at, delivery)) = came {
                let delivery = delivery.ok_or_else(|| self.ended(at))?;
                self.hand(delivery).await;
                if self.lanes.iter().all(|lane| context.shared.gate().room(lane.lane()).is_none()) {
                    continue;
                }
            }
            self.tend_lanes().await?;
        }
        self.finish_taken().await?;
        Ok(if self.is_returning() { IntakeMode::Probing } else { IntakeMode::Isolated })
    }

    fn ended(&self, at: usize) -> BrokerError {
        let queue = self.lanes[at].queue();
        BrokerError::Retry(format!("consuming queue {queue} ended; the broker cancelled it, or the queue was deleted"))
    }

    /// Takes deliveries of each lane while that is open: by consuming it, or as many as the guard has room for where those are few.
    async fn tend_lanes(&mut self) -> Result<(), BrokerError> {
        self.look().await?;
        for at in 0..self.lanes.len() {
            if !self.is_returning() {
                self.tend(at).await?;
            }
        }
        Ok(())
    }

    async fn tend(&mut self, at: usize) -> Result<(), BrokerError> {
        let (lane, gate) = (self.lanes[at].lane(), self.context.shared.gate());
        if gate.is_closed(lane) {
            return Ok(());
        }
        let prefetch = u32::from(self.prefetch);
        // A little more where it begins, so that it does not begin and end with each delivery.
        let is_consumed = self.lanes[at].is_consumed();
        let plenty = if is_consumed { PLENTY } else { PLENTY + 1 } * prefetch;
        if gate.room(lane).is_none_or(|room| room.all >= plenty) {
            if !is_consumed {
                self.lanes[at].consume().await?;
            }
            return Ok(());
        }
        self.rest(at).await;
        let shared = &self.context.shared;
        let free = shared.gate().room(lane).map_or(prefetch, |room| room.free);
        let most = free.min(prefetch.saturating_sub(shared.in_flight().count(lane)));
        if self.suspects.is_empty() && most > 0 {
            for delivery in self.lanes[at].take(u16::try_from(most).unwrap_or(u16::MAX)).await? {
                self.hand(delivery).await;
            }
        }
        Ok(())
    }

    /// Takes the head of a lane, where it may be taken now: it is open, and the guard has room for it.
    async fn get(&self, at: usize) -> Result<Option<Delivery>, BrokerError> {
        let (lane, gate) = (self.lanes[at].lane(), self.context.shared.gate());
        let has_room = gate.room(lane).is_none_or(|Room { free, .. }| free > 0);
        if gate.is_closed(lane) || !has_room {
            return Ok(None);
        }
        self.lanes[at].get().await
    }

    /// While the head of a lane is a delivery that may end its process, one at a time, with nothing else at work: so it takes no
    /// neighbours along. The first lane goes first.
    async fn isolated(&mut self) -> Result<IntakeMode, BrokerError> {
        self.enter(IntakeMode::Isolated);
        self.look().await?;
        while !self.is_returning() {
            let mut suspects = 0;
            for at in 0..self.lanes.len() {
                let most = if at == 0 { BEFORE_OTHERS } else { 1 };
                for _ in 0..most {
                    self.look().await?;
                    let Some(delivery) = self.get(at).await? else { break };
                    suspects += usize::from(self.run(delivery).await?);
                    if self.is_returning() {
                        break;
                    }
                }
            }
            if suspects == 0 && !self.is_returning() {
                return Ok(IntakeMode::Normal);
            }
        }
        Ok(IntakeMode::Probing)
    }

    /// Hands a delivery over; one that must run alone, when nothing is at work, and then waits until it is not either. `true`: it was one.
    async fn run(&mut self, delivery: Delivery) -> Result<bool, BrokerError> {
        let alone = W::taken_as(&delivery) == As::Alone;
        if alone {
            self.nothing_at_work().await?;
            self.start(delivery, As::Alone).await;
            self.nothing_at_work().await?;
        } else {
            self.hand(delivery).await;
        }
        Ok(alone)
    }

    /// Waits until nothing is at work. What has to leave meanwhile does.
    async fn nothing_at_work(&mut self) -> Result<(), BrokerError> {
        let in_flight = self.context.shared.in_flight().clone();
        let mut look = looks();
        loop {
            tokio::select! {
                () = in_flight.none_at_work(&Lane::ALL) => return Ok(()),
                _ = look.tick() => self.look().await?,
            }
        }
    }

    /// Gives everything back. As soon as a call could be made again, one delivery at a time is taken and tried, until one has left the
    /// gate open. The lanes take turns, and what did not pass goes to the end of its own: so no user is every probe.
    async fn probing(&mut self) -> Result<IntakeMode, BrokerError> {
        self.context.return_all();
        for lane in &mut self.lanes {
            self.context.not_begun(lane.rest().await);
        }
        self.none_in_flight().await;
        self.give_back().await?;
        let shared = Arc::clone(&self.context.shared);
        let (org, gate) = (shared.subject().org(), shared.gate());
        // What was only a pause needs no probe where it costs nothing to return what was taken too early.
        let is_needed = || W::RETURNS_COUNT || !gate.is_proved();
        if is_needed() {
            tracing::warn!(org, "nothing can be done for long: everything was given back; one at a time is tried");
        }
        let mut turn: Vec<usize> = (0..self.lanes.len()).collect();
        loop {
            while let Some(until) = gate.shut(Instant::now()) {
                sleep_until(until.min(Instant::now() + PROBE)).await;
                if gate.is_halted(HaltCause::Unpublishable) {
                    self.finish_before_intake().await;
                }
            }
            self.finish_before_intake().await;
            shared.until_authorized().await;
            if !is_needed() {
                break;
            }
            self.begin(IntakeMode::Probing);
            let is_found = self.start_one(&turn).await?;
            turn.rotate_left(1);
            self.none_in_flight().await;
            // What ended without a call proves nothing.
            if gate.shut(Instant::now()).is_none() && gate.is_proved() {
                tracing::info!(org, "a probe has passed: intake goes on");
                break;
            }
            self.give_back().await?;
            if !is_found {
                sleep(PROBE).await;
            }
        }
        self.begin(IntakeMode::Isolated);
        Ok(IntakeMode::Isolated)
    }

    /// Starts the head of the first of these lanes that has one.
    async fn start_one(&mut self, turn: &[usize]) -> Result<bool, BrokerError> {
        for at in turn {
            if let Some(delivery) = self.get(*at).await? {
                self.start(delivery, As::One).await;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Hands a delivery over, or puts it aside where it must run alone.
    async fn hand(&mut self, delivery: Delivery) {
        match W::taken_as(&delivery) {
            As::Alone => self.suspects.push(delivery),
            taken @ (As::One | As::Waiting) => self.start(delivery, taken).await,
        }
    }

    /// Takes no more of a lane, and hands over what has come.
    async fn rest(&mut self, at: usize) {
        for delivery in self.lanes[at].rest().await {
            self.hand(delivery).await;
        }
    }

    /// A panic that its lifecycle has not caught ends the session, so that the delivery comes again and is not held for good.
    async fn start(&self, delivery: Delivery, taken: As) {
        let arrival = W::arrive(&self.context, delivery, taken).await;
        let (context, over) = (Arc::clone(&self.context), self.context.over.clone());
        // On the heap at once: it is some kilobytes, and would be copied at each hand-over.
        self.tasks.spawn(Box::pin(async move {
            if AssertUnwindSafe(W::handle(context, arrival)).catch_unwind().await.is_err() {
                over.cancel();
            }
        }));
    }

    /// Takes no more, and lets those end that were taken already: returning them would count against each. Only those that must run alone
    /// are given back. While those of the other lanes end, the first one goes on.
    async fn finish_taken(&mut self) -> Result<(), BrokerError> {
        for at in 1..self.lanes.len() {
            self.rest(at).await;
        }
        let others: Vec<Lane> = self.lanes.iter().skip(1).map(Intake::lane).collect();
        let context = Arc::clone(&self.context);
        let in_flight = context.shared.in_flight();
        let mut look = looks();
        loop {
            let (at, delivery) = tokio::select! {
                () = in_flight.none_at_work(&others) => break,
                () = context.until_returning() => break,
                _ = look.tick() => {
                    self.look().await?;
                    continue;
                }
                came = next_of(&mut self.lanes) => came,
            };
            let delivery = delivery.ok_or_else(|| self.ended(at))?;
            self.hand(delivery).await;
        }
        self.rest(0).await;
        self.nothing_at_work().await?;
        // Each by itself, since those that wait stay in flight.
        let mut suspects = std::mem::take(&mut self.suspects);
        suspects.sort_by_key(|delivery| (delivery.lane.index(), delivery.place()));
        for delivery in suspects {
            W::given_back(&self.context, &delivery);
            delivery.give_back().await?;
        }
        Ok(())
    }

    async fn none_in_flight(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }

    /// With nothing in flight: gives back whatever was taken.
    async fn give_back(&mut self) -> Result<(), BrokerError> {
        self.context.not_begun(std::mem::take(&mut self.suspects));
        drop(self.context.take_returned());
        for lane in &self.lanes {
            lane.give_back().await?;
        }
        Ok(())
    }
}

/// The next delivery of whichever lane is consumed, and where it came; where several have one, of any of them.
async fn next_of(lanes: &mut [Intake]) -> (usize, Option<Delivery>) {
    let first = rand::random_range(0..lanes.len());
    poll_fn(|context| {
        for at in (first..lanes.len()).chain(0..first) {
            if lanes[at].is_consumed()
                && let Poll::Ready(delivery) = lanes[at].poll_next(context)
            {
                return Poll::Ready((at, delivery));
            }
        }
        Poll::Pending
    })
    .await
}

fn looks() -> Interval {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look
}
