//! What a delivery needs of the session it is handled in: where to publish, whether it still may, and how to know that it must leave.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::leadership::{Proof, Term};
use super::{Leave, RequeueTarget, Workload};
use crate::amqp::consumer::Delivery;
use crate::amqp::error::BrokerError;
use crate::amqp::link::Link;
use crate::amqp::publisher::Publisher;
use crate::domain::job::Lane;

/// How often a gate is looked at that a probe waits at.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// How deliveries are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum IntakeMode {
    /// Up to `amqp.prefetch` of each lane at once.
    Normal,
    /// One that may end its process runs with nothing else at work.
    #[default]
    Isolated,
    /// One at a time, to see whether calls can be made again.
    Probing,
    /// None: no call can be made for long, and everything is given back.
    Returning,
}

/// Which of what is in flight has to leave: one value of the session, which each delivery watches. `Session::look` decides it, and a
/// delivery that was held too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shift {
    pub(super) mode: IntakeMode,
    /// The lanes that are closed while the others go on.
    pub(super) closed: [bool; Lane::COUNT],
}

/// How one delivery leaves before it ended, as far as it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeavePolicy {
    /// The lane it came by.
    pub lane: Lane,
    /// Until when it may be in flight: the broker takes back what is held too long.
    pub held_until: Instant,
    /// Whether it goes back as soon as a drain begins.
    pub drains: bool,
    /// How it leaves with all others; `None`: it is leaving already, and only its limit and the session's end stop it.
    pub returning: Option<Leave>,
    /// How it leaves when its lane is closed; `None`: it is finished all the same.
    pub closed: Option<Leave>,
    /// How it leaves by itself when it was held too long while calls are made; `None`: all others leave too.
    pub held: Option<Leave>,
    /// Whether it has its end: then a confirm is waited for a little, or what is published would be there twice.
    pub has_ended: bool,
    /// Until when what follows from it may be published.
    pub publishes: PublishRight,
}

/// Until when something may be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishRight {
    /// While this process is known to lead; and what a call has brought that ended at this moment a little longer.
    WhileLeading(Option<std::time::Instant>),
    /// Always: the record of what cannot be undone.
    Always,
}

impl LeavePolicy {
    /// The same for what is leaving already, with a limit of its own.
    pub fn leaving(self, held_until: Instant) -> Self {
        Self { held_until, returning: None, closed: None, held: None, ..self }
    }

    fn leave(&self, shift: &Shift) -> Option<Leave> {
        let returning = self.returning.filter(|_| shift.mode == IntakeMode::Returning);
        returning.or_else(|| self.closed.filter(|_| shift.closed[self.lane.index()]))
    }
}

/// One session, as what is in flight sees it.
pub struct SessionContext<W: Workload> {
    /// What outlives the session.
    pub shared: Arc<W>,
    /// Where everything is published.
    pub publisher: Arc<Publisher>,
    /// That this process leads.
    pub proof: Proof,
    /// Cancelled when nothing new is begun: what was never tried goes back at once, the rest is finished.
    pub draining: CancellationToken,
    /// Cancelled when nothing is waited for any more: the broker or the leadership is lost, or the grace has ended. A call in flight is
    /// still finished.
    pub over: CancellationToken,
    pub(super) shift: watch::Sender<Shift>,
    /// How long after the beginning of a drain the last call is made.
    last_call: Duration,
    /// What left since its lane is closed, to be given back one by one and in order, which is kept by that.
    left: Mutex<Vec<Delivery>>,
    /// The connections, for declaring the topology again.
    pub(super) link: Arc<Link>,
    /// When it was declared again last, and what came of it: one declares for all who wait.
    pub(super) declared: AsyncMutex<Option<(Instant, Result<(), BrokerError>)>>,
}

impl<W: Workload> SessionContext<W> {
    pub(super) fn new(shared: Arc<W>, link: Arc<Link>, term: &Term, last_call: Duration) -> Self {
        Self {
            shared,
            publisher: Arc::clone(&term.publisher),
            proof: term.proof(),
            draining: CancellationToken::new(),
            over: term.lost().child_token(),
            shift: watch::Sender::default(),
            last_call,
            left: Mutex::default(),
            link,
            declared: AsyncMutex::default(),
        }
    }

    /// Everything is given back: whatever only waits leaves.
    pub fn return_all(&self) {
        self.shift.send_modify(|shift| shift.mode = IntakeMode::Returning);
    }

    /// Waits until everything is given back.
    pub(super) async fn until_returning(&self) {
        // The sender lives as long as this.
        let _ = self.shift.subscribe().wait_for(|shift| shift.mode == IntakeMode::Returning).await;
    }

    /// Waits for something, unless the delivery has to leave first.
    ///
    /// # Errors
    /// How it leaves.
    pub async fn unless_left<T>(&self, policy: &LeavePolicy, something: impl Future<Output = T>) -> Result<T, Leave> {
        let drained =
            async { if policy.drains { self.draining.cancelled().await } else { std::future::pending().await } };
        tokio::select! {
            biased;
            () = self.over.cancelled() => Err(Leave::Unsettled),
            () = drained => Err(Leave::Unsettled),
            leave = self.left(policy) => Err(leave),
            value = something => Ok(value),
        }
    }

    /// How a delivery leaves while the session goes on: with all others, as a probe that did not pass, or because it was held for as long
    /// as any may be.
    pub(super) async fn left(&self, policy: &LeavePolicy) -> Leave {
        let mut shift = self.shift.subscribe();
        let told = async {
            let told = shift.wait_for(|shift| policy.leave(shift).is_some()).await;
            // The sender lives as long as this.
            told.ok().and_then(|shift| policy.leave(&shift)).unwrap_or(Leave::Unsettled)
        };
        tokio::select! {
            leave = told => leave,
            () = self.shut_again(policy) => Leave::Again(RequeueTarget::Queue),
            () = sleep_until(policy.held_until) => {
                if let Some(leave) = policy.held && self.shared.gate().shut(Instant::now()).is_none() {
                    return leave;
                }
                // Nothing moves at all, and under an alarm nothing is published either: everything goes back.
                self.return_all();
                policy.returning.unwrap_or(Leave::Unsettled)
            }
        }
    }

    /// For a probe: that no call can be made again.
    async fn shut_again(&self, policy: &LeavePolicy) {
        if policy.returning.is_none() || self.shift.borrow().mode != IntakeMode::Probing {
            return std::future::pending().await;
        }
        loop {
            sleep(LOOK).await;
            let now = Instant::now();
            if self.shared.gate().shut(now).is_some_and(|until| until > now + 4 * LOOK) {
                return;
            }
        }
    }

    /// Waits until a drain has begun whose last call is made before that moment.
    pub async fn drained_before(&self, moment: Instant) {
        self.draining.cancelled().await;
        if Instant::now() + self.last_call >= moment {
            std::future::pending().await
        }
    }

    /// A delivery has left since its lane is closed: its session gives it back.
    pub fn returns(&self, delivery: Delivery) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).push(delivery);
    }

    /// Takes those out, in the order in which they came.
    pub(super) fn take_returned(&self) -> Vec<Delivery> {
        let mut all = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        all.sort_by_key(Delivery::place);
        all
    }
}
