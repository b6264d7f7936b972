//! Looking through the letters of one queue: each is read once, none is taken away, and all go back in their order.

use std::io::Write;

use anyhow::{Result, bail};
use lapin::Connection;
use tokio_util::sync::CancellationToken;

use crate::amqp::error::BrokerError;
use crate::amqp::letters::{Held, Letters};

/// Hands every dead letter there is to `each`, and says how many there were.
pub(super) async fn through(
    connection: &Connection,
    queue: &str,
    shutdown: &CancellationToken,
    mut each: impl FnMut(&Held),
) -> Result<usize> {
    let mut letters = open(connection, queue).await?;
    let looking = async {
        loop {
            let round = letters.round().await?;
            if round.is_empty() {
                return Ok::<(), BrokerError>(());
            }
            round.iter().for_each(&mut each);
        }
    };
    let looked = tokio::select! {
        looked = looking => looked,
        () = shutdown.cancelled() => bail!("interrupted; nothing was changed"),
    };
    let there = letters.there();
    if letters.is_shared() {
        let _ = writeln!(std::io::stderr(), "{queue}: {IN_ANOTHER_HAND}");
    }
    letters.give_back(connection).await;
    looked?;
    Ok(there)
}

/// Said where another process looks through the same queue.
const IN_ANOTHER_HAND: &str =
    "another consumer holds dead letters of this queue (another `resetd dead`?): those are not seen here";

/// Opens the queue, or says what to do where there is none.
pub(super) async fn open(connection: &Connection, queue: &str) -> Result<Letters> {
    match Letters::open(connection, queue).await {
        Ok(letters) => Ok(letters),
        Err(BrokerError::Missing(why)) => bail!(
            "{why}; has a worker with this org and this amqp.prefix declared the queues? Start `resetd worker` once, or correct --org"
        ),
        Err(trouble @ (BrokerError::Retry(_) | BrokerError::NeedsOperator(_) | BrokerError::Misfit(_))) => {
            Err(trouble.into())
        }
    }
}
