//! Two connections, one that consumes and one that publishes: under a resource alarm everything on a publishing one hangs, acks too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lapin::Connection;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::attach::{Start, attach};
use super::channels::{self, Needs, allowed, worn};
use super::connect;
use super::error::{ANSWER, BrokerError, closing, within};
use super::heartbeat::PublisherHeartbeat;
use super::pings::Pinger;
use super::publisher::{self, Pool, Publisher};
use super::topology::{self, Thing};
use crate::config::amqp::Amqp;

/// How often the connections are looked at; a lost one is seen by its own error long before that, where anything is under way.
const WATCH: Duration = Duration::from_millis(200);
/// So many declare their topology at once.
const DECLARING: usize = 8;
/// What the publishing connection needs: those who declare, the heartbeat, the looks, and one channel to publish on.
const PUBLISHING: usize = DECLARING + 3;
/// Said where a connection is replaced before its channels run out.
const WORN: &str = "the broker has refused so much that few channels are left on a connection: it is replaced";

/// Both connections. There is no recovery in it: when one is lost, both are dropped and made anew.
#[derive(Debug)]
pub struct Link {
    /// Consumes and acks.
    pub consuming: Connection,
    /// Declares and publishes.
    pub publishing: Arc<Connection>,
    /// The channels that all publishers of this process share.
    pub pool: Arc<Pool>,
    /// Whether what is published can be expected to be confirmed.
    pub heartbeat: PublisherHeartbeat,
    /// By which it is looked whether a process of release 0.1 leads: one channel for that alone, so that a look that is not answered keeps no
    /// notification from a channel that is open.
    pub looks: Arc<Publisher>,
    /// What keeps the candidates of this process pinging.
    pub(super) pinger: Arc<Pinger>,
    declaring: Semaphore,
    /// Whether the broker ever refused what was declared, to whichever org.
    refused: AtomicBool,
    /// Whether the streams were declared, by whoever came first.
    streams: tokio::sync::Mutex<watch::Sender<bool>>,
    amqp: Amqp,
    /// Where the consuming connection goes, and what is opened beside it.
    socket: SocketAddr,
    role: String,
    lost: CancellationToken,
    _watch: DropGuard,
}

