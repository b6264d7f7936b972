//! Publishing: persistent, confirmed, and mandatory, so that a message no queue takes is a failure and not a loss.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionStatus};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::channels::{self, allowed};
use super::error::{ANSWER, BrokerError, explain, silent};

/// A message and where it goes.
pub struct Message<'a> {
    /// The exchange; `""` is the default one, whose keys are queues' names.
    pub exchange: &'a str,
    /// The routing key.
    pub key: &'a str,
    /// The bytes.
    pub body: &'a [u8],
    /// Its properties.
    pub properties: BasicProperties,
}

/// A message that is not known to lie in a queue, named by what is done next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unpublished {
    /// No queue is bound there: declare the topology and publish again.
    #[error("no queue takes it (exchange {exchange:?}, key {key:?})")]
    Returned {
        /// Where it was published to.
        exchange: String,
        /// With which key.
        key: String,
    },
    /// The queue refused it, since it is full or its node is down: publish again later.
    #[error("the queue refused it (exchange {exchange:?}, key {key:?}): it is full or not available")]
    Refused {
        /// Where it was published to.
        exchange: String,
        /// With which key.
        key: String,
    },
    /// The channel or the broker is lost, or silent: nothing is known; start anew.
    #[error("{0}")]
    Lost(BrokerError),
}

/// The channels of one connection on which messages are published, each with one message on its way at a time.
///
/// lapin gives a returned message to whichever publish of its channel is confirmed next. With two on their way, one that no queue
/// took may look confirmed, and is lost. With one, a return is its own.
#[derive(Debug)]
pub struct Pool {
    connection: Arc<Connection>,
    free: Mutex<Vec<Channel>>,
    at_once: Semaphore,
    /// So many of one publisher at once.
    share: usize,
}

/// One who publishes, by the channels of a pool: an org's session, or a command.
#[derive(Debug)]
pub struct Publisher {
    pool: Arc<Pool>,
    at_once: Semaphore,
}

/// One of a publisher's places, with its channel: one message can go at once.
#[derive(Debug)]
pub struct Place<'a> {
    pool: &'a Pool,
    /// None while a message is on its way: a channel whose publish was given up before its confirm is not used again.
    channel: Option<Channel>,
    _of_pool: SemaphorePermit<'a>,
    _own: SemaphorePermit<'a>,
}

/// Messages of one publisher on their way at once.
const AT_ONCE: usize = 64;
/// Messages of all publishers of a pool on their way at once, where the broker allows so many channels.
const MOST: usize = 256;
/// What a command opens beside its pool.
const BESIDE: usize = 8;

/// How many channels a pool has at most, where so many are left beside everything else: no more than half, so that there are others in
/// place of those that the broker closes.
pub(super) fn size(left: usize) -> usize {
    (left / 2).clamp(1, MOST)
}

/// How many channels of a pool of this size one of so many publishers has at most: a quarter, so that one queue that does not answer, or
/// two or three, keep no other org from publishing. One that is alone keeps nobody.
fn share(size: usize, publishers: usize) -> usize {
    let most = if publishers > 1 { size / 4 } else { size };
    most.clamp(1, AT_ONCE)
}

impl Pool {
    /// One of so many channels at most, for so many publishers. They are opened as more is published at once, and live as long as the
    /// connection.
    pub(super) fn new(connection: Arc<Connection>, size: usize, publishers: usize) -> Arc<Self> {
        let share = share(size, publishers);
        Arc::new(Self { connection, free: Mutex::default(), at_once: Semaphore::new(size), share })
    }

    fn free(&self) -> MutexGuard<'_, Vec<Channel>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Publisher {
    /// One on a connection of its own: the first channel is opened now.
    ///
    /// # Errors
    /// Where the broker refuses it or does not answer.
    pub async fn open(connection: Arc<Connection>) -> Result<Self, BrokerError> {
        let first = confirming(&connection).await?;
        let pool = Pool::new(Arc::clone(&connection), size(allowed(&connection).saturating_sub(BESIDE)), 1);
        pool.free().push(first);
        Ok(Self::of(pool))
    }

    /// One of those that share a pool. No channel is opened before something is published.
    pub fn of(pool: Arc<Pool>) -> Self {
        let at_once = Semaphore::new(pool.share);
        Self { pool, at_once }
    }

