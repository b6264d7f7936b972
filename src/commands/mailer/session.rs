//! One session, under the lease: take mails, send each in a task of its own, and in the end let those in flight finish.
//!
//! It works in shifts: by the prefetch; and where nothing can be sent for long, everything is given back, once, and probes go one by one
//! until one passes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::desk::Desk;
use super::office::{NAME, Office};
use super::{Held, Post, trip};
use crate::amqp::claim::REPEAT;
use crate::amqp::consumer::{Delivery, Intake};
use crate::amqp::error::{ANSWER, BrokerError};
use crate::amqp::link::Link;
use crate::board::Session as Standing;
use crate::domain::retry::HaltCause;

/// What is kept of the grace for closing channels and connections, even where the broker does not answer.
const GOODBYES: Duration = Duration::from_secs(2);
/// How often it is looked whether nothing can be sent for long.
const LOOK: Duration = Duration::from_millis(500);
/// How often it is looked whether mails can be sent again, and an empty queue looked at by a probe.
const PROBE: Duration = Duration::from_secs(1);

/// How a session ended.
pub(super) enum End {
    /// The process is to end, and what was in flight is finished or goes back.
    Drained,
    /// Something happened; the next session may do better.
    BrokerError(BrokerError),
}

/// Runs one session to its end, and says whether no mail is at work any more.
pub(super) async fn run(post: &Post<'_>, link: &Arc<Link>, held: &Held) -> (End, bool) {
    let mut session = match post.shutdown.run_until_cancelled(Session::open(post, link, held)).await {
        Some(Ok(session)) => session,
        Some(Err(trouble)) => return (End::BrokerError(trouble), true),
        None => return (End::Drained, true),
    };
    let office = &post.office;
    office.works();
    post.board.session(NAME, Standing::Active);
    tracing::info!("at work on the email queue");
    let (renewed, heartbeat) = (held.lease.renewed().clone(), link.heartbeat.clone());
    office.gate.admit(Some(Box::new(move || renewed.is_fresh() && heartbeat.is_alive())));
    let end = session.work(post, held).await;
    if let End::BrokerError(trouble) = &end {
        post.board.session(NAME, Standing::Starting(format!("{trouble}; waiting for mails in flight")));
    }
    let clean = session.finish(&end, post).await;
    (end, clean)
}

struct Session {
    desk: Arc<Desk>,
    intake: Intake<()>,
    mails: TaskTracker,
}

impl Session {
    async fn open(post: &Post<'_>, link: &Arc<Link>, held: &Held) -> Result<Self, BrokerError> {
        let office = &post.office;
        let desk = Desk {
            office: Arc::clone(office),
            publisher: Arc::clone(&held.publisher),
            link: Arc::clone(link),
            lease: held.lease.renewed().clone(),
            draining: CancellationToken::new(),
            over: held.lease.gone().child_token(),
            returning: CancellationToken::new(),
            probing: false,
        };
        let intake = Intake::open(&link.consuming, office.names.emails(), (), post.config.amqp.prefetch).await?;
        Ok(Self { desk: Arc::new(desk), intake, mails: TaskTracker::new() })
    }

    fn office(&self) -> &Office {
        &self.desk.office
    }

    /// Shift after shift, until something ends that.
    async fn work(&mut self, post: &Post<'_>, held: &Held) -> End {
        let (over, shutdown) = (self.desk.over.clone(), post.shutdown.clone());
        let claiming = async {
            loop {
                sleep(REPEAT).await;
                post.office.claim.repeat(&held.publisher).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => End::Drained,
            () = over.cancelled() => End::BrokerError(BrokerError::Retry("a connection, a channel or the lease was lost".into())),
            Err(trouble) = self.shifts() => End::BrokerError(trouble),
            never = claiming => match never {},
        }
    }

    async fn shifts(&mut self) -> Result<Infallible, BrokerError> {
        loop {
            self.by_the_prefetch().await?;
            self.desk.returning.cancel();
            self.intake.cancel().await;
            self.none_in_hand().await;
            self.intake.give_back().await?;
            self.probe().await?;
        }
    }

    /// JobsInFlight over one mail after the other, until nothing can be sent for long.
    async fn by_the_prefetch(&mut self) -> Result<(), BrokerError> {
        self.desk = Arc::new(self.desk.shift(false));
        if self.is_shut_for_long() {
            return Ok(());
        }
        self.intake.consume().await?;
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let delivery = tokio::select! {
                () = self.desk.returning.cancelled() => return Ok(()),
                _ = look.tick() => {
                    if self.is_shut_for_long() {
                        return Ok(());
                    }
                    continue;
                }
                delivery = self.intake.next() => delivery,
            };
            let Some(delivery) = delivery else {
                let queue = self.office().names.emails();
                return Err(BrokerError::Retry(format!(
                    "consuming queue {queue} ended; the broker cancelled it, or the queue was deleted"
                )));
            };
            self.start(delivery);
        }
    }

