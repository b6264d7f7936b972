//! `resetd enqueue FILE`: all of a file is checked before any of it is sent, and each job is confirmed by the broker.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::amqp::link;
use crate::amqp::names::Names;
use crate::amqp::publisher::{Message, Publisher, Unpublished};
use crate::amqp::trouble::closing;
use crate::config::{Config, ConfigError};
use crate::domain::attribute::AllowedAttributes;
use crate::domain::job::{Intent, Lane};
use crate::wire::job::{Rules, parse};
use crate::wire::properties::job_properties;

/// Confirms that may be outstanding at once.
const IN_FLIGHT: usize = 64;
/// Bad lines that are shown one by one.
const SHOWN: usize = 50;

/// The flags of `resetd enqueue`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A CSV file has a header row: userId, email, and a column for each attribute. A cell that begins with [ or { is JSON, an empty one is left out, any other is text. An NDJSON file has one job on each line:
  {\"userId\": \"0f6e7c1a-...\", \"password\": true, \"email\": \"agent@example.com\"}

Examples:
  resetd enqueue --org main --lane bulk agents.csv
  jq -c '.[]' agents.json | resetd enqueue -"
)]
pub struct Args {
    /// CSV (with a header row) or NDJSON; - is standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The org the users are of; may be left out where the configuration has one.
    #[arg(long, value_name = "NAME")]
    org: Option<String>,
    /// Interactive jobs get the next permit before bulk ones.
    #[arg(long, value_enum, default_value = "bulk")]
    lane: LaneArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LaneArg {
    Interactive,
    Bulk,
}

/// Checks the file and sends its jobs.
///
/// # Errors
/// Where a line is no job (then none is sent), or the broker does not take one; the text says how many it took.
pub async fn run(args: Args, config: &Config, shutdown: CancellationToken) -> Result<()> {
    let org = org(args.org.as_deref(), config)?;
    let text = read(&args.file)?;
    let rules = Rules {
        allowed: AllowedAttributes::new(config.allowed_attributes.clone()),
        fallback: config.notification.fallback.clone(),
    };
    let jobs = jobs(&text, &rules)?;
    let lane = match args.lane {
        LaneArg::Interactive => Lane::Interactive,
        LaneArg::Bulk => Lane::Bulk,
    };
    send(&jobs, &Names::new(&config.amqp.prefix, &org), lane, config, shutdown).await?;
    let passed = jobs.iter().filter(|job| !job.resets).count();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} jobs queued for org {org}, lane {}", jobs.len(), lane.as_str())?;
    if passed > 0 {
        writeln!(out, "{passed} of them ask for no reset (no \"password\": true) and will be passed through")?;
    }
    Ok(())
}

fn org(asked: Option<&str>, config: &Config) -> Result<String> {
    let names: Vec<&str> = config.org_names().collect();
    match (asked, names.as_slice()) {
        (Some(org), []) => {
            crate::config::org::check_name(org)?;
            Ok(org.to_owned())
        }
        (Some(org), names) if names.contains(&org) => Ok(org.to_owned()),
        (Some(org), names) => {
            bail!(ConfigError::wrong("--org", format_args!("{org:?}"), &format!("one of {}", names.join(", "))))
        }
        (None, [only]) => Ok((*only).to_owned()),
        (None, []) => bail!(ConfigError::missing("--org", "the name of the org, as the worker's configuration has it")),
        (None, names) => bail!(ConfigError::missing("--org", &format!("one of {}", names.join(", ")))),
    }
}

