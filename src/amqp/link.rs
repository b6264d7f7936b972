//! Two connections, one that consumes and one that publishes: under a resource alarm everything on a publishing one hangs, acks too.

use std::sync::Arc;
use std::time::Duration;

use lapin::uri::AMQPScheme;
use lapin::{Connection, ConnectionProperties};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::dial;
use super::greeting::greeting;
use super::pulse::Pulse;
use super::trouble::{Trouble, closing, unreadable, within};
use crate::config::amqp::{Amqp, place};

/// The heartbeat, in seconds: `docs/contract.md#at-the-broker`.
const HEARTBEAT: u16 = 10;
/// The largest frame, in bytes: the broker's own default. Less, and a job whose producer wrote long headers could not be taken.
/// Said at once, since lapin writes zeros over all of its buffers (16 MiB) when the broker's answer makes it grow them.
const FRAME_MAX: u32 = 128 * 1024;
/// How long a broker may take to say what it has against us.
const SAID: Duration = Duration::from_secs(2);
/// How often the connections are looked at; a lost one is seen by its own error long before that, where anything is under way.
const WATCH: Duration = Duration::from_millis(200);

/// Both connections. There is no recovery in it: when one is lost, both are dropped and made anew.
#[derive(Debug)]
pub struct Link {
    /// Consumes and acks.
    pub consuming: Connection,
    /// Declares and publishes.
    pub publishing: Arc<Connection>,
    /// Whether what is published can be expected to be confirmed.
    pub pulse: Pulse,
    lost: CancellationToken,
    _watch: DropGuard,
}

impl Link {
    /// Opens both; `role` is what the broker's own pages show.
    ///
    /// # Errors
    /// Where the broker is not there, refuses the login or the vhost, or does not answer in time.
    pub async fn open(amqp: &Amqp, role: &str) -> Result<Self, Trouble> {
        let consuming = connect(amqp, &format!("resetd {role} (consuming)")).await?;
        let publishing = Arc::new(connect(amqp, &format!("resetd {role} (publishing)")).await?);
        let (lost, stop) = (CancellationToken::new(), CancellationToken::new());
        let (first, second) = (consuming.status().clone(), publishing.status().clone());
        let signal = lost.clone();
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            while first.connected() && second.connected() {
                tokio::time::sleep(WATCH).await;
            }
            signal.cancel();
        }));
        let pulse = Pulse::of(&publishing);
        let beating = pulse.clone().beat(Arc::clone(&publishing), lost.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(beating));
        Ok(Self { consuming, publishing, pulse, lost, _watch: stop.drop_guard() })
    }

    /// Cancelled when one of them is lost.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Closes both, so that the broker returns at once what was not settled.
    pub async fn close(self) {
        let goodbye = |connection| closing(Connection::close(connection, 200, "bye".into()));
        tokio::join!(goodbye(&self.consuming), goodbye(&self.publishing));
    }
}

/// Opens one connection.
///
/// # Errors
/// As [`Link::open`].
pub async fn connect(amqp: &Amqp, name: &str) -> Result<Connection, Trouble> {
    let mut uri = amqp.uri().ok_or_else(unreadable)?;
    let is_tls = uri.scheme == AMQPScheme::AMQPS;
    uri.query.heartbeat.get_or_insert(HEARTBEAT);
    uri.query.frame_max.get_or_insert(FRAME_MAX);
    let place =
        format!("the broker at {}, vhost {:?}, as user {:?}", place(&uri), uri.vhost, uri.authority.userinfo.username);
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let connected = within(&format!("connecting to {place}"), dial::connect(uri, &amqp.tls, properties)).await;
    let why = match connected {
        Ok(connection) => return Ok(connection),
        Err(Trouble::Again(why)) => why,
        Err(trouble @ (Trouble::Missing(_) | Trouble::Mend(_))) => return Err(trouble),
    };
    // A broker that does not take our certificate says so and closes, and lapin may hear the second first. So it is asked once more.
    if is_tls && let Ok(Err(Trouble::Mend(said))) = timeout(SAID, greeting(amqp)).await {
        return Err(Trouble::Mend(said));
    }
    Err(Trouble::Again(format!("{why}; is RabbitMQ running there, and amqp.url right?")))
}
