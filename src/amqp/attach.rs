//! A consumer of a stream, from a place on.

use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Consumer};

use super::error::{BrokerError, closing, within};

/// So many are acked at once; of the pairs tried this one read fastest, and acks for thousands at once half as fast.
pub(super) const ACK_EVERY: usize = 200;

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start<'a> {
    /// As `x-stream-offset` has it in words: `first`, or an age such as `1h` (`docs/development/facts.md#streams`).
    Words(&'a str),
    /// At this record, which is there.
    Offset(u64),
}

impl Start<'_> {
    /// For `x-stream-offset`: a plain integer is an offset (`docs/development/facts.md#streams`).
    fn argument(self) -> AMQPValue {
        match self {
            Self::Words(words) => AMQPValue::LongString(words.into()),
            Self::Offset(offset) => AMQPValue::LongLongInt(i64::try_from(offset).unwrap_or(i64::MAX)),
        }
    }
}

/// Consumes a stream from a place on. The channel is closed when the last handle to it is dropped.
pub(super) async fn attach(
    channel: &Channel,
    stream: &str,
    tag: &str,
    prefetch: u16,
    from: Start<'_>,
) -> Result<Consumer, BrokerError> {
    let what = format!("reading stream {stream}");
    within(&what, channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-stream-offset".into(), from.argument());
    let consume = channel.basic_consume(stream.into(), tag.into(), BasicConsumeOptions::default(), arguments);
    let consumer = within(&what, consume).await;
    if consumer.is_err() {
        // lapin closes no channel that waits for an answer: a consumer that the broker makes after all would be one that nobody reads.
        closing(channel.close(200, "not attached".into())).await;
    }
    consumer
}