fn read(file: &PathBuf) -> Result<String> {
    let mut bytes = Vec::new();
    if file.as_os_str() == "-" {
        std::io::stdin().lock().read_to_end(&mut bytes).context("standard input cannot be read")?;
    } else {
        bytes = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    }
    let text = String::from_utf8(bytes).map_err(|_| {
        anyhow::anyhow!("{} is not UTF-8; save it as UTF-8 (a spreadsheet: \"CSV UTF-8\")", file.display())
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned())
}

/// A checked job.
struct Job {
    body: String,
    resets: bool,
}

/// Every line as a job, or every bad line with its number.
fn jobs(text: &str, rules: &Rules) -> Result<Vec<Job>> {
    let lines = if text.trim_start().starts_with('{') { ndjson(text) } else { csv(text)? };
    let mut jobs = Vec::with_capacity(lines.len());
    let mut bad = Vec::new();
    for (number, body) in lines {
        let checked = body.and_then(|body| match parse(body.as_bytes(), rules) {
            Ok(intent) => Ok(Job { resets: matches!(intent, Intent::Reset(_)), body }),
            Err(invalid) => Err(invalid.detail),
        });
        match checked {
            Ok(job) => jobs.push(job),
            Err(why) => bad.push(format!("line {number}: {why}")),
        }
    }
    if !bad.is_empty() {
        let more = bad.len().saturating_sub(SHOWN);
        let shown = bad.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n  ");
        let rest = if more > 0 { format!("\n  and {more} more") } else { String::new() };
        bail!(
            "{} of {} lines are not valid, and nothing was sent; mend them and run it again:\n  {shown}{rest}",
            bad.len(),
            bad.len() + jobs.len()
        );
    }
    if jobs.is_empty() {
        bail!(
            "the file has no jobs; it must be CSV with a header row and a row for each user, or NDJSON with a job on each line"
        );
    }
    Ok(jobs)
}

type Line = (u64, Result<String, String>);

fn ndjson(text: &str) -> Vec<Line> {
    let numbered = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    numbered.map(|(line, number)| (number, Ok(line.to_owned()))).collect()
}

fn csv(text: &str) -> Result<Vec<Line>> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers().context("the header row cannot be read")?.clone();
    if text.trim_start().starts_with('[') {
        bail!("the file is one JSON list; it must have a job on each line: jq -c '.[]' FILE | resetd enqueue -");
    }
    if !header.iter().any(|name| name == "userId") {
        // What stands there is not repeated: without a header row it is somebody's data.
        let columns = header.len();
        bail!("line 1: the header row ({columns} columns) has no column userId; it must be such as userId,email,title");
    }
    if let Some(twice) = header.iter().enumerate().find(|(at, name)| header.iter().take(*at).any(|seen| seen == *name))
    {
        bail!("line 1: the column {:?} stands twice", twice.1);
    }
    let rows = reader.into_records().map(|record| match record {
        Ok(record) => (record.position().map_or(0, csv::Position::line), row(&header, &record)),
        Err(error) => (error.position().map_or(0, csv::Position::line), Err(format!("it is not CSV: {error}"))),
    });
    Ok(rows.collect())
}

/// A row as the body of a job.
fn row(header: &csv::StringRecord, record: &csv::StringRecord) -> Result<String, String> {
    if record.len() != header.len() {
        return Err(format!(
            "it has {} cells and the header row {}; is a comma missing, or one too many that wants quotes?",
            record.len(),
            header.len()
        ));
    }
    let mut body = Map::from_iter([("password".to_owned(), Value::Bool(true))]);
    let mut attributes = Map::new();
    for (name, cell) in header.iter().zip(record).filter(|(_, cell)| !cell.is_empty()) {
        match name {
            "userId" | "email" => drop(body.insert(name.to_owned(), cell.into())),
            attribute => drop(attributes.insert(attribute.to_owned(), value(attribute, cell)?)),
        }
    }
    if !attributes.is_empty() {
        body.insert("attributes".into(), attributes.into());
    }
    Ok(Value::Object(body).to_string())
}

fn value(name: &str, cell: &str) -> Result<Value, String> {
    if cell.starts_with(['[', '{']) {
        serde_json::from_str(cell).map_err(|_| format!("column {name}: the cell begins like JSON but is none"))
    } else {
        Ok(cell.into())
    }
}

