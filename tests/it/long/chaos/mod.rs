//! Some thousands of jobs while everything breaks: workers, network, broker and org. `make chaos` runs it; what it does is
//! decided from a seed, and the seed is the first thing it prints.

mod plan;

mod producer;

mod faults;

mod mails;

mod check;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;

use tokio::time::Instant;

use self::check::{Check, Records};
use self::faults::{Diary, Member};
use self::mails::Post;
use self::plan::{Kind, Plan, Setup};
use crate::broker::Broker;
use crate::operator::process::{role, role_is};
use crate::relay::Relay;
use crate::world::{self, Taken};

const CLIENT_SECRET: &str = "CHAOSCLIENTSECRET-77aa";
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_ATTEMPTS: u64 = 8;
const GRACE: Duration = Duration::from_secs(10);
/// After the last fault one may still be taking over.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(15);
/// A queue of the run's own that gets each message of a job too: those of the producer, those that a worker publishes again, and those that
/// come back from a delay queue.
const JOBS: &str = "chaos.jobs";

/// The org: a quota a little over the rate, users that exist, a latency as of a near region.
async fn prepare(setup: &Setup, plan: &Plan, url: &str, post: &Post) -> world::World {
    let rate = setup.rate_per_minute();
    let users = plan.jobs.iter().filter(|job| job.kind != Kind::UnknownUser).map(|job| job.user.clone());
    let settings = sim::Settings {
        client_secret: CLIENT_SECRET.into(),
        quota: u32::try_from(rate + rate / 10).unwrap(),
        latency: Duration::from_millis(20),
        latency_jitter: Duration::from_millis(60),
        users: Some(users.collect()),
        ..sim::Settings::default()
    };
    let answer = REQUEST_TIMEOUT.as_secs();
    let keys = format!(
        "rate_per_minute = {rate}\nguard_per_hour = {}\nrequest_timeout = \"{answer}s\"",
        setup.guard_per_hour()
    );
    // Laid over the quick one: tries that outlast a fault of a second.
    let config = format!(
        "[retry]\nbase = \"100ms\"\nmax = \"2s\"\nmax_attempts = {MAX_ATTEMPTS}\n[shutdown]\ngrace = \"{}s\"",
        GRACE.as_secs()
    );
    world::Plan::at(url).org("main", settings, &keys).config(&config).config(&mails::config(post)).prepare().await
}

/// A queue of the run's own that gets a copy of whatever goes through this exchange by these keys.
async fn copied(world: &world::World, queue: &str, exchange: &str, keys: &[&str]) {
    let channel = world.channel().await;
    let (queue, exchange) = (world.named(queue), world.named(exchange));
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), world::text("quorum"));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.as_str().into(), durable, quorum).await.unwrap();
    for key in keys {
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        channel
            .queue_bind(queue.as_str().into(), exchange.as_str().into(), (*key).into(), options, none)
            .await
            .unwrap();
    }
}

/// The first one works the org, the others stand by.
async fn start(world: &world::World, relays: &[Relay]) -> Vec<Member> {
    let mut several = Vec::new();
    for (n, relay) in relays.iter().enumerate() {
        let member = Member::start(n, world, relay);
        role_is(&member.process.http().await, if n == 0 { "active" } else { "standby" }).await;
        several.push(member);
    }
    several
}

async fn one_is_active(several: &[Member]) -> Option<String> {
    let deadline = Instant::now() + TAKEN_OVER_WITHIN;
    loop {
        let mut roles = Vec::new();
        for member in several {
            let http = member.process.http().await;
            roles.push(role(&http).await.unwrap_or_else(|| "silent".to_owned()));
        }
        let is_so = roles.iter().filter(|role| *role == "active").count() == 1
            && roles.iter().all(|role| ["active", "standby"].contains(&role.as_str()));
        if is_so {
            return None;
        }
        if Instant::now() >= deadline {
            return Some(format!("one worker should be active and the others stand by; they are {roles:?}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: make chaos"]
async fn jobs_of_every_kind_end_as_they_must_while_everything_breaks() {
    let setup = Setup::from_environment();
    eprintln!("to repeat: {}", setup.command());
    let plan = Plan::new(&setup);
    let broker = Arc::new(tokio::task::spawn_blocking(Broker::private).await.unwrap());
    let post = Post::open().await;
    let mut world = prepare(&setup, &plan, &broker.url, &post).await;
    let relays: Vec<Relay> = (0..setup.workers).map(|_| Relay::to(&broker.url)).collect();
    let mut several = start(&world, &relays).await;
    let mut mailer = mails::start(&world).await;
    copied(&world, JOBS, "resets", &["main", "main.bulk"]).await;
    // A topology younger than that may be lost with its broker (`docs/development/facts.md#a-broker-that-was-killed`).
    tokio::time::sleep(Duration::from_secs(5)).await;

    let (start, began) = (Instant::now(), Timestamp::now());
    let diary = Diary::new(start, setup.seconds);
    let exchange = world.named("resets");
    let (again, ..) = tokio::join!(
        producer::produce(&broker.url, &exchange, &plan.jobs, began, start),
        faults::processes(&plan.processes, &world, &relays, &mut several, &diary),
        faults::network(&plan.network, &relays, &diary),
        faults::node(&plan.node, &broker, &diary),
        faults::org(&plan.org, world.main(), &diary),
        faults::mail(&plan.mail, &post, &diary),
    );
    eprintln!("{:6.1} s  all is healed and published ({} more than once)", start.elapsed().as_secs_f64(), again.len());

    world.connection = world::connect(&broker.url).await;
    let mut records = Records::open(&world).await;
    let unsettled = records.settle(&world, &plan.jobs).await;
    eprintln!("{:6.1} s  settled, or given up", start.elapsed().as_secs_f64());
    let mut wrong = unsettled;
    wrong.extend(check::published_again(&world, &mut records, &plan.jobs, began).await);
    wrong.extend(one_is_active(&several).await);
    for member in &mut several {
        member.alive(&diary);
        wrong.extend(member.terminate(GRACE).await);
        member.logs.push(member.process.stderr());
    }
    let copies = world.drained(mails::COPIES).await;
    wrong.extend(records.told(&copies).await);
    let (code, took) = mailer.terminated().await;
    if code != 0 || took > GRACE + Duration::from_secs(1) {
        wrong.push(format!("the mailer ended {took:.1?} after SIGTERM with exit code {code}"));
    }
    wrong.append(&mut diary.wrong.lock().unwrap());
    let mut logs: Vec<String> = several.into_iter().map(|member| member.logs.join("")).collect();
    logs.push(mailer.stderr());
    let mails = (copies.iter().map(Taken::json).collect(), post.letters());
    let check = Check::gather(&world, &plan.jobs, again, records, &diary, logs, mails).await;
    wrong.extend(check.all(&setup));
    if !wrong.is_empty() {
        let kept = check.keep(setup.seed);
        panic!(
            "{} things are wrong:\n- {}\nlogs and outcomes are in {}\nto repeat: {}",
            wrong.len(),
            wrong.join("\n- "),
            kept.display(),
            setup.command()
        );
    }
}
