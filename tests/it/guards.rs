//! What closes the bulk lane while the interactive one goes on: its hours, and the guard of resets in an hour.

use serde_json::Value;

use crate::world::{Plan, World, eventually, locked_out, unlimited};

/// What `/readyz` says of the bulk lane of `main`.
async fn bulk(world: &World) -> Value {
    let (status, body) = world.readyz().await;
    assert_eq!((status, &body["orgs"]["main"]["role"]), (200, &Value::from("active")), "{body}");
    body["orgs"]["main"]["bulk"].clone()
}

async fn publish_bulk(world: &World, jobs: std::ops::Range<u32>) {
    for n in jobs {
        world.reset("main.bulk", &format!("bulk-{n}"), &format!("bulk-{n}")).await;
    }
}

/// Waits until so many jobs lie ready in the bulk lane and nothing was called for them since.
async fn lies(world: &World, jobs: u32) {
    eventually(&format!("{jobs} jobs are back in the bulk lane"), async || {
        (world.depth("resets.main.bulk").await == jobs).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_the_guard_the_bulk_lane_closes_and_the_interactive_one_goes_on() {
    let mut world = Plan::new().org("main", unlimited(), "guard_per_hour = 5").start().await;
    publish_bulk(&world, 0..12).await;
    lies(&world, 7).await;
    assert_eq!(world.main().stats().password_sets, 5);
    let said = bulk(&world).await;
    assert_eq!(said["state"], "closed");
    assert!(said["cause"].as_str().unwrap().contains("guard_per_hour"), "{said}");
    let until: jiff::Timestamp = said["until"].as_str().unwrap().parse().unwrap();
    let ahead = until.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((3_500..=3_600).contains(&ahead), "{ahead} s ahead");
    assert!(world.metrics().await.contains(r#"resetd_bulk_closed{org="main",cause="guard_per_hour"} 1"#));
    let mut mails = world.tap("emails").await;
    for n in 0..5 {
        world.reset("main", &format!("now-{n}"), &format!("now-{n}")).await;
    }
    let mut told = mails.take(10).await;
    assert_eq!(world.main().stats().password_sets, 10);
    assert_eq!(world.depth("resets.main.bulk").await, 7);
    // A restart does not open it: what was reset within the hour stands in the stream.
    world.stop_worker().await.unwrap();
    world.start_worker().await;
    world.ready().await;
    eventually("it is closed again", async || bulk(&world).await.is_object().then_some(())).await;
    assert_eq!((world.depth("resets.main.bulk").await, world.main().stats().password_sets), (7, 10));
    // The limit is raised.
    world.stop_worker().await.unwrap();
    world.config = world.config.replace("guard_per_hour = 5", "guard_per_hour = 50");
    world.start_worker().await;
    told.extend(mails.take(7).await);
    assert_eq!(locked_out(world.main(), &told), Vec::<String>::new());
    assert_eq!((world.depth("resets.main.dead").await, bulk(&world).await), (0, Value::Null));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outside_its_hours_the_bulk_lane_is_left_alone() {
    let hour = |ahead: i8| (jiff::tz::TimeZone::UTC.to_datetime(jiff::Timestamp::now()).hour() + ahead).rem_euclid(24);
    let window = format!("{:02}:00-{:02}:00 UTC", hour(2), hour(4));
    let keys = format!("bulk_window = {window:?}");
    let world = Plan::new().org("main", unlimited(), &keys).start().await;
    publish_bulk(&world, 0..3).await;
    world.reset("main", "now", "now").await;
    assert_eq!(world.tap("emails").await.next().await.json()["userId"], "now");
    let said = bulk(&world).await;
    assert!(said["cause"].as_str().unwrap().contains(&window), "{said}");
    lies(&world, 3).await;
    assert_eq!(world.main().stats().calls, 1);
}
