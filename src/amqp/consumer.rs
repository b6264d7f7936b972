//! Taking jobs, or mails: one channel for each queue, on which it is consumed, or taken from one by one; and a delivery that is settled
//! once, by value.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicQosOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::channels;
use super::trouble::{Trouble, closing, within};
use crate::domain::job::Lane;

/// What the tags begin with that the broker's own pages show.
const TAG: &str = "resetd";
/// How long a delivery of a queue that has messages may take.
const ONE: Duration = Duration::from_secs(2);

/// Where the messages of one queue come in: the jobs of a lane, or whatever `L` stands for.
#[derive(Debug)]
pub struct Intake<L = Lane> {
    lane: L,
    queue: String,
    channel: Channel,
    prefetch: u16,
    consumer: Option<lapin::Consumer>,
    /// How often it was consumed.
    times: u64,
}

/// One job, or mail, in hand. What is dropped without being settled goes back to its queue when its channel is closed, or when all of it
/// is returned.
#[derive(Debug)]
pub struct Delivery<L = Lane> {
    /// The lane it came by.
    pub lane: L,
    /// The body as it came.
    pub body: Vec<u8>,
    /// The properties as they came.
    pub properties: BasicProperties,
    /// Whether the broker delivered it before.
    pub redelivered: bool,
    /// When it came: the broker takes back what is held too long.
    pub came: Instant,
    place: u64,
    acker: lapin::Acker,
}

impl<L: Copy> Intake<L> {
    /// Opens the way to a queue; nothing is taken yet.
    ///
    /// # Errors
    /// Where the broker does not answer.
    pub async fn open(connection: &Connection, queue: String, lane: L, prefetch: u16) -> Result<Self, Trouble> {
        let what = format!("opening a channel for queue {queue}");
        let channel = within(&what, channels::open(connection)).await?;
        Ok(Self { lane, queue, channel, prefetch, consumer: None, times: 0 })
    }

    /// Starts to consume it, under a tag of its own each time. (A tag that is used again while deliveries of the consumer before are in
    /// hand: `docs/development/facts.md#consumer-tags`.)
    ///
    /// # Errors
    /// Where the broker refuses it or does not answer.
    pub async fn consume(&mut self) -> Result<(), Trouble> {
        self.consume_at_most(self.prefetch).await
    }

    /// So many of its deliveries are in hand at most.
    async fn consume_at_most(&mut self, most: u16) -> Result<(), Trouble> {
        let what = format!("consuming queue {}", self.queue);
        within(&what, self.channel.basic_qos(most, BasicQosOptions::default())).await?;
        let options = BasicConsumeOptions::default();
        let queue = self.queue.as_str().into();
        self.times += 1;
        let consumer = self.channel.basic_consume(queue, self.tag().as_str().into(), options, FieldTable::default());
        self.consumer = Some(within(&what, consumer).await?);
        Ok(())
    }

    fn tag(&self) -> String {
        format!("{TAG}-{}", self.times)
    }

    /// Whether it is consumed.
    pub fn is_consumed(&self) -> bool {
        self.consumer.is_some()
    }

    /// The next job, while it is consumed. `None`: the consumer was cancelled, its queue deleted, or the channel is gone.
    pub async fn next(&mut self) -> Option<Delivery<L>> {
        let delivery = self.consumer.as_mut()?.next().await?.ok()?;
        Some(self.delivery(delivery))
    }

    /// Takes the job at the head of the lane, without consuming it.
    ///
    /// # Errors
    /// Where the broker refuses it or does not answer.
    pub async fn get(&self) -> Result<Option<Delivery<L>>, Trouble> {
        let got = self.channel.basic_get(self.queue.as_str().into(), BasicGetOptions::default());
        let got = within(&format!("taking a message from queue {}", self.queue), got).await?;
        Ok(got.map(|got| self.delivery(got.delivery)))
    }

    /// The same by a consumer that may have one, for where many are taken so and are in hand together: RabbitMQ 3.10.8 has lost messages
    /// taken by `basic.get` when it was killed (`docs/development/facts.md#consumers`).
    ///
    /// # Errors
    /// Where the broker refuses it or does not answer.
    pub async fn take_one(&mut self) -> Result<Option<Delivery<L>>, Trouble> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let looked = self.channel.queue_declare(self.queue.as_str().into(), passive, FieldTable::default());
        if within(&format!("looking at queue {}", self.queue), looked).await?.message_count() == 0 {
            return Ok(None);
        }
        self.consume_at_most(1).await?;
        // It is on its way, unless it expired meanwhile.
        let first = match timeout(ONE, self.next()).await {
            Ok(None) => return Err(Trouble::Again(format!("consuming queue {} ended", self.queue))),
            Ok(first) => first,
            Err(_) => None,
        };
        let rest = self.rest().await;
        Ok(first.or_else(|| rest.into_iter().next()))
    }

    fn delivery(&self, from: lapin::message::Delivery) -> Delivery<L> {
        Delivery {
            lane: self.lane,
            body: from.data,
            properties: from.properties,
            redelivered: from.redelivered,
            came: Instant::now(),
            place: from.delivery_tag,
            acker: from.acker,
        }
    }

    /// Takes no more jobs. Those in hand can still be settled; those that were prefetched and not yet handed out stay unsettled.
    pub async fn cancel(&mut self) {
        self.rest().await;
    }

    /// Takes no more jobs, and hands out those that were prefetched.
    pub async fn rest(&mut self) -> Vec<Delivery<L>> {
        if self.consumer.is_none() {
            return Vec::new();
        }
        closing(self.channel.basic_cancel(self.tag().as_str().into(), BasicCancelOptions::default())).await;
        // All that was delivered came before the answer.
        self.came()
    }

    /// Hands out what has come and was not handed out, and nothing after it.
    pub fn came(&mut self) -> Vec<Delivery<L>> {
        let Some(mut consumer) = self.consumer.take() else { return Vec::new() };
        let mut came = Vec::new();
        while let Some(Some(Ok(delivery))) = consumer.next().now_or_never() {
            came.push(self.delivery(delivery));
        }
        came
    }

    /// Gives back whatever was taken and not settled, all at once. (One `nack` of all: on RabbitMQ 4.3 nothing else is free.)
    ///
    /// # Errors
    /// Where the broker is lost or does not answer.
    pub async fn give_back(&self) -> Result<(), Trouble> {
        let options = BasicNackOptions { multiple: true, requeue: true };
        within(&format!("returning messages to queue {}", self.queue), self.channel.basic_nack(0, options)).await
    }

    /// Closes the channel: whatever was not settled goes back to its queue.
    pub async fn close(self) {
        closing(self.channel.close(200, "bye".into())).await;
    }
}

impl<L> Delivery<L> {
    /// Its place among those that came on its channel.
    pub const fn place(&self) -> u64 {
        self.place
    }

    /// Gives it back alone, while others of its channel are in hand. Those that are given back in the order in which they came lie in it
    /// again.
    ///
    /// # Errors
    /// Where the broker is lost or does not answer.
    pub async fn give_back(self) -> Result<(), Trouble> {
        let options = BasicNackOptions { multiple: false, requeue: true };
        within("returning a message to its queue", self.acker.nack(options)).await.map(drop)
    }

    /// Tells the broker that it is done. `false`: its channel is gone, and it will be delivered again.
    pub async fn ack(self, lost: &CancellationToken) -> bool {
        let acked = within("acking a delivery", self.acker.ack(BasicAckOptions::default())).await;
        let settled = matches!(acked, Ok(true));
        if !settled {
            lost.cancel();
        }
        settled
    }
}
