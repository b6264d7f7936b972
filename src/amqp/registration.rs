//! A registration as a candidate for leading: a consumer of the leader queue, a quorum queue of which the broker makes one consumer the
//! active one, and pings of its own by which it is known to be that one. `docs/adr/0006` argues why two can never call at once.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Acker, Channel, Consumer};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::channels;
use super::error::{BrokerError, closing, within};
use super::link::Link;
use super::pings::{Pinger, Pings};
use super::publisher::{Message, Publisher};
use super::topology::look_at;
use crate::domain::leader_proof::{Chain, FRESH, LeaderProof};

/// Pings that are not acked yet at most: the newest own one, and those since.
const PREFETCH: u16 = 100;
/// What its consumer is called at the broker.
const TAG: &str = "resetd-candidate";
/// How long one that withdraws waits for what is on its way to it, and then for the next one to be told.
const LEAVING: Duration = Duration::from_millis(500);

/// One candidate on one link, until it is withdrawn or the link is lost.
#[derive(Debug)]
pub struct Registration {
    channel: Channel,
    queue: String,
    proof: Proof,
    held: Held,
    pinger: Arc<Pinger>,
    link_lost: CancellationToken,
    gone: CancellationToken,
    leaving: CancellationToken,
    listening: JoinHandle<()>,
    _listening: DropGuard,
}

/// The newest own ping that came back and what has come since, by the last of them: acked in one when the next own ping comes back, since
/// each ack is an entry of the queue's log. Where the broker makes another consumer the active one, it hands these to that one as redelivered;
/// and the other's to us, where it makes us that again. So who gets a redelivered message knows that its proofs are no unbroken chain, however
/// quickly the two followed each other.
type Held = Arc<Mutex<Unacked<Acker>>>;

/// What is not acked yet, by the last of it; nothing is where no own ping is among it.
#[derive(Debug)]
struct Unacked<A>(Option<A>);

impl<A> Default for Unacked<A> {
    fn default() -> Self {
        Self(None)
    }
}

impl<A> Unacked<A> {
    /// An own ping came back: all before it is to be acked.
    fn own(&mut self, ping: A) -> Option<A> {
        self.0.replace(ping)
    }

    /// Something else came: it waits with the newest own ping, and is to be acked where there is none.
    fn other(&mut self, message: A) -> Option<A> {
        match &mut self.0 {
            Some(last) => {
                *last = message;
                None
            }
            None => Some(message),
        }
    }

    /// All of it is to be acked.
    fn take(&mut self) -> Option<A> {
        self.0.take()
    }
}

/// Acks this and all that came before it.
const ALL_BEFORE: BasicAckOptions = BasicAckOptions { multiple: true };

/// What its pings have proved, for all who have to look at it before they call.
#[derive(Debug, Clone)]
pub struct Proof {
    state: watch::Sender<LeaderProof>,
    pings: Arc<Pings>,
}

/// The same, for observers, as long as it is registered.
#[derive(Debug, Clone)]
pub(super) struct ProofView {
    state: watch::Receiver<LeaderProof>,
    pings: Weak<Pings>,
}

/// The channel of one that is not registered yet, which is closed when this is dropped: a consumer that the broker makes after all would be
/// one that nobody reads. lapin closes no channel that waits for an answer.
struct Unregistered(Option<Channel>);

impl Unregistered {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Unregistered {
    fn drop(&mut self) {
        if let Some(channel) = self.0.take() {
            tokio::spawn(async move { closing(channel.close(200, "not registered".into())).await });
        }
    }
}

impl Registration {
    /// Registers as a candidate at this leader queue, which is declared.
    ///
    /// # Errors
    /// Where the broker is lost, refuses it, or does not answer.
    pub async fn open(link: &Link, queue: String) -> Result<Self, BrokerError> {
        let (gone, leaving, stop) = (link.lost().child_token(), CancellationToken::new(), CancellationToken::new());
        // First: one that is registered and cannot ping would keep all others from leading.
        let pings = link.pinger.open(&queue, gone.clone()).await?;
        let what = format!("consuming queue {queue}");
        let channel = within(&what, channels::open(&link.consuming)).await?;
        let unregistered = Unregistered(Some(channel.clone()));
        let consumer = within(&what, consume(&channel, &queue)).await?;
        unregistered.keep();
        let proof = Proof { state: watch::Sender::default(), pings };
        link.pinger.begin(&proof.pings);
        let held = Held::default();
        let listener = Listener {
            proof: proof.clone(),
            held: Arc::clone(&held),
            pinger: Arc::clone(&link.pinger),
            leaving: leaving.clone(),
        };
        let listening = listener.listen(consumer, gone.clone());
        let stopped = stop.clone();
        let listening = tokio::spawn(async move { stopped.run_until_cancelled(listening).await.unwrap_or_default() });
        Ok(Self {
            channel,
            queue,
            proof,
            held,
            pinger: Arc::clone(&link.pinger),
            link_lost: link.lost().clone(),
            gone,
            leaving,
            listening,
            _listening: stop.drop_guard(),
        })
    }

