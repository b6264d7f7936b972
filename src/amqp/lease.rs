//! The lease: whichever connection holds the exclusive queue `resets.ORG.lease` works the org, and whichever holds `emails.lease` sends
//! the mails. The broker decides; what is ours to keep is that no call begins on a lease that may have been lost without our knowing.
//! `docs/adr/0006` argues why two can never call at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ErrorKind};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::channels;
use super::error::{ANSWER, BrokerError, closing, explain, within};
use super::link::Link;

/// How often the lease is renewed.
const RENEWAL: Duration = Duration::from_millis(500);
/// How long after the last successful renewal was sent a call may still begin.
pub const FRESH: Duration = Duration::from_millis(1500);

/// How long after its end what a call has brought may be published without a fresh lease.
pub const PUBLISH_GRACE: Duration = Duration::from_secs(1);

/// A routing key of the default exchange, where no queue has such a name.
const NOWHERE: &str = "resetd.lease.nowhere";

/// One lease, held by the connection that consumes and lost with it.
#[derive(Debug)]
pub struct Lease {
    channel: Channel,
    queue: String,
    renewed: Renewed,
    gone: CancellationToken,
    _renewing: DropGuard,
}

/// When the last successful renewal was sent: another process can have got the lease after that moment, and never before.
#[derive(Debug, Clone)]
pub struct Renewed(Arc<Mutex<Instant>>);

impl Renewed {
    /// Whether a call may begin.
    pub fn is_fresh(&self) -> bool {
        self.age() < FRESH
    }

    /// Whether what a call has brought may still be published, where a call takes at most `request_timeout`: who takes over waits for longer.
    pub fn allows_late_publishes(&self, request_timeout: Duration) -> bool {
        self.age() < FRESH + request_timeout + PUBLISH_GRACE
    }

    fn age(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn sent(&self, at: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }
}

impl Lease {
    /// Takes the lease, if nobody else holds it, and keeps renewing it.
    ///
    /// # Errors
    /// Where the broker is lost, does not answer, or refuses it for another reason than that somebody holds it.
    pub async fn take(link: &Link, queue: String) -> Result<Option<Self>, BrokerError> {
        let sent = Instant::now();
        // Before it is: what is answered too late, or not to us, may still give the queue to this connection, and no look tells who has it.
        link.leases().insert(queue.clone());
        let Some(channel) = declare(&link.consuming, &queue).await? else {
            link.leases().remove(&queue);
            return Ok(None);
        };
        let renewed = Renewed(Arc::new(Mutex::new(sent)));
        let (gone, stop) = (link.lost().child_token(), CancellationToken::new());
        let renewing = renew(channel.clone(), queue.clone(), renewed.clone(), gone.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(renewing));
        Ok(Some(Self { channel, queue, renewed, gone, _renewing: stop.drop_guard() }))
    }

    /// When it was renewed, for those who have to look at it before they call.
    pub fn renewed(&self) -> &Renewed {
        &self.renewed
    }

    /// Cancelled when it is known to be lost.
    pub fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// Gives it up, so that another process has it within its next try.
    pub async fn release(self, link: &Link) {
        let Self { channel, queue, _renewing: renewing, .. } = self;
        // Else it would find the lease lost.
        drop(renewing);
        link.leases().remove(&queue);
        let delete = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
        closing(async { delete.await.map(drop) }).await;
        closing(channel.close(200, "bye".into())).await;
    }
}

/// `None`: somebody else holds it. (The refusal closes the channel.)
async fn declare(connection: &Connection, queue: &str) -> Result<Option<Channel>, BrokerError> {
    let what = format!("taking the lease {queue}");
    let channel = within(&what, channels::open(connection)).await?;
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let declared = tokio::time::timeout(ANSWER, channel.queue_declare(queue.into(), options, without_dead_letters()));
    match declared.await {
        Ok(Ok(_)) => Ok(Some(channel)),
        Ok(Err(error)) if is_locked(&error) => Ok(None),
        Ok(Err(error)) => Err(explain(&what, &error)),
        Err(_) => Err(BrokerError::Retry(format!("{what}: the broker did not answer within {} s", ANSWER.as_secs()))),
    }
}

/// What is published to a lease's queue by those who look at it expires there. A policy that gives every queue a dead-letter exchange would
/// keep four such messages a second; arguments win over a policy, and by these they go to a queue that there is not.
fn without_dead_letters() -> FieldTable {
    let mut arguments = FieldTable::default();
    let text = |value: &str| AMQPValue::LongString(value.into());
    arguments.insert("x-dead-letter-exchange".into(), text(""));
    arguments.insert("x-dead-letter-routing-key".into(), text(NOWHERE));
    arguments
}

fn is_locked(error: &lapin::Error) -> bool {
    let ErrorKind::ProtocolError(amqp) = error.kind() else { return false };
    *amqp.kind() == AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED)
}

/// Renews until that fails. What counts is when the renewal was sent, not when its answer came.
async fn renew(channel: Channel, queue: String, renewed: Renewed, gone: CancellationToken) {
    let what = format!("renewing the lease {queue}");
    let mut next = Instant::now() + RENEWAL;
    loop {
        tokio::time::sleep_until(next).await;
        let sent = Instant::now();
        next = sent + RENEWAL;
        let options = QueueDeclareOptions { passive: true, exclusive: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(queue.as_str().into(), options, FieldTable::default());
        match within(&what, declared).await {
            Ok(_) => renewed.sent(sent),
            Err(trouble) => {
                tracing::warn!(reason = %trouble, "the lease is lost");
                return gone.cancel();
            }
        }
    }
}
