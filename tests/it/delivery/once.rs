//! Nothing is lost and nothing is done twice: the ledger, the checkpoint, one job of a user after the other, and one password for all
//! tries. Each under what would break it: restarts, takeovers, producers that publish twice, connections that are cut.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use lapin::BasicProperties;
use lapin::options::{BasicGetOptions, BasicNackOptions, BasicPublishOptions};
use resetd::amqp::names::Names;
use resetd::domain::job::JobId;
use resetd::wire;
use serde_json::{Value, json};
use sim::Settings;

use crate::broker::Node;
use crate::operator::process::{Process, role_is};
use crate::relay::Relay;
use crate::world::{
    Plan, Taken, Tap, World, connect, eventually, exclusive, fault, locked_out, named, reset_body, succeeded, unlimited,
};

/// An org that takes so long for a call.
fn taking(latency: Duration) -> Settings {
    Settings { latency, ..unlimited() }
}

/// The next outcome is this job's, and this is how it ended.
async fn ends(outcomes: &mut Tap, job: &str, how: &str) -> Value {
    let record = outcomes.next().await.json();
    assert_eq!((&record["jobId"], &record["outcome"]), (&json!(job), &json!(how)), "{record}");
    record
}

/// The same where a worker was killed, whose last acks may have been lost: what they were for ends once more, as duplicates.
async fn ends_after_a_kill(outcomes: &mut Tap, job: &str, how: &str) {
    loop {
        let record = outcomes.next().await.json();
        if (&record["jobId"], &record["outcome"]) == (&json!(job), &json!(how)) {
            return;
        }
        assert_eq!(record["outcome"], "duplicate", "{record}");
    }
}

/// A reset of `user` that was asked for at that moment.
async fn asked(world: &World, user: &str, job: &str, at: Timestamp) {
    let properties = named(job).with_timestamp(at.as_second().cast_unsigned());
    world.publish("main", reset_body(user).to_string().as_bytes(), properties).await;
}

/// A job that asks for nothing.
async fn idle(world: &World, key: &str, job: &str) {
    let body = json!({"userId": "nobody", "password": false}).to_string();
    world.publish(key, body.as_bytes(), named(job)).await;
}

/// The outcome of one that lost its connection may be there before its delivery comes again and is acked. The one behind it shows that it was.
async fn one_more_ends(world: &World, outcomes: &mut Tap) {
    idle(world, "main", "job-2").await;
    ends(outcomes, "job-2", "passed_through").await;
}

fn seconds_ago(seconds: i64) -> Timestamp {
    Timestamp::now() - SignedDuration::from_secs(seconds)
}

/// With the worker's end: so many calls were made, nothing lies in a lane or is dead, and everybody's newest mail logs in. The mails.
async fn settled(world: &mut World, calls: u64) -> Vec<Taken> {
    world.stop_worker().await.unwrap();
    checked(world, calls).await
}

async fn checked(world: &World, calls: u64) -> Vec<Taken> {
    assert_eq!(world.main().stats().calls, calls);
    for queue in ["resets.main", "resets.main.bulk", "resets.main.dead"] {
        assert_eq!(world.depth(queue).await, 0, "{queue}");
    }
    let mails = world.drained("emails").await;
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    mails
}

async fn restart(world: &mut World) {
    world.stop_worker().await.unwrap();
    world.start_worker().await;
    world.ready().await;
}

// The ledger: what is done is not done again.

/// An org whose worker's calls end soon, so that a takeover does not take long.
fn soon_taken_over(settings: Settings) -> Plan {
    Plan::new().org("main", settings, "request_timeout = \"2s\"")
}

/// Writes the end of a job into the ledger, as of that moment.
async fn write_outcome(world: &World, job: &JobId, user: &str, finished_at: Timestamp) {
    let (body, properties) = wire::outcome::record(&succeeded(job.clone(), user, finished_at));
    let ledger = world.named("resets.outcomes");
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let channel = world.channel().await;
    let sent = channel.basic_publish("".into(), ledger.as_str().into(), options, &body, properties).await;
    assert_eq!(sent.unwrap().await.unwrap(), lapin::Confirmation::Ack(None));
}

async fn declared(world: &World) {
    crate::world::declare(&world.connection, &Names::new(&world.prefix, "main")).await;
}

