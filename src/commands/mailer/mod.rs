//! `resetd mailer`: it stands by until `emails.lease` is its own, and then takes the email queue and sends, for as long as the process
//! lives. A connection or the lease that is lost ends its session; the waiting for mails in flight, and the next one begins.

mod debts;
mod desk;
mod in_flight;
mod office;
mod session;
mod trip;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::linked::{Failures, keep_linked, standing};
use super::stdout;
use crate::amqp::channels::{LEASE, Needs, READING};
use crate::amqp::claim::{self, FORMER_LEADER_DELAY, after_another};
use crate::amqp::error::BrokerError;
use crate::amqp::lease::{FRESH, Lease};
use crate::amqp::link::Link;
use crate::amqp::publisher::Publisher;
use crate::amqp::topology;
use crate::board::{Board, Session};
use crate::config::{Config, mailer::Via};
use crate::domain::ledger::Before;
use crate::http::{self, Snapshot};
use crate::telemetry::logs::millis;
use crate::telemetry::metrics;
use crate::transport::{self, Templates};
use office::{NAME, Office};
use session::End;

/// The flags of `resetd mailer`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write a sample of every mail into this folder, to be looked at, and end; no mail is sent and no broker needed.
    #[arg(long, value_name = "FOLDER")]
    pub preview: Option<PathBuf>,
}

/// Writes the samples, and says where they are.
///
/// # Errors
/// Where the configuration or a template does not do, or a file cannot be written.
pub fn preview(config: &Config, folder: &Path) -> Result<()> {
    let mailer = config.delivery()?;
    let templates = Templates::load(&mailer.settings)?;
    let from = match &mailer.via {
        Via::Smtp(smtp) => smtp.from.clone(),
        // The service writes its own.
        Via::Http(_) => "noreply@example.com".parse().context("a sender for the sample")?,
    };
    let own = &config.notification.template;
    for path in transport::preview::preview(&templates, &mailer.settings.language, own, &from, folder)? {
        stdout::say(&path.display().to_string())?;
    }
    Ok(())
}

/// Sends mails until `shutdown`, then drains.
///
/// # Errors
/// Where the configuration does not do, or at the start the broker refuses what only somebody can fix.
pub async fn run(config: Config, listener: TcpListener, shutdown: CancellationToken) -> Result<()> {
    if !config.mailer.enabled {
        tracing::warn!(
            "mailer.enabled is false: a worker configured so lets a message expire at the broker as soon as it is too old, and nobody says so; set it true, here and for the workers"
        );
    }
    if matches!(config.mailer()?.via, Via::Http(_)) {
        super::warn_of_proxy(&config.http.proxy);
    }
    tracing::info!(rate_per_minute = config.mailer.rate_per_minute, "mails are limited");
    let board = Board::new([NAME].into_iter());
    let name = claim::process_name();
    let office = Arc::new(Office::open(&config, &board, name.clone())?);
    let recorder = metrics::install().context("metrics")?;
    let snapshot =
        Snapshot::of_mailer(name, board.watch(), office.ledger.clone(), office.depths.clone(), office.source());
    let (health, served) = (CancellationToken::new(), config.http.clone());
    let ended = health.clone();
    let serving = tokio::spawn(async move { http::serve(listener, snapshot, &served, recorder, ended).await });
    let post = Post { config: &config, board: &board, office, shutdown };
    let worked = post.work().await;
    post.office.courier.close().await;
    health.cancel();
    let _ = serving.await;
    metrics::broker_connected(false);
    worked.map_err(BrokerError::ends)
}

/// The one post that this process holds or waits for.
struct Post<'a> {
    config: &'a Config,
    board: &'a Board,
    office: Arc<Office>,
    shutdown: CancellationToken,
}

/// The mails are ours.
struct Held {
    lease: Lease,
    publisher: Arc<Publisher>,
}

