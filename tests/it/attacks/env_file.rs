//! A `.env` goes over what `--config` says: it is taken from nobody else, and said to be there.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use crate::operator::process::{Process, Run, ends, ready, says};
use crate::world::Plan;

const OTHER: u32 = 65534;

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A command that reads the configuration and needs no broker.
fn dry_run(arguments: &[&str]) -> Run {
    let run = Run::new(&[&["enqueue", "--dry-run", "-"], arguments].concat());
    run.config("[orgs.main]\nregion = \"mypurecloud.com\"\n").stdin("userId,email\nu-1,a@example.com\n")
}

/// It, with a `.env` in a folder of these modes.
fn with(file: u32, folder: u32) -> Run {
    let run = dry_run(&[]);
    let path = run.file(".env", "RESETD__AMQP__URL=amqp://user:s3cret@elsewhere\n");
    mode(&path, file);
    mode(path.parent().unwrap(), folder);
    run
}

async fn taken(run: Run) {
    let (code, _, said) = run.end().await;
    assert_eq!(code, 0, "{said}");
    says(&said, &["adds to the environment"]);
    assert!(!said.contains("s3cret") && !said.contains("elsewhere"), "{said}");
}

async fn refused(run: Run, parts: &[&str]) {
    let said = ends(run, 2, parts).await;
    assert!(!said.contains("s3cret") && !said.contains("elsewhere"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_others_may_have_written_is_refused() {
    for (file, folder) in [(0o600, 0o700), (0o644, 0o755), (0o400, 0o500)] {
        taken(with(file, folder)).await;
    }
    for (file, folder, says) in [
        (0o666, 0o700, "it can be written by everybody (mode 666"),
        (0o660, 0o700, "it can be written by its group (mode 660"),
        (0o600, 0o777, "can be written by everybody (mode 777"),
        (0o600, 0o1777, "can be written by everybody (mode 1777"),
        (0o600, 0o775, "can be written by its group (mode 775"),
    ] {
        refused(with(file, folder), &[".env is not read", says, "--env-file"]).await;
    }
    // A link is as good as what it leads to, and the folder of that.
    let open = tempfile::tempdir().unwrap();
    let real = open.path().join("env");
    std::fs::write(&real, "A=s3cret\n").unwrap();
    for (folder, is_taken) in [(0o700, true), (0o777, false)] {
        mode(open.path(), folder);
        let run = dry_run(&[]);
        symlink(&real, run.file("x", "").with_file_name(".env")).unwrap();
        if is_taken {
            taken(run).await;
        } else {
            refused(run, &["its folder", "everybody"]).await;
        }
    }
    if !rustix::process::geteuid().is_root() {
        return; // only root gives a file away
    }
    for whose in [".env", "."] {
        let run = dry_run(&[]);
        let path = run.file(".env", "A=s3cret\n").with_file_name(whose);
        chown(path, Some(OTHER), None).unwrap();
        refused(run, &[".env is not read", "belongs to another user (uid 65534)"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_may_be_named_and_is_read_alone_and_by_the_same_rules() {
    let listens = |arguments: &[&str], env: u32| {
        let run = Run::new(arguments);
        mode(&run.file(".env", "RESETD__HTTP__LISTEN=usual\n"), env);
        mode(&run.file("named.env", "RESETD__HTTP__LISTEN=named\n"), 0o600);
        mode(&run.file("open.env", "RESETD__HTTP__LISTEN=open\n"), 0o646);
        run.config("[http]\nlisten = \"configured\"\n")
    };
    ends(listens(&["enqueue", "-"], 0o644), 2, &["http.listen is \"usual\""]).await;
    let named = || listens(&["enqueue", "-", "--env-file", "named.env"], 0o666);
    ends(named(), 2, &["http.listen is \"named\""]).await;
    ends(named().env("RESETD__HTTP__LISTEN", "process"), 2, &["http.listen is \"process\""]).await;
    let open = listens(&["--env-file", "open.env", "enqueue", "-"], 0o644);
    ends(open, 2, &["--env-file open.env is not read: it can be written by everybody"]).await;
    let none = listens(&["--env-file", "none.env", "enqueue", "-"], 0o644);
    ends(none, 2, &["--env-file none.env cannot be read"]).await;
}

/// However little is logged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_named_whatever_the_log_leaves_out() {
    for (filter, role) in [
        ("warn", "worker"),
        ("error", "worker"),
        ("off", "mailer"),
        ("lapin=warn", "mailer"),
        ("resetd::http=info", "mailer"),
        ("error", "demo"),
    ] {
        let run = Run::new(&[role]).env("RUST_LOG", filter);
        // Ends at once: it is no address, and nobody listens there.
        let text = "RESETD__HTTP__LISTEN=nowhere\nRESETD__AMQP__URL=amqp://127.0.0.1:1\n";
        mode(&run.file(".env", text), 0o600);
        let (code, _, said) = run.end().await;
        assert_ne!(code, 0, "{said}");
        says(&said, &["adds to the environment", "RESETD__HTTP__LISTEN, RESETD__AMQP__URL"]);
    }
}

/// It would say nothing that counts for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_no_configuration_reads_none() {
    for arguments in [&["schema", "job"][..], &["completions", "bash"], &["man", "worker"], &["keygen", "key"]] {
        for (text, env) in [("RESETD__AMQP__URL=x\n", 0o666), ("no pair\n", 0o600)] {
            let run = Run::new(arguments);
            mode(&run.file(".env", text), env);
            let (code, out, said) = run.env("RESETD__AMQP__PREFETCH", "none").end().await;
            assert!(code == 0 && !out.is_empty() && !said.contains(".env"), "{arguments:?}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_line_of_the_log_and_check_name_it_with_its_keys_and_no_value() {
    let world = Plan::new().prepare().await;
    let text = "GENESYS_CLIENT_ID=s3cret-1\nRESETD__RETRY__BASE=\"25ms\"\n";
    let start = |arguments: &[&str]| {
        let run = Run::of(&world, arguments);
        mode(&run.file(".env", text), 0o600);
        run
    };
    let mut worker: Process = start(&["--log", "json", "worker"]).start();
    ready(&worker.http().await).await;
    assert_eq!(worker.terminated().await.0, 0);
    let log = worker.stderr();
    let first = log.lines().next().unwrap();
    says(first, &["/.env\"", "GENESYS_CLIENT_ID, RESETD__RETRY__BASE", "\"level\":\"INFO\""]);
    let (_, out, _) = start(&["check"]).end().await;
    says(out.lines().next().unwrap(), &["ok", "env file", "/.env sets GENESYS_CLIENT_ID, RESETD__RETRY__BASE"]);
    let (_, json, _) = start(&["check", "--json"]).end().await;
    says(&json, &["\"env file\"", "/.env sets GENESYS_CLIENT_ID"]);
    let broken = start(&["check"]).config("[http]\nlisten = \"x\"\n");
    let (code, named, _) = broken.end().await;
    assert_eq!(code, 2);
    says(&named, &["env file", "GENESYS_CLIENT_ID"]);
    for said in [log, out, json, named] {
        assert!(!said.contains("s3cret") && !said.contains("25ms"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_holds_is_as_good_as_a_variable_of_the_process() {
    let with = |line: &str, arguments: &[&str]| {
        let run = Run::new(arguments);
        mode(&run.file(".env", &format!("{line}\n")), 0o600);
        run.file("a.csv", "userId,email,title,genesys:routingSkills\nu-1,a@example.com,T,[]\n");
        run.config("[orgs.main]\nregion = \"mypurecloud.com\"\n[wire]\nallowed_attributes = \"phoneNumbers\"\n")
    };
    let dry = ["enqueue", "--dry-run", "a.csv"];
    let (code, _, said) = with("RESETD__WIRE__ALLOWED_ATTRIBUTES=title, genesys:*", &dry).end().await;
    assert_eq!(code, 2, "{said}"); // a blank wants quotes
    let (code, out, said) = with("RESETD__WIRE__ALLOWED_ATTRIBUTES=\"title, genesys:*\"", &dry).end().await;
    assert_eq!(code, 0, "{out}{said}");
    let (code, ..) = with("RESETD__WIRE__ALLOWED_ATTRIBUTES=title", &dry).end().await;
    assert_eq!(code, 1, "a list in it goes over that of a file");
    refused(with("RESETD__AMQP__PREFECHT=3", &dry), &["prefecht"]).await;
    refused(with("RESETD__AMQP__URL_FILE=nowhere", &dry), &["amqp.url_file", "nowhere"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_log_is_silent_names_it_too() {
    let world = Plan::new().prepare().await;
    let run = Run::of(&world, &["enqueue", "--dry-run", "-"]).stdin("userId,email\nu-1,a@example.com\n");
    mode(&run.file(".env", "RESETD__AMQP__PREFIX=s3cret\n"), 0o600);
    let (code, _, said) = run.end().await;
    assert_eq!(code, 0, "{said}");
    says(&said, &["/.env adds to the environment: RESETD__AMQP__PREFIX"]);
    assert!(!said.contains("s3cret"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_may_be_named_and_one_that_is_no_file_is_not_waited_for() {
    let run = dry_run(&["--env-file", "/dev/null"]);
    mode(&run.file(".env", "not read\n"), 0o600);
    let (code, _, said) = run.end().await;
    assert_eq!((code, said.contains(".env")), (0, false), "{said}");
    let run = dry_run(&[]);
    let path = run.file(".env", "");
    std::fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    ends(run, 2, &[".env in the working folder cannot be read", "--env-file"]).await;
}