/// Takes the only job of the interactive lane and gives it back: the broker marks it as redelivered.
async fn give_out_once(world: &World) {
    let (channel, lane) = (world.channel().await, world.named("resets.main"));
    let got = eventually("the job is in its lane", async || {
        channel.basic_get(lane.as_str().into(), BasicGetOptions::default()).await.unwrap()
    })
    .await;
    got.delivery.acker.nack(BasicNackOptions { requeue: true, multiple: false }).await.unwrap();
    channel.close(200, "bye".into()).await.unwrap();
}

/// A job without a `message_id` that is redelivered, or not, to a worker that finds one of the same name done so long ago.
async fn equal_job(redelivered: bool, done_seconds_ago: i64, how: &str) {
    let mut world = Plan::new().prepare().await;
    declared(&world).await;
    let body = reset_body("u-1").to_string();
    let job = wire::properties::job_id(body.as_bytes(), &BasicProperties::default());
    write_outcome(&world, &job, "u-1", seconds_ago(done_seconds_ago)).await;
    world.publish("main", body.as_bytes(), BasicProperties::default()).await;
    if redelivered {
        give_out_once(&world).await;
    }
    let mut outcomes = world.outcomes().await;
    world.start_worker().await;
    ends(&mut outcomes, job.as_str(), how).await;
    settled(&mut world, u64::from(how == "succeeded")).await;
}

/// A worker whose way to the broker is a relay, and a call for `u-1` in flight that is held.
async fn one_call_in_the_air(key: &str) -> (World, Relay, Tap) {
    let mut world = Plan::new().prepare().await;
    let relay = Relay::to(&world.amqp_url);
    world.amqp_url = relay.url().to_owned();
    world.start_worker().await;
    world.ready().await;
    let outcomes = world.outcomes().await;
    world.main().hold_calls();
    world.reset(key, "u-1", "job-1").await;
    eventually("a call is in flight", async || (world.main().stats().calls == 1).then_some(())).await;
    (world, relay, outcomes)
}

