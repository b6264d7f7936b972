//! The election of the one process that may work an org's jobs, or send the mails: stand by until the broker makes this process's registration
//! the active one, then read the ledger up to a fence of our own, so that everything is known that the leader before has done.
//! `docs/adr/0006` has the argument.

use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use lapin::{BasicProperties, Connection};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::channels;
use super::error::{BrokerError, closing, within};
use super::ledger::Ledger;
use super::link::Link;
use super::names::Names;
use super::publisher::{Message, Publisher, Unpublished};
use super::registration::{ProofView, Registration};
use super::topology::look_at;
use crate::board::Session as Standing;
use crate::domain::leader_proof::{Chain, FRESH, PUBLISH_GRACE};
use crate::domain::ledger::{Before, Fence, FenceRead, Holder, OwnTerm, WorkerName};
use crate::domain::subject::Subject;
use crate::wire;

/// How often the ledger is told who leads: well within the day that one who starts reads of it.
pub const REPEAT: Duration = Duration::from_secs(3600);
/// How much later than the former leader all others try, after the broker was lost.
pub const FORMER_LEADER_DELAY: Duration = Duration::from_secs(3);
/// How long the record may take that the leadership is given up: under an alarm it would take for ever.
const RELEASED: Duration = Duration::from_secs(1);
/// Beside the calls of the former leader, and their publish grace: for the steps between a look at the clock and the action.
const TO_SPARE: Duration = Duration::from_millis(500);
/// After so long, with a ping confirmed, it is clear that it does not come back to us.
const ANOTHERS: Duration = Duration::from_millis(300);
/// How often it is looked whether a ping is confirmed, until it is said how it stands.
const LOOK: Duration = Duration::from_millis(100);
/// The same from then on.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How often it is looked whether pings lie in the leader queue.
const READY_LOOK: Duration = Duration::from_secs(5);
/// A ping that was confirmed within this shows that they reach the queue.
const CONFIRMED: Duration = Duration::from_secs(5);
/// How long nothing is confirmed, or taken, until it is said that nobody leads.
const UNLED: Duration = Duration::from_secs(30);
/// As long as the first ping of a registration may take.
const FIRST_PING: Duration = Duration::from_secs(2);
/// How often it is looked whether a process of release 0.1 has its lease. It waits for longer than that before it calls, since we have not
/// said that we are done.
const LEASE_LOOK: Duration = Duration::from_secs(1);

/// A name for this process that no other has.
pub fn process_name() -> WorkerName {
    // What this machine is called, for people; empty where it does not say.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    WorkerName::of(host.unwrap_or_default().trim(), std::process::id(), &Uuid::new_v4().to_string())
}

/// How long the former leader may still be at work, from when we lead: where one of its calls takes at most `longest`.
pub fn after_another(longest: Duration) -> Duration {
    FRESH + longest + PUBLISH_GRACE + TO_SPARE
}

/// What is elected by.
#[derive(Debug, Clone)]
pub struct Queues {
    /// The queue whose active consumer leads.
    leader: String,
    /// The exclusive queue by which processes of release 0.1 elect theirs.
    lease: String,
    /// The ledger's stream.
    ledger: String,
}

impl Queues {
    /// Those of an org.
    pub fn of_org(names: &Names) -> Self {
        Self { leader: names.leader(), lease: names.lease(), ledger: names.ledger() }
    }

    /// Those of the mails.
    pub fn of_mails(names: &Names) -> Self {
        Self { leader: names.emails_leader(), lease: names.emails_lease(), ledger: names.ledger() }
    }
}

/// When it was looked at last what lies in the leader queue, and when nothing did.
struct Ready {
    looked: Option<Instant>,
    none: Instant,
}

/// How a candidate stands, for observers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Candidate {
    /// How long ago the newest ping of its own that came back was sent: the proof that it leads.
    pub proof_age: Option<Duration>,
    /// Whether a ping of its own was confirmed lately, so that they reach the leader queue.
    pub is_confirmed: bool,
    /// How many messages lay ready in the leader queue when it was looked at last; only one that stands by looks.
    pub ready: Option<u32>,
}

