//! Publishing: persistent, confirmed, and mandatory, so that a message no queue takes is a failure and not a loss.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionStatus};

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::trouble::{ANSWER, Trouble, closing, explain, silent};

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
    Lost(Trouble),
}

/// Publishes on channels of its own, each with one message on its way at a time.
///
/// lapin gives a returned message to whichever publish of its channel is confirmed next. With two on their way, one that no queue
/// took may look confirmed, and is lost. With one, a return is its own.
#[derive(Debug)]
pub struct Publisher {
    connection: Arc<Connection>,
    free: Mutex<Vec<Channel>>,
    at_once: Semaphore,
}

/// Messages on their way at once; a broker allows 2,047 channels for a connection, which all orgs share.
const AT_ONCE: usize = 64;

impl Publisher {
    /// Opens the first channel; more are opened as more is published at once.
    ///
    /// # Errors
    /// Where the broker refuses it or does not answer.
    pub async fn open(connection: Arc<Connection>) -> Result<Self, Trouble> {
        let first = confirming(&connection).await?;
        Ok(Self { connection, free: Mutex::new(vec![first]), at_once: Semaphore::new(AT_ONCE) })
    }

    /// Publishes and waits for the confirm: 10 s, and for as long as a resource alarm blocks the connection, on which no channel is
    /// opened meanwhile either.
    ///
    /// # Errors
    /// Where the message is not known to lie in a queue; see [`Unpublished`].
    pub async fn publish(&self, message: &Message<'_>) -> Result<(), Unpublished> {
        let _place = self.at_once.acquire().await;
        let free = self.free().pop();
        let channel = match free {
            Some(channel) => channel,
            None => confirming(&self.connection).await.map_err(Unpublished::Lost)?,
        };
        let published = publish(&channel, message, self.connection.status()).await;
        // One that was lost, or whose publish was given up before its confirm, is not used again.
        if !matches!(published, Err(Unpublished::Lost(_))) {
            self.free().push(channel);
        }
        published
    }

    fn free(&self) -> MutexGuard<'_, Vec<Channel>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the channels.
    pub async fn close(&self) {
        let free = std::mem::take(&mut *self.free());
        join_all(free.iter().map(|channel| closing(channel.close(200, "bye".into())))).await;
    }
}

async fn confirming(connection: &Connection) -> Result<Channel, Trouble> {
    let status = connection.status();
    let channel = unless_silent("opening a channel", connection.create_channel(), status).await?;
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
        Ok(Confirmation::NotRequested) => Err(Unpublished::Lost(Trouble::Again("the channel does not confirm".into()))),
        Err(trouble) => Err(Unpublished::Lost(trouble)),
    }
}

/// An answer that an alarm may hold up: what was written before it ended is answered after it, and giving a publish up meanwhile would
/// publish it twice. (A connection that is lost during an alarm stays blocked for ever, so only silence is waited through.)
async fn unless_silent<T>(
    what: &str,
    answer: impl Future<Output = lapin::Result<T>>,
    status: &ConnectionStatus,
) -> Result<T, Trouble> {
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
