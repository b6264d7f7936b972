//! What is known of a password that may be set: it is forgotten by nobody who goes on with the job; what an org's minimum age and its
//! history of passwords say is read for what it says, and for no more.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use lapin::BasicProperties;
use serde_json::{Value, json};
use sim::Settings;

use crate::delivery::waiting::copies;
use crate::operator::dead::dead;
use crate::operator::process::Process;
use crate::world::{
    Plan, Taken, Tap, World, by_id, delivered, eventually, fault, locked_out, named, reset_body, text, unlimited,
    with_header,
};

/// The org answers so to this user's next call.
fn refuses(world: &World, user: &str, detail: &str) {
    let body = json!({"schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"], "status": "400", "detail": detail});
    let fault = json!({"status": 400, "body": body, "user": user, "next": 1});
    world.main().add_fault(serde_json::from_value(fault).unwrap());
}

/// How a job ended: outcome, reason, status, attempts and what is known of its password.
fn said(record: &Value) -> Value {
    json!([record["outcome"], record["reason"], record["status"], record["attempts"], record["passwordSet"]])
}

async fn ends(outcomes: &mut Tap, job: &str) -> Value {
    let record = outcomes.next().await.json();
    assert_eq!(record["jobId"], json!(job), "{record}");
    record
}

async fn calls(world: &World, n: u64) {
    eventually(&format!("{n} calls"), async || (world.main().stats().calls >= n).then_some(())).await;
}

/// Nobody who got a mail is locked out. The mails, by their jobs.
async fn mails(world: &World) -> BTreeMap<String, Taken> {
    let mails = world.drained("emails").await;
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    let of = |mail: &Taken| mail.properties.correlation_id().as_ref().unwrap().to_string();
    mails.into_iter().map(|mail| (of(&mail), mail)).collect()
}

// What was unknown stays so.

/// A world in which a job ran alone, its try may have set the password, and it lies in its lane again; without a worker.
async fn isolated_and_unknown() -> World {
    let settings = Settings { faults: vec![fault("status=500,apply,always,user=u-1")], ..unlimited() };
    let config = "[retry]\nbase = \"2s\"\nmax = \"2s\"\nmax_attempts = 50\n[shutdown]\ngrace = \"7s\"";
    let mut world = Plan::new().config(config).org("main", settings, "request_timeout = \"2s\"").start().await;
    let body = reset_body("u-1").to_string();
    world.publish("main", body.as_bytes(), delivered(named("job-1"), 3)).await;
    calls(&world, 1).await;
    world.stop_worker().await.unwrap();
    // What a closed channel held comes back a moment later.
    eventually("the job is back", async || (world.depth("resets.main").await == 1).then_some(())).await;
    world.main().clear_faults();
    world
}

/// An org whose passwords must stay for so long, a worker that waits in memory for a second at most, and short delay queues.
fn aging(min_age: Duration) -> Plan {
    let settings = Settings { min_age, history: 10, ..unlimited() };
    let plan = Plan::new().config("[retry]\ninline_max = \"1s\"").org("main", settings, "");
    plan.delaying([2, 120, 600].map(Duration::from_secs))
}