/// The registration of this moment, and what was seen by it.
#[derive(Debug, Clone)]
struct Registered {
    proof: ProofView,
    ready: Option<u32>,
}

/// A fence of ours that was read back.
#[derive(Debug, Clone)]
pub struct Fenced {
    /// The fence's id, by which the term is called that begins with it.
    term: String,
    read: FenceRead,
}

/// One candidate, over every connection.
#[derive(Debug)]
pub struct Election {
    subject: Subject,
    queues: Queues,
    name: WorkerName,
    ledger: Ledger,
    own_term: Mutex<OwnTerm>,
    registered: Mutex<Option<Registered>>,
    /// When a ping was confirmed last, by any registration.
    confirmed: Mutex<Instant>,
}

impl Election {
    /// Who leads `subject`; `name` is what this process is called in the ledger.
    pub fn new(subject: impl Into<Subject>, queues: Queues, name: WorkerName, ledger: Ledger) -> Self {
        Self {
            subject: subject.into(),
            queues,
            name,
            ledger,
            own_term: Mutex::default(),
            registered: Mutex::default(),
            confirmed: Mutex::new(Instant::now()),
        }
    }

    fn own_term(&self) -> MutexGuard<'_, OwnTerm> {
        self.own_term.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this process led last, as far as it knows.
    pub fn was_ours(&self) -> bool {
        self.own_term().is_complete() && self.ledger.holder(self.subject.in_ledger()) == Holder::Was(self.name.clone())
    }

    /// Registers as a candidate.
    ///
    /// # Errors
    /// Where the broker is lost, refuses it, or does not answer.
    pub async fn register(&self, link: &Link) -> Result<Registration, BrokerError> {
        let registration = Registration::open(link, self.queues.leader.clone()).await?;
        *self.registered() = Some(Registered { proof: registration.proof().view(), ready: None });
        Ok(registration)
    }

    fn registered(&self) -> MutexGuard<'_, Option<Registered>> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How this candidate stands; `None`: it is not registered.
    pub fn candidate(&self) -> Option<Candidate> {
        let Registered { proof, ready } = self.registered().clone()?;
        let confirmed = proof.confirmed_at()?;
        let is_confirmed = confirmed.is_some_and(|at| at.elapsed() < CONFIRMED);
        Some(Candidate { proof_age: proof.age(), is_confirmed, ready })
    }

    /// Waits until this registration is the active one, and no process of release 0.1 leads. `say` is told how it stands meanwhile.
    ///
    /// # Errors
    /// Where the registration is lost.
    pub async fn stand_by(
        &self,
        registration: &Registration,
        looks: &Publisher,
        say: impl Fn(Standing),
    ) -> Result<Chain, BrokerError> {
        let elected = async {
            loop {
                let chain = tokio::select! {
                    biased;
                    chain = registration.proof().chain() => chain,
                    never = self.watch(registration, &say) => match never {},
                };
                if !self.is_led_by_0_1(looks).await? {
                    return Ok(chain);
                }
                let lease = &self.queues.lease;
                let why = format!(
                    "a process of release 0.1 leads, or its node died and left a record of queue {lease}: end that process, or free the queue (rabbitmqctl delete_queue {lease})"
                );
                say(Standing::Standby(Some(why)));
                sleep(LEASE_LOOK).await;
            }
        };
        let lost = || BrokerError::Retry("a connection or a channel was lost".into());
        registration.gone().run_until_cancelled(elected).await.ok_or_else(lost)?
    }

