//! A next hop that refuses everybody, and one that refuses some: the first halts the mailer and costs at most four mails, the second ends
//! only the mails that it refuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::StatusCode;

use super::*;
use crate::mail_server::ScriptedServer;

/// Waits until the mailer is halted, and says why.
async fn halted(http: &str) -> String {
    let mailer = eventually("the mailer is halted", async || {
        let (status, ready) = readyz(http).await?;
        (status == 503).then(|| ready["mailer"].clone())
    })
    .await;
    assert_eq!(mailer["role"], "halted");
    mailer["reason"].as_str().unwrap().to_owned()
}

/// How many of these were sent, and how many were given up as undeliverable.
fn sent_and_refused(ends: &BTreeMap<String, Value>) -> (usize, usize) {
    let with = |outcome: &str, reason: &Value| {
        ends.values().filter(|end| end["outcome"] == outcome && &end["reason"] == reason).count()
    };
    (with("notified", &Value::Null), with("notification_failed", &json!("undeliverable")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_server_that_refuses_everybody_costs_four_mails_and_halts_the_mailer() {
    let server = ScriptedServer::start(&[("RCPT", &["554 5.7.1 Relay access denied"; 1000])]).await;
    let world = Plan::new().config(&section(server.port)).prepare().await;
    let (mailer, http) = mailer(&world).await;
    for n in 0..30 {
        notify(&world, &note(n, 0), BasicProperties::default()).await;
    }
    let why = halted(&http).await;
    says(&why, &["no mail can be sent", "5 different recipients in a row", "554", "Relay access denied"]);
    assert!(!why.contains('@'), "{why}");
    server.recovers();
    let ends = by_note(&records(&world, 30).await);
    assert_eq!(sent_and_refused(&ends), (26, 4), "{}", mailer.stderr());
    assert!(ends.values().all(|end| end["attempts"] == 1), "a refusal of everybody counts no try: {ends:?}");
    role_is(&http, "active").await;
    assert_eq!(world.depth("emails.dead").await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_service_that_answers_400_to_everybody_halts_the_mailer() {
    let takes = Arc::new(AtomicBool::new(false));
    let looks = Arc::clone(&takes);
    let answer = move || async move {
        if looks.load(Ordering::Relaxed) {
            return (StatusCode::ACCEPTED, "");
        }
        (StatusCode::BAD_REQUEST, "sender domain is not verified")
    };
    let routes = axum::Router::new().route("/send", axum::routing::post(answer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/send", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let world = Plan::new().config(&format!("{QUICK}[mailer.http]\nurl = \"{url}\"\n")).prepare().await;
    let (_mailer, http) = mailer(&world).await;
    for n in 0..12 {
        notify(&world, &note(n, 0), BasicProperties::default()).await;
    }
    says(&halted(&http).await, &["no mail can be sent", "400", "sender domain is not verified"]);
    takes.store(true, Ordering::Relaxed);
    let ends = by_note(&records(&world, 12).await);
    assert_eq!(sent_and_refused(&ends), (8, 4));
    role_is(&http, "active").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_that_names_its_recipient_ends_that_mail_alone_however_many_there_are() {
    let named = ["550 5.1.1 no such user", "550 User unknown", "553 5.1.3 bad address", "550 (#5.1.1) sorry"];
    let refusals: Vec<&str> = named.into_iter().cycle().take(12).collect();
    let server = ScriptedServer::start(&[("RCPT", &refusals)]).await;
    let world = Plan::new().config(&section(server.port)).prepare().await;
    let (mailer, http) = mailer(&world).await;
    for n in 0..14 {
        notify(&world, &note(n, 0), BasicProperties::default()).await;
    }
    let ends = by_note(&records(&world, 14).await);
    assert_eq!(sent_and_refused(&ends), (2, 12));
    assert!(!mailer.stderr().contains("no mail can be sent"), "{}", mailer.stderr());
    role_is(&http, "active").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_recipient_that_is_refused_again_and_again_is_one_recipient() {
    let server = ScriptedServer::start(&[("RCPT", &["554 5.7.1 not you"; 8])]).await;
    let world = Plan::new().config(&section(server.port)).prepare().await;
    let (mailer, http) = mailer(&world).await;
    for n in 0..9 {
        let note =
            with(note(n, 0), &json!({"to": if n % 2 == 0 { "observer@example.com" } else { "Observer@Example.com" }}));
        notify(&world, &note, BasicProperties::default()).await;
    }
    let ends = by_note(&records(&world, 9).await);
    assert_eq!(sent_and_refused(&ends), (1, 8), "{}", mailer.stderr());
    role_is(&http, "active").await;
}