impl Post<'_> {
    /// Connects, works until a connection is lost, and connects again.
    async fn work(&self) -> Result<(), BrokerError> {
        let needs = Needs { channels: READING + LEASE + 1, publishers: 1, who: "the mailer's queues".into(), or: "" };
        let work = |link: Arc<Link>, is_first| async move { self.work_with(&link, is_first).await };
        let out_of_work = |trouble: &BrokerError| {
            self.out_of_work(trouble);
            self.office.has_worked()
        };
        keep_linked(self.config, "mailer", &needs, &self.shutdown, work, out_of_work).await
    }

    async fn work_with(&self, link: &Arc<Link>, is_first: bool) -> Result<(), BrokerError> {
        // Also while it is at work: whose password was set last is told by the workers' outcomes.
        let _reading = self.office.ledger.reading();
        let reading = async {
            link.streams_are_there().await;
            tokio::join!(self.office.ledger.follow(&link.consuming), self.office.depths.follow(&link.consuming));
            std::future::pending().await
        };
        tokio::select! {
            ended = self.keep_working(link, is_first) => ended,
            never = reading => never,
        }
    }

    /// Sessions, one after the other, until the link is lost or the process ends.
    async fn keep_working(&self, link: &Arc<Link>, is_first: bool) -> Result<(), BrokerError> {
        if !is_first && !self.office.claim.was_ours() {
            // Where all lost the broker, the mailer before goes first: it remembers which mails it has sent.
            tokio::select! {
                () = sleep(FORMER_LEADER_DELAY) => {}
                () = self.shutdown.cancelled() => return Ok(()),
            }
        }
        let mut failures = Failures::default();
        loop {
            let begun = Instant::now();
            let trouble = match self.session(link).await {
                End::Drained => return Ok(()),
                End::BrokerError(trouble) => trouble,
            };
            self.out_of_work(&trouble);
            if trouble.stays() && !self.office.has_worked() {
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
    async fn session(&self, link: &Arc<Link>) -> End {
        let held = match self.shutdown.run_until_cancelled(self.take_over(link)).await {
            Some(Ok(held)) => held,
            Some(Err(trouble)) => return End::BrokerError(trouble),
            None => return End::Drained,
        };
        let (end, clean) = session::run(self, link, &held).await;
        match end {
            End::Drained if clean => self.office.claim.release(held.lease, link, &held.publisher).await,
            End::Drained | End::BrokerError(_) => {}
        }
        end
    }

    /// Stands by until the lease is ours and nobody else can still be sending.
    async fn take_over(&self, link: &Link) -> Result<Held, BrokerError> {
        let office = &self.office;
        link.declare(&topology::mailers_things(&office.names, &office.retry.delays)).await?;
        let stands_by = || {
            office.works();
            office.gate.stand_by();
            self.board.session(NAME, Session::Standby);
        };
        let lease = office.claim.stand_by(link, stands_by).await?;
        let publisher = Arc::new(Publisher::of(Arc::clone(&link.pool)));
        let lost = || BrokerError::Retry("the lease was lost while the ledger was read".into());
        let gone = lease.gone().clone();
        gone.run_until_cancelled(self.settle_in(&publisher)).await.ok_or_else(lost)??;
        Ok(Held { lease, publisher })
    }

    /// Reads the ledger to its end. A mailer that held the lease last and did not release it may have mails in flight: those that it
    /// sent are known by its records, once it can write no more.
    async fn settle_in(&self, publisher: &Publisher) -> Result<(), BrokerError> {
        let (office, began) = (&self.office, Instant::now());
        match office.claim.fence(publisher).await? {
            Before::Ourselves => office.gate.goes_on(),
            Before::Nobody => office.gate.start_empty(),
            Before::Another => {
                let wait = after_another(office.longest);
                let why = format!("taking over: for {} s the mailer before may still be sending", wait.as_secs_f32());
                tracing::info!(delay_ms = millis(wait), "{why}");
                self.board.session(NAME, Session::Starting(why));
                sleep(FRESH).await;
                office.gate.start_empty();
                sleep(wait - FRESH).await;
                office.claim.fence(publisher).await?;
            }
        }
        office.claim.settles();
        tracing::info!(took_ms = millis(began.elapsed()), "active now; history loaded");
        Ok(())
    }

    /// Says why, once for as long as it stays the same.
    fn out_of_work(&self, trouble: &BrokerError) {
        if !self.board.session(NAME, standing(trouble)) {
            return;
        }
        match trouble {
            BrokerError::Retry(why) | BrokerError::Missing(why) => {
                tracing::warn!(reason = why, "not consuming; retrying")
            }
            BrokerError::NeedsOperator(why) | BrokerError::Misfit(why) => {
                tracing::error!(reason = why, "not consuming until this is resolved; nothing is lost");
            }
        }
    }
}
