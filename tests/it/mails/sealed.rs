//! Sealed notifications: made by `resetd keygen`, opened by the samples, and no password in any byte that the broker was given.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use lapin::options::BasicGetOptions;
use resetd::transport::seal::Keys;
use resetd::wire;
use serde_json::{Value, json};

use crate::broker::Node;
use crate::operator::ops::disguises;
use crate::operator::process::{Process, Run, ends, says};
use crate::relay::Relay;
use crate::world::{Plan, Taken, World, eventually, named, reset_body, unlimited};

/// A pair that `resetd keygen` made.
struct Pair {
    kid: String,
    folder: tempfile::TempDir,
}

impl Pair {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("mail-2026.11");
        let (code, out, said) = Run::new(&["keygen", name.to_str().unwrap()]).end().await;
        assert_eq!((code, said.as_str()), (0, ""));
        let kid = out.strip_prefix("# kid ").unwrap().split(':').next().unwrap().to_owned();
        let config: toml::Table = out.parse().unwrap();
        let pair = Self { kid, folder };
        assert_eq!(config["notification"]["seal_to"][0].as_str(), pair.public().to_str());
        assert_eq!(config["mailer"]["open_with"][0].as_str(), pair.private().to_str());
        pair
    }

    fn public(&self) -> PathBuf {
        self.folder.path().join("mail-2026.11.pub.pem")
    }

    fn private(&self) -> PathBuf {
        self.folder.path().join("mail-2026.11.key.pem")
    }

    fn keys(&self) -> Keys {
        Keys::load(&[self.private()]).unwrap()
    }
}

/// Seals to the first of these.
fn seal_to(pairs: &[&Pair]) -> String {
    let files: Vec<PathBuf> = pairs.iter().map(|pair| pair.public()).collect();
    format!("[notification]\nseal_to = {files:?}\n")
}

/// User and password of a mail, which was sealed or not.
fn told(mail: &Taken, keys: Option<&Keys>) -> (String, String) {
    let json = mail.json();
    let password = match keys {
        None => json["temporaryPassword"].as_str().unwrap().to_owned(),
        Some(keys) => {
            assert!(json.get("temporaryPassword").is_none() && json.get("body").is_none(), "{json}");
            let opened = keys.open(json["sealed"].as_str().unwrap()).unwrap();
            let read = wire::notification::read(&mail.body, &mail.properties, jiff::Timestamp::now());
            let (note, _) = read.unwrap();
            let words = wire::notification::words(&opened, &note).unwrap();
            assert!(words.body.contains(words.password.expose()));
            words.password.expose().to_owned()
        }
    };
    (json["userId"].as_str().unwrap().to_owned(), password)
}

/// Everything that lies in a queue, and stays there.
async fn seen(world: &World, queue: &str) -> Vec<Taken> {
    let channel = world.channel().await;
    let (name, mut seen) = (world.named(queue), Vec::new());
    while let Some(got) = channel.basic_get(name.as_str().into(), BasicGetOptions::default()).await.unwrap() {
        let (body, properties) = (got.delivery.data, got.delivery.properties);
        seen.push(Taken { routing_key: got.delivery.routing_key.to_string(), body, properties });
    }
    channel.close(200, "seen".into()).await.unwrap();
    seen
}

/// The content of all files below a folder.
fn files(folder: &Path, into: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files(&entry.path(), into);
        } else if kind.is_file() {
            into.push((entry.path().display().to_string(), std::fs::read(entry.path()).unwrap()));
        }
    }
}

/// How many of these passwords are to be found in some of this, in any disguise.
fn found(passwords: &[String], places: &[(String, Vec<u8>)]) -> usize {
    let texts: Vec<_> = places.iter().map(|(_, bytes)| String::from_utf8_lossy(bytes)).collect();
    let is_there = |password: &&String| {
        let disguises = disguises(password);
        disguises.iter().any(|disguise| texts.iter().any(|text| text.contains(disguise.as_str())))
    };
    passwords.iter().filter(is_there).count()
}

