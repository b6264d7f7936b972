//! How far a batch is, for people and for scripts: a line, a table, JSON, and the bar on a terminal.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::{Timestamp, Unit};
use serde_json::{Map, Value, json};

use super::follow::{Batch, Outlook, Seen};
use crate::domain::batch::{Counts, Progress};
use crate::domain::blocked::Blocked;
use crate::domain::escape::escaped;
use crate::wire::moment;

/// So many of those that failed for a reason are named in the table.
const NAMED: usize = 5;
/// And in JSON.
const MOST_NAMED: usize = 20;

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// One line: how many are done, and when it will end.
pub(super) fn line(progress: &Progress, outlook: &Outlook, now: Timestamp) -> String {
    let Counts {
        succeeded,
        failed,
        passed_through,
        superseded,
        expired,
        duplicate,
        notified,
        notification_failed,
        notification_superseded,
    } = progress.counts();
    let total = progress.total().map_or_else(|| "an unknown number".to_owned(), |total| total.to_string());
    let counts = [
        (succeeded, "succeeded"),
        (failed, "failed"),
        (expired, "expired"),
        (superseded, "superseded"),
        (duplicate, "done before"),
        (passed_through, "passed through"),
        (progress.not_notified(), "notification queued"),
        (notified, "mail sent"),
        (notification_failed, "mail failed"),
        (notification_superseded, "mail superseded"),
    ];
    let line = format!("{} of {total} done{}", progress.done(), details(&counts, progress, outlook, now));
    escaped(&line).into_owned()
}

/// Beside the bar, which says how many are done: what must be seen on a narrow terminal too.
fn beside(progress: &Progress, outlook: &Outlook, now: Timestamp) -> String {
    let Counts { failed, expired, notification_failed, .. } = progress.counts();
    let counts = [(failed, "failed"), (expired, "expired"), (notification_failed, "mail failed")];
    let text = match &outlook.blocked {
        // The reason is in the lines and in the table.
        Some(blocked) => listed(&counts) + ", " + &until(blocked),
        None => details(&counts, progress, outlook, now),
    };
    escaped(&text).into_owned()
}

/// What there is of these, the rate, and when it will end or what keeps it.
fn details(counts: &[(u64, &str)], progress: &Progress, outlook: &Outlook, now: Timestamp) -> String {
    let mut line = listed(counts);
    if !progress.is_done() {
        line += &match progress.ended_lately(now) {
            0 => ", none in the last 60 s".to_owned(),
            ended => format!(", {ended} in the last 60 s"),
        };
        if let Some(blocked) = &outlook.blocked {
            line += &format!(", {}", waits(blocked));
        } else if let Some(left) = outlook.time_left(progress, now) {
            line += &format!(", {} left", span(left));
        }
    }
    line
}

fn listed(counts: &[(u64, &str)]) -> String {
    let some = counts.iter().filter(|(count, _)| *count > 0);
    some.fold(String::new(), |line, (count, what)| line + &format!(", {count} {what}"))
}

/// What keeps it, and until when: `bulk lane closed, until 2026-11-29T06:00:00Z`.
fn until(blocked: &Blocked) -> String {
    let Blocked { cause, until, .. } = blocked;
    match until.and_then(|until| until.round(Unit::Second).ok()) {
        Some(moment) => format!("{}, {} {moment}", cause.words(), cause.then()),
        None => cause.words().into_owned(),
    }
}

/// The same with its reason.
fn waits(blocked: &Blocked) -> String {
    format!("{}: {}", until(blocked), blocked.reason)
}

