//! The publishing connection's proof of life. Under a resource alarm the broker reads nothing more from it, and tells only a
//! connection that publishes; so it publishes something that goes nowhere, every 2 s, and looks whether that is confirmed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection, ConnectionStatus};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::channels;
use super::error::{ANSWER, BrokerError, within};

/// How often it proves itself.
const EVERY: Duration = Duration::from_secs(2);
/// How long without a confirm no call is begun.
const ALIVE: Duration = Duration::from_secs(5);
/// A routing key of the default exchange, where no queue has such a name.
const NOWHERE: &str = "resetd.heartbeat.nowhere";

/// What the publishing connection last proved.
#[derive(Debug, Clone)]
pub struct PublisherHeartbeat {
    confirmed: Arc<Mutex<Instant>>,
    status: ConnectionStatus,
}

impl PublisherHeartbeat {
    /// Of a connection that has just been opened.
    pub(super) fn of(connection: &Connection) -> Self {
        Self { confirmed: Arc::new(Mutex::new(Instant::now())), status: connection.status().clone() }
    }

    /// Whether what is published now can be expected to be confirmed.
    pub fn is_alive(&self) -> bool {
        !self.status.blocked() && self.silent_for() < ALIVE
    }

    /// Whether the broker has told this connection that a resource alarm blocks it.
    pub fn is_blocked(&self) -> bool {
        self.status.blocked()
    }

    fn silent_for(&self) -> Duration {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Beats until the connection is lost. One that is silent though nothing blocks it counts as lost, and cancels `lost`.
    pub(super) async fn beat(self, connection: Arc<Connection>, lost: CancellationToken) {
        let silent = async {
            // What waited through an alarm has as long to be confirmed as anything else, from the alarm's end on.
            let mut free_since = Instant::now();
            while self.silent_for().min(free_since.elapsed()) < ANSWER {
                if self.is_blocked() {
                    free_since = Instant::now();
                }
                tokio::time::sleep(EVERY / 4).await;
            }
            BrokerError::Retry(format!("no confirm for {} s", ANSWER.as_secs()))
        };
        let trouble = tokio::select! {
            () = lost.cancelled() => return,
            trouble = silent => trouble,
            trouble = self.prove(&connection) => trouble,
        };
        tracing::warn!(reason = %trouble, "the publishing connection gives no sign of life");
        lost.cancel();
    }

    async fn prove(&self, connection: &Connection) -> BrokerError {
        let what = "proving the publishing connection";
        let channel = match within(what, channels::open(connection)).await {
            Ok(channel) => channel,
            Err(trouble) => return trouble,
        };
        if let Err(trouble) = within(what, channel.confirm_select(ConfirmSelectOptions::default())).await {
            return trouble;
        }
        loop {
            let sent = channel.basic_publish(
                "".into(),
                NOWHERE.into(),
                BasicPublishOptions::default(),
                b"",
                BasicProperties::default(),
            );
            // No limit here: under an alarm the confirm comes when that ends.
            match async { sent.await?.await }.await {
                Ok(_) => *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now(),
                Err(error) => return BrokerError::Retry(format!("{what}: {error}")),
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}
