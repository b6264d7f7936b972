//! The command line's manners: help with examples, completions, manual pages, the version, colours, and mistakes explained.

use std::process::{Command, Stdio};

use resetd::domain::job::Lane;

use crate::operator::process::{Run, ends, says};

/// What it writes to stdout, where it ends well and says nothing else.
async fn written(arguments: &[&str]) -> String {
    let (code, out, said) = Run::new(arguments).end().await;
    assert_eq!((code, said.as_str()), (0, ""), "{arguments:?}");
    out
}

/// Its help as it looks on a terminal; `script` takes these flags on Linux alone.
#[cfg(target_os = "linux")]
fn on_a_terminal(variables: &[(&str, &str)]) -> String {
    let command = format!("{} sim --help", env!("CARGO_BIN_EXE_resetd"));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &command, "/dev/null"]).env_remove("NO_COLOR");
    let shown = script.env("TERM", "xterm").envs(variables.iter().copied()).stdin(Stdio::null()).output().unwrap();
    assert!(shown.status.success());
    String::from_utf8(shown.stdout).unwrap()
}

const ORG: &str = "[orgs.main]\nregion = \"mypurecloud.com\"\nclient_id = \"c\"\nclient_secret = \"s\"\n";
const WIRE: &str = "[wire]\npassword = \"sha256\"\nextensions = \"urn\"\n";
const NOBODY: &str = "[amqp]\nurl = \"amqp://guest:s3cr3t@127.0.0.1:1/%2f\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_help_says_what_to_do_with_examples() {
    insta::assert_snapshot!("help", written(&["--help"]).await);
    // Those of the other subcommands are beside what they do.
    for role in ["worker", "mailer", "sim", "demo", "keygen", "completions", "man"] {
        let help = written(&[role, "--help"]).await;
        says(&help, &["Example", &format!(" {role}")]);
        insta::assert_snapshot!(format!("help of {role}"), help);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_shell_gets_completions_with_every_subcommand() {
    for (shell, start) in [("bash", "_resetd()"), ("zsh", "#compdef resetd"), ("fish", "# Print an optspec")] {
        let script = written(&["completions", shell]).await;
        assert!(script.starts_with(start), "{shell}: {script}");
        says(&script, &["enqueue", "not-before", "replay"]);
    }
    let script = written(&["completions", "bash"]).await;
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut bash.stdin.take().unwrap(), script.as_bytes()).unwrap();
    assert!(bash.wait().unwrap().success());
    ends(Run::new(&["completions", "tcsh"]), 2, &["tcsh", "bash", "zsh", "fish"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_subcommand_has_a_manual_page() {
    let page = written(&["man", "dead", "replay"]).await;
    says(&page, &[".TH resetd-dead-replay 1", "fBresetd dead replay", "\\-\\-dry\\-run", "retries_exhausted"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    assert_eq!(written(&["man", "--into", path]).await, "");
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    insta::assert_snapshot!("manual pages", names.join("\n"));
    assert_eq!(
        std::fs::read_to_string(folder.path().join("resetd-dead-replay.1")).unwrap().trim_end(),
        page.trim_end()
    );
    ends(Run::new(&["man", "nothing"]), 2, &["\"nothing\"", "worker, mailer, enqueue", "check"]).await;
    ends(Run::new(&["man", "--into", "nowhere"]), 1, &["nowhere", "it must be a folder"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_version_has_the_commit_where_it_is_built_from_a_checkout() {
    let version = written(&["--version"]).await;
    assert_eq!(version.trim_end(), format!("resetd {}", env!("RESETD_VERSION")));
    let rest = version.trim_end().strip_prefix(concat!("resetd ", env!("CARGO_PKG_VERSION"))).unwrap();
    let commit = rest.strip_prefix(" (").and_then(|rest| rest.strip_suffix(')'));
    let is_commit = commit.is_some_and(|commit| commit.len() >= 7 && commit.bytes().all(|c| c.is_ascii_hexdigit()));
    assert!(is_commit || rest.is_empty(), "{version}");
}

#[cfg(target_os = "linux")]
#[test]
fn colours_are_for_terminals_and_not_where_no_color_is_set() {
    let coloured = on_a_terminal(&[]);
    assert!(coloured.contains("\u{1b}["), "{coloured}");
    let plain = on_a_terminal(&[("NO_COLOR", "1")]);
    assert!(plain.contains("--quota") && !plain.contains('\u{1b}'), "{plain}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_broker_each_subcommand_says_so_and_what_to_do() {
    let file = "userId,email\nu,agent@example.com\n";
    let commands: [&[&str]; 5] =
        [&["enqueue", "-"], &["batch", "b"], &["dead", "list"], &["dead", "show", "job"], &["demo"]];
    for arguments in commands {
        let run = Run::new(arguments).config(NOBODY).stdin(file);
        let run = if arguments == ["demo"] { run } else { run.config(WIRE).config(ORG) };
        let said = ends(run, 1, &["broker at 127.0.0.1:1", "refused", "is RabbitMQ running there", "amqp.url"]).await;
        assert!(!said.contains("s3cr3t") && !said.contains("has a worker"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_that_is_not_there_ends_with_2_and_those_that_are() {
    let commands: [&[&str]; 4] =
        [&["enqueue", "-"], &["batch", "b"], &["dead", "list"], &["dead", "replay", "--all", "--yes"]];
    for arguments in commands {
        let all: Vec<&str> = arguments.iter().chain(&["--org", "nope"]).copied().collect();
        let run = Run::new(&all).config(NOBODY).config(WIRE).config(ORG);
        ends(run, 2, &["--org", "\"nope\"", "one of main"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_does_not_do_ends_with_2_and_one_that_does() {
    let wrong: [(&[&str], &[&str]); 6] = [
        (&["enqueue", "--not-before", "tomorrow", "-"], &["--not-before", "tomorrow", "2026-11-24T18:00:00Z"]),
        (&["enqueue", "--not-after", "2026-11-24", "-"], &["--not-after", "RFC 3339"]),
        (&["enqueue", "--lane", "fast", "-"], &["--lane", &Lane::NAMES.join(", ")]),
        (&["dead", "list", "--since", "yesterday"], &["--since", "30m"]),
        (&["sim", "--listen", "8080"], &["--listen", "127.0.0.1:8080"]),
        (&["sim", "--latency", "5"], &["--latency", "250ms"]),
    ];
    for (arguments, parts) in wrong {
        ends(Run::new(arguments), 2, parts).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_not_there_is_named() {
    ends(Run::new(&["enqueue", "nowhere.csv"]).config(WIRE).config(ORG), 1, &["nowhere.csv", "No such file"]).await;
    for flag in ["--settings", "--users", "--faults"] {
        ends(Run::new(&["sim", flag, "nowhere.file"]), 1, &["cannot read", "nowhere.file"]).await;
    }
}