fn jobs_of(mails: &[Taken]) -> Vec<String> {
    mails.iter().map(|mail| mail.json()["jobId"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_published_again_is_a_duplicate_in_either_lane_and_its_producer_is_told() {
    let mut world = Plan::new().start().await;
    let mut outcomes = world.outcomes().await;
    let channel = world.channel().await;
    let queue = channel.queue_declare("".into(), exclusive(), Default::default()).await.unwrap();
    let mut replies = Tap::of(&channel, queue.name().as_str()).await;
    world.reset("main", "u-1", "job-1").await;
    ends(&mut outcomes, "job-1", "succeeded").await;
    // A producer's own id, though it looks like the name of a job that has none.
    let digest = format!("sha256:{}", "ab".repeat(32));
    world.reset("main", "u-3", &digest).await;
    ends(&mut outcomes, &digest, "succeeded").await;
    world.reset("main.bulk", "u-3", &digest).await;
    ends(&mut outcomes, &digest, "duplicate").await;
    idle(&world, "main", "job-2").await;
    ends(&mut outcomes, "job-2", "passed_through").await;
    for key in ["main", "main.bulk"] {
        let properties = named("job-1").with_reply_to(queue.name().clone());
        world.publish(key, reset_body("u-1").to_string().as_bytes(), properties).await;
        let record = ends(&mut outcomes, "job-1", "duplicate").await;
        assert_eq!((&record["success"], &record["attempts"]), (&json!(true), &json!(0)), "{record}");
        assert_eq!(replies.next().await.json()["outcome"], "duplicate");
        idle(&world, key, "job-2").await;
        ends(&mut outcomes, "job-2", "duplicate").await;
    }
    assert_eq!(settled(&mut world, 2).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_published_twice_at_once_in_both_lanes_are_done_once() {
    let mut world = Plan::new().org("main", taking(Duration::from_millis(200)), "").start().await;
    let mut outcomes = world.outcomes().await;
    let channels = [("main", world.channel().await), ("main.bulk", world.channel().await)];
    for n in 0..10 {
        let body = reset_body(&format!("u-{n}")).to_string();
        let job = format!("job-{n}");
        let [first, second] =
            channels.each_ref().map(|(key, channel)| world.publish_on(channel, key, body.as_bytes(), named(&job)));
        tokio::join!(first, second);
    }
    let mut how: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in outcomes.take(20).await.iter().map(Taken::json) {
        let text = |field: &str| record[field].as_str().unwrap().to_owned();
        how.entry(text("jobId")).or_default().push(text("outcome"));
    }
    assert_eq!(how.len(), 10);
    for (job, how) in how {
        assert_eq!(how, ["succeeded", "duplicate"], "{job}");
    }
    assert_eq!(settled(&mut world, 10).await.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_failed_may_come_again_and_runs_though_its_worker_was_restarted() {
    let mut world = Plan::new().start().await;
    let mut outcomes = world.outcomes().await;
    world.main().add_fault(fault("status=400,next=2,user=u-1"));
    world.reset("main", "u-1", "job-1").await;
    ends(&mut outcomes, "job-1", "failed").await;
    world.reset("main", "u-1", "job-1").await;
    ends(&mut outcomes, "job-1", "failed").await;
    restart(&mut world).await;
    world.reset("main.bulk", "u-1", "job-1").await;
    ends(&mut outcomes, "job-1", "succeeded").await;
    world.reset("main", "u-1", "job-1").await;
    ends(&mut outcomes, "job-1", "duplicate").await;
    assert_eq!(world.drained("resets.main.dead").await.len(), 2);
    assert_eq!(settled(&mut world, 3).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_what_was_done_is_a_duplicate() {
    let mut world = Plan::new().start().await;
    let mut outcomes = world.outcomes().await;
    world.reset("main", "u-1", "job-1").await;
    ends(&mut outcomes, "job-1", "succeeded").await;
    idle(&world, "main", "job-2").await;
    ends(&mut outcomes, "job-2", "passed_through").await;
    for key in ["main", "main.bulk"] {
        restart(&mut world).await;
        world.reset(key, "u-1", "job-1").await;
        ends(&mut outcomes, "job-1", "duplicate").await;
        idle(&world, key, "job-2").await;
        ends(&mut outcomes, "job-2", "duplicate").await;
    }
    assert_eq!(settled(&mut world, 1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_takeover_what_the_killed_worker_has_done_is_known() {
    let world = soon_taken_over(unlimited()).prepare().await;
    let (mut first, _) = Process::worker(&world).await;
    let mut outcomes = world.outcomes().await;
    let second = Process::worker_by(&world, &world.amqp_url);
    let http = second.http().await;
    role_is(&http, "standby").await;
    asked(&world, "u-1", "job-1", seconds_ago(60)).await;
    ends(&mut outcomes, "job-1", "succeeded").await;
    idle(&world, "main.bulk", "job-2").await;
    ends(&mut outcomes, "job-2", "passed_through").await;
    first.kill().await;
    role_is(&http, "active").await;
    for key in ["main", "main.bulk"] {
        world.reset(key, "u-1", "job-1").await;
        ends_after_a_kill(&mut outcomes, "job-1", "duplicate").await;
        idle(&world, key, "job-2").await;
        ends_after_a_kill(&mut outcomes, "job-2", "duplicate").await;
    }
    asked(&world, "u-1", "older", seconds_ago(3600)).await;
    ends_after_a_kill(&mut outcomes, "older", "superseded").await;
    assert_eq!(checked(&world, 1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_was_cut_off_knows_what_another_has_done_in_between_and_drops_what_it_had_begun() {
    let world = soon_taken_over(taking(Duration::from_millis(500))).prepare().await;
    let relay = Relay::to(&world.amqp_url);
    let first = Process::worker_by(&world, relay.url());
    let first_http = first.http().await;
    role_is(&first_http, "active").await;
    let mut outcomes = world.outcomes().await;
    let mut second = Process::worker_by(&world, &world.amqp_url);
    let second_http = second.http().await;
    role_is(&second_http, "standby").await;
    world.reset("main", "u-1", "job-1").await;
    eventually("a call is in flight", async || (world.main().stats().calls == 1).then_some(())).await;
    relay.refuse();
    relay.cut();
    // The first worker has set a password of which it can tell nobody; the second sets another one.
    role_is(&second_http, "active").await;
    ends(&mut outcomes, "job-1", "succeeded").await;
    asked(&world, "u-2", "job-2", seconds_ago(60)).await;
    ends(&mut outcomes, "job-2", "succeeded").await;
    relay.heal();
    role_is(&first_http, "standby").await;
    assert_eq!(second.terminated().await.0, 0);
    role_is(&first_http, "active").await;
    for (user, job) in [("u-1", "job-1"), ("u-2", "job-2")] {
        world.reset("main", user, job).await;
        ends(&mut outcomes, job, "duplicate").await;
    }
    asked(&world, "u-2", "older", seconds_ago(3600)).await;
    ends(&mut outcomes, "older", "superseded").await;
    assert_eq!(world.main().user("u-1").unwrap().password_sets, 2);
    let mails = checked(&world, 3).await;
    assert_eq!(mails.len(), 2, "what the first worker remembered of job-1 was void");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_counts_as_done_for_24_hours() {
    let mut world = Plan::new().prepare().await;
    declared(&world).await;
    for (job, hours) in [("yesterday", 23), ("before", 26)] {
        write_outcome(&world, &JobId::new(job), "u-1", seconds_ago(hours * 3600)).await;
    }
    world.start_worker().await;
    world.ready().await;
    let mut outcomes = world.outcomes().await;
    world.reset("main", "u-1", "yesterday").await;
    ends(&mut outcomes, "yesterday", "duplicate").await;
    world.reset("main", "u-1", "before").await;
    ends(&mut outcomes, "before", "succeeded").await;
    assert_eq!(settled(&mut world, 1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redelivered_job_without_a_message_id_counts_as_done_for_10_minutes() {
    equal_job(true, 9 * 60, "duplicate").await;
    equal_job(true, 11 * 60, "succeeded").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_equal_job_without_a_message_id_is_another_job_also_for_a_worker_that_was_restarted() {
    equal_job(false, 1, "succeeded").await;
}

// The ledger: the one asked for last wins.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_asked_for_before_a_newer_one_that_succeeded_is_superseded_also_after_a_restart() {
    let mut world = Plan::new().start().await;
    let mut outcomes = world.outcomes().await;
    let newest = seconds_ago(600);
    asked(&world, "u-1", "newest", newest).await;
    ends(&mut outcomes, "newest", "succeeded").await;
    for (turn, calls) in [(0, 1), (1, 3)] {
        let before = newest - SignedDuration::from_secs(1);
        asked(&world, "u-1", &format!("older-{turn}"), before).await;
        let record = ends(&mut outcomes, &format!("older-{turn}"), "superseded").await;
        assert_eq!((&record["success"], &record["passwordSet"]), (&json!(false), &json!("no")), "{record}");
        assert_eq!(world.main().stats().calls, calls, "nobody is called for it");
        // Within one second neither is older.
        asked(&world, "u-1", &format!("equal-{turn}"), newest).await;
        ends(&mut outcomes, &format!("equal-{turn}"), "succeeded").await;
        asked(&world, "u-2", &format!("other-{turn}"), newest - SignedDuration::from_hours(turn + 1)).await;
        ends(&mut outcomes, &format!("other-{turn}"), if turn == 0 { "succeeded" } else { "superseded" }).await;
        restart(&mut world).await;
    }
    assert_eq!(settled(&mut world, 4).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_without_a_timestamp_neither_supersedes_nor_is_superseded() {
    let mut world = Plan::new().start().await;
    let mut outcomes = world.outcomes().await;
    world.reset("main", "u-1", "bare").await;
    ends(&mut outcomes, "bare", "succeeded").await;
    asked(&world, "u-1", "long-ago", seconds_ago(80_000)).await;
    ends(&mut outcomes, "long-ago", "succeeded").await;
    asked(&world, "u-1", "now", seconds_ago(0)).await;
    ends(&mut outcomes, "now", "succeeded").await;
    world.reset("main", "u-1", "bare-again").await;
    ends(&mut outcomes, "bare-again", "succeeded").await;
    assert_eq!(settled(&mut world, 4).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_reset_that_failed_supersedes_nothing() {
    let mut world = Plan::new().start().await;
    let mut outcomes = world.outcomes().await;
    world.main().add_fault(fault("status=400,next=1,user=u-1"));
    asked(&world, "u-1", "newer", seconds_ago(0)).await;
    ends(&mut outcomes, "newer", "failed").await;
    asked(&world, "u-1", "older", seconds_ago(60)).await;
    ends(&mut outcomes, "older", "succeeded").await;
    assert_eq!(world.drained("resets.main.dead").await.len(), 1);
    assert_eq!(settled(&mut world, 2).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_reset_that_waited_for_the_newer_ones_end_is_superseded() {
    let mut world = Plan::new().org("main", taking(Duration::from_millis(500)), "").start().await;
    let mut outcomes = world.outcomes().await;
    asked(&world, "u-1", "newer", seconds_ago(10)).await;
    eventually("its call is in flight", async || (world.main().stats().calls == 1).then_some(())).await;
    asked(&world, "u-1", "older", seconds_ago(20)).await;
    ends(&mut outcomes, "newer", "succeeded").await;
    ends(&mut outcomes, "older", "superseded").await;
    assert_eq!(settled(&mut world, 1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timestamp_more_than_5_minutes_ahead_counts_as_the_time_of_arrival_and_warns() {
    let world = Plan::new().prepare().await;
    let (mut worker, _) = Process::worker(&world).await;
    let mut outcomes = world.outcomes().await;
    asked(&world, "u-1", "far-ahead", seconds_ago(-86_400)).await;
    ends(&mut outcomes, "far-ahead", "succeeded").await;
    asked(&world, "u-1", "older-than-arrival", seconds_ago(60)).await;
    ends(&mut outcomes, "older-than-arrival", "superseded").await;
    asked(&world, "u-1", "after-arrival", seconds_ago(0)).await;
    ends(&mut outcomes, "after-arrival", "succeeded").await;
    asked(&world, "u-1", "a-little-ahead", seconds_ago(-240)).await;
    ends(&mut outcomes, "a-little-ahead", "succeeded").await;
    // That one is taken at its word.
    asked(&world, "u-1", "now", seconds_ago(0)).await;
    ends(&mut outcomes, "now", "superseded").await;
    assert_eq!(worker.terminated().await.0, 0);
    let log = worker.stderr();
    let warned: Vec<&str> = log.lines().filter(|line| line.contains("more than 5 minutes ahead")).collect();
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(warned[0].contains("far-ahead") && warned[0].contains("WARN"), "{}", warned[0]);
    // What counted is what the next worker reads: an hour from now would supersede this.
    let (_worker, _) = Process::worker(&world).await;
    asked(&world, "u-1", "later", seconds_ago(-241)).await;
    ends(&mut outcomes, "later", "succeeded").await;
    assert_eq!(checked(&world, 4).await.len(), 4);
}

// The checkpoint: what is set is finished without a second call.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_whose_confirm_is_lost_is_sent_again_as_the_same_notification_without_a_second_call() {
    let (mut world, relay, mut outcomes) = one_call_in_the_air("main").await;
    relay.hold_back();
    world.main().release_calls();
    eventually("the mail lies in its queue", async || (world.depth("emails").await == 1).then_some(())).await;
    relay.cut();
    relay.heal();
    ends(&mut outcomes, "job-1", "succeeded").await;
    one_more_ends(&world, &mut outcomes).await;
    let mails = settled(&mut world, 1).await;
    let notifications: BTreeSet<&str> = mails.iter().map(Taken::id).collect();
    assert_eq!((mails.len(), notifications.len()), (2, 1), "a copy, not another password");
    assert_eq!(mails[0].body, mails[1].body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_that_never_reached_the_broker_is_sent_after_the_reconnect_without_a_second_call() {
    let (mut world, relay, mut outcomes) = one_call_in_the_air("main").await;
    relay.hold_there();
    world.main().release_calls();
    // The mail is on its way as soon as the worker has the answer.
    eventually("the call is answered", async || {
        world.metrics().await.contains("resetd_patches_total{org=\"main\",status=\"200\"}").then_some(())
    })
    .await;
    relay.cut();
    relay.heal();
    ends(&mut outcomes, "job-1", "succeeded").await;
    one_more_ends(&world, &mut outcomes).await;
    assert_eq!(settled(&mut world, 1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_whose_confirm_is_lost_is_not_recorded_twice() {
    let world = Plan::new().prepare().await;
    let relay = Relay::to(&world.amqp_url);
    declared(&world).await;
    let mut outcomes = world.outcomes().await;
    let mut emails = world.tap("emails").await;
    let worker = Process::paused_at(&world, relay.url(), "notified@job-1");
    role_is(&worker.http().await, "active").await;
    world.reset("main", "u-1", "job-1").await;
    let mail = emails.next().await;
    let is_told = async || worker.stderr().contains("held up at notified@job-1").then_some(());
    eventually("it knows that its mail is there", is_told).await;
    relay.hold_back();
    // On a very slow machine the lead lapses first, and the outcome is written after the reconnect.
    let is_written = tokio::select! {
        _ = ends(&mut outcomes, "job-1", "succeeded") => true,
        () = eventually("its lead lapses", async || worker.stderr().contains("no ping came back").then_some(())) => false,
    };
    relay.cut();
    relay.heal();
    if !is_written {
        ends(&mut outcomes, "job-1", "succeeded").await;
    }
    eventually("it is settled", async || worker.stderr().contains("job done").then_some(())).await;
    world.reset("main", "u-2", "job-2").await;
    ends(&mut outcomes, "job-2", "succeeded").await;
    assert_eq!(emails.next().await.json()["jobId"], "job-2");
    assert_eq!(locked_out(world.main(), &[mail]), Vec::<String>::new());
    checked(&world, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_killed_while_ten_calls_are_in_the_air_costs_no_second_call() {
    let node = Node::lent().await;
    let mut world = Plan::at(node.url()).settled().await;
    // However long the broker takes to end: none is answered before that.
    world.main().hold_calls();
    for n in 0..10 {
        let key = if n % 2 == 0 { "main" } else { "main.bulk" };
        world.reset(key, &format!("u-{n}"), &format!("job-{n}")).await;
    }
    eventually("all calls are in flight", async || (world.main().stats().calls == 10).then_some(())).await;
    node.end("kill").await;
    world.main().release_calls();
    eventually("all passwords are set", async || (world.main().stats().password_sets == 10).then_some(())).await;
    node.start().await;
    world.connection = connect(node.url()).await;
    let records = world.recorded(10).await;
    assert!(records.iter().all(|record| record.routing_key == "main.succeeded"));
    // As in `one_more_ends`.
    for key in ["main", "main.bulk"] {
        idle(&world, key, &format!("last of {key}")).await;
    }
    world.recorded(12).await;
    assert_eq!(records.len(), 10);
    let mails = settled(&mut world, 10).await;
    let notifications: BTreeSet<&str> = mails.iter().map(Taken::id).collect();
    assert_eq!(notifications.len(), 10, "one notification for each password");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mail_of_a_job_that_was_cut_off_goes_out_before_a_newer_job_of_its_user_runs() {
    let (mut world, relay, mut outcomes) = one_call_in_the_air("main.bulk").await;
    relay.refuse();
    relay.cut();
    world.main().release_calls();
    eventually("the password is set", async || (world.main().stats().password_sets == 1).then_some(())).await;
    // In the other lane, which is looked at first.
    world.reset("main", "u-1", "job-2").await;
    relay.heal();
    let ended: BTreeSet<String> = outcomes.take(2).await.iter().map(|taken| taken.routing_key.clone()).collect();
    assert_eq!(ended, BTreeSet::from(["main.succeeded".to_owned()]));
    // As in `one_more_ends`.
    idle(&world, "main.bulk", "job-3").await;
    ends(&mut outcomes, "job-3", "passed_through").await;
    let mails = settled(&mut world, 2).await;
    let jobs: Vec<Value> = mails.iter().map(|mail| mail.json()["jobId"].clone()).collect();
    assert_eq!(jobs, ["job-1", "job-2"]);
}

// One job of a user after the other.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_one_user_never_run_at_once_over_both_lanes_and_keep_the_order_of_each() {
    let mut world = Plan::new().org("main", taking(Duration::from_millis(30)), "").start().await;
    let (mut outcomes, channel) = (world.outcomes().await, world.channel().await);
    for n in 0..12 {
        for (key, job) in [("main", format!("i-{n:02}")), ("main.bulk", format!("b-{n:02}"))] {
            world.publish_on(&channel, key, reset_body("u-1").to_string().as_bytes(), named(&job)).await;
        }
    }
    outcomes.take(24).await;
    assert_eq!(world.main().stats().peak_in_flight, 1);
    let jobs = jobs_of(&settled(&mut world, 24).await);
    for lane in ["i-", "b-"] {
        let of_lane: Vec<&String> = jobs.iter().filter(|job| job.starts_with(lane)).collect();
        assert!(of_lane.is_sorted() && of_lane.len() == 12, "{jobs:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_one_user_keep_their_order_over_a_restart_a_cut_and_a_kill() {
    let world = soon_taken_over(taking(Duration::from_millis(100))).prepare().await;
    let relay = Relay::to(&world.amqp_url);
    let mut worker = Process::worker_by(&world, relay.url());
    role_is(&worker.http().await, "active").await;
    let (mut outcomes, channel) = (world.outcomes().await, world.channel().await);
    for n in 0..20 {
        let body = reset_body("u-1").to_string();
        world.publish_on(&channel, "main", body.as_bytes(), named(&format!("job-{n:02}"))).await;
    }
    let reached = async |sets: u64| {
        eventually("some are done", async || (world.main().stats().password_sets >= sets).then_some(())).await;
    };
    reached(3).await;
    assert_eq!(worker.terminated().await.0, 0);
    worker = Process::worker_by(&world, relay.url());
    reached(7).await;
    relay.cut();
    reached(11).await;
    worker.kill().await;
    let _worker = Process::worker_by(&world, relay.url());
    let mut ended = BTreeSet::new();
    while ended.len() < 20 {
        ended.insert(outcomes.next().await.json()["jobId"].as_str().unwrap().to_owned());
    }
    assert_eq!(world.main().stats().peak_in_flight, 1);
    let mails = world.drained("emails").await;
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    let jobs = jobs_of(&mails);
    // The kill may have made one of them run once more.
    assert!(jobs.is_sorted() && (20..=22).contains(&jobs.len()), "{jobs:?}");
}

// Late answers: one password for all tries of a job.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_carried_out_late_leaves_the_right_password_though_the_broker_was_lost_between_the_tries() {
    let mut world = Plan::new().org("main", unlimited(), "request_timeout = \"1s\"").prepare().await;
    let relay = Relay::to(&world.amqp_url);
    world.amqp_url = relay.url().to_owned();
    world.start_worker().await;
    world.ready().await;
    let mut outcomes = world.outcomes().await;
    // Later than the second try, however long the reconnect takes.
    world.main().add_fault(fault("hang=30s,apply,apply_after=20s,next=1,user=u-1"));
    world.reset("main", "u-1", "job-1").await;
    eventually("a call is in flight", async || (world.main().stats().calls == 1).then_some(())).await;
    relay.cut();
    ends(&mut outcomes, "job-1", "succeeded").await;
    let sets = || world.main().user("u-1").unwrap().password_sets;
    assert_eq!(sets(), 1, "the first call is still to be carried out");
    eventually("it is", async || (sets() == 2).then_some(())).await;
    assert_eq!(settled(&mut world, 2).await.len(), 1, "the late password is the one that was mailed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_carried_out_late_between_the_tries_or_after_them_all_leaves_the_right_password() {
    let plan = Plan::new().org("main", unlimited(), "request_timeout = \"1s\"");
    let mut world = plan.start().await;
    let mut outcomes = world.outcomes().await;
    for (user, after) in [("between", "1500ms"), ("after-all", "3500ms")] {
        for after in [after, "5s"] {
            world.main().add_fault(fault(&format!("hang=10s,apply,apply_after={after},next=1,user={user}")));
        }
        world.reset("main", user, &format!("job-{user}")).await;
    }
    outcomes.take(2).await.iter().for_each(|taken| assert_eq!(taken.json()["attempts"], 3));
    let sets = |user| world.main().user(user).unwrap().password_sets;
    eventually("both late ones are carried out", async || {
        (sets("between") == 3 && sets("after-all") == 3).then_some(())
    })
    .await;
    assert_eq!(settled(&mut world, 6).await.len(), 2);
}
