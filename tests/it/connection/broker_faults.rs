//! The broker fails, in the middle or from the start: nothing is lost, and everybody's newest mail logs in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::Value;
use tokio::time::Instant;

use crate::broker::Node;
use crate::operator::process::{Process, Run, says};
use crate::relay::Relay;
use crate::world::{Plan, Taken, World, connect, eventually, locked_out, named, reset_body, slow, unlimited};
use resetd::amqp::error::ANSWER;
use resetd::amqp::link;
use resetd::amqp::names::Names;
use resetd::amqp::publisher::{Message, Publisher, Unpublished};
use resetd::config::amqp::{Amqp, Tls, Used};

/// `/readyz` says that the org has this role, and why.
async fn role(world: &World, role: &str) -> String {
    eventually(&format!("the org is {role}"), async || {
        let (status, said) = world.readyz().await;
        let main = &said["orgs"]["main"];
        let is_so = main["role"] == role && (status == 200) == (role == "active");
        is_so.then(|| main["reason"].as_str().unwrap_or_default().to_owned())
    })
    .await
}

/// 200 jobs in both lanes, with this happening when 60 of them are done.
async fn through(what: &str, node: &Node, interrupt: impl AsyncFnOnce(&World)) {
    let plan = Plan::at(node.url()).org("main", slow(), "rate_per_minute = 6000");
    let world = plan.settled().await;
    let users = world.reset_many("main", 200).await;
    eventually("60 passwords are set", async || (world.main().stats().password_sets >= 60).then_some(())).await;
    interrupt(&world).await;
    all_log_in(what, node, world, &users).await;
}

/// Every job has an outcome, the queues are empty, and everybody's newest mail logs in.
async fn all_log_in(what: &str, node: &Node, mut world: World, users: &[String]) {
    role(&world, "active").await;
    world.connection = connect(node.url()).await;
    let records = world.recorded(200).await;
    // Whose ack was lost came again, and ended once more as a duplicate of itself.
    let (succeeded, others): (Vec<_>, Vec<_>) =
        records.iter().partition(|record| record.routing_key == "main.succeeded");
    let jobs: BTreeSet<&str> =
        succeeded.iter().map(|record| record.properties.correlation_id().as_ref().unwrap().as_str()).collect();
    assert_eq!(jobs.len(), 200);
    assert!(others.iter().all(|record| record.routing_key == "main.duplicate"), "{:?}", others.first());
    world.stop_worker().await.unwrap();
    for queue in ["resets.main", "resets.main.bulk", "resets.main.dead"] {
        assert_eq!(world.depth(queue).await, 0, "{queue}");
    }
    let mails = world.drained("emails").await;
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    let mut passwords: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for mail in mails.iter().map(|mail| mail.json()) {
        let text = |field: &str| mail[field].as_str().unwrap().to_owned();
        passwords.entry(text("userId")).or_default().insert(text("temporaryPassword"));
    }
    assert_eq!(passwords.keys().collect::<BTreeSet<_>>(), users.iter().collect());
    let sets = |user: &String| world.main().user(user).unwrap().password_sets;
    let more_than_once = users.iter().filter(|user| sets(user) > 1).count();
    let differently = passwords.values().filter(|different| different.len() > 1).count();
    eprintln!(
        "{what}: {} mails, {} outcomes; {more_than_once} users were set more than once, {differently} of them by different passwords",
        mails.len(),
        records.len()
    );
}

/// Consumes nothing and is bound to nothing: the name of a queue, made with other arguments than the worker's.
async fn make_classic(world: &World, queue: &str) {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let name = world.named(queue);
    let channel = world.channel().await;
    channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await.unwrap();
}

/// Deletes a queue; how many messages went with it.
async fn delete(world: &World, queue: &str) -> u32 {
    let (channel, name) = (world.channel().await, world.named(queue));
    channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await.unwrap()
}

/// The queue exists and somebody consumes it.
async fn is_consumed(world: &World, queue: &str) {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let name = world.named(queue);
    eventually(&format!("{queue} is consumed"), async || {
        let channel: Channel = world.channel().await;
        let found = channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await.ok()?;
        (found.consumer_count() == 1).then_some(())
    })
    .await;
}

