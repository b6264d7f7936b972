//! `resetd mailer`: the consumer of the email queue. It sends while it leads, and stands by while another process does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{serve_while, source, stdout};
use crate::amqp::election::{self, Election, Queues};
use crate::amqp::error::BrokerError;
use crate::board::Board;
use crate::config::Config;
use crate::consumer::{Consumer, Supervisor};
use crate::domain::subject::Subject;
use crate::http::Snapshot;
use crate::mail::MailerContext;
use crate::telemetry::metrics;
use crate::transport::{self, Templates};

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
    let from = match mailer.via.sender() {
        Some(from) => from.clone(),
        None => "noreply@example.com".parse().context("a sender for the sample")?,
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
    if let Some(proxy) = config.mailer()?.via.proxy() {
        super::warn_of_proxy(proxy);
    }
    tracing::info!(rate_per_minute = config.mailer.rate_per_minute, "mails are limited");
    let board = Board::of_mailer();
    let name = election::process_name();
    let context = Arc::new(MailerContext::open(&config, &board)?);
    let (ledger, depths) = (context.ledger.clone(), context.depths.clone());
    let election = Election::new(Subject::Mailer, Queues::of_mails(&context.names), name.clone(), ledger.clone());
    let consumer = Consumer::new(Arc::clone(&context), election);
    let recorder = metrics::install().context("metrics")?;
    let snapshot = Snapshot {
        worker: name,
        board: board.watch(),
        ledger: ledger.clone(),
        depths: depths.clone(),
        orgs: BTreeMap::new(),
        mails: Some(source(&context.names, &consumer)),
    };
    let consumers = vec![consumer];
    let supervisor =
        Supervisor { command: "mailer", config: &config, board: &board, ledger, depths, consumers, shutdown };
    let work = async {
        let worked = supervisor.run("the mailer's queues".into(), "").await;
        context.courier.close().await;
        worked
    };
    serve_while((listener, recorder), snapshot, &config, work).await.map_err(BrokerError::ends)
}