    /// Waits for a place, and for its channel: for as long as others of this publisher, or of the pool, have messages on their way. What
    /// may be published only until some moment looks at the clock after that.
    ///
    /// # Errors
    /// Where a channel has to be opened, and the broker is lost or does not answer.
    pub async fn place(&self) -> Result<Place<'_>, Unpublished> {
        // Neither is ever closed.
        let gone = |_| Unpublished::Lost(BrokerError::Retry("nothing is published any more".into()));
        let own = self.at_once.acquire().await.map_err(gone)?;
        let of_pool = self.pool.at_once.acquire().await.map_err(gone)?;
        let free = self.pool.free().pop();
        let channel = match free {
            Some(channel) => channel,
            None => confirming(&self.pool.connection).await.map_err(Unpublished::Lost)?,
        };
        Ok(Place { pool: &self.pool, channel: Some(channel), _of_pool: of_pool, _own: own })
    }

    /// Publishes and waits for the confirm: 10 s, and for as long as a resource alarm blocks the connection, on which no channel is
    /// opened meanwhile either.
    ///
    /// # Errors
    /// Where the message is not known to lie in a queue; see [`Unpublished`].
    pub async fn publish(&self, message: &Message<'_>) -> Result<(), Unpublished> {
        self.place().await?.publish(message).await
    }
}

impl Place<'_> {
    /// As [`Publisher::publish`], at once.
    ///
    /// # Errors
    /// As there.
    pub async fn publish(mut self, message: &Message<'_>) -> Result<(), Unpublished> {
        let Some(channel) = self.channel.take() else {
            return Err(Unpublished::Lost(BrokerError::Retry("its channel is gone".into())));
        };
        let published = publish(&channel, message, self.pool.connection.status()).await;
        // One that was lost is closed when it is dropped.
        if !matches!(published, Err(Unpublished::Lost(_))) {
            self.channel = Some(channel);
        }
        published
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(channel) = self.channel.take() {
            self.pool.free().push(channel);
        }
    }
}

async fn confirming(connection: &Connection) -> Result<Channel, BrokerError> {
    let status = connection.status();
    let channel = unless_silent("opening a channel", channels::open(connection), status).await?;
    let confirms = channel.confirm_select(ConfirmSelectOptions::default());
    unless_silent("asking for confirms", confirms, status).await?;
    Ok(channel)
}

async fn publish(channel: &Channel, message: &Message<'_>, status: &ConnectionStatus) -> Result<(), Unpublished> {
    let Message { exchange, key, body, properties } = message;
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let sent = channel.basic_publish((*exchange).into(), (*key).into(), options, body, properties.clone());
    let place = || ((*exchange).to_owned(), (*key).to_owned());
    match unless_silent("publishing", async { sent.await?.await }, status).await {
        Ok(Confirmation::Ack(None)) => Ok(()),
        Ok(Confirmation::Ack(Some(_))) => {
            let (exchange, key) = place();
            Err(Unpublished::Returned { exchange, key })
        }
        Ok(Confirmation::Nack(_)) => {
            let (exchange, key) = place();
            Err(Unpublished::Refused { exchange, key })
        }
        Ok(Confirmation::NotRequested) => {
            Err(Unpublished::Lost(BrokerError::Retry("the channel does not confirm".into())))
        }
        Err(trouble) => Err(Unpublished::Lost(trouble)),
    }
}

/// An answer that an alarm may hold up: what was written before it ended is answered after it, and giving a publish up meanwhile would
/// publish it twice. (A connection that is lost during an alarm stays blocked for ever, so only silence is waited through.)
async fn unless_silent<T>(
    what: &str,
    answer: impl Future<Output = lapin::Result<T>>,
    status: &ConnectionStatus,
) -> Result<T, BrokerError> {
    let mut answer = std::pin::pin!(answer);
    loop {
        let was_blocked = status.blocked();
        match timeout(ANSWER, answer.as_mut()).await {
            Ok(answer) => return answer.map_err(|error| explain(what, &error)),
            Err(_) if was_blocked || status.blocked() => {}
            Err(_) => return Err(silent(what)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{share, size};

    #[test]
    fn one_of_several_publishers_has_a_quarter_of_a_pool_and_one_alone_has_64() {
        // (channels left, publishers, its share)
        for (left, publishers, most) in [
            (2_037, 1, 64),
            (2_037, 50, 64),
            (119, 30, 14),
            (119, 2, 14),
            (119, 1, 59),
            (9, 4, 1),
            (3, 4, 1),
            (0, 1, 1),
        ] {
            assert_eq!(share(size(left), publishers), most, "{left} channels, {publishers} publishers");
        }
    }
}
