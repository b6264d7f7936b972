//! Reading the stream: attached while somebody wants it, and again after whatever ends that.

use std::convert::Infallible;
use std::time::Duration;

use jiff::Timestamp;
use lapin::Connection;
use lapin::message::Delivery;
use tokio::sync::watch;
use tokio::time::Instant;

use super::place::From;
use super::{Ledger, Place};
use crate::amqp::channels;
use crate::amqp::error::{ANSWER, BrokerError};
use crate::amqp::tail::Tail;

/// The tag that the broker's own pages show.
const TAG: &str = "resetd-ledger";
/// At the stream's end what is left is acked after so long.
const IDLE: Duration = Duration::from_secs(1);
/// How often it looks whether the connection still lives while nobody wants the stream read.
const WATCH: Duration = Duration::from_millis(200);

/// Why reading has ended.
struct Ended {
    trouble: BrokerError,
    /// The stream is another one than before, or may be.
    is_another: bool,
}

impl std::convert::From<BrokerError> for Ended {
    fn from(trouble: BrokerError) -> Self {
        Self { trouble, is_another: false }
    }
}

impl Ledger {
    /// Reads the stream on this connection while somebody wants it read, until the connection is lost or this is dropped. The place is
    /// kept for the next connection.
    pub async fn follow(&self, connection: &Connection) {
        let mut readers = self.0.readers.subscribe();
        let mut refusals = 0;
        while connection.status().connected() {
            if tokio::time::timeout(WATCH, readers.wait_for(|readers| *readers > 0)).await.is_err() {
                continue;
            }
            let Err(Ended { trouble, is_another }) = self.attach(connection, &mut readers).await else { continue };
            if !connection.status().connected() {
                return;
            }
            if is_another {
                self.kept().forget_place();
                tracing::warn!(reason = %trouble, "the ledger is read anew from a day back");
            } else {
                tracing::warn!(reason = %trouble, "reading the ledger was interrupted; it goes on where it was");
            }
            refusals = if trouble.is_refusal() { refusals + 1 } else { 0 };
            tokio::time::sleep(pause(refusals, rand::random())).await;
        }
    }

    /// Reads until nobody wants it any more.
    async fn attach(&self, connection: &Connection, readers: &mut watch::Receiver<usize>) -> Result<(), Ended> {
        let mut attach_again = self.0.attach_again.subscribe();
        let silent =
            || BrokerError::Retry(format!("reading stream {}: nothing came, and something should have", self.0.stream));
        tokio::select! {
            trouble = self.read(connection) => trouble.map(|never| match never {}),
            _ = readers.wait_for(|readers| *readers == 0) => Ok(()),
            _ = attach_again.changed() => Err(silent().into()),
        }
    }

    /// Reads until it ends, which is always trouble.
    async fn read(&self, connection: &Connection) -> Result<Infallible, Ended> {
        self.kept().silent = None;
        let from = self.kept().place.from(Timestamp::now());
        if from == From::DayBack {
            // What it said of leaders comes again, and places of before may be of another stream by now.
            self.kept().index.forget_stream();
        }
        let heard = || self.heard();
        let mut tail = Tail::open(connection, &self.0.stream, TAG, from.start(), &heard).await?;
        self.kept().attached = Instant::now();
        if let From::Last(offset) = from {
            self.is_the_same(offset, &mut tail).await?;
        } else {
            self.kept().silent = Some(Instant::now());
            // From now on there is a time by which it must have got something.
            self.0.fenced.send_replace(());
        }
        loop {
            tail.next(IDLE).await?.into_iter().for_each(|delivery| self.apply(delivery));
        }
    }

    /// Makes sure that it is the same stream still: the record read last comes once more, and first.
    async fn is_the_same(&self, offset: u64, tail: &mut Tail<'_>) -> Result<(), Ended> {
        let another = |why: String| Ended { trouble: BrokerError::Retry(why), is_another: true };
        let what = format!("reading stream {}", self.0.stream);
        let mut again = tail.next(ANSWER).await?.into_iter();
        let Some(first) = again.next() else {
            return Err(another(format!("{what}: it has no record {offset} any more")));
        };
        if !is_last(&self.kept().place, &first) {
            return Err(another(format!("{what}: its record {offset} is another one than before")));
        }
        again.for_each(|delivery| self.apply(delivery));
        Ok(())
    }
}

/// Until it is read again: a second, and after each more refusal in a row twice as long. `chance` is between 0 and 1.
fn pause(refusals: i32, chance: f64) -> Duration {
    let times = 2_f64.powi((refusals - 1).clamp(0, 7));
    Duration::from_secs_f64(times * (0.5 + chance)).min(channels::REFUSED)
}

fn is_last(place: &Place, delivery: &Delivery) -> bool {
    place.is_last(crate::wire::ledger::offset(&delivery.properties), &delivery.data)
}

#[cfg(test)]
mod tests {
    use super::pause;

    #[test]
    fn a_stream_that_is_refused_is_asked_for_more_and_more_seldom() {
        // (refusals in a row, seconds until the next try)
        for (refusals, seconds) in [(0, 1), (1, 1), (2, 2), (3, 4), (7, 64), (8, 64), (1_000, 64)] {
            assert_eq!(pause(refusals, 0.5).as_secs(), seconds, "{refusals}");
        }
        assert!(pause(0, 0.0).as_millis() == 500 && pause(0, 1.0).as_millis() == 1_500);
    }
}