    /// Whether nothing can be sent for so long that mails should not be held meanwhile.
    fn is_shut_for_long(&self) -> bool {
        let now = Instant::now();
        self.office().gate.shut(now).is_some_and(|until| until > now + self.office().long)
    }

    fn start(&self, delivery: Delivery<()>) {
        let arrival = trip::arrive(&self.desk, delivery);
        // On the heap at once: it is some kilobytes, and would be copied at each hand-over.
        self.mails.spawn(Box::pin(trip::handle(Arc::clone(&self.desk), arrival)));
    }

    async fn none_in_hand(&self) {
        self.mails.close();
        self.mails.wait().await;
        self.mails.reopen();
    }

    /// Nothing is in flight. As soon as a mail could be sent again, one at a time is taken and tried, until one has left the gate open. One
    /// that did not pass goes to the end of the queue, so no person is every probe.
    async fn probe(&mut self) -> Result<(), BrokerError> {
        let office = Arc::clone(&self.desk.office);
        let is_stopped = !office.gate.is_proved();
        if is_stopped {
            tracing::warn!("no mail can be sent for long: all went back to their queue; one at a time is tried");
        }
        loop {
            // Nobody in flight owes anything any more; the next one that does finds out anew.
            office.gate.resolved(HaltCause::Unpublishable);
            while let Some(until) = office.gate.shut(Instant::now()) {
                sleep_until(until.min(Instant::now() + PROBE)).await;
            }
            if office.gate.is_proved() {
                return Ok(());
            }
            self.desk = Arc::new(self.desk.shift(true));
            let found = self.intake.get().await?;
            let is_empty = found.is_none();
            if let Some(delivery) = found {
                self.start(delivery);
            }
            self.none_in_hand().await;
            if office.gate.shut(Instant::now()).is_none() && office.gate.is_proved() {
                tracing::info!("mails can be sent again");
                return Ok(());
            }
            self.intake.give_back().await?;
            if is_empty {
                sleep(PROBE).await;
            }
        }
    }

    /// Lets the mails in flight end, so that none of them is still at work when its redelivery comes; then closes the channel, which
    /// returns what was not settled. `true`: none of them is at work any more.
    async fn finish(self, end: &End, post: &Post<'_>) -> bool {
        let Self { desk, mut intake, mails } = self;
        mails.close();
        let grace = post.config.grace.saturating_sub(GOODBYES);
        match end {
            End::Drained => {
                let in_flight = mails.len();
                tracing::info!(in_flight, "draining");
                desk.draining.cancel();
                intake.cancel().await;
                if timeout(grace.saturating_sub(ANSWER), mails.wait()).await.is_err() {
                    tracing::info!(in_flight = mails.len(), "waiting for mails in flight, whatever shutdown.grace is");
                    // What is owed is given up after `ANSWER`, and so with the grace. A delivery ends by itself, and its record is
                    // published: cut off, it would be made once more.
                    desk.over.cancel();
                    mails.wait().await;
                }
            }
            End::BrokerError(_) => {
                desk.over.cancel();
                let grace_ended = async {
                    post.shutdown.cancelled().await;
                    sleep(grace).await;
                };
                tokio::select! { () = mails.wait() => {}, () = grace_ended => {} }
            }
        }
        desk.office.gate.admit(None);
        desk.office.gate.resolved(HaltCause::Unpublishable);
        intake.close().await;
        mails.is_empty()
    }
}
