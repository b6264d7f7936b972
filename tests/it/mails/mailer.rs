//! The mailer as a process: one sends and the others stand by, the newest mail of each person alone, every one exactly once, and what
//! cannot be sent is said and kept without its password. The mail server is a real socket that counts.

mod faults;
mod flow;
mod refused;
mod replays;
mod takeover;
mod template;
mod words;

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel};
use resetd::commands::demo::postbox::{Postbox, ReceivedMail};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::operator::process::{Process, Run, other_queue, readyz, says, stopped};
use crate::relay::Relay;
use crate::world::{Plan, Taken, Tap, World, eventually, refusing_port, text, with_header};

/// A world without a worker, and a mail server that it is configured for.
struct Setup {
    world: World,
    postbox: Postbox,
    _serving: DropGuard,
}

/// What all these mailers have, beside the server's port.
const QUICK: &str =
    "[mailer]\nenabled = true\nfrom = \"noreply@example.com\"\nrate_per_minute = 60000\ntimeout = \"1s\"\n";

pub fn section(port: u16) -> String {
    format!("{QUICK}[mailer.smtp]\nhost = \"127.0.0.1\"\nport = {port}\ntls = \"off\"\n")
}

pub async fn serve(postbox: &Postbox, listener: TcpListener) -> DropGuard {
    let (serving, stop) = (postbox.clone(), CancellationToken::new());
    let stopped = stop.clone();
    tokio::spawn(async move { serving.serve(listener, stopped).await });
    stop.drop_guard()
}

impl Setup {
    async fn new(postbox: Postbox, config: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let world = Plan::new().config(&section(port)).config(config).prepare().await;
        let serving = serve(&postbox, listener).await;
        Self { world, postbox, _serving: serving }
    }

    async fn mailer(&self) -> (Process, String) {
        mailer(&self.world).await
    }

    /// The mails by whom they are for, once so many have come.
    async fn letters(&self, count: usize) -> Vec<ReceivedMail> {
        eventually("all mails came", async || {
            let letters = self.postbox.letters();
            assert!(letters.len() <= count, "{} of {count}", letters.len());
            (letters.len() == count).then_some(letters)
        })
        .await
    }

    async fn notify(&self, note: &Value) {
        notify(&self.world, note, BasicProperties::default()).await;
    }
}

fn start(world: &World) -> Process {
    Run::of(world, &["--log", "json", "mailer"]).start()
}

/// A mailer that is at work.
async fn mailer(world: &World) -> (Process, String) {
    let process = start(world);
    let http = process.http().await;
    role_is(&http, "active").await;
    (process, http)
}

/// What `/readyz` says, however long the machine takes.
async fn readyz_says(http: &str) -> (u16, Value) {
    eventually("it answers", async || readyz(http).await).await
}

async fn role(http: &str) -> Option<String> {
    Some(readyz(http).await?.1["mailer"]["role"].as_str()?.to_owned())
}

pub async fn role_is(http: &str, expected: &str) {
    eventually(&format!("the mailer is {expected}"), async || {
        (role(http).await.as_deref() == Some(expected)).then_some(())
    })
    .await;
}

/// A notification of the job `job-N` for the user `u-N`, issued so many seconds ago.
pub fn note(n: usize, age: i64) -> Value {
    let issued = Timestamp::now() - SignedDuration::from_secs(age);
    let password = format!("secret-pw-{n}");
    json!({
        "notificationId": format!("note-{n}"), "jobId": format!("job-{n}"), "org": "main", "userId": format!("u-{n}"),
        "to": format!("u-{n}@example.com"), "subject": "Your new password",
        "body": format!("Your temporary password is: {password}."), "temporaryPassword": password,
        "issuedAt": issued.to_string(),
    })
}

/// The same with other fields.
fn with(mut note: Value, fields: &Value) -> Value {
    for (name, value) in fields.as_object().unwrap() {
        note[name] = value.clone();
    }
    note
}

async fn publish(world: &World, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) {
    publish_on(&world.channel().await, &world.named(exchange), key, body, properties).await;
}

async fn publish_on(channel: &Channel, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let sent = channel.basic_publish(exchange.into(), key.into(), options, body, properties.with_delivery_mode(2));
    assert_eq!(sent.await.unwrap().await.unwrap(), lapin::Confirmation::Ack(None));
}

pub async fn notify(world: &World, note: &Value, properties: BasicProperties) {
    publish(world, "notifications", "email", note.to_string().as_bytes(), about(note, properties)).await;
}

/// Publishes all of them before their confirms are waited for.
pub async fn notify_all(world: &World, notes: &[Value]) {
    let (channel, exchange) = (&world.channel().await, &world.named("notifications"));
    let each = notes.iter().map(|note| async move {
        let properties = about(note, BasicProperties::default());
        publish_on(channel, exchange, "email", note.to_string().as_bytes(), properties).await;
    });
    join_all(each).await;
}

