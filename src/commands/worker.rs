//! `resetd worker`: one consumer of jobs for each org, which works while it leads and stands by while another process does.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{serve_while, source, warn_of_proxy};
use crate::amqp::{
    depths::Depths,
    election::{self, Election, Queues},
    error::BrokerError,
    ledger::Ledger,
    names::Names,
};
use crate::board::Board;
use crate::config::{Config, ConfigError};
use crate::consumer::{Consumer, Supervisor};
use crate::domain::{form::PasswordForm, password::PasswordKind};
use crate::http::Snapshot;
use crate::reset::{OrgContext, Process};
use crate::scim::http_client;
use crate::telemetry::metrics;
use crate::transport::seal::Seal;

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
    let ledger = Ledger::telling(stream, worker.orgs.keys().map(String::as_str));
    let name = election::process_name();
    let process = Process {
        config: &config,
        form: worker.form,
        client: &client,
        board: &board,
        ledger: &ledger,
        seal,
        worker: name.clone(),
    };
    let consumers = consumers(worker.orgs, &process);
    let orgs = || consumers.iter().map(|consumer| &consumer.shared);
    let depths = Depths::new(orgs().map(|org| (org.name.clone(), org.names.clone())).collect());
    let snapshot = Snapshot {
        worker: name.clone(),
        board: board.watch(),
        ledger: ledger.clone(),
        depths: depths.clone(),
        orgs: consumers.iter().map(|org| (org.shared.name.clone(), source(&org.shared.names, org))).collect(),
        mails: None,
    };
    let who = if consumers.len() == 1 { "one org".to_owned() } else { format!("{} orgs", consumers.len()) };
    let supervisor = Supervisor {
        command: "worker",
        config: &config,
        board: &board,
        ledger: ledger.clone(),
        depths,
        consumers,
        shutdown,
    };
    let work = async {
        let worked = supervisor.run(who, FEWER).await;
        supervisor.consumers.iter().for_each(|consumer| consumer.shared.warn_of_unnotified());
        worked
    };
    serve_while((listener, recorder), snapshot, &config, work).await.map_err(BrokerError::ends)
}

/// One for each org.
fn consumers(orgs: BTreeMap<String, crate::config::org::Org>, process: &Process<'_>) -> Vec<Consumer<OrgContext>> {
    let consumers = orgs.into_iter().map(|(org_name, org)| {
        warn_if_readable(&org_name, &org);
        tracing::info!(org = org_name, rate_per_minute = org.rate_per_minute, burst = org.burst, url = %org.scim_url, "calls of the org are limited");
        let org = OrgContext::open(&org_name, org, process);
        let queues = Queues::of_org(&org.names);
        let election = Election::new(org_name.as_str(), queues, process.worker.clone(), process.ledger.clone());
        Consumer::new(Arc::new(org), election)
    });
    consumers.collect()
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
