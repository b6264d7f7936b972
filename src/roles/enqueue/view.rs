//! How far a batch is, for people and for scripts: a line, a table, JSON, and the bar on a terminal.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::domain::batch::{Counts, Progress};
use crate::wire::moment;

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// One line: how many are done, and when it will end.
pub(super) fn line(progress: &Progress, now: Timestamp) -> String {
    let Counts { succeeded, failed, passed_through, superseded, expired, duplicate, notified, notification_failed } =
        progress.counts();
    let total = progress.total().map_or_else(|| "an unknown number".to_owned(), |total| total.to_string());
    let counts = [
        (succeeded, "succeeded"),
        (failed, "failed"),
        (expired, "expired"),
        (superseded, "superseded"),
        (duplicate, "done before"),
        (passed_through, "passed through"),
        (progress.untold(), "notification queued"),
        (notified, "mail sent"),
        (notification_failed, "mail failed"),
    ];
    format!("{} of {total} done{}", progress.done(), details(&counts, progress, now))
}

/// Beside the bar, which says how many are done: what must be seen on a narrow terminal too.
fn beside(progress: &Progress, now: Timestamp) -> String {
    let Counts { failed, expired, notification_failed, .. } = progress.counts();
    details(&[(failed, "failed"), (expired, "expired"), (notification_failed, "mail failed")], progress, now)
}

/// What there is of these, the rate, and when it will end.
fn details(counts: &[(u64, &str)], progress: &Progress, now: Timestamp) -> String {
    let some = counts.iter().filter(|(count, _)| *count > 0);
    let mut parts: Vec<String> = some.map(|(count, what)| format!("{count} {what}")).collect();
    if !progress.is_done() {
        parts.push(per_minute(progress, now).map_or_else(|| "no rate yet".into(), |rate| format!("{rate} a minute")));
        if let Some(left) = progress.time_left(now) {
            parts.push(format!("{} left", span(left)));
        }
    }
    parts.iter().fold(String::new(), |line, part| line + ", " + part)
}

fn per_minute(progress: &Progress, now: Timestamp) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is small and not negative")]
    progress.rate(now).map(|rate| (rate * 60.0).round() as u64)
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
pub(super) fn table(org: &str, batch: &str, progress: &Progress, now: Timestamp) -> String {
    let counts = progress.counts();
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(["batch", batch]);
    let mut row = |what: &str, value: String| {
        table.add_row([what.to_owned(), value]);
    };
    row("org", org.to_owned());
    row("lane", progress.lane().map_or("", |lane| lane.as_str()).to_owned());
    row("jobs", progress.total().map_or_else(|| "unknown: nobody announced it".to_owned(), |total| total.to_string()));
    row("done", progress.done().to_string());
    row("succeeded", counts.succeeded.to_string());
    row("failed", counts.failed.to_string());
    let others = [
        ("expired", counts.expired),
        ("superseded by a newer reset", counts.superseded),
        ("done before (duplicate)", counts.duplicate),
        ("passed through", counts.passed_through),
        ("notification queued", progress.untold()),
        ("mail sent", counts.notified),
        ("mail failed", counts.notification_failed),
    ];
    for (what, count) in others.into_iter().filter(|(_, count)| *count > 0) {
        row(what, count.to_string());
    }
    if !progress.is_done() {
        let rate =
            per_minute(progress, now).map_or_else(|| "not known yet".to_owned(), |rate| format!("{rate} a minute"));
        row("rate", rate);
        row("time left", progress.time_left(now).map_or_else(|| "not known yet".to_owned(), span));
    } else if let (Some(first), Some(last)) = (progress.first_finish(), progress.last_finish()) {
        row("from first to last", span(Duration::try_from(last.duration_since(first)).unwrap_or_default()));
    }
    table.to_string()
}