/// The passwords that the org was sent.
fn set_passwords(org: &Relay) -> BTreeSet<String> {
    const BEGINNING: &[u8] = br#"{"schemas""#;
    let mut set = BTreeSet::new();
    for heard in org.heard() {
        let beginnings = (0..heard.len()).filter(|at| heard[*at..].starts_with(BEGINNING));
        for at in beginnings {
            let body = serde_json::Deserializer::from_slice(&heard[at..]).into_iter::<Value>().next().unwrap().unwrap();
            let operations = body["Operations"].as_array().into_iter().flatten();
            let password = operations.filter(|operation| operation["path"] == "password");
            set.extend(password.map(|operation| operation["value"].as_str().unwrap().to_owned()));
        }
    }
    set
}

/// How many mails there are of 21 jobs, of which one is refused; and how many of the 21 passwords that the org was sent were in what the
/// broker was sent, and in its files.
async fn what_the_broker_got(pair: Option<&Pair>) -> (usize, usize, usize) {
    let node = Node::lent().await;
    let relay = Relay::listening_to(node.url());
    let seal = pair.map(|pair| seal_to(&[pair])).unwrap_or_default();
    // A password that is tried again, and one that ends as a dead letter after it was made.
    let plan = Plan::at(node.url()).config(&seal).config("[password]\nkind = \"policy\"");
    let settings = sim::Settings { password: sim::PasswordForm::Plaintext, ..unlimited() };
    let mut world = plan.org("main", settings, "").config("[wire]\npassword = \"plaintext\"").prepare().await;
    let org = Relay::listening_to(&world.orgs["main"].base);
    world.config = world.config.replace(&world.orgs["main"].base, org.url().trim_end_matches('/'));
    for fault in [
        json!({"status": 500, "next": 1, "user": "main-user-3"}),
        json!({"status": 400, "always": true, "user": "refused", "apply": true}),
    ] {
        world.main().add_fault(serde_json::from_value(fault).unwrap());
    }
    let mut worker = Process::worker_by(&world, relay.url());
    crate::operator::process::ready(&worker.http().await).await;
    world.reset_many("main", 20).await;
    world.publish("main", reset_body("refused").to_string().as_bytes(), named("refused")).await;
    world.recorded(21).await;
    assert_eq!(worker.terminated().await.0, 0, "{}", worker.stderr());
    let keys = pair.map(Pair::keys);
    let mails = seen(&world, "emails").await;
    let set = set_passwords(&org);
    for mail in &mails {
        let (user, password) = told(mail, keys.as_ref());
        assert!(world.main().logs_in(&user, &password) && set.contains(&password), "{user}");
    }
    // That of the refused one too, which is in no mail.
    let passwords: Vec<String> = set.into_iter().collect();
    assert_eq!((passwords.len(), world.depth("resets.main.dead").await), (21, 1));
    let folder = node.folder();
    node.end("stop").await;
    let mut stored = Vec::new();
    files(&folder, &mut stored);
    let sent: Vec<_> = relay.heard().into_iter().map(|bytes| ("the network".to_owned(), bytes)).collect();
    // What lies there is what was looked at: the users' ids are in both.
    let user = ["main-user-7".to_owned()];
    assert_eq!((found(&user, &sent), found(&user, &stored)), (1, 1), "{} files", stored.len());
    (mails.len(), found(&passwords, &sent), found(&passwords, &stored))
}

