//! The command line: one subcommand for each role.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use crate::commands;
use crate::config::{Config, ConfigError, EnvFile, Environment};
use crate::domain::escape::Escaped;
use crate::telemetry::logs::{self, Format};
use crate::telemetry::traces::{self, Exporting};

/// The worker behind a queue that resets passwords at Genesys Cloud, at scale and safely.
#[derive(Debug, Parser)]
#[command(
    name = "resetd",
    version = env!("RESETD_VERSION"),
    max_term_width = 100,
    after_help = "Data goes to standard output, the log and what went wrong to standard error. Exit codes: 0 done, 1 failed at run time, 2 usage or configuration.

Examples:
  resetd demo                                              # the whole lifecycle on this machine
  resetd --config resetd.toml check                        # is all well?
  resetd --config resetd.toml worker                       # reset passwords
  resetd --config resetd.toml mailer                       # notify the users
  resetd enqueue --batch november --wait agents.csv        # send jobs, and follow them
  resetd dead list                                         # what was given up, and why
  resetd help enqueue                                      # more of a subcommand"
)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    role: Role,
}

/// The flags of all subcommands, before or after its name. (clap's own global flags forget the ones before where there are some after.)
#[derive(Debug, clap::Args)]
struct Common {
    /// A TOML file over the defaults; repeatable, a later one wins.
    #[arg(long = "config", value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Variables from this file in place of a .env in the working folder; the process's own go before them.
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// How the log on stderr is written (default: text); RUST_LOG filters it, such as RUST_LOG=debug.
    #[arg(long, value_enum, value_name = "FORMAT")]
    log: Option<Format>,
}

#[derive(Debug, clap::Args)]
struct With<T: clap::Args> {
    #[command(flatten)]
    args: T,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Take reset jobs from RabbitMQ, set the passwords, and queue the notifications.
    #[command(
        after_help = "It runs until SIGTERM or SIGINT: jobs in flight are finished first, within shutdown.grace; a second signal ends it at once. It serves /healthz, /readyz, /metrics and the page at http.listen. Several may run for one org: one works, the others stand by.

Any key of the configuration may be an environment variable: orgs.main.rate_per_minute is RESETD__ORGS__MAIN__RATE_PER_MINUTE.

Examples:
  resetd --config config/genesys-cloud.toml --config /etc/resetd/resetd.toml worker
  RESETD__AMQP__URL=amqps://user:password@broker resetd --config resetd.toml --log json worker
  RUST_LOG=resetd=debug resetd --config resetd.toml worker"
    )]
    Worker(Common),
    /// Take the email queue and notify the users: by SMTP, or by a POST to a service of your own.
    #[command(
        after_help = "It runs until SIGTERM or SIGINT: a mail in flight is finished (three times mailer.timeout at most), and the others are returned; a second signal ends it at once. It serves /healthz, /readyz, /metrics and the page at http.listen. Several may run: one sends, the others stand by.

Of several notifications for one person the newest alone is sent; what cannot be sent is kept, without its password, in emails.dead (resetd dead --queue emails list). Set mailer.enabled = true for the worker too.

Examples:
  resetd --config /etc/resetd/resetd.toml mailer
  RESETD__MAILER__SMTP__HOST=smtp.example.com RESETD__MAILER__FROM=noreply@example.com resetd mailer
  EMAIL_SERVICE_URL=https://mail.example.com/send resetd --log json mailer
  resetd --config /etc/resetd/resetd.toml mailer --preview samples"
    )]
    Mailer(With<commands::mailer::Args>),
    /// Put jobs from a CSV or NDJSON file into the queue; all of it is checked before any of it is sent.
    Enqueue(With<commands::enqueue::Args>),
    /// Show how far a batch is: done, failed, rate, time left.
    Batch(With<commands::enqueue::batch::Args>),
    /// Look through the dead letters, replay or drop them.
    #[command(
        after_help = "A dead letter is a job that was given up, with the reason. It stays until it is replayed or dropped. With --queue emails it is a mail that was given up: its password is gone, and a replay makes a new one.

