//! Bytes that are not UTF-8 where AMQP has text: in properties, and in the names and values of headers. RabbitMQ takes them from any
//! client, and hands them on as they are.

use std::collections::BTreeMap;

use lapin::BasicProperties;
use resetd::wire;
use serde_json::{Value, json};
use testkit::raw::{Producer, Properties};

use crate::operator::dead::{DEAD, dead, declared};
use crate::world::{Plan, Taken, World, by_id, named, reset_body};

/// `Zürich` in Latin-1.
const ZURICH: &[u8] = b"Z\xfcrich";

/// Properties with this id.
fn job(id: &str) -> Properties {
    Properties::default().text("message_id", id.as_bytes())
}

/// One job for each place in which text may stand: the user, the properties, and what the detail begins with.
fn everywhere() -> Vec<(&'static str, Properties, &'static str)> {
    vec![
        ("content-type", job("content-type").text("content_type", ZURICH), "content_type: "),
        ("content-encoding", job("content-encoding").text("content_encoding", ZURICH), "content_encoding: "),
        ("correlation-id", job("correlation-id").text("correlation_id", ZURICH), "correlation_id: "),
        ("reply-to", job("reply-to").text("reply_to", ZURICH), "reply_to: "),
        ("type", job("type").text("type", ZURICH), "type: "),
        ("app-id", job("app-id").text("app_id", ZURICH), "app_id: "),
        ("cluster-id", job("cluster-id").text("cluster_id", ZURICH), "cluster_id: "),
        ("header", job("header").header(ZURICH, b"v"), "header \"Z\\u{fffd}rich\": "),
        ("batch", job("batch").header(b"batch", ZURICH), "header batch: "),
        ("longest", job("longest").text("app_id", &[0xff; 255]), "app_id: "),
        ("message-id", Properties::default().text("message_id", ZURICH), "message_id: "),
        ("longest-id", Properties::default().text("message_id", &[0xff; 255]), "message_id: "),
    ]
}

fn body(user: &str) -> Vec<u8> {
    reset_body(user).to_string().into_bytes()
}

