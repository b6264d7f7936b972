//! A worker ends at each stage of a job's lifecycle, by a failpoint (`src/failpoint.rs`) or by a kill at any moment: another one takes
//! over, and every job ends as it must. A job that ends its worker each time, and one that panics, are nobody else's trouble.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::options::QueueBindOptions;
use resetd::amqp::publisher::{Message, Publisher};
use resetd::domain::ledger::WorkerName;
use resetd::wire;

use crate::operator::process::{Process, Run, role_is};
use crate::world::{
    Plan, Taken, Tap, World, by_id, connect, delivered, eventually, exclusive, locked_out, named, reset_body, slow,
    text, unlimited, with_header,
};

/// What a worker that is asked to end at `stage` of `job` is started by; `how` is `abort` or `panic`.
fn failing(world: &World, stage: &str, job: &str, how: &str) -> Run {
    Run::of(world, &["--log", "json", "worker"]).env("RESETD_FAILPOINT", &format!("{stage}@{job}={how}"))
}

/// One world with a short takeover, and a queue each for all outcomes and all replies.
async fn prepared(config: &str) -> World {
    Plan::new().org("main", unlimited(), "request_timeout = \"1s\"").config(config).prepare().await
}

/// Keeps all outcomes and replies from now on. (The worker must have declared their exchange.)
async fn keep_all(world: &World) {
    let channel = world.channel().await;
    let (outcomes, none) = (world.named("outcomes"), Default::default);
    for queue in ["seen", "replies"] {
        channel.queue_declare(world.named(queue).as_str().into(), exclusive(), none()).await.unwrap();
    }
    let seen = world.named("seen");
    let options = QueueBindOptions::default();
    channel.queue_bind(seen.as_str().into(), outcomes.as_str().into(), "#".into(), options, none()).await.unwrap();
}

/// A job `job` for the user `u` that wants a reply. Its properties are made last: they may name a moment.
async fn publish(world: &World, body: &str, properties: impl FnOnce() -> BasicProperties) {
    let (channel, reply_to) = (world.channel().await, world.named("replies"));
    let properties = properties().with_reply_to(reply_to.as_str().into());
    world.publish_on(&channel, "main", body.as_bytes(), properties).await;
}

/// What was left of one job after its worker died and another one took over.
struct Left {
    world: World,
    /// Of all its outcomes, in their order.
    outcomes: Vec<String>,
    replies: Vec<String>,
    mails: Vec<Taken>,
    letters: Vec<Taken>,
}

impl Left {
    fn sets(&self) -> u64 {
        self.world.main().stats().password_sets
    }

    fn assert_newest_logs_in(&self) {
        assert_eq!(locked_out(self.world.main(), &self.mails), Vec::<String>::new());
    }
}

fn kinds(records: &[Taken]) -> Vec<String> {
    records.iter().map(|record| record.json()["outcome"].as_str().unwrap().to_owned()).collect()
}

/// Waits for so many outcomes, ends the worker, and takes what is left.
async fn left(world: World, mut worker: Process, outcomes: u32) -> Left {
    eventually("all outcomes are there", async || (world.depth("seen").await >= outcomes).then_some(())).await;
    assert_eq!(worker.terminated().await.0, 0, "{}", worker.stderr());
    for queue in ["resets.main", "resets.main.bulk", "resets.main.parked.15s"] {
        assert_eq!(world.depth(queue).await, 0, "{queue}");
    }
    Left {
        outcomes: kinds(&world.drained("seen").await),
        replies: kinds(&world.drained("replies").await),
        mails: world.drained("emails").await,
        letters: world.drained("resets.main.dead").await,
        world,
    }
}

/// The worker dies when this job has reached this stage; the one that stands by takes over, and so many outcomes are waited for.
async fn dies_at(
    stage: &str,
    body: &str,
    properties: impl FnOnce() -> BasicProperties,
    config: &str,
    outcomes: u32,
) -> Left {
    let world = prepared(config).await;
    let mut first = failing(&world, stage, "job", "abort").start();
    role_is(&first.http().await, "active").await;
    let (second, http) = Process::worker(&world).await;
    role_is(&http, "standby").await;
    keep_all(&world).await;
    publish(&world, body, properties).await;
    assert_eq!(first.ended().await, -1, "{stage}: {}", first.stderr());
    left(world, second, outcomes).await
}

/// The same for a plain reset.
async fn reset_dies_at(stage: &str, outcomes: u32) -> Left {
    dies_at(stage, &reset_body("u").to_string(), || named("job"), "", outcomes).await
}

/// With it hardly anything is waited for in memory.
const PARKS: &str = "[retry]\ninline_max = \"100ms\"";

