//! Several workers of one configuration: one works the org, the others stand by, and two never call at once, whatever happens
//! to the one that works.

use std::path::Path;
use std::time::{Duration, Instant};

use lapin::options::{BasicGetOptions, BasicPublishOptions};
use resetd::amqp::names::Names;
use resetd::wire;
use serde_json::Value;

use crate::broker::Node;
use crate::door::Door;
use crate::operator::process::{Process, Run, other_queue, readyz, role, role_is, says, stopped};
use crate::relay::Relay;
use crate::world::{Plan, Tap, World, connect, declare, eventually, nobody_is_locked_out, slow, unlimited};

/// In the configuration of these tests.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
const PER_MINUTE: u32 = 600;
/// How far apart the permits of one limiter are at the least, but for two at once.
const PERIOD: Duration = Duration::from_millis(100);
/// How long after a worker's last renewal was sent it may still begin a call.
const FRESH: Duration = Duration::from_millis(1500);
/// How long a taker waits until the one before can do nothing more.
const LAST_DEEDS: Duration = Duration::from_secs(4);
/// As long as a call may be on its way until it is seen here, on a machine that is busy with other things.
const ON_ITS_WAY: Duration = Duration::from_secs(1);
/// Enough for ten seconds at the full rate, which outlasts the old holder's part.
const JOBS: usize = 100;

/// A worker in a process of its own, with a network and a door of its own.
pub struct Worker {
    pub process: Process,
    pub http: String,
    relay: Relay,
    door: Door,
}

impl Worker {
    async fn start(world: &World) -> Self {
        Self::of_binary(&crate::operator::process::binary(), world).await
    }

    pub async fn of_binary(binary: &Path, world: &World) -> Self {
        let (relay, door) = (Relay::to(&world.amqp_url), Door::to(&world.orgs["main"]).await);
        // So that the broker misses a silent one within some 5 s, and not 25 s.
        let url = format!("{}?heartbeat=2", relay.url());
        let base = &door.base;
        let own = format!(
            "[amqp]\nurl = {url:?}\n[orgs.main]\ntoken_url = \"{base}/oauth/token\"\nscim_url = \"{base}/api/v2/scim/v2\"\n"
        );
        let process = Run::of_binary(binary, &["--log", "json", "worker"]).configured(world).config(&own).start();
        let http = process.http().await;
        Self { process, http, relay, door }
    }

    /// So many of them: the first works the org, the others stand by.
    async fn several<const N: usize>(world: &World) -> [Self; N] {
        let mut several = Vec::new();
        for n in 0..N {
            let worker = Self::start(world).await;
            role_is(&worker.http, if n == 0 { "active" } else { "standby" }).await;
            several.push(worker);
        }
        several.try_into().ok().unwrap()
    }

    pub fn calls(&self) -> Vec<Instant> {
        self.door.calls()
    }

    /// Waits until it has made so many calls; the last of them has just come.
    async fn has_called(&self, times: usize) {
        eventually("it calls", async || (self.calls().len() >= times).then_some(())).await;
    }

