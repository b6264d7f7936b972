//! What the dispatcher looks at, all of it behind one lock, and what follows from it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::permit::{Expired, Permit};
use crate::domain::job::Lane;
use crate::domain::retry::{HaltCause, first_after_stop, retry_after_stop, sooner_for_another};
use crate::domain::user::UserId;
use crate::throttle::adaptive_rate::AdaptiveRate;
use crate::throttle::breaker::{Breaker, Opening, Stand};
use crate::throttle::doubts::{Doubts, Witness};
use crate::throttle::guard::{Closed, Guard};
use crate::throttle::lanes::Lanes;
use crate::throttle::limiter::Limiter;
use crate::throttle::spent::Spent;

/// How soon the dispatcher looks again where nobody will tell it.
const SOON: Duration = Duration::from_millis(100);

/// Whether the worker may call at this moment: it is proved to lead, and what it owes can be published. It is asked under the
/// gate's lock, so it is quick and leaves the gate alone.
pub type CallGuard = Box<dyn Fn() -> bool + Send + Sync>;

/// How a gate stands at one moment, for whoever looks on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meter {
    /// The configured rate, in calls a minute.
    pub configured: u32,
    /// The rate at work: the same, or less where others share the org's quota.
    pub rate: u32,
    /// Permits given in the last 60 s, by this process.
    pub spent: u32,
    /// Tries that wait for their permit.
    pub waiting: usize,
    /// Until when all calls pause, as the org asked.
    pub paused_until: Option<Timestamp>,
    /// Until when no token is asked for, after its endpoint failed.
    pub no_token_until: Option<Timestamp>,
    /// When halted processing is tried again.
    pub next_try: Option<Timestamp>,
    /// Whether the worker may call at all: it is proved to lead, and the broker confirms what is published.
    pub may_call: bool,
}

#[cfg(test)]
impl Meter {
    /// One of this rate, where nothing is done and nothing waited for.
    pub(crate) fn idle(rate: u32) -> Self {
        Self {
            configured: rate,
            rate,
            spent: 0,
            waiting: 0,
            paused_until: None,
            no_token_until: None,
            next_try: None,
            may_call: true,
        }
    }
}

pub(super) struct State<T> {
    pub(super) lanes: Lanes<Waiting<T>>,
    pub(super) paused_until: Option<Instant>,
    /// Until when no token is asked for, after its endpoint failed.
    pub(super) no_token_until: Option<Instant>,
    pub(super) stops: BTreeMap<HaltCause, Stop>,
    /// Whether somebody else than the org answered a PATCH, since the org answered one: then no search ends the halt.
    pub(super) patch_is_foreign: bool,
    pub(super) call_guard: Option<CallGuard>,
    pub(super) breaker: Breaker,
    /// What the last call that failed met.
    pub(super) fault: Option<String>,
    /// What is known of the users whose calls failed.
    pub(super) doubts: Doubts,
    /// The newest success when the last call was made that is to show whose fault a failure was.
    confirming: u64,
    /// Whether another process has the org: nothing of this is shown then.
    pub(super) hidden: bool,
    pub(super) adaptive_rate: AdaptiveRate,
    pub(super) limiter: Limiter,
    /// The rate that the limiter is for.
    pub(super) rate: u32,
    /// What may close a lane.
    pub(super) guard: Guard,
    /// Why each is closed, as everybody was told last.
    pub(super) closed: [Option<Closed>; Lane::COUNT],
    pub(super) spent: Spent,
}

/// How often processing was tried again while it is halted for a cause, and when it does so next.
#[derive(Debug, Clone)]
pub(super) struct Stop {
    /// How long until the first of them.
    first: Duration,
    tries: u32,
    /// When it was stopped, or tried again, last.
    last: Instant,
    until: Instant,
    /// What is said of it.
    pub(super) why: String,
}

pub(super) struct Waiting<T> {
    pub(super) lane: Lane,
    /// Whom it is about, where that matters.
    pub(super) user: Option<UserId>,
    /// Whether it is the second half of a try: the PATCH of one who was just found by a search.
    pub(super) goes_on: bool,
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
    /// A stop, or one more after the one before. The token endpoint's refusal is a try in itself; else a permit is. `halted`: how long
    /// after it was halted processing is tried again for the first time.
    pub(super) fn again(before: Option<&Self>, cause: HaltCause, halted: Duration, now: Instant, why: &str) -> Self {
        let refused = u32::from(cause == HaltCause::ClientRefused);
        let tries = before.map_or(0, |stop| stop.tries.saturating_add(refused));
        let first = first_after_stop(cause, halted);
        Self { first, tries, last: now, until: now + retry_after_stop(first, tries), why: why.to_owned() }
    }

