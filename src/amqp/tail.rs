//! Reading a stream from a place on, every record in its order, until the connection is lost: by one consumer, and where the end is far
//! away up to there by several.

use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::ReadyChunks;
use futures_util::{Stream, StreamExt};
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use lapin::{Acker, Channel, Connection, Consumer};

pub use super::attach::Start;
use super::attach::{ACK_EVERY, attach};
use super::blocks;
use super::channels;
use super::error::{BrokerError, closing, within};
use crate::wire::ledger::offset;

/// Records on their way; a stream's consumer must have a limit.
const PREFETCH: u16 = 10_000;
/// After so many records without a pause between them it looks how far the end is.
const FAR: usize = 1_000;
/// So many more are read by several consumers.
const STRETCH: u64 = 4_000;

type Blocks<'a> = Pin<Box<dyn Stream<Item = Result<Vec<Delivery>, BrokerError>> + Send + 'a>>;

/// One reader of a stream.
pub struct Tail<'a> {
    connection: &'a Connection,
    stream: &'a str,
    /// The tag that the broker's own pages show.
    tag: &'a str,
    /// Notified of each record that several consumers got, which may be long before its turn.
    heard: &'a (dyn Fn() + Sync),
    by: By<'a>,
    /// The offset of the last record that was handed out.
    last: Option<u64>,
}

enum By<'a> {
    One(Box<One>),
    Several(Blocks<'a>),
}

/// The one consumer.
struct One {
    channel: Channel,
    records: ReadyChunks<Consumer>,
    /// The last record that was handed out, and is not acked, and how many are not.
    unacked: Option<Acker>,
    count: usize,
    /// So many came without a pause between them.
    in_a_row: usize,
}

impl<'a> Tail<'a> {
    /// Attaches.
    ///
    /// # Errors
    /// Where there is no such stream, or the broker refuses it or does not answer.
    pub async fn open(
        connection: &'a Connection,
        stream: &'a str,
        tag: &'a str,
        from: Start<'_>,
        heard: &'a (dyn Fn() + Sync),
    ) -> Result<Self, BrokerError> {
        let by = By::One(Box::new(One::open(connection, stream, tag, from).await?));
        Ok(Self { connection, stream, tag, heard, by, last: None })
    }

    /// The next records, as many as there are; none where none came for so long.
    ///
    /// # Errors
    /// Where the connection or the stream is lost.
    pub async fn next(&mut self, patience: Duration) -> Result<Vec<Delivery>, BrokerError> {
        self.look_ahead().await?;
        let mut records = match &mut self.by {
            By::One(one) => one.next(self.stream, patience).await?,
            By::Several(blocks) => match blocks.next().await {
                Some(block) => block?,
                None => {
                    let from = Start::Offset(self.last.unwrap_or_default());
                    let one = One::open(self.connection, self.stream, self.tag, from).await?;
                    self.by = By::One(Box::new(one));
                    Vec::new()
                }
            },
        };
        // The record at which it attached again comes once more.
        records.retain(|record| offset(&record.properties) > self.last || self.last.is_none());
        self.last = records.last().and_then(|record| offset(&record.properties)).or(self.last);
        Ok(records)
    }

    /// Has several consumers read what is left, where one has read for a while and that is still much.
    async fn look_ahead(&mut self) -> Result<(), BrokerError> {
        let By::One(one) = &mut self.by else { return Ok(()) };
        if one.in_a_row < FAR {
            return Ok(());
        }
        one.in_a_row = 0;
        let end = blocks::near_end(self.connection, self.stream).await?;
        let next = self.last.map_or(end, |last| last + 1);
        let records = end.saturating_sub(next);
        if records >= STRETCH {
            tracing::info!(records, "far behind the end of stream {}: several consumers read it", self.stream);
            closing(one.channel.close(200, "bye".into())).await;
            self.by = By::Several(Box::pin(blocks::read(self.connection, self.stream, next..end + 1, self.heard)));
        }
        Ok(())
    }
}

impl One {
    async fn open(connection: &Connection, stream: &str, tag: &str, from: Start<'_>) -> Result<Self, BrokerError> {
        let channel = within("opening a channel", channels::open(connection)).await?;
        let consumer = attach(&channel, stream, tag, PREFETCH, from).await?;
        Ok(Self { channel, records: consumer.ready_chunks(ACK_EVERY), unacked: None, count: 0, in_a_row: 0 })
    }

    async fn next(&mut self, stream: &str, patience: Duration) -> Result<Vec<Delivery>, BrokerError> {
        let gone = || BrokerError::Retry(format!("reading stream {stream}: its consumer has ended"));
        if self.count >= ACK_EVERY {
            self.ack().await?;
        }
        let Ok(chunk) = tokio::time::timeout(patience, self.records.next()).await else {
            self.in_a_row = 0;
            self.ack().await?;
            return Ok(Vec::new());
        };
        let records: Vec<_> = chunk.ok_or_else(gone)?.into_iter().collect::<Result<_, _>>().map_err(|_| gone())?;
        self.unacked = records.last().map(|record| record.acker.clone());
        self.count += records.len();
        self.in_a_row += records.len();
        Ok(records)
    }

    /// Acks what was handed out: the broker closes a channel that holds deliveries too long.
    async fn ack(&mut self) -> Result<(), BrokerError> {
        self.count = 0;
        let Some(last) = self.unacked.take() else { return Ok(()) };
        let acked = within("acking records", last.ack(BasicAckOptions { multiple: true })).await?;
        acked.then_some(()).ok_or_else(|| BrokerError::Retry("acking records: the channel is gone".into()))
    }
}