Examples:
  resetd dead list
  resetd dead --queue emails list
  resetd dead show 0f6e7c1a-5b7e-4e0b-9d0c-6f1f5d1c2a3b
  resetd dead replay --reason retries_exhausted --dry-run
  resetd dead drop --reason not_found --batch monday"
    )]
    Dead {
        #[command(subcommand)]
        verb: DeadVerb,
        /// Whose letters: jobs that were given up, or mails.
        #[arg(long, value_enum, value_name = "QUEUE", default_value_t, global = true)]
        queue: commands::dead::Queue,
        #[command(flatten)]
        common: Common,
    },
    /// Find out before the first job whether all is well: configuration, broker, org; it changes nothing.
    Check(With<commands::check::Args>),
    /// Print the JSON Schemas of the messages, in an AsyncAPI 3 document or one by one.
    #[command(after_help = "Examples:
  resetd schema > asyncapi.json
  resetd schema job > job.json")]
    Schema(With<commands::schema::Args>),
    /// Run a simulated Genesys Cloud org: OAuth token endpoint and SCIM Users, its own quota, scripted faults.
    Sim(With<commands::sim::Args>),
    /// Show the whole lifecycle on this machine: 60 resets against a simulated org that throttles and fails, and their mails.
    #[command(
        after_help = "It needs a RabbitMQ alone, at amqp.url (amqp://guest:guest@127.0.0.1:5672/%2f where nothing is said), and takes away there what it declared. No org is called but the simulated one, and no mail server used but its own.

Examples:
  resetd demo
  RESETD__AMQP__URL=amqp://user:password@broker resetd demo"
    )]
    Demo(Common),
    /// Make a key pair for sealed notifications: who has the private half alone reads passwords out of the email queue.
    Keygen(With<commands::keygen::Args>),
    /// Write the script that makes a shell complete this command line.
    Completions(With<commands::completions::Args>),
    /// Write the manual pages.
    Man(With<commands::man::Args>),
}

#[derive(Debug, Subcommand)]
enum DeadVerb {
    /// Show which letters there are: by reason, and the newest one by one.
    List(With<commands::dead::List>),
    /// Show one letter in full.
    Show(With<commands::dead::Show>),
    /// Make jobs of letters again: each leaves the queue once its fresh job is confirmed.
    #[command(
        after_help = "A replayed job keeps its id and what its producer asked for, and begins with its tries uncounted. The worker checks again whether it expired or a newer reset of its user succeeded, and paces it as any other. Run again after an interruption, nobody is reset twice.

With --queue emails it makes a new password for the person of each mail: a new job with an id of its own goes to the interactive lane, for the same user and address.

Examples:
  resetd dead replay 0f6e7c1a-5b7e-4e0b-9d0c-6f1f5d1c2a3b
  resetd dead replay --reason retries_exhausted --since 2h --dry-run
  resetd dead replay --org main --all --yes
  resetd dead --queue emails replay --reason undeliverable --dry-run"
    )]
    Replay(With<commands::dead::Act>),
    /// Take letters away for good; a record of each goes to the outcomes first.
    #[command(after_help = "Examples:
  resetd dead drop 0f6e7c1a-5b7e-4e0b-9d0c-6f1f5d1c2a3b
  resetd dead drop --reason not_found --batch monday --yes")]
    Drop(With<commands::dead::Act>),
}

impl DeadVerb {
    fn common(&self) -> &Common {
        match self {
            Self::List(with) => &with.common,
            Self::Show(with) => &with.common,
            Self::Replay(with) | Self::Drop(with) => &with.common,
        }
    }

    fn verb(self) -> commands::dead::Verb {
        match self {
            Self::List(with) => commands::dead::Verb::List(with.args),
            Self::Show(with) => commands::dead::Verb::Show(with.args),
            Self::Replay(with) => commands::dead::Verb::Replay(with.args),
            Self::Drop(with) => commands::dead::Verb::Drop(with.args),
        }
    }
}

impl Cli {
    fn of_role(&self) -> &Common {
        match &self.role {
            Role::Worker(common) | Role::Demo(common) => common,
            Role::Mailer(with) => &with.common,
            Role::Enqueue(with) => &with.common,
            Role::Batch(with) => &with.common,
            Role::Sim(with) => &with.common,
            Role::Dead { verb, .. } => verb.common(),
            Role::Check(with) => &with.common,
            Role::Schema(with) => &with.common,
            Role::Keygen(with) => &with.common,
            Role::Completions(with) => &with.common,
            Role::Man(with) => &with.common,
        }
    }