    /// One try is let through.
    fn tried(&mut self, now: Instant) {
        self.tries = self.tries.saturating_add(1);
        (self.last, self.until) = (now, now + retry_after_stop(self.first, self.tries));
    }

    /// The try that was let through has shown nothing: it is none, and the next one does not wait.
    pub(super) fn showed_nothing(&mut self, now: Instant) {
        self.tries = self.tries.saturating_sub(1);
        self.until = now;
    }

    /// When it is tried again, where somebody else than the org answers.
    fn until_foreign(&self, several: bool, another: bool) -> Instant {
        let usual = self.until.saturating_duration_since(self.last);
        self.last + sooner_for_another(usual, self.first, several, another)
    }
}

impl<T> State<T> {
    pub(super) fn new(limiter: Limiter, guard: Guard, now: Instant) -> Self {
        Self {
            lanes: Lanes::default(),
            paused_until: None,
            no_token_until: None,
            stops: BTreeMap::new(),
            patch_is_foreign: false,
            call_guard: None,
            breaker: Breaker::new(now),
            fault: None,
            doubts: Doubts::default(),
            confirming: 0,
            hidden: false,
            adaptive_rate: AdaptiveRate::new(limiter.full_rate(), now),
            rate: limiter.full_rate().get(),
            spent: Spent::new(now),
            limiter,
            guard,
            closed: [const { None }; Lane::COUNT],
        }
    }

    /// Which jobs may have a permit: those of a lane that is open, and has room at the guard.
    fn of_open_lanes(&self) -> impl Fn(Lane, &Waiting<T>) -> bool + use<T> {
        let now = Timestamp::now();
        let open = Lane::ALL.map(|lane| self.guard.closed(lane, now).is_none() && self.guard.has_room(lane, now));
        move |lane, waiting| open[lane.index()] || waiting.begun
    }

    /// What this process knows of the org is older than what another has done with it.
    pub(super) fn start_empty(&mut self, now: Instant) {
        self.breaker = self.breaker.anew(now);
        (self.doubts, self.confirming) = (Doubts::default(), 0);
        self.stops.clear();
        self.patch_is_foreign = false;
        (self.paused_until, self.no_token_until) = (None, None);
        self.adaptive_rate = AdaptiveRate::new(self.limiter.full_rate(), now);
        self.rate = self.limiter.full_rate().get();
        self.limiter = self.limiter.paced(self.limiter.full_rate());
    }

    /// Until when it is shut at least; each of these must let the call pass.
    pub(super) fn shut(&self, now: Instant) -> Option<Instant> {
        let call_guard =
            if self.call_guard.as_ref().is_some_and(|call_guard| call_guard()) { None } else { Some(now + SOON) };
        // The second half of a try that was let through is made, whatever is halted.
        let may = self.of_open_lanes();
        let goes_on = self.lanes.has(|lane, waiting| waiting.goes_on && may(lane, waiting));
        let is_over = |cause: &HaltCause| goes_on && *cause != HaltCause::Unpublishable;
        let stopped = self.stops.iter().filter(|(cause, _)| !is_over(cause)).map(|(cause, stop)| match cause {
            // No try is let through: whoever owes what cannot be published tries that again, and says so when it can.
            HaltCause::Unpublishable => now + SOON,
            HaltCause::ForeignAnswer => stop.until_foreign(self.doubts.several_are_foreign(), self.has_clear()),
            HaltCause::ClientRefused | HaltCause::TokenRefused | HaltCause::Forbidden | HaltCause::MailRefused => {
                stop.until
            }
        });
        let breaker = match self.breaker.stand() {
            Stand::Open(opening) => Some(opening.probe_from(self.doubts.many_fail(), self.has_clear())),
            Stand::HalfOpen { probe_out: true, .. } => Some(now + SOON),
            Stand::HalfOpen { probe_out: false, .. } | Stand::Closed => None,
        };
        let all = [call_guard, stopped.max(), breaker, self.paused_until, self.no_token_until];
        all.into_iter().flatten().filter(|until| now < *until).max()
    }

    /// When a probe is let through at the latest: sooner where another user comes, whose calls have not failed.
    pub(super) fn latest_probe(&self, opening: Opening) -> Instant {
        opening.probe_from(self.doubts.many_fail(), false)
    }