/// A time that nobody counts in seconds once it is long.
fn span(time: Duration) -> String {
    let seconds = time.as_secs_f64().ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a span is not negative")]
    let seconds = seconds as u64;
    match seconds {
        0..=90 => format!("{seconds} s"),
        91..=5400 => format!("{} min", seconds.div_ceil(60)),
        5401.. => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// The table.
pub(super) fn table(batch: &Batch<'_>, seen: &Seen, now: Timestamp) -> String {
    let (Batch { org, name, .. }, progress, outlook) = (batch, &seen.progress, &seen.outlook(now));
    let counts = progress.counts();
    let mut table = Table::new();
    table
        .load_preset(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["batch", &*escaped(name)]);
    let mut row = |what: &str, value: String| {
        table.add_row([escaped(what), escaped(&value)]);
    };
    row("org", (*org).to_owned());
    row("lane", progress.lane().map_or("", |lane| lane.as_str()).to_owned());
    row("jobs", progress.total().map_or_else(|| "unknown: nobody announced it".to_owned(), |total| total.to_string()));
    row("done", progress.done().to_string());
    row("succeeded", counts.succeeded.to_string());
    row("failed", counts.failed.to_string());
    // Those that expired have a row of their own.
    for (reason, jobs) in seen.by_reason().into_iter().filter(|(reason, _)| *reason != "expired") {
        row(&format!("  {reason}"), named(name, &jobs));
    }
    let others = [
        ("expired", counts.expired),
        ("superseded by a newer reset", counts.superseded),
        ("done before (duplicate)", counts.duplicate),
        ("passed through", counts.passed_through),
        ("notification queued", progress.not_notified()),
        ("mail sent", counts.notified),
        ("mail failed", counts.notification_failed),
        ("mail superseded by a newer reset", counts.notification_superseded),
    ];
    for (what, count) in others.into_iter().filter(|(_, count)| *count > 0) {
        row(what, count.to_string());
    }
    if !progress.is_done() {
        row("ended in the last 60 s", progress.ended_lately(now).to_string());
        match &outlook.blocked {
            Some(blocked) => row("waits", waits(blocked)),
            None => {
                let left = outlook.time_left(progress, now);
                row("time left", left.map_or_else(|| "not known: none of its jobs ended lately".to_owned(), span));
            }
        }
    } else if let (Some(first), Some(last)) = (progress.first_finish(), progress.last_finish()) {
        row("from first to last", span(Duration::try_from(last.duration_since(first)).unwrap_or_default()));
    }
    table.to_string()
}

/// How many there are, and whose the first of them are.
fn named(batch: &str, jobs: &[&str]) -> String {
    let some: Vec<&str> = jobs.iter().take(NAMED).map(|job| user_of(batch, job)).collect();
    let more = jobs.len().saturating_sub(NAMED);
    let rest = if more > 0 { format!(" and {more} more (resetd dead list)") } else { String::new() };
    format!("{}: {}{rest}", jobs.len(), some.join(", "))
}

/// Whose job it is, as far as its id says.
fn user_of<'a>(batch: &str, job: &'a str) -> &'a str {
    job.strip_prefix(batch).and_then(|rest| rest.strip_prefix('/')).unwrap_or(job)
}

/// The same for scripts.
pub(super) fn json(batch: &Batch<'_>, seen: &Seen, now: Timestamp) -> Value {
    let (Batch { org, name, .. }, progress, outlook) = (batch, &seen.progress, seen.outlook(now));
    let counts = progress.counts();
    let given_up = seen.by_reason().into_iter().map(|(reason, jobs)| {
        let users = jobs.iter().take(MOST_NAMED).map(|job| Value::from(user_of(name, job))).collect();
        (reason.to_owned(), Value::Array(users))
    });
    let blocked = outlook.blocked.as_ref().map(
        |blocked| json!({"cause": blocked.cause.as_str(), "reason": blocked.reason, "until": optional(blocked.until)}),
    );
    json!({
        "batch": name, "org": org, "lane": progress.lane().map(|lane| lane.as_str()), "complete": progress.is_done(),
        "jobs": progress.total(), "done": progress.done(), "waiting": progress.waiting(),
        "succeeded": counts.succeeded, "failed": counts.failed, "expired": counts.expired,
        "superseded": counts.superseded, "duplicate": counts.duplicate, "passedThrough": counts.passed_through,
        "notificationQueued": progress.not_notified(), "notified": counts.notified, "notificationFailed": counts.notification_failed,
        "notificationSuperseded": counts.notification_superseded,
        "givenUp": given_up.collect::<Map<_, _>>(),
        "ratePerMinute": progress.ended_lately(now), "blocked": blocked,
        "secondsLeft": outlook.time_left(progress, now).map(|left| left.as_secs()),
        "enqueuedAt": optional(progress.announced().map(|announced| announced.at)),
        "firstFinishedAt": optional(progress.first_finish()), "lastFinishedAt": optional(progress.last_finish()),
    })
}

fn optional(at: Option<Timestamp>) -> Option<String> {
    at.map(moment)
}

/// A bar on a terminal, else a line now and then; on stderr, since stdout is for data.
pub(super) struct Bar {
    bar: ProgressBar,
    on_terminal: bool,
    last_line: Option<Instant>,
}

