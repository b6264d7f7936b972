//! `resetd demo`: the whole lifecycle on one machine, from the queue to a mail whose password logs in, against a simulated org that
//! throttles and fails, and with a mail server of its own. It needs a broker, works there under a prefix of its own, and removes what it made.

pub mod postbox;
mod report;
mod script;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use lapin::options::{
    BasicConsumeOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::amqp::names::Names;
use crate::amqp::publisher::{Message, Publisher};
use crate::amqp::topology::{self, Thing};
use crate::amqp::{channels, link};
use crate::commands::{mailer, worker};
use crate::config::proxy::Proxy;
use crate::config::{Config, Environment};
use crate::domain::delay_tier::Delays;
use crate::scim::http_client;
use crate::wire::outcome;
use crate::wire::properties::job_properties;
use postbox::Postbox;
use report::Report;

const CONFIG: &str = include_str!("../../../config/demo.toml");
const ORG: &str = "main";
/// As long as the whole demo may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs the demo to its table.
///
/// # Errors
/// Where there is no broker, or anybody cannot log in with the password of their newest mail.
pub async fn run(files: &[PathBuf], mut environment: Environment, shutdown: CancellationToken) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("no port for the simulated org")?;
    let base = format!("http://{}", listener.local_addr()?);
    environment.set("RESETD__ORGS__MAIN__TOKEN_URL", format!("{base}/oauth/token"));
    environment.set("RESETD__ORGS__MAIN__SCIM_URL", format!("{base}/api/v2/scim/v2"));
    let mail_server = TcpListener::bind("127.0.0.1:0").await.context("no port for the mail server")?;
    environment.set("RESETD__MAILER__SMTP__PORT", mail_server.local_addr()?.port().to_string());
    environment.set("EMAIL_SERVICE_URL", "");
    environment.set("RESETD__AMQP__PREFIX", format!("demo-{}.", &Uuid::new_v4().simple().to_string()[..8]));
    // Served on a port of its own on this machine, whatever is configured.
    environment.set("RESETD__HTTP__LISTEN", "127.0.0.1:0");
    let config = Config::compiled_in(CONFIG, files, environment)?;
    let rate = config.worker()?.orgs.get(ORG).map_or(1, |org| org.rate_per_minute.get());
    let org = sim::Org::new(script::settings(config.worker()?.form, rate)?)?;
    let stop = shutdown.child_token();
    let serving = tokio::spawn({
        let (org, stop) = (org.clone(), stop.clone());
        async move { org.serve(listener, stop).await }
    });
    let postbox = Postbox::new();
    let taking_mails = tokio::spawn({
        let (postbox, stop) = (postbox.clone(), stop.clone());
        async move { postbox.serve(mail_server, stop).await }
    });
    let connection = link::connect(&config.amqp, "resetd demo").await.context(
        "the demo needs a RabbitMQ broker; `make demo` starts one, or set RESETD__AMQP__URL to one of yours",
    )?;
    let connection = Arc::new(connection);
    let names = Names::new(&config.amqp.prefix, ORG);
    let healths = [
        TcpListener::bind("127.0.0.1:0").await.context("no port for the worker's health")?,
        TcpListener::bind("127.0.0.1:0").await.context("no port for the mailer's health")?,
    ];
    let readiness = [healths[0].local_addr()?, healths[1].local_addr()?];
    let [health, mailers_health] = healths;
    // A worker or a mailer that ends before its time, or that is told to, ends the demo.
    let ended = CancellationToken::new();
    let working = until(&ended, worker::run(config.clone(), health, stop.clone()));
    let mailing = until(&ended, mailer::run(config.clone(), mailers_health, stop.clone()));
    let watching = async {
        for health in readiness {
            until_ready(health).await?;
        }
        watch(&connection, &names, &org, &postbox, rate).await
    };
    let watching = ended.run_until_cancelled(shutdown.run_until_cancelled(watching));
    let reported = tokio::time::timeout(LIMIT, watching).await;
    stop.cancel();
    let (worked, mailed) = tokio::join!(working, mailing);
    let _ = tokio::join!(serving, taking_mails);
    let _ = tokio::time::timeout(Duration::from_secs(10), clean_up(&connection, &names)).await;
    worked.context("the worker")??;
    mailed.context("the mailer")??;
    let reported = reported.context("the demo did not end within 2 minutes")?;
    let report = reported.flatten().context("the demo was interrupted")??;
    report.print()?;
    report.verdict()
}

