//! Waiting: what waits keeps nobody from working, no delivery is held for long, and no pause, stop or alarm counts against a job.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use jiff::{SignedDuration, Timestamp};
use lapin::BasicProperties;
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::broker::Node;
use crate::operator::process::says;
use crate::world::{
    Asked, Plan, Scribe, Tap, World, by_id, by_job, connect, delivered, eventually, exclusive, fault, locked_out,
    reset_body, slow, text, unlimited, with_header,
};

/// Never reached in a test that is about something else.
const FAR: Duration = Duration::from_secs(600);
const LANES: [&str; 2] = ["resets.main", "resets.main.bulk"];
const RUNGS: [&str; 3] = ["resets.main.parked.15s", "resets.main.parked.2m", "resets.main.parked.10m"];

/// A moment so far from now, as producers write it.
fn in_time(ahead: Duration) -> AMQPValue {
    text(&(Timestamp::now() + SignedDuration::try_from(ahead).unwrap()).to_string())
}

/// Publishes these jobs, each under its user's name with a routing key and properties, and waits for the confirms at the end.
async fn send(world: &World, jobs: impl IntoIterator<Item = (&str, String, BasicProperties)>) {
    let (channel, exchange) = (world.channel().await, world.named("resets"));
    let mut confirms = Vec::new();
    for (key, user, properties) in jobs {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (body, properties) = (reset_body(&user).to_string(), properties.with_message_id(user.as_str().into()));
        let exchange = exchange.as_str().into();
        let properties = properties.with_delivery_mode(2);
        let sent = channel.basic_publish(exchange, key.into(), options, body.as_bytes(), properties);
        confirms.push(sent.await.unwrap());
    }
    for confirm in confirms {
        assert_eq!(confirm.await.unwrap(), lapin::Confirmation::Ack(None));
    }
}

/// `n` users of this name, every other one in the bulk lane.
fn in_both_lanes(name: &str, n: usize) -> impl Iterator<Item = (&'static str, String, BasicProperties)> {
    (0..n).map(move |n| (["main", "main.bulk"][n % 2], format!("{name}-{n}"), BasicProperties::default()))
}

/// How many messages lie ready in these queues together.
async fn ready_in(world: &World, queues: &[&str]) -> u32 {
    let mut all = 0;
    for queue in queues {
        all += world.depth(queue).await;
    }
    all
}

async fn lie_ready(world: &World, queues: &[&str], n: u32) {
    eventually(&format!("{n} lie ready in {queues:?}"), async || (ready_in(world, queues).await == n).then_some(()))
        .await;
}

/// A copy of whatever is parked in that tier from now on.
pub async fn copies(world: &World, tier: &str) -> Tap {
    let channel = world.channel().await;
    let queue = channel.queue_declare("".into(), exclusive(), FieldTable::default()).await.unwrap();
    let exchange = world.named(&format!("resets.parked.{tier}"));
    for key in ["main", "main.bulk"] {
        let options = QueueBindOptions::default();
        let bound = channel.queue_bind(
            queue.name().clone(),
            exchange.as_str().into(),
            key.into(),
            options,
            FieldTable::default(),
        );
        bound.await.unwrap();
    }
    Tap::of(&channel, queue.name().as_str()).await
}

/// The next `n` outcomes, each a success after so many attempts.
async fn succeed(outcomes: &mut Tap, n: usize, attempts: u32) {
    for (job, record) in by_job(&outcomes.take(n).await) {
        let said = (&record["outcome"], &record["attempts"]);
        assert_eq!(said, (&json!("succeeded"), &json!(attempts)), "{job}: {record}");
    }
}

/// A hundred jobs in the interactive lane: how much longer than the limiter wants it took from the first password to the last.
async fn pace_of_a_hundred(world: &World, per_minute: u32) -> f64 {
    send(world, (0..100).map(|n| ("main", format!("quick-{n}"), BasicProperties::default()))).await;
    let set_at = eventually("a hundred are set", async || {
        let user = |n| world.main().user(&format!("quick-{n}"))?.last_set_at?.parse::<Timestamp>().ok();
        (0..100).map(user).collect::<Option<BTreeSet<_>>>()
    })
    .await;
    let took = set_at.last().unwrap().duration_since(*set_at.first().unwrap()).as_secs_f64();
    took / (99.0 * 60.0 / f64::from(per_minute))
}