impl Bar {
    pub(super) fn new(jobs: u64) -> Self {
        let style = ProgressStyle::with_template("{wide_bar:.green} {pos}/{len}{msg}");
        let bar = ProgressBar::new(jobs).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, on_terminal: std::io::stderr().is_terminal(), last_line: None }
    }

    /// One more job is queued.
    pub(super) fn queued(&self) {
        self.bar.inc(1);
    }

    pub(super) fn show(&mut self, seen: &Seen, now: Timestamp) {
        let (progress, outlook) = (&seen.progress, &seen.outlook(now));
        if self.on_terminal {
            self.bar.set_length(progress.total().unwrap_or(progress.done()));
            self.bar.set_position(progress.done());
            self.bar.set_message(beside(progress, outlook, now));
        } else if self.last_line.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
            self.last_line = Some(Instant::now());
            let _ = writeln!(std::io::stderr(), "{}", line(progress, outlook, now));
        }
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::follow::Since;
    use super::*;
    use crate::config::{Config, Environment};
    use crate::domain::batch::{Announced, Ended, Record};
    use crate::domain::blocked::Cause;
    use crate::domain::job::Lane;
    use crate::domain::outcome::OutcomeKind;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    /// 3,000 jobs at 5 a second, of which every tenth fails.
    fn half_done() -> Progress {
        let mut progress = Progress::default();
        progress.note(&Record::Announced(Announced { lane: Lane::Bulk, jobs: 3000, at: at(0), not_before: None }));
        for n in 1..=1500 {
            let kind = if n % 10 == 0 { OutcomeKind::Failed } else { OutcomeKind::Succeeded };
            let job = format!("agents/{n}").into();
            let ended = Ended { job, lane: Lane::Bulk, kind, at: at(n / 5) };
            progress.note(&Record::Ended(ended));
        }
        progress
    }

    #[test]
    fn a_line_says_how_far_it_is_and_when_it_will_end() {
        insta::assert_snapshot!(line(&half_done(), &Outlook::default(), at(300)), @"1500 of 3000 done, 1350 succeeded, 150 failed, 1350 notification queued, 296 in the last 60 s, 6 min left");
        insta::assert_snapshot!(line(&Progress::default(), &Outlook::default(), at(0)), @"0 of an unknown number done, none in the last 60 s");
    }

    #[test]
    fn beside_the_bar_stands_what_must_not_be_missed() {
        insta::assert_snapshot!(beside(&half_done(), &Outlook::default(), at(300)), @", 150 failed, 296 in the last 60 s, 6 min left");
    }

    #[test]
    fn a_table_says_the_same_at_length() {
        let config = Config::load(&[], Environment::default()).unwrap();
        let batch = Batch { config: &config, org: "main", name: "agents", since: Since::Ever };
        let mut seen = Seen::default();
        seen.progress = half_done();
        for (n, reason) in [(10, "rejected"), (20, "not_found"), (30, "not_found")] {
            seen.given_up.insert(format!("agents/{n}"), (reason.to_owned(), String::new()));
        }
        insta::assert_snapshot!(table(&batch, &seen, at(300)), @r"
        ┌────────────────────────┬───────────┐
        │ batch                  ┆ agents    │
        ╞════════════════════════╪═══════════╡
        │ org                    ┆ main      │
        │ lane                   ┆ bulk      │
        │ jobs                   ┆ 3000      │
        │ done                   ┆ 1500      │
        │ succeeded              ┆ 1350      │
        │ failed                 ┆ 150       │
        │   not_found            ┆ 2: 20, 30 │
        │   rejected             ┆ 1: 10     │
        │ notification queued    ┆ 1350      │
        │ ended in the last 60 s ┆ 296       │
        │ time left              ┆ 6 min     │
        └────────────────────────┴───────────┘
        ");
    }

    #[test]
    fn what_keeps_it_is_said_in_place_of_an_estimate() {
        let reason = "its hours".to_owned();
        let blocked = Some(Blocked { cause: Cause::LaneClosed(Lane::Bulk), reason, until: Some(at(3600)) });
        let mut outlook = Outlook { blocked, in_force: Some(300) };
        insta::assert_snapshot!(line(&half_done(), &outlook, at(300)), @"1500 of 3000 done, 1350 succeeded, 150 failed, 1350 notification queued, 296 in the last 60 s, bulk lane closed, until 2027-01-15T09:00:00Z: its hours");
        insta::assert_snapshot!(beside(&half_done(), &outlook, at(300)), @", 150 failed, bulk lane closed, until 2027-01-15T09:00:00Z");
        outlook.blocked = Some(Blocked { cause: Cause::NoWorker, reason: "start one".into(), until: None });
        insta::assert_snapshot!(beside(&half_done(), &outlook, at(300)), @", 150 failed, no worker");
        assert_eq!(outlook.time_left(&half_done(), at(300)), None);
    }

    #[test]
    fn those_who_failed_are_named_and_many_are_counted() {
        let jobs: Vec<String> = (0..7).map(|n| format!("agents/u-{n}")).collect();
        let jobs: Vec<&str> = jobs.iter().map(String::as_str).collect();
        assert_eq!(named("agents", &jobs), "7: u-0, u-1, u-2, u-3, u-4 and 2 more (resetd dead list)");
        assert_eq!(named("agents", &["agents-2/u", "job-1"]), "2: agents-2/u, job-1");
    }

    #[test]
    fn a_span_is_said_as_people_say_it() {
        let said = [0, 1, 90, 91, 5400, 5401, 40_000].map(|seconds| span(Duration::from_secs(seconds)));
        assert_eq!(said, ["0 s", "1 s", "90 s", "2 min", "90 min", "1 h 30 min", "11 h 6 min"]);
    }
}
