//! Who leads: what a lapse of its proof costs a leader, and workers of release 0.1 beside those of this one.

use std::time::{Duration, Instant};

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use resetd::amqp::names::Names;

use crate::broker::{Broker, Node};
use crate::operator::process::{Process, readyz, role, role_is, says, ticks};
use crate::world::{Plan, World, connect, eventually, unlimited};

/// A worker of release 0.1 that has taken the org: this test, which holds its lease.
struct Old(Connection, #[expect(dead_code, reason = "it is held")] Channel);

impl Old {
    async fn leads(world: &World) -> Self {
        let connection = connect(&world.amqp_url).await;
        let channel = connection.create_channel().await.unwrap();
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let lease = Names::new(&world.prefix, "main").lease();
        channel.queue_declare(lease.as_str().into(), exclusive, FieldTable::default()).await.unwrap();
        Self(connection, channel)
    }

    async fn ends(self) {
        self.0.close(200, "bye".into()).await.unwrap();
    }
}

async fn reason(http: &str) -> String {
    let (_, said) = eventually("it answers", async || readyz(http).await).await;
    said["orgs"]["main"]["reason"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_stands_by_while_one_of_release_0_1_leads_and_says_why() {
    let world = Plan::new().prepare().await;
    let old = Old::leads(&world).await;
    let worker = crate::operator::process::Run::of(&world, &["--log", "json", "worker"]).start();
    let http = worker.http().await;
    role_is(&http, "standby").await;
    eventually("it says why", async || {
        let reason = reason(&http).await;
        reason.contains("release 0.1").then_some(())
    })
    .await;
    says(&reason(&http).await, &["resets.main.lease", "rabbitmqctl delete_queue"]);
    let users = world.reset_many("main", 5).await;
    old.ends().await;
    role_is(&http, "active").await;
    assert_eq!(world.recorded(users.len()).await.len(), users.len());
    assert_eq!(reason(&http).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_gives_way_to_one_of_release_0_1_before_that_one_calls() {
    // Such a one waits for the request timeout and 3 s, since the ledger has the name of the leader before.
    let world = Plan::new().org("main", unlimited(), "rate_per_minute = 300").prepare().await;
    let (worker, http) = Process::worker(&world).await;
    let users = world.reset_many("main", 200).await;
    eventually("it is at work", async || (world.main().stats().calls > 3).then_some(())).await;
    let old = Old::leads(&world).await;
    let since = std::time::Instant::now();
    let passed = async |seconds| {
        let passed = || since.elapsed() > Duration::from_secs(seconds);
        eventually("time passes", async || passed().then_some(())).await;
    };
    // The other would wait for longer: 13 s.
    passed(8).await;
    let calls = world.main().stats().calls;
    role_is(&http, "standby").await;
    passed(11).await;
    assert_eq!(world.main().stats().calls, calls, "{}", worker.stderr());
    old.ends().await;
    role_is(&http, "active").await;
    assert!(world.main().stats().calls < users.len() as u64, "the test is over before the work is");
}

/// A disk that stalls, or a node that is stopped for a moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stalls_for_three_seconds_costs_a_fence_and_no_takeover() {
    let node = Node::lent().await;
    let org = sim::Settings { latency: Duration::from_millis(200), ..unlimited() };
    let mut world = Plan::at(node.url()).org("main", org, "rate_per_minute = 600").prepare().await;
    let (worker, http) = Process::worker(&world).await;
    let users = world.reset_many("main", 60).await;
    eventually("it is at work", async || (world.main().stats().calls > 5).then_some(())).await;
    node.tell("pause").await;
    // As long as the stall lasts.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let stalled = world.main().stats().calls;
    node.tell("resume").await;
    world.connection = connect(node.url()).await;
    let records = world.recorded(users.len()).await;
    assert!(records.iter().all(|record| record.routing_key == "main.succeeded"));
    let log = worker.stderr();
    says(&log, &["no ping came back in time", "nobody else has led: going on"]);
    for word in ["taking over", "not consuming"] {
        assert!(!log.contains(word), "{word}: {log}");
    }
    assert!(users.iter().all(|user| world.main().user(user).unwrap().password_sets == 1));
    assert!(stalled < users.len() as u64, "{stalled} of all calls were made before the stall ended");
    assert_eq!(eventually("it answers", async || role(&http).await).await, "active");
}

/// A release build gives the figures of use: `cargo test --release --features otel --test it fifty_idle -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn fifty_idle_orgs_with_two_workers_cost_little() {
    let node = tokio::task::spawn_blocking(|| Broker::private_with("channel_max = 2047")).await.unwrap();
    let plan = (0..50).fold(Plan::at(&node.url), |plan, n| plan.org(&format!("org{n}"), unlimited(), ""));
    let world = plan.prepare().await;
    let (first, http) = Process::worker(&world).await;
    let (second, other) = Process::worker(&world).await;
    let all = async |http: &str, role: &str| {
        let (_, said) = readyz(http).await?;
        let orgs = said["orgs"].as_object()?;
        (orgs.len() == 50 && orgs.values().all(|org| org["role"] == role)).then_some(())
    };
    eventually("one leads all", async || all(&http, "active").await).await;
    eventually("the other stands by", async || all(&other, "standby").await).await;
    let broker: u32 = std::fs::read_to_string(node.folder().join("pid")).unwrap().trim().parse().unwrap();
    let processes = [first.id(), second.id(), broker];
    let (begun, before) = (Instant::now(), processes.map(ticks));
    while begun.elapsed() < Duration::from_secs(30) {
        assert!(all(&http, "active").await.is_some() && all(&other, "standby").await.is_some());
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let share = |n: usize| (ticks(processes[n]) - before[n]) as f64 / seconds;
    eprintln!("50 idle orgs: {:.1} % and {:.1} % of a core, the broker {:.1} %", share(0), share(1), share(2));
    assert!(share(0) < 2.0 && share(1) < 2.0 && share(2) < 10.0);
}
