//! `resetd dead`: the dead letters of each org, looked through, replayed and dropped. A letter leaves its queue only after what
//! becomes of it is confirmed; looking takes none away.
//!
//! The mailer's dead mails are another queue for the same verbs (`kind`), with a replay of their own.

mod act;
mod action;
mod args;
mod filter;
mod kind;
mod look;
mod table;

use anyhow::{Result, bail};
use tokio_util::sync::CancellationToken;

use super::stdout;
use crate::amqp::error::closing;
use crate::amqp::link;
use crate::amqp::names::Names;
use crate::config::Config;
use crate::domain::attribute::AllowedAttributes;
use action::Action;
pub use args::{Act, List, Show};
use kind::{Jobs, Kind, Mails, orgs};

/// Whose letters.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
pub enum Queue {
    /// Jobs that were given up, of each org.
    #[default]
    Resets,
    /// Mails that were given up, of all orgs.
    Emails,
}

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

/// Does what is asked for.
///
/// # Errors
/// Where the broker is not there, the org has no such queue, a letter that was named is not there, or not all that was asked for
/// could be done; the text says what was.
pub async fn run(verb: Verb, queue: Queue, config: &Config, shutdown: CancellationToken) -> Result<()> {
    match queue {
        Queue::Resets => of_kind::<Jobs>(verb, config, shutdown).await,
        Queue::Emails => of_kind::<Mails>(verb, config, shutdown).await,
    }
}

async fn of_kind<K: Kind>(verb: Verb, config: &Config, shutdown: CancellationToken) -> Result<()> {
    match verb {
        Verb::List(args) => list::<K>(args, config, shutdown).await,
        Verb::Show(args) => show::<K>(args, config, shutdown).await,
        Verb::Replay(args) => act::run::<K>(Action::Replay, args, config, shutdown).await,
        Verb::Drop(args) => act::run::<K>(Action::Drop, args, config, shutdown).await,
    }
}

async fn list<K: Kind>(args: List, config: &Config, shutdown: CancellationToken) -> Result<()> {
    let orgs = orgs::<K>(config, args.org.as_deref())?;
    let allowed = AllowedAttributes::new(config.allowed_attributes.clone());
    let connection = link::connect(&config.amqp, "resetd dead").await?;
    for org in orgs {
        let queue = K::queue(&Names::new(&config.amqp.prefix, &org));
        let mut letters = Vec::new();
        let looked = look::through(&connection, &queue, &shutdown, |held| {
            let letter = K::read(held);
            if K::passes(&args.filter, args.org.as_deref(), &letter) {
                letters.push(letter);
            }
        });
        let all = looked.await?;
        if args.json {
            let lines: Vec<String> = letters.iter().map(|letter| K::json(&org, letter, None, &allowed)).collect();
            if !lines.is_empty() {
                stdout::json(&lines.join("\n"))?;
            }
        } else {
            stdout::say(&K::list(&org, &letters, all, args.limit))?;
        }
    }
    closing(connection.close(200, "done".into())).await;
    Ok(())
}

async fn show<K: Kind>(args: Show, config: &Config, shutdown: CancellationToken) -> Result<()> {
    let orgs = orgs::<K>(config, args.org.as_deref())?;
    let allowed = AllowedAttributes::new(config.allowed_attributes.clone());
    let connection = link::connect(&config.amqp, "resetd dead").await?;
    let mut shown = Vec::new();
    for org in &orgs {
        let queue = K::queue(&Names::new(&config.amqp.prefix, org));
        let looked = look::through(&connection, &queue, &shutdown, |held| {
            let letter = K::read(held);
            if K::id(&letter) == args.id {
                shown.push(if args.json {
                    K::json(org, &letter, Some(held), &allowed)
                } else {
                    K::one(org, &letter, held, &allowed)
                });
            }
        });
        looked.await?;
    }
    closing(connection.close(200, "done".into())).await;
    if shown.is_empty() {
        let whose = if K::BY_ORG { orgs.join(", ") } else { "emails".into() };
        bail!("no dead letter of {whose} has the id {:?}; `resetd dead list` has the ids", args.id);
    }
    if args.json { stdout::json(&shown.join("\n")).map(drop) } else { stdout::say(&shown.join("\n\n")) }
}
