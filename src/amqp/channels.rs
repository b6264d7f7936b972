//! Channels: the one place that opens them, and what a connection has of them.
//!
//! A broker allows a connection so many at once (`channel_max`), and lapin 4.12 never uses a number again whose channel the broker closed
//! (`channel.rs`, `on_channel_close_ok_sent`): each refusal costs one, for as long as the connection lives.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use lapin::protocol::AMQPErrorKind;
use lapin::{Channel, Connection, ErrorKind, Event};

use super::error::{BrokerError, closing};

/// What a candidate for leading needs: the channel by which its pings come back.
pub const CANDIDATE: usize = 1;
/// Consumers that read blocks of a long stretch of a stream at once.
pub(super) const READERS: usize = 8;
/// What is needed to read the ledger and the depths. Several channels of each reader are being closed while the next are opened.
pub const READING: usize = READERS + 7;

/// Channels that are needed beside those at once: so many the broker may refuse, which are not used again, before half of them are gone and
/// the connection is replaced. Without them the first refusal would have it replaced, and so again and again.
pub const REFUSALS: usize = 16;

/// How long at most until something is asked for again that was refused: queues that are not there, a stream that may not be read.
pub(super) const REFUSED: Duration = Duration::from_secs(64);

/// What a process needs of its consuming connection.
#[derive(Debug, Clone)]
pub struct Needs {
    /// Channels at once.
    pub channels: usize,
    /// How many publish by the other connection: orgs, or a mailer.
    pub publishers: usize,
    /// Who needs them, such as "60 orgs".
    pub who: String,
    /// What else than raising the limit helps where there are too few.
    pub or: &'static str,
}

impl Needs {
    /// Channels that are left over, of so many: [`REFUSALS`] at least.
    ///
    /// # Errors
    /// Where there are too few: both numbers, and what to do.
    pub(super) fn leave(&self, allowed: usize) -> Result<usize, BrokerError> {
        let Self { channels, who, or, publishers: _ } = self;
        let needed = channels + REFUSALS;
        if allowed < needed {
            return Err(BrokerError::Misfit(format!(
                "{who} need {needed} channels on one connection, and the broker allows {allowed}: raise channel_max in rabbitmq.conf{or}"
            )));
        }
        Ok(allowed - channels)
    }
}

/// How many channels the broker allows this connection.
pub(super) fn allowed(connection: &Connection) -> usize {
    connection.configuration().channel_max().into()
}

/// Opens a channel. Where none is left the connection is closed: who keeps it makes another, and others fail once and not for ever.
///
/// # Errors
/// Where the connection is lost, or no channel is left.
pub async fn open(connection: &Connection) -> lapin::Result<Channel> {
    loop {
        let error = match connection.create_channel().await {
            Ok(channel) => return Ok(channel),
            Err(error) => error,
        };
        if is_refusal(&error) && connection.status().connected() {
            // Opening a channel is never refused. That was said of the one that had the number before; the next number is tried, and this
            // one is taken from now on, so that there is an end to it.
            continue;
        }
        if matches!(error.kind(), ErrorKind::ChannelsLimitReached) {
            let channel_max = allowed(connection);
            tracing::warn!(channel_max, "no channel is left on a connection to the broker: it is closed");
            closing(connection.close(200, "no channel is left".into())).await;
        }
        return Err(error);
    }
}

/// Whether the broker refused something, and closed the channel for it.
fn is_refusal(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(amqp) if matches!(amqp.kind(), AMQPErrorKind::Soft(_)))
}

/// Ends when the broker has closed more than so many channels of this connection, from now on. (There can be one of these for a
/// connection: an event goes to one of its listeners.)
pub(super) fn worn(connection: &Connection, most: usize) -> impl Future<Output = ()> + Send + use<> {
    let mut events: BoxStream<'static, Event> = connection.events_listener().boxed();
    async move {
        let mut closed = 0;
        while closed <= most {
            match events.next().await {
                Some(Event::Error(error)) if is_refusal(&error) => closed += 1,
                Some(_) => {}
                // Who waits for this knows by itself that the connection is gone.
                None => std::future::pending().await,
            }
        }
    }
}
