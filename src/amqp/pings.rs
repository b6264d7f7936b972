//! Pings: what every candidate for leading publishes to its leader queue twice a second, as one burst for all of a process.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use tokio::sync::Notify;
use tokio::time::sleep_until;
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
    /// Cancelled where no more can be sent, or none is confirmed: the candidate must register anew.
    failed: CancellationToken,
}

#[derive(Debug, Default)]
struct Sent {
    number: u64,
    /// Those that may come back, the oldest first.
    times: VecDeque<(u64, Instant)>,
    unconfirmed: usize,
    /// Since when something is sent and nothing confirmed.
    silent_since: Option<Instant>,
    confirmed: Option<Instant>,
}

impl Pings {
    /// Those of one new candidate, to this queue.
    ///
    /// # Errors
    /// Where the broker refuses a channel, or does not answer.
    async fn open(connection: &Connection, queue: &str, failed: CancellationToken) -> Result<Self, BrokerError> {
        let what = format!("opening a channel for pings to queue {queue}");
        let channel = within(&what, channels::open(connection)).await?;
        within(&what, channel.confirm_select(ConfirmSelectOptions::default())).await?;
        let id = Uuid::new_v4().simple().to_string();
        Ok(Self { queue: queue.to_owned(), id, channel, sent: Mutex::default(), failed })
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
        sent.silent_since.get_or_insert(now);
        let number = sent.number;
        sent.times.push_back((number, now));
        Some(format!("{} {number}", self.id))
    }

    /// Publishes one, and waits until it is confirmed: under an alarm for as long as that lasts.
    async fn publish(self: Arc<Self>, body: String) {
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let properties = BasicProperties::default().with_delivery_mode(2).with_type("ping".into());
        let sent =
            self.channel.basic_publish("".into(), self.queue.as_str().into(), options, body.as_bytes(), properties);
        let said = async { sent.await?.await }.await;
        let mut sent = self.sent();
        sent.unconfirmed = sent.unconfirmed.saturating_sub(1);
        match said {
            Ok(Confirmation::Ack(None)) => {
                let now = Instant::now();
                sent.confirmed = Some(now);
                sent.silent_since = (sent.unconfirmed > 0).then_some(now);
            }
            // Its node is down, or the queue is gone: the next one shows.
            Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(_) | Confirmation::NotRequested) => {}
            // The channel is lost, and no number of tries opens it again.
            Err(error) => {
                tracing::debug!(queue = self.queue, reason = %error, "pings cannot be sent any more");
                self.failed.cancel();
            }
        }
    }

    /// Whether nothing was confirmed for as long as any answer may take. Under an alarm that time does not run.
    fn is_silent(&self, is_blocked: bool) -> bool {
        let mut sent = self.sent();
        if is_blocked && sent.silent_since.is_some() {
            sent.silent_since = Some(Instant::now());
        }
        sent.silent_since.is_some_and(|since| since.elapsed() > ANSWER)
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

    /// A new candidate's pings to this queue, which begin with [`Pinger::begin`]; `failed` is cancelled where that cannot go on.
    ///
    /// # Errors
    /// Where the broker refuses a channel, or does not answer.
    pub(super) async fn open(&self, queue: &str, failed: CancellationToken) -> Result<Arc<Pings>, BrokerError> {
        Pings::open(&self.connection, queue, failed).await.map(Arc::new)
    }

    /// Pings for as long as these live, the first time at once.
    pub(super) fn begin(&self, pings: &Arc<Pings>) {
        self.all().push(Arc::downgrade(pings));
        self.now();
    }

    /// Pings for these no more.
    pub(super) fn end(&self, pings: &Arc<Pings>) {
        self.all().retain(|of_one| !std::ptr::eq(of_one.as_ptr(), Arc::as_ptr(pings)));
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

    /// Pings until the connection is lost. One by which no ping of anybody is confirmed, though nothing blocks it, is cut off from the queues,
    /// and `lost` is cancelled: another node may be on the other side.
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
        let mut unconfirmed = FuturesUnordered::new();
        let mut last = tokio::time::Instant::now();
        let mut next = last;
        loop {
            tokio::select! {
                biased;
                Some(()) = unconfirmed.next() => {}
                () = self.at_once.notified() => next = next.min(last + SOONEST),
                () = sleep_until(next) => {
                    last = tokio::time::Instant::now();
                    next = last + EVERY;
                    let all = self.living();
                    let is_blocked = self.connection.status().blocked();
                    let silent: Vec<_> = all.iter().filter(|pings| pings.is_silent(is_blocked)).collect();
                    if !silent.is_empty() && silent.len() == all.len() {
                        return;
                    }
                    silent.into_iter().for_each(|pings| pings.failed.cancel());
                    unconfirmed.extend(all.into_iter().filter_map(|pings| pings.next().map(|body| pings.publish(body))));
                }
            }
        }
    }
}
