//! Replaying and dropping: looked through first, asked, then done letter by letter: published, confirmed, and only then taken out.
//! Killed in between, what was not taken out is still a letter.

use std::collections::HashSet;
use std::io::{BufRead, IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::action::Action;
use super::args::Act;
use super::kind::{self, Kind};
use super::{look, stdout, table};
use crate::amqp::channels::Needs;
use crate::amqp::error::BrokerError;
use crate::amqp::letters::Held;
use crate::amqp::link::Link;
use crate::amqp::names::Names;
use crate::amqp::publisher::{Publisher, Unpublished};
use crate::config::{Config, ConfigError};
use crate::failpoint::{self, Stage};

/// What its consuming connection needs: the letters of one queue at a time, and a look at it.
const CHANNELS: usize = 4;
/// Letters that are published at once.
const AT_ONCE: usize = 32;
/// How long after an interrupt what is on its way may still be confirmed.
const CONFIRM_GRACE: Duration = Duration::from_secs(5);
/// How often it looks whether a resource alarm holds it up.
const WATCH: Duration = Duration::from_secs(1);

/// The letters of one queue that are meant.
struct Plan<K: Kind> {
    org: String,
    names: Names,
    /// How many letters lay there in all.
    there: usize,
    /// With these it is done.
    meant: Vec<K::DeadLetter>,
    /// With these it cannot be done, and why.
    left: Vec<(K::DeadLetter, String)>,
}

pub(super) async fn run<K: Kind>(
    action: Action,
    args: Act,
    config: &Config,
    shutdown: CancellationToken,
) -> Result<()> {
    let orgs = kind::orgs::<K>(config, args.org.as_deref())?;
    if !args.dry_run && !args.yes && !std::io::stdin().is_terminal() {
        bail!(ConfigError::missing(
            "--yes",
            "given where standard input is no terminal to ask on; --dry-run only says what would be done"
        ));
    }
    let needs = Needs { channels: CHANNELS, publishers: 1, who: "dead letters".into(), or: "" };
    let link = Link::open(&config.amqp, "dead", &needs).await.map_err(BrokerError::ends)?;
    let mut plans = Vec::new();
    for org in orgs {
        plans.push(plan::<K>(action, &link, org, &args, config, &shutdown).await?);
    }
    let missing: Vec<String> = args.ids.iter().filter(|id| !plans.iter().any(|plan| plan.has(id))).cloned().collect();
    let meant = plans.iter().map(|plan| plan.meant.len()).sum();
    let left = plans.iter().map(|plan| plan.left.len()).sum();
    announce(action, &plans, &args)?;
    let mut done = vec![0; plans.len()];
    let ended = if args.dry_run || meant == 0 {
        Ok(())
    } else if !args.yes && !asked(action, meant, &shutdown).await? {
        aside("nothing was changed")
    } else {
        carry_out(action, &link, &plans, &args, &mut done, &shutdown).await
    };
    link.close().await;
    if args.json {
        let lines: Vec<String> = plans.iter().zip(done).map(|(plan, done)| plan.summary(action, done)).collect();
        stdout::json(&lines.join("\n"))?;
    }
    ended?;
    verdict(action, &missing, left)
}

/// What became of the letters of one queue, for other programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    /// Null where all orgs share the queue.
    org: Option<&'a str>,
    action: &'static str,
    letters: usize,
    meant: usize,
    done: usize,
    /// With how many it cannot be done, and which.
    cannot: usize,
    refused: Vec<Refused<'a>>,
}

#[derive(Serialize)]
struct Refused<'a> {
    id: &'a str,
    why: &'a str,
}

impl<K: Kind> Plan<K> {
    /// As a line of JSON: with so many it was done.
    fn summary(&self, action: Action, done: usize) -> String {
        let refused: Vec<_> = self.left.iter().map(|(letter, why)| Refused { id: K::id(letter), why }).collect();
        let summary = Summary {
            org: Some(self.org.as_str()).filter(|org| !org.is_empty()),
            action: action.done(),
            letters: self.there,
            meant: self.meant.len() + refused.len(),
            done,
            cannot: refused.len(),
            refused,
        };
        serde_json::to_string(&summary).unwrap_or_default()
    }

