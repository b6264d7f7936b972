//! What closes the bulk lane while the interactive one goes on: its hours, and the guard of resets in an hour.

use std::time::Duration;

use serde_json::Value;

use crate::world::{Plan, World, by_job, eventually, fault, locked_out, unlimited};

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

/// Of so many jobs, those that have set nothing: how many they are, once all of them are back in their lanes.
async fn left(world: &World, jobs: u64) -> u64 {
    let left = jobs - world.main().stats().password_sets;
    eventually("what is not done is back in its lane", async || {
        let lying = world.in_the_lanes().await;
        (u64::from(lying) == left).then_some(())
    })
    .await;
    left
}

/// How often the broker delivered each of the jobs before that lie in the bulk lane, which is empty then.
async fn deliveries_of_bulk(world: &World) -> Vec<(String, u32)> {
    let lying = world.drained("resets.main.bulk").await;
    let count = |job: &crate::world::Taken| job.header("x-delivery-count").map_or(0, |count| count.parse().unwrap());
    lying.iter().map(|job| (job.id().to_owned(), count(job))).collect()
}

fn most(deliveries: &[(String, u32)]) -> u32 {
    deliveries.iter().map(|(_, count)| *count).max().unwrap_or(0)
}

/// A call each half second, and an hour of 5 s: six are reset within 3 s, and then their places are free again one by one.
const ONE_BY_ONE: &str = "rate_per_minute = 120\nguard_per_hour = 6";
const SHORT_HOUR: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_the_guard_the_bulk_lane_closes_and_the_interactive_one_goes_on() {
    let mut world = Plan::new().org("main", unlimited(), "guard_per_hour = 5").start().await;
    publish_bulk(&world, 0..12).await;
    lies(&world, 7).await;
    // Who is in flight lies in the lane no more.
    eventually("five are set", async || (world.main().stats().password_sets == 5).then_some(())).await;
    // The org counts the fifth before the worker has its answer.
    let said = eventually("it is closed", async || Some(bulk(&world).await).filter(Value::is_object)).await;
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
    // It may be ready, and still be taking over.
    eventually("it is closed again", async || world.readyz().await.1["orgs"]["main"]["bulk"].is_object().then_some(()))
        .await;
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

/// It takes 45 s: sixty jobs, six in 5 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_that_are_free_one_by_one_bring_no_job_of_sixty_near_its_delivery_limit() {
    let mut world = Plan::new().guarding_for(SHORT_HOUR).org("main", unlimited(), ONE_BY_ONE).start().await;
    let mut outcomes = world.outcomes().await;
    publish_bulk(&world, 0..60).await;
    let mut ended = by_job(&outcomes.take(50).await);
    world.stop_worker().await.unwrap();
    let left = left(&world, 60).await;
    let lying = deliveries_of_bulk(&world).await;
    assert_eq!(lying.len() as u64, left, "{lying:?}");
    eprintln!("50 were reset, six in {SHORT_HOUR:?}; the others were delivered {} times before at most", most(&lying));
    assert!(most(&lying) <= 3, "{lying:?}");
    assert!(lying.len() <= 10 && lying.len() >= 8, "{lying:?}");
    for (job, _) in &lying {
        world.reset("main.bulk", job, job).await;
    }
    world.start_worker().await;
    ended.extend(by_job(&outcomes.take(60 - ended.len()).await));
    assert!(ended.values().all(|record| record["outcome"] == "succeeded"), "{ended:?}");
    assert_eq!((ended.len(), world.main().stats().password_sets), (60, 60));
    assert_eq!((world.depth("resets.main.dead").await, world.depth("resets.main.bulk").await), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interactive_jobs_that_take_the_room_of_bulk_jobs_in_flight_bring_none_near_its_delivery_limit() {
    let mut world = Plan::new().guarding_for(SHORT_HOUR).org("main", unlimited(), ONE_BY_ONE).start().await;
    let mut outcomes = world.outcomes().await;
    publish_bulk(&world, 0..20).await;
    // As many as the guard has room for, and more than there are places free meanwhile.
    let mut sent = 0;
    let mut ended = Vec::new();
    while sent < 40 {
        while sent < ended.len() as u64 + 3 {
            world.reset("main", &format!("now-{sent}"), &format!("now-{sent}")).await;
            sent += 1;
        }
        ended.push(outcomes.next().await);
    }
    world.stop_worker().await.unwrap();
    let left = left(&world, 20 + sent).await;
    let lying = deliveries_of_bulk(&world).await;
    let interactive = u64::from(world.depth("resets.main").await);
    assert_eq!(lying.len() as u64 + interactive, left, "{lying:?}");
    eprintln!("beside {sent} interactive jobs the bulk jobs were delivered {} times before at most", most(&lying));
    assert!(most(&lying) <= 3, "{lying:?}");
    assert!(by_job(&ended).values().all(|record| record["outcome"] == "succeeded"), "{ended:?}");
    assert_eq!(world.depth("resets.main.dead").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_jobs_that_set_nothing_take_no_place_of_those_that_do() {
    let settings = sim::Settings { faults: vec![fault("status=404,next=20")], ..unlimited() };
    let world = Plan::new().org("main", settings, "guard_per_hour = 2").start().await;
    let mut outcomes = world.outcomes().await;
    publish_bulk(&world, 0..24).await;
    let ended = by_job(&outcomes.take(22).await);
    let of = |outcome: &str| ended.values().filter(|record| record["outcome"] == outcome).count();
    assert_eq!((of("failed"), of("succeeded")), (20, 2));
    lies(&world, 2).await;
    assert_eq!(bulk(&world).await["state"], "closed");
}
