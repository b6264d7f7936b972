//! Looking through a queue of dead letters without losing one, and taking out those that are settled.
//!
//! Letters come in rounds, each by a consumer of its own that holds no more than one round: so no more than two are ever in memory.
//! None is acked by looking; what was not taken out goes back, in its order, when the channel ends, also by the process's death.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, Consumer};
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::channels;
use super::error::{ANSWER, BrokerError, closing, within};
use super::topology::look_at;

/// Letters in one round, at least.
const ROUND: usize = 500;
/// Rounds at most. When a channel ends, a quorum queue takes back what its consumers held in the order of their tags, as long as the
/// queue has no more than 32 (its map of them is sorted up to there), and of each in the order it came: two who look at once have no
/// more (`docs/development/facts.md#consumers`). What a `nack` of more than 32 returns comes back in no order at all (tried on 3.10).
const ROUNDS: usize = 14;
/// With nothing coming for so long it looks whether anything is left.
const QUIET: Duration = Duration::from_millis(300);
/// How long what was given back may take to lie in the queue again.
const BACK: Duration = Duration::from_secs(5);

/// A queue of dead letters, looked through from its head to what was its end when it was opened.
#[derive(Debug)]
pub struct Letters {
    queue: String,
    channel: Channel,
    there: usize,
    shared: bool,
    /// How many consumers of others there were when it was opened.
    others: u32,
    seen: usize,
    size: usize,
    rounds: usize,
    consumer: Option<Consumer>,
}

/// A letter in flight. Dropped, it stays a letter.
#[derive(Debug)]
pub struct Held {
    /// The body as it lies there.
    pub body: Vec<u8>,
    /// The properties as they lie there.
    pub properties: BasicProperties,
    acker: lapin::Acker,
}

impl Letters {
    /// Opens a queue on a channel of its own; nothing is taken yet.
    ///
    /// # Errors
    /// Where it does not exist, or the broker refuses it or does not answer.
    pub async fn open(connection: &Connection, queue: &str) -> Result<Self, BrokerError> {
        let what = format!("opening queue {queue}");
        let channel = within(&what, channels::open(connection)).await?;
        let (mut there, others) = count(&channel, queue).await?;
        if is_silent(there, others) {
            there = wait_for_count(&channel, queue).await?;
        }
        let (queue, shared) = (queue.to_owned(), others > 0);
        let size = there.div_ceil(ROUNDS).max(ROUND);
        let prefetch = u16::try_from(size).unwrap_or(u16::MAX);
        within(&what, channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
        Ok(Self { queue, channel, there, shared, others, seen: 0, size: prefetch.into(), rounds: 0, consumer: None })
    }

    /// How many lay there ready when it was opened.
    pub fn there(&self) -> usize {
        self.there
    }

    /// Whether letters were, or are, held by another consumer: another process looks through the same queue. Those it holds are not seen here.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// The next letters in the queue's order; none at the end.
    ///
    /// # Errors
    /// Where the broker refuses it, is lost or does not answer.
    pub async fn round(&mut self) -> Result<Vec<Held>, BrokerError> {
        let wanted = (self.there - self.seen).min(self.size);
        let mut letters = Vec::with_capacity(wanted);
        if wanted == 0 {
            return Ok(letters);
        }
        let mut consumer = match self.consumer.take() {
            Some(consumer) => consumer,
            None => self.consume().await?,
        };
        while letters.len() < wanted {
            let Some(delivery) = self.next(&mut consumer).await? else {
                // Somebody else has the rest.
                self.shared = true;
                self.there = self.seen;
                break;
            };
            letters.push(Held { body: delivery.data, properties: delivery.properties, acker: delivery.acker });
            self.seen += 1;
        }
        if self.seen < self.there {
            // It holds all that it may. Once some of it is acked it would be sent more, which nobody would read: the next one takes
            // its place first, so that whoever else looks sees that somebody is here.
            self.consumer = Some(self.consume().await?);
            let tag = consumer.tag();
            closing(self.channel.basic_cancel(tag, BasicCancelOptions::default())).await;
        } else {
            self.consumer = Some(consumer);
        }
        Ok(letters)
    }

    async fn consume(&mut self) -> Result<Consumer, BrokerError> {
        self.rounds += 1;
        // Their order is that in which they give back what they hold.
        let tag = format!("resetd-dead-{:08}", self.rounds);
        let options = BasicConsumeOptions::default();
        let consumer =
            self.channel.basic_consume(self.queue.as_str().into(), tag.into(), options, FieldTable::default());
        within(&format!("looking through queue {}", self.queue), consumer).await
    }

    /// Waits until the broker has passed on to the queue what was acked. Its channel keeps acks back while more than 32 are on their way
    /// to a quorum queue, and what it still keeps when it ends is lost (`docs/development/facts.md#acks`). A cancel is answered when the
    /// queue has done all that came before it, and each look lets the channel hear of that and send what it kept.
    async fn until_acks_are_passed_on(&self, consumer: &Consumer) {
        closing(self.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default())).await;
        for _ in 0..2 {
            if let Err(trouble) = count(&self.channel, &self.queue).await {
                debug!(queue = self.queue, error = %trouble, "it is not known whether all acks were taken");
            }
        }
    }