/// Every user was set once, and their mails, these and no others, log in.
async fn all_are_told_once(world: &World, users: &[String]) {
    world.recorded(users.len()).await;
    let mails = world.drained("emails").await;
    let told: BTreeSet<String> = mails.iter().map(|mail| mail.json()["userId"].as_str().unwrap().to_owned()).collect();
    assert_eq!((mails.len(), told), (users.len(), users.iter().cloned().collect()));
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    for user in users {
        assert_eq!(world.main().user(user).unwrap().password_sets, 1, "{user}");
    }
}

/// An org whose calls a test may hold for as long as it needs to break something.
fn patient(plan: Plan) -> Plan {
    plan.org("main", unlimited(), "request_timeout = \"20s\"").config("[shutdown]\ngrace = \"26s\"")
}

/// 30 calls in flight, of jobs in both lanes, none of them answered before the test releases them.
async fn thirty_in_the_air(world: &World) -> Vec<String> {
    world.main().hold_calls();
    let users = world.reset_many("main", 30).await;
    eventually("all calls are in flight", async || (world.main().stats().calls == 30).then_some(())).await;
    users
}

/// 20 calls in flight, of interactive jobs.
async fn twenty_interactive_in_the_air(world: &World) -> Vec<String> {
    let channel = world.channel().await;
    let users: Vec<String> = (0..20).map(|n| format!("u-{n}")).collect();
    for user in &users {
        let body = reset_body(user).to_string();
        world.publish_on(&channel, "main", body.as_bytes(), named(&format!("job-{user}"))).await;
    }
    eventually("all calls are in flight", async || (world.main().stats().calls == 20).then_some(())).await;
    users
}

fn a_second_a_call() -> sim::Settings {
    sim::Settings { latency: Duration::from_millis(1500), ..unlimited() }
}

async fn deleted_while_idle(queue: &str) {
    let world = Plan::new().start().await;
    is_consumed(&world, queue).await;
    delete(&world, queue).await;
    is_consumed(&world, queue).await;
    role(&world, "active").await;
    let users = world.reset_many("main", 10).await;
    all_are_told_once(&world, &users).await;
}

/// What the process says of a broker that it cannot work with.
async fn refuses(run: Run, parts: &[&str]) -> String {
    let (code, out, said) = run.end().await;
    assert_eq!((code, out.as_str()), (1, ""), "{said}");
    says(&said, parts);
    said
}

/// A world whose worker has a user of its own at the private node, and a job done.
async fn as_another_user(node: &Node) -> World {
    node.tell("ctl add_user reset-worker correct-8d2f").await;
    node.tell("ctl change_password reset-worker correct-8d2f").await;
    node.tell("ctl set_permissions reset-worker .* .* .*").await;
    let url = node.url().replace("guest:guest@", "reset-worker:correct-8d2f@");
    let mut world = Plan::at(&url).start().await;
    world.connection = connect(node.url()).await;
    world.reset("main", "before", "job-before").await;
    world.recorded(1).await;
    world
}

async fn goes_on(world: &mut World, node: &Node) {
    role(world, "active").await;
    world.connection = connect(node.url()).await;
    world.reset("main", "after", "job-after").await;
    world.recorded(2).await;
    assert_eq!(locked_out(world.main(), &world.drained("emails").await), Vec::<String>::new());
}