    fn has(&self, id: &str) -> bool {
        self.meant.iter().chain(self.left.iter().map(|(letter, _)| letter)).any(|letter| K::id(letter) == id)
    }
}

async fn plan<K: Kind>(
    action: Action,
    link: &Link,
    org: String,
    args: &Act,
    config: &Config,
    shutdown: &CancellationToken,
) -> Result<Plan<K>> {
    let names = Names::new(&config.amqp.prefix, &org);
    let ids: HashSet<&str> = args.ids.iter().map(String::as_str).collect();
    let (mut meant, mut left) = (Vec::new(), Vec::new());
    let queue = K::queue(&names);
    let looked = look::through(&link.consuming, &queue, shutdown, |held| {
        let letter = K::read(held);
        let named = ids.is_empty() || ids.contains(K::id(&letter));
        if named && K::passes(&args.filter, args.org.as_deref(), &letter) {
            match K::hindrance(action, &letter) {
                None => meant.push(letter),
                Some(why) => left.push((letter, why)),
            }
        }
    });
    let there = looked.await?;
    Ok(Plan { org, names, there, meant, left })
}

/// What is going to be done, or would be: on stdout where that is all, else on stderr.
fn announce<K: Kind>(action: Action, plans: &[Plan<K>], args: &Act) -> Result<()> {
    let say = if args.dry_run && !args.json { stdout::say } else { aside };
    for Plan { org, there, meant, left, .. } in plans {
        let would = if args.dry_run { "would be" } else { "to be" };
        say(&format!("{}: {} of {there} {would} {}", K::title(org), table::many(meant.len()), action.done()))?;
        if !meant.is_empty() {
            say(&K::by_reason(meant).to_string())?;
        }
        for (letter, why) in left {
            say(&format!("{} cannot be {}: {why}", table::plain(K::id(letter)), action.done()))?;
        }
    }
    Ok(())
}

/// To the person, not to whoever reads the data.
fn aside(text: &str) -> Result<()> {
    writeln!(std::io::stderr(), "{text}").context("writing to standard error")
}

/// Asks on the terminal.
async fn asked(action: Action, letters: usize, shutdown: &CancellationToken) -> Result<bool> {
    write!(std::io::stderr(), "{} {}? [y/N] ", action.asks(), table::many(letters))
        .context("asking on the terminal")?;
    let answer = tokio::task::spawn_blocking(|| yes(std::io::stdin().lock()));
    tokio::select! {
        answer = answer => answer.context("asking on the terminal")?,
        () = shutdown.cancelled() => bail!("interrupted; nothing was changed"),
    }
}