    /// What is proved.
    pub fn proof(&self) -> &Proof {
        &self.proof
    }

    /// Cancelled when it is known to be over.
    pub fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// Pings, and waits until a ping has come back that was sent after this moment.
    pub async fn prove_anew(&self) {
        let (now, mut states) = (Instant::now(), self.proof.state.subscribe());
        self.pinger.now();
        // The sender lives as long as this.
        let _ = states.wait_for(|state| state.is_newer_than(now)).await;
    }

    /// How many pings lie in the queue that nobody has taken; `None`: the broker does not say.
    pub async fn ready(&self) -> Option<u32> {
        look_at(&self.channel, &self.queue).await.ok().map(|queue| queue.message_count())
    }

    /// Withdraws it: the broker makes the next one active at once, and a message to the queue tells that one so.
    pub async fn withdraw(mut self, publisher: &Publisher) {
        self.pinger.end(&self.proof.pings);
        if self.link_lost.is_cancelled() {
            return;
        }
        self.leaving.cancel();
        closing(self.channel.basic_cancel(TAG.into(), BasicCancelOptions::default())).await;
        // All that was on its way is acked. Else the next one would get it as redelivered, and take it that another leads.
        let _ = timeout(LEAVING, &mut self.listening).await;
        let newest = take(&self.held);
        if let Some(newest) = newest {
            closing(async { newest.ack(ALL_BEFORE).await.map(drop) }).await;
        }
        closing(self.channel.close(200, "bye".into())).await;
        let properties = lapin::BasicProperties::default().with_delivery_mode(2).with_type("withdrawn".into());
        let message = Message { exchange: "", key: &self.queue, body: b"", properties };
        // Its next ping tells it too.
        let _ = timeout(LEAVING, publisher.publish(&message)).await;
    }
}

async fn consume(channel: &Channel, queue: &str) -> lapin::Result<Consumer> {
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    channel.basic_consume(queue.into(), TAG.into(), BasicConsumeOptions::default(), FieldTable::default()).await
}

impl ProofView {
    /// How old the newest proof is; `None`: there has been none.
    pub(super) fn age(&self) -> Option<Duration> {
        self.state.borrow().age(Instant::now())
    }

    /// When a ping was confirmed last, if any was; `None`: it is not registered any more.
    pub(super) fn confirmed_at(&self) -> Option<Option<Instant>> {
        self.pings.upgrade().map(|pings| pings.confirmed())
    }
}

impl Proof {
    /// The same for observers, which keeps nothing registered.
    pub(super) fn view(&self) -> ProofView {
        ProofView { state: self.state.subscribe(), pings: Arc::downgrade(&self.pings) }
    }

    /// Whether a call may begin.
    pub fn is_fresh(&self) -> bool {
        self.state.borrow().is_fresh(Instant::now())
    }

    /// Whether what a call has brought may still be published, where a call takes at most `longest`.
    pub fn allows_late_publishes(&self, longest: Duration) -> bool {
        self.state.borrow().allows_late_publishes(longest, Instant::now())
    }

    /// How old the newest proof is; `None`: there has been none.
    pub fn age(&self) -> Option<Duration> {
        self.state.borrow().age(Instant::now())
    }

    /// When a ping was confirmed last.
    pub fn confirmed_at(&self) -> Option<Instant> {
        self.pings.confirmed()
    }

