//! What the dispatcher looks at, all of it behind one lock, and what follows from it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Expired, Meter, Permit, Vital};
use crate::domain::job::Lane;
use crate::domain::retry::{StopCause, retry_after_stop};
use crate::org::breaker::{Breaker, Stand};
use crate::org::guard::{Closed, Guard};
use crate::org::lanes::Lanes;
use crate::org::limiter::Limiter;
use crate::org::pace::Pace;
use crate::org::spent::Spent;

/// How soon the dispatcher looks again where nobody will tell it.
const SOON: Duration = Duration::from_millis(100);

pub(super) struct State<T> {
    pub(super) lanes: Lanes<Waiting<T>>,
    pub(super) paused_until: Option<Instant>,
    /// Until when no token is asked for, after its endpoint failed.
    pub(super) no_token_until: Option<Instant>,
    pub(super) stops: BTreeMap<StopCause, Stop>,
    pub(super) vital: Option<Vital>,
    pub(super) breaker: Breaker,
    /// What the last call that failed met.
    pub(super) fault: Option<String>,
    pub(super) pace: Pace,
    pub(super) limiter: Limiter,
    /// The rate that the limiter is for.
    pub(super) rate: u32,
    /// What may close the bulk lane.
    pub(super) guard: Guard,
    /// Why it is closed, as everybody was told last.
    pub(super) closed: Option<Closed>,
    pub(super) spent: Spent,
}

/// How often the line tried again while it is stopped for a cause, and when it does so next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stop {
    /// How long until the first of them.
    first: Duration,
    tries: u32,
    until: Instant,
}

pub(super) struct Waiting<T> {
    pub(super) lane: Lane,
    /// Whether its password may be set already: such a job is finished, whatever closes its lane.
    pub(super) begun: bool,
    pub(super) not_after: Option<Timestamp>,
    pub(super) permit: oneshot::Sender<Result<Permit<T>, Expired>>,
}

/// What the dispatcher does next.
pub(super) enum Move {
    /// Wait for somebody to ask, or for something to change.
    Idle,
    /// Look again then, or when something changes.
    Until(Instant),
    /// Give the next permit, as soon as there are a token and the limiter's leave.
    Serve,
}

impl Stop {
    /// A stop, or one more after the one before. The token endpoint's refusal is a try in itself; else a permit is.
    pub(super) fn again(before: Option<&Self>, cause: StopCause, first: Duration, now: Instant) -> Self {
        let refused = u32::from(cause == StopCause::ClientRefused);
        let tries = before.map_or(0, |stop| stop.tries.saturating_add(refused));
        Self { first, tries, until: now + retry_after_stop(first, tries) }
    }

    /// One try is let through.
    fn tried(&mut self, now: Instant) {
        self.tries = self.tries.saturating_add(1);
        self.until = now + retry_after_stop(self.first, self.tries);
    }
}

impl<T> State<T> {
    pub(super) fn new(limiter: Limiter, guard: Guard, now: Instant) -> Self {
        Self {
            lanes: Lanes::default(),
            paused_until: None,
            no_token_until: None,
            stops: BTreeMap::new(),
            vital: None,
            breaker: Breaker::new(now),
            fault: None,
            pace: Pace::new(limiter.full_rate(), now),
            rate: limiter.full_rate().get(),
            spent: Spent::new(now),
            limiter,
            guard,
            closed: None,
        }
    }

    /// Which jobs of the bulk lane may have a permit.
    fn of_bulk(&self) -> impl Fn(&Waiting<T>) -> bool + use<T> {
        let now = Timestamp::now();
        let open = self.guard.closed(now).is_none() && self.guard.has_room(now);
        move |waiting| open || waiting.begun
    }

    pub(super) fn start_empty(&mut self, now: Instant) {
        self.pace = Pace::new(self.limiter.full_rate(), now);
        self.rate = self.limiter.full_rate().get();
        self.limiter = self.limiter.paced(self.limiter.full_rate());
    }

