//! What the page, `/readyz`, `resetd batch` and `enqueue --wait` say of an org that does not move, and of how fast one moves.

use jiff::{SignedDuration, Timestamp};
use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use resetd::domain::batch::Announced;
use resetd::domain::job::{JobId, Lane};
use resetd::domain::mailing::MailEnd;
use resetd::domain::outcome::Outcome;
use resetd::domain::user::UserId;
use resetd::wire;
use serde_json::{Value, json};

use crate::browser::{Browser, Tab};
use crate::operator::process::{Process, Run, role_is};
use crate::world::{
    Plan, World, eventually, fault, named, refusing_port, reset_body, succeeded, text, unlimited, with_header,
};

/// Ten jobs a second.
const RATE: &str = "rate_per_minute = 600";

async fn main_of(http: &str) -> Value {
    let state: Value = testkit::http::get(format!("{http}/state")).await.unwrap().json().await.unwrap();
    state["orgs"]["main"].clone()
}

/// What `/state` says of the org `main`, once that is as wanted.
async fn shown(http: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, async || {
        let main = main_of(http).await;
        wanted(&main).then_some(main)
    })
    .await
}

/// Announces a batch of so many jobs for the bulk lane, and sends them.
async fn send(world: &World, batch: &str, jobs: u64) {
    let announced = Announced { not_before: None, lane: Lane::Bulk, jobs, at: Timestamp::now() };
    let (body, properties) = wire::batch::announcement("main", batch, &announced);
    record(world, "main.batch", &body, properties).await;
    let channel = world.channel().await;
    for n in 0..jobs {
        let properties = with_header(named(&format!("{batch}/u-{n}")), "batch", text(batch));
        world.publish_on(&channel, "main.bulk", reset_body(&format!("u-{n}")).to_string().as_bytes(), properties).await;
    }
}

/// Publishes a record to the outcomes.
async fn record(world: &World, key: &str, body: &[u8], properties: lapin::BasicProperties) {
    let (channel, exchange) = (world.channel().await, world.named("outcomes"));
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish(exchange.as_str().into(), key.into(), options, body, properties);
    assert_eq!(sent.await.unwrap().await.unwrap(), lapin::Confirmation::Ack(None));
}

/// What `resetd batch NAME --once --json` says.
async fn batch(world: &World, name: &str) -> Value {
    let (code, out, said) = Run::of(world, &["batch", name, "--once", "--json"]).end().await;
    assert_eq!((code, said.as_str()), (0, ""), "{out}");
    serde_json::from_str(&out).unwrap()
}

async fn done(world: &World, jobs: u64) {
    eventually(&format!("{jobs} jobs have ended"), async || {
        let main = main_of(&world.worker().http).await;
        (main["batches"][0]["done"].as_u64()? >= jobs).then_some(())
    })
    .await;
}

/// What is said of the batch `agents`, once it is that nothing moves for this cause. There is no estimate then.
async fn blocked_batch(world: &World, cause: &str) -> Value {
    let said = eventually(&format!("the batch says {cause}"), async || {
        let said = batch(world, "agents").await;
        (said["blocked"]["cause"] == cause).then_some(said)
    })
    .await;
    assert_eq!(said["secondsLeft"], Value::Null, "{said}");
    said
}

/// That neither the page nor the batch has an estimate, but the same cause and, where there is one, the same moment.
async fn nothing_moves(world: &World, cause: &str, reason: &str, ahead: Option<std::ops::Range<i64>>) {
    let main = shown(&world.worker().http, cause, |main| main["blocked"]["cause"] == cause).await;
    assert_eq!((&main["secondsLeft"], &main["batches"][0]["secondsLeft"]), (&Value::Null, &Value::Null), "{main}");
    let of_batch = blocked_batch(world, cause).await;
    for blocked in [&main["blocked"], &main["batches"][0]["blocked"], &of_batch["blocked"]] {
        assert_eq!(blocked["cause"], cause, "{main} {of_batch}");
        assert!(blocked["reason"].as_str().unwrap().contains(reason), "{reason} is not in {blocked}");
        let Some(ahead) = &ahead else { continue };
        let until: Timestamp = blocked["until"].as_str().unwrap().parse().unwrap();
        let left = until.duration_since(Timestamp::now()).as_secs();
        assert!(ahead.contains(&left), "{left} s ahead: {blocked}");
    }
    let (code, out, _) = Run::of(world, &["batch", "agents", "--once"]).end().await;
    assert!(code == 0 && out.contains(reason) && !out.contains("time left"), "{out}");
}