    /// Waits until pings come back: the broker has this registration for the active one.
    pub async fn chain(&self) -> Chain {
        let mut states = self.state.subscribe();
        loop {
            if let Some(chain) = states.borrow_and_update().chain(Instant::now()) {
                return chain;
            }
            // The sender lives as long as this.
            let _ = states.changed().await;
        }
    }

    /// Waits until this chain is broken.
    pub async fn broken(&self, chain: Chain) {
        let mut states = self.state.subscribe();
        loop {
            let breaks = states.borrow_and_update().breaks(chain, Instant::now());
            let Some(at) = breaks else { return };
            tokio::select! {
                () = sleep_until(at.into()) => {}
                _ = states.changed() => {}
            }
        }
    }

    /// All that others have done before this chain is known: calls may begin. `false`: it is broken.
    pub fn accept(&self, chain: Chain) -> bool {
        let mut holds = false;
        self.state.send_modify(|state| holds = state.accept(chain, Instant::now()));
        holds
    }

    fn interrupted(&self) {
        self.state.send_modify(LeaderProof::interrupted);
    }

    fn came_back(&self, sent: Instant) {
        self.state.send_modify(|state| state.came_back(sent, Instant::now()));
    }
}

fn take(held: &Held) -> Option<Acker> {
    held.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Takes what comes to the active one.
struct Listener {
    proof: Proof,
    held: Held,
    pinger: Arc<Pinger>,
    leaving: CancellationToken,
}

impl Listener {
    /// Its own pings are proof. All others prove nothing, but that this one was made active: it sends a ping without waiting for its time.
    /// `gone` is cancelled at the end, whatever that comes by.
    async fn listen(self, mut consumer: Consumer, gone: CancellationToken) {
        let _gone = gone.clone().drop_guard();
        let mut held_until = None;
        loop {
            let overdue = async {
                match held_until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let acked = tokio::select! {
                biased;
                came = consumer.next() => match came {
                    Some(Ok(delivery)) => self.came(delivery, &mut held_until),
                    Some(Err(_)) | None => break,
                },
                // Its chain is broken by now, and a message may not be held for long (`consumer_timeout`).
                () = overdue => {
                    held_until = None;
                    take(&self.held)
                }
            };
            if let Some(acker) = acked
                && !matches!(acker.ack(ALL_BEFORE).await, Ok(true))
            {
                break;
            }
        }
        if !gone.is_cancelled() && !self.leaving.is_cancelled() {
            tracing::warn!("consuming a leader queue ended: the broker cancelled it, or the queue was deleted");
        }
    }

    /// What is to be acked now, with all before it.
    fn came(&self, delivery: Delivery, held_until: &mut Option<tokio::time::Instant>) -> Option<Acker> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match self.proof.pings.when_sent(&delivery.data) {
            Some(sent) if !delivery.redelivered => {
                self.proof.came_back(sent);
                *held_until = Some(tokio::time::Instant::now() + FRESH);
                held.own(delivery.acker)
            }
            Some(_) | None => {
                if delivery.redelivered {
                    self.proof.interrupted();
                }
                if self.proof.state.borrow().chain(Instant::now()).is_none() {
                    self.pinger.now();
                }
                held.other(delivery.acker)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Else nobody who is active next would get it as redelivered.
        #[test]
        fn the_newest_own_ping_is_not_acked_before_the_next_comes_back(came in prop::collection::vec(any::<bool>(), 0..40)) {
            let (mut unacked, mut newest_own, mut acked) = (Unacked::default(), 0, 0);
            for (tag, is_own) in (1_u64..).zip(came) {
                let now = if is_own { unacked.own(tag) } else { unacked.other(tag) };
                let before = newest_own;
                if is_own {
                    newest_own = tag;
                }
                if let Some(all_before) = now {
                    prop_assert!(all_before > acked && (newest_own == 0 || all_before < newest_own), "{all_before}");
                    acked = all_before;
                }
                prop_assert!(!is_own || before == 0 || acked == tag - 1, "all before it is acked with it");
            }
            let last = unacked.take();
            prop_assert_eq!(last.is_some(), newest_own > 0);
            prop_assert!(last.is_none_or(|last| last >= newest_own && last > acked));
        }
    }
}