/// SIGTERM while calls are in flight whose mails this broker does not take: ends within the grace, and gives the jobs back.
async fn drained_though(node: &Node, fail: &'static str, fix: &'static str) {
    let grace = Duration::from_secs(26);
    let mut world = patient(Plan::at(node.url())).prepare().await;
    let (mut worker, _) = Process::worker(&world).await;
    // However long rabbitmqctl takes: the calls are answered when the broker has failed, and the worker is ending.
    let users = thirty_in_the_air(&world).await;
    node.tell(fail).await;
    let asked = Instant::now();
    worker.signal("TERM");
    eventually("it drains", async || worker.stderr().contains("\"draining\"").then_some(())).await;
    world.main().release_calls();
    let (code, took) = (worker.ended().await, asked.elapsed());
    node.tell(fix).await;
    eprintln!("SIGTERM during {fail:?}: {took:?}, of a grace of {grace:?}");
    assert_eq!(code, 0);
    let log = worker.stderr();
    let not_notified = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["people"].as_u64());
    let (not_notified, sets) = (not_notified.sum::<u64>(), world.main().stats().password_sets);
    assert!(not_notified > 0 && not_notified <= sets, "{not_notified} of {sets}: {log}");
    world.connection = connect(node.url()).await;
    let (mut second, _) = Process::worker(&world).await;
    world.recorded(30).await;
    assert_eq!(second.terminated().await.0, 0);
    let mails = world.drained("emails").await;
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    assert!(mails.len() >= users.len());
    let told = mails.iter().map(Taken::id).collect::<BTreeSet<_>>().len() as u64;
    let sets = world.main().stats().password_sets;
    assert!(told + not_notified >= sets, "{told} told and {not_notified} said to be not notified, of {sets}");
    assert!(took < grace + Duration::from_secs(1), "{took:?} of a grace of {grace:?}");
}

/// Tasks of this test that have not ended.
fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_in_the_middle_of_200_jobs_loses_nobody() {
    let node = Node::lent().await;
    through("kill", &node, async |world| {
        node.end("kill").await;
        role(world, "starting").await;
        node.start().await;
    })
    .await;
}

