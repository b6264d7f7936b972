//! `resetd enqueue FILE`: all of a file is checked before any of it is sent, each job is confirmed by the broker, and a batch can be
//! followed to its end.

pub mod batch;
mod file;
mod follow;
mod rows;
mod send;
mod view;

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::stdout;
use crate::config::{Config, ConfigError};
use crate::domain::attribute::AllowedAttributes;
use crate::domain::batch::{Counts, Progress};
use crate::domain::escape::Escaped;
use crate::domain::job::{Lane, Wishes};
use crate::domain::mailing::Unsent;
use crate::wire::job::Rules;
use crate::wire::recipient;
use crate::wire::{read_moment, to_the_millisecond};
pub use file::no_formula;
use file::{Job, REMARKS, Sheet};
use follow::{Batch, Seen, Since, follow};
use send::Sending;
use view::Bar;

/// The longest name of a batch, in characters: its jobs' ids begin with it.
const MAX_NAME: usize = 100;
/// The reason in the file of failed rows where the password is set and the mail was given up: the name of the mail's outcome.
const MAIL_FAILED: &str = "notification_failed";

/// What is said of files behind the flags; `{recipient}` stands for the columns that say who is told.
const AFTER_HELP: &str = "A CSV file has a header row: userId (or userName, the name the user logs in with), {recipient}, and a column for each attribute. A cell that begins with [ or { is JSON, an empty one is left out, any other is text, without line breaks and control characters; a ' before =, +, - or @, which keeps a spreadsheet from taking it for a formula, is taken away. The columns reason and detail are left out. An NDJSON file has one job on each line:
  {\"userId\": \"0f6e7c1a-...\", \"password\": true, \"email\": \"agent@example.com\"}

A batch's jobs are called NAME/USER: sent again within 24 hours, nobody who succeeded is reset twice.

Examples:
  resetd enqueue --dry-run agents.csv
  resetd enqueue --batch agents-november --wait --failed failed.csv agents.csv
  resetd enqueue --batch agents-november-2 --wait failed.csv    # after fixing it
  resetd enqueue --org main --lane interactive --not-after 2030-01-31T18:00:00Z one.csv
  jq -c '.[]' agents.json | resetd enqueue -";

/// The flags of `resetd enqueue`.
#[derive(Debug, clap::Args)]
#[command(after_help = after_help())]
pub struct Args {
    /// CSV (with a header row) or NDJSON; - is standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The org the users are of; may be left out where the configuration has one.
    #[arg(long, value_name = "NAME")]
    org: Option<String>,
    /// Interactive jobs get the next permit before bulk ones.
    #[arg(long, value_parser = lane(), default_value = Lane::Bulk.as_str())]
    lane: Lane,
    /// The batch's name: by it the jobs are followed (resetd batch NAME), and not done twice.
    #[arg(long, value_name = "NAME", value_parser = batch_name)]
    batch: Option<String>,
    /// No password is set before this moment (RFC 3339).
    #[arg(long, value_name = "MOMENT", value_parser = moment)]
    not_before: Option<Timestamp>,
    /// No password is set after this moment: what is late is dead-lettered as expired.
    #[arg(long, value_name = "MOMENT", value_parser = moment)]
    not_after: Option<Timestamp>,
    /// Check the file and send nothing.
    #[arg(long, conflicts_with_all = ["wait", "failed"])]
    dry_run: bool,
    /// Follow the jobs to their ends; Ctrl-C leaves them running. Exit code 1 if any was given up.
    #[arg(long)]
    wait: bool,
    /// Write the rows that failed, or whose mail did, to this CSV file, with reason and detail, ready to be fixed and sent again.
    #[arg(long, value_name = "FILE", requires = "wait")]
    failed: Option<PathBuf>,
}

fn after_help() -> String {
    AFTER_HELP.replace("{recipient}", &recipient::columns().collect::<Vec<_>>().join(" or "))
}

/// A lane by its name.
fn lane() -> impl TypedValueParser<Value = Lane> {
    PossibleValuesParser::new(Lane::NAMES).try_map(|name| Lane::named(&name))
}

fn moment(text: &str) -> Result<Timestamp, String> {
    read_moment(text).ok_or_else(|| "it must be a moment such as 2026-11-24T18:00:00Z (RFC 3339)".to_owned())
}

fn batch_name(text: &str) -> Result<String, String> {
    let count = text.chars().count();
    if count == 0 || count > MAX_NAME || text.chars().any(|c| c.is_control() || c == '/') {
        return Err(format!("it must be 1 to {MAX_NAME} characters, without \"/\" and control characters"));
    }
    Ok(text.to_owned())
}

/// Checks the file, sends its jobs, and follows them where it was asked to.
///
/// # Errors
/// Where a line is no job (then none is sent), the broker does not take one (the text says how many it took), or any of those that
/// are followed was given up.
pub async fn run(args: Args, config: &Config, shutdown: CancellationToken) -> Result<()> {
    let org = org(args.org.as_deref(), config)?;
    if let (Some(begin), Some(end)) = (args.not_before, args.not_after)
        && end <= begin
    {
        bail!(ConfigError::wrong("--not-after", end, &format!("later than --not-before, {begin}")));
    }
    if let Some(end) = args.not_after.filter(|end| *end <= Timestamp::now()) {
        bail!(ConfigError::wrong("--not-after", end, "later than now: every job would end as expired"));
    }
    if let Some(path) = &args.failed
        && file::is_same(&args.file, path)
    {
        let got = format!("{}, the file that is sent", path.display());
        bail!(ConfigError::wrong("--failed", got, "another: what failed is written over all that stands in it"));
    }
    // The stream has moments to the millisecond, by which an announcement is known again.
    let asked_at = to_the_millisecond(Timestamp::now());
    let batch = args.batch.clone().or_else(|| args.wait.then(|| made_up(asked_at)));
    let rules = Rules {
        allowed: AllowedAttributes::new(config.allowed_attributes.clone()),
        fallback: config.notification.fallback.clone(),
        domains: config.notification.domains.clone(),
    };
    let sheet = file::sheet(&file::text(&args.file)?, &rules, batch.as_deref())?;
    let lane = args.lane;
    let of_batch = batch.as_ref().map(|name| format!(", batch {}", Escaped(name))).unwrap_or_default();
    let jobs = format!("{} jobs", sheet.jobs.len());
    let place = format!("for org {org}, lane {}{of_batch}", lane.as_str());
    if args.dry_run {
        return say(&sheet, &format!("{jobs} are valid {place}; nothing was sent"));
    }
    if let Some(path) = &args.failed {
        // Before anything is sent: at the end it would be too late to learn of it.
        open_failed(path, false)?;
    }
    let wishes = Wishes {
        asked_at: Some(asked_at),
        not_before: args.not_before,
        not_after: args.not_after,
        batch: batch.clone(),
    };
    let sending = Sending { config, org: &org, lane, wishes: &wishes };
    sending.send(&sheet.jobs, &shutdown).await?;
    say(&sheet, &format!("{jobs} queued {place}"))?;
    match (args.wait, batch) {
        (true, Some(name)) => {
            let batch = Batch { config, org: &org, name: &name, since: Since::Announced(asked_at) };
            wait(&batch, &sheet, args.failed.as_deref(), shutdown).await
        }
        (_, Some(name)) => stdout::say(&format!("resetd batch {} shows how far they are", Escaped(name))),
        (_, None) => Ok(()),
    }
}

/// The bodies of the jobs that a file's text asks for. For the fuzz targets: nothing is sent.
///
/// # Errors
/// Where a line of it is no job; each is named with its number.
pub fn bodies(text: &str, rules: &Rules) -> Result<Vec<String>> {
    Ok(file::sheet(text, rules, None)?.jobs.into_iter().map(|job| job.body).collect())
}

/// A name for a batch whose sender gave none.
fn made_up(now: Timestamp) -> String {
    format!("enqueue-{}-{}", now.strftime("%Y%m%dT%H%M%SZ"), &Uuid::new_v4().simple().to_string()[..4])
}

fn say(sheet: &Sheet, line: &str) -> Result<()> {
    let passed = sheet.jobs.iter().filter(|job| !job.resets).count();
    stdout::say(line)?;
    if passed > 0 {
        stdout::say(&format!("{passed} of them ask for no reset (no \"password\": true) and will be passed through"))?;
    }
    Ok(())
}

/// Follows what was sent to its end.
async fn wait(batch: &Batch<'_>, sheet: &Sheet, failed: Option<&Path>, shutdown: CancellationToken) -> Result<()> {
    let mut bar = Bar::new(sheet.jobs.len() as u64);
    let mut counts = Counts::default();
    let following = follow(batch, |seen| {
        let now = Timestamp::now();
        if !is_over(batch.config, &seen.progress) {
            bar.show(seen, now);
            return Ok(ControlFlow::Continue(()));
        }
        bar.end();
        if let Some(path) = failed {
            write_failed(path, sheet, seen)?;
        }
        stdout::say(&view::table(batch, seen, now))?;
        counts = seen.progress.counts();
        Ok(ControlFlow::Break(()))
    });
    let followed = shutdown.run_until_cancelled(following).await;
    bar.end();
    match followed {
        Some(followed) => {
            followed?;
            verdict(counts)
        }
        None => {
            let name = Escaped(batch.name);
            stdout::say(&format!("the jobs go on without this; resetd batch {name} shows them again"))
        }
    }
}

/// Whether all of it has ended; where a mailer takes part, the mails too: a person is helped only by theirs.
fn is_over(config: &Config, progress: &Progress) -> bool {
    progress.is_done() && (!config.mailer.enabled || progress.not_notified() == 0)
}

fn cannot_write(path: &Path) -> String {
    format!("--failed {} cannot be written", path.display())
}

/// Opens the file of those that failed, for its owner alone: it has addresses.
fn open_failed(path: &Path, emptied: bool) -> Result<std::fs::File> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let mut options = std::fs::OpenOptions::new();
    let opened = options.write(true).create(true).truncate(emptied).mode(0o600).open(path);
    let private = |file: std::fs::File| -> std::io::Result<std::fs::File> {
        // One that was there may be everybody's; a pipe has no mode of ours.
        if file.metadata()?.is_file() {
            file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        }
        Ok(file)
    };
    opened.and_then(private).with_context(|| cannot_write(path))
}

