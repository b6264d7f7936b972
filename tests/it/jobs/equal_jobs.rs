//! Two equal jobs at once: whatever ends their session, each has its outcome and its reply.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use lapin::options::BasicPublishOptions;
use lapin::types::FieldTable;
use lapin::{BasicProperties, Confirmation};

use crate::relay::Relay;
use crate::world::{
    Plan, Taken, Tap, World, eventually, exclusive, fault, locked_out, named, reset_body, text, unlimited, with_header,
};

/// How a session ends, or all is given back, while the second of two equal jobs is in flight and the first is done.
enum End<'a> {
    Cut(&'a Relay),
    /// Another job is told to wait so long that everything is given back.
    Pause,
}

/// A worker whose way to the broker is a relay, and a queue for replies.
async fn through_a_relay(plan: Plan) -> (World, Relay, Tap, String) {
    let mut world = plan.prepare().await;
    let relay = Relay::to(&world.amqp_url);
    world.amqp_url = relay.url().to_owned();
    world.start_worker().await;
    world.ready().await;
    let channel = world.channel().await;
    let queue = channel.queue_declare("".into(), exclusive(), FieldTable::default()).await.unwrap();
    let name = queue.name().to_string();
    let replies = Tap::of(&channel, &name).await;
    (world, relay, replies, name)
}

fn kinds(taken: &[Taken]) -> Vec<String> {
    let mut kinds: Vec<String> =
        taken.iter().map(|record| record.json()["outcome"].as_str().unwrap().to_owned()).collect();
    kinds.sort();
    kinds
}

/// The second of two equal jobs waits for its moment when the first is done, and then something ends that. How both ended, by their
/// outcomes and by their replies, and the mails.
async fn second_waits(
    plan: Plan,
    properties: BasicProperties,
    end: fn(&Relay) -> End<'_>,
) -> (Vec<String>, Vec<Taken>) {
    let org = sim::Settings { latency: Duration::from_secs(2), ..unlimited() };
    let (mut world, relay, mut replies, queue) = through_a_relay(plan.org("main", org, "")).await;
    let mut outcomes = world.outcomes().await;
    let body = reset_body("u-1").to_string();
    let properties = properties.with_reply_to(queue.as_str().into());
    world.main().hold_calls();
    world.publish("main", body.as_bytes(), properties.clone()).await;
    // Taken while the first is not done yet, or it would be known for a duplicate at once.
    eventually("the first one's call is in flight", async || (world.main().stats().calls == 1).then_some(())).await;
    let moment = (Timestamp::now() + SignedDuration::from_secs(9)).to_string();
    world.publish("main", body.as_bytes(), with_header(properties, "not-before", text(&moment))).await;
    in_flight(&world, 2).await;
    world.main().release_calls();
    assert_eq!(kinds(&outcomes.take(1).await), ["succeeded"]);
    in_flight(&world, 1).await;
    match end(&relay) {
        End::Cut(relay) => {
            // By the time that another one is done the broker has read the first one's ack.
            world.reset("main", "u-3", "between").await;
            assert_eq!(outcomes.next().await.json()["userId"], "u-3");
            relay.cut();
        }
        End::Pause => {
            world.main().add_fault(fault("status=429,retry_after=3,next=1"));
            world.reset("main", "u-2", "other").await;
        }
    }
    let second = loop {
        let record = outcomes.next().await;
        if record.json()["userId"] == "u-1" {
            break record;
        }
    };
    let of_both = [second];
    let replied = replies.take(2).await;
    let how = kinds(&of_both);
    let mut both = how.clone();
    both.push("succeeded".into());
    both.sort();
    assert_eq!(kinds(&replied), both, "each is answered as it ended");
    world.stop_worker().await.unwrap();
    // The one beside them may still be there, or have come again since the cut swallowed its ack.
    assert!(world.drained("resets.main").await.iter().all(|job| job.json()["userId"] != "u-1"));
    assert_eq!(world.depth("resets.main.dead").await, 0);
    let mails = world.drained("emails").await;
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    (how, mails.into_iter().filter(|mail| mail.json()["userId"] == "u-1").collect())
}

/// So many jobs are in flight.
async fn in_flight(world: &World, jobs: usize) {
    eventually("the job is in flight", async || {
        let metrics = world.metrics().await;
        let lines = metrics.lines().filter(|line| line.starts_with("resetd_jobs_in_flight"));
        let sum: f64 = lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum();
        (sum as usize == jobs).then_some(())
    })
    .await;
}

/// One whose jobs are all given back when no call can be made for a second.
fn soon_given_back() -> Plan {
    Plan::new().holding(Duration::from_secs(600), Duration::from_secs(1))
}

