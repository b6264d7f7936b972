//! Reading a stream from a place on, for whoever looks on: every record in its order, until the connection is lost.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::ReadyChunks;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Acker, BasicProperties, Channel, Connection, Consumer};

use super::trouble::{Trouble, within};

/// The tag that the broker's own pages show.
const TAG: &str = "resetd-tail";
/// Records on their way; a stream's consumer must have a limit.
const PREFETCH: u16 = 10_000;
/// So many are acked at once; of the pairs tried this one read fastest, and acks for thousands at once half as fast.
pub(super) const ACK_EVERY: usize = 200;

/// Consumes a stream from a place on, which is as `x-stream-offset` has it.
pub(super) async fn attach(channel: &Channel, stream: &str, tag: &str, from: AMQPValue) -> Result<Consumer, Trouble> {
    let what = format!("reading stream {stream}");
    within(&what, channel.basic_qos(PREFETCH, BasicQosOptions::default())).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-stream-offset".into(), from);
    let consume = channel.basic_consume(stream.into(), tag.into(), BasicConsumeOptions::default(), arguments);
    within(&what, consume).await
}

/// One reader of a stream.
pub struct Tail {
    what: String,
    records: ReadyChunks<Consumer>,
    /// The last one that was handed out, and is not acked.
    last: Option<Acker>,
}

/// A record: its body and its properties.
pub type Record = (Vec<u8>, BasicProperties);

impl Tail {
    /// Attaches; `from` is `first`, or an age such as `1h` (`FACTS.md`, streams).
    ///
    /// # Errors
    /// Where there is no such stream, or the broker refuses it or does not answer.
    pub async fn open(connection: &Connection, stream: &str, from: &str) -> Result<Self, Trouble> {
        let what = format!("reading stream {stream}");
        let channel = within(&what, connection.create_channel()).await?;
        let consumer = attach(&channel, stream, TAG, AMQPValue::LongString(from.into())).await?;
        Ok(Self { what, records: consumer.ready_chunks(ACK_EVERY), last: None })
    }

    /// The next records, as many as there are; none where none came for so long.
    ///
    /// # Errors
    /// Where the connection or the stream is lost.
    pub async fn next(&mut self, patience: Duration) -> Result<Vec<Record>, Trouble> {
        let gone = |what: &str| Trouble::Again(format!("{what}: its consumer has ended"));
        if let Some(last) = self.last.take() {
            let acked = within(&self.what, last.ack(BasicAckOptions { multiple: true })).await?;
            if !acked {
                return Err(gone(&self.what));
            }
        }
        let Ok(chunk) = tokio::time::timeout(patience, self.records.next()).await else { return Ok(Vec::new()) };
        let mut records = Vec::new();
        for delivery in chunk.ok_or_else(|| gone(&self.what))? {
            let delivery = delivery.map_err(|_| gone(&self.what))?;
            self.last = Some(delivery.acker);
            records.push((delivery.data, delivery.properties));
        }
        Ok(records)
    }
}
