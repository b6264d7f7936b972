//! `resetd check`: everything that can be known before the first job, without changing anything. It declares nothing that is not
//! there, leads nothing, and makes one call to each org, which reads nobody.

mod addresses;
mod broker;
mod cluster;
mod finding;
mod org;
mod settings;

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Result, bail};
use tokio_util::sync::CancellationToken;

use super::stdout;
use crate::config::{Config, ConfigError, Environment};
use crate::transport::seal::Seal;
use finding::{Finding, Level};

/// The flags of `resetd check`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each line is ok, warn or FAIL, and says below what to do. What cannot be seen from outside is not judged: bindings, policies of the broker, and the right to set a password (directory:user:setPassword), which only a reset shows. Its one call counts in the org's quota.
It ends with 0, with 1 where a line is FAIL, with 2 where the configuration is the reason.

Examples:
  resetd --config config/genesys-cloud.toml --config /etc/resetd/resetd.toml check
  resetd --config resetd.toml check --json | jq '.findings[] | select(.result != \"ok\")'"
)]
pub struct Args {
    /// One JSON object in place of the lines.
    #[arg(long)]
    json: bool,
}

/// Looks at everything and says how it stands.
///
/// # Errors
/// Where anything fails: a [`ConfigError`] where the configuration does.
pub async fn run(args: Args, files: &[PathBuf], environment: Environment, shutdown: CancellationToken) -> Result<()> {
    let mut problems = Config::problems(files, &environment);
    let env_file = environment.file().map(settings::env_file);
    let config = Config::load(files, environment);
    problems.extend(config.as_ref().ok().and_then(|config| Seal::load(&config.notification.seal_to).err()));
    let looking = async {
        match config {
            Ok(config) => everything(&config, &problems).await,
            Err(_) => settings::problems(&problems),
        }
    };
    let findings = tokio::select! {
        findings = looking => env_file.into_iter().chain(findings).collect::<Vec<_>>(),
        () = shutdown.cancelled() => bail!("interrupted; nothing was changed"),
    };
    print(&findings, args.json)?;
    let failed = findings.iter().filter(|finding| finding.level == Level::Fail).count();
    if !problems.is_empty() {
        bail!(ConfigError::new(format!("{} of its values must be fixed; each is named above", problems.len())));
    }
    if failed > 0 {
        bail!("{failed} of {} things checked failed; what to do is said below each", findings.len());
    }
    Ok(())
}

/// Broker and orgs at the same time: one that is down holds nothing up.
async fn everything(config: &Config, problems: &[ConfigError]) -> Vec<Finding> {
    let mut findings = settings::findings(config, problems);
    let (broker, orgs) = tokio::join!(broker::findings(config), org::findings(config));
    findings.extend(broker);
    findings.extend(orgs);
    findings
}

fn print(findings: &[Finding], json: bool) -> Result<()> {
    let text = if json {
        finding::json(findings)
    } else {
        let colours =
            std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        finding::text(findings, colours)
    };
    stdout::say(&text)
}