    /// Says how a candidate stands while no ping of its own comes back: it stands by, or nobody can lead.
    async fn watch(&self, registration: &Registration, say: &impl Fn(Standing)) -> Infallible {
        let (queue, proof, began) = (&self.queues.leader, registration.proof(), Instant::now());
        let (mut said, mut ready) = (None, Ready { looked: None, none: began });
        loop {
            sleep(if said.is_none() { LOOK } else { LOOK_AGAIN }).await;
            if ready.looked.is_none_or(|looked| looked.elapsed() >= READY_LOOK) {
                ready.looked = Some(Instant::now());
                let seen = registration.ready().await;
                self.registered().iter_mut().for_each(|registered| registered.ready = seen);
                // That it cannot be looked at is no reason by itself.
                if seen.is_none_or(|ready| ready == 0) {
                    ready.none = Instant::now();
                }
            }
            let confirmed = proof.confirmed_at();
            // A registration that is not confirmed is replaced sooner than that.
            let is_silent = self.silent_for(confirmed) >= UNLED && began.elapsed() >= FIRST_PING;
            let standing = if is_silent {
                Standing::NoLeader(format!(
                    "nobody can lead: queue {queue} has confirmed nothing for {} s; is a majority of the nodes with its members up?",
                    UNLED.as_secs()
                ))
            } else if ready.none.elapsed() >= UNLED {
                Standing::NoLeader(format!(
                    "nobody leads: messages lie in queue {queue} and nobody takes them for {} s; the node of the one who did may be dead",
                    UNLED.as_secs()
                ))
            } else if confirmed.is_some() && began.elapsed() >= ANOTHERS {
                Standing::Standby(None)
            } else {
                continue;
            };
            if said.as_ref() != Some(&standing) {
                say(standing.clone());
                said = Some(standing);
            }
        }
    }

    /// For how long no ping of any registration was confirmed.
    fn silent_for(&self, newest: Option<Instant>) -> Duration {
        let mut confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        *confirmed = newest.map_or(*confirmed, |newest| newest.max(*confirmed));
        confirmed.elapsed()
    }

    /// Waits until a process of release 0.1 has its lease, beside our leading.
    pub async fn until_led_by_0_1(&self, looks: &Publisher) {
        loop {
            sleep(LEASE_LOOK).await;
            if self.is_led_by_0_1(looks).await == Ok(true) {
                return;
            }
        }
    }

    /// Whether a process of release 0.1 has its lease.
    ///
    /// # Errors
    /// Where the connection is lost, or does not answer.
    pub async fn is_led_by_0_1(&self, looks: &Publisher) -> Result<bool, BrokerError> {
        is_held(looks, &self.queues.lease).await
    }

    /// Writes a fence into the ledger and reads up to it: who led before, and the fence itself. Our calls take `longest` at most.
    ///
    /// # Errors
    /// Where it cannot be written, or is not read.
    pub async fn fence(&self, publisher: &Publisher, longest: Duration) -> Result<(Before, Fenced), BrokerError> {
        let id = self.write_fence(publisher, None, longest).await?;
        let read = self.ledger.until_fence(&id).await?;
        let before = self.own_term().before(&read);
        Ok((before, Fenced { term: id, read }))
    }

    /// Reads up to this moment, once more in the same term. It is no name in the ledger: what counts is the first fence, whose predecessors were
    /// waited for.
    ///
    /// # Errors
    /// Where it cannot be written, or is not read.
    pub async fn fence_again(
        &self,
        publisher: &Publisher,
        fenced: &Fenced,
        longest: Duration,
    ) -> Result<FenceRead, BrokerError> {
        let id = self.write_fence(publisher, Some(&fenced.term), longest).await?;
        self.ledger.until_fence(&id).await
    }

    /// Whether another may have led since the takeover was complete, now that this was read.
    pub fn may_another_have_led(&self, read: &FenceRead) -> bool {
        self.own_term().before(read) != Before::Ourselves
    }

    /// Waits until the one before this fence says that it is done, with nobody else after it.
    pub async fn until_released(&self, fenced: &Fenced) {
        self.ledger.until_released(self.subject.in_ledger(), &fenced.read).await;
    }