/// Runs a role in a task of its own, whose end is everybody's.
fn until(
    ended: &CancellationToken,
    role: impl Future<Output = Result<()>> + Send + 'static,
) -> tokio::task::JoinHandle<Result<()>> {
    let guard = ended.clone().drop_guard();
    tokio::spawn(async move {
        let _guard = guard;
        role.await
    })
}

/// Enqueues the jobs and follows them to their ends.
async fn watch(
    connection: &Arc<Connection>,
    names: &Names,
    org: &sim::Org,
    postbox: &Postbox,
    rate: u32,
) -> Result<Report> {
    let channel = channels::open(connection).await?;
    let mut outcomes = outcomes(&channel, names).await?;
    let publisher = Publisher::open(Arc::clone(connection)).await?;
    let jobs = script::jobs();
    let started = Instant::now();
    for (lane, body) in &jobs {
        let properties = job_properties(&Uuid::new_v4().to_string(), jiff::Timestamp::now());
        let (exchange, key) = (names.resets(), names.lane_key(*lane));
        publisher
            .publish(&Message { exchange: &exchange, key: &key, body: body.to_string().as_bytes(), properties })
            .await?;
    }
    let mut progress = Progress::new(jobs.len());
    let mut report = Report::new(jobs.len(), script::GOOD, rate);
    let mut halfway = script::halfway()?.to_vec();
    while !report.is_complete() {
        if report.ended() >= jobs.len() / 2 {
            halfway.drain(..).for_each(|fault| org.add_fault(fault));
        }
        tokio::select! {
            Some(Ok(delivery)) = outcomes.next() => {
                // What became of the mails is told there too.
                if delivery.properties.kind().as_ref().is_some_and(|kind| kind.as_str() == outcome::TYPE) {
                    report.outcome(&parse(&delivery.data)?);
                }
            }
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
        let letters = postbox.letters();
        letters.iter().skip(report.mailed()).for_each(|letter| report.mail(letter));
        progress.show(&report, &org.stats());
    }
    progress.end();
    report.close(started.elapsed(), org);
    Ok(report)
}

/// Waits until the worker consumes: then everything that the jobs go through is declared.
async fn until_ready(health: SocketAddr) -> Result<()> {
    let http = http_client(&Proxy::default())?;
    while !http.get(format!("http://{health}/readyz")).send().await.is_ok_and(|answer| answer.status().is_success()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn outcomes(channel: &Channel, names: &Names) -> Result<Consumer> {
    let own = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("".into(), own, FieldTable::default()).await?.name().clone();
    let bound = channel.queue_bind(
        queue.clone(),
        names.outcomes().into(),
        "#".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await?;
    consume(channel, queue.as_str()).await
}

async fn consume(channel: &Channel, queue: &str) -> Result<Consumer> {
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    Ok(channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?)
}

fn parse(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).context("a message of the worker's is not JSON")
}

/// Removes what the worker declared under the demo's prefix.
async fn clean_up(connection: &Connection, names: &Names) {
    let delays = Delays::default();
    for thing in topology::things(names, &delays).into_iter().chain(topology::mailers_things(names, &delays)) {
        let Ok(channel) = channels::open(connection).await else { continue };
        match thing {
            Thing::Queue { name, .. } => {
                let _ = channel.queue_delete(name.into(), QueueDeleteOptions::default()).await;
            }
            Thing::Exchange { name, .. } => {
                let _ = channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await;
            }
            // It goes with its queue.
            Thing::Binding { .. } => {}
        }
    }
    let _ = connection.close(200, "done".into()).await;
}

/// A bar on a terminal, else a line a second.
struct Progress {
    bar: ProgressBar,
    on_terminal: bool,
    last_line: Instant,
}

impl Progress {
    fn new(jobs: usize) -> Self {
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} jobs  {msg}");
        let bar = ProgressBar::new(jobs as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, on_terminal: std::io::stderr().is_terminal(), last_line: Instant::now() }
    }

    fn show(&mut self, report: &Report, stats: &sim::Stats) {
        let line = format!(
            "{} mails, {} dead letters, {} calls of which {} throttled",
            report.mailed(),
            report.dead(),
            stats.calls,
            script::throttled(stats)
        );
        self.bar.set_position(report.ended() as u64);
        self.bar.set_message(line.clone());
        if !self.on_terminal && self.last_line.elapsed() >= Duration::from_secs(1) {
            self.last_line = Instant::now();
            let _ = writeln!(std::io::stderr(), "{} of {} jobs: {line}", report.ended(), report.jobs());
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}
