//! The flags of `resetd dead`.

use clap::ArgGroup;

use super::filter::Filter;

/// The flags of `resetd dead list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "A reason with (broker) is the broker's own: it gave the job up, and no worker wrote why.

Examples:
  resetd dead list
  resetd dead list --org main --reason retries_exhausted --since 2h
  resetd dead list --json | jq -r 'select(.status == 404) | .userId'")]
pub struct List {
    #[command(flatten)]
    pub(super) filter: Filter,
    /// Letters of this org alone; of all configured ones where it is left out.
    #[arg(long, value_name = "NAME")]
    pub(super) org: Option<String>,
    /// So many letters of each org one by one, the newest; 0 shows all.
    #[arg(long, value_name = "LETTERS", default_value_t = 50)]
    pub(super) limit: usize,
    /// A JSON object on each line, for all letters in the order of their queue.
    #[arg(long)]
    pub(super) json: bool,
}

/// The flags of `resetd dead show`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It shows the job as it was asked for, as far as its letter may keep it, and so the mail address too. What else a producer wrote is
named and not shown, in what the broker itself dead-lettered too: that lies in the queue as it was sent.

Example:
  resetd dead show 0f6e7c1a-5b7e-4e0b-9d0c-6f1f5d1c2a3b"
)]
pub struct Show {
    /// The job's id, as `resetd dead list` has it.
    #[arg(value_name = "ID")]
    pub(super) id: String,
    /// Only in this org; in all configured ones where it is left out.
    #[arg(long, value_name = "NAME")]
    pub(super) org: Option<String>,
    /// As JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// The flags of `resetd dead replay` and `resetd dead drop`.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("which").required(true).multiple(true).args(["ids", "reasons", "since", "batch", "user", "all"])))]
pub struct Act {
    /// The jobs' ids, as `resetd dead list` has them.
    #[arg(value_name = "ID")]
    pub(super) ids: Vec<String>,
    #[command(flatten)]
    pub(super) filter: Filter,
    /// All letters there are.
    #[arg(long, conflicts_with = "ids")]
    pub(super) all: bool,
    /// Letters of this org alone; of all configured ones where it is left out.
    #[arg(long, value_name = "NAME")]
    pub(super) org: Option<String>,
    /// Only say what would be done.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub(super) yes: bool,
    /// Say at the end as JSON what was done, and with which letters it cannot be done: an object on a line for each org.
    #[arg(long)]
    pub(super) json: bool,
}
