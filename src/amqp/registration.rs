//! A registration as a candidate for leading: a consumer of the leader queue, a quorum queue of which the broker makes one consumer the
//! active one, and pings of its own by which it is known to be that one. `docs/adr/0006` argues why two can never call at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Acker, Channel, Consumer};
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::channels;
use super::error::{BrokerError, closing, within};
use super::link::Link;
use super::pings::{Pinger, Pings};
use super::publisher::{Message, Publisher};
use super::topology::look_at;
use crate::domain::leader_proof::{Chain, FRESH, LeaderProof};

/// Pings that are not acked yet at most: each is acked at once.
const PREFETCH: u16 = 100;
/// What its consumer is called at the broker.
const TAG: &str = "resetd-candidate";

/// One candidate on one link, until it is withdrawn or the link is lost.
#[derive(Debug)]
pub struct Registration {
    channel: Channel,
    queue: String,
    proof: Proof,
    held: Held,
    pinger: Arc<Pinger>,
    gone: CancellationToken,
    _listening: DropGuard,
}

/// The newest own ping that came back, which is acked when the next one does. Where the broker makes another consumer the active one, it hands
/// this to that one as redelivered; and the other's to us, where it makes us that again. So who gets a redelivered message knows that its
/// proofs are no unbroken chain, however quickly the two followed each other.
type Held = Arc<Mutex<Option<Acker>>>;

/// What its pings have proved, for all who have to look at it before they call.
#[derive(Debug, Clone)]
pub struct Proof {
    state: watch::Sender<LeaderProof>,
    pings: Arc<Pings>,
}

impl Registration {
    /// Registers as a candidate at this leader queue, which is declared.
    ///
    /// # Errors
    /// Where the broker is lost, refuses it, or does not answer.
    pub async fn open(link: &Link, queue: String) -> Result<Self, BrokerError> {
        let what = format!("consuming queue {queue}");
        let channel = within(&what, channels::open(&link.consuming)).await?;
        within(&what, channel.basic_qos(PREFETCH, BasicQosOptions::default())).await?;
        let consume = channel.basic_consume(
            queue.as_str().into(),
            TAG.into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let consumer = within(&what, consume).await?;
        let pings = link.pinger.ping(&queue).await?;
        let proof = Proof { state: watch::Sender::default(), pings };
        let held = Held::default();
        let (gone, stop) = (link.lost().child_token(), CancellationToken::new());
        let listening = listen(consumer, proof.clone(), Arc::clone(&held), Arc::clone(&link.pinger), gone.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(listening));
        let pinger = Arc::clone(&link.pinger);
        Ok(Self { channel, queue, proof, held, pinger, gone, _listening: stop.drop_guard() })
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
    pub async fn withdraw(self, publisher: &Publisher) {
        let Self { channel, queue, held, _listening: listening, .. } = self;
        // Else it would find its consumer lost.
        drop(listening);
        // Else the next one would be told that it is not the only one.
        let newest = take(&held);
        if let Some(newest) = newest {
            closing(async { newest.ack(BasicAckOptions::default()).await.map(drop) }).await;
        }
        closing(channel.basic_cancel(TAG.into(), BasicCancelOptions::default())).await;
        let properties = lapin::BasicProperties::default().with_delivery_mode(2).with_type("withdrawn".into());
        let message = Message { exchange: "", key: &queue, body: b"", properties };
        // Its next ping tells it too.
        let _ = timeout(TOLD, publisher.publish(&message)).await;
        closing(channel.close(200, "bye".into())).await;
    }
}

/// How long it is tried to tell the next one.
const TOLD: Duration = Duration::from_millis(500);

impl Proof {
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

/// Takes what comes to the active one. Its own pings are proof, and all others are acked and prove nothing, but that this one was made active:
/// it sends a ping without waiting for its time.
async fn listen(mut consumer: Consumer, proof: Proof, held: Held, pinger: Arc<Pinger>, gone: CancellationToken) {
    loop {
        let released = match timeout(FRESH, consumer.next()).await {
            // A chain is broken by now; and a message that is held for long is an offence of its own (`consumer_timeout`).
            Err(_) => take(&held),
            Ok(Some(Ok(delivery))) => match proof.pings.when_sent(&delivery.data) {
                Some(sent) if !delivery.redelivered => {
                    proof.came_back(sent);
                    held.lock().unwrap_or_else(PoisonError::into_inner).replace(delivery.acker)
                }
                Some(_) | None => {
                    if delivery.redelivered {
                        proof.interrupted();
                    }
                    if proof.state.borrow().chain(Instant::now()).is_none() {
                        pinger.now();
                    }
                    Some(delivery.acker)
                }
            },
            Ok(Some(Err(_)) | None) => break,
        };
        if let Some(acker) = released
            && !matches!(acker.ack(BasicAckOptions::default()).await, Ok(true))
        {
            break;
        }
    }
    tracing::warn!("consuming a leader queue ended: the broker cancelled it, or the queue was deleted");
    gone.cancel();
}
