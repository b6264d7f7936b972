//! `resetd batch NAME`: how far a batch is, read from the stream of outcomes; whoever asks need not be who sent it.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::follow::{Batch, Seen, Since, follow};
use super::view::{self, Bar};
use super::{is_over, stdout, verdict};
use crate::config::Config;
use crate::domain::escape::Escaped;

/// How often a line of JSON is written while it goes on.
const JSON_EVERY: Duration = Duration::from_secs(1);

/// The flags of `resetd batch`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It follows the batch to its end; Ctrl-C ends the view, and the jobs go on. Exit code 1 where the batch is not known, or it has ended and jobs, or mails, were given up.

Examples:
  resetd batch agents-november
  resetd batch agents-november --once --json | jq .secondsLeft"
)]
pub struct Args {
    /// The name it was sent under (enqueue --batch NAME).
    #[arg(value_name = "NAME")]
    name: String,
    /// The org it was sent to; may be left out where the configuration has one.
    #[arg(long, value_name = "NAME")]
    org: Option<String>,
    /// Say how far it is now, and end.
    #[arg(long)]
    once: bool,
    /// One JSON object on stdout; one a second while it goes on, without --once.
    #[arg(long)]
    json: bool,
}

/// Shows how far it is, until it has ended.
///
/// # Errors
/// Where nobody knows the batch, jobs of it were given up, or the broker cannot be reached.
pub async fn run(args: Args, config: &Config, shutdown: CancellationToken) -> Result<()> {
    let org = super::org(args.org.as_deref(), config)?;
    let batch = Batch { config, org: &org, name: &args.name, since: Since::Ever };
    let mut bar = Bar::new(0);
    let mut said: Option<Instant> = None;
    let mut ended = None;
    let showing = follow(&batch, |seen: &Seen| {
        let progress = &seen.progress;
        let now = Timestamp::now();
        if !progress.is_known() {
            bail!(
                "nothing is known of batch {:?} of org {org}: no record of it is younger than the stream's 7 days; is the name right, and the org?",
                args.name
            );
        }
        let is_last = args.once || is_over(config, progress);
        if args.json {
            if is_last || said.is_none_or(|at| at.elapsed() >= JSON_EVERY) {
                said = Some(Instant::now());
                if !stdout::json(&view::json(&batch, seen, now).to_string())? {
                    return Ok(ControlFlow::Break(()));
                }
            }
        } else if is_last {
            bar.end();
            stdout::say(&view::table(&batch, seen, now))?;
        } else {
            bar.show(seen, now);
        }
        ended = is_over(config, progress).then(|| progress.counts());
        Ok(if is_last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    let shown = shutdown.run_until_cancelled(showing).await;
    bar.end();
    match shown {
        Some(shown) => shown?,
        None if std::io::stderr().is_terminal() => {
            let _ =
                writeln!(std::io::stderr(), "the jobs go on; resetd batch {} shows them again", Escaped(&args.name));
        }
        None => {}
    }
    if args.once { Ok(()) } else { ended.map_or(Ok(()), verdict) }
}