/// The rows that were given up, with their reasons, so that the file can be fixed and sent again.
fn write_failed(path: &Path, sheet: &Sheet, seen: &Seen) -> Result<()> {
    let mut writer = csv::Writer::from_writer(open_failed(path, true)?);
    let columns = sheet.columns.iter().map(String::as_str).chain(REMARKS).map(file::no_formula);
    writer.write_record(columns.map(Cow::into_owned)).with_context(|| cannot_write(path))?;
    for Job { id, cells, .. } in &sheet.jobs {
        let given_up =
            |id: &String| seen.given_up.get(id).cloned().or_else(|| seen.unsent.get(id).copied().map(mail_failed));
        let Some((reason, detail)) = id.as_ref().and_then(given_up) else { continue };
        let cell =
            |column: &String| cells.iter().find(|(name, _)| name == column).map_or("", |(_, cell)| cell.as_str());
        // On one line: a line break in a cell is refused when the file is read again.
        let one_line = |text: &str| file::no_formula(&text.replace(file::is_refused, " ")).into_owned();
        let row =
            sheet.columns.iter().map(|column| one_line(cell(column))).chain([one_line(&reason), one_line(&detail)]);
        writer.write_record(row).with_context(|| cannot_write(path))?;
    }
    writer.flush().with_context(|| cannot_write(path))
}

