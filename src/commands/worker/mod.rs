//! `resetd worker`: for each org it stands by until the lease is its own, and then works in sessions, for as long as the process lives.

mod session;
mod state;
mod takeover;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use futures_util::future::join_all;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::linked::{Failures, keep_linked, standing};
use super::warn_of_proxy;
use crate::amqp::{
    channels::{LEASE, Needs, READING},
    claim::{self, Claim, FORMER_LEADER_DELAY},
    depths::Depths,
    error::BrokerError,
    ledger::Ledger,
    link::Link,
    names::Names,
};
use crate::board::Board;
use crate::config::{Config, ConfigError};
use crate::domain::{form::PasswordForm, job::Lane, password::PasswordKind};
use crate::http::{self, Snapshot, Source};
use crate::reset::org::Org;
use crate::scim::http_client;
use crate::telemetry::metrics;
use crate::transport::seal::Seal;
use session::End;

/// What helps where the broker allows too few channels, beside more of them.
const FEWER: &str = ", or divide the orgs among workers with configurations of their own";

/// What a worker needs of the configuration and of the files that it names.
///
/// # Errors
/// Where any of it does not do.
pub fn check(config: &Config) -> Result<(), ConfigError> {
    config.worker()?;
    Seal::load(&config.notification.seal_to).map(drop)
}

/// Works until `shutdown`, then drains.
///
/// # Errors
/// Where the configuration does not do, or at the start the broker refuses what only somebody can fix.
pub async fn run(config: Config, listener: TcpListener, shutdown: CancellationToken) -> Result<()> {
    let worker = config.worker()?;
    let seal = Seal::load(&config.notification.seal_to)?.map(Arc::new);
    if let Some(seal) = &seal {
        tracing::info!(kid = seal.kid(), "notifications are sealed");
    }
    if worker.form.password == PasswordForm::Plaintext && config.password == PasswordKind::Hex {
        tracing::warn!(
            "wire.password is plaintext and password.kind is hex: Genesys Cloud's default policy rejects such a password; set password.kind = \"policy\""
        );
    }
    let recorder = metrics::install().context("metrics")?;
    warn_of_proxy(&config.http.proxy);
    let client = http_client(&config.http.proxy)?;
    let board = Board::new(worker.orgs.keys().map(String::as_str));
    // All orgs share the stream.
    let stream = Names::new(&config.amqp.prefix, "").ledger();
    let ledger = Ledger::telling(stream.clone(), worker.orgs.keys().map(String::as_str));
    let name = claim::process_name();
    let offices = worker.orgs.into_iter().map(|(org_name, org)| {
        warn_if_readable(&org_name, &org);
        tracing::info!(org = org_name, rate_per_minute = org.rate_per_minute, burst = org.burst, url = %org.scim_url, "calls of the org are limited");
        let org = Org::open(&org_name, &config, org, worker.form, &client, &board, &ledger);
        let org = Arc::new(org.sealing(seal.clone()));
        let claim = Claim::new(&org_name, org.names.lease(), stream.clone(), name.clone(), ledger.clone());
        Office { org, worked: AtomicBool::new(false), claim }
    });
    let orgs: Vec<Office> = offices.collect();
    let names = orgs.iter().map(|office| (office.org.name.clone(), office.org.names.clone())).collect();
    let depths = Depths::new(names);
    let snapshot = Snapshot {
        worker: name.clone(),
        board: board.watch(),
        ledger: ledger.clone(),
        depths: depths.clone(),
        orgs: orgs.iter().map(|office| (office.org.name.clone(), source(&office.org))).collect::<BTreeMap<_, _>>(),
        mails: None,
    };
    let (health, served) = (CancellationToken::new(), config.http.clone());
    let ended = health.clone();
    let serving = tokio::spawn(async move { http::serve(listener, snapshot, &served, recorder, ended).await });
    let crew = Crew { config: &config, board: &board, ledger, depths, orgs, shutdown };
    let worked = crew.work().await;
    crew.orgs.iter().for_each(|office| office.org.warn_of_untold());
    health.cancel();
    let _ = serving.await;
    metrics::broker_connected(false);
    worked.map_err(BrokerError::ends)
}

/// What the page shows of an org.
fn source(org: &Arc<Org>) -> Source {
    let gate = Arc::clone(org);
    Source {
        names: org.names.clone(),
        meter: Box::new(move || gate.gate.meter()),
        jobs_in_flight: org.jobs_in_flight.clone(),
    }
}