/// Not before so many seconds from now: longer than it would be waited in memory, and not over before the job is looked at.
fn parked(seconds: u64) -> BasicProperties {
    let moment = (Timestamp::now() + Duration::from_secs(seconds)).to_string();
    with_header(named("job"), "not-before", text(&moment))
}

/// Starts one worker after the other, each of which dies of the job `poison` when its password is set.
struct Victims<'a> {
    world: &'a World,
    publisher: Publisher,
    ledger: Option<Tap>,
}

impl<'a> Victims<'a> {
    async fn of(world: &'a World) -> Self {
        let publisher = Publisher::open(connect(&world.amqp_url).await.into()).await.unwrap();
        Self { world, publisher, ledger: None }
    }

    fn start(&self) -> Process {
        failing(self.world, "patched", "poison", "abort").start()
    }

    /// Waits until it is dead. Then it is written into the ledger, in its place, that it gives the lease back: that the next one
    /// waits until the one before can do nothing more is not what is tested here.
    async fn dies(&mut self, mut worker: Process) {
        assert_eq!(worker.ended().await, -1, "{}", worker.stderr());
        if self.ledger.is_none() {
            let channel = self.world.channel().await;
            self.ledger = Tap::replay(&channel, &self.world.named("resets.outcomes")).await;
        }
        let ledger = self.ledger.as_mut().expect("the stream is read");
        let fence = loop {
            let record = ledger.next().await;
            if record.properties.kind().as_ref().is_some_and(|kind| kind.as_str() == "fence") {
                break record.json();
            }
        };
        let worker = WorkerName::new(fence["worker"].as_str().unwrap());
        let term = fence["term"].as_str().or(fence["fence"].as_str()).unwrap();
        let (body, properties) = wire::ledger::released("main", &worker, term, Timestamp::now());
        let key = self.world.named("resets.outcomes");
        self.publisher.publish(&Message { exchange: "", key: &key, body: &body, properties }).await.unwrap();
    }
}

/// A worker in which `job` panics at this stage. Its one job, and 20 others around it.
async fn panics_at(stage: &str, outcomes: u32) -> Left {
    let world = prepared("").await;
    let mut worker = failing(&world, stage, "job", "panic").start();
    role_is(&worker.http().await, "active").await;
    keep_all(&world).await;
    world.reset_many("main", 10).await;
    publish(&world, &reset_body("u").to_string(), || named("job")).await;
    for n in 0..10 {
        world.reset("main.bulk", &format!("v-{n}"), &format!("after-{n}")).await;
    }
    eventually("all outcomes are there", async || (world.depth("seen").await >= 20 + outcomes).then_some(())).await;
    assert_eq!(worker.has_ended(), None, "{}", worker.stderr());
    assert!(worker.stderr().contains("panic in the worker's own code"), "{stage} was reached");
    left(world, worker, 20 + outcomes).await
}