/// The properties of a notification.
fn about(note: &Value, properties: BasicProperties) -> BasicProperties {
    let id = note["notificationId"].as_str().unwrap();
    properties.with_message_id(id.into()).with_type("password-reset".into())
}

/// The outcome of a job that has set a password.
async fn succeeded(world: &World, job: &str, user: &str) {
    let record = json!({
        "jobId": job, "org": "main", "lane": "interactive", "userId": user, "batch": null, "outcome": "succeeded",
        "success": true, "finishedAt": Timestamp::now().to_string(),
    });
    let properties = BasicProperties::default().with_type("outcome".into());
    publish(world, "outcomes", "main.succeeded", record.to_string().as_bytes(), properties).await;
}

/// The records of mails from the stream, once there are so many.
async fn records(world: &World, count: usize) -> Vec<Taken> {
    records_until(world, |records| records.len() >= count).await
}

/// What became of so many notifications, by their ids. (A broker that is killed may swallow a record's confirm: then it is there twice.)
async fn ends_of(world: &World, count: usize) -> BTreeMap<String, Value> {
    by_note(&records_until(world, |records| by_note(records).len() >= count).await)
}

async fn records_until(world: &World, are_enough: impl Fn(&[Taken]) -> bool) -> Vec<Taken> {
    let (_connection, mut stream) = eventually("the stream has a leader", async || {
        let connection = crate::world::connect(&world.amqp_url).await;
        let channel = connection.create_channel().await.ok()?;
        Some((connection, Tap::replay(&channel, &world.named("resets.outcomes")).await?))
    })
    .await;
    let mut records = Vec::new();
    while !are_enough(&records) {
        let record = stream.next().await;
        if record.properties.kind().as_ref().is_some_and(|kind| kind.as_str() == "mail") {
            records.push(record);
        }
    }
    records
}

/// Declares everything that a mailer does, by one that ends again.
async fn declared(world: &World) {
    let (mut first, _) = mailer(world).await;
    assert_eq!(first.terminated().await.0, 0, "{}", first.stderr());
}

fn by_note(records: &[Taken]) -> BTreeMap<String, Value> {
    records.iter().map(Taken::json).map(|r| (r["notificationId"].as_str().unwrap().to_owned(), r)).collect()
}

