//! How much is queued, for whoever looks on: asked for on a channel of its own every few seconds, and only while somebody does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use lapin::{Channel, Connection};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::channels;
use super::error::{BrokerError, closing, within};
use super::names::Names;
use super::topology::look_at;
use crate::domain::delay_tier::DelayTier;
use crate::domain::job::Lane;

/// How often it is asked for.
const EVERY: Duration = Duration::from_secs(2);
/// How long one who asks once waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks whether the connection still lives while nobody looks on.
const WATCH: Duration = Duration::from_millis(200);

/// What stands for the mails among orgs: no org can have this name.
const MAILS: &str = "";

/// What lies ready at the broker for one org.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Jobs in each lane, less those that some worker has in flight.
    pub lanes: [u32; Lane::COUNT],
    /// Jobs that wait at the broker for their time.
    pub parked: u32,
    /// Dead letters.
    pub dead: u32,
    /// When it was asked for.
    pub at: Timestamp,
}

/// A handle to what is known; cheap to clone.
#[derive(Debug, Clone)]
pub struct Depths(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    orgs: BTreeMap<String, Names>,
    /// What is asked for: an org's queues, or the mails'.
    ask: fn(&Names) -> Queues,
    /// How many look on.
    lookers: watch::Sender<usize>,
    known: watch::Sender<BTreeMap<String, Depth>>,
}

/// While one of these lives, the broker is asked.
#[derive(Debug)]
pub struct Looking(Depths);

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.0.lookers.send_modify(|lookers| *lookers -= 1);
    }
}

impl Depths {
    /// Of these orgs. Nothing is known yet.
    pub fn new(orgs: BTreeMap<String, Names>) -> Self {
        Self::asking(orgs, Queues::of_org)
    }

    /// Of the mails. The email queue stands in place of the first lane, and there is no other.
    pub fn of_mails(names: Names) -> Self {
        Self::asking(BTreeMap::from([(MAILS.to_owned(), names)]), Queues::of_mails)
    }

    fn asking(orgs: BTreeMap<String, Names>, ask: fn(&Names) -> Queues) -> Self {
        Self(Arc::new(Shared { orgs, ask, lookers: watch::Sender::new(0), known: watch::Sender::default() }))
    }

    /// Looks on until the guard is dropped.
    pub fn looking(&self) -> Looking {
        self.0.lookers.send_modify(|lookers| *lookers += 1);
        Looking(self.clone())
    }

    /// What is known of the mails; it may be old.
    pub fn of_the_mails(&self) -> Option<Depth> {
        self.of(MAILS)
    }

    /// What is known of an org; it may be old.
    pub fn of(&self, org: &str) -> Option<Depth> {
        self.0.known.borrow().get(org).copied()
    }

    /// Waits a moment until something fresh is known, for one who looks once.
    pub async fn freshen(&self) {
        let _looking = self.looking();
        let asked = Timestamp::now() - EVERY;
        let all = self.0.orgs.len();
        let fresh = |known: &BTreeMap<String, Depth>| known.values().filter(|depth| depth.at >= asked).count() == all;
        let _ = tokio::time::timeout(PATIENCE, self.0.known.subscribe().wait_for(fresh)).await;
    }

    /// Asks on this connection while somebody looks on, until the connection is lost or this is dropped.
    pub async fn follow(&self, connection: &Connection) {
        let mut lookers = self.0.lookers.subscribe();
        let mut refused = BTreeMap::new();
        while connection.status().connected() {
            if tokio::time::timeout(WATCH, lookers.wait_for(|lookers| *lookers > 0)).await.is_err() {
                continue;
            }
            if let Err(trouble) = self.ask(connection, &mut lookers, &mut refused).await {
                tracing::debug!(reason = %trouble, "the queue sizes are not known");
                sleep(EVERY).await;
            }
        }
    }

    /// Asks again and again, until nobody looks on any more. An org of which a queue is not there, or may not be looked at, is asked for more
    /// and more seldom, and the others all the same.
    async fn ask(
        &self,
        connection: &Connection,
        lookers: &mut watch::Receiver<usize>,
        refused: &mut BTreeMap<String, Refused>,
    ) -> Result<(), BrokerError> {
        let mut channel = within(OPENING, channels::open(connection)).await?;
        while *lookers.borrow_and_update() > 0 {
            for (org, names) in &self.0.orgs {
                if refused.get(org).is_some_and(|refused| Instant::now() < refused.until) {
                    continue;
                }
                match depth(&channel, (self.0.ask)(names)).await {
                    Ok(depth) => {
                        refused.remove(org);
                        self.0.known.send_modify(|known| {
                            let _ = known.insert(org.clone(), depth);
                        });
                    }
                    Err(trouble @ (BrokerError::Missing(_) | BrokerError::NeedsOperator(_))) => {
                        tracing::debug!(org, reason = %trouble, "the queue sizes are not known");
                        let wait = refused.get(org).map_or(EVERY, |refused| (refused.wait * 2).min(channels::REFUSED));
                        refused.insert(org.clone(), Refused { wait, until: Instant::now() + wait });
                        // The refusal has closed it.
                        channel = within(OPENING, channels::open(connection)).await?;
                    }
                    Err(trouble @ (BrokerError::Retry(_) | BrokerError::Misfit(_))) => return Err(trouble),
                }
            }
            let _ = tokio::time::timeout(EVERY, lookers.wait_for(|lookers| *lookers == 0)).await;
        }
        closing(channel.close(200, "bye".into())).await;
        Ok(())
    }
}

/// What opening a channel is called.
const OPENING: &str = "opening a channel";

/// That an org's queues could not be looked at, and when that is tried again.
#[derive(Debug)]
struct Refused {
    wait: Duration,
    until: Instant,
}

/// The queues that are looked at.
#[derive(Debug)]
struct Queues {
    lanes: [Option<String>; Lane::COUNT],
    parked: [String; 3],
    dead: String,
}

impl Queues {
    fn of_org(names: &Names) -> Self {
        Self {
            lanes: Lane::ALL.map(|lane| Some(names.lane(lane))),
            parked: DelayTier::ALL.map(|tier| names.parked(tier)),
            dead: names.dead(),
        }
    }

    fn of_mails(names: &Names) -> Self {
        Self {
            lanes: Lane::ALL.map(|lane| (lane == Lane::FIRST).then(|| names.emails())),
            parked: DelayTier::ALL.map(|tier| names.emails_parked(tier)),
            dead: names.emails_dead(),
        }
    }
}

async fn depth(channel: &Channel, queues: Queues) -> Result<Depth, BrokerError> {
    let at = Timestamp::now();
    let (mut lanes, mut parked) = ([0; Lane::COUNT], 0);
    for (depth, queue) in lanes.iter_mut().zip(queues.lanes) {
        if let Some(queue) = queue {
            *depth = ready(channel, queue).await?;
        }
    }
    for queue in queues.parked {
        parked += ready(channel, queue).await?;
    }
    Ok(Depth { lanes, parked, dead: ready(channel, queues.dead).await?, at })
}

async fn ready(channel: &Channel, queue: String) -> Result<u32, BrokerError> {
    Ok(look_at(channel, &queue).await?.message_count())
}