    /// `None`: nothing is left there.
    async fn next(&self, consumer: &mut Consumer) -> Result<Option<lapin::message::Delivery>, BrokerError> {
        let gone = || BrokerError::Retry(format!("looking through queue {}: its consumer has ended", self.queue));
        let begun = Instant::now();
        while begun.elapsed() < ANSWER {
            if let Ok(next) = timeout(QUIET, consumer.next()).await {
                return next.ok_or_else(gone)?.map(Some).map_err(|_| gone());
            }
            let (ready, consumers) = count(&self.channel, &self.queue).await?;
            if ready == 0 && !is_silent(ready, consumers) {
                // What was on its way came before that answer.
                return match consumer.next().now_or_never() {
                    Some(next) => next.ok_or_else(gone)?.map(Some).map_err(|_| gone()),
                    None => Ok(None),
                };
            }
        }
        Err(BrokerError::Retry(format!(
            "looking through queue {}: nothing came for {} s, though letters lie there",
            self.queue,
            ANSWER.as_secs()
        )))
    }

    /// Gives back, in its order, whatever was not taken out, and waits until it lies there again: whoever looks next sees all of it.
    pub async fn give_back(mut self, connection: &Connection) {
        if let Some(consumer) = self.consumer.take() {
            self.until_acks_are_passed_on(&consumer).await;
        }
        closing(self.channel.close(200, "bye".into())).await;
        if let Err(trouble) = until_read_by(self.others, connection, &self.queue).await {
            debug!(queue = self.queue, error = %trouble, "it is not known whether the letters are back");
        }
    }
}

impl Held {
    /// Takes it out of the queue, once all that it owes is confirmed.
    ///
    /// # Errors
    /// Where its channel is gone: it is still a letter then.
    pub async fn take_out(self) -> Result<(), BrokerError> {
        let gone =
            || BrokerError::Retry("taking a letter out: its channel is gone, so that it is still there".to_owned());
        let acked = within("taking a letter out", self.acker.ack(BasicAckOptions::default())).await?;
        if acked { Ok(()) } else { Err(gone()) }
    }
}

/// Waits, for a moment, until a queue has so many consumers at most: what a consumer held is back in the step in which it goes.
async fn until_read_by(others: u32, connection: &Connection, queue: &str) -> Result<(), BrokerError> {
    let channel = within("opening a channel", channels::open(connection)).await?;
    let begun = Instant::now();
    while count(&channel, queue).await?.1 > others && begun.elapsed() < BACK {
        sleep(Duration::from_millis(10)).await;
    }
    closing(channel.close(200, "bye".into())).await;
    Ok(())
}

/// Whether it may be the answer of a queue whose leader is silent: RabbitMQ then says neither letters nor consumers after 250 ms, and no error
/// (`docs/development/facts.md#consumers`).
fn is_silent(ready: usize, consumers: u32) -> bool {
    (ready, consumers) == (0, 0)
}

/// How many letters lie ready in a queue, once its leader answers: it alone can say whether there is one to get, which goes back to its place.
async fn wait_for_count(channel: &Channel, queue: &str) -> Result<usize, BrokerError> {
    let what = format!("looking whether queue {queue} is empty");
    let Some(letter) = within(&what, channel.basic_get(queue.into(), BasicGetOptions::default())).await? else {
        return Ok(0);
    };
    // What goes back is ready a moment later: it is counted here.
    let (others, _) = count(channel, queue).await?;
    let back = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
    within(&what, letter.delivery.acker.nack(back)).await?;
    Ok(others + 1)
}

/// How many letters lie ready in a queue, and how many consumers it has.
async fn count(channel: &Channel, queue: &str) -> Result<(usize, u32), BrokerError> {
    let queue = look_at(channel, queue).await?;
    Ok((usize::try_from(queue.message_count()).unwrap_or(usize::MAX), queue.consumer_count()))
}
