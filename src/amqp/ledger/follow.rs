//! Reading the stream, on a channel of its own: attached while somebody wants it, and again after whatever ends that.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::ReadyChunks;
use jiff::Timestamp;
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use lapin::{Channel, Connection, Consumer};
use tokio::sync::watch;

use super::place::From;
use super::{Ledger, Place};
use crate::amqp::tail::{ACK_EVERY, attach};
use crate::amqp::trouble::{ANSWER, Trouble, closing, within};

/// The tag that the broker's own pages show.
const TAG: &str = "resetd-ledger";
/// At the stream's end what is left is acked after so long: the broker closes a channel that holds deliveries too long.
const IDLE: Duration = Duration::from_secs(1);
/// How often it looks whether the connection still lives while nobody wants the stream read.
const WATCH: Duration = Duration::from_millis(200);

/// Records as they come, as many at once as there are.
type Records = ReadyChunks<Consumer>;

impl Ledger {
    /// Reads the stream on this connection while somebody wants it read, until the connection is lost or this is dropped. The place is
    /// kept for the next connection.
    pub async fn follow(&self, connection: &Connection) {
        let mut readers = self.0.readers.subscribe();
        while connection.status().connected() {
            if tokio::time::timeout(WATCH, readers.wait_for(|readers| *readers > 0)).await.is_err() {
                continue;
            }
            let Err(trouble) = self.attach(connection, &mut readers).await else { continue };
            if !connection.status().connected() {
                return;
            }
            self.kept().place.forget();
            tracing::warn!(reason = %trouble, "the ledger is read anew from a day back");
            tokio::time::sleep(Duration::from_secs_f64(0.5 + rand::random::<f64>())).await;
        }
    }

    /// Reads until nobody wants it any more.
    async fn attach(&self, connection: &Connection, readers: &mut watch::Receiver<usize>) -> Result<(), Trouble> {
        let channel = within("opening a channel", connection.create_channel()).await?;
        let read = async {
            let mut records = self.consume(&channel).await?;
            self.read_all(&mut records).await
        };
        let ended = tokio::select! {
            ended = read => ended,
            _ = readers.wait_for(|readers| *readers == 0) => Ok(()),
        };
        closing(channel.close(200, "bye".into())).await;
        ended
    }

    /// Attaches where it was, and makes sure that it is the same stream still.
    async fn consume(&self, channel: &Channel) -> Result<Records, Trouble> {
        let what = format!("reading stream {}", self.0.stream);
        let from = self.kept().place.from(Timestamp::now());
        let mut consumer = attach(channel, &self.0.stream, TAG, from.argument()).await?;
        match from {
            From::DayBack => {}
            From::Last(offset) => {
                let again = tokio::time::timeout(ANSWER, consumer.next()).await;
                let Ok(Some(Ok(delivery))) = again else {
                    return Err(Trouble::Again(format!("{what}: it has no record {offset} any more")));
                };
                let same = is_last(&self.kept().place, &delivery);
                if !same {
                    return Err(Trouble::Again(format!("{what}: its record {offset} is another one than before")));
                }
                within(&what, delivery.acker.ack(BasicAckOptions::default())).await?;
            }
        }
        Ok(consumer.ready_chunks(ACK_EVERY))
    }

    /// Reads until it ends, which is always trouble.
    async fn read_all(&self, records: &mut Records) -> Result<(), Trouble> {
        let mut misplaced = self.0.misplaced.subscribe();
        let gone = || Trouble::Again(format!("reading stream {}: its consumer has ended", self.0.stream));
        let silent =
            || Trouble::Again(format!("reading stream {}: nothing came, and something should have", self.0.stream));
        let mut last = None;
        let mut unacked = 0;
        loop {
            let chunk = tokio::select! {
                chunk = tokio::time::timeout(IDLE, records.next()) => chunk,
                _ = misplaced.changed() => return Err(silent()),
            };
            let idle = chunk.is_err();
            if let Ok(chunk) = chunk {
                for delivery in chunk.ok_or_else(gone)? {
                    let delivery = delivery.map_err(|_| gone())?;
                    last = Some(delivery.acker.clone());
                    unacked += 1;
                    self.read(delivery);
                }
            }
            if unacked >= ACK_EVERY || idle {
                if let Some(acker) = last.take() {
                    let acked = within("acking records", acker.ack(BasicAckOptions { multiple: true })).await?;
                    if !acked {
                        return Err(gone());
                    }
                }
                unacked = 0;
            }
        }
    }
}

fn is_last(place: &Place, delivery: &Delivery) -> bool {
    place.is_last(crate::wire::ledger::offset(&delivery.properties), &delivery.data)
}