/// What the file says of a person whose password is set and whose mail was given up.
fn mail_failed(unsent: Option<Unsent>) -> (String, String) {
    let why = unsent.map_or_else(String::new, |unsent| format!(" ({}: {})", unsent.as_str(), unsent.message()));
    let detail = format!(
        "the password is set and its mail failed{why}; fix it and send this row as another --batch: under the same name it ends duplicate"
    );
    (MAIL_FAILED.to_owned(), detail)
}

/// An error where any job, or the mail of one, was given up.
fn verdict(counts: Counts) -> Result<()> {
    let mut said = Vec::new();
    if counts.given_up() > 0 {
        said.push(format!(
            "{} jobs were given up; each is a dead letter with its reason: fix it and send it again (enqueue --wait --failed FILE writes a file of them)",
            counts.given_up()
        ));
    }
    if counts.notification_failed > 0 {
        said.push(format!(
            "{} mail failed: resetd dead --queue emails list says why; --failed FILE has these people too",
            counts.notification_failed
        ));
    }
    if said.is_empty() { Ok(()) } else { bail!(said.join("; ")) }
}

/// The one org that is meant.
fn org(asked: Option<&str>, config: &Config) -> Result<String> {
    let mut orgs = config.orgs_meant(asked)?;
    match orgs.len() {
        1 => Ok(orgs.remove(0)),
        _ => bail!(ConfigError::missing("--org", &format!("one of {}", orgs.join(", ")))),
    }
}
