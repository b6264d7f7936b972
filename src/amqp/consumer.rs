//! Taking jobs: one channel and one consumer for each lane, and a delivery that is settled once, by value.

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection};
use tokio_util::sync::CancellationToken;

use super::names::Names;
use super::trouble::{Trouble, closing, within};
use crate::domain::job::Lane;

/// The tag that the broker's own pages show.
const TAG: &str = "resetd";

/// A lane that is being consumed.
#[derive(Debug)]
pub struct Consumer {
    lane: Lane,
    channel: Channel,
    inner: lapin::Consumer,
}

/// One job in hand. What is dropped without being settled goes back to its queue when its channel is closed.
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
    acker: lapin::Acker,
}

impl Consumer {
    /// Starts to consume a lane.
    ///
    /// # Errors
    /// Where the broker refuses it or does not answer.
    pub async fn start(connection: &Connection, names: &Names, lane: Lane, prefetch: u16) -> Result<Self, Trouble> {
        let queue = names.lane(lane);
        let what = format!("consuming queue {queue}");
        let channel = within(&what, connection.create_channel()).await?;
        within(&what, channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
        let inner = within(
            &what,
            channel.basic_consume(queue.into(), TAG.into(), BasicConsumeOptions::default(), FieldTable::default()),
        )
        .await?;
        Ok(Self { lane, channel, inner })
    }

    /// The next job. `None`: the consumer was cancelled, its queue deleted, or the channel is gone; start anew.
    pub async fn next(&mut self) -> Option<Delivery> {
        let delivery = self.inner.next().await?.ok()?;
        Some(Delivery {
            lane: self.lane,
            body: delivery.data,
            properties: delivery.properties,
            redelivered: delivery.redelivered,
            acker: delivery.acker,
        })
    }

    /// Takes no more jobs. Those in hand can still be settled.
    pub async fn cancel(&self) {
        closing(self.channel.basic_cancel(TAG.into(), BasicCancelOptions::default())).await;
    }

    /// Closes the channel: whatever was not settled goes back to its queue.
    pub async fn close(self) {
        closing(self.channel.close(200, "bye".into())).await;
    }
}

impl Delivery {
    /// Tells the broker that the job is done. `false`: its channel is gone, and it will be delivered again.
    pub async fn ack(self, lost: &CancellationToken) -> bool {
        let acked = within("acking a job", self.acker.ack(BasicAckOptions::default())).await;
        let settled = matches!(acked, Ok(true));
        if !settled {
            lost.cancel();
        }
        settled
    }
}