async fn send(jobs: &[Job], names: &Names, lane: Lane, config: &Config, shutdown: CancellationToken) -> Result<()> {
    let connection = Arc::new(link::connect(&config.amqp, "resetd enqueue").await?);
    let publisher = Publisher::open(Arc::clone(&connection)).await?;
    let (exchange, key) = (names.resets(), names.lane_key(lane));
    let asked_at = Timestamp::now();
    let sent = std::sync::atomic::AtomicUsize::new(0);
    let sending = stream::iter(jobs).map(Ok).try_for_each_concurrent(IN_FLIGHT, |job| {
        let (publisher, exchange, key, sent) = (&publisher, exchange.as_str(), key.as_str(), &sent);
        async move {
            let properties = job_properties(&Uuid::new_v4().to_string(), asked_at);
            publisher.publish(&Message { exchange, key, body: job.body.as_bytes(), properties }).await?;
            sent.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok::<(), Unpublished>(())
        }
    });
    let ended = tokio::select! {
        ended = sending => ended.map_err(|unpublished| unpublished.to_string()),
        () = shutdown.cancelled() => Err("interrupted".into()),
    };
    closing(connection.close(200, "done".into())).await;
    ended.map_err(|why| {
        let sent = sent.into_inner();
        let cure = "has a worker with this org and this amqp.prefix declared the queues? Start `resetd worker` once. What was confirmed is queued: sending the whole file again resets those people twice";
        anyhow::anyhow!("{sent} of {} jobs were confirmed, then: {why}; {cure}", jobs.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(text: &str) -> Result<Vec<String>> {
        let rules = Rules { allowed: AllowedAttributes::new(vec!["title".into(), "genesys:*".into()]), fallback: None };
        Ok(jobs(text, &rules)?.into_iter().map(|job| job.body).collect())
    }

    #[test]
    fn a_csv_row_is_a_reset_with_its_attributes() {
        let rows = bodies("\u{20}userId , email,title,genesys:routingSkills\nu-1,a@b.c,Agent,\"[{\"\"value\"\":\"\"x\"\"}]\"\nu-2,d@e.f,,\n").unwrap();
        assert_eq!(
            rows,
            [
                r#"{"password":true,"userId":"u-1","email":"a@b.c","attributes":{"title":"Agent","genesys:routingSkills":[{"value":"x"}]}}"#,
                r#"{"password":true,"userId":"u-2","email":"d@e.f"}"#,
            ]
        );
    }

    #[test]
    fn ndjson_lines_are_sent_as_they_are() {
        let text = "{\"userId\":\"u\",\"password\":true,\"email\":\"a@b\"}\n\n{\"password\":false}\n";
        assert_eq!(bodies(text).unwrap().len(), 2);
    }

    fn bad(text: &str, parts: &[&str]) {
        let error = bodies(text).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }

    #[test]
    fn every_bad_line_is_named_by_its_number() {
        bad(
            "userId,email\nu-1,a@b\nu/2,a@b\nu-3\nu-4,nobody\n",
            &["3 of 4 lines", "line 3: userId", "line 4: it has 1 cells", "line 5: email", "nothing was sent"],
        );
        bad(
            "{\"userId\":\"u\",\"password\":true,\"email\":\"a@b\"}\n\n{\"userId\":\n",
            &["1 of 2 lines", "line 3: body: it is not JSON"],
        );
        bad("userId,email,manager\nu,a@b,x\n", &["line 2: attributes: \"manager\" is not allowed"]);
        bad("userId,email,genesys:x\nu,a@b,[1\n", &["line 2: column genesys:x"]);
        bad("email\na@b\n", &["no column userId"]);
        bad("userId,email,email\nu,a,b\n", &["stands twice"]);
        bad("userId,email\n", &["no jobs"]);
        bad("", &["no column userId"]);
    }

    #[test]
    fn quotes_and_line_breaks_in_cells_keep_the_line_numbers() {
        bad("userId,email,title\nu-1,a@b,\"two\nlines\"\nu/2,a@b,x\n", &["line 4: userId"]);
    }
}
