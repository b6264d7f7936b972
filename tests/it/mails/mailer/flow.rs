//! How mails flow to the next hop: what each of them waits for, what it costs, and what of it holds up the others.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::http::StatusCode;
use axum::response::IntoResponse;

use super::*;
use crate::mail_server::ScriptedServer;

/// A mailer that tries again at once.
const AT_ONCE: &str = "[retry]\nbase = \"1ms\"\nmax = \"10ms\"\n";

/// A world whose mail server answers by a script, and its mailer.
async fn scripted(answers: &[(&str, &[&str])], config: &str) -> (ScriptedServer, World, Process, String) {
    let server = ScriptedServer::start(answers).await;
    let world = Plan::new().config(&section(server.port)).config(config).prepare().await;
    let (mailer, http) = mailer(&world).await;
    (server, world, mailer, http)
}

async fn breaker_is_open(http: &str) {
    eventually("the breaker opens", async || {
        (readyz(http).await?.1["mailer"]["breaker"]["state"] == "open").then_some(())
    })
    .await;
}

fn attempts(ends: &BTreeMap<String, Value>) -> Vec<u64> {
    ends.values().map(|end| end["attempts"].as_u64().unwrap()).collect()
}

/// Who was asked for at a mail service, and when.
type Asked = Arc<Mutex<Vec<(String, Instant)>>>;

