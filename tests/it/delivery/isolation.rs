//! Jobs that must run alone, since they were delivered often: what they keep waiting, and what they do not.

use std::time::Duration;

use serde_json::Value;

use crate::world::{Plan, Tap, World, by_job, delivered, eventually, fault, named, reset_body, unlimited};

/// A job that must run alone.
async fn suspect(world: &World, key: &str, user: &str) {
    let body = reset_body(user).to_string();
    world.publish(key, body.as_bytes(), delivered(named(user), 3)).await;
}

/// Publishes all of them before their confirms are waited for: as little as can be ends while they are sent.
async fn send(world: &World, key: &str, name: &str, n: usize) {
    let channel = &world.channel().await;
    let each = (0..n).map(|n| format!("{name}-{n}")).map(|user| async move {
        world.publish_on(channel, key, reset_body(&user).to_string().as_bytes(), named(&user)).await;
    });
    futures_util::future::join_all(each).await;
}

async fn called(world: &World, calls: u64) {
    eventually("it was called", async || (world.main().stats().calls >= calls).then_some(())).await;
}

/// The ids of the next jobs that end, in their order; each succeeds.
async fn ended(outcomes: &mut Tap, n: usize) -> Vec<String> {
    let records = outcomes.take(n).await;
    for (job, record) in by_job(&records) {
        assert_eq!(record["outcome"], "succeeded", "{job}: {record}");
    }
    records.iter().map(|record| record.json()["jobId"].as_str().unwrap().to_owned()).collect()
}

/// Answers `late` with a wait of its own, which is long, once.
fn waits() -> sim::Settings {
    sim::Settings { faults: vec![fault("status=500,retry_after=15,next=1,user=late")], ..unlimited() }
}

/// It takes 15 s, the wait that the org asks for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_waits_for_its_own_retry_keeps_no_job_from_running_alone() {
    let world = Plan::new().org("main", waits(), "").start().await;
    let mut outcomes = world.outcomes().await;
    world.reset("main", "late", "late").await;
    called(&world, 1).await;
    suspect(&world, "main.bulk", "alone").await;
    send(&world, "main", "now", 20).await;
    let before = ended(&mut outcomes, 21).await;
    assert!(before.contains(&"alone".to_owned()) && !before.contains(&"late".to_owned()), "{before:?}");
    assert_eq!(ended(&mut outcomes, 1).await, ["late"]);
    assert_eq!((world.main().stats().calls, world.depth("resets.main.dead").await), (23, 0));
}

/// It takes 15 s too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_runs_alone_keeps_nobody_waiting_while_it_waits_for_its_own_retry() {
    let world = Plan::new().org("main", waits(), "").start().await;
    let mut outcomes = world.outcomes().await;
    suspect(&world, "main.bulk", "late").await;
    called(&world, 1).await;
    send(&world, "main", "now", 20).await;
    suspect(&world, "main", "alone").await;
    let before = ended(&mut outcomes, 21).await;
    assert!(!before.contains(&"late".to_owned()), "{before:?}");
    assert_eq!(ended(&mut outcomes, 1).await, ["late"]);
    assert_eq!((world.main().stats().calls, world.depth("resets.main.dead").await), (23, 0));
    assert_eq!(world.main().user("late").unwrap().password_sets, 1);
}

/// It takes 15 s too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_runs_alone_keeps_nobody_waiting_for_a_job_of_its_user_that_waits() {
    let world = Plan::new().org("main", waits(), "").start().await;
    let mut outcomes = world.outcomes().await;
    world.reset("main", "late", "first").await;
    called(&world, 1).await;
    suspect(&world, "main.bulk", "late").await;
    send(&world, "main", "now", 20).await;
    let before = ended(&mut outcomes, 20).await;
    assert!(before.iter().all(|job| job.starts_with("now-")), "{before:?}");
    assert_eq!(ended(&mut outcomes, 2).await, ["first", "late"]);
    assert_eq!((world.main().stats().calls, world.depth("resets.main.dead").await), (23, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interactive_jobs_keep_their_precedence_while_bulk_jobs_run_alone() {
    let settings = sim::Settings { latency: Duration::from_millis(300), ..unlimited() };
    let world = Plan::new().org("main", settings, "").start().await;
    let mut outcomes = world.outcomes().await;
    for n in 0..20 {
        suspect(&world, "main.bulk", &format!("alone-{n}")).await;
    }
    ended(&mut outcomes, 1).await;
    send(&world, "main", "now", 9).await;
    let after = ended(&mut outcomes, 28).await;
    let last = after.iter().rposition(|job| job.starts_with("now-")).unwrap();
    // One that runs when they come, one or two that end while they are sent, and the tenth that bulk keeps.
    assert!(last < 9 + 4, "{after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_lane_that_closes_while_a_job_waits_to_run_alone_gives_its_jobs_back() {
    let settings = sim::Settings { faults: vec![fault("status=429,retry_after=3,next=1")], ..unlimited() };
    let world = Plan::new().org("main", settings, "rate_per_minute = 120\nguard_per_hour = 10").start().await;
    let mut outcomes = world.outcomes().await;
    world.reset("main", "now-x", "now-x").await;
    called(&world, 1).await;
    // All are in flight while all calls pause; then the interactive ones go first, and use up the guard's room.
    send(&world, "main.bulk", "bulk", 5).await;
    eventually("the bulk jobs are taken", async || (world.depth("resets.main.bulk").await == 0).then_some(())).await;
    send(&world, "main", "now", 9).await;
    eventually("the others are taken", async || (world.depth("resets.main").await == 0).then_some(())).await;
    suspect(&world, "main", "alone").await;
    let mut done = Vec::new();
    while !done.contains(&"alone".to_owned()) {
        done.extend(ended(&mut outcomes, 1).await);
    }
    // One of them has had the tenth that bulk keeps.
    let bulk = done.iter().filter(|job| job.starts_with("bulk-")).count();
    assert!(bulk <= 1, "{done:?}");
    let left = u32::try_from(5 - bulk).unwrap();
    eventually("the rest of the bulk jobs is back", async || {
        (world.depth("resets.main.bulk").await == left).then_some(())
    })
    .await;
    let (_, said) = world.readyz().await;
    assert_ne!(said["orgs"]["main"]["bulk"], Value::Null, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_pause_that_begins_while_a_job_waits_to_run_alone_gives_all_back() {
    let world = Plan::new().org("main", unlimited(), "").start().await;
    world.main().hold_calls();
    send(&world, "main", "now", 5).await;
    called(&world, 5).await;
    suspect(&world, "main", "alone").await;
    eventually("it is taken", async || (world.depth("resets.main").await == 0).then_some(())).await;
    world.main().add_fault(fault("status=429,retry_after=600,next=1"));
    world.main().release_calls();
    eventually("both are back", async || (world.depth("resets.main").await == 2).then_some(())).await;
    assert_eq!(world.main().stats().password_sets, 4);
}