/// The same for scripts.
pub(super) fn json(org: &str, batch: &str, progress: &Progress, now: Timestamp) -> Value {
    let counts = progress.counts();
    let optional = |at: Option<Timestamp>| at.map(moment);
    json!({
        "batch": batch, "org": org, "lane": progress.lane().map(|lane| lane.as_str()), "complete": progress.is_done(),
        "jobs": progress.total(), "done": progress.done(), "waiting": progress.waiting(),
        "succeeded": counts.succeeded, "failed": counts.failed, "expired": counts.expired,
        "superseded": counts.superseded, "duplicate": counts.duplicate, "passedThrough": counts.passed_through,

        "notificationQueued": progress.untold(), "notified": counts.notified, "notificationFailed": counts.notification_failed,
        "ratePerMinute": per_minute(progress, now), "secondsLeft": progress.time_left(now).map(|left| left.as_secs()),
        "enqueuedAt": optional(progress.announced().map(|announced| announced.at)),
        "firstFinishedAt": optional(progress.first_finish()), "lastFinishedAt": optional(progress.last_finish()),
    })
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

    pub(super) fn show(&mut self, progress: &Progress, now: Timestamp) {
        if self.on_terminal {
            self.bar.set_length(progress.total().unwrap_or(progress.done()));
            self.bar.set_position(progress.done());
            self.bar.set_message(beside(progress, now));
        } else if self.last_line.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
            self.last_line = Some(Instant::now());
            let _ = writeln!(std::io::stderr(), "{}", line(progress, now));
        }
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::batch::{Announced, Ended, Record};
    use crate::domain::job::Lane;
    use crate::domain::outcome::OutcomeKind;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    /// 3,000 jobs at 5 a second, of which every tenth fails.
    fn half_done() -> Progress {
        let mut progress = Progress::default();
        progress.note(&Record::Announced(Announced { lane: Lane::Bulk, jobs: 3000, at: at(0) }));
        for n in 1..=1500 {
            let kind = if n % 10 == 0 { OutcomeKind::Failed } else { OutcomeKind::Succeeded };
            let job = format!("agents/{n}").into();
            let ended = Ended { job, lane: Lane::Bulk, kind, reason: None, detail: None, at: at(n / 5) };
            progress.note(&Record::Ended(ended));
        }
        progress
    }

    #[test]
    fn a_line_says_how_far_it_is_and_when_it_will_end() {
        insta::assert_snapshot!(line(&half_done(), at(300)), @"1500 of 3000 done, 1350 succeeded, 150 failed, 1350 notification queued, 296 a minute, 6 min left");
        insta::assert_snapshot!(line(&Progress::default(), at(0)), @"0 of an unknown number done, no rate yet");
    }

    #[test]
    fn beside_the_bar_stands_what_must_not_be_missed() {
        insta::assert_snapshot!(beside(&half_done(), at(300)), @", 150 failed, 296 a minute, 6 min left");
    }

    #[test]
    fn a_table_says_the_same_at_length() {
        insta::assert_snapshot!(table("main", "agents", &half_done(), at(300)), @r"
        ┌─────────────────────┬──────────────┐
        │ batch               ┆ agents       │
        ╞═════════════════════╪══════════════╡
        │ org                 ┆ main         │
        │ lane                ┆ bulk         │
        │ jobs                ┆ 3000         │
        │ done                ┆ 1500         │
        │ succeeded           ┆ 1350         │
        │ failed              ┆ 150          │
        │ notification queued ┆ 1350         │
        │ rate                ┆ 296 a minute │
        │ time left           ┆ 6 min        │
        └─────────────────────┴──────────────┘
        ");
    }

    #[test]
    fn a_span_is_said_as_people_say_it() {
        let said = [0, 1, 90, 91, 5400, 5401, 40_000].map(|seconds| span(Duration::from_secs(seconds)));
        assert_eq!(said, ["0 s", "1 s", "90 s", "2 min", "90 min", "1 h 30 min", "11 h 6 min"]);
    }
}