/// The sample opens what a worker published, and not what is sealed to somebody else.
async fn opens(language: &str) {
    let (pair, other) = (Pair::new().await, Pair::new().await);
    let world = Plan::new().config(&seal_to(&[&pair])).start().await;
    world.reset("main", "u-1", "job-1").await;
    world.recorded(1).await;
    let [sealed] = seen(&world, "emails").await.try_into().unwrap();
    // What was got comes back a moment after that connection or channel is gone.
    let is_back = async || eventually("it is back", async || (world.depth("emails").await == 1).then_some(())).await;
    is_back().await;
    let sample = async |keys: &[PathBuf]| {
        let mut run = std::process::Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/samples"));
        run.arg(language).args(keys).stdin(Stdio::null());
        run.env("AMQP_URL", &world.amqp_url).env("AMQP_PREFIX", &world.prefix);
        tokio::task::spawn_blocking(move || run.output().expect("scripts/samples runs")).await.unwrap()
    };
    let run = sample(&[other.private()]).await;
    let complaints = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(!run.status.success() && run.stdout.is_empty(), "{run:?}");
    says(&complaints, &[&format!("sealed to kid {}", pair.kid)]);
    is_back().await;
    let run = sample(&[other.private(), pair.private()]).await;
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let mail: Value = serde_json::from_slice(&run.stdout).unwrap();
    let password = mail["temporaryPassword"].as_str().unwrap();
    assert!(world.main().logs_in("u-1", password) && mail["body"].as_str().unwrap().contains(password));
    assert_eq!((&mail["jobId"], &mail["to"]), (&json!("job-1"), &json!("u-1@example.com")));
    let run = sample(&[pair.private()]).await;
    says(&String::from_utf8_lossy(&run.stderr), &["no notification is waiting"]);
    // Sealed for somebody, and put into a message to somebody else; and one that does not say for whom.
    let channel = world.channel().await;
    for (field, value) in [("to", json!("somebody@else.example")), ("userId", Value::Null)] {
        let mut copy = sealed.json();
        copy[field] = value;
        let (exchange, body) = (world.named("notifications"), copy.to_string());
        let options = lapin::options::BasicPublishOptions { mandatory: true, ..Default::default() };
        let sent = channel.basic_publish(
            exchange.as_str().into(),
            "email".into(),
            options,
            body.as_bytes(),
            Default::default(),
        );
        assert_eq!(sent.await.unwrap().await.unwrap(), lapin::Confirmation::Ack(None));
        let run = sample(&[pair.private()]).await;
        assert!(!run.status.success() && run.stdout.is_empty(), "{run:?}");
        says(&String::from_utf8_lossy(&run.stderr), &[&format!("{field} is not the one that was sealed")]);
        is_back().await;
        assert_eq!(world.drained("emails").await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_sealing_on_no_password_is_in_any_byte_sent_to_the_broker_or_in_its_files() {
    assert_eq!(what_the_broker_got(Some(&Pair::new().await)).await, (20, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_sealing_off_the_same_look_finds_every_password_that_was_mailed_in_both() {
    assert_eq!(what_the_broker_got(None).await, (20, 20, 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_changed_by_restarts_and_both_open_for_a_while() {
    let (old, new) = (Pair::new().await, Pair::new().await);
    let mut world = Plan::new().config(&seal_to(&[&old, &new])).start().await;
    world.reset("main", "u-old", "job-old").await;
    world.recorded(1).await;
    world.stop_worker().await.unwrap();
    world.config = world.config.replace(&seal_to(&[&old, &new]), &seal_to(&[&new, &old]));
    world.start_worker().await;
    world.reset("main", "u-new", "job-new").await;
    world.recorded(2).await;
    let mails = world.drained("emails").await;
    let kid = |mail: &Taken| {
        use base64::Engine;
        let json = mail.json();
        let header = json["sealed"].as_str().unwrap().split('.').next().unwrap();
        let header = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(header).unwrap();
        serde_json::from_slice::<Value>(&header).unwrap()["kid"].as_str().unwrap().to_owned()
    };
    assert_eq!(mails.iter().map(kid).collect::<Vec<_>>(), [old.kid.clone(), new.kid.clone()]);
    let both = Keys::load(&[new.private(), old.private()]).unwrap();
    for mail in &mails {
        let (user, password) = told(mail, Some(&both));
        assert!(world.main().logs_in(&user, &password), "{user}");
    }
    // Put away too early, the old one is missed by its name.
    let refused = new.keys().open(mails[0].json()["sealed"].as_str().unwrap()).unwrap_err().to_string();
    says(&refused, &[&old.kid, &new.kid, "mailer.open_with"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_says_whether_notifications_are_sealed_and_to_which_kid() {
    let (pair, other) = (Pair::new().await, Pair::new().await);
    let world = Plan::new().prepare().await;
    let (code, out, _) = Run::of(&world, &["check"]).end().await;
    assert_eq!(code, 0, "{out}");
    says(&out, &["ok    sealing", "off", "notification.seal_to"]);
    let (code, out, _) = Run::of(&world, &["check"]).config(&seal_to(&[&pair, &other])).end().await;
    assert_eq!(code, 0, "{out}");
    says(&out, &["ok    sealing", &format!("sealed to kid {}", pair.kid), &other.kid]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_file_that_does_not_do_ends_with_2_before_anything_is_done() {
    let pair = Pair::new().await;
    let world = Plan::new().prepare().await;
    let private = format!("[notification]\nseal_to = [{:?}, {:?}]\n", pair.public(), pair.private());
    let parts =
        ["notification.seal_to", "key.pem", "holds a private key", "it must be a PEM file with an RSA public key"];
    let said = ends(Run::of(&world, &["worker"]).config(&private), 2, &parts).await;
    assert!(!said.contains("BEGIN PRIVATE KEY-----\\n") && !said.contains("MII"), "{said}");
    let run = Run::of(&world, &["worker"]).env("RESETD__NOTIFICATION__SEAL_TO", "nowhere.pem");
    ends(run, 2, &["notification.seal_to", "nowhere.pem", "cannot be read"]).await;
    let (code, out, _) = Run::of(&world, &["check"]).config(&private).end().await;
    assert_eq!(code, 2, "{out}");
    says(&out, &["FAIL  configuration", "holds a private key"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keygen_writes_a_key_for_its_owner_alone_and_overwrites_none() {
    let pair = Pair::new().await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&pair.private()), mode(&pair.public()) & 0o600), (0o600, 0o600));
    assert_eq!(pair.keys().kids().collect::<Vec<_>>(), [pair.kid.as_str()]);
    let before = std::fs::read(pair.private()).unwrap();
    let name = pair.folder.path().join("mail-2026.11");
    let name = name.to_str().unwrap();
    ends(Run::new(&["keygen", name]), 2, &["is there already", "take another NAME"]).await;
    // Half of a pair counts too.
    std::fs::remove_file(pair.public()).unwrap();
    ends(Run::new(&["keygen", name]), 2, &["key.pem is there already"]).await;
    assert_eq!(std::fs::read(pair.private()).unwrap(), before);
    assert!(!pair.public().exists());
    ends(Run::new(&["keygen", "nowhere/mail"]), 1, &["nowhere/mail.key.pem", "its folder must be there"]).await;
    ends(Run::new(&["keygen", "--bits", "1024", "mail"]), 2, &["1024", "3072, 4096"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_key_that_others_can_read_is_taken_with_a_warning() {
    let pair = Pair::new().await;
    let world = Plan::new().prepare().await;
    let config = format!(
        "[mailer]\nfrom = \"noreply@example.com\"\nopen_with = [{:?}]\n[mailer.smtp]\nhost = \"127.0.0.1\"\nport = 9\ntls = \"off\"\n",
        pair.private()
    );
    for (mode, warned) in [(0o600, false), (0o640, true), (0o604, true)] {
        std::fs::set_permissions(pair.private(), std::fs::Permissions::from_mode(mode)).unwrap();
        let mut mailer = Run::of(&world, &["--log", "json", "mailer"]).config(&config).start();
        // It has its keys by then.
        mailer.http().await;
        assert_eq!(mailer.terminated().await.0, 0, "{}", mailer.stderr());
        let log = mailer.stderr();
        let warning = log.lines().find(|line| line.contains("chmod 600"));
        assert_eq!(warning.is_some(), warned, "{mode:o}: {log}");
        if let Some(warning) = warning {
            says(warning, &["WARN", "mailer.open_with", "mail-2026.11.key.pem", &format!("{mode:o}")]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keygen_prints_is_toml_whatever_the_files_are_called() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("m\u{e4}il\u{200b}\"\\\u{1}\u{7f}\u{1f511}");
    let (code, out, said) = Run::new(&["keygen", name.to_str().unwrap()]).end().await;
    assert_eq!((code, said.as_str()), (0, ""));
    let config: toml::Table = out.parse().unwrap_or_else(|error| panic!("{error}: {out}"));
    for (path, rest) in [(&config["notification"]["seal_to"], "pub"), (&config["mailer"]["open_with"], "key")] {
        assert_eq!(path[0].as_str(), Some(format!("{}.{rest}.pem", name.display()).as_str()));
    }
    assert!(!out.contains('\u{200b}'), "what cannot be seen is written out: {out}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sample_in_python_opens_what_a_worker_sealed() {
    opens("open-python").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sample_in_node_opens_what_a_worker_sealed() {
    opens("open-node").await;
}