fn of_job(records: &[String], kind: &str) -> usize {
    records.iter().filter(|record| *record == kind).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_worker_dies_before_the_call_is_done_once_by_another() {
    let (arrived, permitted) = tokio::join!(reset_dies_at("arrived", 1), reset_dies_at("permitted", 1));
    for left in [arrived, permitted] {
        assert_eq!((&left.outcomes[..], &left.replies[..]), (&["succeeded".into()][..], &["succeeded".into()][..]));
        assert_eq!((left.world.main().stats().calls, left.mails.len(), left.letters.len()), (1, 1, 0));
        left.assert_newest_logs_in();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_worker_dies_between_the_call_and_its_outcome_is_done_again_and_the_newest_mail_logs_in() {
    let (patched, told) = tokio::join!(reset_dies_at("patched", 1), reset_dies_at("notified", 1));
    for (left, mails) in [(patched, 1), (told, 2)] {
        assert_eq!((&left.outcomes[..], &left.replies[..]), (&["succeeded".into()][..], &["succeeded".into()][..]));
        assert_eq!((left.sets(), left.mails.len(), left.letters.len()), (2, mails, 0));
        left.assert_newest_logs_in();
        let opens = |mail: &&Taken| left.world.main().logs_in("u", mail.json()["temporaryPassword"].as_str().unwrap());
        assert_eq!(left.mails.iter().filter(opens).count(), 1, "the older mail logs nobody in");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_worker_dies_after_its_outcome_is_a_duplicate_and_nothing_else() {
    let (recorded, replied) = tokio::join!(reset_dies_at("recorded", 2), reset_dies_at("replied", 2));
    for (left, replies) in [(recorded, &["duplicate"][..]), (replied, &["succeeded", "duplicate"])] {
        assert_eq!(left.outcomes, ["succeeded", "duplicate"]);
        assert_eq!(left.replies, replies);
        assert_eq!((left.world.main().stats().calls, left.mails.len(), left.letters.len()), (1, 1, 0));
        left.assert_newest_logs_in();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_worker_dies_when_it_was_published_again_is_done_once() {
    // Both copies come back: the one that was not acked, and the one that was parked.
    let left = dies_at("again", &reset_body("u").to_string(), || parked(20), PARKS, 2).await;
    assert_eq!(left.outcomes, ["succeeded", "duplicate"]);
    assert_eq!((left.world.main().stats().calls, left.mails.len(), left.letters.len()), (1, 1, 0));
    left.assert_newest_logs_in();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_job_whose_worker_dies_while_it_is_buried_is_buried_again_and_says_so_each_time() {
    let bad =
        async |stage, outcomes| dies_at(stage, r#"{"userId": 7, "password": 1}"#, || named("job"), "", outcomes).await;
    let (told, recorded) = tokio::join!(bad("notified", 1), bad("recorded", 2));
    for (left, outcomes) in [(told, 1), (recorded, 2)] {
        assert_eq!(left.outcomes, vec!["failed"; outcomes]);
        assert_eq!((left.letters.len(), left.mails.len(), left.world.main().stats().calls), (2, 0, 0));
        for letter in &left.letters {
            assert_eq!((letter.id(), letter.header("resetd-reason").as_deref()), ("job", Some("invalid_job")));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poison_job_reaches_the_dead_letters_by_its_delivery_limit_and_the_others_go_on() {
    // All its neighbours are in flight while its call is in flight, and hardly one of them is called.
    let org = sim::Settings { latency: Duration::from_millis(400), ..unlimited() };
    // Each of the takeovers waits for a call of the one before: that long.
    let keys = "rate_per_minute = 300\nrequest_timeout = \"2s\"";
    let world = Plan::new().org("main", org, keys).prepare().await;
    let mut victims = Victims::of(&world).await;
    let mut worker = victims.start();
    role_is(&worker.http().await, "active").await;
    world.reset("main", "poison", "poison").await;
    let mut users = world.reset_many("main", 30).await;
    for deaths in 1..=19 {
        victims.dies(worker).await;
        if deaths == 10 {
            for (key, user) in [("main", "late-1"), ("main.bulk", "late-2")] {
                world.reset(key, user, &format!("job-{user}")).await;
                users.push(user.to_owned());
            }
        }
        worker = victims.start();
    }
    // The 20th delivery ends nobody.
    let records = world.recorded(33).await;
    assert_eq!(worker.terminated().await.0, 0, "{}", worker.stderr());

    let letters = by_id(world.drained("resets.main.dead").await);
    assert_eq!(letters.keys().collect::<Vec<_>>(), ["poison"]);
    assert_eq!(letters["poison"].header("resetd-reason").as_deref(), Some("delivery_limit"));
    assert_eq!(letters["poison"].header("resetd-attempts").as_deref(), Some("0"));
    for record in records.iter().map(Taken::json).filter(|record| record["outcome"] != "duplicate") {
        let expected = if record["jobId"] == "poison" { "failed" } else { "succeeded" };
        assert_eq!(record["outcome"], expected, "{record}");
    }
    let mails = world.drained("emails").await;
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    assert_eq!(world.main().user("poison").unwrap().password_sets, 19);
    for user in &users {
        // It may have been called at one of the first three deaths; then the poison runs with nothing else in flight.
        let most = if user.starts_with("late") { 1 } else { 4 };
        let sets = world.main().user(user).unwrap().password_sets;
        assert!((1..=most).contains(&sets), "{user}: {sets}");
    }
    assert_eq!(world.in_the_lanes().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_must_run_alone_cost_those_among_them_no_deliveries() {
    let mut world = Plan::new().start().await;
    world.stop_worker().await.unwrap();
    for n in 0..60 {
        // As one that was published again after so many deliveries: two more, and it is a dead letter.
        let properties = named(&format!("job-{n}"));
        let properties = if n % 2 == 0 { properties } else { delivered(properties, 17) };
        let body = reset_body(&format!("u-{n}")).to_string();
        world.publish(if n % 3 == 0 { "main.bulk" } else { "main" }, body.as_bytes(), properties).await;
    }
    world.start_worker().await;
    let records = world.recorded(60).await;
    world.stop_worker().await.unwrap();
    assert_eq!(kinds(&records), vec!["succeeded"; 60]);
    let mails = world.drained("emails").await;
    assert_eq!((mails.len(), world.main().stats().calls), (60, 60));
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_a_job_is_its_dead_letter_and_the_rest_goes_on() {
    let (arrived, permitted, patched) =
        tokio::join!(panics_at("arrived", 1), panics_at("permitted", 1), panics_at("patched", 1));
    for (left, set) in [(arrived, "no"), (permitted, "no"), (patched, "yes")] {
        assert_eq!((of_job(&left.outcomes, "succeeded"), of_job(&left.outcomes, "failed")), (20, 1));
        assert_eq!(left.outcomes.len(), 21, "{:?}", left.outcomes);
        assert_eq!(left.replies, ["failed"]);
        let [letter] = &left.letters[..] else { panic!("{:?}", left.letters) };
        assert_eq!(letter.id(), "job");
        assert_eq!(letter.header("resetd-reason").as_deref(), Some("worker_fault"));
        assert_eq!(letter.header("resetd-password-set").as_deref(), Some(set));
        assert_eq!(left.mails.len(), 20);
        left.assert_newest_logs_in();
        assert_eq!(left.sets(), if set == "yes" { 21 } else { 20 });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_a_job_that_pays_what_it_owes_makes_it_go_on_from_there_without_a_second_call() {
    let (told, recorded, replied) =
        tokio::join!(panics_at("notified", 1), panics_at("recorded", 1), panics_at("replied", 1));
    for left in [told, recorded, replied] {
        assert_eq!(left.outcomes, vec!["succeeded"; 21]);
        assert_eq!(left.replies, ["succeeded"]);
        assert_eq!((left.mails.len(), left.letters.len(), left.sets()), (21, 0, 21));
        left.assert_newest_logs_in();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_a_job_that_was_published_again_brings_its_delivery_back() {
    let world = prepared(PARKS).await;
    let worker = failing(&world, "again", "job", "panic").start();
    role_is(&worker.http().await, "active").await;
    keep_all(&world).await;
    // Sessions begin a second apart: it panics three times at most, and none of its copies has to run alone. (One that has to is
    // delivered twice, and where its job has succeeded here it is acked without a word.)
    publish(&world, &reset_body("u").to_string(), || parked(3)).await;
    // The delivery comes back while its copy is still parked.
    eventually("it is done", async || (world.depth("seen").await > 0).then_some(())).await;
    // Each panic left a copy parked and its delivery unsettled: so many there are, beside the first.
    let copies = || u32::try_from(1 + worker.stderr().matches("panic in the worker's own code").count()).unwrap();
    assert!(copies() > 1);
    eventually("all its copies are back", async || (world.depth("seen").await == copies()).then_some(())).await;
    let left = left(world, worker, 2).await;
    assert_eq!((&left.outcomes[0][..], of_job(&left.outcomes, "succeeded")), ("succeeded", 1));
    assert_eq!(of_job(&left.outcomes, "duplicate") + 1, left.outcomes.len());
    assert_eq!((left.world.main().stats().calls, left.mails.len(), left.letters.len()), (1, 1, 0));
    left.assert_newest_logs_in();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_jobs_whose_worker_is_killed_five_times_at_any_moment_are_all_done() {
    let keys = "rate_per_minute = 1200\nrequest_timeout = \"1s\"";
    let world = Plan::new().org("main", slow(), keys).prepare().await;
    let (mut active, http) = Process::worker(&world).await;
    role_is(&http, "active").await;
    let users = world.reset_many("main", 100).await;
    for _ in 0..5 {
        let (standby, http) = Process::worker(&world).await;
        let moment = Duration::from_millis(rand::random_range(50..800));
        eprintln!("killed {moment:?} after {} passwords were set", world.main().stats().password_sets);
        tokio::time::sleep(moment).await;
        active.kill().await;
        role_is(&http, "active").await;
        active = standby;
    }
    let records = world.recorded(100).await;
    // One that was done when its worker was killed may come last.
    eventually("both lanes are empty", async || (world.in_the_lanes().await == 0).then_some(())).await;
    assert_eq!(active.terminated().await.0, 0, "{}", active.stderr());
    let mut ends: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in records.iter().map(Taken::json) {
        let field = |name: &str| record[name].as_str().unwrap().to_owned();
        ends.entry(field("jobId")).or_default().push(field("outcome"));
    }
    for (job, ends) in &ends {
        assert_eq!(ends[0], "succeeded", "{job}");
        assert!(ends[1..].iter().all(|end| end == "duplicate"), "{job}: {ends:?}");
    }
    let mails = world.drained("emails").await;
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    let told: std::collections::BTreeSet<String> =
        mails.iter().map(|mail| mail.json()["userId"].as_str().unwrap().to_owned()).collect();
    assert_eq!(told, users.iter().cloned().collect());
    assert_eq!(world.in_the_lanes().await, 0);
    assert_eq!(world.depth("resets.main.dead").await, 0);
    let again = world.main().stats().password_sets - 100;
    eprintln!("{again} users were reset once more, {} mails", mails.len());
    // At 20 calls a second that take 50 ms at most, a kill finds a few between call and outcome.
    assert!(again <= 5 * 10, "{again}");
}