impl Link {
    /// Opens both; `role` is what the broker's own pages show, and `needs` what the consuming one is needed for.
    ///
    /// # Errors
    /// Where the broker is not there, refuses the login or the vhost, or does not answer in time; and where it allows a connection fewer
    /// channels than are needed.
    pub async fn open(amqp: &Amqp, role: &str, needs: &Needs) -> Result<Self, BrokerError> {
        let (consuming, address) = connect::connect(amqp, &format!("resetd {role} (consuming)"), None).await?;
        let spare = needs.leave(allowed(&consuming))?;
        let socket = address.socket;
        let (publishing, beside) = connect::connect(amqp, &format!("resetd {role} (publishing)"), Some(socket)).await?;
        let publishing = Arc::new(publishing);
        tracing::info!(publishing = (beside != address).then_some(beside.label), "connected to {}", address.label);
        let channels = PUBLISHING + needs.publishers;
        let publishers =
            Needs { channels, publishers: 0, who: "those who declare, ping and publish".into(), or: needs.or };
        let left = publishers.leave(allowed(&publishing))? + 1;
        let size = publisher::size(left);
        let (lost, stop) = (CancellationToken::new(), CancellationToken::new());
        let (first, second) = (consuming.status().clone(), publishing.status().clone());
        let signal = lost.clone();
        let unworn = [worn(&consuming, spare / 2), worn(&publishing, (left - size) / 2)];
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            let lives = async {
                while first.connected() && second.connected() {
                    tokio::time::sleep(WATCH).await;
                }
            };
            let [first_worn, second_worn] = unworn;
            tokio::select! {
                () = lives => {}
                () = first_worn => tracing::warn!("{WORN}"),
                () = second_worn => tracing::warn!("{WORN}"),
            }
            signal.cancel();
        }));
        let heartbeat = PublisherHeartbeat::of(&publishing);
        let beating = heartbeat.clone().beat(Arc::clone(&publishing), lost.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(beating));
        let pinger = Arc::new(Pinger::new(Arc::clone(&publishing)));
        tokio::spawn(stop.clone().run_until_cancelled_owned(Arc::clone(&pinger).run(lost.clone())));
        Ok(Self {
            consuming,
            pool: Pool::new(Arc::clone(&publishing), size, needs.publishers),
            looks: Arc::new(Publisher::of(Pool::new(Arc::clone(&publishing), 1, 1))),
            publishing,
            heartbeat,
            pinger,
            declaring: Semaphore::new(DECLARING),
            refused: AtomicBool::new(false),
            streams: tokio::sync::Mutex::default(),
            amqp: amqp.clone(),
            socket,
            role: role.to_owned(),
            lost,
            _watch: stop.drop_guard(),
        })
    }

    /// Declares things. Once the broker has refused that to anybody, each declares on a connection of its own, for as long as this link
    /// lives: each refusal costs a channel for as long as its connection lives, and a refusal may last for days.
    ///
    /// # Errors
    /// As [`topology::declare`].
    pub async fn declare(&self, things: &[Thing]) -> Result<(), BrokerError> {
        self.streams_first(things).await;
        let _place = self.declaring.acquire().await;
        let declared = if self.refused.load(Ordering::Relaxed) {
            let connection = self.beside("declaring").await?;
            let declared = topology::declare(&connection, things).await;
            closing(connection.close(200, "bye".into())).await;
            declared
        } else if self.heartbeat.is_blocked() {
            // Nothing is answered, and a channel that is asked for meanwhile keeps its number until the alarm ends.
            return Err(BrokerError::Retry(
                "declaring: a resource alarm of the broker blocks it (memory or disk)".into(),
            ));
        } else {
            topology::declare(&self.publishing, things).await
        };
        if let Err(BrokerError::NeedsOperator(_) | BrokerError::Missing(_)) = &declared {
            self.refused.store(true, Ordering::Relaxed);
        }
        declared
    }

    /// One more connection, for this.
    async fn beside(&self, what: &str) -> Result<Connection, BrokerError> {
        let name = format!("resetd {} ({what})", self.role);
        connect::connect(&self.amqp, &name, Some(self.socket)).await.map(|(connection, _)| connection)
    }

    /// Declares the streams among things, and waits until they can be read; once, for all orgs, which share them.
    ///
    /// A stream is there some time after its declaration has begun: seconds, where it is the broker's first. Whoever declares it meanwhile,
    /// consumes it or publishes to it has his connection closed (RESOURCE_ERROR "stream not found", or 541 INTERNAL_ERROR; 3.10), and by
    /// the two of this link all orgs work. So this happens on a connection of its own, whoever else is declaring it. What else is wrong
    /// with a stream is found by what follows.
    async fn streams_first(&self, things: &[Thing]) {
        let streams: Vec<Thing> = things.iter().filter(|thing| thing.is_stream()).cloned().collect();
        let looked = self.streams.lock().await;
        if streams.is_empty() || *looked.borrow() {
            return;
        }
        let all = async {
            let until = Instant::now() + ANSWER;
            loop {
                let trouble = match self.make_and_look(&streams).await {
                    Err(trouble @ BrokerError::Retry(_)) => trouble,
                    Ok(()) | Err(BrokerError::Missing(_) | BrokerError::NeedsOperator(_) | BrokerError::Misfit(_)) => {
                        return true;
                    }
                };
                if Instant::now() >= until {
                    return !trouble.is_of_the_node();
                }
                tracing::debug!(reason = %trouble, "a stream cannot be read yet");
                sleep(WATCH).await;
            }
        };
        match self.lost.run_until_cancelled(all).await {
            Some(true) => drop(looked.send_replace(true)),
            // Declared while one node was alone, it has a replica there and nowhere else.
            Some(false) => {
                tracing::warn!("this node of the broker has no replica of the outcome stream: connecting to another");
                self.lost.cancel();
            }
            None => {}
        }
    }

    /// Waits until the streams were declared, or were found to be amiss.
    pub async fn streams_are_there(&self) {
        let mut looked = self.streams.lock().await.subscribe();
        // The sender lives as long as this.
        let _ = looked.wait_for(|looked| *looked).await;
    }

    async fn make_and_look(&self, streams: &[Thing]) -> Result<(), BrokerError> {
        let connection = self.beside("streams").await?;
        let looked = async {
            topology::declare(&connection, streams).await?;
            for stream in streams {
                let channel = within("opening a channel", channels::open(&connection)).await?;
                attach(&channel, stream.name(), "resetd-look", 1, Start::Words("next")).await?;
            }
            Ok(())
        };
        let looked = looked.await;
        closing(connection.close(200, "bye".into())).await;
        looked
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
pub async fn connect(amqp: &Amqp, name: &str) -> Result<Connection, BrokerError> {
    let (connection, address) = connect::connect(amqp, name, None).await?;
    tracing::debug!("connected to {}", address.label);
    Ok(connection)
}
