//! TLS to the broker: a CA and a client certificate of one's own, and each thing that may not fit, said with its cure.

use std::fmt::Write;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use resetd::commands::demo::postbox::Postbox;

use crate::broker::Broker;
use crate::certificates::Authority;
use crate::operator::process::{Run, ends, ready, says};
use crate::world::{Plan, World, eventually, locked_out};

/// In the URL of every worker here, and in nothing that is ever said.
pub const PASSWORD: &str = "s3cr3t-of-the-broker";

/// A broker that takes TLS, with the CA that issued its certificate and everybody's.
pub fn broker(authority: &Authority) -> Arc<Broker> {
    let (certificate, key) = authority.issue("broker", "IP:127.0.0.1", "2");
    std::fs::rename(certificate, authority.file("cert.pem")).unwrap();
    std::fs::rename(key, authority.file("key.pem")).unwrap();
    Arc::new(Broker::with_tls(authority.certificate().parent().unwrap().to_str().unwrap()))
}

/// The broker's section, over that of a world.
pub fn section(broker: &Broker, host: &str, ca: Option<&Path>, client: Option<(&Path, &Path)>) -> String {
    let mut text = format!("[amqp]\nurl = \"amqps://resetd:{PASSWORD}@{host}:{}/%2f\"\n", broker.tls_port());
    for (key, path) in
        [("ca_file", ca), ("client_cert_file", client.map(|it| it.0)), ("client_key_file", client.map(|it| it.1))]
    {
        if let Some(path) = path {
            writeln!(text, "{key} = {path:?}").unwrap();
        }
    }
    text
}