async fn is_empty(world: &World) {
    eventually("the email queue is empty", async || (world.depth("emails").await == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_is_sent_once_and_its_record_says_so() {
    let setup = Setup::new(Postbox::new(), "").await;
    let (mut mailer, http) = setup.mailer().await;
    let batch = with_header(BasicProperties::default(), "batch", text("monday"));
    notify(&setup.world, &note(1, 0), batch).await;
    let letters = setup.letters(1).await;
    assert_eq!(letters[0].to, "u-1@example.com");
    assert_eq!(letters[0].message_id, "<note-1@example.com>");
    assert!(letters[0].text.contains("Your temporary password is: secret-pw-1."), "{}", letters[0].text);
    let records = records(&setup.world, 1).await;
    assert_eq!(records[0].routing_key, "main.notified");
    let record = records[0].json();
    assert_eq!(
        (&record["jobId"], &record["userId"], &record["batch"], &record["status"], &record["attempts"]),
        (&json!("job-1"), &json!("u-1"), &json!("monday"), &json!(250), &json!(1))
    );
    is_empty(&setup.world).await;
    let (status, mut ready) = readyz_says(&http).await;
    let leader = ready["mailer"].as_object_mut().unwrap().remove("leader").unwrap();
    assert_eq!((&leader["here"], &leader["pingConfirmed"]), (&json!(true), &json!(true)));
    assert_eq!(
        (status, ready),
        (
            200,
            json!({"ready": true, "orgs": {}, "mailer": {"role": "active", "reason": null, "ratePerMinute": 60_000}})
        )
    );
    let counted = [
        "resetd_mails_total{org=\"main\",outcome=\"notified\",reason=\"\"} 1",
        "resetd_mail_tries_total{status=\"250\"} 1",
    ];
    let metrics = eventually("it is counted", async || {
        let metrics = testkit::http::get(format!("{http}/metrics")).await.unwrap().text().await.unwrap();
        counted.iter().all(|line| metrics.contains(*line)).then_some(metrics)
    })
    .await;
    assert_eq!(mailer.terminated().await.0, 0, "{}", mailer.stderr());
    for secret in ["secret-pw-1", "u-1@example.com"] {
        assert!(!mailer.stderr().contains(secret) && !metrics.contains(secret) && !record.to_string().contains(secret));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_mailer_sends_and_another_stands_by_until_the_first_is_killed() {
    let setup = Setup::new(Postbox::new(), "").await;
    let (mut first, _) = setup.mailer().await;
    let mut second = start(&setup.world);
    let http = second.http().await;
    role_is(&http, "standby").await;
    assert_eq!(readyz_says(&http).await.0, 200, "one that stands by is ready");
    setup.notify(&note(1, 0)).await;
    records(&setup.world, 1).await;
    first.kill().await;
    role_is(&http, "active").await;
    setup.notify(&note(2, 0)).await;
    let letters = setup.letters(2).await;
    assert_eq!([letters[0].to.as_str(), letters[1].to.as_str()], ["u-1@example.com", "u-2@example.com"]);
    let mut third = start(&setup.world);
    let third_http = third.http().await;
    role_is(&third_http, "standby").await;
    assert_eq!(second.terminated().await.0, 0, "{}", second.stderr());
    says(&second.stderr(), &["\"released\""]);
    let began = std::time::Instant::now();
    role_is(&third_http, "active").await;
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "a lease that was given back is taken at once: {:?}",
        began.elapsed()
    );
    assert_eq!(third.terminated().await.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailer_that_stood_by_stays_where_somebody_must_fix_something_and_stands_by_again_when_they_did() {
    let setup = Setup::new(Postbox::new(), "").await;
    let (_first, first_http) = setup.mailer().await;
    let relay = Relay::to(&setup.world.amqp_url);
    let own = format!("[amqp]\nurl = {:?}\n", relay.url());
    let mut second = Run::of(&setup.world, &["--log", "json", "mailer"]).config(&own).start();
    let http = second.http().await;
    role_is(&http, "standby").await;
    let wrong = other_queue(&setup.world, "emails.dead").await;
    relay.cut();
    says(&stopped(&http, "mailer").await, &["emails.dead", "PRECONDITION"]);
    assert_eq!(second.has_ended(), None);
    wrong.await;
    role_is(&http, "standby").await;
    role_is(&first_http, "active").await;
    assert_eq!(second.terminated().await.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_notifications_for_one_person_the_newest_alone_is_sent() {
    let setup = Setup::new(Postbox::new(), "").await;
    declared(&setup.world).await;
    // For u-1 they wait together, the older first; for u-2 the newer first; for u-3 the newer one's outcome stands later in the stream,
    // and the older one comes when the newer one was sent.
    for (user, ages) in [(1, [20, 10]), (2, [10, 20])] {
        for (n, age) in ages.into_iter().enumerate() {
            let own = json!({"notificationId": format!("of-{user}-{age}"), "jobId": format!("job-{user}-{n}"), "userId": format!("u-{user}"),
                "to": format!("u-{user}@example.com")});
            setup.notify(&with(note(user, age), &own)).await;
        }
    }
    succeeded(&setup.world, "job-3-older", "u-3").await;
    succeeded(&setup.world, "job-3-newer", "u-3").await;
    setup.notify(&with(note(3, 30), &json!({"notificationId": "of-3-newer", "jobId": "job-3-newer"}))).await;
    // The first permit comes after three seconds: by then all of them are in flight.
    let mailer = Run::of(&setup.world, &["--log", "json", "mailer"]).config("[mailer]\nrate_per_minute = 20\n").start();
    role_is(&mailer.http().await, "active").await;
    setup.letters(3).await;
    setup.notify(&with(note(3, 60), &json!({"notificationId": "of-3-older", "jobId": "job-3-older"}))).await;
    let ends = by_note(&records(&setup.world, 6).await);
    let outcome = |id: &str| (ends[id]["outcome"].as_str().unwrap(), ends[id]["reason"].as_str().unwrap_or(""));
    for id in ["of-1-10", "of-2-10", "of-3-newer"] {
        assert_eq!(outcome(id), ("notified", ""), "{id}");
    }
    for id in ["of-1-20", "of-2-20", "of-3-older"] {
        assert_eq!(outcome(id), ("notification_failed", "superseded"), "{id}");
    }
    let mut ids: Vec<String> = setup.letters(3).await.into_iter().map(|letter| letter.message_id).collect();
    ids.sort();
    assert_eq!(ids, ["<of-1-10@example.com>", "<of-2-10@example.com>", "<of-3-newer@example.com>"]);
    assert_eq!(setup.world.depth("emails.dead").await, 0, "nobody is left without a password");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_sent_is_a_dead_mail_that_says_why_and_holds_no_password() {
    let postbox = Postbox::answering(|to, _| {
        let said = match to {
            "u-2@example.com" => "550 5.1.1 no such person as secret-pw-2",
            "u-3@example.com" => "451 4.3.0 later",
            _ => "250 taken",
        };
        (Duration::ZERO, said.to_owned())
    });
    let config = "[notification]\nttl = \"1m\"\n";
    let world_config = format!("{config}[retry]\nbase = \"1ms\"\nmax = \"10ms\"\n");
    let setup = Setup::new(postbox, &world_config).await;
    let config = Run::of(&setup.world, &["--log", "json", "mailer"]).config("[mailer]\nmax_attempts = 3\n");
    let mut mailer = config.start();
    role_is(&mailer.http().await, "active").await;
    setup.notify(&note(1, 61)).await;
    setup.notify(&note(2, 0)).await;
    setup.notify(&note(3, 0)).await;
    let broken = json!({"userId": "u-4", "to": "u-4@example.com", "temporaryPassword": "secret-pw-4", "body": "It is secret-pw-4",
        "subject": "secret-pw-4, or the older secret-pw-0", "jobId": "secret-pw-4"});
    let noted = with_header(BasicProperties::default(), "note", text("secret-pw-4"));
    publish(&setup.world, "notifications", "email", broken.to_string().as_bytes(), noted).await;
    publish(&setup.world, "notifications", "email", b"secret-pw-5", BasicProperties::default()).await;
    setup.notify(&note(6, 0)).await;
    setup.letters(1).await;
    let ends = by_note(&records(&setup.world, 4).await);
    let reasons = [1, 2, 3, 6].map(|n| ends[&format!("note-{n}")]["reason"].as_str().unwrap_or("").to_owned());
    assert_eq!(reasons, ["expired", "undeliverable", "retries_exhausted", ""]);
    eventually("five dead mails", async || (setup.world.depth("emails.dead").await == 5).then_some(())).await;
    let dead = setup.world.drained("emails.dead").await;
    let mut said: Vec<[String; 4]> = dead
        .iter()
        .map(|letter| {
            let header = |name: &str| letter.header(name).unwrap_or_default();
            [
                letter.json()["userId"].as_str().unwrap_or("").to_owned(),
                header("resetd-reason"),
                header("resetd-status"),
                header("resetd-attempts"),
            ]
        })
        .collect();
    said.sort();
    let expected = [
        ["", "invalid_notification", "null", "0"],
        ["u-1", "expired", "null", "0"],
        ["u-2", "undeliverable", "550", "1"],
        ["u-3", "retries_exhausted", "451", "3"],
        ["u-4", "invalid_notification", "null", "0"],
    ];
    assert_eq!(said, expected.map(|row| row.map(str::to_owned)));
    is_empty(&setup.world).await;
    assert_eq!(mailer.terminated().await.0, 0, "{}", mailer.stderr());
    for letter in &dead {
        let all = format!("{:?} {:?}", String::from_utf8_lossy(&letter.body), letter.properties);
        assert!(!all.contains("secret-pw"), "{all}");
        assert!(letter.properties.expiration().is_none(), "{all}");
    }
    for secret in ["secret-pw", "@example.com"] {
        assert!(!mailer.stderr().contains(secret), "{}", mailer.stderr());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailer_that_fails_in_every_way_leaves_no_secret_in_its_log_its_records_its_dead_mails_and_its_metrics() {
    // A server that repeats what it was told.
    let postbox = Postbox::answering(|to, _| {
        let n = to.trim_start_matches("u-").split('@').next().unwrap_or_default();
        let code = match n {
            "1" => "550 5.1.1",
            "2" => "451 4.3.0",
            _ => "250",
        };
        (Duration::ZERO, format!("{code} <{to}> not with secret-pw-{n}"))
    });
    let setup = Setup::new(postbox, "[retry]\nbase = \"1ms\"\nmax = \"10ms\"\n").await;
    let run = Run::of(&setup.world, &["--log", "json", "mailer"]).config("[mailer]\nmax_attempts = 3\n");
    let mut mailer = run.env("RUST_LOG", "trace,lapin::returned_messages=trace").start();
    let http = mailer.http().await;
    role_is(&http, "active").await;
    for n in 1..=3 {
        setup.notify(&note(n, 0)).await;
    }
    setup.notify(&note(4, 25 * 3600)).await;
    setup.notify(&with(note(5, 0), &json!({"sealed": "secret-pw-5"}))).await;
    setup.notify(&with(note(6, 0), &json!({"to": "u-6"}))).await;
    let records = records(&setup.world, 6).await;
    eventually("five dead mails", async || (setup.world.depth("emails.dead").await == 5).then_some(())).await;
    let metrics = testkit::http::get(format!("{http}/metrics")).await.unwrap().text().await.unwrap();
    let (_, ready) = readyz_says(&http).await;
    assert_eq!(mailer.terminated().await.0, 0, "{}", mailer.stderr());
    let message = crate::operator::ops::message;
    let dead = setup.world.drained("emails.dead").await;
    let mut places = vec![("the log", mailer.stderr()), ("the metrics", metrics), ("readyz", ready.to_string())];
    places.extend(records.iter().map(|record| ("a record", message(record))));
    // A dead mail says who was to be told, and nothing else does.
    for address in (1..=5).map(|n| format!("u-{n}@example.com")) {
        assert!(places.iter().all(|(_, said)| !said.contains(&address)), "{address}");
    }
    places.extend(dead.iter().map(|letter| ("a dead mail", message(letter))));
    for secret in (1..=6).map(|n| format!("secret-pw-{n}")) {
        for disguise in crate::operator::ops::disguises(&secret) {
            for (place, said) in &places {
                assert!(!said.contains(&disguise), "{disguise} is in {place}: {said}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_that_is_not_taken_at_first_is_tried_again_in_memory_or_at_the_broker() {
    let postbox = Postbox::answering(|_, before| {
        let said = if before == 0 { "450 4.2.1 busy" } else { "250 taken" };
        (Duration::ZERO, said.to_owned())
    });
    let setup = Setup::new(postbox, "").await;
    let (mut mailer, _) = setup.mailer().await;
    setup.notify(&note(1, 0)).await;
    setup.letters(1).await;
    assert_eq!(records(&setup.world, 1).await[0].json()["attempts"], 2);
    assert_eq!(mailer.terminated().await.0, 0);

    // The same with no wait in memory: it is parked, and comes back by itself.
    let parking = Run::of(&setup.world, &["--log", "json", "mailer"])
        // So long that no wait is over by chance before it is parked.
        .config("[retry]\nbase = \"14s\"\nmax = \"14s\"\ninline_max = \"1ms\"\n");
    let mailer = parking.start();
    role_is(&mailer.http().await, "active").await;
    let began = std::time::Instant::now();
    setup.notify(&note(2, 0)).await;
    eventually("it is parked", async || (setup.world.depth("emails.parked.15s").await == 1).then_some(())).await;
    assert_eq!(setup.world.depth("emails").await, 0);
    setup.letters(2).await;
    assert!(began.elapsed() > Duration::from_secs(13), "{:?}", began.elapsed());
    assert_eq!(by_note(&records(&setup.world, 2).await)["note-2"]["attempts"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_mail_server_is_away_nothing_is_lost_and_afterwards_everybody_is_told_once() {
    let socket = refusing_port();
    let world = Plan::new().config(&section(socket.local_addr().unwrap().port())).prepare().await;
    let (mailer, http) = mailer(&world).await;
    // One person's mail alone opens the breaker: it is not given up for the server's absence.
    notify(&world, &note(0, 0), BasicProperties::default()).await;
    eventually("the breaker opens", async || {
        let (status, ready) = readyz(&http).await?;
        (ready["mailer"]["breaker"]["state"] == "open").then(|| assert_eq!(status, 200))
    })
    .await;
    for n in 1..30 {
        notify(&world, &note(n, 0), BasicProperties::default()).await;
    }
    let postbox = Postbox::new();
    let _serving = serve(&postbox, socket.listen(64).unwrap()).await;
    let ends = by_note(&records(&world, 30).await);
    assert!(ends.values().all(|end| end["outcome"] == "notified"), "{ends:?}");
    let mut told: Vec<String> = postbox.letters().into_iter().map(|letter| letter.to).collect();
    told.sort();
    let mut all: Vec<String> = (0..30).map(|n| format!("u-{n}@example.com")).collect();
    all.sort();
    assert_eq!(told, all);
    assert_eq!(world.depth("emails.dead").await, 0);
    says(&mailer.stderr(), &["the breaker opens", "the breaker closes"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailer_killed_between_the_servers_yes_and_its_record_costs_one_copy_with_the_same_message_id() {
    let setup = Setup::new(Postbox::new(), "").await;
    let run = Run::of(&setup.world, &["--log", "json", "mailer"]).env("RESETD_FAILPOINT", "delivered@note-1=abort");
    let mut first = run.start();
    role_is(&first.http().await, "active").await;
    setup.notify(&note(1, 0)).await;
    assert_ne!(first.ended().await, 0);
    let (second, _) = setup.mailer().await;
    let letters = setup.letters(2).await;
    assert_eq!([&letters[0].message_id, &letters[1].message_id], ["<note-1@example.com>"; 2]);
    records(&setup.world, 1).await;
    is_empty(&setup.world).await;

    // Once the record is there, a redelivery is only acked.
    let run = Run::of(&setup.world, &["--log", "json", "mailer"]).env("RESETD_FAILPOINT", "recorded@note-2=abort");
    drop(second);
    let mut third = run.start();
    role_is(&third.http().await, "active").await;
    setup.notify(&note(2, 0)).await;
    assert_ne!(third.ended().await, 0);
    let (_fourth, _) = setup.mailer().await;
    is_empty(&setup.world).await;
    setup.notify(&note(3, 0)).await;
    let letters = setup.letters(4).await;
    assert_eq!(letters.iter().filter(|letter| letter.to == "u-2@example.com").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_mails_through_two_restarts_are_each_sent_exactly_once() {
    let setup = Setup::new(Postbox::answering(|_, _| (Duration::from_millis(40), "250 taken".into())), "").await;
    let (mut first, _) = setup.mailer().await;
    for n in 0..200 {
        setup.notify(&note(n, 0)).await;
    }
    for so_far in [40, 100] {
        eventually("some are sent", async || (setup.postbox.letters().len() >= so_far).then_some(())).await;
        let (code, took) = first.terminated().await;
        assert_eq!(code, 0, "{}", first.stderr());
        assert!(took < Duration::from_secs(10), "{took:?}");
        first = setup.mailer().await.0;
    }
    let ends = records(&setup.world, 200).await;
    assert!(ends.iter().all(|end| end.routing_key == "main.notified"));
    let mut ids: Vec<String> = setup.letters(200).await.into_iter().map(|letter| letter.message_id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 200);
    is_empty(&setup.world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_waits_for_a_mail_in_the_air_and_returns_those_that_wait() {
    let postbox = Postbox::answering(|to, _| match to {
        "u-1@example.com" => (Duration::from_millis(700), "250 taken".into()),
        _ => (Duration::ZERO, "450 later".into()),
    });
    let setup = Setup::new(postbox, "[retry]\nbase = \"5s\"\nmax = \"5s\"\n").await;
    let (mut mailer, _) = setup.mailer().await;
    for n in 1..=5 {
        setup.notify(&note(n, 0)).await;
    }
    eventually("all are tried", async || (setup.postbox.came() >= 5).then_some(())).await;
    let (code, took) = mailer.terminated().await;
    assert_eq!(code, 0, "{}", mailer.stderr());
    assert!(took < Duration::from_secs(3), "{took:?}");
    eventually("those that waited are back", async || (setup.world.depth("emails").await == 4).then_some(())).await;
    assert_eq!(setup.letters(1).await[0].to, "u-1@example.com");
    assert_eq!(records(&setup.world, 1).await[0].json()["outcome"], "notified");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_mail_that_is_replayed_is_a_new_job_for_the_same_person_however_often_it_is_cut_short() {
    let postbox = Postbox::answering(|_, _| (Duration::ZERO, "550 no".into()));
    let setup = Setup::new(postbox, "").await;
    let mut mailer = setup.mailer().await.0;
    setup.notify(&note(1, 0)).await;
    setup.notify(&note(2, 0)).await;
    eventually("both are dead", async || (setup.world.depth("emails.dead").await == 2).then_some(())).await;
    assert_eq!(mailer.terminated().await.0, 0);
    // The lanes are a worker's.
    let mut world = setup.world;
    world.start_worker().await;
    world.ready().await;
    world.stop_worker().await.unwrap();
    let dead = |arguments: &[&str]| Run::of(&world, &[&["dead", "--queue", "emails"], arguments].concat());
    let (code, out, said) = dead(&["list"]).end().await;
    assert_eq!(code, 0, "{said}");
    says(&out, &["emails: 2 letters", "undeliverable", "note-1", "u-2", "550"]);
    assert!(!out.contains('@'), "{out}");
    let (code, out, said) = dead(&["show", "note-1", "--json"]).end().await;
    assert_eq!(code, 0, "{said}");
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&shown["to"], &shown["jobId"]), (&json!("u-1@example.com"), &json!("job-1")));
    let killed = dead(&["replay", "note-1", "--yes"]).env("RESETD_FAILPOINT", "again@note-1=abort").end().await;
    assert_ne!(killed.0, 0);
    eventually("the letter is back", async || (world.depth("emails.dead").await == 2).then_some(())).await;
    let (code, out, said) = dead(&["replay", "--all", "--yes"]).end().await;
    assert_eq!(code, 0, "{said}");
    says(&out, &["emails: 2 letters replayed"]);
    assert_eq!(world.depth("emails.dead").await, 0);
    world.start_worker().await;
    world.ready().await;
    let outcomes = world.recorded(2).await;
    let mut ended: Vec<String> =
        outcomes.iter().map(|record| record.json()["jobId"].as_str().unwrap().to_owned()).collect();
    ended.sort();
    ended.dedup();
    assert_eq!(ended, ["mail:note-1", "mail:note-2"]);
    eventually("everything is done", async || (world.depth("resets.main").await == 0).then_some(())).await;
    for user in ["u-1", "u-2"] {
        assert_eq!(world.main().user(user).unwrap().password_sets, 1, "{user}");
    }
    world.stop_worker().await.unwrap();
    let mails = world.drained("emails").await;
    assert_eq!(mails.iter().map(|mail| mail.json()["to"].clone()).collect::<Vec<_>>().len(), 2);
    let expirations: Vec<_> =
        mails.iter().map(|mail| mail.properties.expiration().clone().unwrap().to_string()).collect();
    assert_eq!(expirations, ["90000000", "90000000"], "an hour longer than notification.ttl");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_notification_is_opened_by_the_mailer_and_what_it_says_logs_in() {
    let setup = Setup::new(Postbox::new(), "").await;
    let folder = tempfile::tempdir().unwrap();
    let key = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for name in ["ours", "unknown"] {
        let (code, _, said) = Run::new(&["keygen", &key(name)]).end().await;
        assert_eq!(code, 0, "{said}");
    }
    let (public, private, other) = (key("ours.pub.pem"), key("ours.key.pem"), key("unknown.key.pem"));
    let sealing = format!("[notification]\nseal_to = [{public:?}]\n");
    let worker = Run::of(&setup.world, &["--log", "json", "worker"]).config(&sealing).start();
    crate::operator::process::ready(&worker.http().await).await;
    setup.world.reset("main", "agent", "job").await;
    eventually("it is told", async || (setup.world.depth("emails").await == 1).then_some(())).await;

    // Without the key nothing can be opened: that is said, and nothing is lost.
    let opening = |key: &str| format!("[mailer]\nopen_with = [{key:?}]\n");
    let mut without = Run::of(&setup.world, &["--log", "json", "mailer"]).config(&opening(&other)).start();
    let http = without.http().await;
    role_is(&http, "halted").await;
    let (status, ready) = readyz_says(&http).await;
    assert_eq!(status, 503);
    says(ready["mailer"]["reason"].as_str().unwrap(), &["mailer.open_with", "kid"]);
    assert_eq!(without.terminated().await.0, 0, "{}", without.stderr());

    let mut with = Run::of(&setup.world, &["--log", "json", "mailer"]).config(&opening(&private)).start();
    let letters = setup.letters(1).await;
    let text = &letters[0].text;
    let (_, rest) = text.split_once("password is: ").unwrap();
    let password = rest.split_once(". Please").unwrap().0;
    assert!(setup.world.main().logs_in("agent", password), "{text}");
    records(&setup.world, 1).await;
    assert_eq!(with.terminated().await.0, 0, "{}", with.stderr());
    assert!(!with.stderr().contains(password) && !worker.stderr().contains(password));
    assert_eq!(setup.world.depth("emails.dead").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_sealed_to_an_unknown_key_waits_by_itself_and_holds_up_nobody() {
    let setup = Setup::new(Postbox::new(), "").await;
    let (mut mailer, http) = setup.mailer().await;
    let sealed = |n: usize, age: i64| {
        let header = r#"{"alg":"RSA-OAEP-256","enc":"A256GCM","kid":"of-nobody"}"#;
        let header = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, header);
        let mut note = note(n, age);
        note["sealed"] = json!(format!("{header}.a.b.c.d"));
        for open in ["temporaryPassword", "body"] {
            note.as_object_mut().unwrap().remove(open);
        }
        note
    };
    setup.notify(&sealed(1, 200)).await;
    let parked = async || (setup.world.depth("emails.parked.2m").await == 1).then_some(());
    eventually("it waits about as long as it has waited", parked).await;
    let (status, ready) = readyz_says(&http).await;
    assert_eq!((status, &ready["mailer"]["role"]), (503, &json!("halted")), "nothing could be opened yet");
    for n in 2..=20 {
        setup.notify(&note(n, 0)).await;
    }
    setup.letters(19).await;
    eventually("all are recorded", async || (setup.world.depth("emails").await == 0).then_some(())).await;
    assert_eq!(parked().await, Some(()), "nobody waited for it");
    let (status, ready) = readyz_says(&http).await;
    assert_eq!((status, &ready["mailer"]["role"]), (200, &json!("active")));
    says(ready["mailer"]["reason"].as_str().unwrap(), &["kid of-nobody", "mailer.open_with", "wait at the broker"]);
    // What is too old and cannot be opened does not wait for ever.
    setup.notify(&sealed(21, 25 * 3600)).await;
    eventually("it is dead", async || (setup.world.depth("emails.dead").await == 1).then_some(())).await;
    assert_eq!(mailer.terminated().await.0, 0, "{}", mailer.stderr());
    says(&mailer.stderr(), &["a mail waits for its key", "kid of-nobody"]);
    let dead = setup.world.drained("emails.dead").await;
    assert_eq!(dead[0].header("resetd-reason").as_deref(), Some("expired"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notification_from_the_future_is_sent_and_those_after_it_too() {
    let setup = Setup::new(Postbox::new(), "").await;
    declared(&setup.world).await;
    // Two of one person, of which the first claims to be the newest of all times; and one that is no notification and claims the same.
    let future = json!({"issuedAt": "2099-01-01T00:00:00Z"});
    setup.notify(&with(note(1, 0), &future)).await;
    setup.notify(&with(with(note(2, 0), &future), &json!({"subject": "s\r\n"}))).await;
    let (mut mailer, _) = setup.mailer().await;
    setup.letters(1).await;
    is_empty(&setup.world).await;
    let again = json!({"notificationId": "note-1-again"});
    setup.notify(&with(note(1, 0), &again)).await;
    setup.notify(&with(note(2, 0), &json!({"notificationId": "note-2-again"}))).await;
    let ends = by_note(&records(&setup.world, 4).await);
    let outcome = |id: &str| (ends[id]["outcome"].as_str().unwrap(), ends[id]["reason"].as_str().unwrap_or(""));
    assert_eq!(outcome("note-2"), ("notification_failed", "invalid_notification"));
    for id in ["note-1", "note-1-again", "note-2-again"] {
        assert_eq!(outcome(id), ("notified", ""), "{id}");
    }
    for (id, end) in &ends {
        assert!(end["issuedAt"].as_str().unwrap() < "2099", "{id}: {end}");
    }
    assert_eq!(mailer.terminated().await.0, 0, "{}", mailer.stderr());
    says(&mailer.stderr(), &["its issuedAt is more than 5 minutes ahead"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sealed_for_one_person_is_sent_to_nobody_else() {
    let setup = Setup::new(Postbox::new(), "").await;
    let folder = tempfile::tempdir().unwrap();
    let key = |rest: &str| folder.path().join(format!("key{rest}")).to_str().unwrap().to_owned();
    let (code, _, said) = Run::new(&["keygen", &key("")]).end().await;
    assert_eq!(code, 0, "{said}");
    let (public, private) = (key(".pub.pem"), key(".key.pem"));
    let keys = format!("[notification]\nseal_to = [{public:?}]\n[mailer]\nopen_with = [{private:?}]\n");
    let worker = Run::of(&setup.world, &["--log", "json", "worker"]).config(&keys).start();
    crate::operator::process::ready(&worker.http().await).await;
    setup.world.reset("main", "agent", "job").await;
    eventually("it is told", async || (setup.world.depth("emails").await == 1).then_some(())).await;
    let genuine = setup.world.drained("emails").await[0].json();

    // Copies of it, each with one field of somebody who wants to read the password.
    let fields =
        [("notificationId", "note-2"), ("org", "other"), ("userId", "another"), ("to", "thief@elsewhere.example")];
    let mut mailer = Run::of(&setup.world, &["--log", "json", "mailer"]).config(&keys).start();
    for (field, value) in fields {
        setup.notify(&with(genuine.clone(), &json!({field: value}))).await;
    }
    eventually("four dead mails", async || (setup.world.depth("emails.dead").await == 4).then_some(())).await;
    setup.notify(&genuine).await;
    let letters = setup.letters(1).await;
    assert_eq!(letters[0].to, "agent@example.com");
    let (_, rest) = letters[0].text.split_once("password is: ").unwrap();
    let password = rest.split_once(". Please").unwrap().0;
    assert!(setup.world.main().logs_in("agent", password), "{}", letters[0].text);
    is_empty(&setup.world).await;
    assert_eq!(mailer.terminated().await.0, 0, "{}", mailer.stderr());
    assert!(!mailer.stderr().contains(password) && !mailer.stderr().contains("example"), "{}", mailer.stderr());
    let mut said: Vec<String> = Vec::new();
    for letter in setup.world.drained("emails.dead").await {
        assert_eq!(letter.header("resetd-reason").as_deref(), Some("cannot_open"));
        let all = format!("{:?} {:?}", String::from_utf8_lossy(&letter.body), letter.properties);
        assert!(!all.contains(password) && letter.json().get("sealed").is_none(), "{all}");
        said.push(letter.header("resetd-detail").unwrap());
    }
    said.sort();
    let mut expected = fields.map(|(field, _)| format!("{field}: it is not the one that was sealed"));
    expected.sort();
    for (said, expected) in said.iter().zip(&expected) {
        assert!(said.starts_with(expected.as_str()), "{said}");
    }
}