/// So many pauses, one after the other.
const PAUSES: u32 = 40;

/// Refuses every other call, until it has refused forty.
fn every_other_is_throttled(_asked: &Asked) -> Response {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    if call % 2 == 1 && call < 2 * PAUSES {
        return (axum::http::StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")]).into_response();
    }
    axum::http::StatusCode::NO_CONTENT.into_response()
}

/// Fails the first call, which may have set the password all the same, and asks for a pause at the second.
fn unknown_and_then_a_pause(_asked: &Asked) -> Response {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    match CALLS.fetch_add(1, Ordering::Relaxed) {
        0 => axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        1 => (axum::http::StatusCode::TOO_MANY_REQUESTS, [("retry-after", "3")]).into_response(),
        _ => axum::http::StatusCode::NO_CONTENT.into_response(),
    }
}

/// What `/readyz` says of an org, once it is stopped.
async fn stopped(world: &World, org: &str) -> String {
    eventually(&format!("{org} is stopped"), async || {
        let (status, said) = world.readyz().await;
        let row = &said["orgs"][org];
        (status == 503 && row["role"] == "halted").then(|| row["reason"].as_str().expect("it says why").to_owned())
    })
    .await
}

const ALARM: &str = "ctl set_vm_memory_high_watermark 0";
const NO_ALARM: &str = "ctl set_vm_memory_high_watermark absolute 1GB";
/// How long after the last sign of life of the publishing connection a call may begin, and as much again for a busy machine.
const PULSE: Duration = Duration::from_secs(10);

/// Whether anybody consumes a queue.
async fn is_consumed(world: &World, queue: &str) -> bool {
    world.counts(queue).await.unwrap().1 > 0
}

/// 200 jobs, and an alarm once some are done. No call begins after the heartbeat's limit, and all is given back.
async fn into_an_alarm(node: &Node) -> World {
    let plan = Plan::at(node.url()).org("main", slow(), "rate_per_minute = 600").config("[amqp]\nprefetch = 16");
    let world = plan.holding(Duration::from_secs(5), FAR).settled().await;
    send(&world, in_both_lanes("u", 200)).await;
    eventually("20 are set", async || (world.main().stats().password_sets >= 20).then_some(())).await;
    node.tell(ALARM).await;
    let begun = Instant::now();
    let (mut calls, mut last) = (0, begun);
    eventually("what is in flight goes back", async || {
        let now = world.main().stats().calls;
        if now > calls {
            (calls, last) = (now, Instant::now());
        }
        (!is_consumed(&world, LANES[0]).await && !is_consumed(&world, LANES[1]).await).then_some(())
    })
    .await;
    let (quiet, done) = (last - begun, world.main().stats().calls);
    eprintln!(
        "an alarm after {done} calls: the last one began {quiet:?} after it, all was given back {:?} after it",
        begun.elapsed()
    );
    assert!(quiet < PULSE && done < 200, "{quiet:?}, {done}");
    world
}

/// Nobody is lost, and nobody was reset twice.
async fn all_are_reset_once(node: &Node, mut world: World, users: usize) {
    world.connection = connect(node.url()).await;
    let records = world.recorded(users).await;
    assert!(records.iter().all(|record| ["main.succeeded", "main.duplicate"].contains(&record.routing_key.as_str())));
    lie_ready(&world, &LANES, 0).await;
    world.stop_worker().await.unwrap();
    assert_eq!((ready_in(&world, &LANES).await, world.depth("resets.main.dead").await), (0, 0));
    let mails = world.drained("emails").await;
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    let told: BTreeSet<&str> = mails.iter().map(|mail| mail.id()).collect();
    let stats = world.main().stats();
    eprintln!("{users} users: {} resets, {} mails", stats.password_sets, mails.len());
    assert_eq!((told.len(), stats.password_sets, stats.sets_by_user_max), (users, users as u64, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_jobs_that_wait_five_minutes_do_not_slow_a_hundred_that_do_not() {
    let world = Plan::new().org("main", unlimited(), "rate_per_minute = 600").start().await;
    let late = in_time(Duration::from_secs(300));
    let waiting = in_both_lanes("late", 500);
    send(
        &world,
        waiting.map(|(key, user, properties)| (key, user, with_header(properties, "not-before", late.clone()))),
    )
    .await;
    let slower = pace_of_a_hundred(&world, 600).await;
    eprintln!("500 wait for their not-before: 100 took {slower:.3} of the limiter's own time");
    assert!(slower < 1.2, "{slower} of the limiter's own time");
    lie_ready(&world, &["resets.main.parked.2m"], 500).await;
    assert_eq!(world.main().stats().calls, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_jobs_whose_own_backoff_is_minutes_do_not_slow_a_hundred_that_work() {
    let settings = sim::Settings { faults: vec![fault("status=409,next=500")], ..unlimited() };
    let world = Plan::new()
        .config("[retry]\nbase = \"5m\"\nmax = \"5m\"\ninline_max = \"1s\"")
        .org("main", settings, "rate_per_minute = 900")
        .start()
        .await;
    send(&world, (0..500).map(|n| ("main.bulk", format!("late-{n}"), BasicProperties::default()))).await;
    eventually("each was tried", async || (world.main().stats().calls >= 500).then_some(())).await;
    let slower = pace_of_a_hundred(&world, 900).await;
    eprintln!(
        "500 wait for their next try: 100 took {slower:.3} of the limiter's own time, beside a lane that has a tenth"
    );
    assert!(slower < 1.2 / 0.9, "{slower} of the limiter's own time");
    // What is not parked was tried again since, or waits for at most a second.
    eventually("the others wait at the broker", async || {
        let done = u32::try_from(world.main().stats().password_sets).unwrap();
        (ready_in(&world, &RUNGS).await + done >= 590).then_some(())
    })
    .await;
    assert_eq!(world.depth("resets.main.dead").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_far_not_before_waits_in_the_largest_tier_that_fits_with_all_the_job_came_with() {
    let mut world = Plan::new().start().await;
    let came = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_correlation_id("c-1".into())
        .with_reply_to("answers".into())
        .with_timestamp(1_700_000_000)
        .with_type("reset".into())
        .with_app_id("hr".into())
        .with_priority(4)
        .with_expiration("3600000".into());
    let came = with_header(came, "batch", text("b-1"));
    let came = with_header(came, "traceparent", text("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    let came = with_header(came, "x-death", text("of a former life"));
    for (seconds, name) in [(3600, "long"), (200, "middle"), (60, "short")] {
        let jobs = in_both_lanes(name, 2).map(|(key, user, _)| {
            (key, user, with_header(came.clone(), "not-before", in_time(Duration::from_secs(seconds))))
        });
        send(&world, jobs).await;
    }
    for tier in RUNGS {
        lie_ready(&world, &[tier], 2).await;
    }
    world.stop_worker().await.unwrap();
    for (tier, name) in RUNGS.into_iter().zip(["short", "middle", "long"]) {
        for (id, parked) in by_id(world.drained(tier).await) {
            let n = usize::from(id.ends_with('1'));
            assert_eq!((parked.routing_key.as_str(), parked.id()), (["main", "main.bulk"][n], &*format!("{name}-{n}")));
            assert_eq!(parked.json(), reset_body(&format!("{name}-{n}")));
            let expected = came.clone().with_message_id(parked.id().into()).with_delivery_mode(2);
            let less = |properties: &BasicProperties| properties.clone().with_headers(FieldTable::default());
            // A message of its own that expired would be lost with its wish.
            assert_eq!(parked.properties.expiration(), &None);
            assert_eq!(less(&parked.properties).with_expiration("3600000".into()), less(&expected));
            let headers = parked.properties.headers().clone().unwrap_or_default();
            // The broker's own count, of this very queue, is there from the first delivery on where a queue has a TTL (3.10).
            assert!(parked.header("x-delivery-count").is_none_or(|count| count == "0"), "{headers:?}");
            let names = headers.inner().keys().map(lapin::types::ShortString::as_str);
            let names: Vec<&str> = names.filter(|name| *name != "x-delivery-count").collect();
            assert_eq!(names, ["batch", "not-before", "resetd-retry", "resetd-tried", "traceparent"]);
            assert_eq!(parked.header("resetd-retry").unwrap(), r#"{"v":1}"#);
            assert_eq!(parked.header("resetd-tried").unwrap(), "0");
        }
    }
    assert_eq!(ready_in(&world, &LANES).await, 0);
}

/// It takes 32 s: the shortest tier twice, at its real length, and the rest in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_job_comes_back_to_its_own_lane_and_is_parked_again_for_the_remainder() {
    let world = Plan::new().start().await;
    let (mut outcomes, mut parked) = (world.outcomes().await, copies(&world, "15s").await);
    let start = Timestamp::now() + SignedDuration::from_secs(32);
    let moment = text(&start.to_string());
    send(
        &world,
        in_both_lanes("late", 2).map(|(key, user, from)| (key, user, with_header(from, "not-before", moment.clone()))),
    )
    .await;
    let mut seen: Vec<String> =
        parked.take(4).await.iter().map(|copy| format!("{} {}", copy.id(), copy.routing_key)).collect();
    seen.sort();
    assert_eq!(seen, ["late-0 main", "late-0 main", "late-1 main.bulk", "late-1 main.bulk"]);
    let records = by_job(&outcomes.take(2).await);
    for (job, lane) in [("late-0", "interactive"), ("late-1", "bulk")] {
        let record = &records[job];
        let said = (&record["outcome"], &record["lane"], &record["attempts"]);
        assert_eq!(said, (&json!("succeeded"), &json!(lane), &json!(1)), "{record}");
        let set_at: Timestamp = world.main().user(job).unwrap().last_set_at.unwrap().parse().unwrap();
        assert!(set_at >= start, "{job}: set at {set_at}, not before {start}");
    }
    assert_eq!(world.main().stats().calls, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_after_is_looked_at_when_a_job_comes_back_and_when_a_pause_ends() {
    let world = Plan::new().delaying([3, 120, 600].map(Duration::from_secs)).start().await;
    let mut outcomes = world.outcomes().await;
    let early = with_header(BasicProperties::default(), "not-before", in_time(Duration::from_secs(16)));
    let both = with_header(early, "not-after", in_time(Duration::from_secs(5)));
    send(&world, [("main.bulk", "parked".to_owned(), both)]).await;
    lie_ready(&world, &["resets.main.parked.15s"], 1).await;
    world.main().add_fault(fault("status=429,retry_after=3,next=1"));
    world.reset("main", "first", "first").await;
    eventually("all calls pause", async || (world.main().stats().calls == 1).then_some(())).await;
    let brief = with_header(BasicProperties::default(), "not-after", in_time(Duration::from_secs(1)));
    send(&world, [("main", "paused".to_owned(), brief)]).await;
    let records = by_job(&outcomes.take(3).await);
    assert_eq!(records["first"]["outcome"], "succeeded");
    for job in ["paused", "parked"] {
        let said = (&records[job]["outcome"], &records[job]["attempts"], &records[job]["passwordSet"]);
        assert_eq!(said, (&json!("expired"), &json!(0), &json!("no")), "{job}");
    }
    assert_eq!(world.main().stats().calls, 2, "only for the first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_parked_between_two_tries_keeps_its_count() {
    let faults = vec![fault("status=409,next=1,user=once"), fault("status=409,always,user=never")];
    let settings = sim::Settings { faults, ..unlimited() };
    let world = Plan::new()
        .config("[retry]\nbase = \"2s\"\nmax = \"2s\"\ninline_max = \"1ms\"\nmax_attempts = 2")
        .delaying([2, 120, 600].map(Duration::from_secs))
        .org("main", settings, "")
        .start()
        .await;
    let (mut outcomes, mut parked) = (world.outcomes().await, copies(&world, "15s").await);
    world.reset("main", "once", "once").await;
    world.reset("main.bulk", "never", "never").await;
    for copy in parked.take(2).await {
        assert_eq!(copy.header("resetd-tried").unwrap(), "1", "{}", copy.id());
        assert!(copy.header("resetd-until").is_some(), "{}", copy.id());
    }
    let records = by_job(&outcomes.take(2).await);
    let said = |job: &str| json!([records[job]["outcome"], records[job]["reason"], records[job]["attempts"]]);
    assert_eq!(said("once"), json!(["succeeded", null, 2]));
    assert_eq!(said("never"), json!(["failed", "retries_exhausted", 2]));
    assert_eq!(world.main().stats().calls, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_delivery_is_held_through_an_outage_whose_end_always_seems_near() {
    let hold = Duration::from_secs(3);
    let settings = sim::Settings { faults: vec![fault("target=token,status=500,always")], ..unlimited() };
    let world = Plan::new().org("main", settings, "").holding(hold, FAR).start().await;
    let mut outcomes = world.outcomes().await;
    send(&world, in_both_lanes("u", 30)).await;
    lie_ready(&world, &LANES, 0).await;
    let taken = Instant::now();
    let anywhere = [LANES.as_slice(), &RUNGS].concat();
    lie_ready(&world, &anywhere, 30).await;
    let held = taken.elapsed();
    eprintln!("no token: all 30 were given back after {held:?}");
    assert!(held < hold + Duration::from_secs(5), "{held:?}");
    world.main().clear_faults();
    succeed(&mut outcomes, 30, 1).await;
    assert_eq!((world.main().stats().password_sets, world.depth("resets.main.dead").await), (30, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_delivery_is_held_longer_because_it_waits_to_run_alone() {
    let hold = Duration::from_secs(8);
    let faults = ["other", "alone"].map(|user| fault(&format!("status=429,retry_after=6,next=1,user={user}")));
    let settings = sim::Settings { faults: faults.into(), ..unlimited() };
    let mut world = Plan::new().org("main", settings, "").holding(hold, FAR).start().await;
    world.stop_worker().await.unwrap();
    let mut outcomes = world.outcomes().await;
    let other = ("main", "other".to_owned(), BasicProperties::default());
    send(&world, [other, ("main.bulk", "alone".to_owned(), delivered(BasicProperties::default(), 3))]).await;
    world.start_worker().await;
    lie_ready(&world, &LANES, 0).await;
    let taken = Instant::now();
    lie_ready(&world, &LANES, 1).await;
    let held = taken.elapsed();
    eprintln!("one that waited 6 s to run alone, and then for a pause, was given back after {held:?}");
    assert!(held < hold + Duration::from_secs(2), "{held:?}");
    succeed(&mut outcomes, 2, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_delivery_is_held_through_a_pause_that_is_long() {
    let world = Plan::new().holding(FAR, Duration::from_secs(2)).start().await;
    world.main().add_fault(fault("status=429,retry_after=12,next=1"));
    let mut outcomes = world.outcomes().await;
    world.reset("main", "first", "first").await;
    eventually("all calls pause", async || (world.main().stats().calls == 1).then_some(())).await;
    lie_ready(&world, &["resets.main"], 1).await;
    send(&world, in_both_lanes("u", 30)).await;
    assert_eq!(ready_in(&world, &LANES).await, 31, "nothing is taken while all pause");
    assert_eq!(world.main().stats().calls, 1);
    succeed(&mut outcomes, 31, 1).await;
    assert_eq!(world.main().stats().calls, 32);
}

/// It takes 8 s or 12: what was held for its time spends 3 s in a parked queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_delivery_is_held_though_the_rate_is_slow() {
    let hold = Duration::from_secs(3);
    let plan = Plan::new().org("main", unlimited(), "rate_per_minute = 60").holding(hold, FAR);
    let world = plan.delaying([3, 120, 600].map(Duration::from_secs)).start().await;
    let (mut outcomes, mut parked) = (world.outcomes().await, copies(&world, "15s").await);
    send(&world, in_both_lanes("u", 7)).await;
    lie_ready(&world, &LANES, 0).await;
    let taken = Instant::now();
    let copy = parked.next().await;
    let held = taken.elapsed();
    eprintln!("one call a second: the first was parked after {held:?}");
    assert!(held < hold + Duration::from_secs(3), "{held:?}");
    assert_eq!((copy.header("resetd-tried").unwrap(), copy.header("x-delivery-count")), ("0".into(), None));
    succeed(&mut outcomes, 7, 1).await;
    assert_eq!(ready_in(&world, &LANES).await, 0);
    assert_eq!((world.main().stats().calls, world.depth("resets.main.dead").await), (7, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_was_returned_often_is_published_again_and_comes_no_nearer_to_its_limit() {
    let settings = sim::Settings { faults: vec![fault("status=429,retry_after=12,always")], ..unlimited() };
    let plan = Plan::new().org("main", settings, "").holding(Duration::from_secs(2), FAR);
    let mut world = plan.start().await;
    world.stop_worker().await.unwrap();
    let (mut outcomes, mut parked) = (world.outcomes().await, copies(&world, "15s").await);
    let returned = |n| delivered(BasicProperties::default(), n);
    send(&world, [("main", "nine".to_owned(), returned(9)), ("main.bulk", "often".to_owned(), returned(14))]).await;
    world.start_worker().await;
    let copy = parked.next().await;
    assert_eq!(copy.id(), "often");
    assert_eq!((copy.header("resetd-deliveries").unwrap(), copy.header("x-delivery-count")), ("10".into(), None));
    lie_ready(&world, &["resets.main", "resets.main.parked.15s"], 2).await;
    assert_eq!((ready_in(&world, &LANES).await, world.depth("resets.main.dead").await), (1, 0));
    world.main().clear_faults();
    succeed(&mut outcomes, 2, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_run_alone_between_others_cost_nobody_a_delivery() {
    let mut world = Plan::new().org("main", slow(), "").start().await;
    world.stop_worker().await.unwrap();
    let mut outcomes = world.outcomes().await;
    // Every other one was returned so often that three times more would be its end.
    send(
        &world,
        (0..60).map(|n| {
            (
                if n < 40 { "main" } else { "main.bulk" },
                format!("u-{n}"),
                if n % 2 == 0 { BasicProperties::default() } else { delivered(BasicProperties::default(), 17) },
            )
        }),
    )
    .await;
    world.start_worker().await;
    succeed(&mut outcomes, 60, 1).await;
    assert_eq!((world.main().stats().calls, world.depth("resets.main.dead").await), (60, 0));
}

/// It takes a quarter of a minute: each second that the org asks for is cut to 300 ms, which is long here. (The test after
/// the next waits the whole seconds.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_long_pauses_without_a_call_between_return_a_job_once_and_bring_none_to_its_limit() {
    let settings = sim::Settings { faults: vec![fault("status=429,retry_after=1,always")], ..unlimited() };
    let plan = Plan::new().config("[retry]\nafter_max = \"300ms\"").org("main", settings, "");
    let mut world = plan.holding(FAR, Duration::from_millis(100)).start().await;
    send(&world, in_both_lanes("u", 20)).await;
    eventually("forty calls were refused", async || (world.main().stats().calls >= u64::from(PAUSES)).then_some(()))
        .await;
    world.stop_worker().await.unwrap();
    lie_ready(&world, &LANES, 20).await;
    let mut all = BTreeSet::new();
    let (interactive, bulk) = (world.drained("resets.main").await, world.drained("resets.main.bulk").await);
    for job in interactive.into_iter().chain(bulk) {
        let returned: u32 = job.header("x-delivery-count").map_or(0, |count| count.parse().unwrap());
        assert!(returned <= 2, "{}: returned {returned} times", job.id());
        assert_eq!(job.header("resetd-tried").unwrap_or("0".into()), "0");
        all.insert(job.id().to_owned());
    }
    assert_eq!((all.len(), world.depth("resets.main.dead").await), (20, 0));
    assert_eq!(world.main().stats().password_sets, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_given_back_after_a_call_that_may_have_set_its_password_sends_the_same_one() {
    let org = Scribe::answering(unknown_and_then_a_pause).await;
    let world = org.start(Plan::new().holding(FAR, Duration::from_secs(1))).await;
    let mut outcomes = world.outcomes().await;
    world.reset("main", "u-1", "job-1").await;
    lie_ready(&world, &["resets.main"], 1).await;
    let record = outcomes.next().await.json();
    assert_eq!((&record["outcome"], &record["attempts"]), (&json!("succeeded"), &json!(2)), "{record}");
    let patches = org.asked().into_iter().filter(|asked| asked.line.starts_with("PATCH"));
    let passwords: Vec<Value> = patches
        .map(|asked| serde_json::from_slice::<Value>(&asked.body).unwrap()["Operations"][0]["value"].clone())
        .collect();
    assert!(passwords[0].is_string());
    assert_eq!(passwords, vec![passwords[0].clone(); 3]);
}

/// It takes a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_long_pauses_with_a_call_between_bring_no_job_to_its_limit() {
    let org = Scribe::answering(every_other_is_throttled).await;
    let plan = Plan::new().org("main", unlimited(), "rate_per_minute = 2400").holding(FAR, Duration::from_millis(300));
    let world = org.start(plan).await;
    let mut outcomes = world.outcomes().await;
    send(&world, in_both_lanes("u", 80)).await;
    succeed(&mut outcomes, 80, 1).await;
    let calls = org.asked().iter().filter(|asked| asked.line.starts_with("PATCH")).count();
    assert_eq!(calls, 80 + PAUSES as usize);
    assert_eq!((world.depth("resets.main.dead").await, ready_in(&world, &LANES).await), (0, 0));
    assert_eq!(world.drained("emails").await.len(), 80);
}

/// It takes 12 s: the second try after a stop comes 8 s after the first. (`answers` has one that waits the real 15 s.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_is_stopped_gives_its_deliveries_back_and_goes_on_by_itself_when_it_is_resolved() {
    let refused = json!({"error": "invalid_client", "description": "client not found: demo"});
    let stops: [(&str, Value, &[&str]); 3] = [
        ("refused", json!({"target": "token", "status": 401, "always": true, "body": refused}), &["invalid_client"]),
        ("revoked", json!({"status": 401, "always": true}), &["a fresh token", "scim_url and token_url"]),
        (
            "forbidden",
            json!({"status": 403, "code": "missing.permissions", "always": true}),
            &["missing.permissions", "directory:user:setPassword"],
        ),
    ];
    let mut plan = Plan::new().holding(FAR, Duration::from_secs(2)).halted_for(Duration::from_secs(4));
    for (org, fault, _) in &stops {
        let faults = vec![serde_json::from_value(fault.clone()).unwrap()];
        plan = plan.org(org, sim::Settings { faults, ..unlimited() }, "");
    }
    let world = plan.start().await;
    let mut outcomes = world.outcomes().await;
    for (org, ..) in &stops {
        world.reset_many(org, 20).await;
    }
    let tried = |org: &str| world.sim(org).stats().calls + world.sim(org).stats().token_requests;
    for (org, _, parts) in &stops {
        says(&stopped(&world, org).await, parts);
        let lanes = [format!("resets.{org}"), format!("resets.{org}.bulk")];
        let lanes = [lanes[0].as_str(), &lanes[1]];
        lie_ready(&world, &lanes, 20).await;
    }
    let before = stops.each_ref().map(|(org, ..)| tried(org));
    for ((org, ..), before) in stops.iter().zip(before) {
        eventually(&format!("{org} tries again by itself"), async || (tried(org) > before).then_some(())).await;
        says(&stopped(&world, org).await, &[]);
        world.sim(org).clear_faults();
    }
    succeed(&mut outcomes, 60, 1).await;
    world.ready().await;
    for (org, ..) in &stops {
        assert_eq!(world.depth(&format!("resets.{org}.dead")).await, 0);
        assert_eq!(world.sim(org).stats().password_sets, 20);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_stops_all_calls_and_all_goes_on_when_it_ends_and_nobody_is_reset_twice() {
    let node = Node::lent().await;
    let world = into_an_alarm(&node).await;
    let calls = world.main().stats().calls;
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(3) {
        assert_eq!(world.main().stats().calls, calls, "no call begins during an alarm");
        sleep(Duration::from_millis(50)).await;
    }
    node.tell(NO_ALARM).await;
    all_are_reset_once(&node, world, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_that_no_job_could_tell_of_lets_no_call_begin() {
    let node = Node::lent().await;
    let world = Plan::at(node.url()).config("[retry]\ninline_max = \"30s\"").settled().await;
    let start = Instant::now() + Duration::from_secs(20);
    let wish = in_time(Duration::from_secs(20));
    let jobs = in_both_lanes("u", 20);
    send(&world, jobs.map(|(key, user, from)| (key, user, with_header(from, "not-before", wish.clone())))).await;
    lie_ready(&world, &LANES, 0).await;
    // Nothing is published from here on but the heartbeat.
    node.tell(ALARM).await;
    assert!(Instant::now() < start, "the machine is too busy for this test");
    while Instant::now() < start + Duration::from_secs(3) {
        assert_eq!(world.main().stats().calls, 0, "nobody is reset whose mail cannot be sent");
        sleep(Duration::from_millis(50)).await;
    }
    node.tell(NO_ALARM).await;
    all_are_reset_once(&node, world, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_in_which_the_broker_is_killed_loses_nobody_and_resets_nobody_twice() {
    let node = Node::lent().await;
    let plan = Plan::at(node.url()).org("main", slow(), "rate_per_minute = 600");
    let world = plan.settled().await;
    send(&world, in_both_lanes("u", 200)).await;
    eventually("20 are set", async || (world.main().stats().password_sets >= 20).then_some(())).await;
    node.tell(ALARM).await;
    // Its confirms are waited for when the connection is lost.
    node.end("kill").await;
    node.start().await;
    all_are_reset_once(&node, world, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_does_not_keep_a_worker_with_nothing_in_hand_from_ending() {
    let node = Node::lent().await;
    let mut world = Plan::at(node.url()).settled().await;
    node.tell(ALARM).await;
    let asked = Instant::now();
    world.stop_worker().await.unwrap();
    let took = asked.elapsed();
    node.tell(NO_ALARM).await;
    eprintln!("an idle worker ended {took:?} after it was asked to, under an alarm");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_ends_while_no_call_can_be_made_for_long_gives_its_jobs_back_at_once() {
    let late = fault("status=500,retry_after=600,next=1,user=late");
    let settings = sim::Settings { faults: vec![late], ..unlimited() };
    let plan = Plan::new().config("[shutdown]\ngrace = \"40s\"").org("main", settings, "");
    let mut world = plan.start().await;
    // One waits for its own next try, and has to stay in memory for that; then all calls pause.
    world.reset("main", "late", "late").await;
    eventually("it waits", async || (world.main().stats().calls == 1).then_some(())).await;
    world.main().add_fault(fault("status=429,retry_after=43,next=1"));
    send(&world, in_both_lanes("u", 40)).await;
    eventually("all calls pause", async || (world.main().stats().calls >= 2).then_some(())).await;
    lie_ready(&world, &LANES, 0).await;
    let asked = Instant::now();
    world.stop_worker().await.unwrap();
    let (took, done) = (asked.elapsed(), u32::try_from(world.main().stats().password_sets).unwrap());
    eprintln!("{} jobs were given back {took:?} after the worker was asked to end", 41 - done);
    assert!(took < Duration::from_secs(5), "{took:?}");
    lie_ready(&world, &LANES, 41 - done).await;
}