async fn lines(world: &World) -> Vec<Value> {
    let (code, out, err) = dead(world, &["list", "--json"]).end().await;
    assert_eq!(code, 0, "{out}{err}");
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs a command over the letters to its good end.
async fn runs(world: &World, arguments: &[&str]) -> String {
    let (code, out, err) = dead(world, arguments).end().await;
    assert_eq!(code, 0, "{out}{err}");
    out
}

/// How many sessions a worker has begun before the first of these jobs ended, and since: each writes a fence. (So does
/// a lapse of its proof: that one names the term that goes on.)
async fn sessions(world: &World, jobs: usize) -> [usize; 2] {
    world.recorded(jobs).await;
    let connection = crate::world::connect(&world.amqp_url).await;
    let channel = connection.create_channel().await.unwrap();
    let mut stream = crate::world::Tap::replay(&channel, &world.named("resets.outcomes")).await.unwrap();
    let (mut fences, mut ids) = ([0, 0], std::collections::BTreeSet::new());
    while ids.len() < jobs {
        let record = stream.next().await;
        match record.properties.kind().as_ref().map(|kind| kind.as_str()) {
            Some("fence") if record.json()["term"].is_null() => fences[usize::from(!ids.is_empty())] += 1,
            Some("outcome") => drop(ids.insert(record.json()["jobId"].as_str().unwrap().to_owned())),
            _ => {}
        }
    }
    fences
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_with_text_that_is_not_utf8_is_a_dead_letter_at_once_and_costs_its_neighbours_nothing() {
    let mut world = Plan::new().start().await;
    let mut outcomes = world.outcomes().await;
    let mut producer = Producer::connect(&world.amqp_url).await;
    let cases = everywhere();
    let lane = |n: usize| if n.is_multiple_of(2) { "main" } else { "main.bulk" };
    for (n, (user, properties, _)) in cases.iter().enumerate() {
        world.reset(lane(n), &format!("before-{user}"), &format!("before-{user}")).await;
        producer.publish(&world.named("resets"), lane(n), &body(user), properties).await;
        world.reset(lane(n), &format!("after-{user}"), &format!("after-{user}")).await;
    }
    // Its body is not even looked at for what it asks.
    producer
        .publish(&world.named("resets"), "main", br#"{"userId":"idle"}"#, &job("idle").text("app_id", ZURICH))
        .await;
    let jobs = cases.len() * 3 + 1;
    let ended: Vec<Value> = outcomes.take(jobs).await.iter().map(Taken::json).collect();
    let by_user = |user: &str| ended.iter().find(|record| record["userId"] == user).unwrap();
    for (user, _, _) in &cases {
        let record = by_user(user);
        assert_eq!((&record["outcome"], &record["reason"]), (&json!("failed"), &json!("invalid_job")), "{record}");
        for neighbour in [format!("before-{user}"), format!("after-{user}")] {
            let record = by_user(&neighbour);
            assert_eq!((&record["outcome"], &record["jobId"]), (&json!("succeeded"), &json!(neighbour)), "{record}");
        }
    }
    assert_eq!(world.main().stats().calls as usize, cases.len() * 2);
    // How it starts is not what is tested: a fence that is not read within 10 s is written again.
    let [_, since] = sessions(&world, jobs).await;
    assert_eq!(since, 0, "no connection was lost");
    world.stop_worker().await.unwrap();

    // Looked at: each is named as its outcome names it.
    let listed = lines(&world).await;
    assert_eq!(listed.len(), cases.len() + 1);
    for (user, _, detail) in &cases {
        let line = listed.iter().find(|line| line["userId"] == *user).unwrap();
        assert_eq!(line["jobId"], by_user(user)["jobId"], "{line}");
        assert!(line["detail"].as_str().unwrap().starts_with(detail), "{line}");
        let shown = runs(&world, &["show", line["jobId"].as_str().unwrap()]).await;
        assert!(shown.contains("invalid_job") && shown.contains(user), "{shown}");
    }
    let table = runs(&world, &["list"]).await;
    assert!(table.contains("13 letters"), "{table}");

    // Replayed: what is left of the text is UTF-8. But a batch that is none is in no letter, and without it this is another job.
    runs(&world, &["drop", "--yes", "idle"]).await;
    let (code, out, err) = dead(&world, &["replay", "--yes", "--all"]).end().await;
    assert_eq!((code, out.as_str()), (1, "org main: 11 letters replayed\n"), "{err}");
    assert!(err.contains("batch cannot be replayed") && err.contains("header batch"), "{err}");
    world.start_worker().await;
    // One record is that of the letter which was dropped.
    let again = outcomes.take(cases.len()).await;
    let again: BTreeMap<String, Value> = again
        .iter()
        .map(Taken::json)
        .filter_map(|record| Some((record["userId"].as_str()?.to_owned(), record["outcome"].clone())))
        .collect();
    for (user, _, _) in cases.iter().filter(|(user, _, _)| *user != "batch") {
        assert_eq!(again[*user], "succeeded", "{user}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_with_text_that_is_not_utf8_is_listed_shown_replayed_and_dropped() {
    let world = declared().await;
    let mut producer = Producer::connect(&world.amqp_url).await;
    let properties = |id: &str| job(id).text("app_id", ZURICH).header(ZURICH, b"v").header(b"kept", ZURICH);
    for user in ["first", "second"] {
        // As the broker itself dead-letters it.
        producer.publish("", &world.named(DEAD), &body(user), &properties(user)).await;
    }
    producer.publish("", &world.named(DEAD), &body("third"), &Properties::default().text("message_id", ZURICH)).await;
    let third = wire::properties::job_id(&body("third"), &BasicProperties::default());
    let ids: Vec<Value> = lines(&world).await.into_iter().map(|line| line["jobId"].clone()).collect();
    assert_eq!(ids, ["first", "second", third.as_str()]);
    assert!(runs(&world, &["show", "second"]).await.contains("second@example.com"));
    runs(&world, &["drop", "--yes", "first"]).await;
    runs(&world, &["replay", "--yes", "second", third.as_str()]).await;
    assert_eq!(lines(&world).await, Vec::<Value>::new());
    let jobs = by_id(world.drained("resets.main").await);
    let replayed = &jobs["second"];
    assert_eq!(replayed.properties.app_id().as_ref().unwrap().as_str(), "Z\u{fffd}rich");
    let names: Vec<&str> =
        replayed.properties.headers().as_ref().unwrap().inner().keys().map(|name| name.as_str()).collect();
    assert!(names.contains(&"Z\u{fffd}rich"), "{names:?}");
    let kept = &replayed.properties.headers().as_ref().unwrap().inner()["kept"];
    assert_eq!(kept, &lapin::types::AMQPValue::LongString(ZURICH.into()), "bytes of a value stay as they are");
    assert!(jobs.contains_key(&format!("replay:{third}")), "{:?}", jobs.keys());
}

/// A stream gives each of its records to every reader, for days.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_with_text_that_is_not_utf8_keeps_no_worker_from_reading_the_stream() {
    let mut world = Plan::new().prepare().await;
    crate::world::declare(&world.connection, &resetd::amqp::names::Names::new(&world.prefix, "main")).await;
    let mut producer = Producer::connect(&world.amqp_url).await;
    let properties = Properties::default().text("type", ZURICH).text("app_id", ZURICH).header(ZURICH, ZURICH);
    producer.publish(&world.named("outcomes"), "main.odd", b"{}", &properties).await;
    let mut outcomes = world.outcomes().await;
    world.start_worker().await;
    world.ready().await;
    world.publish("main", &body("u-1"), named("job-1")).await;
    assert_eq!(outcomes.next().await.json()["outcome"], "succeeded");
    assert_eq!(sessions(&world, 1).await, [1, 0]);
}
