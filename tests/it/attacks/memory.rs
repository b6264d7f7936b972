//! What is left of passwords in the memory of a worker and of a mailer some seconds after the last of them was sent; and who may look at
//! the memory of a process.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use resetd::commands::demo::postbox::Postbox;
use testkit::tls_front::TlsFront;
use tokio::net::TcpListener;

use crate::certificates::Authority;
use crate::connection::tls;
use crate::mails::mailer::{role_is, section, serve};
use crate::operator::ops::disguises;
use crate::operator::process::{Process, Run};
use crate::world::{Plan, SimOrg, eventually, unlimited};

/// How many are reset.
const JOBS: usize = 100;
/// A connection to the org, or to a mail server, is closed when nobody used it for 15 s, or 30 s; what it keeps goes with it.
const AFTER: Duration = Duration::from_secs(40);
/// How many of them may be found after that, in either process: `docs/security.md` says so too.
const LEFT: usize = 0;

/// A user who is not root.
const NOBODY: u32 = 65534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// All that the process can write to: heaps, stacks, and what it has mapped for itself.
fn memory(process: &Process) -> Vec<u8> {
    let folder = format!("/proc/{}", process.id());
    let maps = std::fs::read_to_string(format!("{folder}/maps")).unwrap();
    let memory = std::fs::File::open(format!("{folder}/mem")).unwrap();
    let mut all = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split(' ');
        let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let at = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let mut part = vec![0; usize::try_from(at(to) - at(from)).unwrap()];
        // A heap may have become smaller since its line was read.
        let read = memory.read_at(&mut part, at(from)).unwrap_or(0);
        all.extend_from_slice(&part[..read]);
    }
    all
}

