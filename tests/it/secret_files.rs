//! Files that hold what is nobody else's: their modes.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use crate::process::{Process, Run, ready};
use crate::world::{Plan, World};

/// A secret in a file of this mode for each key that a worker takes from one.
fn with_files(world: &World, arguments: &[&str], mode: u32) -> Run {
    let url = format!("url = {:?}\n", world.amqp_url);
    let secret = "client_secret = \"demo-secret\"\n";
    let (files, paths) = testkit::process::Configured::files(world);
    let mut run = Run::new(arguments);
    for path in paths {
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains(&url) || text.contains(secret) || text.contains("[wire]"), "{text}");
        let text = text.replace(&url, "url_file = \"url\"\n").replace(secret, "client_secret_file = \"client\"\n");
        run = run.config(&text);
    }
    drop(files);
    run = run.config("[http]\ntoken_file = \"token\"\n[mailer.smtp]\nuser = \"u\"\npassword_file = \"login\"\n");
    for (name, text) in [
        ("url", world.amqp_url.as_str()),
        ("client", "demo-secret"),
        ("token", "0123456789abcdef0123456789ABCDEF"),
        ("login", "x"),
    ] {
        let path = run.file(name, text);
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    run
}

const KEYS: [&str; 4] =
    ["amqp.url_file", "orgs.main.client_secret_file", "http.token_file", "mailer.smtp.password_file"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_secret_file_that_others_can_read_is_warned_of_at_the_start_and_by_check() {
    let world = Plan::new().prepare().await;
    for (mode, warned) in [(0o640, true), (0o604, true), (0o600, false), (0o400, false)] {
        let mut worker: Process = with_files(&world, &["--log", "json", "worker"], mode).start();
        ready(&worker.http().await).await;
        assert_eq!(worker.terminated().await.0, 0);
        let log = worker.stderr();
        for key in KEYS {
            let said = format!("{key}: others on this machine can read this secret");
            assert_eq!(log.contains(&said), warned, "{key} {mode:o}: {log}");
        }
        let (_, out, _) = with_files(&world, &["check"], mode).end().await;
        for key in KEYS {
            let is_warned =
                out.lines().any(|line| line.starts_with("warn") && line.contains("secret file") && line.contains(key));
            assert_eq!(is_warned, warned, "{key} {mode:o}: {out}");
        }
    }
}