    /// The flags from the left to the right: before the subcommand's name, between two of them, and after.
    fn commons(&self) -> impl DoubleEndedIterator<Item = &Common> {
        let between = match &self.role {
            Role::Dead { common, .. } => Some(common),
            Role::Worker(_)
            | Role::Mailer(_)
            | Role::Enqueue(_)
            | Role::Batch(_)
            | Role::Sim(_)
            | Role::Demo(_)
            | Role::Check(_)
            | Role::Schema(_)
            | Role::Keygen(_)
            | Role::Completions(_)
            | Role::Man(_) => None,
        };
        [Some(&self.common), between, Some(self.of_role())].into_iter().flatten()
    }

    fn files(&self) -> Vec<PathBuf> {
        self.commons().flat_map(|common| &common.config).cloned().collect()
    }

    /// Whether it has to do with the configuration at all. What has not works whatever the working folder holds.
    fn is_configured(&self) -> bool {
        match self.role {
            Role::Worker(_)
            | Role::Mailer(_)
            | Role::Enqueue(_)
            | Role::Batch(_)
            | Role::Dead { .. }
            | Role::Demo(_)
            | Role::Check(_) => true,
            Role::Schema(_) | Role::Sim(_) | Role::Keygen(_) | Role::Completions(_) | Role::Man(_) => false,
        }
    }

    fn environment(&self) -> Result<Environment, ConfigError> {
        if !self.is_configured() {
            return Ok(Environment::default());
        }
        Environment::of_process(self.commons().rev().find_map(|common| common.env_file.as_deref()))
    }

    fn log(&self) -> Format {
        self.commons().rev().find_map(|common| common.log).unwrap_or(Format::Text)
    }
}

/// Runs what the command line asks for, with what was started for it; `shutdown` is cancelled by the first signal.
///
/// # Errors
/// Whatever the role fails with; [`exit_code`] tells what the process ends with.
pub async fn run(cli: Cli, started: Started, shutdown: CancellationToken) -> Result<()> {
    let Started { worker, environment, .. } = started;
    let files = cli.files();
    let load = |environment| Config::load(&files, environment).inspect(look_at_files);
    match cli.role {
        Role::Worker(_) => {
            let config = worker.map_or_else(|| Config::load(&files, environment), Ok)?;
            look_at_files(&config);
            // Before the socket: a configuration that does not do is not reported as a port that is taken.
            commands::worker::check(&config)?;
            let listener = listener(&config)?;
            in_a_task(commands::worker::run(config, listener, shutdown)).await
        }
        Role::Mailer(with) => {
            let config = load(environment)?;
            if let Some(folder) = &with.args.preview {
                return commands::mailer::preview(&config, folder);
            }
            config.mailer()?;
            let listener = listener(&config)?;
            in_a_task(commands::mailer::run(config, listener, shutdown)).await
        }
        Role::Enqueue(with) => commands::enqueue::run(with.args, &load(environment)?, shutdown).await,
        Role::Batch(with) => commands::enqueue::batch::run(with.args, &load(environment)?, shutdown).await,
        Role::Dead { verb, queue, .. } => commands::dead::run(verb.verb(), queue, &load(environment)?, shutdown).await,
        Role::Check(with) => commands::check::run(with.args, &files, environment, shutdown).await,
        Role::Schema(with) => commands::schema::run(&with.args),
        Role::Sim(with) => commands::sim::run(with.args, shutdown).await,
        Role::Demo(_) => commands::demo::run(&files, environment, shutdown).await,
        Role::Keygen(with) => commands::keygen::run(&with.args),
        Role::Completions(with) => commands::completions::run(&with.args, Cli::command()),
        Role::Man(with) => commands::man::run(&with.args, Cli::command()),
    }
}

/// Warns of files with secrets that others on this machine can read, and of files of the configuration that others may change.
fn look_at_files(config: &Config) {
    config.secret_files.iter().for_each(|(key, path)| logs::warn_if_secret_is_readable(key, path));
    for (path, why) in &config.changeable_files {
        tracing::warn!(path = %path.display(), "--config: {why}");
    }
}