fn yes(mut from: impl BufRead) -> Result<bool> {
    let mut line = String::new();
    from.read_line(&mut line).context("reading the answer")?;
    Ok(matches!(line.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// Does it, and counts for each queue with how many letters it is done.
async fn carry_out<K: Kind>(
    action: Action,
    link: &Link,
    plans: &[Plan<K>],
    args: &Act,
    counts: &mut [usize],
    shutdown: &CancellationToken,
) -> Result<()> {
    let publisher = Publisher::of(Arc::clone(&link.pool));
    for (plan, count) in plans.iter().zip(counts).filter(|(plan, _)| !plan.meant.is_empty()) {
        let done = AtomicUsize::new(0);
        let ended = tokio::select! {
            ended = letters(action, link, plan, &publisher, &done, shutdown) => ended,
            () = held_up(link) => Ok(()),
        };
        let (done, meant) = (done.into_inner(), plan.meant.len());
        *count = done;
        if !args.json {
            stdout::say(&format!("{}: {} {}", K::title(&plan.org), table::many(done), action.done()))?;
        }
        ended.with_context(|| format!("{done} of {} were {}; the others stay", table::many(meant), action.done()))?;
        if shutdown.is_cancelled() {
            bail!("interrupted: {done} of {} were {}; the others stay", table::many(meant), action.done());
        }
        if done < meant {
            let other = "were no longer in the queue: another consumer holds them, or they were removed";
            aside(&format!("{}: {} {other}", K::title(&plan.org), table::many(meant - done)))?;
        }
    }
    Ok(())
}

/// Says once where a resource alarm holds everything up; never ends.
async fn held_up(link: &Link) {
    while !link.heartbeat.is_blocked() {
        tokio::time::sleep(WATCH).await;
    }
    let text = "the broker is under a resource alarm and takes no message: it goes on when that ends";
    let _ = aside(text);
    std::future::pending().await
}

/// Does it with every letter that is meant, round by round.
async fn letters<K: Kind>(
    action: Action,
    link: &Link,
    plan: &Plan<K>,
    publisher: &Publisher,
    done: &AtomicUsize,
    shutdown: &CancellationToken,
) -> Result<()> {
    let queue = K::queue(&plan.names);
    let meant: HashSet<&K::DeadLetter> = plan.meant.iter().collect();
    let mut letters = look::open(&link.consuming, &queue).await?;
    let (mut ended, unrouted) = (Ok(()), OnceLock::new());
    while ended.is_ok() && done.load(Ordering::Relaxed) < plan.meant.len() && !shutdown.is_cancelled() {
        let round = letters.round().await?;
        if round.is_empty() {
            break;
        }
        let chosen = round.into_iter().filter_map(|held| {
            let letter = K::read(&held);
            meant.contains(&letter).then_some((letter, held))
        });
        // An interrupt lets those on their way end.
        let chosen = stream::iter(chosen).take_while(|_| std::future::ready(!shutdown.is_cancelled()));
        let settled = chosen.map(Ok).try_for_each_concurrent(AT_ONCE, async |(letter, held)| {
            match settle(action, plan, publisher, &letter, held).await? {
                Settled::Done => _ = done.fetch_add(1, Ordering::Relaxed),
                Settled::Unrouted(why) => _ = unrouted.set(why),
            }
            Ok::<(), anyhow::Error>(())
        });
        ended = tokio::select! {
            settled = settled => settled,
            () = given_up(shutdown) => Err(anyhow::anyhow!("the broker confirms nothing, and it was interrupted")),
        };
    }
    letters.give_back(&link.consuming).await;
    ended.and_then(|()| unrouted.into_inner().map_or(Ok(()), |why| bail!(why)))
}

/// What became of a letter.
enum Settled {
    /// It is taken out.
    Done,
    /// There is no queue for what it becomes, and why: it stays, and keeps no other back.
    Unrouted(String),
}

/// Some time after an interrupt: what is on its way then may hang for as long as a resource alarm lasts.
async fn given_up(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(CONFIRM_GRACE).await;
}

/// Publishes what becomes of a letter, waits for the confirm, and takes the letter out.
async fn settle<K: Kind>(
    action: Action,
    plan: &Plan<K>,
    publisher: &Publisher,
    letter: &K::DeadLetter,
    held: Held,
) -> Result<Settled> {
    let published = match action {
        Action::Replay => K::replay(&plan.names, publisher, letter, &held).await,
        Action::Drop => K::drop(&plan.names, &plan.org, publisher, letter).await,
    };
    match published {
        Ok(()) => {}
        Err(unpublished @ Unpublished::Returned { .. }) => {
            return Ok(Settled::Unrouted(format!("{unpublished}; start `resetd worker`, which declares it")));
        }
        Err(unpublished @ Unpublished::Refused { .. }) => bail!("{unpublished}; try again when it is resolved"),
        Err(Unpublished::Lost(trouble)) => bail!("{trouble}; run it again: what was done already is done once"),
    }
    failpoint::reach(Stage::Again, K::id(letter));
    held.take_out().await.map_err(anyhow::Error::from)?;
    Ok(Settled::Done)
}

/// An error where not all that was asked for could be done.
fn verdict(action: Action, missing: &[String], left: usize) -> Result<()> {
    let mut said = Vec::new();
    if !missing.is_empty() {
        let ids: Vec<String> = missing.iter().map(|id| table::plain(id)).collect();
        said.push(format!("no dead letter has the id {}; `resetd dead list` shows the ids", ids.join(", ")));
    }
    if left > 0 {
        said.push(format!("{} cannot be {} and stay", table::many(left), action.done()));
    }
    if said.is_empty() { Ok(()) } else { bail!(said.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_a_yes() {
        for (line, meant) in
            [("y\n", true), ("YES\n", true), ("", false), ("\n", false), ("n\n", false), ("yo\n", false)]
        {
            assert_eq!(yes(line.as_bytes()).unwrap(), meant, "{line:?}");
        }
    }
}
