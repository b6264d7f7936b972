//! Taking jobs, or mails: one channel for each queue, on which it is consumed, or taken from one by one; and a delivery that is settled
//! once, by value.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::channels;
use super::error::{BrokerError, closing, within};
use super::topology::look_at;
use crate::domain::job::Lane;

/// What the tags begin with that the broker's own pages show.
const TAG: &str = "resetd";
/// How long the deliveries of a queue that has messages may take.
const FEW: Duration = Duration::from_secs(2);
/// So many consumers of one channel have deliveries in flight at most, each `basic.get` among them. With more than 32 in one queue
/// RabbitMQ before 4.2 may take an ack for that of another message after it was killed, and lose messages
/// (`docs/development/facts.md#consumers`); a channel that ends and the one that follows it may meet.
const CONSUMERS: usize = 15;

/// Where the messages of one queue come in: the jobs of a lane, or the mails.
#[derive(Debug)]
pub struct Intake {
    lane: Lane,
    queue: String,
    channel: Channel,
    prefetch: u16,
    consumer: Option<Consumer>,
    /// How often it was consumed.
    times: u64,
    /// Places for consumers that have deliveries in flight.
    consumers: Arc<Semaphore>,
}

/// A consumer, as long as it takes deliveries.
#[derive(Debug)]
struct Consumer {
    deliveries: lapin::Consumer,
    place: Arc<OwnedSemaphorePermit>,
}

/// One job, or mail, in flight. What is dropped without being settled goes back to its queue when its channel is closed, or when all of it
/// is returned.
#[derive(Debug)]
pub struct Delivery {
    /// The lane it came by.
    pub lane: Lane,
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
    /// Its consumer is one of those that have deliveries in flight, as long as this lives.
    _consumer: Arc<OwnedSemaphorePermit>,
}

impl Intake {
    /// Opens the way to a queue; nothing is taken yet.
    ///
    /// # Errors
    /// Where the broker does not answer.
    pub async fn open(connection: &Connection, queue: String, lane: Lane, prefetch: u16) -> Result<Self, BrokerError> {
        let what = format!("opening a channel for queue {queue}");
        let channel = within(&what, channels::open(connection)).await?;
        let consumers = Arc::new(Semaphore::new(CONSUMERS));
        Ok(Self { lane, queue, channel, prefetch, consumer: None, times: 0, consumers })
    }

    /// Starts to consume it, under a tag of its own each time. (A tag that is used again while deliveries of the consumer before are in
    /// hand: `docs/development/facts.md#consumer-tags`.) Where too many consumers have deliveries in flight it is not consumed, see
    /// [`Intake::is_consumed`]: a later try may do.
    ///
    /// # Errors
    /// Where the broker refuses it or does not answer.
    pub async fn consume(&mut self) -> Result<(), BrokerError> {
        self.consume_at_most(self.prefetch).await
    }

    /// So many of its deliveries are in flight at most.
    async fn consume_at_most(&mut self, most: u16) -> Result<(), BrokerError> {
        let Some(place) = self.consumer_place() else { return Ok(()) };
        let what = format!("consuming queue {}", self.queue);
        within(&what, self.channel.basic_qos(most, BasicQosOptions::default())).await?;
        let options = BasicConsumeOptions::default();
        let queue = self.queue.as_str().into();
        self.times += 1;
        let consumer = self.channel.basic_consume(queue, self.tag().as_str().into(), options, FieldTable::default());
        self.consumer = Some(Consumer { deliveries: within(&what, consumer).await?, place });
        Ok(())
    }

    /// A place for one more consumer.
    fn consumer_place(&self) -> Option<Arc<OwnedSemaphorePermit>> {
        Arc::clone(&self.consumers).try_acquire_owned().ok().map(Arc::new)
    }

    fn tag(&self) -> String {
        format!("{TAG}-{}", self.times)
    }

    /// Whether it is consumed.
    pub fn is_consumed(&self) -> bool {
        self.consumer.is_some()
    }