/// The second of two equal jobs fails once and is parked; meanwhile the other one is done first. How both ended.
async fn one_is_parked_after_a_try(properties: BasicProperties) -> (Vec<String>, u64) {
    let short = [200, 400, 800].map(Duration::from_millis);
    let plan = Plan::new().config("[retry]\nbase = \"5s\"\nmax = \"5s\"\ninline_max = \"1ms\"\n").delaying(short);
    let world = plan.start().await;
    // A fault that cannot have set the password: it is parked, and for 3 s at least.
    world.main().add_fault(fault("status=408,retry_after=3,next=1,user=u-1"));
    let mut outcomes = world.outcomes().await;
    let body = reset_body("u-1").to_string();
    world.publish("main", body.as_bytes(), properties.clone()).await;
    let parked = ["15s", "2m", "10m"].map(|tier| format!("resets.main.parked.{tier}"));
    eventually("one is parked", async || {
        let mut there = 0;
        for queue in &parked {
            there += world.depth(queue).await;
        }
        (world.main().stats().calls == 1 && there == 1).then_some(())
    })
    .await;
    world.publish("main", body.as_bytes(), properties).await;
    let ends = kinds(&outcomes.take(2).await);
    (ends, world.main().user("u-1").unwrap().password_sets)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_equal_job_with_the_same_id_is_a_duplicate_though_the_connection_was_cut_while_it_waited() {
    let (how, mails) = second_waits(Plan::new(), named("job-1"), |relay| End::Cut(relay)).await;
    assert_eq!((how, mails.len()), (vec!["duplicate".to_owned()], 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_equal_job_without_an_id_is_done_though_the_connection_was_cut_while_it_waited() {
    let (how, mails) = second_waits(Plan::new(), BasicProperties::default(), |relay| End::Cut(relay)).await;
    assert_eq!((how, mails.len()), (vec!["succeeded".to_owned()], 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_equal_job_with_the_same_id_is_a_duplicate_though_it_was_given_back_while_it_waited() {
    let (how, mails) = second_waits(soon_given_back(), named("job-1"), |_| End::Pause).await;
    assert_eq!((how, mails.len()), (vec!["duplicate".to_owned()], 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_equal_job_without_an_id_is_done_though_it_was_given_back_while_it_waited() {
    let (how, mails) = second_waits(soon_given_back(), BasicProperties::default(), |_| End::Pause).await;
    assert_eq!((how, mails.len()), (vec!["succeeded".to_owned()], 2));
}

/// Many at once, so that some wait for their turn, some for an answer and some for a confirm when the connection is cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_jobs_that_are_cut_off_at_any_stage_have_an_outcome_and_a_reply_each() {
    let org = sim::Settings { latency: Duration::from_secs(4), ..unlimited() };
    let (mut world, relay, mut replies, queue) = through_a_relay(Plan::new().org("main", org, "")).await;
    let mut outcomes = world.outcomes().await;
    let (channel, exchange) = (world.channel().await, world.named("resets"));
    let users: Vec<String> = (0..10).map(|n| format!("u-{n}")).collect();
    world.main().hold_calls();
    let mut confirms = Vec::new();
    for user in &users {
        for named_or_not in [named(user), BasicProperties::default()] {
            let properties = named_or_not.with_reply_to(queue.as_str().into()).with_delivery_mode(2);
            for _ in 0..2 {
                let body = reset_body(user).to_string();
                let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
                let (exchange, properties) = (exchange.as_str().into(), properties.clone());
                let sent = channel.basic_publish(exchange, "main".into(), options, body.as_bytes(), properties);
                confirms.push(sent.await.unwrap());
            }
        }
    }
    for confirm in confirms {
        assert_eq!(confirm.await.unwrap(), Confirmation::Ack(None));
    }
    // What is cut off on its way to the worker is not known to it, and may end as a duplicate: all must be there, and none done.
    in_flight(&world, users.len() * 4).await;
    world.main().release_calls();
    for calls in [5, 12] {
        eventually("calls are made", async || (world.main().stats().calls >= calls).then_some(())).await;
        relay.cut();
    }
    // Of each user: with the id one is done and one is a duplicate, without it both are done. An ack that was lost brings a job once
    // more, as a duplicate.
    let all = users.len() * 4;
    let mut ended: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let done = |ended: &BTreeMap<String, Vec<String>>| {
        let succeeded = |ends: &Vec<String>| ends.iter().filter(|end| *end == "succeeded").count();
        let named = users.iter().filter(|user| ended.get(*user).is_some_and(|ends| ends.len() >= 2)).count();
        let all: usize = ended.values().map(succeeded).sum();
        named == users.len() && all == users.len() * 3
    };
    while !done(&ended) {
        let record = outcomes.next().await.json();
        let (id, how) = (record["jobId"].as_str().unwrap().to_owned(), record["outcome"].as_str().unwrap().to_owned());
        ended.entry(id).or_default().push(how);
    }
    for (id, ends) in &ended {
        let is_named = users.contains(id);
        let succeeded = ends.iter().filter(|end| *end == "succeeded").count();
        assert_eq!(succeeded, if is_named { 1 } else { 2 }, "{id}: {ends:?}");
        assert!(ends.iter().all(|end| end == "succeeded" || end == "duplicate"), "{id}: {ends:?}");
    }
    replies.take(all).await;
    world.stop_worker().await.unwrap();
    let mails = world.drained("emails").await;
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    let notifications: std::collections::BTreeSet<&str> = mails.iter().map(Taken::id).collect();
    assert_eq!(notifications.len(), users.len() * 3, "each that was done was told");
    assert_eq!(world.main().stats().password_sets, users.len() as u64 * 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_equal_job_without_an_id_is_done_though_it_was_parked_after_a_try_while_the_other_was_done() {
    let (ends, sets) = one_is_parked_after_a_try(BasicProperties::default()).await;
    assert_eq!((ends, sets), (vec!["succeeded".to_owned(), "succeeded".to_owned()], 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_equal_job_with_the_same_id_is_a_duplicate_though_it_was_parked_after_a_try() {
    let (ends, sets) = one_is_parked_after_a_try(named("job-1")).await;
    assert_eq!((ends, sets), (vec!["duplicate".to_owned(), "succeeded".to_owned()], 1));
}