/// For a role that lasts: what runs outside of a task is woken from another thread each time. The others stay outside, since they may
/// block their thread on a pipe, on which no signal and no connection should wait.
async fn in_a_task(role: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
    tokio::spawn(role).await.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

/// Connections that may wait to be accepted; the system may allow fewer. One that finds no room is tried again after a second by its
/// sender's system: too long for a health probe while others flood the port.
const BACKLOG: u32 = 4096;

/// Where health, metrics and the page are served.
fn listener(config: &Config) -> Result<TcpListener> {
    let listen = config.http.listen;
    let bound = || {
        let socket = if listen.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A port whose connections of a process before have not timed out yet can be bound.
        socket.set_reuseaddr(true)?;
        socket.bind(listen)?;
        socket.listen(BACKLOG)
    };
    bound().with_context(|| {
        format!(
            "http.listen {listen} cannot be bound; is another worker or mailer running? Set http.listen to another port"
        )
    })
}

/// Starts logging as the command line asks for it, and a worker's traces as its configuration does; within a runtime.
///
/// # Errors
/// Where `RUST_LOG` or the configuration cannot be read.
pub fn start_telemetry(cli: &Cli) -> Result<Started> {
    use std::io::IsTerminal;
    let filter = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    // A demo's own table is what there is to see.
    let usual = match cli.role {
        Role::Demo(_) | Role::Enqueue(_) | Role::Batch(_) | Role::Check(_) | Role::Schema(_) => "error",
        Role::Dead { .. } | Role::Keygen(_) | Role::Completions(_) | Role::Man(_) => "warn",
        Role::Worker(_) | Role::Mailer(_) | Role::Sim(_) => "info",
    };
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let environment = cli.environment()?;
    // What is wrong may stand there.
    let worker = worker(cli, &environment).inspect_err(|_| name(environment.file()))?;
    let collector = worker.as_ref().and_then(|config| config.telemetry.otlp_endpoint.as_ref());
    let (traces, exporting) = traces::start(collector)?.unzip();
    let logged = logs::start(cli.log(), Some(filter.as_deref().unwrap_or(usual)), colours, traces, module_path!())?;
    if let Some(file @ EnvFile { path, keys, .. }) = environment.file() {
        let (path, keys) = (path.display().to_string(), keys.join(", "));
        // It may send what is sent elsewhere: it is named whatever the log leaves out. `check` says it itself.
        if logged >= tracing::Level::INFO {
            tracing::info!(path, keys, "an env file adds to the environment");
        } else if logged >= tracing::Level::WARN {
            tracing::warn!(path, keys, "an env file adds to the environment");
        } else if !matches!(cli.role, Role::Check(_)) {
            name(Some(file));
        }
    }
    Ok(Started { worker, environment, exporting })
}

/// Says beside the log that a file adds to the environment.
fn name(file: Option<&EnvFile>) {
    if let Some(EnvFile { path, keys, .. }) = file {
        let (path, keys) = (Escaped(path.display()), keys.join(", "));
        let _ = writeln!(std::io::stderr(), "resetd: {path} adds to the environment: {}", Escaped(keys));
    }
}

/// What was started before anything is run.
pub struct Started {
    /// A worker's configuration: it is read once, since a file may be a pipe.
    pub worker: Option<Config>,
    /// The environment: it is read once too.
    pub environment: Environment,
    /// Its traces on their way, where they go anywhere.
    pub exporting: Option<Exporting>,
}

/// Only a worker has traces; what it lacks is said when it is run.
fn worker(cli: &Cli, environment: &Environment) -> Result<Option<Config>> {
    match cli.role {
        Role::Worker(_) => Ok(Some(Config::load(&cli.files(), environment.clone())?)),
        Role::Enqueue(_)
        | Role::Batch(_)
        | Role::Dead { .. }
        | Role::Check(_)
        | Role::Schema(_)
        | Role::Sim(_)
        | Role::Demo(_)
        | Role::Keygen(_)
        | Role::Mailer(_)
        | Role::Completions(_)
        | Role::Man(_) => Ok(None),
    }
}

/// 0 done, 1 failed at run time, 2 a usage or configuration error.
pub fn exit_code(result: &Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_usage(error) => ExitCode::from(2),
        Err(_) => ExitCode::FAILURE,
    }
}

fn is_usage(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.is::<ConfigError>() || cause.is::<logs::StartError>() || cause.is::<sim::SettingsError>())
}
