//! Reading a long stretch of a stream: several blocks of it at once, handed on in the stream's order.
//!
//! A record that was written by itself, as each of a worker at its quota is, lies in a chunk of its own, and one consumer gets some
//! 2,400 of those a second (RabbitMQ 3.10: four accesses to a file for each, one after the other). Eight consumers get five to seven times as many.

use std::ops::Range;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use lapin::Connection;
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;

use super::attach::{ACK_EVERY, Start, attach};
use super::channels::{self, READERS};
use super::error::{ANSWER, BrokerError, closing, within};
use crate::wire::ledger::offset;

/// The tag that the broker's own pages show.
const TAG: &str = "resetd-block";
/// Records of a block; so many of each reader wait in memory for their turn at most.
const BLOCK: u64 = 2_000;
/// Records on their way to one reader: with more, the broker needs longer for each.
const PREFETCH: u16 = 400;
/// A reader lets records gather for so long: being woken for each costs a third of what reading it does.
const GATHER: Duration = Duration::from_millis(2);

/// The offset of a record of the last chunk of a stream that has one.
///
/// # Errors
/// Where the broker refuses it or does not answer, and where the stream is empty.
pub(super) async fn near_end(connection: &Connection, stream: &str) -> Result<u64, BrokerError> {
    let what = format!("reading the end of stream {stream}");
    let channel = within(&what, channels::open(connection)).await?;
    let mut consumer = attach(&channel, stream, TAG, 1, Start::Words("last")).await?;
    let record = tokio::time::timeout(ANSWER, consumer.next()).await;
    closing(channel.close(200, "bye".into())).await;
    let Ok(Some(Ok(delivery))) = record else { return Err(BrokerError::Retry(format!("{what}: nothing came"))) };
    offset(&delivery.properties).ok_or_else(|| BrokerError::Retry(format!("{what}: the record has no offset")))
}

/// Reads the records at these offsets, of which the last must be there. `heard` is told of each when it comes, which may be long before its turn.
pub(super) fn read<'a>(
    connection: &'a Connection,
    stream: &'a str,
    offsets: Range<u64>,
    heard: &'a (dyn Fn() + Sync),
) -> impl Stream<Item = Result<Vec<Delivery>, BrokerError>> + Send + 'a {
    let end = offsets.end;
    let starts = offsets.step_by(usize::try_from(BLOCK).unwrap_or(usize::MAX));
    let blocks = starts.map(move |start| block(connection, stream, start..end.min(start + BLOCK), heard));
    stream::iter(blocks).buffered(READERS)
}

/// Reads one block. Not every offset has a record: the broker takes some for itself, and what is too old is gone.
async fn block(
    connection: &Connection,
    stream: &str,
    offsets: Range<u64>,
    heard: &(dyn Fn() + Sync),
) -> Result<Vec<Delivery>, BrokerError> {
    let what = format!("reading stream {stream} from offset {}", offsets.start);
    let channel = within(&what, channels::open(connection)).await?;
    let consumer = attach(&channel, stream, TAG, PREFETCH, Start::Offset(offsets.start)).await?;
    let mut chunks = consumer.ready_chunks(PREFETCH.into());
    let (mut records, mut unacked) = (Vec::new(), 0);
    loop {
        let chunk = tokio::time::timeout(ANSWER, chunks.next()).await.ok().flatten();
        let chunk: Option<Vec<_>> = chunk.and_then(|chunk| chunk.into_iter().collect::<Result<_, _>>().ok());
        let Some(chunk) = chunk else { return Err(BrokerError::Retry(format!("{what}: no more comes"))) };
        heard();
        let last = chunk.last().and_then(|last| Some((last.acker.clone(), offset(&last.properties)?)));
        let Some((acker, last)) = last else {
            return Err(BrokerError::Retry(format!("{what}: a record has no offset")));
        };
        unacked += chunk.len();
        records.extend(
            chunk.into_iter().filter(|record| offset(&record.properties).is_some_and(|at| offsets.contains(&at))),
        );
        if last + 1 >= offsets.end {
            closing(channel.close(200, "bye".into())).await;
            return Ok(records);
        }
        if unacked >= ACK_EVERY {
            within(&what, acker.ack(BasicAckOptions { multiple: true })).await?;
            unacked = 0;
        }
        tokio::time::sleep(GATHER).await;
    }
}