fn set_at(world: &World, user: &str) -> Timestamp {
    world.main().user(user).unwrap().last_set_at.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_ran_alone_and_goes_on_in_another_process_still_says_unknown() {
    let mut world = isolated_and_unknown().await;
    world.main().add_fault(fault("status=404,next=1"));
    let mut outcomes = world.outcomes().await;
    world.start_worker().await;
    let record = ends(&mut outcomes, "job-1").await;
    assert_eq!((&record["reason"], &record["passwordSet"]), (&json!("not_found"), &json!("unknown")), "{record}");
    let letters = by_id(world.drained("resets.main.dead").await);
    assert_eq!(letters["job-1"].header("resetd-password-set").unwrap(), "unknown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_letter_says_unknown_where_the_letter_did_and_only_there() {
    let faults = vec![fault("status=500,next=2,user=u-1"), fault("status=404,next=1,user=u-2")];
    let world = Plan::new()
        .config("[retry]\nmax_attempts = 2")
        .org("main", Settings { faults, ..unlimited() }, "")
        .start()
        .await;
    let mut outcomes = world.outcomes().await;
    for (user, job, set) in [("u-1", "job-1", "unknown"), ("u-2", "job-2", "no")] {
        world.reset("main", user, job).await;
        assert_eq!(ends(&mut outcomes, job).await["passwordSet"], json!(set));
        world.main().add_fault(fault(&format!("status=404,next=2,user={user}")));
        for turn in ["the letter", "the letter of the letter"] {
            let (code, out, err) = dead(&world, &["replay", "--yes", job]).end().await;
            assert_eq!(code, 0, "{out}{err}");
            let record = ends(&mut outcomes, job).await;
            assert_eq!(said(&record), json!(["failed", "not_found", 404, 1, set]), "{turn}: {record}");
        }
    }
}

// The minimum age.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_waits_at_the_broker_until_the_password_may_be_changed_and_2_s() {
    let age = Duration::from_secs(6);
    let world = aging(age).start().await;
    let (mut outcomes, mut parked) = (world.outcomes().await, copies(&world, "15s").await);
    world.reset("main", "u-1", "first").await;
    ends(&mut outcomes, "first").await;
    let may_change = set_at(&world, "u-1") + SignedDuration::try_from(age).unwrap();
    world.reset("main", "u-1", "second").await;
    let copy = parked.next().await;
    assert_eq!((copy.id(), copy.header("resetd-tried").unwrap().as_str()), ("second", "0"));
    assert_eq!(copy.header("resetd-password-set"), None);
    // Nobody else waits for that.
    world.reset("main", "u-2", "other").await;
    ends(&mut outcomes, "other").await;
    let record = ends(&mut outcomes, "second").await;
    assert_eq!(said(&record), json!(["succeeded", null, 200, 1, "yes"]));
    let waited = set_at(&world, "u-1").duration_since(may_change).as_secs_f64();
    // It comes back once its queue lets it go.
    assert!((1.9..6.0).contains(&waited), "set {waited} s after it could be");
    assert_eq!(world.main().stats().calls, 4);
    assert_eq!(mails(&world).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_for_the_minimum_age_that_is_too_long_is_a_dead_letter_with_the_moment() {
    let world = Plan::new().start().await;
    let mut outcomes = world.outcomes().await;
    let from_now = |minutes| (Timestamp::now() + SignedDuration::from_mins(minutes)).to_string();
    let (tomorrow, soon, past) = (from_now(24 * 60 + 5), from_now(5), from_now(-5));
    let too_soon = |set: &str, attempts: u32| json!(["failed", "too_soon", 400, attempts, set]);
    for (job, until, properties, expected) in [
        ("tomorrow", &tomorrow, named("tomorrow"), too_soon("no", 1)),
        ("late", &soon, with_header(named("late"), "not-after", text(&from_now(4))), too_soon("no", 1)),
        ("past", &past, named("past"), json!(["failed", "rejected", 400, 1, "no"])),
    ] {
        refuses(&world, job, &format!("The password cannot be changed until {until}."));
        world.publish("main", reset_body(job).to_string().as_bytes(), properties).await;
        let record = ends(&mut outcomes, job).await;
        assert_eq!(said(&record), expected, "{record}");
        assert!(record["detail"].as_str().unwrap().contains(until.as_str()), "{record}");
    }
    world.main().add_fault(fault("status=500,next=1,user=unknown"));
    refuses(&world, "unknown", &format!("Password cannot be changed until {tomorrow}"));
    world.reset("main", "unknown", "unknown").await;
    assert_eq!(said(&ends(&mut outcomes, "unknown").await), too_soon("unknown", 2));
    let letters = by_id(world.drained("resets.main.dead").await);
    assert_eq!(letters["tomorrow"].header("resetd-reason").unwrap(), "too_soon");
    assert!(letters["tomorrow"].header("resetd-detail").unwrap().contains(tomorrow.as_str()));
    assert!(mails(&world).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_first_try_was_carried_out_unseen_gets_a_new_password_when_it_may() {
    let world = aging(Duration::from_secs(6)).start().await;
    let (mut outcomes, mut parked) = (world.outcomes().await, copies(&world, "15s").await);
    world.main().add_fault(fault("status=500,apply,next=1,user=u-1"));
    world.reset("main", "u-1", "job-1").await;
    let copy = parked.next().await;
    assert_eq!(copy.header("resetd-password-set").unwrap(), "unknown");
    // The same password again would be refused, as used before.
    let record = ends(&mut outcomes, "job-1").await;
    assert_eq!(said(&record), json!(["succeeded", null, 200, 2, "yes"]));
    assert_eq!(world.main().user("u-1").unwrap().password_sets, 2);
    assert_eq!(mails(&world).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_waits_for_the_minimum_age_and_goes_on_in_another_process_still_says_unknown() {
    let mut world = aging(Duration::from_secs(20)).start().await;
    let mut parked = copies(&world, "15s").await;
    world.main().add_fault(fault("status=500,apply,next=1,user=u-1"));
    world.reset("main", "u-1", "job-1").await;
    parked.next().await;
    world.stop_worker().await.unwrap();
    world.main().add_fault(fault("status=404,always"));
    let mut outcomes = world.outcomes().await;
    world.start_worker().await;
    assert_eq!(said(&ends(&mut outcomes, "job-1").await), json!(["failed", "not_found", 404, 2, "unknown"]));
}

// The history.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_is_in_the_history_after_a_try_that_may_have_set_it_is_set() {
    let world =
        Plan::new().org("main", Settings { history: 5, ..unlimited() }, "request_timeout = \"1s\"").start().await;
    let mut outcomes = world.outcomes().await;
    for (user, what) in [("u-1", "status=500,apply"), ("u-2", "cut,apply"), ("u-3", "hang=5s,apply")] {
        world.main().add_fault(fault(&format!("{what},next=1,user={user}")));
        world.reset("main", user, user).await;
        let record = ends(&mut outcomes, user).await;
        assert_eq!(said(&record), json!(["succeeded", null, 400, 2, "yes"]), "{what}: {record}");
        assert_eq!(world.main().user(user).unwrap().password_sets, 1);
    }
    assert_eq!((mails(&world).await.len(), world.depth("resets.main.dead").await), (3, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_that_lists_several_rules_or_comes_first_proves_nothing() {
    let world = Plan::new().start().await;
    let mut outcomes = world.outcomes().await;
    let all = "Password must have at least 8 characters and must not have been used before";
    let alone = "The password was used before";
    for (user, first, text, expected) in [
        ("several", Some("status=500,next=1"), all, json!(["failed", "rejected", 400, 2, "unknown"])),
        ("first", None, alone, json!(["failed", "rejected", 400, 1, "no"])),
        ("not-set", Some("status=409,next=1"), alone, json!(["failed", "rejected", 400, 2, "no"])),
    ] {
        if let Some(first) = first {
            world.main().add_fault(fault(&format!("{first},user={user}")));
        }
        refuses(&world, user, text);
        world.reset("main", user, user).await;
        let record = ends(&mut outcomes, user).await;
        assert_eq!(said(&record), expected, "{record}");
    }
    assert!(mails(&world).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_another_process_s_password_proves_nothing() {
    let mut world = isolated_and_unknown().await;
    refuses(&world, "u-1", "The password was used before");
    let mut outcomes = world.outcomes().await;
    world.start_worker().await;
    let record = ends(&mut outcomes, "job-1").await;
    assert_eq!((&record["reason"], &record["passwordSet"]), (&json!("rejected"), &json!("unknown")), "{record}");
    assert!(mails(&world).await.is_empty());
}

// Whose clock is wrong.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_superseded_by_its_producer_s_slow_clock_says_whose_clock_that_is() {
    let world = Plan::new().prepare().await;
    let (mut worker, _) = Process::worker(&world).await;
    let mut outcomes = world.outcomes().await;
    let asked = async |job: &'static str, app: &str, seconds: i64| {
        let at = (Timestamp::now() - SignedDuration::from_secs(seconds)).as_second().cast_unsigned();
        let properties: BasicProperties = named(job).with_timestamp(at).with_app_id(app.into());
        world.publish("main", reset_body("u-1").to_string().as_bytes(), properties).await;
    };
    asked("right", "hr", 600).await;
    ends(&mut outcomes, "right").await;
    asked("an-hour-behind", "help-observer", 3_600).await;
    let record = ends(&mut outcomes, "an-hour-behind").await;
    assert_eq!(record["outcome"], "superseded");
    let detail = record["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("50 min") && detail.contains("producer's clock"), "{record}");
    asked("far-ahead", "hr", -3_600).await;
    ends(&mut outcomes, "far-ahead").await;
    assert_eq!(worker.terminated().await.0, 0);
    let log = worker.stderr();
    let warned = |job: &str| log.lines().find(|line| line.contains(job) && line.contains("WARN")).unwrap_or_default();
    let behind = warned("an-hour-behind");
    assert!(behind.contains("producer's clock") && behind.contains("50 min"), "{behind}\n{log}");
    let ahead = warned("far-ahead");
    assert!(ahead.contains("ahead of this worker's clock") && ahead.contains("producer"), "{ahead}\n{log}");
}
