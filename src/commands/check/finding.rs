//! What was found of one thing, and how it is written.

use serde::Serialize;

use crate::domain::escape::{escaped, escaped_json};

/// How a thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should.
    Ok,
    /// A worker will work, and somebody should know this.
    Warn,
    /// A worker will not work.
    Fail,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }

    /// Green, yellow, red.
    fn colour(self) -> &'static str {
        match self {
            Self::Ok => "32",
            Self::Warn => "33",
            Self::Fail => "1;31",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was looked at, such as `token`.
    pub(super) what: &'static str,
    /// Whose; none where it is everybody's.
    pub(super) org: Option<String>,
    /// How it stands.
    #[serde(rename = "result")]
    pub(super) level: Level,
    /// What was seen.
    pub(super) says: String,
    /// What to do.
    pub(super) cure: Option<String>,
}

impl Finding {
    pub(super) fn ok(what: &'static str, says: impl Into<String>) -> Self {
        Self { what, org: None, level: Level::Ok, says: says.into(), cure: None }
    }

    pub(super) fn warn(what: &'static str, says: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { level: Level::Warn, cure: Some(cure.into()), ..Self::ok(what, says) }
    }

    pub(super) fn fail(what: &'static str, says: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { level: Level::Fail, cure: Some(cure.into()), ..Self::ok(what, says) }
    }

    /// The same, of one org.
    pub(super) fn of(self, org: &str) -> Self {
        Self { org: Some(org.to_owned()), ..self }
    }
}

#[derive(Serialize)]
struct All<'a> {
    ok: bool,
    findings: &'a [Finding],
}

/// All of it for other programs.
pub(super) fn json(findings: &[Finding]) -> String {
    let ok = findings.iter().all(|finding| finding.level != Level::Fail);
    let json = serde_json::to_string_pretty(&All { ok, findings }).unwrap_or_default();
    escaped_json(&json).into_owned()
}

/// All of it for people: a line for each, and what to do below it.
pub(super) fn text(findings: &[Finding], colours: bool) -> String {
    let name = |finding: &Finding| match &finding.org {
        Some(org) => format!("{org}: {}", finding.what),
        None => finding.what.to_owned(),
    };
    let width = findings.iter().map(|finding| name(finding).chars().count()).max().unwrap_or(0);
    let line = |finding: &Finding| {
        let word = format!("{:<4}", finding.level.word());
        let word = if colours { format!("\u{1b}[{}m{word}\u{1b}[0m", finding.level.colour()) } else { word };
        let mut line = format!("{word}  {:<width$}  {}", name(finding), escaped(&finding.says));
        if let Some(cure) = &finding.cure {
            line += &format!("\n{:indent$}-> {}", "", escaped(cure), indent = width + 8);
        }
        line
    };
    findings.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::ok("broker", "RabbitMQ 3.13.7"),
            Finding::warn("topology", "nothing is there yet", "start a worker").of("main"),
            Finding::fail("token", "refused\u{1b}[2J", "check client_id").of("main"),
        ]
    }

    #[test]
    fn a_line_says_how_it_stands_and_the_next_what_to_do() {
        insta::assert_snapshot!(text(&findings(), false), @r"
        ok    broker          RabbitMQ 3.13.7
        warn  main: topology  nothing is there yet
                              -> start a worker
        FAIL  main: token     refused\u{1b}[2J
                              -> check client_id
        ");
    }

    #[test]
    fn colours_are_the_words_alone() {
        let coloured = text(&findings()[..1], true);
        assert_eq!(coloured, "\u{1b}[32mok  \u{1b}[0m  broker  RabbitMQ 3.13.7");
    }

    #[test]
    fn json_has_all_of_it_and_whether_anything_failed() {
        insta::assert_snapshot!(json(&findings()[1..2]), @r#"
        {
          "ok": true,
          "findings": [
            {
              "what": "topology",
              "org": "main",
              "result": "warn",
              "says": "nothing is there yet",
              "cure": "start a worker"
            }
          ]
        }
        "#);
        assert!(json(&findings()).contains("\"ok\": false"));
    }
}
