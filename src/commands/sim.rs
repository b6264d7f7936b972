//! `resetd sim`: a simulated Genesys Cloud org on a port of this machine.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use sim::{ExtensionForm, Fault, Org, PasswordForm, Settings};

/// The flags of `resetd sim`. Each of them wins over the settings file.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It takes no configuration: a worker is pointed at it by orgs.NAME.token_url and scim_url; it logs how. What it does is set in a TOML file (--settings) or by flags, which win.

Examples:
  resetd sim
  resetd sim --listen 127.0.0.1:8081 --password plaintext --quota 300 --latency 250ms
  resetd sim --fault status=429,retry_after=2,next=3 --fault status=500,next=1"
)]
pub struct Args {
    /// Listen on this address and port.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS", value_parser = address)]
    pub listen: SocketAddr,
    /// Know the OAuth client by this id (demo where nothing else is said).
    #[arg(long, value_name = "TEXT")]
    pub client_id: Option<String>,
    /// Take this as the client's secret (demo-secret where nothing else is said).
    #[arg(long, value_name = "TEXT")]
    pub client_secret: Option<sim::Secret>,
    /// Take passwords in this form, sha256 or plaintext.
    #[arg(long, value_name = "FORM")]
    pub password: Option<PasswordForm>,
    /// Take extension attributes in this form, envelope or urn.
    #[arg(long, value_name = "FORM")]
    pub extensions: Option<ExtensionForm>,
    /// Refuse a new password of a user for this long after one was set, such as 24h.
    #[arg(long, value_name = "DURATION", value_parser = sim::parse_duration)]
    pub min_age: Option<Duration>,
    /// Refuse so many of a user's last passwords.
    #[arg(long, value_name = "PASSWORDS")]
    pub history: Option<usize>,
    /// Admit this many SCIM calls in each window, where 0 is without limit.
    #[arg(long, value_name = "CALLS")]
    pub quota: Option<u32>,
    /// Count the quota in windows of this length, such as 60s.
    #[arg(long, value_name = "DURATION", value_parser = sim::parse_duration)]
    pub window: Option<Duration>,
    /// Hold every answer back for this long, such as 250ms.
    #[arg(long, value_name = "DURATION", value_parser = sim::parse_duration)]
    pub latency: Option<Duration>,
    /// Have only the users whose ids are in this file, one on each line.
    #[arg(long, value_name = "FILE")]
    pub users: Option<PathBuf>,
    /// Read the settings of the org from this TOML file.
    #[arg(long, value_name = "FILE")]
    pub settings: Option<PathBuf>,
    /// Add the faults in this file, a JSON array.
    #[arg(long, value_name = "FILE")]
    pub faults: Option<PathBuf>,
    /// Add a fault such as status=429,retry_after=2,next=3 (may be repeated).
    #[arg(long = "fault", value_name = "FAULT")]
    pub fault: Vec<Fault>,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "it must be an address and a port, such as 127.0.0.1:8080".to_owned())
}

/// Serves a simulated org until `shutdown`.
///
/// # Errors
/// Where a file cannot be read, the settings contradict themselves, or the address is taken.
pub async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listen = args.listen;
    let org = Org::new(settings(args)?).context("the settings of the sim")?;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let address = listener.local_addr().context("the sim's own address")?;
    tracing::info!(%address, "the simulated org listens");
    tracing::info!(
        "point a worker at it: RESETD__ORGS__MAIN__TOKEN_URL=http://{address}/oauth/token \
         RESETD__ORGS__MAIN__SCIM_URL=http://{address}/api/v2/scim/v2"
    );
    org.serve(listener, shutdown).await.context("the sim stopped serving")
}

/// The settings file with the flags over it; faults are added to those of the file.
fn settings(args: Args) -> anyhow::Result<Settings> {
    let mut settings = args.settings.as_deref().map(read_settings).transpose()?.unwrap_or_default();
    if let Some(client_id) = args.client_id {
        settings.client_id = client_id;
    }
    if let Some(client_secret) = args.client_secret {
        settings.client_secret = client_secret;
    }
    settings.password = args.password.unwrap_or(settings.password);
    settings.extensions = args.extensions.unwrap_or(settings.extensions);
    settings.min_age = args.min_age.unwrap_or(settings.min_age);
    settings.history = args.history.unwrap_or(settings.history);
    settings.quota = args.quota.unwrap_or(settings.quota);
    settings.window = args.window.unwrap_or(settings.window);
    settings.latency = args.latency.unwrap_or(settings.latency);
    if let Some(file) = &args.users {
        settings.users = Some(read_users(file)?);
    }
    if let Some(file) = &args.faults {
        settings.faults.extend(read_faults(file)?);
    }
    settings.faults.extend(args.fault);
    Ok(settings)
}

fn read_settings(file: &Path) -> anyhow::Result<Settings> {
    let source = config::File::from(file).format(config::FileFormat::Toml);
    let read = config::Config::builder().add_source(source).build();
    let settings = read.and_then(config::Config::try_deserialize);
    settings.with_context(|| format!("cannot read the settings of the sim in {}", file.display()))
}

fn read_users(file: &Path) -> anyhow::Result<Vec<String>> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read the users of the sim in {}", file.display()))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

fn read_faults(file: &Path) -> anyhow::Result<Vec<Fault>> {
    let wrong = || format!("cannot read the faults of the sim in {}", file.display());
    let text = fs::read_to_string(file).with_context(wrong)?;
    serde_json::from_str(&text).with_context(wrong)
}