    /// The lane that it counts for.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// The queue's name.
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// The next job, while it is consumed. `None`: the consumer was cancelled, its queue deleted, or the channel is gone.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Delivery>> {
        let Some(Consumer { deliveries, place }) = self.consumer.as_mut() else { return Poll::Ready(None) };
        let came = ready!(deliveries.poll_next_unpin(context));
        let place = Arc::clone(place);
        Poll::Ready(came.and_then(Result::ok).map(|delivery| self.delivery(delivery, place)))
    }

    /// Takes the job at the head of the lane, without consuming it. `None` where it is empty, or too many consumers have deliveries in flight.
    ///
    /// # Errors
    /// Where the broker refuses it or does not answer.
    pub async fn get(&self) -> Result<Option<Delivery>, BrokerError> {
        let Some(place) = self.consumer_place() else { return Ok(None) };
        let got = self.channel.basic_get(self.queue.as_str().into(), BasicGetOptions::default());
        let got = within(&format!("taking a message from queue {}", self.queue), got).await?;
        Ok(got.map(|got| self.delivery(got.delivery, place)))
    }

    /// Takes so many at most, all by one consumer. None where it is empty, or too many consumers have deliveries in flight.
    ///
    /// # Errors
    /// Where the broker refuses it or does not answer.
    pub async fn take(&mut self, most: u16) -> Result<Vec<Delivery>, BrokerError> {
        let mut taken = Vec::new();
        if self.consumers.available_permits() == 0 {
            return Ok(taken);
        }
        let ready = look_at(&self.channel, &self.queue).await?.message_count();
        let wanted = u16::try_from(ready).unwrap_or(u16::MAX).min(most);
        if wanted == 0 {
            return Ok(taken);
        }
        self.consume_at_most(wanted).await?;
        // They are on their way, less those that expire meanwhile.
        let until = Instant::now() + FEW;
        while taken.len() < usize::from(wanted) {
            match timeout_at(until, poll_fn(|context| self.poll_next(context))).await {
                Ok(Some(delivery)) => taken.push(delivery),
                Ok(None) => return Err(BrokerError::Retry(format!("consuming queue {} ended", self.queue))),
                Err(_) => break,
            }
        }
        taken.extend(self.rest().await);
        Ok(taken)
    }

    fn delivery(&self, from: lapin::message::Delivery, consumer: Arc<OwnedSemaphorePermit>) -> Delivery {
        Delivery {
            lane: self.lane,
            body: from.data,
            properties: from.properties,
            redelivered: from.redelivered,
            came: Instant::now(),
            place: from.delivery_tag,
            acker: from.acker,
            _consumer: consumer,
        }
    }

    /// Takes no more jobs, and hands out those that were prefetched: what of them is dropped stays unsettled. Those in flight can still be
    /// settled.
    pub async fn rest(&mut self) -> Vec<Delivery> {
        if self.consumer.is_none() {
            return Vec::new();
        }
        closing(self.channel.basic_cancel(self.tag().as_str().into(), BasicCancelOptions::default())).await;
        // All that was delivered came before the answer.
        self.came()
    }

    /// Hands out what has come and was not handed out, and nothing after it.
    pub fn came(&mut self) -> Vec<Delivery> {
        let Some(Consumer { mut deliveries, place }) = self.consumer.take() else { return Vec::new() };
        let mut came = Vec::new();
        while let Some(Some(Ok(delivery))) = deliveries.next().now_or_never() {
            came.push(self.delivery(delivery, Arc::clone(&place)));
        }
        came
    }

    /// Gives back whatever was taken and not settled, all at once. (One `nack` of all: on RabbitMQ 4.3 nothing else is free.)
    ///
    /// # Errors
    /// Where the broker is lost or does not answer.
    pub async fn give_back(&self) -> Result<(), BrokerError> {
        let options = BasicNackOptions { multiple: true, requeue: true };
        within(&format!("returning messages to queue {}", self.queue), self.channel.basic_nack(0, options)).await
    }

    /// Closes the channel: whatever was not settled goes back to its queue.
    pub async fn close(self) {
        closing(self.channel.close(200, "bye".into())).await;
    }
}

impl Delivery {
    /// Its place among those that came on its channel.
    pub const fn place(&self) -> u64 {
        self.place
    }

    /// Gives it back alone, while others of its channel are in flight. Those that are given back in the order in which they came lie in it
    /// again.
    ///
    /// # Errors
    /// Where the broker is lost or does not answer.
    pub async fn give_back(self) -> Result<(), BrokerError> {
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