/// A world with a mail service that asks everybody to wait two seconds when it is asked for `u-0` for the first time.
async fn with_service() -> (Asked, World) {
    let asked = Asked::default();
    let seen = Arc::clone(&asked);
    let answer = move |body: axum::Json<Value>| async move {
        let to = body.0["to"].as_str().unwrap().to_owned();
        let mut seen = seen.lock().unwrap();
        let is_first = to == "u-0@example.com" && seen.iter().all(|(before, _)| *before != to);
        seen.push((to, Instant::now()));
        if is_first {
            return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "2")]).into_response();
        }
        StatusCode::ACCEPTED.into_response()
    };
    let routes = axum::Router::new().route("/send", axum::routing::post(answer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/send", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let world = Plan::new().config(&format!("{QUICK}[mailer.http]\nurl = \"{url}\"\n")).prepare().await;
    (asked, world)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_that_waits_for_a_connection_has_all_of_its_time_when_it_gets_one() {
    // Three mails by one connection take longer than one delivery may.
    let slow = Postbox::answering(|_, _| (Duration::from_millis(1_200), "250 taken".to_owned()));
    let setup = Setup::new(slow, "").await;
    let mailer = Run::of(&setup.world, &["--log", "json", "mailer"]).config("[mailer.smtp]\npool = 1\n").start();
    role_is(&mailer.http().await, "active").await;
    for n in 0..3 {
        setup.notify(&note(n, 0)).await;
    }
    let ends = by_note(&records(&setup.world, 3).await);
    assert!(ends.values().all(|end| end["outcome"] == "notified"), "{ends:?}");
    assert_eq!(attempts(&ends), [1, 1, 1]);
    setup.letters(3).await;
    assert!(!mailer.stderr().contains("a try failed"), "{}", mailer.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_greylists_everybody_at_first_holds_up_nobody_else() {
    let (_server, world, mailer, _) = scripted(&[("RCPT", &["450 4.2.0 greylisted"; 30])], AT_ONCE).await;
    for n in 0..30 {
        notify(&world, &note(n, 0), BasicProperties::default()).await;
    }
    let ends = by_note(&records(&world, 30).await);
    assert!(ends.values().all(|end| end["outcome"] == "notified"), "{ends:?}");
    assert_eq!(attempts(&ends).iter().sum::<u64>(), 60);
    assert!(!mailer.stderr().contains("the breaker opens"), "{}", mailer.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_no_mail_for_now_is_away_even_where_one_person_waits() {
    let (_server, world, mailer, http) = scripted(&[("MAIL", &["451 4.3.0 no lookup"; 5])], AT_ONCE).await;
    notify(&world, &note(1, 0), BasicProperties::default()).await;
    breaker_is_open(&http).await;
    let record = records(&world, 1).await[0].json();
    assert_eq!((&record["outcome"], &record["attempts"]), (&json!("notified"), &json!(6)));
    eventually("it says so", async || mailer.stderr().contains("the breaker closes").then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_that_cannot_even_be_offered_says_nothing_of_the_server_and_counts_no_try() {
    let (_server, world, mailer, http) = scripted(&[("MAIL", &["451 4.3.0 no lookup"; 100])], AT_ONCE).await;
    notify(&world, &note(1, 10), BasicProperties::default()).await;
    breaker_is_open(&http).await;
    // A newer one for the same person takes its place, and is the breaker's probe.
    // The server has no SMTPUTF8.
    let newer = json!({"notificationId": "newer", "jobId": "job-newer", "userId": "u-1", "to": "ägent@example.com"});
    notify(&world, &with(note(2, 0), &newer), BasicProperties::default()).await;
    let ends = by_note(&records(&world, 2).await);
    assert_eq!(ends["note-1"]["reason"], "superseded");
    let newer = &ends["newer"];
    assert_eq!(
        (&newer["reason"], &newer["status"], &newer["attempts"]),
        (&json!("undeliverable"), &Value::Null, &json!(0))
    );
    assert!(readyz_says(&http).await.1["mailer"]["breaker"]["state"].is_string());
    assert!(!mailer.stderr().contains("the breaker closes"), "{}", mailer.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_that_is_published_again_does_not_expire_behind_others() {
    let parking = "[retry]\nbase = \"10m\"\nmax = \"10m\"\ninline_max = \"1ms\"\n";
    let (_server, world, mut mailer, _) = scripted(&[("RCPT", &["450 4.2.0 greylisted"])], parking).await;
    notify(&world, &note(1, 0), BasicProperties::default().with_expiration("90000000".into())).await;
    let tier = eventually("it is parked", async || {
        for tier in ["15s", "2m", "10m"].map(|tier| format!("emails.parked.{tier}")) {
            if world.depth(&tier).await == 1 {
                return Some(tier);
            }
        }
        None
    })
    .await;
    assert_eq!(mailer.terminated().await.0, 0, "{}", mailer.stderr());
    let parked = world.drained(&tier).await;
    assert_eq!((parked.len(), parked[0].properties.expiration()), (1, &None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_waits_for_a_mail_in_the_air_for_longer_than_the_grace() {
    let slow = Postbox::answering(|_, _| (Duration::from_secs(4), "250 taken".to_owned()));
    let setup = Setup::new(slow, "").await;
    let patient = "[mailer]\ntimeout = \"3s\"\n[shutdown]\ngrace = \"3s\"\n";
    let mut mailer = Run::of(&setup.world, &["--log", "json", "mailer"]).config(patient).start();
    role_is(&mailer.http().await, "active").await;
    setup.notify(&note(1, 0)).await;
    eventually("it is in flight", async || (setup.postbox.came() == 1).then_some(())).await;
    assert_eq!(mailer.terminated().await.0, 0, "{}", mailer.stderr());
    is_empty(&setup.world).await;
    assert_eq!(records(&setup.world, 1).await[0].json()["outcome"], "notified");
    setup.letters(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_asks_one_mail_to_wait_is_waited_for_by_all() {
    let (asked, world) = with_service().await;
    let (mailer, _) = mailer(&world).await;
    notify(&world, &note(0, 0), BasicProperties::default()).await;
    eventually("the first is refused", async || mailer.stderr().contains("a try failed").then_some(())).await;
    for n in 1..5 {
        notify(&world, &note(n, 0), BasicProperties::default()).await;
    }
    let ends = by_note(&records(&world, 5).await);
    assert!(ends.values().all(|end| end["outcome"] == "notified"), "{ends:?}");
    assert_eq!(attempts(&ends), [1; 5], "to wait costs no attempt");
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 6, "{asked:?}");
    let waited: Vec<Duration> = asked[1..].iter().map(|(_, at)| at.duration_since(asked[0].1)).collect();
    assert!(waited.iter().all(|waited| *waited >= Duration::from_secs(2)), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_mails_are_sent_than_the_rate_allows() {
    let (asked, world) = with_service().await;
    let mailer = Run::of(&world, &["--log", "json", "mailer"]).config("[mailer]\nrate_per_minute = 120\n").start();
    role_is(&mailer.http().await, "active").await;
    let began = Instant::now();
    for n in 1..=7 {
        notify(&world, &note(n, 0), BasicProperties::default()).await;
    }
    records(&world, 7).await;
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 7, "{asked:?}");
    // The first at once, each of the others half a second after the one before.
    let took = asked[6].1.duration_since(began);
    assert!(took >= Duration::from_millis(2_900), "{took:?}");
}
