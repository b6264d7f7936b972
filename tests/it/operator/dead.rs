//! `resetd dead` as an operator runs it: looking takes nothing away, and replaying and dropping lose no letter, whatever ends them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use jiff::Timestamp;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Confirmation};
use resetd::amqp::names::Names;
use resetd::domain::attribute::AllowedAttributes;
use resetd::domain::job::{JobId, Lane};
use resetd::domain::outcome::{Outcome, OutcomeKind, PasswordSet, Reason};
use resetd::wire::dead_letter;
use serde_json::{Value, json};

use crate::broker::Node;
use crate::operator::process::{Process, Run, says};
use crate::world::{Plan, Taken, World, eventually, fault, named, reset_body, text, with_header};

pub const DEAD: &str = "resets.main.dead";

/// A world with its queues, and no worker.
pub async fn declared() -> World {
    let world = Plan::new().prepare().await;
    crate::world::declare(&world.connection, &Names::new(&world.prefix, "main")).await;
    world
}

/// The command with the broker's section alone: no secret of any org is needed.
pub fn dead(world: &World, arguments: &[&str]) -> Run {
    let amqp = format!("[amqp]\nurl = {:?}\nprefix = {:?}\n", world.amqp_url, world.prefix);
    let all: Vec<&str> = ["dead"].iter().chain(arguments).chain(&["--org", "main"]).copied().collect();
    Run::new(&all).config(&amqp)
}

/// Runs it to its end, which must be good. What it wrote to stdout.
async fn done(run: Run) -> String {
    let (code, out, err) = run.end().await;
    assert_eq!(code, 0, "{out}{err}");
    out
}

async fn lines(world: &World, arguments: &[&str]) -> Vec<Value> {
    let all: Vec<&str> = ["list", "--json"].iter().chain(arguments).copied().collect();
    let out = done(dead(world, &all)).await;
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["jobId"].as_str().unwrap()).collect()
}

/// How a job ended.
fn outcome(job: &str, reason: Reason, lane: Lane) -> Outcome {
    Outcome {
        job: JobId::new(job),
        org: "main".into(),
        lane,
        user: None,
        batch: None,
        asked_at: None,
        kind: OutcomeKind::Failed,
        reason: Some(reason),
        status: Some(404),
        attempts: 1,
        password_set: PasswordSet::No,
        detail: Some("a detail".into()),
        finished_at: Timestamp::now(),
    }
}

/// Puts letters there, as a worker does.
pub async fn dead_letter(world: &World, letters: Vec<(Vec<u8>, BasicProperties)>) {
    let channel = world.channel().await;
    let queue = world.named(DEAD);
    for some in letters.chunks(1_000) {
        let mut confirms = Vec::new();
        for (body, properties) in some {
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let sent = channel.basic_publish("".into(), queue.as_str().into(), options, body, properties.clone());
            confirms.push(sent.await.unwrap());
        }
        for confirm in confirms {
            assert_eq!(confirm.await.unwrap(), Confirmation::Ack(None));
        }
    }
}

/// The letter of a job that came with these properties.
fn letter(user: &str, came: BasicProperties, reason: Reason, lane: Lane) -> (Vec<u8>, BasicProperties) {
    let body = reset_body(user).to_string();
    dead_letter::message(body.as_bytes(), &came, &outcome("any", reason, lane), &AllowedAttributes::default())
}

/// So many letters of as many users, every other one of the bulk lane.
pub fn many(letters: usize) -> Vec<(Vec<u8>, BasicProperties)> {
    let one = |n: usize| {
        let lane = if n.is_multiple_of(2) { Lane::Interactive } else { Lane::Bulk };
        letter(&format!("u-{n}"), named(&format!("job-{n}")), Reason::NotFound, lane)
    };
    (0..letters).map(one).collect()
}

/// The names of its headers, less the one that some brokers add to what they deliver for the first time.
fn headers(taken: &Taken) -> Vec<String> {
    let of = |name: &str| name != "x-delivery-count" || taken.header(name).is_some_and(|count| count != "0");
    let names = taken.properties.headers().iter().flat_map(|table| table.inner().keys());
    names.map(ToString::to_string).filter(|name| of(name)).collect()
}