/// The worker ends with 1 and `check` fails, both in these words and without the password.
async fn refused(world: &World, section: &str, parts: &[&str]) {
    let said = ends(Run::of(world, &["worker"]).config(section), 1, parts).await;
    assert!(!said.contains(PASSWORD), "{said}");
    let (code, out, err) = Run::of(world, &["check"]).config(section).end().await;
    assert_eq!(code, 1, "{out}{err}");
    says(&out, parts);
    says(&out, &["FAIL  broker"]);
    assert!(!out.contains(PASSWORD) && !err.contains(PASSWORD), "{out}{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_works_over_tls_with_a_ca_and_a_certificate_of_its_own_and_says_what_does_not_fit() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let broker = broker(&authority);
    for command in ["ctl add_user resetd s3cr3t-of-the-broker", "ctl set_permissions resetd .* .* .*"] {
        assert_eq!(broker.tell(command), "done 0");
    }
    let (certificate, key) = authority.issue("worker", "DNS:worker", "2");
    let world = Plan::at(&broker.url).prepare().await;
    let (ca, client) = (authority.certificate(), Some((certificate.as_path(), key.as_path())));
    let fits = section(&broker, "127.0.0.1", Some(&ca), client);

    std::fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    let mut worker = Run::of(&world, &["--log", "json", "worker"]).config(&fits).start();
    ready(&worker.http().await).await;
    says(&worker.stderr(), &["amqp.client_key_file: others on this machine can read this private key", "640"]);
    std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    world.reset_many("main", 20).await;
    world.recorded(20).await;
    let (code, out, err) = Run::of(&world, &["check"]).config(&fits).end().await;
    assert_eq!(code, 0, "{out}{err}");
    says(&out, &["ok    broker", "ok    login"]);
    assert_eq!(worker.terminated().await.0, 0);
    assert!(!worker.stderr().contains(PASSWORD));
    let mails = world.drained("emails").await;
    assert_eq!((mails.len(), locked_out(world.main(), &mails)), (20, Vec::new()));

    let unknown = stranger.certificate();
    let wrong_ca = section(&broker, "127.0.0.1", Some(&unknown), client);
    refused(&world, &wrong_ca, &["TLS: ", "UnknownIssuer", "amqp.ca_file"]).await;
    // The system's CAs do not know it either.
    let no_ca = section(&broker, "127.0.0.1", None, client);
    refused(&world, &no_ca, &["TLS: ", "UnknownIssuer", "amqp.ca_file"]).await;
    let no_certificate = section(&broker, "127.0.0.1", Some(&ca), None);
    refused(&world, &no_certificate, &["TLS: ", "amqp.client_cert_file", "amqp.client_key_file"]).await;
    let (foreign, foreign_key) = stranger.issue("foreign", "DNS:worker", "2");
    let foreign = section(&broker, "127.0.0.1", Some(&ca), Some((&foreign, &foreign_key)));
    refused(&world, &foreign, &["TLS: ", "amqp.client_cert_file", "cacertfile"]).await;
    let (_, other_key) = authority.issue("other", "DNS:worker", "2");
    let mixed = section(&broker, "127.0.0.1", Some(&ca), Some((&certificate, &other_key)));
    let parts = ["amqp.client_key_file", "another certificate", "amqp.client_cert_file"];
    for command in ["worker", "check", "dead"] {
        let arguments = if command == "dead" { vec!["dead", "list"] } else { vec![command] };
        let (code, out, err) = Run::of(&world, &arguments).config(&mixed).end().await;
        assert_eq!(code, 2, "{command}: {out}{err}");
        says(&format!("{out}{err}"), &parts);
    }
    let other_name = section(&broker, "localhost", Some(&ca), client);
    refused(&world, &other_name, &["TLS: ", "localhost", "amqp.url"]).await;
    let plain_port = fits.replace(&broker.tls_port().to_string(), &(broker.tls_port() - 3).to_string());
    refused(&world, &plain_port, &["TLS: ", "speaks no TLS", "5671"]).await;

    let (late, late_key) = authority.issue("late", "IP:127.0.0.1", "-1");
    broker.told("stop").await;
    let folder = broker.folder().join("tls");
    std::fs::copy(late, folder.join("cert.pem")).unwrap();
    std::fs::copy(late_key, folder.join("key.pem")).unwrap();
    broker.told("start").await;
    refused(&world, &fits, &["TLS: ", "renew the broker's certificate"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_lost_the_broker_says_what_does_not_fit_and_goes_on_when_it_is_resolved() {
    let authority = Authority::new();
    let broker = broker(&authority);
    let mut world = Plan::at(&broker.url).prepare().await;
    let (certificate, key) = authority.issue("worker", "DNS:worker", "2");
    let section = section(&broker, "127.0.0.1", Some(&authority.certificate()), Some((&certificate, &key)));
    let section = section.replace(&format!("resetd:{PASSWORD}"), "guest:guest");
    let mut worker = Run::of(&world, &["--log", "json", "worker"]).config(&section).start();
    ready(&worker.http().await).await;
    assert!(!worker.stderr().contains("can read this private key"), "{}", worker.stderr());
    world.reset("main", "u-1", "job-1").await;
    world.recorded(1).await;
    let folder = broker.folder().join("tls");
    let kept = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("cert.pem"), kept.path().join("cert.pem")).unwrap();
    std::fs::copy(folder.join("key.pem"), kept.path().join("key.pem")).unwrap();
    let (late, late_key) = authority.issue("late", "IP:127.0.0.1", "-1");
    let turned = async |certificate: &Path, key: &Path| {
        broker.told("stop").await;
        std::fs::copy(certificate, folder.join("cert.pem")).unwrap();
        std::fs::copy(key, folder.join("key.pem")).unwrap();
        broker.told("start").await;
    };
    turned(&late, &late_key).await;
    eventually("it says so", async || worker.stderr().contains("renew the broker's certificate").then_some(())).await;
    assert_eq!(worker.has_ended(), None);
    turned(&kept.path().join("cert.pem"), &kept.path().join("key.pem")).await;
    world.connection = crate::world::connect(&broker.url).await;
    world.reset("main", "u-2", "job-2").await;
    world.recorded(2).await;
    assert_eq!(worker.terminated().await.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_commands_reach_the_broker_over_tls_and_a_certificate_that_expires_cuts_no_connection_that_is_open() {
    let authority = Authority::new();
    let broker = broker(&authority);
    let postbox = Postbox::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mails = crate::mails::mailer::section(listener.local_addr().unwrap().port());
    let _serving = crate::mails::mailer::serve(&postbox, listener).await;
    let world = Plan::at(&broker.url).config(&mails).prepare().await;
    world.main().add_fault(crate::world::fault("status=404,always=true,user=u-nobody"));
    let with = |(certificate, key): (&Path, &Path)| {
        let section = section(&broker, "127.0.0.1", Some(&authority.certificate()), Some((certificate, key)));
        section.replace(&format!("resetd:{PASSWORD}"), "guest:guest")
    };
    let (certificate, key) = authority.issue("long", "DNS:everybody", "2");
    let long = with((&certificate, &key));

    // The worker's certificate is soon over; on a busy machine the first one may be so before the worker has come so far.
    let mut seconds = 6;
    let (mut worker, brief, expires) = loop {
        let (certificate, key, expires) = authority.issue_for_seconds("brief", "DNS:worker", seconds);
        let brief = with((&certificate, &key));
        let mut worker = Run::of(&world, &["--log", "json", "worker"]).config(&brief).start();
        let ended = eventually("it is ready, or came too late", async || {
            let log = worker.stderr();
            (log.contains("at work on") || worker.has_ended().is_some()).then(|| worker.has_ended())
        });
        if ended.await.is_none() && Timestamp::now() < expires {
            break (worker, brief, expires);
        }
        seconds *= 2;
        assert!(seconds < 60, "{}", worker.stderr());
    };

    let mut mailer = Run::of(&world, &["--log", "json", "mailer"]).config(&long).start();
    crate::mails::mailer::role_is(&mailer.http().await, "active").await;
    let enqueue = async |csv: &str| {
        let (code, out, err) = Run::of(&world, &["enqueue", "-"]).config(&long).stdin(csv).end().await;
        assert_eq!(code, 0, "{out}{err}");
    };
    let told = async |mails: usize| {
        eventually("the mails came", async || (postbox.letters().len() == mails).then_some(())).await;
    };
    enqueue("userId,email\nu-1,u-1@example.com\nu-nobody,u-2@example.com\n").await;
    told(1).await;
    world.recorded(2).await;
    let (code, out, err) = Run::of(&world, &["dead", "list"]).config(&long).end().await;
    assert_eq!(code, 0, "{out}{err}");
    says(&out, &["1 letter", "u-nobody", "not_found"]);

    eventually("the certificate expires", async || (Timestamp::now() > expires).then_some(())).await;
    let refusals = ["TLS: ", "CertificateExpired", "amqp.client_cert_file", "renew it"];
    let (code, out, err) = Run::of(&world, &["check"]).config(&brief).end().await;
    assert_eq!(code, 1, "{out}{err}");
    says(&out, &refusals);
    enqueue("userId,email\nu-3,u-3@example.com\n").await;
    told(2).await;
    assert_eq!((worker.terminated().await.0, mailer.terminated().await.0), (0, 0));
    assert!(!worker.stderr().contains("not consuming"), "its connection stayed open: {}", worker.stderr());
}