/// Which of these texts are there, in any disguise, and how many copies of all.
fn found(texts: &BTreeSet<String>, memory: &[u8]) -> (usize, usize) {
    let mut patterns = tempfile::NamedTempFile::new().unwrap();
    for text in texts {
        for disguise in disguises(text) {
            writeln!(patterns, "{disguise}").unwrap();
        }
    }
    let mut look = Command::new("grep");
    look.env("LC_ALL", "C").args(["-aoFf"]).arg(patterns.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut look = look.spawn().unwrap();
    let mut stdin = look.stdin.take().unwrap();
    let copy = memory.to_vec();
    let writing = std::thread::spawn(move || stdin.write_all(&copy).unwrap());
    let found = look.wait_with_output().unwrap().stdout;
    writing.join().unwrap();
    let found: Vec<&str> = std::str::from_utf8(&found).unwrap().lines().collect();
    let is_there = |text: &&String| disguises(text).iter().any(|disguise| found.contains(&disguise.as_str()));
    (texts.iter().filter(is_there).count(), found.len())
}

/// What stands before the org and the mail server, and the configuration by which they are reached through that alone.
async fn by_tls(org: &SimOrg, mail_server: SocketAddr, authority: &Authority) -> ([TlsFront; 2], String) {
    let to_org = TlsFront::of(org.base.trim_start_matches("http://").parse().unwrap(), authority).await;
    let to_mail_server = TlsFront::of(mail_server, authority).await;
    let base = format!("https://127.0.0.1:{}", to_org.port);
    let section = format!(
        "[orgs.main]\ntoken_url = \"{base}/oauth/token\"\nscim_url = \"{base}/api/v2/scim/v2\"\n\
        [mailer.smtp]\nport = {}\ntls = \"wrapper\"\nca_file = {:?}\n",
        to_mail_server.port,
        authority.certificate(),
    );
    ([to_org, to_mail_server], section)
}

/// So many passwords, in so many copies, are left in the memory of a worker and of a mailer that reset and mailed some; with an
/// authority over TLS to the org and to the mail server.
async fn left(plan: Plan, over: &str, authority: Option<&Authority>) -> [(usize, usize); 2] {
    let postbox = Postbox::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mail_server = listener.local_addr().unwrap();
    let settings = sim::Settings { password: sim::PasswordForm::Plaintext, ..unlimited() };
    let plan = plan.config("[wire]\npassword = \"plaintext\"\n[password]\nkind = \"policy\"");
    let world = plan.config(&section(mail_server.port())).org("main", settings, "").prepare().await;
    let _serving = serve(&postbox, listener).await;
    let (mut over, mut fronts) = (over.to_owned(), Vec::new());
    if let Some(authority) = authority {
        let (before, section) = by_tls(&world.orgs["main"], mail_server, authority).await;
        over += &section;
        fronts.extend(before);
    }
    let ca = authority.map(|authority| authority.certificate().display().to_string()).unwrap_or_default();
    // Where this test is not root's, nobody else can look.
    let start = |role: &str| {
        let mut run = Run::of(&world, &["--log", "json", role]).config(&over).env("MALLOC_ARENA_MAX", "2");
        if authority.is_some() {
            run = run.env("SSL_CERT_FILE", &ca);
        }
        if is_root() { run.start() } else { run.env("RESETD_FAILPOINT_READABLE", "1").start() }
    };
    let (worker, mailer) = (start("worker"), start("mailer"));
    crate::operator::process::ready(&worker.http().await).await;
    role_is(&mailer.http().await, "active").await;

    let users = world.reset_many("main", JOBS).await;
    world.recorded(JOBS).await;
    // One that has begun to come counts as come.
    eventually("everybody got a mail", async || (postbox.letters().len() == JOBS).then_some(())).await;
    let last = Instant::now();
    let password = |text: &str| {
        let (_, rest) = text.split_once("Your temporary password is: ").unwrap();
        rest.split_once(". Please").unwrap().0.to_owned()
    };
    let passwords: BTreeSet<String> = postbox.letters().iter().map(|letter| password(&letter.text)).collect();
    assert_eq!(passwords.len(), JOBS);
    let said = postbox.letters().first().map(|letter| password(&letter.text)).unwrap();
    assert!(users.iter().any(|user| world.main().logs_in(user, &said)));

    assert!(fronts.iter().all(|front| front.connections() > 0));
    // What both do keep is found, in the very same way.
    let kept = BTreeSet::from([world.prefix.clone()]);
    for process in [&worker, &mailer] {
        assert_eq!(found(&kept, &memory(process)).0, 1);
    }
    let left = loop {
        let left = [&worker, &mailer].map(|process| found(&passwords, &memory(process)));
        if left.iter().all(|(passwords, _)| *passwords == LEFT) || last.elapsed() > AFTER {
            break left;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    eprintln!(
        "of {JOBS} passwords, {:?} after the last mail: {left:?} (passwords, copies) in worker, mailer",
        last.elapsed()
    );
    left
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_seconds_after_the_last_mail_no_password_is_in_the_memory_of_worker_or_mailer() {
    let left = left(Plan::new(), "", None).await;
    assert!(left.iter().all(|(passwords, _)| *passwords == LEFT), "{left:?}");
}

/// What is sent and read by TLS passes through buffers of one more library.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_is_one_where_broker_org_and_mail_server_are_reached_by_tls() {
    let authority = Authority::new();
    let broker = tls::broker(&authority);
    let (certificate, key) = authority.issue("both", "DNS:both", "2");
    let section = tls::section(&broker, "127.0.0.1", Some(&authority.certificate()), Some((&certificate, &key)));
    let section = section.replace(&format!("resetd:{}", tls::PASSWORD), "guest:guest");
    let left = left(Plan::at(&broker.url), &section, Some(&authority)).await;
    assert!(left.iter().all(|(passwords, _)| *passwords == LEFT), "{left:?}");
}

/// The owner of what tells of a process is root where nobody else may look at it or attach to it.
#[tokio::test]
async fn no_core_is_dumped_and_nobody_attaches_but_root() {
    let broker = "[amqp]\nurl = \"amqp://127.0.0.1:1\"\n[http]\nlisten = \"127.0.0.1:0\"\n";
    for arguments in [&["sim", "--listen", "127.0.0.1:0"][..], &["--config", "worker.toml", "mailer"]] {
        let mut run = Run::new(arguments);
        run.file("worker.toml", &format!("{broker}[mailer]\nfrom = \"a@example.com\"\nsmtp.host = \"127.0.0.1\"\n"));
        if is_root() {
            run = run.as_user(NOBODY);
        }
        let process = run.start();
        eventually("it listens", async || process.stderr().contains("listen").then_some(())).await;
        let owner = std::fs::metadata(format!("/proc/{}/mem", process.id())).unwrap().uid();
        assert_eq!(owner, 0, "{arguments:?}: another process of the same user can read its memory");
    }
}
