//! Whoever may put a job into a queue, or a name into a file, forges no line of what a person reads.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::operator::process::{Process, Run, ready};
use crate::world::{Plan, eventually, named, reset_body, text, with_header};

/// A line break and what looks like a line of the log; a terminal's sequence by C0 and by C1; a text that is read backwards, a blank
/// that is not seen, and the two other ends of a line.
const FORGED: &str = "job-1\n2026-11-28T20:00:00.000000Z  INFO resetd: all is well\u{1b}[2J\u{9b}31m\u{202e}cba\u{200b}\u{2028}x\u{2029}y";

/// No character of it does anything but stand there.
fn is_plain(said: &str) {
    let odd: Vec<char> = said
        .chars()
        .filter(|c| {
            (c.is_control() && *c != '\n')
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        })
        .collect();
    assert!(odd.is_empty(), "{odd:?} in {said:?}");
    let forged: Vec<&str> = said.lines().filter(|line| line.starts_with("2026-11-28T20:00:00.000000Z")).collect();
    assert!(forged.is_empty(), "{said}");
}

/// The fields of a line of the text log from `job.id` on, in their order: a value ends at a blank, or is quoted.
fn fields(line: &str) -> Vec<(String, String)> {
    let mut rest = &line[line.find("job.id=").unwrap()..];
    let mut fields = Vec::new();
    while let Some((key, value)) = rest.split_once('=') {
        let (value, after) = match value.strip_prefix('"') {
            None => value.split_once(' ').unwrap_or((value, "")),
            Some(quoted) => {
                let is_open = |text: &str| text.bytes().rev().take_while(|c| *c == b'\\').count() % 2 == 1;
                let end = quoted.match_indices('"').map(|(at, _)| at).find(|at| !is_open(&quoted[..*at])).unwrap();
                (&quoted[..end], quoted[end + 1..].trim_start())
            }
        };
        fields.push((key.to_owned(), value.replace("\\\"", "\"").replace("\\\\", "\\").replace("\\u{a0}", "\u{a0}")));
        rest = after;
    }
    assert_eq!(rest, "", "{line}");
    fields
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_from_outside_is_one_escaped_text_in_logs_tables_and_progress() {
    let world = Plan::new().prepare().await;
    let refuses = json!({"status": 400, "always": true, "user": "refused"});
    world.main().add_fault(serde_json::from_value(refuses).unwrap());
    let start = |format: &str| Run::of(&world, &["--log", format, "worker"]).start();
    let (in_text, mut in_json): (Process, Process);
    {
        let mut worker = start("text");
        ready(&worker.http().await).await;
        let properties = with_header(named(FORGED), "batch", text("wave\u{202e}1"));
        world.publish("main", reset_body("refused").to_string().as_bytes(), properties).await;
        eventually("its end is logged", async || worker.stderr().contains("job dead-lettered").then_some(())).await;
        assert_eq!(worker.terminated().await.0, 0);
        in_text = worker;
    }
    let said = in_text.stderr();
    is_plain(&said);
    assert!(
        said.contains(r#"job.id="job-1\n2026-11-28T20:00:00.000000Z  INFO resetd: all is well\u{1b}[2J"#),
        "{said}"
    );

    in_json = start("json");
    ready(&in_json.http().await).await;
    let other = format!("{FORGED}-2");
    world.publish("main", reset_body("refused").to_string().as_bytes(), named(&other)).await;
    eventually("its end is logged", async || in_json.stderr().contains("job dead-lettered").then_some(())).await;
    assert_eq!(in_json.terminated().await.0, 0);
    let said = in_json.stderr();
    is_plain(&said);
    let ids: Vec<String> = said
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter_map(|line| Some(line["job.id"].as_str()?.to_owned()))
        .collect();
    assert!(!ids.is_empty() && ids.iter().all(|id| *id == other), "a program reads what was sent: {ids:?}");

    for arguments in [&["dead", "list"][..], &["dead", "show", FORGED], &["batch", "wave\u{202e}1", "--once"]] {
        let (code, out, said) = Run::of(&world, arguments).end().await;
        assert_eq!(code, 0, "{said}");
        is_plain(&out);
        is_plain(&said);
        assert!(out.contains(r"\u{202e}"), "{arguments:?}: {out}");
    }
    for arguments in [&["dead", "list", "--json"][..], &["dead", "show", FORGED, "--json"]] {
        let (code, out, _) = Run::of(&world, arguments).end().await;
        assert_eq!(code, 0);
        is_plain(&out);
        let id = format!("{}", json!(FORGED)).replace(['\u{9b}', '\u{202e}'], "");
        assert!(out.contains(&id[1..20]), "{out}");
    }
    // One that cannot be replayed is named.
    let mut worker = start("text");
    ready(&worker.http().await).await;
    let mut body = reset_body("refused");
    body["unknown"] = json!(1);
    let id = format!("{FORGED}\u{9b}2");
    world.publish("main", body.to_string().as_bytes(), named(&id)).await;
    eventually("its end is logged", async || worker.stderr().contains("job dead-lettered").then_some(())).await;
    assert_eq!(worker.terminated().await.0, 0);
    let (code, out, said) = Run::of(&world, &["dead", "replay", &id, "--yes", "--json"]).end().await;
    assert_eq!(code, 1, "{out}{said}");
    is_plain(&out);
    assert!(out.contains(r"\u009b2"), "{out}");
    // An error that names what it was asked for.
    let (code, _, said) = Run::of(&world, &["dead", "show", "no\u{202e}such\nid"]).end().await;
    assert_eq!(code, 1);
    is_plain(&said);
    assert!(!said.contains("\nid"), "{said}");
}

/// Blanks, an equals sign and quotes in an id make no field of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_from_outside_is_one_field_of_a_text_log() {
    let world = Plan::new().prepare().await;
    let refuses = json!({"status": 400, "always": true, "user": "refused"});
    world.main().add_fault(serde_json::from_value(refuses).unwrap());
    let ids = [
        "plain",
        "a outcome=done reason=none",
        "b=c",
        "\"d\" outcome=\"done\" reason=\"e\"",
        "f\" outcome=\"done",
        "\"g",
        "\"h\\\" outcome=done reason=\"\"",
        "i\u{a0}outcome=done",
        "j\\k l",
    ];
    let mut worker = Run::of(&world, &["--log", "text", "worker"]).start();
    ready(&worker.http().await).await;
    for id in ids {
        world.publish("main", reset_body("refused").to_string().as_bytes(), named(id)).await;
    }
    let ends = |said: &str| said.lines().filter(|line| line.contains(" outcome=\"failed\"")).count();
    eventually("their ends are logged", async || (ends(&worker.stderr()) >= ids.len()).then_some(())).await;
    assert_eq!(worker.terminated().await.0, 0);
    let said = worker.stderr();
    let lines: Vec<_> = said.lines().filter(|line| line.contains("job.id=")).map(fields).collect();
    let mut seen = BTreeSet::new();
    for fields in &lines {
        assert_eq!(fields[0].0, "job.id", "{fields:?}");
        let keys: BTreeSet<&str> = fields.iter().map(|(key, _)| key.as_str()).collect();
        let own = ["job.id", "org", "lane", "outcome", "reason", "attempt", "status", "detail", "next", "delay_ms"];
        assert!(keys.len() == fields.len() && keys.iter().all(|key| own.contains(key)), "{fields:?}");
        assert!(!fields.iter().any(|(key, value)| key == "outcome" && value == "done"), "{fields:?}");
        seen.insert(fields[0].1.as_str());
    }
    assert_eq!(seen, BTreeSet::from(ids), "{said}");
}

#[tokio::test]
async fn a_column_from_a_file_is_escaped_in_the_errors_of_enqueue() {
    let world = Plan::new().prepare().await;
    let run = Run::of(&world, &["enqueue", "agents.csv"]);
    run.file("agents.csv", "userId,email,genesys:x\u{202e}\u{200b}y\nu-1,a@example.com,[1\n");
    let (code, _, said) = run.end().await;
    assert_eq!(code, 1, "{said}");
    is_plain(&said);
    assert!(said.contains(r"line 2: column genesys:x\u{202e}\u{200b}y: the cell begins like JSON"), "{said}");
}
