//! Becoming the one worker of an org: stand by until the lease is ours, then read the ledger; where another worker held the lease
//! last and did not release it, wait until it can do nothing more. `docs/adr/0006` has the argument.

use std::sync::Arc;

use tokio::time::{Instant, sleep};

use super::{Crew, Office};
use crate::amqp::claim::after_another;
use crate::amqp::error::BrokerError;
use crate::amqp::lease::{FRESH, Lease};
use crate::amqp::link::Link;
use crate::amqp::publisher::Publisher;
use crate::amqp::topology;
use crate::board::Session;
use crate::domain::ledger::Before;
use crate::telemetry::logs::millis;

/// The org is ours.
pub(super) struct Held {
    pub(super) lease: Lease,
    pub(super) publisher: Arc<Publisher>,
}

/// Stands by until the lease is ours and nobody else can still be at work.
pub(super) async fn take_over(crew: &Crew<'_>, office: &Office, link: &Link) -> Result<Held, BrokerError> {
    let org = &office.org;
    link.declare(&topology::things(&org.names, &org.retry.delays)).await?;
    // Read from now on, so that little is left to read when the time comes.
    let _reading = crew.ledger.reading();
    let stands_by = || {
        office.works();
        org.gate.stand_by();
        crew.board.session(&org.name, Session::Standby);
    };
    let lease = office.claim.stand_by(link, stands_by).await?;
    let publisher = Arc::new(Publisher::of(Arc::clone(&link.pool)));
    let lost = || BrokerError::Retry("the lease was lost while the ledger was read".into());
    let gone = lease.gone().clone();
    gone.run_until_cancelled(settle_in(crew, office, &publisher)).await.ok_or_else(lost)??;
    Ok(Held { lease, publisher })
}

/// Reads the ledger to its end.
async fn settle_in(crew: &Crew<'_>, office: &Office, publisher: &Publisher) -> Result<(), BrokerError> {
    let org = &office.org;
    let began = Instant::now();
    let before = office.claim.fence(publisher).await?;
    match before {
        Before::Ourselves => org.gate.goes_on(),
        Before::Nobody => org.forget(),
        Before::Another => {
            let wait = after_another(org.config.request_timeout);
            let why = format!("taking over: for {} s the worker before may still be at work", wait.as_secs_f32());
            tracing::info!(org = org.name, delay_ms = millis(wait), "{why}");
            crew.board.session(&org.name, Session::Starting(why));
            sleep(FRESH).await;
            // Only now, with the last call of the worker before begun: our limiter and its own never count the same second.
            org.forget();
            sleep(wait - FRESH).await;
            office.claim.fence(publisher).await?;
        }
    }
    if before != Before::Ourselves {
        // What others have reset within the hour counts at the guard of each lane. (It knows of each that is our own, whether the
        // ledger has its outcome yet or not.)
        org.gate.were_reset(crew.ledger.reset_lately(&org.name).into_iter());
    }
    office.claim.settles();
    tracing::info!(org = org.name, took_ms = millis(began.elapsed()), "active now; history loaded");
    Ok(())
}