/// Lets a worker do what lies in the lanes, and looks that each of these users was reset once.
async fn all_are_reset_once(world: &mut World, users: usize) {
    let jobs = world.in_the_lanes().await as usize;
    let mut outcomes = world.outcomes().await;
    world.start_worker().await;
    world.ready().await;
    let mut ended = BTreeMap::<String, usize>::new();
    while ended.values().sum::<usize>() < jobs {
        let record = outcomes.next().await;
        if record.routing_key.starts_with("main.") {
            *ended.entry(record.routing_key).or_default() += 1;
        }
    }
    let expected = [("main.succeeded", users), ("main.duplicate", jobs - users)];
    for (kind, expected) in expected {
        assert_eq!(ended.get(kind).copied().unwrap_or(0), expected, "{kind} in {ended:?}");
    }
    world.stop_worker().await.unwrap();
    assert_eq!(world.in_the_lanes().await, 0, "what was in flight is done");
    let twice: Vec<usize> =
        (0..users).filter(|n| world.main().user(&format!("u-{n}")).unwrap().password_sets != 1).collect();
    assert_eq!(twice, Vec::<usize>::new(), "each is reset once");
    assert_eq!(world.depth(DEAD).await, 0);
}

/// A passive declare says then that there are none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_of_a_queue_whose_leader_is_silent_are_waited_for() {
    let node = Node::lent().await;
    let world = Plan::at(node.url()).prepare().await;
    crate::world::declare(&world.connection, &Names::new(&world.prefix, "main")).await;
    dead_letter(&world, many(3)).await;
    let leader = format!("'%2F_{}'", world.named(DEAD));
    let resume = format!("spawn(fun()->timer:sleep(4000),sys:resume({leader})end)");
    node.tell(format!("ctl eval sys:suspend({leader}),{resume}.")).await;
    assert_eq!(lines(&world, &[]).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_by_reason_has_no_address_and_takes_nothing_away() {
    let world = declared().await;
    let came = || with_header(named("job-1"), "batch", text("monday"));
    dead_letter(
        &world,
        vec![
            letter("u-1", came(), Reason::NotFound, Lane::Bulk),
            letter("u-2", named("job-2"), Reason::Rejected, Lane::Interactive),
            letter("u-3", named("job-3"), Reason::NotFound, Lane::Interactive),
        ],
    )
    .await;
    let out = done(dead(&world, &["list"])).await;
    says(&out, &["org main: 3 letters", "not_found", "rejected", "job-1", "u-1", "404", "bulk", "monday"]);
    assert!(!out.contains('@') && !out.contains('\u{1b}'), "{out}");
    for (filter, expected) in [
        (vec!["--reason", "not_found"], vec!["job-1", "job-3"]),
        (vec!["--reason", "not_found", "--reason", "rejected"], vec!["job-1", "job-2", "job-3"]),
        (vec!["--batch", "monday"], vec!["job-1"]),
        (vec!["--user", "u-2"], vec!["job-2"]),
        (vec!["--since", "1h"], vec!["job-1", "job-2", "job-3"]),
        (vec!["--since", "2099-01-01T00:00:00Z"], vec![]),
    ] {
        let lines = lines(&world, &filter).await;
        assert_eq!(ids(&lines), expected, "{filter:?}");
        assert!(!format!("{lines:?}").contains('@'), "{lines:?}");
    }
    let out = done(dead(&world, &["list", "--limit", "1"])).await;
    says(&out, &["the newest 1 of 3; --limit 0 shows all"]);
    eventually("all are back", async || (world.depth(DEAD).await == 3).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_letter_is_shown_with_its_body_and_without_a_secret() {
    let world = declared().await;
    let mut one = letter("u-1", named("job-1"), Reason::NotFound, Lane::Bulk);
    // As it came, which is how the broker itself leaves it.
    one.0 = json!({"userId": "u-1", "password": "hunter2", "email": "a@example.com"}).to_string().into_bytes();
    dead_letter(&world, vec![one]).await;
    let out = done(dead(&world, &["show", "job-1"])).await;
    says(&out, &["job-1", "not_found", "a detail", "a@example.com", "\"password\":true"]);
    let shown: Value = serde_json::from_str(&done(dead(&world, &["show", "job-1", "--json"])).await).unwrap();
    assert_eq!(shown["body"], json!({"userId": "u-1", "password": true, "email": "a@example.com"}));
    let (code, out, err) = dead(&world, &["show", "job-2"]).end().await;
    assert_eq!((code, out.as_str()), (1, ""));
    says(&err, &["\"job-2\"", "`resetd dead list`"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_gave_up_is_shown_with_its_reason_and_goes_back_to_its_lane() {
    let world = declared().await;
    world
        .publish("main.bulk", reset_body("u-1").to_string().as_bytes(), named("job-1").with_expiration("1".into()))
        .await;
    eventually("it has expired", async || (world.depth(DEAD).await == 1).then_some(())).await;
    says(&done(dead(&world, &["list"])).await, &["expired (broker)"]);
    let lines = lines(&world, &["--reason", "expired", "--since", "1h"]).await;
    assert_eq!((&lines[0]["by"], &lines[0]["lane"]), (&json!("broker"), &json!("bulk")));
    done(dead(&world, &["replay", "job-1", "--yes"])).await;
    let replayed = world.drained("resets.main.bulk").await.remove(0);
    assert_eq!((replayed.id(), replayed.json()), ("job-1", reset_body("u-1")));
    assert_eq!(replayed.properties.expiration(), &None);
    assert_eq!(headers(&replayed), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_thousand_letters_are_listed_in_seconds_and_keep_their_order() {
    let world = declared().await;
    dead_letter(&world, many(20_000)).await;
    let expected: Vec<String> = (0..20_000).map(|n| format!("job-{n}")).collect();
    for _ in 0..2 {
        let began = Instant::now();
        let lines = lines(&world, &[]).await;
        eprintln!("20,000 letters listed in {:?}", began.elapsed());
        assert!(ids(&lines) == expected, "the order is not kept, or one is missing: {} letters", lines.len());
        eventually("all are back", async || (world.depth(DEAD).await == 20_000).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_letter_is_a_fresh_job_in_its_lane() {
    let world = declared().await;
    let came = with_header(named("job-1"), "batch", text("monday"));
    let came = with_header(with_header(came, "resetd-tried", text("4")), "x-mine", text("mine"));
    let came = came.with_timestamp(1_700_000_000).with_reply_to("somewhere".into()).with_correlation_id("c".into());
    let (nameless, other) = (BasicProperties::default().with_timestamp(7), named("job-3"));
    dead_letter(
        &world,
        vec![
            letter("u-1", came, Reason::NotFound, Lane::Bulk),
            letter("u-2", nameless, Reason::NotFound, Lane::Interactive),
            letter("u-3", other, Reason::Rejected, Lane::Interactive),
        ],
    )
    .await;
    let out = done(dead(&world, &["replay", "--reason", "not_found", "--dry-run"])).await;
    says(&out, &["org main: 2 letters of 3 would be replayed", "not_found"]);
    assert_eq!(world.in_the_lanes().await, 0);
    let out = done(dead(&world, &["replay", "--reason", "not_found", "--yes"])).await;
    assert_eq!(out, "org main: 2 letters replayed\n");
    let bulk = world.drained("resets.main.bulk").await.remove(0);
    assert_eq!((bulk.id(), bulk.json(), bulk.routing_key.as_str()), ("job-1", reset_body("u-1"), "main.bulk"));
    assert_eq!(headers(&bulk), ["batch"]);
    assert_eq!(bulk.properties.timestamp(), &Some(1_700_000_000));
    assert_eq!(bulk.properties.delivery_mode(), &Some(2));
    assert_eq!(bulk.properties.reply_to().as_ref().unwrap().as_str(), "somewhere");
    let interactive = world.drained("resets.main").await.remove(0);
    assert!(interactive.id().starts_with("replay:sha256:"), "{}", interactive.id());
    eventually("the other one is back", async || (world.depth(DEAD).await == 1).then_some(())).await;
    assert_eq!(ids(&lines(&world, &[]).await), ["job-3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_whose_body_was_not_kept_stays_and_is_named() {
    let world = declared().await;
    let large = vec![b'x'; 70_000];
    let ended = outcome("large", Reason::InvalidJob, Lane::Bulk);
    let not_kept = dead_letter::message(&large, &named("large"), &ended, &AllowedAttributes::default());
    dead_letter(&world, vec![not_kept, letter("u-1", named("job-1"), Reason::InvalidJob, Lane::Bulk)]).await;
    let (code, out, err) = dead(&world, &["replay", "--all", "--yes"]).end().await;
    assert_eq!((code, out.as_str()), (1, "org main: 1 letter replayed\n"), "{err}");
    says(&err, &["large cannot be replayed", "send the job again", "1 letter cannot be replayed and stay"]);
    eventually("it stays", async || (world.depth(DEAD).await == 1).then_some(())).await;
    assert_eq!(ids(&lines(&world, &[]).await), ["large"]);
    assert_eq!(done(dead(&world, &["drop", "large", "--yes"])).await, "org main: 1 letter dropped\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_letter_leaves_its_record_which_no_worker_minds() {
    let mut world = declared().await;
    let mut outcomes = world.outcomes().await;
    let came = with_header(named("job-1"), "batch", text("monday"));
    dead_letter(&world, vec![letter("u-1", came, Reason::NotFound, Lane::Bulk)]).await;
    done(dead(&world, &["drop", "--user", "u-1", "--yes"])).await;
    let record = outcomes.next().await;
    assert_eq!(
        (record.routing_key.as_str(), record.properties.kind().as_ref().unwrap().as_str()),
        ("main.dropped", "dropped")
    );
    let said = record.json();
    let expected = json!(["job-1", "main", "bulk", "u-1", "monday", "not_found"]);
    let fields = ["jobId", "org", "lane", "userId", "batch", "reason"].map(|field| said[field].clone());
    assert_eq!(json!(fields), expected);
    assert_eq!(world.depth(DEAD).await, 0);
    // The same id again is a new job: the record says nothing of its being done.
    world.start_worker().await;
    world.ready().await;
    world.reset("main", "u-1", "job-1").await;
    let record = loop {
        let record = outcomes.next().await;
        if record.properties.kind().as_ref().is_some_and(|kind| kind.as_str() == "outcome") {
            break record.json();
        }
    };
    assert_eq!(record["outcome"], "succeeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_killed_at_random_moments_and_run_again_loses_no_letter_and_resets_nobody_twice() {
    let mut world = declared().await;
    let letters = 3_000;
    let mut all = many(letters);
    // Every tenth job had no name.
    for (n, (body, properties)) in all.iter_mut().enumerate().filter(|(n, _)| n % 10 == 0) {
        let came = BasicProperties::default().with_timestamp(1_700_000_000);
        (*body, *properties) = letter(&format!("u-{n}"), came, Reason::NotFound, Lane::Interactive);
    }
    dead_letter(&world, all).await;
    let (mut kills, mut before) = (0, 0);
    while kills < 6 {
        let mut replay = dead(&world, &["replay", "--all", "--yes"]).start();
        let moment = rand::random_range(1..300);
        eventually("it is under way", async || {
            (world.in_the_lanes().await >= before + moment || replay.has_ended().is_some()).then_some(())
        })
        .await;
        replay.kill().await;
        kills += 1;
        // What it held comes back: none may be in neither place.
        before = eventually("no letter is lost", async || {
            let (lanes, dead) = (world.in_the_lanes().await, world.depth(DEAD).await);
            (lanes + dead >= letters as u32).then_some(lanes)
        })
        .await;
        eprintln!("killed after {before} of {letters}");
    }
    done(dead(&world, &["replay", "--all", "--yes"])).await;
    assert_eq!(world.depth(DEAD).await, 0);
    let doubled = world.in_the_lanes().await - letters as u32;
    eprintln!("{doubled} jobs lie in the lanes twice");
    all_are_reset_once(&mut world, letters).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_whose_replay_was_confirmed_and_not_taken_out_is_done_once() {
    let mut world = declared().await;
    let nameless = letter("u-1", BasicProperties::default(), Reason::NotFound, Lane::Bulk);
    dead_letter(&world, vec![letter("u-0", named("job-0"), Reason::NotFound, Lane::Bulk), nameless]).await;
    let name = lines(&world, &["--user", "u-1"]).await[0]["jobId"].as_str().unwrap().to_owned();
    for job in ["job-0", &name] {
        let died = dead(&world, &["replay", job, "--yes"]).env("RESETD_FAILPOINT", &format!("again@{job}=abort"));
        assert_eq!(died.end().await.0, -1);
    }
    eventually("both are letters still", async || (world.depth(DEAD).await == 2).then_some(())).await;
    assert_eq!(world.in_the_lanes().await, 2, "and jobs already");
    done(dead(&world, &["replay", "--all", "--yes"])).await;
    assert_eq!(world.in_the_lanes().await, 4);
    all_are_reset_once(&mut world, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_ends_though_a_worker_makes_new_letters_meanwhile() {
    let mut world = declared().await;
    world.main().add_fault(fault("status=404,always"));
    dead_letter(&world, many(600)).await;
    world.start_worker().await;
    world.ready().await;
    let out = done(dead(&world, &["replay", "--all", "--yes"])).await;
    assert_eq!(out, "org main: 600 letters replayed\n");
    eventually("each is a letter again", async || (world.depth(DEAD).await == 600).then_some(())).await;
    let lines = lines(&world, &[]).await;
    let by_job: BTreeMap<&str, usize> = ids(&lines).into_iter().fold(BTreeMap::new(), |mut all, id| {
        *all.entry(id).or_default() += 1;
        all
    });
    assert_eq!((by_job.len(), world.main().stats().calls), (600, 600), "each was called for once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_in_another_hand_are_said_so_and_left_to_it() {
    let world = declared().await;
    dead_letter(&world, many(10)).await;
    let channel = world.channel().await;
    channel.basic_qos(4, BasicQosOptions::default()).await.unwrap();
    let (queue, options) = (world.named(DEAD), BasicConsumeOptions::default());
    let mut other =
        channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default()).await.unwrap();
    let mut held = Vec::new();
    while held.len() < 4 {
        held.push(other.next().await.unwrap().unwrap());
    }
    let (code, out, err) = dead(&world, &["list", "--json"]).end().await;
    assert_eq!((code, out.lines().count()), (0, 6), "{err}");
    says(&err, &["another consumer holds dead letters"]);
    let (code, out, err) = dead(&world, &["replay", "--all", "--yes"]).end().await;
    assert_eq!((code, out.as_str()), (0, "org main: 6 letters replayed\n"), "{err}");
    says(&err, &["another consumer holds dead letters"]);
    for delivery in held {
        assert!(delivery.acker.ack(BasicAckOptions::default()).await.unwrap(), "the other hand kept its own");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replays_at_once_replay_every_letter() {
    let mut world = declared().await;
    let letters = 1_500;
    dead_letter(&world, many(letters)).await;
    let arguments = ["replay", "--all", "--yes"];
    let (one, two) = tokio::join!(dead(&world, &arguments).end(), dead(&world, &arguments).end());
    for (code, out, err) in [&one, &two] {
        assert_eq!(*code, 0, "{out}{err}");
    }
    // What one had in its hand the other left.
    done(dead(&world, &arguments)).await;
    assert_eq!((world.depth(DEAD).await, world.in_the_lanes().await), (0, letters as u32), "{one:?} {two:?}");
    all_are_reset_once(&mut world, letters).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_in_the_middle_of_a_replay_leaves_the_rest_as_letters() {
    let world = declared().await;
    let letters = 5_000;
    dead_letter(&world, many(letters)).await;
    let mut replay: Process = dead(&world, &["replay", "--all", "--yes"]).start();
    eventually("it is under way", async || (world.in_the_lanes().await > 20).then_some(())).await;
    let (code, _) = replay.terminated().await;
    assert_eq!(code, 1, "{}", replay.stderr());
    says(&replay.stderr(), &["interrupted", "the others stay"]);
    eventually("each is in one place", async || {
        let (lanes, dead) = (world.in_the_lanes().await, world.depth(DEAD).await);
        (lanes + dead == letters as u32).then_some(())
    })
    .await;
    says(&replay.stdout(), &[&format!("org main: {} letters replayed", world.in_the_lanes().await)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_takes_nothing_stops_a_replay_and_the_letters_stay() {
    let world = declared().await;
    dead_letter(&world, many(50)).await;
    let channel = world.channel().await;
    for lane in ["resets.main", "resets.main.bulk"] {
        channel.queue_delete(world.named(lane).as_str().into(), Default::default()).await.unwrap();
    }
    let (code, out, err) = dead(&world, &["replay", "--all", "--yes"]).end().await;
    assert_eq!((code, out.as_str()), (1, "org main: 0 letters replayed\n"), "{err}");
    says(&err, &["0 of 50 letters were replayed; the others stay", "no queue takes it", "start `resetd worker`"]);
    eventually("all stay", async || (world.depth(DEAD).await == 50).then_some(())).await;
    let got = channel.basic_get(world.named(DEAD).as_str().into(), BasicGetOptions::default()).await.unwrap();
    assert_eq!(got.unwrap().delivery.properties.message_id().as_ref().unwrap().as_str(), "job-0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_meant_is_refused_with_what_to_do() {
    let world = declared().await;
    dead_letter(&world, many(1)).await;
    let refused = async |arguments: &[&str], code: i32, parts: &[&str]| {
        let (ended, out, err) = dead(&world, arguments).end().await;
        assert_eq!((ended, out.as_str()), (code, ""), "{arguments:?}: {err}");
        says(&err, parts);
    };
    refused(&["replay", "--all"], 2, &["--yes", "no terminal to ask on", "--dry-run"]).await;
    refused(&["drop", "job-0"], 2, &["--yes"]).await;
    refused(&["replay", "--yes"], 2, &["--all", "--reason"]).await;
    refused(&["list", "--since", "yesterday"], 2, &["--since", "2h", "RFC 3339"]).await;
    refused(&["drop", "job-7", "--yes"], 1, &["no dead letter has the id job-7", "`resetd dead list`"]).await;
    let amqp = format!("[amqp]\nurl = {:?}\nprefix = {:?}\n", world.amqp_url, world.prefix);
    let (code, _, err) = Run::new(&["dead", "list"]).config(&amqp).end().await;
    assert_eq!(code, 2);
    says(&err, &["--org is not set"]);
    let (code, _, err) = Run::new(&["dead", "list", "--org", "other"]).config(&amqp).end().await;
    assert_eq!(code, 1);
    says(&err, &["resets.other.dead", "Start `resetd worker` once"]);
    assert_eq!(world.depth(DEAD).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_configured_orgs_are_meant_where_none_is_named_and_a_config_may_stand_anywhere() {
    let world = Plan::new().prepare().await;
    let orgs = "[orgs.first]\nregion = \"mypurecloud.de\"\n[orgs.second]\n";
    let amqp = format!("[amqp]\nurl = {:?}\nprefix = {:?}\n{orgs}", world.amqp_url, world.prefix);
    for org in ["first", "second"] {
        crate::world::declare(&world.connection, &Names::new(&world.prefix, org)).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    std::fs::write(&path, amqp).unwrap();
    let path = path.to_str().unwrap();
    for arguments in
        [["--config", path, "dead", "list"], ["dead", "--config", path, "list"], ["dead", "list", "--config", path]]
    {
        let out = done(Run::new(&arguments)).await;
        assert_eq!(out, "org first: no dead letters\norg second: no dead letters\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_not_there_is_said_within_seconds() {
    let began = Instant::now();
    let url = "[amqp]\nurl = \"amqp://guest:s3cr3t@127.0.0.1:1/%2f\"\n";
    let (code, out, err) = Run::new(&["dead", "list", "--org", "main"]).config(url).end().await;
    assert_eq!((code, out.as_str()), (1, ""));
    says(&err, &["connecting to the broker at 127.0.0.1:1"]);
    assert!(!err.contains("s3cr3t") && began.elapsed() < Duration::from_secs(15), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_help_says_what_there_is_with_examples() {
    let help = async |arguments: &[&str]| done(Run::new(arguments)).await;
    insta::assert_snapshot!("dead", help(&["dead", "--help"]).await);
    insta::assert_snapshot!("dead_list", help(&["dead", "list", "--help"]).await);
    insta::assert_snapshot!("dead_show", help(&["dead", "show", "--help"]).await);
    insta::assert_snapshot!("dead_replay", help(&["dead", "replay", "--help"]).await);
    insta::assert_snapshot!("dead_drop", help(&["dead", "drop", "--help"]).await);
    insta::assert_snapshot!("check", help(&["check", "--help"]).await);
}