/// With more than 32 consumers' deliveries RabbitMQ before 4.2 mixes up who acked what: `docs/development/facts.md#consumers`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_taken_few_at_a_time_are_all_there_after_worker_and_broker_were_killed() {
    let node = Node::lent().await;
    let org = "guard_per_hour = 180\nrequest_timeout = \"5s\"\nrate_per_minute = 1200";
    let mut world = Plan::at(node.url()).org("main", unlimited(), org).prepare().await;
    let (mut first, _) = Process::worker(&world).await;
    let (channel, jobs) = (world.channel().await, 100_u64);
    for n in 0..jobs {
        let body = reset_body(&format!("u-{n}")).to_string();
        world.publish_on(&channel, "main.bulk", body.as_bytes(), named(&format!("job-{n}"))).await;
    }
    // As many as may be are taken, one by one, and go back in one go.
    world.main().hold_calls();
    eventually("a prefetch of them is in flight", async || (world.main().stats().calls >= 64).then_some(())).await;
    first.kill().await;
    world.main().release_calls();
    let (mut second, _) = Process::worker(&world).await;
    eventually("some are done", async || (world.main().stats().password_sets >= 30).then_some(())).await;
    node.end("kill").await;
    second.kill().await;
    node.start().await;
    world.connection = connect(node.url()).await;
    let (mut third, _) = Process::worker(&world).await;
    world.recorded(jobs as usize).await;
    assert_eq!(third.terminated().await.0, 0);
    for queue in ["resets.main.bulk", "resets.main.dead"] {
        assert_eq!(world.depth(queue).await, 0, "{queue}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_stopped_in_the_middle_of_200_jobs_loses_nobody() {
    let node = Node::lent().await;
    through("stop", &node, async |world| {
        node.end("stop").await;
        role(world, "starting").await;
        node.start().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_closed_in_the_middle_of_200_jobs_lose_nobody() {
    let node = Node::lent().await;
    through("close_all_connections", &node, async |_| {
        node.tell("ctl close_all_connections test").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_jobs_taken_from_a_broker_that_takes_no_message_lose_nobody() {
    let node = Node::lent().await;
    let plan = Plan::at(node.url()).org("main", slow(), "rate_per_minute = 6000");
    let mut world = plan.start().await;
    world.stop_worker().await.unwrap();
    let users = world.reset_many("main", 200).await;
    node.tell("ctl set_vm_memory_high_watermark 0").await;
    world.start_worker().await;
    eventually("the worker has met the alarm", async || {
        let (_, said) = world.readyz().await;
        let reason = said["orgs"]["main"]["reason"].as_str()?.to_owned();
        (!reason.contains("connecting")).then_some(())
    })
    .await;
    assert_eq!(world.main().stats().calls, 0, "nobody is reset whose mail cannot be sent");
    node.tell("ctl set_vm_memory_high_watermark absolute 1GB").await;
    all_log_in("memory alarm", &node, world, &users).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_silent_for_a_while_in_the_middle_of_200_jobs_loses_nobody() {
    let node = Node::lent().await;
    through("pause", &node, async |world| {
        node.tell("pause").await;
        role(world, "starting").await;
        node.tell("resume").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_email_queue_halts_processing_until_there_is_room() {
    let node = Node::lent().await;
    let plan = Plan::at(node.url()).org("main", slow(), "rate_per_minute = 1200");
    let world = plan.start().await;
    let full = format!(
        "ctl set_policy --apply-to queues {0}full ^{0}emails$ {{\"max-length\":5,\"overflow\":\"reject-publish\"}}",
        world.prefix
    );
    node.tell(full).await;
    let users = world.reset_many("main", 60).await;
    let reason = role(&world, "halted").await;
    says(&reason, &["a notification cannot be published", "refused it", &world.named("notifications")]);
    let called = world.main().stats().calls;
    assert!(called < 60, "processing halts before all are called: {called}");
    let mut emails = world.tap("emails").await;
    let mails = emails.take(60).await;
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    assert!(users.iter().all(|user| world.main().user(user).unwrap().password_sets == 1));
    role(&world, "active").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_starts_without_a_broker_keeps_trying_and_says_so() {
    let node = Node::lent().await;
    let mut world = Plan::at(node.url()).prepare().await;
    node.end("stop").await;
    world.start_worker().await;
    eventually("the reason is that nobody answers", async || {
        let reason = role(&world, "starting").await;
        reason.contains("connecting to the broker at 127.0.0.1:").then_some(())
    })
    .await;
    assert!(!world.worker().task.is_finished());
    node.start().await;
    role(&world, "active").await;
    world.connection = connect(node.url()).await;
    world.reset("main", "u", "job").await;
    let mail = world.tap("emails").await.next().await;
    assert_eq!(locked_out(world.main(), &[mail]), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interactive_queue_deleted_while_idle_is_declared_anew() {
    deleted_while_idle("resets.main").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_queue_deleted_while_idle_is_declared_anew() {
    deleted_while_idle("resets.main.bulk").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_queue_deleted_while_calls_are_in_the_air_costs_no_interactive_job_anything() {
    let world = Plan::new().org("main", a_second_a_call(), "").start().await;
    let users = twenty_interactive_in_the_air(&world).await;
    delete(&world, "resets.main.bulk").await;
    all_are_told_once(&world, &users).await;
    is_consumed(&world, "resets.main.bulk").await;
    assert_eq!(world.depth("resets.main").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_email_queue_deleted_while_calls_are_in_the_air_is_declared_anew_and_nobody_is_lost() {
    let world = patient(Plan::new()).start().await;
    let users = thirty_in_the_air(&world).await;
    assert_eq!(delete(&world, "emails").await, 0);
    world.main().release_calls();
    all_are_told_once(&world, &users).await;
    role(&world, "active").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_email_queue_unbound_while_jobs_run_is_bound_anew_and_nobody_is_lost() {
    let world = Plan::new().org("main", slow(), "rate_per_minute = 6000").start().await;
    let users = world.reset_many("main", 100).await;
    for done in [20, 50, 80] {
        eventually("some are done", async || (world.main().stats().password_sets >= done).then_some(())).await;
        let (queue, exchange) = (world.named("emails"), world.named("notifications"));
        let channel = world.channel().await;
        channel
            .queue_unbind(queue.as_str().into(), exchange.as_str().into(), "email".into(), FieldTable::default())
            .await
            .unwrap();
    }
    all_are_told_once(&world, &users).await;
    role(&world, "active").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_deleted_while_calls_are_in_the_air_are_declared_anew_and_nobody_is_lost() {
    let world = patient(Plan::new()).start().await;
    let users = thirty_in_the_air(&world).await;
    let channel = world.channel().await;
    for exchange in ["notifications", "outcomes", "resets"] {
        let name = world.named(exchange);
        channel.exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
    }
    world.main().release_calls();
    all_are_told_once(&world, &users).await;
    role(&world, "active").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_dead_letters_deleted_while_idle_is_declared_anew_for_the_next_letter() {
    let world = Plan::new().start().await;
    delete(&world, "resets.main.dead").await;
    world.publish("main", b"no job", named("bad")).await;
    world.recorded(1).await;
    let letters = world.drained("resets.main.dead").await;
    assert_eq!((letters.len(), letters[0].id()), (1, "bad"));
    role(&world, "active").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_stream_deleted_while_calls_are_in_the_air_is_declared_anew() {
    let world = patient(Plan::new()).start().await;
    let users = thirty_in_the_air(&world).await;
    delete(&world, "resets.outcomes").await;
    world.main().release_calls();
    all_are_told_once(&world, &users).await;
    role(&world, "active").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_email_queue_of_another_kind_halts_processing_until_it_is_gone_and_nothing_is_lost() {
    let world = patient(Plan::new()).start().await;
    let users = thirty_in_the_air(&world).await;
    assert_eq!(delete(&world, "emails").await, 0);
    make_classic(&world, "emails").await;
    world.main().release_calls();
    let reason = role(&world, "halted").await;
    says(&reason, &[&world.named("emails"), "x-queue-type", "nothing was deleted"]);
    // Nobody is called whose mail could not be sent.
    world.reset("main", "later", "job-later").await;
    assert_eq!(delete(&world, "emails").await, 0);
    role(&world, "active").await;
    let users: Vec<String> = users.into_iter().chain(["later".to_owned()]).collect();
    all_are_told_once(&world, &users).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_stopped_by_a_queue_goes_on_though_its_session_ended_before_that_was_resolved() {
    let node = Node::lent().await;
    let mut world = patient(Plan::at(node.url())).start().await;
    let users = thirty_in_the_air(&world).await;
    delete(&world, "emails").await;
    make_classic(&world, "emails").await;
    world.main().release_calls();
    let reason = role(&world, "halted").await;
    says(&reason, &["a notification cannot be published"]);
    node.tell("ctl close_all_connections test").await;
    eventually("the next session cannot begin", async || {
        role(&world, "halted").await.starts_with("declaring queue").then_some(())
    })
    .await;
    world.connection = connect(node.url()).await;
    delete(&world, "emails").await;
    all_are_told_once(&world, &users).await;
    role(&world, "active").await;
    world.reset("main", "later", "job-later").await;
    world.tap("emails").await.next().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_start_a_queue_with_other_arguments_ends_the_process_and_is_left_as_it_is() {
    let world = Plan::new().prepare().await;
    make_classic(&world, "emails").await;
    let channel = world.channel().await;
    let name = world.named("emails");
    let sent =
        channel.basic_publish("".into(), name.as_str().into(), BasicPublishOptions::default(), b"kept", named("m"));
    sent.await.unwrap().await.unwrap();
    let parts = [name.as_str(), "x-queue-type", "nothing was deleted", "delete it", "amqp.prefix"];
    refuses(Run::of(&world, &["worker"]), &parts).await;
    assert_eq!(world.depth("emails").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_start_a_lane_with_another_delivery_limit_ends_the_process() {
    let world = Plan::new().prepare().await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(5));
    let name = world.named("resets.main.bulk");
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    world.channel().await.queue_declare(name.as_str().into(), options, arguments).await.unwrap();
    let parts = [name.as_str(), "inequivalent arg", "nothing was deleted"];
    refuses(Run::of(&world, &["worker"]), &parts).await;
    assert_eq!(world.depth("resets.main.bulk").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_start_a_wrong_password_ends_the_process_and_is_not_repeated() {
    let world = Plan::new().prepare().await;
    let url = world.amqp_url.replace("guest:guest@", "guest:WRONGPASSWORD@");
    assert_ne!(url, world.amqp_url);
    let run = Run::of(&world, &["worker"]).config(&format!("[amqp]\nurl = {url:?}"));
    let said = refuses(run, &["ACCESS_REFUSED", "user \"guest\"", "127.0.0.1:"]).await;
    assert!(!said.contains("WRONGPASSWORD"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_start_a_vhost_that_does_not_exist_ends_the_process() {
    let world = Plan::new().prepare().await;
    let url = world.amqp_url.replace("%2f", "nowhere");
    assert_ne!(url, world.amqp_url);
    let run = Run::of(&world, &["worker"]).config(&format!("[amqp]\nurl = {url:?}"));
    refuses(run, &["vhost \"nowhere\"", "does not exist", "add_vhost"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_changed_while_it_works_stops_the_org_until_it_is_changed_back() {
    let node = Node::lent().await;
    let mut world = as_another_user(&node).await;
    node.tell("ctl change_password reset-worker other").await;
    node.tell("ctl close_all_connections test").await;
    let reason = role(&world, "halted").await;
    says(&reason, &["ACCESS_REFUSED", "user \"reset-worker\""]);
    assert!(!reason.contains("8d2f"), "{reason}");
    assert!(!world.worker().task.is_finished());
    node.tell("ctl change_password reset-worker correct-8d2f").await;
    goes_on(&mut world, &node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_taken_while_it_works_stop_the_org_until_they_are_given_back() {
    let node = Node::lent().await;
    let mut world = as_another_user(&node).await;
    node.tell("ctl set_permissions reset-worker ^none$ .* .*").await;
    node.tell("ctl close_all_connections test").await;
    let reason = role(&world, "halted").await;
    says(&reason, &["ACCESS_REFUSED", "set_permissions", &world.named("resets")]);
    node.tell("ctl set_permissions reset-worker .* .* .*").await;
    goes_on(&mut world, &node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vhost_taken_away_while_it_works_stops_the_org_until_it_is_given_back() {
    let node = Node::lent().await;
    let mut world = as_another_user(&node).await;
    node.tell("ctl clear_permissions reset-worker").await;
    node.tell("ctl close_all_connections test").await;
    says(&role(&world, "halted").await, &["vhost", "set_permissions"]);
    node.tell("ctl set_permissions reset-worker .* .* .*").await;
    goes_on(&mut world, &node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_publishes_at_once_learns_of_its_own_return_and_of_no_other() {
    let world = Plan::new().start().await;
    let connection = std::sync::Arc::new(connect(&world.amqp_url).await);
    let publisher = &Publisher::open(connection).await.unwrap();
    // 32 at once, each of which publishes to a queue and to none by turns: (unroutable and "published", published and "returned").
    let one = async |places: [String; 2]| {
        let (mut lost, mut doubled) = (0, 0);
        for n in 0..400 {
            let message = Message {
                exchange: "",
                key: &places[n % 2],
                body: b"{}",
                properties: named("m").with_delivery_mode(2),
            };
            match (n % 2, publisher.publish(&message).await) {
                (0, Ok(())) | (1, Err(Unpublished::Returned { .. })) => {}
                (0, Err(Unpublished::Returned { .. })) => doubled += 1,
                (1, Ok(())) => lost += 1,
                (_, other) => panic!("{other:?}"),
            }
        }
        (lost, doubled)
    };
    let places = [world.named("emails"), world.named("nowhere")];
    let all = (0..32).map(|_| one(places.clone()));
    let ended = futures_util::future::join_all(all).await;
    let lost: i32 = ended.iter().map(|(lost, _)| lost).sum();
    let doubled: i32 = ended.iter().map(|(_, doubled)| doubled).sum();
    eprintln!("{lost} of 6400 unroutable messages count as published, {doubled} of 6400 published ones as returned");
    assert_eq!((lost, doubled), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_during_a_memory_alarm_ends_within_the_grace() {
    let node = Node::lent().await;
    drained_though(&node, "ctl set_vm_memory_high_watermark 0", "ctl set_vm_memory_high_watermark absolute 1GB").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_while_the_broker_is_silent_ends_within_the_grace() {
    let node = Node::lent().await;
    drained_though(&node, "pause", "resume").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_that_an_alarm_holds_up_is_lost_with_its_connection() {
    let node = Node::lent().await;
    let relay = Relay::to(node.url());
    let connection = Arc::new(connect(relay.url()).await);
    let publisher = Publisher::open(Arc::clone(&connection)).await.unwrap();
    node.tell("ctl set_vm_memory_high_watermark 0").await;
    let publishing = tokio::spawn(async move {
        let message = Message { exchange: "", key: "nobody", body: b"", properties: named("held-up") };
        loop {
            // What is published before the alarm is felt comes back: nobody takes it.
            match publisher.publish(&message).await {
                Err(Unpublished::Returned { .. }) => {}
                other => return other,
            }
        }
    });
    eventually("the connection is blocked", async || connection.status().blocked().then_some(())).await;
    relay.cut();
    let published = tokio::time::timeout(Duration::from_secs(5), publishing).await.expect("it ends").unwrap();
    node.tell("ctl set_vm_memory_high_watermark absolute 1GB").await;
    assert!(matches!(published, Err(Unpublished::Lost(_))), "{published:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_a_channel_more_waits_for_an_alarms_end_too() {
    let node = Node::lent().await;
    let world = Plan::at(node.url()).prepare().await;
    crate::world::declare(&world.connection, &Names::new(&world.prefix, "main")).await;
    let connection = Arc::new(connect(node.url()).await);
    let publisher = Publisher::open(Arc::clone(&connection)).await.unwrap();
    node.tell("ctl set_vm_memory_high_watermark 0").await;
    let publish = {
        let (publisher, key) = (Arc::new(publisher), world.named("emails"));
        move || {
            let (publisher, key) = (Arc::clone(&publisher), key.clone());
            async move {
                publisher.publish(&Message { exchange: "", key: &key, body: b"", properties: named("held-up") }).await
            }
        }
    };
    // What is published before the alarm is felt is confirmed at once: one after the other, up to the one that is held up.
    let one = publish.clone();
    let first = tokio::spawn(async move {
        loop {
            let begun = Instant::now();
            one().await?;
            if begun.elapsed() > ANSWER {
                return Ok::<_, Unpublished>(());
            }
        }
    });
    eventually("the connection is blocked", async || connection.status().blocked().then_some(())).await;
    // It has the only channel, and these each want another.
    let all = futures_util::future::join3(first, tokio::spawn(publish()), tokio::spawn(publish()));
    let mut all = std::pin::pin!(all);
    let longer = ANSWER + Duration::from_secs(2);
    let ended = tokio::time::timeout(longer, &mut all).await;
    node.tell("ctl set_vm_memory_high_watermark absolute 1GB").await;
    assert!(ended.is_err(), "none is given up during an alarm: {ended:?}");
    let (first, second, third) = tokio::time::timeout(ANSWER, all).await.expect("they end with it");
    assert_eq!([first.unwrap(), second.unwrap(), third.unwrap()], [Ok(()), Ok(()), Ok(())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_refuses_or_says_nothing_leaves_nothing_behind_however_often_it_is_tried() {
    let place = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = place.local_addr().unwrap();
    let amqp = Amqp {
        url: format!("amqp://guest:guest@{address}/%2f").into(),
        hosts: Vec::new(),
        used: Used::default(),
        management_url: None,
        tls: Tls::default(),
        prefix: String::new(),
        prefetch: 1,
    };
    let before = tasks();
    // It takes the connection, and never says a word.
    let silent: Vec<_> = futures_util::future::join_all((0..5).map(|_| link::connect(&amqp, "test"))).await;
    for tried in &silent {
        let why = tried.as_ref().expect_err("nobody is there").to_string();
        says(&why, &["did not answer within 10 s"]);
    }
    drop(place);
    for _ in 0..20 {
        let why = link::connect(&amqp, "test").await.expect_err("nobody is there").to_string();
        says(&why, &["refused"]);
    }
    // A connection that is never made ends its thread, and with it its task.
    eventually("they are gone", async || (tasks() <= before).then_some(())).await;
}