    /// Until when it is shut at least; each of these must let the call pass.
    pub(super) fn shut(&self, now: Instant) -> Option<Instant> {
        let vital = if self.vital.as_ref().is_some_and(|vital| vital()) { None } else { Some(now + SOON) };
        let stopped = self.stops.iter().map(|(cause, stop)| match cause {
            // No try is let through: whoever owes what cannot be published tries that again, and says so when it can.
            StopCause::Unpublishable => now + SOON,
            StopCause::ClientRefused | StopCause::TokenRefused | StopCause::Forbidden | StopCause::MailRefused => {
                stop.until
            }
        });
        let breaker = match self.breaker.stand() {
            Stand::Open(opening) => Some(opening.probe_at),
            Stand::HalfOpen { probe_out: true, .. } => Some(now + SOON),
            Stand::HalfOpen { probe_out: false, .. } | Stand::Closed => None,
        };
        let all = [vital, stopped.max(), breaker, self.paused_until, self.no_token_until];
        all.into_iter().flatten().filter(|until| now < *until).max()
    }

    /// How it stands.
    pub(super) fn meter(&self, now: Instant) -> Meter {
        let moment = |at: Option<Instant>| at.filter(|at| now < *at).map(|at| Timestamp::now() + (at - now));
        Meter {
            configured: self.limiter.full_rate().get(),
            rate: self.rate,
            spent: self.spent.within_a_minute(now),
            waiting: self.lanes.len(),
            paused_until: moment(self.paused_until),
            no_token_until: moment(self.no_token_until),
            next_try: moment(self.stops.values().map(|stop| stop.until).max()),
            may_call: self.vital.as_ref().is_some_and(|vital| vital()),
        }
    }

    /// Looks at everything but the token and the limiter.
    pub(super) fn look(&mut self, now: Instant) -> Move {
        for left in self.lanes.take_out_gone() {
            let _ = left.permit.send(Err(Expired));
        }
        let shut = self.shut(now);
        let waits = self.lanes.has_one(self.of_bulk());
        self.pace.filled(now, waits && shut.is_none_or(|until| self.pace.pauses_until(until)));
        match (waits, shut) {
            (true, Some(until)) => Move::Until(until),
            (true, None) => Move::Serve,
            // The bulk lane is closed, and who waits there leaves.
            (false, _) if !self.lanes.is_empty() => Move::Until(now + SOON),
            (false, _) => match self.breaker.stand() {
                // Nobody asks, but whoever looks at it sees it become half-open.
                Stand::Open(opening) => Move::Until(opening.probe_at),
                Stand::Closed | Stand::HalfOpen { .. } => Move::Idle,
            },
        }
    }

    /// A permit is given: a line that is stopped lets this one try through, and the next one later.
    pub(super) fn let_through(&mut self, now: Instant) -> Option<Waiting<T>> {
        self.stops.values_mut().for_each(|stop| stop.tried(now));
        let may = self.of_bulk();
        let next = match self.breaker.stand() {
            Stand::HalfOpen { .. } => self.lanes.pop_probe(may),
            Stand::Closed | Stand::Open(_) => self.lanes.pop(may),
        };
        if let Some(next) = &next {
            self.guard.permitted(next.lane);
            self.spent.one(now);
        }
        next
    }

    /// Puts a limiter for the pace's rate in place, where that changed. It starts empty.
    pub(super) fn repace(&mut self) -> bool {
        let rate = self.pace.per_minute();
        let changed = rate.get() != self.rate;
        if changed {
            self.rate = rate.get();
            self.limiter = self.limiter.paced(rate);
        }
        changed
    }
}

impl<T> Lanes<Waiting<T>> {
    /// Takes out whoever left and whoever's `not-after` has passed.
    fn take_out_gone(&mut self) -> Vec<Waiting<T>> {
        let now = Timestamp::now();
        self.take_out(|waiting| waiting.permit.is_closed() || waiting.not_after.is_some_and(|end| end < now))
    }
}
