//! Becoming the one worker of an org: stand by until the lease is ours, then read the ledger up to a fence of our own, so that
//! everything is known that the worker before has done. `docs/adr/0006` has the argument.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::tenure::Before;
use super::{Crew, Office};
use crate::amqp::lease::{FRESH, LAST_WORDS, Lease};
use crate::amqp::link::Link;
use crate::amqp::publisher::{Message, Publisher};
use crate::amqp::topology;
use crate::amqp::trouble::Trouble;
use crate::board::Session;
use crate::pipeline::org::Org;
use crate::telemetry::logs::millis;
use crate::wire;

/// How often one who stands by tries.
const TRY: Duration = Duration::from_millis(250);
/// How long the record may take that the org is given up: under an alarm it would take for ever.
const RELEASED: Duration = Duration::from_secs(1);
/// Beside the calls of the worker before, and their last words: for the steps between a look at the clock and the deed.
const TO_SPARE: Duration = Duration::from_millis(500);

/// The org is ours.
pub(super) struct Held {
    pub(super) lease: Lease,
    pub(super) publisher: Arc<Publisher>,
}

/// Stands by until the lease is ours and nobody else can still be at work.
pub(super) async fn take_over(crew: &Crew<'_>, office: &Office, link: &Link) -> Result<Held, Trouble> {
    let org = &office.org;
    topology::declare_on(&link.publishing, &org.names).await?;
    // Read from now on, so that little is left to read when the time comes.
    let _reading = crew.ledger.reading();
    let lease = stand_by(crew, office, link).await?;
    let publisher = Arc::new(Publisher::open(Arc::clone(&link.publishing)).await?);
    let lost = || Trouble::Again("the lease was lost while the ledger was read".into());
    let gone = lease.gone().clone();
    gone.run_until_cancelled(settle_in(crew, office, &publisher)).await.ok_or_else(lost)??;
    Ok(Held { lease, publisher })
}

async fn stand_by(crew: &Crew<'_>, office: &Office, link: &Link) -> Result<Lease, Trouble> {
    let org = &office.org;
    let mut said = false;
    loop {
        let tried = Instant::now();
        if let Some(lease) = Lease::take(link, &org.names).await? {
            return Ok(lease);
        }
        crew.board.session(&org.name, Session::Standby);
        if !said {
            tracing::info!(org = org.name, "standing by: another worker has the lease");
            said = true;
        }
        if timeout(TRY.saturating_sub(tried.elapsed()), link.lost().cancelled()).await.is_ok() {
            return Err(Trouble::Again("a connection to the broker was lost".into()));
        }
    }
}

/// Reads the ledger to its end; where another worker held the lease last and did not release it, waits until it can do nothing more.
async fn settle_in(crew: &Crew<'_>, office: &Office, publisher: &Publisher) -> Result<(), Trouble> {
    let org = &office.org;
    let began = Instant::now();
    fence(crew, office, publisher).await?;
    let before = office.tenure().before(&crew.name, |id| crew.ledger.before_fence(id));
    match before {
        Before::Ourselves => {}
        Before::Nobody => org.forget(),
        Before::Another => {
            let wait = FRESH + org.config.request_timeout + LAST_WORDS + TO_SPARE;
            let why = format!("taking over: for {} s the worker before may still be at work", wait.as_secs_f32());
            tracing::info!(org = org.name, delay_ms = millis(wait), "{why}");
            crew.board.session(&org.name, Session::Starting(why));
            sleep(FRESH).await;
            // Only now, with the last call of the worker before begun: our limiter and its own never count the same second.
            org.forget();
            sleep(wait - FRESH).await;
            fence(crew, office, publisher).await?;
        }
    }
    // What others have reset within the hour counts at the guard of the bulk lane.
    org.gate.were_reset(crew.ledger.reset_lately(&org.name).into_iter());
    office.tenure().settles();
    tracing::info!(org = org.name, took_ms = millis(began.elapsed()), "the lease is ours, and the ledger is read");
    Ok(())
}

/// Writes a fence into the ledger and reads up to it.
async fn fence(crew: &Crew<'_>, office: &Office, publisher: &Publisher) -> Result<(), Trouble> {
    let id = Uuid::new_v4().to_string();
    office.tenure().claims(&id);
    claim(crew, &office.org, publisher, &id).await?;
    crew.ledger.until_fence(&id).await.map(drop)
}

async fn claim(crew: &Crew<'_>, org: &Org, publisher: &Publisher, id: &str) -> Result<(), Trouble> {
    write(org, publisher, wire::ledger::fence(&org.name, &crew.name, id, Timestamp::now())).await
}

/// Says again that the lease is ours: one who starts reads the ledger of a day, and must find out who holds it.
pub(super) async fn claim_again(crew: &Crew<'_>, office: &Office, publisher: &Publisher) {
    let (org, id) = (&office.org, Uuid::new_v4().to_string());
    office.tenure().claims_again(&id);
    if let Err(trouble) = claim(crew, org, publisher, &id).await {
        tracing::warn!(org = org.name, reason = %trouble, "the ledger could not be told whose the lease is");
    }
}

impl Held {
    /// Gives the org up, with everything done: the next worker need not wait.
    pub(super) async fn release(self, crew: &Crew<'_>, org: &Org) {
        let record = wire::ledger::released(&org.name, &crew.name, Timestamp::now());
        let written = timeout(RELEASED, write(org, &self.publisher, record)).await;
        let late = || Trouble::Again(format!("not confirmed within {} s", RELEASED.as_secs()));
        if let Err(trouble) = written.unwrap_or_else(|_| Err(late())) {
            tracing::warn!(org = org.name, reason = %trouble, "the lease could not be released cleanly; who takes over waits a little");
        }
        self.lease.release().await;
        tracing::info!(org = org.name, "released");
    }
}

async fn write(
    org: &Org,
    publisher: &Publisher,
    (body, properties): (Vec<u8>, lapin::BasicProperties),
) -> Result<(), Trouble> {
    let message = Message { exchange: "", key: &org.names.ledger(), body: &body, properties };
    publisher
        .publish(&message)
        .await
        .map_err(|unpublished| Trouble::Again(format!("writing to the ledger: {unpublished}")))
}
