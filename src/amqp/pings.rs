//! Pings: what every candidate for leading publishes to its leader queue twice a second, as one burst for all of a process.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::channels;
use super::error::{ANSWER, BrokerError, within};

/// How often.
const EVERY: Duration = Duration::from_millis(500);
/// How soon after a burst another is sent for one who was made active.
const SOONEST: Duration = Duration::from_millis(100);
/// So many of one candidate that are not confirmed; more wait behind an alarm, or a queue that has lost its quorum.
const UNCONFIRMED: usize = 3;
/// A ping that did not come back within this has expired in its queue.
pub(super) const EXPIRES: Duration = Duration::from_secs(5);

/// One candidate's pings: what tells them from all others, and when each was sent.
#[derive(Debug)]
pub(super) struct Pings {
    queue: String,
    /// Of this registration alone, not of its process.
    id: String,
    channel: Channel,
    sent: Mutex<Sent>,
}

#[derive(Debug, Default)]
struct Sent {
    number: u64,
    /// Those that may come back, the oldest first.
    times: VecDeque<(u64, Instant)>,
    unconfirmed: usize,
    confirmed: Option<Instant>,
}

impl Pings {
    /// Those of one new candidate, to this queue.
    ///
    /// # Errors
    /// Where the broker refuses a channel, or does not answer.
    async fn open(connection: &Connection, queue: &str) -> Result<Self, BrokerError> {
        let what = format!("opening a channel for pings to queue {queue}");
        let channel = within(&what, channels::open(connection)).await?;
        within(&what, channel.confirm_select(ConfirmSelectOptions::default())).await?;
        let id = Uuid::new_v4().simple().to_string();
        Ok(Self { queue: queue.to_owned(), id, channel, sent: Mutex::default() })
    }

    fn sent(&self) -> MutexGuard<'_, Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When this ping was sent, if it is one of these.
    pub(super) fn when_sent(&self, body: &[u8]) -> Option<Instant> {
        let (id, number) = std::str::from_utf8(body).ok()?.split_once(' ')?;
        let number: u64 = (id == self.id).then(|| number.parse().ok()).flatten()?;
        let sent = self.sent();
        sent.times.iter().find(|(own, _)| *own == number).map(|(_, at)| *at)
    }

    /// When one was confirmed last.
    pub(super) fn confirmed(&self) -> Option<Instant> {
        self.sent().confirmed
    }

    /// The next one's body; `None`: too many are not confirmed yet.
    fn next(&self) -> Option<String> {
        let mut sent = self.sent();
        if sent.unconfirmed >= UNCONFIRMED {
            return None;
        }
        let now = Instant::now();
        sent.times.retain(|(_, at)| now.duration_since(*at) < EXPIRES);
        sent.number += 1;
        sent.unconfirmed += 1;
        let number = sent.number;
        sent.times.push_back((number, now));
        Some(format!("{} {number}", self.id))
    }

    /// Publishes one, and waits until it is confirmed: under an alarm for as long as that lasts. Whether it was.
    async fn publish(self: Arc<Self>, body: String) -> bool {
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let properties = BasicProperties::default().with_delivery_mode(2).with_type("ping".into());
        let sent =
            self.channel.basic_publish("".into(), self.queue.as_str().into(), options, body.as_bytes(), properties);
        let confirmed = matches!(async { sent.await?.await }.await, Ok(Confirmation::Ack(None)));
        let mut sent = self.sent();
        sent.unconfirmed = sent.unconfirmed.saturating_sub(1);
        if confirmed {
            sent.confirmed = Some(Instant::now());
        }
        confirmed
    }
}

/// All candidates of a process, by one connection.
#[derive(Debug)]
pub(super) struct Pinger {
    connection: Arc<Connection>,
    all: Mutex<Vec<Weak<Pings>>>,
    at_once: Notify,
}

impl Pinger {
    /// By the publishing connection.
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Self { connection, all: Mutex::default(), at_once: Notify::new() }
    }

    /// Pings to this queue for as long as what is returned lives, the first at once.
    ///
    /// # Errors
    /// Where the broker refuses a channel, or does not answer.
    pub(super) async fn ping(&self, queue: &str) -> Result<Arc<Pings>, BrokerError> {
        let pings = Arc::new(Pings::open(&self.connection, queue).await?);
        self.all().push(Arc::downgrade(&pings));
        self.now();
        Ok(pings)
    }

    /// Does not wait for the next burst.
    pub(super) fn now(&self) {
        self.at_once.notify_one();
    }

    fn living(&self) -> Vec<Arc<Pings>> {
        let mut all = self.all();
        all.retain(|pings| pings.strong_count() > 0);
        all.iter().filter_map(Weak::upgrade).collect()
    }

    fn all(&self) -> MutexGuard<'_, Vec<Weak<Pings>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pings until the connection is lost. One by which no ping is confirmed, though nothing blocks it, is cut off from the queues, and
    /// `lost` is cancelled: another node may be on the other side.
    pub(super) async fn run(self: Arc<Self>, lost: CancellationToken) {
        let silent = lost.run_until_cancelled(self.until_silent()).await;
        if silent.is_some() {
            tracing::warn!(
                "no ping is confirmed for {} s: this node of the broker may be cut off; connecting anew",
                ANSWER.as_secs()
            );
            lost.cancel();
        }
    }

    /// Pings until none was confirmed for as long as any answer may take.
    async fn until_silent(&self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let status = self.connection.status();
        let mut unconfirmed = FuturesUnordered::new();
        let mut silent_since = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.at_once.notified() => sleep(SOONEST).await,
                Some(confirmed) = unconfirmed.next() => {
                    if confirmed {
                        silent_since = None;
                    }
                    continue;
                }
            }
            for pings in self.living() {
                if let Some(body) = pings.next() {
                    unconfirmed.push(pings.publish(body));
                }
            }
            let is_silent = !unconfirmed.is_empty() && !status.blocked();
            silent_since = is_silent.then(|| silent_since.unwrap_or_else(Instant::now));
            if silent_since.is_some_and(|since| since.elapsed() > ANSWER) {
                return;
            }
        }
    }
}
