//! Publishing: persistent, confirmed, and mandatory, so that a message no queue takes is a failure and not a loss.

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection};

use super::trouble::{Trouble, within};

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

/// A channel that confirms.
#[derive(Debug, Clone)]
pub struct Publisher {
    channel: Channel,
}

impl Publisher {
    /// Opens one.
    ///
    /// # Errors
    /// Where the broker refuses it or does not answer.
    pub async fn open(connection: &Connection) -> Result<Self, Trouble> {
        let channel = within("opening a channel", connection.create_channel()).await?;
        within("asking for confirms", channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Self { channel })
    }

    /// Publishes and waits for the confirm.
    ///
    /// # Errors
    /// Where the message is not known to lie in a queue; see [`Unpublished`].
    pub async fn publish(&self, message: &Message<'_>) -> Result<(), Unpublished> {
        let Message { exchange, key, body, properties } = message;
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let sent = self.channel.basic_publish((*exchange).into(), (*key).into(), options, body, properties.clone());
        let confirmed = within("publishing", async { sent.await?.await }).await;
        let place = || ((*exchange).to_owned(), (*key).to_owned());
        match confirmed {
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
                Err(Unpublished::Lost(Trouble::Again("the channel does not confirm".into())))
            }
            Err(trouble) => Err(Unpublished::Lost(trouble)),
        }
    }

    /// Closes the channel.
    pub async fn close(&self) {
        let _ = within("closing a channel", self.channel.close(200, "bye".into())).await;
    }
}
