//! `resetd dead`: the dead letters of each org, looked through, replayed and dropped. A letter leaves its queue only after what
//! becomes of it is confirmed; looking takes none away.
//!
//! The mailer's dead letters, once there is one, are another queue for the same verbs, with a replay of their own.

mod act;
mod filter;
mod look;
mod table;

use anyhow::{Result, bail};
use clap::ArgGroup;
use tokio_util::sync::CancellationToken;

use super::stdout;
use crate::amqp::link;
use crate::amqp::names::Names;
use crate::amqp::trouble::closing;
use crate::config::Config;
use crate::wire::letter;
use act::Deed;
use filter::Filter;

/// What is done with letters.
#[derive(Debug)]
pub enum Verb {
    /// Shows which there are.
    List(List),
    /// Shows one in full.
    Show(Show),
    /// Makes jobs of them again.
    Replay(Act),
    /// Takes them away.
    Drop(Act),
}

/// The flags of `resetd dead list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "A reason with (broker) is the broker's own: it gave the job up, and no worker wrote why.

Examples:
  resetd dead list
  resetd dead list --org main --reason retries_exhausted --since 2h
  resetd dead list --json | jq -r 'select(.status == 404) | .userId'")]
pub struct List {
    #[command(flatten)]
    filter: Filter,
    /// Letters of this org alone; of all configured ones where it is left out.
    #[arg(long, value_name = "NAME")]
    org: Option<String>,
    /// So many letters of each org one by one, the newest; 0 shows all.
    #[arg(long, value_name = "LETTERS", default_value_t = 50)]
    limit: usize,
    /// A JSON object on each line, for all letters in the order of their queue.
    #[arg(long)]
    json: bool,
}

/// The flags of `resetd dead show`.
#[derive(Debug, clap::Args)]
#[command(after_help = "It shows the job as it was asked for, less its secrets, and so the mail address too.

Example:
  resetd dead show 0f6e7c1a-5b7e-4e0b-9d0c-6f1f5d1c2a3b")]
pub struct Show {
    /// The job's id, as `resetd dead list` has it.
    #[arg(value_name = "ID")]
    id: String,
    /// Only in this org; in all configured ones where it is left out.
    #[arg(long, value_name = "NAME")]
    org: Option<String>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// The flags of `resetd dead replay` and `resetd dead drop`.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("which").required(true).multiple(true).args(["ids", "reasons", "since", "batch", "user", "all"])))]
pub struct Act {
    /// The jobs' ids, as `resetd dead list` has them.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// All letters there are.
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Letters of this org alone; of all configured ones where it is left out.
    #[arg(long, value_name = "NAME")]
    org: Option<String>,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

/// Does what is asked for.
///
/// # Errors
/// Where the broker is not there, the org has no such queue, a letter that was named is not there, or not all that was asked for
/// could be done; the text says what was.
pub async fn run(verb: Verb, config: &Config, shutdown: CancellationToken) -> Result<()> {
    match verb {
        Verb::List(args) => list(args, config, shutdown).await,
        Verb::Show(args) => show(args, config, shutdown).await,
        Verb::Replay(args) => act::run(Deed::Replay, args, config, shutdown).await,
        Verb::Drop(args) => act::run(Deed::Drop, args, config, shutdown).await,
    }
}

async fn list(args: List, config: &Config, shutdown: CancellationToken) -> Result<()> {
    let orgs = config.orgs_meant(args.org.as_deref())?;
    let connection = link::connect(&config.amqp, "resetd dead").await?;
    for org in orgs {
        let names = Names::new(&config.amqp.prefix, &org);
        let mut letters = Vec::new();
        let looked = look::through(&connection, &names, &shutdown, |letter, _| {
            if args.filter.takes(&letter) {
                letters.push(letter);
            }
        });
        let all = looked.await?;
        if args.json {
            let lines: Vec<String> = letters.iter().map(|letter| letter::line(letter, &org, None)).collect();
            if !lines.is_empty() {
                stdout::say(&lines.join("\n"))?;
            }
        } else {
            stdout::say(&table::list(&org, &letters, all, args.limit))?;
        }
    }
    closing(connection.close(200, "done".into())).await;
    Ok(())
}

async fn show(args: Show, config: &Config, shutdown: CancellationToken) -> Result<()> {
    let orgs = config.orgs_meant(args.org.as_deref())?;
    let connection = link::connect(&config.amqp, "resetd dead").await?;
    let mut shown = Vec::new();
    for org in &orgs {
        let names = Names::new(&config.amqp.prefix, org);
        let looked = look::through(&connection, &names, &shutdown, |letter, held| {
            if letter.job.as_str() != args.id {
                return;
            }
            shown.push(if args.json {
                letter::line(&letter, org, Some(&held.body))
            } else {
                table::one(&letter, org, &letter::shown(&held.body))
            });
        });
        looked.await?;
    }
    closing(connection.close(200, "done".into())).await;
    if shown.is_empty() {
        bail!("no dead letter of {} has the id {:?}; `resetd dead list` has the ids", orgs.join(", "), args.id);
    }
    let between = if args.json { "\n" } else { "\n\n" };
    stdout::say(&shown.join(between))
}