    /// The log's lines with these words.
    fn said(&self, words: &str) -> Vec<Value> {
        let log = self.process.stderr();
        log.lines().filter(|line| line.contains(words)).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn waits(&self) -> usize {
        self.said("taking over: for ").len()
    }

    /// How long its last takeover took, from having the lease to the first job.
    fn took(&self) -> Duration {
        let said = self.said("active now");
        Duration::from_millis(said.last().expect("it took over")["took_ms"].as_u64().unwrap())
    }
}

pub fn plan(settings: sim::Settings) -> Plan {
    let keys = format!("rate_per_minute = {PER_MINUTE}\nrequest_timeout = \"{}s\"", REQUEST_TIMEOUT.as_secs());
    Plan::new().org("main", settings, &keys)
}

/// Of all the calls of both, no more came in any time than one limiter gives.
pub fn keep_the_quota(org: &sim::Org, workers: &[Worker]) {
    assert!(org.stats().peak_per_minute <= u64::from(PER_MINUTE));
    let mut calls: Vec<Instant> = workers.iter().flat_map(|worker| worker.calls()).collect();
    calls.sort();
    for (n, from) in calls.iter().enumerate() {
        for (more, to) in calls[n..].iter().enumerate() {
            let time = to.duration_since(*from) + ON_ITS_WAY;
            let most = 2 + time.as_millis() / PERIOD.as_millis();
            assert!(more as u128 <= most, "{more} calls and one more within {:?}", to.duration_since(*from));
        }
    }
}

/// One of these has made a call: which one, and when.
async fn next_to_call(workers: &[Worker]) -> (usize, Instant) {
    eventually("another calls", async || {
        workers.iter().enumerate().find_map(|(n, worker)| Some((n, *worker.calls().first()?)))
    })
    .await
}

/// What counts of several, on a machine that may be busy with other things.
fn quickest(took: &[Duration]) -> Duration {
    *took.iter().min().unwrap()
}

/// Two workers, and this befalls the one that works, in the middle of many jobs; it is healed when the other has called. The one before calls
/// no more by then.
async fn befalls(what: &str, fault: impl AsyncFn(&Worker), heal: fn(&Worker)) {
    let world = plan(slow()).prepare().await;
    let several @ [first, second] = &Worker::several(&world).await;
    let users = world.reset_many("main", JOBS).await;
    first.has_called(10).await;
    fault(first).await;
    // No renewal that is sent after this will succeed.
    let happened = Instant::now();
    second.has_called(1).await;
    heal(first);
    nobody_is_locked_out(&world, &users).await;
    role_is(&first.http, "standby").await;
    role_is(&second.http, "active").await;
    let (last, next) = (*first.calls().last().unwrap(), second.calls()[0]);
    let after = last.saturating_duration_since(happened);
    let took = next.duration_since(happened);
    eprintln!(
        "{what}: the last call {after:?} later, another's first {took:?} later; {} and {} calls",
        first.calls().len(),
        second.calls().len()
    );
    assert!(after < FRESH + ON_ITS_WAY, "{after:?}");
    assert!(last < next, "two call at once: {:?}", last.duration_since(next));
    assert_eq!(second.waits(), 1);
    keep_the_quota(world.main(), several);
}

/// Stops it right after a call. One that was being begun would go out when it is continued (ADR 6).
async fn stop_between_calls(worker: &Worker) {
    loop {
        let before = worker.calls();
        worker.process.signal("STOP");
        let is_soon_after = before.last().is_some_and(|last| last.elapsed() < PERIOD.mul_f64(0.6));
        let calls = worker.calls().len();
        if is_soon_after && calls == before.len() {
            return;
        }
        worker.process.signal("CONT");
        worker.has_called(calls + 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_workers_works_the_org_and_the_others_stand_by() {
    let world = plan(unlimited()).prepare().await;
    // Who attaches to a stream while it gets its first record may be handed nothing for a while (3.10).
    declare(&world.connection, &Names::new(&world.prefix, "main")).await;
    let ((body, properties), exchange) = (wire::batch::mark("first"), world.named("outcomes"));
    let (channel, options) = (world.channel().await, BasicPublishOptions::default());
    let sent = channel.basic_publish(exchange.as_str().into(), "main".into(), options, &body, properties).await;
    assert_eq!(sent.unwrap().await.unwrap(), lapin::Confirmation::Ack(None));
    let workers = tokio::join!(Worker::start(&world), Worker::start(&world), Worker::start(&world));
    let workers = [workers.0, workers.1, workers.2];
    let roles = eventually("one is active and the others stand by", async || {
        let mut roles = Vec::new();
        for worker in &workers {
            roles.push(role(&worker.http).await?);
        }
        let of = |wanted: &str| roles.iter().filter(|role| *role == wanted).count();
        assert!(of("active") <= 1, "{roles:?}");
        (of("active") == 1 && of("standby") == 2).then_some(roles)
    })
    .await;
    let users = world.reset_many("main", 20).await;
    nobody_is_locked_out(&world, &users).await;
    for (worker, role) in workers.iter().zip(roles) {
        let (status, said) = eventually("it answers", async || readyz(&worker.http).await).await;
        assert_eq!(
            (status, said["ready"].as_bool(), said["orgs"]["main"]["role"].as_str()),
            (200, Some(true), Some(&*role))
        );
        assert_eq!(worker.calls().len(), if role == "active" { users.len() } else { 0 }, "{role}");
    }
    let first = workers.iter().find(|worker| !worker.calls().is_empty()).unwrap();
    let took = first.took();
    eprintln!("a first start took {took:?} from the lease to the first job");
    assert_eq!(first.waits(), 0);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_another_of_three_works_within_request_timeout_and_4_s() {
    let world = plan(slow()).prepare().await;
    let mut others = Vec::from(Worker::several::<3>(&world).await);
    let users = world.reset_many("main", JOBS).await;
    let (mut before, mut took) = (vec![others.remove(0)], Vec::new());
    while let Some(first) = before.last_mut().filter(|_| !others.is_empty()) {
        first.has_called(10).await;
        let killed = Instant::now();
        first.process.kill().await;
        let (n, called) = next_to_call(&others).await;
        took.push(called.duration_since(killed));
        before.push(others.remove(n));
        for other in &others {
            role_is(&other.http, "standby").await;
            assert_eq!(other.calls().len(), 0);
        }
    }
    eprintln!("killed: another's first call came {took:?} later");
    assert!(took.iter().all(|took| *took >= LAST_DEEDS), "the one before may still be at work: {took:?}");
    assert!(quickest(&took) <= REQUEST_TIMEOUT + Duration::from_secs(4), "{took:?}");
    nobody_is_locked_out(&world, &users).await;
    role_is(&before[2].http, "active").await;
    keep_the_quota(world.main(), &before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_sigterm_another_of_three_works_within_a_second_and_nobody_is_set_twice() {
    let world = plan(slow()).prepare().await;
    let mut others = Vec::from(Worker::several::<3>(&world).await);
    let users = world.reset_many("main", 60).await;
    let (mut before, mut took) = (vec![others.remove(0)], Vec::new());
    while let Some(first) = before.last_mut().filter(|_| !others.is_empty()) {
        first.has_called(10).await;
        let asked = Instant::now();
        first.process.signal("TERM");
        let (n, called) = next_to_call(&others).await;
        took.push(called.duration_since(asked));
        assert_eq!(first.process.ended().await, 0);
        assert!(first.calls().last() < Some(&called));
        before.push(others.remove(n));
    }
    nobody_is_locked_out(&world, &users).await;
    let settled: Vec<Duration> = before.iter().map(Worker::took).collect();
    eprintln!("SIGTERM: another's first call came {took:?} later; from the lease to the first job: {settled:?}");
    assert!(quickest(&took) <= Duration::from_secs(1), "{took:?}");
    assert!(quickest(&settled[1..]) < Duration::from_millis(500), "{settled:?}");
    assert!(before.iter().all(|worker| worker.waits() == 0));
    assert!(users.iter().all(|user| world.main().user(user).unwrap().password_sets == 1));
    keep_the_quota(world.main(), &before);
}

/// The record that the org is given up cannot be published then: whoever comes next waits, and this one ends all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_an_alarm_ends_an_idle_worker_all_the_same() {
    let node = Node::lent().await;
    let world = Plan::at(node.url()).prepare().await;
    let (mut worker, _) = Process::worker(&world).await;
    node.tell("ctl set_vm_memory_high_watermark 0").await;
    let (code, took) = worker.terminated().await;
    node.tell("ctl set_vm_memory_high_watermark absolute 1GB").await;
    assert_eq!(code, 0, "{}", worker.stderr());
    assert!(took < Duration::from_secs(15), "{took:?} of a grace of 15 s");
    assert!(worker.stderr().contains("could not be released cleanly"), "{}", worker.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_stood_by_stays_where_somebody_must_fix_something_and_stands_by_again_when_they_did() {
    let world = plan(unlimited()).prepare().await;
    let [first, mut second] = Worker::several(&world).await;
    // Nobody uses it now; who declares it finds other arguments than its own.
    let wrong = other_queue(&world, "resets.main.parked.10m").await;
    second.relay.cut();
    let why = stopped(&second.http, "main").await;
    says(&why, &["resets.main.parked.10m", "PRECONDITION", "empty and delete it"]);
    assert_eq!(second.process.has_ended(), None);
    wrong.await;
    role_is(&second.http, "standby").await;
    role_is(&first.http, "active").await;
    assert_eq!(second.process.terminated().await.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_connections_are_reset_calls_no_more_before_another_does() {
    let fault = async |worker: &Worker| {
        worker.relay.refuse();
        worker.relay.cut();
    };
    befalls("reset", fault, |worker| worker.relay.heal()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_hears_nothing_of_its_connections_end_calls_no_more_before_another_does() {
    befalls("reset behind it", async |worker: &Worker| worker.relay.cut_behind(), |worker| worker.relay.heal()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_behind_a_stalled_network_calls_no_more_before_another_does() {
    befalls("stalled", async |worker: &Worker| worker.relay.stall(), |worker| worker.relay.heal()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_the_broker_does_not_hear_calls_no_more_before_another_does() {
    let fault = async |worker: &Worker| worker.relay.hold_there();
    befalls("half open, not heard", fault, |worker| worker.relay.heal()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_does_not_hear_the_broker_calls_no_more_before_another_does() {
    let fault = async |worker: &Worker| worker.relay.hold_back();
    befalls("half open, hears nothing", fault, |worker| worker.relay.heal()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_process_was_stopped_calls_no_more_before_another_does() {
    befalls("SIGSTOP", stop_between_calls, |worker| worker.process.signal("CONT")).await;
}

/// What it has set and could not publish is published by another connection, and then that it is done: nobody waits for its last calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_lost_its_connection_with_a_password_set_publishes_it_by_another_and_says_that_it_is_done() {
    let keys = "rate_per_minute = 600\nrequest_timeout = \"10s\"";
    let world = Plan::new().org("main", unlimited(), keys).prepare().await;
    let [first, second] = Worker::several(&world).await;
    world.main().hold_calls();
    let users = world.reset_many("main", 1).await;
    first.has_called(1).await;
    // From now on nothing of it reaches the broker.
    first.relay.hold_there();
    world.main().release_calls();
    eventually("the password is set", async || (world.main().stats().password_sets == 1).then_some(())).await;
    first.relay.refuse();
    first.relay.cut();
    let cut = Instant::now();
    eventually("the other takes over", async || (second.waits() == 1).then_some(())).await;
    first.relay.heal();
    role_is(&second.http, "active").await;
    let took = cut.elapsed();
    assert!(took < Duration::from_secs(9), "{took:?}: it waited for the calls of the one before, which takes 13 s");
    nobody_is_locked_out(&world, &users).await;
    assert_eq!(first.said("published what the lost connection had not confirmed").len(), 1);
    assert_eq!(world.main().user(&users[0]).unwrap().password_sets, 1);
    assert_eq!([&first, &second].map(|worker| worker.calls().len()), [1, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_loses_the_lease_while_it_settles_in_waits_again() {
    let world = plan(slow()).prepare().await;
    let [mut first, second] = Worker::several(&world).await;
    let users = world.reset_many("main", 30).await;
    first.has_called(5).await;
    first.process.kill().await;
    eventually("it settles in", async || (second.waits() == 1).then_some(())).await;
    second.relay.cut();
    let cut = Instant::now();
    second.has_called(1).await;
    let took = second.calls()[0].duration_since(cut);
    assert_eq!(second.waits(), 2, "its own name in the last fence is not enough");
    assert!(took >= LAST_DEEDS, "{took:?}");
    nobody_is_locked_out(&world, &users).await;
    keep_the_quota(world.main(), &[first, second]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_broker_was_killed_the_worker_before_is_first_and_finishes_without_a_second_call() {
    let node = Node::lent().await;
    let settings = sim::Settings { latency: Duration::from_millis(700), ..unlimited() };
    let mut world = Plan::at(node.url()).org("main", settings, "request_timeout = \"5s\"").prepare().await;
    let [first, second] = Worker::several(&world).await;
    // A topology younger than that may be lost with its broker (`docs/development/facts.md#a-broker-that-was-killed`); nothing tells of that, so here time does.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let users = world.reset_many("main", 10).await;
    eventually("all calls are in flight", async || (first.calls().len() == 10).then_some(())).await;
    node.end("kill").await;
    let third = Worker::start(&world).await;
    eventually("all passwords are set", async || (world.main().stats().password_sets == 10).then_some(())).await;
    eventually("the third has found no broker", async || {
        (!third.said("not consuming; retrying").is_empty()).then_some(())
    })
    .await;
    // A queue without a leader yet may hold up whoever comes first, and another goes on: they come when all is there.
    let relays = [&first, &second, &third].map(|worker| &worker.relay);
    relays.into_iter().for_each(Relay::refuse);
    node.start().await;
    eventually("the queues have their leaders", async || {
        let connection = connect(node.url()).await;
        let (dead, outcomes) = (world.named("resets.main.dead"), world.named("resets.outcomes"));
        let looked = async {
            let channel = connection.create_channel().await.ok()?;
            channel.basic_get(dead.as_str().into(), BasicGetOptions::default()).await.ok()?;
            Tap::replay(&channel, &outcomes).await.map(drop)
        };
        tokio::time::timeout(Duration::from_secs(2), looked).await.ok()?
    })
    .await;
    relays.into_iter().for_each(Relay::heal);
    world.connection = connect(node.url()).await;
    nobody_is_locked_out(&world, &users).await;
    role_is(&first.http, "active").await;
    role_is(&second.http, "standby").await;
    role_is(&third.http, "standby").await;
    assert_eq!([&first, &second, &third].map(|worker| worker.calls().len()), [10, 0, 0]);
    assert!(users.iter().all(|user| world.main().user(user).unwrap().password_sets == 1));
    assert_eq!(first.waits(), 0);
}