/// What stands in each cell of a table's rows.
async fn rows(tab: &mut Tab, table: &str) -> Value {
    tab.value(&format!(
        "[...document.querySelectorAll('{table} tbody tr')].map((tr) => [...tr.children].filter((td) => td.offsetWidth > 0).map((td) => td.innerText))"
    ))
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_processing_is_halted_there_is_no_estimate_but_the_reason() {
    let world = Plan::new().org("main", unlimited(), RATE).start().await;
    send(&world, "agents", 80).await;
    done(&world, 12).await;
    world.main().add_fault(fault("status=403,code=missing.permissions,always"));
    nothing_moves(&world, "halted", "the org forbids the client to change users", Some(-1..40)).await;
    // Whoever waits for it is told too.
    let csv = "userId,email\nv-1,v-1@example.com\n";
    let waits = Run::of(&world, &["enqueue", "-", "--batch", "one", "--wait"]).stdin(csv).start();
    eventually("it says why nothing moves", async || {
        waits.stderr().contains("the org forbids the client to change users").then_some(())
    })
    .await;
    assert!(!waits.stderr().contains(" left"), "{}", waits.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_breaker_is_open_there_is_no_estimate_but_the_error_and_the_next_probe() {
    let world = Plan::new().org("main", unlimited(), RATE).start().await;
    send(&world, "agents", 80).await;
    done(&world, 12).await;
    world.main().add_fault(fault("status=500,always"));
    nothing_moves(&world, "breaker_open", "failed", None).await;
    let (_, said) = world.readyz().await;
    let cause = &said["orgs"]["main"]["breaker"]["cause"];
    assert!(cause.as_str().unwrap().contains("500"), "the error itself is said: {cause}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_that_cannot_be_reached_is_named_with_its_error() {
    // Held to the end, so that nobody listens there.
    let closed = refusing_port();
    let nobody = format!("scim_url = \"http://{}/scim\"\n{RATE}", closed.local_addr().unwrap());
    let mut world = Plan::new().org("main", unlimited(), RATE).prepare().await;
    let own = format!("scim_url = \"{}/api/v2/scim/v2\"\n", world.orgs["main"].base);
    world.config = world.config.replace(&own, "").replace(RATE, &nobody);
    world.start_worker().await;
    world.ready().await;
    send(&world, "agents", 20).await;
    let cause = eventually("the breaker is open", async || {
        world.readyz().await.1["orgs"]["main"]["breaker"]["cause"].as_str().map(str::to_owned)
    })
    .await;
    assert!(cause.contains("onnection refused"), "{cause}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_bulk_lane_is_closed_there_is_no_estimate_but_until_when() {
    let world = Plan::new().org("main", unlimited(), &format!("{RATE}\nguard_per_hour = 12")).start().await;
    send(&world, "agents", 30).await;
    nothing_moves(&world, "bulk_closed", "guard_per_hour", Some(3_400..3_601)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_all_calls_pause_there_is_no_estimate_and_readyz_says_until_when() {
    let world = Plan::new().org("main", unlimited(), RATE).start().await;
    let (_, said) = world.readyz().await;
    assert_eq!(
        (&said["orgs"]["main"]["ratePerMinute"], &said["orgs"]["main"]["pausedUntil"]),
        (&json!(600), &Value::Null)
    );
    send(&world, "agents", 80).await;
    done(&world, 12).await;
    world.main().add_fault(fault("status=429,retry_after=120,next=1"));
    nothing_moves(&world, "paused", "its quota is spent", Some(60..121)).await;
    let (code, said) = world.readyz().await;
    let until: Timestamp = said["orgs"]["main"]["pausedUntil"].as_str().unwrap().parse().unwrap();
    assert!(code == 200 && until > Timestamp::now() + SignedDuration::from_secs(60), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_worker_there_is_no_estimate_and_with_one_again_there_is() {
    let mut world = Plan::new().org("main", unlimited(), RATE).start().await;
    send(&world, "agents", 200).await;
    done(&world, 12).await;
    world.stop_worker().await.unwrap();
    blocked_batch(&world, "no_worker").await;
    world.start_worker().await;
    world.ready().await;
    eventually("there is an estimate", async || {
        let said = batch(&world, "agents").await;
        (said["blocked"].is_null() && (said["secondsLeft"].is_number() || said["complete"] == true)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_stands_by_says_why_the_active_one_does_not_move() {
    let world = Plan::new().org("main", unlimited(), RATE).start().await;
    let other = Process::worker_by(&world, &world.amqp_url);
    let at_other = other.http().await;
    role_is(&at_other, "standby").await;
    send(&world, "agents", 80).await;
    done(&world, 12).await;
    world.main().add_fault(fault("status=403,code=missing.permissions,always"));
    let main = shown(&at_other, "it knows", |main| main["blocked"]["cause"] == "halted").await;
    assert_eq!((&main["role"], &main["secondsLeft"]), (&json!("standby"), &Value::Null), "{main}");
    assert_eq!(main["batches"][0]["secondsLeft"], Value::Null, "{main}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rate_is_of_jobs_that_ended_in_a_minute_and_the_estimate_is_by_the_rate_in_force() {
    let world = Plan::new().org("main", unlimited(), "rate_per_minute = 60").start().await;
    // What others write is read while somebody looks on.
    let _page = testkit::http::get(format!("{}/events", world.worker().http)).await.unwrap();
    send(&world, "agents", 40).await;
    let (mut last, mut looked) = (0, 0);
    while last < 10 {
        let main = main_of(&world.worker().http).await;
        let [rate, spent] = [&main["perMinute"], &main["quota"]["spent"]].map(|number| number.as_u64().unwrap());
        assert!(rate <= spent && spent <= 60, "more than was called: {main}");
        last = main["batches"][0]["done"].as_u64().unwrap_or(0);
        if last >= 3 {
            let words = format!("Moving: {rate} jobs ended in the last 60 s");
            assert_eq!(
                (&main["statusLine"]["text"], rate),
                (&json!(words), main["latest"].as_array().unwrap().len() as u64)
            );
            let left = main["batches"][0]["secondsLeft"].as_f64().unwrap();
            assert!((left - (40 - last) as f64).abs() <= 2.0, "one a second, of which {last} are done: {left} s");
            let left = main["secondsLeft"].as_f64().unwrap();
            assert!((left - (40 - last) as f64).abs() <= 3.0, "one a second, of which {last} are done: {left} s");
            looked += 1;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    assert!(looked > 3, "{looked} looks");
    let said = batch(&world, "agents").await;
    let [done, rate] = [&said["done"], &said["ratePerMinute"]].map(|number| number.as_u64().unwrap());
    assert_eq!((rate, said["secondsLeft"].as_u64().unwrap().abs_diff(40 - done) <= 2), (done, true), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_start_says_the_rate_in_force() {
    let world = Plan::new().org("main", unlimited(), "rate_per_minute = 240").prepare().await;
    let (mut worker, _) = Process::worker(&world).await;
    assert_eq!(worker.terminated().await.0, 0);
    let log = worker.stderr();
    assert!(log.lines().any(|line| line.contains("\"rate_per_minute\":240") && line.contains("main")), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_a_batch_was_heard_of_when_its_last_record_was_written() {
    let mut world = Plan::new().start().await;
    world.stop_worker().await.unwrap();
    let at = wire::to_the_millisecond(Timestamp::now() - SignedDuration::from_mins(10));
    let after = |seconds| at + SignedDuration::from_secs(seconds);
    for (batch, mailed) in [("notified", true), ("not_notified", false)] {
        let announced = Announced { not_before: None, lane: Lane::Bulk, jobs: 1, at };
        let (body, properties) = wire::batch::announcement("main", batch, &announced);
        record(&world, "main.batch", &body, properties).await;
        let (job, user) = (JobId::new(format!("{batch}/u-1")), UserId::parse("u-1").unwrap());
        let done = succeeded(job.clone(), "u-1", after(5));
        let outcome = Outcome { lane: Lane::Bulk, batch: Some(batch.into()), ..done };
        let (body, properties) = wire::outcome::record(&outcome);
        record(&world, "main.succeeded", &body, properties).await;
        if mailed {
            let end = MailEnd {
                note: "n-1".into(),
                job,
                org: "main".into(),
                user,
                batch: Some(batch.into()),
                issued_at: after(5),
                unsent: None,
                status: Some(250),
                attempts: 1,
                at: after(9),
            };
            let (body, properties) = wire::mail::record(&end);
            record(&world, "main.notified", &body, properties).await;
        }
    }
    world.start_worker().await;
    world.ready().await;
    let main = shown(&world.worker().http, "both batches", |main| main["batches"].as_array().unwrap().len() == 2).await;
    let heard: Vec<(&str, Timestamp)> = main["batches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|batch| (batch["name"].as_str().unwrap(), batch["heardAt"].as_str().unwrap().parse().unwrap()))
        .collect();
    assert_eq!(heard, [("not_notified", after(5)), ("notified", after(9))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_names_who_failed_accounts_for_every_dead_letter_and_can_be_read_on_a_phone() {
    let (world, browser) = tokio::join!(Plan::new().start(), Browser::start());
    // One that the broker itself dead-lettered: no outcome tells of it.
    let channel = world.channel().await;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let dead = world.named("resets.main.dead");
    channel.queue_declare(dead.as_str().into(), options, FieldTable::default()).await.unwrap();
    let sent = channel.basic_publish(
        "".into(),
        dead.as_str().into(),
        BasicPublishOptions::default(),
        b"{}",
        named("x").with_delivery_mode(2),
    );
    assert_eq!(sent.await.unwrap().await.unwrap(), lapin::Confirmation::Ack(None));
    let mut tab = browser.tab().await;
    tab.open(&world.worker().http).await;
    tab.until("[data-f=dead]", |dead| dead == "1").await;
    let words = tab.text("[data-f=open]").await;
    assert!(!words.contains("no job failed") && words.contains("resetd dead list"), "{words}");

    world.main().add_fault(fault("status=404,always,user=gone-1"));
    world.main().add_fault(fault("status=404,always,user=gone-2"));
    for user in ["u-1", "gone-1", "gone-2"] {
        let properties =
            with_header(named(&format!("onboarding-november/{user}")), "batch", text("onboarding-november"));
        world.publish("main.bulk", reset_body(user).to_string().as_bytes(), properties).await;
    }
    tab.until("[data-f=dead]", |dead| dead == "3").await;
    tab.until("[data-f=failures]", |failed| failed.contains("gone-1") && failed.contains("gone-2")).await;
    let words = tab.text("[data-f=open]").await;
    assert!(words.contains("2 jobs failed within a day") && words.contains("1 more"), "{words}");
    for width in [390, 1280] {
        tab.size(width, 844).await;
        let rows = rows(&mut tab, ".last").await;
        // The newest first: in which order the three end is not the page's affair.
        let rows: Vec<Vec<&str>> = rows.as_array().unwrap()[..3]
            .iter()
            .map(|row| row.as_array().unwrap().iter().map(|cell| cell.as_str().unwrap()).collect())
            .collect();
        assert!(rows.iter().all(|row| row.contains(&"bulk")), "{width} wide: the lane is gone: {rows:?}");
        for user in ["gone-2", "gone-1", "u-1"] {
            let job = format!("onboarding-november/{user}");
            assert!(rows.iter().flatten().any(|cell| cell.contains(&job)), "{width} wide: {rows:?}");
        }
        // Nothing of it is cut off where there is little room; else whoever points at it sees all of it.
        let cut = tab.value("[...document.querySelectorAll('.last td')].filter((td) => td.offsetWidth > 0 && td.scrollWidth > td.clientWidth + 1).map((td) => td.innerText)").await;
        assert!(width > 390 || cut == json!([]), "{width} wide: {cut}");
        let wide = tab.value("document.documentElement.scrollWidth").await.as_u64().unwrap();
        assert!(wide <= width.into(), "the page is {wide} wide at {width}");
    }
    let said = batch(&world, "onboarding-november").await;
    assert_eq!(said["givenUp"], json!({"not_found": ["gone-1", "gone-2"]}), "{said}");
}