    /// The takeover that began with this fence is complete.
    pub fn complete(&self, fenced: &Fenced) {
        self.own_term().complete(&fenced.read);
    }

    /// Says again that this process leads: one who starts reads the ledger of a day, and must find out who does. It is read up to that, so
    /// that there is little to read after a lapse.
    pub async fn repeat(&self, publisher: &Publisher, fenced: &Fenced, longest: Duration) {
        if let Err(trouble) = self.fence_again(publisher, fenced, longest).await {
            tracing::warn!(org = self.subject.org(), reason = %trouble, "the ledger could not be told who leads");
        }
    }

    /// Says that the term which began with this fence is over, with nothing left in flight: the next process need not wait.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub async fn release(&self, publisher: &Publisher, fenced: &Fenced, at: Timestamp) -> Result<(), BrokerError> {
        let record = wire::ledger::released(self.subject.in_ledger(), &self.name, &fenced.term, at);
        self.write(publisher, record).await
    }

    /// The same, where nobody waits for longer than a second.
    ///
    /// # Errors
    /// Where it cannot be written within that.
    pub async fn release_soon(&self, publisher: &Publisher, fenced: &Fenced) -> Result<(), BrokerError> {
        let late = || BrokerError::Retry(format!("not confirmed within {} s", RELEASED.as_secs()));
        timeout(RELEASED, self.release(publisher, fenced, Timestamp::now())).await.unwrap_or_else(|_| Err(late()))
    }

    async fn write_fence(
        &self,
        publisher: &Publisher,
        term: Option<&str>,
        longest: Duration,
    ) -> Result<String, BrokerError> {
        let id = Uuid::new_v4().to_string();
        let fence = Fence {
            worker: self.name.as_str().into(),
            id: id.as_str().into(),
            term: term.map(Into::into),
            longest_call: Some(longest),
            at: Timestamp::now(),
        };
        self.write(publisher, wire::ledger::fence(self.subject.in_ledger(), &fence)).await?;
        Ok(id)
    }

    async fn write(
        &self,
        publisher: &Publisher,
        (body, properties): (Vec<u8>, BasicProperties),
    ) -> Result<(), BrokerError> {
        let message = Message { exchange: "", key: &self.queues.ledger, body: &body, properties };
        let published = publisher.publish(&message).await;
        published.map_err(|unpublished| BrokerError::Retry(format!("writing to the ledger: {unpublished}")))
    }
}

/// Whether a process leads `names`' org, or is about to. Nothing is refused where it has never had one.
///
/// # Errors
/// Where the connection is lost, or does not answer.
pub async fn is_led(connection: &Connection, publisher: &Publisher, names: &Names) -> Result<bool, BrokerError> {
    let leader = names.leader();
    // As with a lease: it comes back where there is no such queue.
    if is_held(publisher, &leader).await? {
        let channel = within("opening a channel", channels::open(connection)).await?;
        let consumers = look_at(&channel, &leader).await?.consumer_count();
        closing(channel.close(200, "looked".into())).await;
        if consumers > 0 {
            return Ok(true);
        }
    }
    is_held(publisher, &names.lease()).await
}

/// Whether somebody holds the lease of release 0.1, an exclusive queue. What is published to it expires there at once, and comes back where
/// there is no such queue: nothing is refused, which would cost the connection a channel each time.
///
/// # Errors
/// Where the connection is lost.
pub async fn is_held(publisher: &Publisher, lease: &str) -> Result<bool, BrokerError> {
    let properties = BasicProperties::default().with_expiration("0".into());
    match publisher.publish(&Message { exchange: "", key: lease, body: b"", properties }).await {
        // It is just being deleted; or its node is dead, which RabbitMQ 4.3 remembers it by.
        Ok(()) | Err(Unpublished::Refused { .. }) => Ok(true),
        Err(Unpublished::Returned { .. }) => Ok(false),
        Err(Unpublished::Lost(trouble)) => Err(trouble),
    }
}