/// A password over plain HTTP can be read on its way.
fn warn_if_readable(name: &str, org: &crate::config::org::Org) {
    for url in [&org.scim_url, &org.token_url] {
        if url.scheme() == "http" && !["127.0.0.1", "localhost", "[::1]"].contains(&url.host_str().unwrap_or_default())
        {
            tracing::warn!(org = name, %url, "this URL is not https: passwords and secrets can be read on their way");
        }
    }
}

/// One org, and what this process has been for it.
struct Office {
    org: Arc<Org>,
    /// Whether it ever worked, or stood by to: what must be resolved ends the process only before that.
    worked: AtomicBool,
    claim: Claim,
}

impl Office {
    fn works(&self) {
        self.worked.store(true, Ordering::Relaxed);
    }

    fn has_worked(&self) -> bool {
        self.worked.load(Ordering::Relaxed)
    }
}

struct Crew<'a> {
    config: &'a Config,
    board: &'a Board,
    ledger: Ledger,
    depths: Depths,
    orgs: Vec<Office>,
    shutdown: CancellationToken,
}

impl Crew<'_> {
    /// Connects, works until a connection is lost, and connects again.
    async fn work(&self) -> Result<(), BrokerError> {
        let orgs = self.orgs.len();
        let who = if orgs == 1 { "one org".to_owned() } else { format!("{orgs} orgs") };
        let needs = Needs { channels: READING + orgs * (LEASE + Lane::ALL.len()), publishers: orgs, who, or: FEWER };
        let work = |link: Arc<Link>, is_first| async move { self.work_with(&link, is_first).await };
        let out_of_work = |trouble: &BrokerError| {
            self.orgs.iter().for_each(|office| self.out_of_work(office, trouble));
            self.orgs.iter().any(Office::has_worked)
        };
        keep_linked(self.config, "worker", &needs, &self.shutdown, work, out_of_work).await
    }

    /// All orgs at once; one that cannot go on is not another's trouble, except at the start.
    async fn work_with(&self, link: &Arc<Link>, is_first: bool) -> Result<(), BrokerError> {
        let offices = join_all(self.orgs.iter().map(|office| self.keep_working(office, link, is_first)));
        let reading = async {
            tokio::join!(self.ledger.follow(&link.consuming), self.depths.follow(&link.consuming));
            std::future::pending().await
        };
        tokio::select! {
            ends = offices => ends.into_iter().collect(),
            never = reading => never,
        }
    }

    /// One org's sessions, one after the other, until the link is lost or the process ends.
    async fn keep_working(&self, office: &Office, link: &Arc<Link>, is_first: bool) -> Result<(), BrokerError> {
        if !is_first && !office.claim.was_ours() {
            // Where all lost the broker, the worker before goes first: it remembers how far its jobs have come.
            tokio::select! {
                () = tokio::time::sleep(FORMER_LEADER_DELAY) => {}
                () = self.shutdown.cancelled() => return Ok(()),
            }
        }
        let mut failures = Failures::default();
        loop {
            let begun = tokio::time::Instant::now();
            let trouble = match self.session(office, link).await {
                End::Drained => return Ok(()),
                End::BrokerError(trouble) => trouble,
            };
            self.out_of_work(office, &trouble);
            if trouble.stays() && !office.has_worked() {
                self.shutdown.cancel();
                return Err(trouble);
            }
            if link.lost().is_cancelled() {
                return Ok(());
            }
            failures.note(&trouble, begun.elapsed());
            tokio::select! {
                () = failures.wait(self.config.again, &self.shutdown) => {}
                () = link.lost().cancelled() => return Ok(()),
            }
        }
    }

    /// Stands by, takes over, works, and gives the lease up where everything is done.
    async fn session(&self, office: &Office, link: &Arc<Link>) -> End {
        let held = match self.shutdown.run_until_cancelled(takeover::take_over(self, office, link)).await {
            Some(Ok(held)) => held,
            Some(Err(trouble)) => return End::BrokerError(trouble),
            None => return End::Drained,
        };
        let (end, clean) = session::run(self, office, link, &held).await;
        match end {
            End::Drained if clean => office.claim.release(held.lease, link, &held.publisher).await,
            End::Drained | End::BrokerError(_) => {}
        }
        end
    }

    /// Says why, once for as long as it stays the same.
    fn out_of_work(&self, office: &Office, trouble: &BrokerError) {
        let name = &office.org.name;
        if !self.board.session(name, standing(trouble)) {
            return;
        }
        match trouble {
            BrokerError::Retry(why) | BrokerError::Missing(why) => {
                tracing::warn!(org = name, reason = why, "not consuming; retrying");
            }
            BrokerError::NeedsOperator(why) | BrokerError::Misfit(why) => {
                tracing::error!(org = name, reason = why, "not consuming until this is resolved; nothing is lost");
            }
        }
    }
}
