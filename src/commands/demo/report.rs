//! The table at the end: what became of every job, what it cost, and whether everybody can log in.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde_json::Value;
use zeroize::Zeroizing;

use super::postbox::ReceivedMail;
use super::script;
use crate::commands::stdout;
use sim::{Org, Stats};

/// What stands before the password in the default `notification.body`, and after it.
const BEFORE_PASSWORD: &str = "password is: ";
const AFTER_PASSWORD: &str = ". Please";

/// What was seen so far.
pub(super) struct Report {
    jobs: usize,
    good: usize,
    rate_per_minute: u32,
    outcomes: BTreeMap<String, usize>,
    succeeded: usize,
    passwords: BTreeMap<String, Zeroizing<String>>,
    mails: usize,
    end: Option<End>,
}

struct End {
    took: Duration,
    stats: Stats,
    locked_out: Vec<String>,
}

impl Report {
    pub(super) fn new(jobs: usize, good: usize, rate_per_minute: u32) -> Self {
        let (outcomes, passwords) = (BTreeMap::new(), BTreeMap::new());
        Self { jobs, good, rate_per_minute, outcomes, succeeded: 0, passwords, mails: 0, end: None }
    }

    pub(super) fn jobs(&self) -> usize {
        self.jobs
    }

    pub(super) fn ended(&self) -> usize {
        self.outcomes.values().sum()
    }

    pub(super) fn mailed(&self) -> usize {
        self.mails
    }

    pub(super) fn dead(&self) -> usize {
        self.ended() - self.succeeded
    }

    /// Every job has its outcome, and every success its mail.
    pub(super) fn is_complete(&self) -> bool {
        self.ended() >= self.jobs && self.mails >= self.succeeded
    }

    pub(super) fn outcome(&mut self, record: &Value) {
        let outcome = record["outcome"].as_str().unwrap_or("unknown");
        let why = record["reason"].as_str().map_or_else(|| outcome.to_owned(), |why| format!("dead-lettered: {why}"));
        self.succeeded += usize::from(outcome == "succeeded");
        *self.outcomes.entry(why).or_default() += 1;
    }

    /// A mail came: whose it is stands before the `@`, and the password where the text of the configuration has it.
    pub(super) fn mail(&mut self, letter: &ReceivedMail) {
        let user = letter.to.split('@').next().unwrap_or_default().to_owned();
        let after = letter.text.split_once(BEFORE_PASSWORD).map_or("", |(_, rest)| rest);
        let password = after.split_once(AFTER_PASSWORD).map_or("", |(password, _)| password);
        self.mails += 1;
        self.passwords.insert(user, Zeroizing::new(password.to_owned()));
    }

    /// Tries every mailed password against the org.
    pub(super) fn close(&mut self, took: Duration, org: &Org) {
        let fails = |(user, password): &(&String, &Zeroizing<String>)| !org.logs_in(user, password);
        let locked_out = self.passwords.iter().filter(fails).map(|(user, _)| user.clone()).collect();
        self.end = Some(End { took, stats: org.stats(), locked_out });
    }

    pub(super) fn print(&self) -> Result<()> {
        let Some(end) = &self.end else { return Ok(()) };
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED).set_header(["what", "how many"]);
        let mut row = |what: &str, value: String| {
            table.add_row([what.to_owned(), value]);
        };
        row("jobs", self.jobs.to_string());
        for (what, count) in &self.outcomes {
            row(what, count.to_string());
        }
        row("mails at the mail server", self.mails.to_string());
        let logged_in = self.passwords.len() - end.locked_out.len();
        row("people who log in with their mail", format!("{logged_in} of {}", self.good));
        row("calls to the org", end.stats.calls.to_string());
        row("of them refused with 429", script::throttled(&end.stats).to_string());
        let failed = |status: &str| end.stats.by_status.get(status).copied().unwrap_or(0);
        row("of them failed (401, 500, cut)", ["401", "500", "cut"].iter().map(|s| failed(s)).sum::<u64>().to_string());
        row("time", format!("{:.1} s", end.took.as_secs_f64()));
        let shortest = end.stats.calls as f64 * 60.0 / f64::from(self.rate_per_minute);
        row("shortest for so many calls", format!("{shortest:.1} s at {} a minute", self.rate_per_minute));
        stdout::say(&table.to_string())
    }

    /// An error where anybody cannot log in.
    pub(super) fn verdict(&self) -> Result<()> {
        let Some(end) = &self.end else { bail!("the demo did not come to its end") };
        if !end.locked_out.is_empty() {
            bail!(
                "{} people cannot log in with the password of their mail: {}",
                end.locked_out.len(),
                end.locked_out.join(", ")
            );
        }
        if self.passwords.len() < self.good {
            bail!("{} of {} people got no mail", self.good - self.passwords.len(), self.good);
        }
        Ok(())
    }
}