    /// When a halted org is tried again at the latest, likewise.
    fn latest_try(&self, cause: HaltCause, stop: &Stop) -> Instant {
        match cause {
            HaltCause::ForeignAnswer => stop.until_foreign(self.doubts.several_are_foreign(), false),
            HaltCause::ClientRefused
            | HaltCause::TokenRefused
            | HaltCause::Forbidden
            | HaltCause::Unpublishable
            | HaltCause::MailRefused => stop.until,
        }
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
            next_try: moment(self.stops.iter().map(|(cause, stop)| self.latest_try(*cause, stop)).max()),
            may_call: self.call_guard.as_ref().is_some_and(|call_guard| call_guard()),
        }
    }

    /// Looks at everything but the token and the limiter.
    pub(super) fn look(&mut self, now: Instant) -> Move {
        for left in self.lanes.take_out_gone() {
            let _ = left.permit.send(Err(Expired));
        }
        let shut = self.shut(now);
        let waits = self.lanes.has(self.of_open_lanes());
        self.adaptive_rate.filled(now, waits && shut.is_none_or(|until| self.adaptive_rate.pauses_until(until)));
        match (waits, shut) {
            (true, Some(until)) => Move::Until(until),
            (true, None) => Move::Serve,
            // Their lane is closed, and who waits there leaves.
            (false, _) if !self.lanes.is_empty() => Move::Until(now + SOON),
            (false, _) => match self.breaker.stand() {
                // Nobody asks, but whoever looks at it sees it become half-open.
                Stand::Open(opening) => Move::Until(self.latest_probe(opening)),
                Stand::Closed | Stand::HalfOpen { .. } => Move::Idle,
            },
        }
    }

    /// A permit is given: a halt lets this one try through, and the next one later.
    pub(super) fn let_through(&mut self, now: Instant) -> Option<Waiting<T>> {
        let next = self.pop(now);
        if let Some(next) = &next {
            self.guard.permitted(next.lane);
            self.spent.one(now);
        }
        next
    }

    /// Who is next. While it is to be found out whether calls pass again, somebody of whom nothing bad is known, if such a one waits.
    fn pop(&mut self, now: Instant) -> Option<Waiting<T>> {
        let may = self.of_open_lanes();
        // It has waited its time: a search is worth nothing before its PATCH.
        if let Some(next) = self.lanes.pop_first(|lane, waiting| waiting.goes_on && may(lane, waiting)) {
            return Some(next);
        }
        let is_halted = !self.stops.is_empty();
        self.stops.values_mut().for_each(|stop| stop.tried(now));
        let (doubts, stand) = (&self.doubts, self.breaker.stand());
        // Of several of whom nothing bad is known the one that came last: those that came first are likelier to be of those that failed.
        let rank = |waiting: &Waiting<T>, turn: usize, at: usize| match &waiting.user {
            Some(user) => (doubts.witness(user), turn, usize::MAX - at),
            None => (Witness::Clear, turn, at),
        };
        if is_halted || matches!(stand, Stand::HalfOpen { .. }) {
            return self.lanes.pop_probe(&may, rank, stand.is_at_first());
        }
        let to_be_confirmed =
            |waiting: &Waiting<T>| waiting.user.as_ref().is_some_and(|user| doubts.is_to_be_confirmed(user));
        // One at a time, and a success between each two of them: so many bad users in a row look like an org that is down.
        if doubts.newest_success() > self.confirming
            && let Some(next) = self.lanes.pop_first(|lane, waiting| to_be_confirmed(waiting) && may(lane, waiting))
        {
            self.confirming = doubts.newest_success();
            return Some(next);
        }
        self.lanes.pop(&may, to_be_confirmed)
    }

    /// Makes an open breaker half-open where its time is over, and says whether it did.
    pub(super) fn ripen(&mut self, now: Instant) -> bool {
        let (many, another) = (self.doubts.many_fail(), self.has_clear());
        self.breaker.ripen(now, many, another)
    }

    /// Whether somebody waits of whom nothing bad is known.
    fn has_clear(&self) -> bool {
        let is_clear =
            |waiting: &Waiting<T>| waiting.user.as_ref().is_none_or(|user| self.doubts.witness(user) == Witness::Clear);
        let may = self.of_open_lanes();
        self.lanes.has(|lane, waiting| is_clear(waiting) && may(lane, waiting))
    }

    /// Puts a limiter for the adaptive rate in place, where that changed. It starts empty.
    pub(super) fn repace(&mut self) -> bool {
        let rate = self.adaptive_rate.per_minute();
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
