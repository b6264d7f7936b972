//! What comes in between while a mailer is at work: a newer password, a service that refuses us, a broker that is killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::{HeaderMap, StatusCode};
use tokio::sync::Mutex;

use super::*;
use crate::broker::Node;
use crate::world::connect;

/// A mail service that refuses us until it is told otherwise, and keeps who was told under which key.
#[derive(Clone, Default)]
struct Service {
    lets_us_in: Arc<AtomicBool>,
    told: Arc<Mutex<Vec<(String, String)>>>,
}

impl Service {
    async fn take(&self, headers: HeaderMap, body: String) -> StatusCode {
        if !self.lets_us_in.load(Ordering::Relaxed) {
            return StatusCode::UNAUTHORIZED;
        }
        let mail: Value = serde_json::from_str(&body).unwrap();
        let key = headers["idempotency-key"].to_str().unwrap().to_owned();
        self.told.lock().await.push((mail["to"].as_str().unwrap().to_owned(), key));
        StatusCode::ACCEPTED
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_is_set_while_the_mail_of_the_one_before_waits_makes_that_mail_superseded() {
    // A server that is not there: the mail waits for the breaker's probe.
    let socket = refusing_port();
    let world = Plan::new().config(&section(socket.local_addr().unwrap().port())).prepare().await;
    let (mailer, http) = mailer(&world).await;
    notify(&world, &note(1, 0), BasicProperties::default()).await;
    eventually("the breaker opens", async || {
        (readyz(&http).await?.1["mailer"]["breaker"]["state"] == "open").then_some(())
    })
    .await;
    succeeded(&world, "job-1", "u-1").await;
    succeeded(&world, "job-newer", "u-1").await;
    let postbox = Postbox::new();
    let _serving = serve(&postbox, socket.listen(64).unwrap()).await;
    let ends = by_note(&records(&world, 1).await);
    assert_eq!(
        (&ends["note-1"]["outcome"], &ends["note-1"]["reason"]),
        (&json!("notification_failed"), &json!("superseded"))
    );
    is_empty(&world).await;
    assert!(postbox.letters().is_empty(), "{}", mailer.stderr());
    assert_eq!(world.depth("emails.dead").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_service_that_refuses_us_halts_processing_and_loses_nobody() {
    let service = Service::default();
    let taking = service.clone();
    let routes = axum::Router::new().route(
        "/send",
        axum::routing::post(move |headers: HeaderMap, body: String| async move { taking.take(headers, body).await }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/send", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let world = Plan::new()
        .config(&format!("{QUICK}[mailer.http]\nurl = \"{url}\"\ntoken = \"a-token-of-ours\"\n"))
        .prepare()
        .await;
    let (mut mailer, http) = mailer(&world).await;
    for n in 0..5 {
        notify(&world, &note(n, 0), BasicProperties::default()).await;
    }
    let why = eventually("processing halts", async || {
        let (status, ready) = readyz(&http).await?;
        (status == 503).then(|| ready["mailer"].clone())
    })
    .await;
    assert_eq!(why["role"], "halted");
    says(why["reason"].as_str().unwrap(), &["no mail can be sent", "401"]);
    service.lets_us_in.store(true, Ordering::Relaxed);
    let ends = by_note(&records(&world, 5).await);
    assert!(ends.values().all(|end| end["outcome"] == "notified" && end["attempts"] == 1), "{ends:?}");
    let mut told = service.told.lock().await.clone();
    told.sort();
    let all: Vec<_> = (0..5).map(|n| (format!("u-{n}@example.com"), format!("note-{n}"))).collect();
    assert_eq!(told, all);
    role_is(&http, "active").await;
    assert_eq!((mailer.terminated().await.0, world.depth("emails.dead").await), (0, 0));
    assert!(!mailer.stderr().contains("a-token-of-ours"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_killed_while_mails_are_sent_makes_no_second_copy_of_any() {
    let node = Node::lent().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow = Postbox::answering(|_, _| (Duration::from_millis(300), "250 taken".to_owned()));
    let mut world = Plan::at(node.url()).config(&section(listener.local_addr().unwrap().port())).settled().await;
    let _serving = serve(&slow, listener).await;
    for n in 0..40 {
        notify(&world, &note(n, 0), BasicProperties::default()).await;
    }
    let (mut mailer, http) = mailer(&world).await;
    eventually("some are sent", async || (slow.letters().len() > 5).then_some(())).await;
    node.end("kill").await;
    node.start().await;
    world.connection = connect(node.url()).await;
    role_is(&http, "active").await;
    let ends = ends_of(&world, 40).await;
    assert_eq!(ends.values().filter(|end| end["outcome"] == "notified").count(), 40);
    let not_notified = ends.values().find(|end| end["status"] != 250 || end["attempts"] != 1);
    assert_eq!(not_notified, None, "what is recorded later says the same");
    is_empty(&world).await;
    assert_eq!(mailer.terminated().await.0, 0, "{}", mailer.stderr());
    let mut ids: Vec<String> = slow.letters().into_iter().map(|letter| letter.message_id).collect();
    let sent = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!((sent, ids.len()), (40, 40), "a mailer that lives remembers what it sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enqueue_waits_until_everybody_is_told_and_counts_who_was_not() {
    let postbox = Postbox::answering(|to, _| {
        let said = if to == "u-2@example.com" { "550 5.1.1 no such person" } else { "250 taken" };
        (Duration::ZERO, said.to_owned())
    });
    let setup = Setup::new(postbox, "").await;
    let (_worker, _) = Process::worker(&setup.world).await;
    let (_mailer, _) = setup.mailer().await;
    let run = Run::of(&setup.world, &["enqueue", "--batch", "monday", "--wait", "-"])
        .stdin("userId,email\nu-1,u-1@example.com\nu-2,u-2@example.com\nu-3,u-3@example.com\n");
    let (code, stdout, stderr) = run.end().await;
    assert_eq!(code, 1, "{stdout}{stderr}");
    let rows: Vec<Vec<&str>> = stdout.lines().map(|line| line.split(['│', '┆']).map(str::trim).collect()).collect();
    let value = |name: &str| rows.iter().find(|row| row.get(1) == Some(&name)).and_then(|row| row.get(2)).copied();
    assert_eq!(
        [value("succeeded"), value("mail sent"), value("mail failed")],
        [Some("3"), Some("2"), Some("1")],
        "{stdout}"
    );
    says(&stderr, &["1 mail failed", "dead --queue emails list"]);
}
