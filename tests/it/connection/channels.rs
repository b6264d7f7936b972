//! A broker that allows a connection few channels: nothing that it refuses again and again uses them up, and what needs more than there
//! are says so at its start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Connection, Consumer};
use resetd::amqp::channels::{CANDIDATE, Needs, READING, REFUSALS};
use resetd::amqp::depths::Depths;
use resetd::amqp::link::Link;
use resetd::amqp::names::Names;
use resetd::amqp::publisher::{Message, Publisher, Unpublished};
use resetd::amqp::registration::Registration;
use resetd::amqp::topology::{self, Thing};
use resetd::commands::demo::postbox::Postbox;
use resetd::config::amqp::{Amqp, Tls, Used};
use resetd::domain::delay_tier::Delays;
use resetd::domain::job::Lane;
use tokio::net::TcpListener;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::broker::{Broker, Node};
use crate::mails::mailer;
use crate::operator::process::{Process, Run, ends, other_queue, role_is, says, stopped};
use crate::relay::Relay;
use crate::world::{LIMIT, Plan, connect, eventually, named, unlimited};

/// What the small node allows a connection.
const FEW: usize = 40;

/// The node that these tests share.
async fn small() -> &'static Broker {
    static NODE: OnceCell<Broker> = OnceCell::const_new();
    let start = || Broker::shared_with("few-channels", &format!("channel_max = {FEW}"));
    NODE.get_or_init(async || tokio::task::spawn_blocking(start).await.unwrap()).await
}

/// The lines of the node's log with these words.
fn logged(node: &Broker, words: &str) -> usize {
    lines(node, |line| line.contains(words))
}

fn lines(node: &Broker, is_one: impl Fn(&str) -> bool) -> usize {
    std::fs::read_to_string(node.folder().join("log")).unwrap().lines().filter(|line| is_one(line)).count()
}

/// A process that seems to lead: this test, which is told of each ping.
struct Holder {
    connection: Connection,
    pings: Vec<Consumer>,
}

impl Holder {
    async fn of(node: &Broker, names: &Names) -> Self {
        let connection = connect(&node.url).await;
        let delays = Delays::default();
        for things in [topology::things(names, &delays), topology::mailers_things(names, &delays)] {
            topology::declare(&connection, &things).await.unwrap();
        }
        let channel = connection.create_channel().await.unwrap();
        let mut pings = Vec::new();
        for queue in [names.leader(), names.emails_leader()] {
            let unacked = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
            let consumer = channel.basic_consume(queue.as_str().into(), "".into(), unacked, FieldTable::default());
            pings.push(consumer.await.unwrap());
        }
        Self { connection, pings }
    }

    /// Waits until so many pings came to each queue from now on.
    async fn pinged(&mut self, times: usize) {
        for pings in &mut self.pings {
            let pinged = pings.by_ref().take(times).for_each(|ping| async { drop(ping.unwrap()) });
            timeout(LIMIT, pinged).await.expect("who stands by pings again and again");
        }
    }

    async fn withdraws(self) {
        self.connection.close(200, "bye".into()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_and_a_mailer_that_pinged_more_often_than_there_are_channels_still_take_over() {
    let node = small().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let world = Plan::at(&node.url).config(&mailer::section(port)).prepare().await;
    let _serving = mailer::serve(&Postbox::new(), listener).await;
    let names = Names::new(&world.prefix, "main");
    let mut holder = Holder::of(node, &names).await;
    let worker = Run::of(&world, &["--log", "json", "worker"]).start();
    let mails = Run::of(&world, &["--log", "json", "mailer"]).start();
    let (worker_http, mails_http) = (worker.http().await, mails.http().await);
    role_is(&worker_http, "standby").await;
    mailer::role_is(&mails_http, "standby").await;
    holder.pinged(FEW + 1).await;
    let refusals = lines(node, |line| line.contains("exception") && line.contains(&world.prefix));
    role_is(&worker_http, "standby").await;
    mailer::role_is(&mails_http, "standby").await;
    let released = Instant::now();
    holder.withdraws().await;
    role_is(&worker_http, "active").await;
    mailer::role_is(&mails_http, "active").await;
    let took = released.elapsed();
    eprintln!("withdrawn: both were active {took:?} later");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(refusals, 0, "who stands by is refused nothing");
}

/// The broker's part of it: such a message is confirmed where the queue is, though another connection has it to itself, and stays nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_at_a_lease_leaves_nothing_in_its_queue_and_comes_back_without_one() {
    let node = small().await;
    let (holder, looking) = (connect(&node.url).await, connect(&node.url).await);
    let lease = format!("t{}.lease", uuid::Uuid::new_v4().simple());
    let channel = holder.create_channel().await.unwrap();
    let declare = async |passive| {
        let options = QueueDeclareOptions { exclusive: true, passive, ..QueueDeclareOptions::default() };
        channel.queue_declare(lease.as_str().into(), options, FieldTable::default()).await.unwrap()
    };
    declare(false).await;
    let publisher = Publisher::open(Arc::new(looking)).await.unwrap();
    let properties = named("look").with_expiration("0".into());
    let look = Message { exchange: "", key: &lease, body: b"", properties };
    for _ in 0..20 {
        assert_eq!(publisher.publish(&look).await, Ok(()));
    }
    eventually("nothing lies there", async || (declare(true).await.message_count() == 0).then_some(())).await;
    holder.close(200, "bye".into()).await.unwrap();
    eventually("the queue is gone", async || publisher.publish(&look).await.err()).await;
    assert!(matches!(publisher.publish(&look).await, Err(Unpublished::Returned { .. })));
}

async fn linked(url: &str) -> Link {
    let needs = Needs { channels: 2, publishers: 1, who: "the test".into(), or: "" };
    Link::open(&amqp(url), "test", &needs).await.unwrap()
}

/// A link of one that stands by, or leads, and its registration with whatever is proved by that.
async fn candidate(url: &str, names: &Names) -> (Link, Registration) {
    let link = linked(url).await;
    link.declare(&topology::things(names, &Delays::default())).await.unwrap();
    let registration = Registration::open(&link, names.leader()).await.unwrap();
    (link, registration)
}

/// A dead-letter queue for every queue of a virtual host is a common policy. A ping is acked, and is no dead letter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_are_nobodys_dead_letters_whatever_a_policy_says() {
    let node = Node::lent().await;
    let connection = connect(node.url()).await;
    let channel = connection.create_channel().await.unwrap();
    let names = Names::new(&format!("t{}.", uuid::Uuid::new_v4().simple()), "main");
    let (dead, other) = (names.of("dead").leader(), names.of("other").leader());
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    for queue in [&dead, &other] {
        channel.queue_declare(queue.as_str().into(), exclusive, FieldTable::default()).await.unwrap();
    }
    let arguments = format!("{{\"dead-letter-exchange\":\"\",\"dead-letter-routing-key\":\"{dead}\"}}");
    node.tell(format!("ctl set_policy DLX .* {arguments}")).await;
    let (_leading, leader) = candidate(node.url(), &names).await;
    let chain = timeout(LIMIT, leader.proof().chain()).await.expect("it leads");
    assert!(leader.proof().accept(chain));
    let (_standing_by, standby) = candidate(node.url(), &names).await;
    eventually("it pings", async || standby.proof().confirmed_at()).await;
    // The policy is in force, and what it has in store for others comes after all that was published before.
    let publisher = Publisher::open(Arc::new(connect(node.url()).await)).await.unwrap();
    let properties = named("look").with_expiration("0".into());
    publisher.publish(&Message { exchange: "", key: &other, body: b"other", properties }).await.unwrap();
    let unacked = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut letters =
        channel.basic_consume(dead.as_str().into(), "".into(), unacked, FieldTable::default()).await.unwrap();
    let first = timeout(LIMIT, letters.next()).await.expect("the other's is dead-lettered").unwrap().unwrap();
    node.tell("ctl clear_policy DLX").await;
    assert_eq!(first.data, b"other", "a ping is a dead letter");
    timeout(LIMIT, leader.proof().chain()).await.expect("its pings come back");
    assert_eq!(standby.proof().age(), None);
    leader.withdraw(&publisher).await;
    timeout(LIMIT, standby.proof().chain()).await.expect("the next one leads");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_that_was_halted_more_often_than_there_are_channels_goes_on_when_it_is_fixed() {
    let node = small().await;
    let relay = Relay::to(&node.url);
    let mut world = Plan::at(relay.url()).trying_again_after(Duration::from_millis(2)).prepare().await;
    world.connection = connect(&node.url).await;
    let names = Names::new(&world.prefix, "main");
    let holder = Holder::of(node, &names).await;
    let http = world.start_worker().await.http.clone();
    role_is(&http, "standby").await;
    let queue = "resets.main.parked.10m";
    let wrong = other_queue(&world, queue).await;
    relay.cut();
    says(&stopped(&http, "main").await, &[queue, "PRECONDITION"]);
    let refused = format!("for queue '{}'", world.named(queue));
    eventually("it was refused more often than there are channels", async || {
        (logged(node, &refused) > FEW).then_some(())
    })
    .await;
    wrong.await;
    role_is(&http, "standby").await;
    holder.withdraws().await;
    role_is(&http, "active").await;
    let users = world.reset_many("main", 10).await;
    assert!(world.recorded(users.len()).await.iter().all(|record| record.routing_key == "main.succeeded"));
    world.stop_worker().await.unwrap();
}

fn amqp(url: &str) -> Amqp {
    Amqp {
        url: url.to_owned().into(),
        hosts: Vec::new(),
        used: Used::default(),
        management_url: None,
        prefix: String::new(),
        prefetch: 1,
        tls: Tls::default(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_given_up_before_refusals_have_used_up_their_channels() {
    let node = small().await;
    let needs = Needs { channels: 16, publishers: 1, who: "the test".into(), or: "" };
    let open = async || Link::open(&amqp(&node.url), "test", &needs).await.unwrap();
    let nowhere = Message { exchange: "resetd.no.such.exchange", key: "", body: b"", properties: named("m") };
    let link = open().await;
    let publisher = Publisher::of(Arc::clone(&link.pool));
    let mut refused = 0;
    while !link.lost().is_cancelled() {
        let said = publisher.publish(&nowhere).await.expect_err("there is no such exchange").to_string();
        says(&said, &["resetd.no.such.exchange"]);
        refused += 1;
    }
    eprintln!("the publishing connection was given up after {refused} refusals of {FEW} channels");
    assert!((2..FEW).contains(&refused), "{refused}");
    let (link, mut refused) = (open().await, 0);
    while !link.lost().is_cancelled() {
        let declared = link.consuming.create_channel().await.unwrap();
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        declared.queue_declare("resetd.no.such.queue".into(), passive, FieldTable::default()).await.unwrap_err();
        refused += 1;
    }
    eprintln!("the consuming connection was given up after {refused}");
    assert!((2..FEW).contains(&refused), "{refused}");
}

fn queue_of_kind(name: &str, kind: &str) -> Thing {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), lapin::types::AMQPValue::LongString(kind.into()));
    Thing::Queue { name: name.to_owned(), arguments }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_whose_queues_are_right_does_not_make_anothers_refusals_cost_channels_again() {
    let node = small().await;
    let link = linked(&node.url).await;
    let name = format!("t{}", uuid::Uuid::new_v4().simple());
    let (right, wrong) = (queue_of_kind(&name, "classic"), queue_of_kind(&name, "quorum"));
    for _ in 0..FEW {
        link.declare(std::slice::from_ref(&right)).await.unwrap();
        let refused = link.declare(std::slice::from_ref(&wrong)).await;
        says(&refused.expect_err("it is of another kind").to_string(), &[&name, "PRECONDITION"]);
        assert!(!link.lost().is_cancelled(), "the link is replaced");
    }
    let channel = link.consuming.create_channel().await.unwrap();
    channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_declared_under_an_alarm_asks_for_no_channel() {
    let node = Node::lent().await;
    let link = linked(node.url()).await;
    node.tell("ctl set_vm_memory_high_watermark 0").await;
    eventually("the alarm is felt", async || link.heartbeat.is_blocked().then_some(())).await;
    let begun = Instant::now();
    let declared = link.declare(&[queue_of_kind("never", "classic")]).await;
    let took = begun.elapsed();
    node.tell("ctl set_vm_memory_high_watermark absolute 1GB").await;
    says(&declared.expect_err("nothing is declared").to_string(), &["resource alarm"]);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// Each place stands for a message whose queue does not answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_org_whose_queue_does_not_answer_leaves_three_quarters_of_the_places_to_others() {
    let node = small().await;
    let needs = Needs { channels: 2, publishers: 2, who: "the test".into(), or: "" };
    let link = Link::open(&amqp(&node.url), "test", &needs).await.unwrap();
    let (hanging, other) = (Publisher::of(Arc::clone(&link.pool)), Publisher::of(Arc::clone(&link.pool)));
    let mut places = vec![timeout(LIMIT, hanging.place()).await.expect("there is a place").unwrap()];
    while let Ok(place) = timeout(Duration::from_secs(1), hanging.place()).await {
        places.push(place.unwrap());
    }
    assert!((1..=FEW / 8).contains(&places.len()), "{} of at most {}", places.len(), FEW / 2);
    let nobody = Message { exchange: "", key: "nobody", body: b"", properties: named("m") };
    let published = timeout(Duration::from_secs(5), other.publish(&nobody)).await.expect("there is a place");
    assert!(matches!(published, Err(Unpublished::Returned { .. })), "{published:?}");
    // A place that was not used is given back with its channel.
    places.clear();
    let published = timeout(Duration::from_secs(5), hanging.publish(&nobody)).await.expect("there is a place again");
    assert!(matches!(published, Err(Unpublished::Returned { .. })), "{published:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_channel_left_is_closed_and_says_so() {
    let node = small().await;
    let connection = Arc::new(connect(&node.url).await);
    let mut open = Vec::new();
    for _ in 0..FEW {
        open.push(connection.create_channel().await.unwrap());
    }
    let trouble = Publisher::open(Arc::clone(&connection)).await.expect_err("no channel is left");
    says(&trouble.to_string(), &["no channel is left", "channel_max"]);
    assert!(!connection.status().connected());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_whose_channel_was_refused_is_passed_over() {
    let node = small().await;
    let connection = Arc::new(connect(&node.url).await);
    for _ in 0..FEW - 2 {
        let channel = connection.create_channel().await.unwrap();
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare("resetd.no.such.queue".into(), passive, FieldTable::default()).await.unwrap_err();
    }
    // Two channels are left, behind all that were refused.
    let message = Message { exchange: "", key: "resetd.no.such.queue", body: b"", properties: named("m") };
    for _ in 0..2 {
        let publisher = Publisher::open(Arc::clone(&connection)).await.unwrap();
        assert!(matches!(publisher.publish(&message).await, Err(Unpublished::Returned { .. })));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_orgs_of_one_worker_publish_at_once_over_hardly_more_channels_than_they_need() {
    let channels = READING + 30 * (CANDIDATE + Lane::COUNT) + REFUSALS + 7;
    let limit = format!("channel_max = {channels}");
    let node = tokio::task::spawn_blocking(move || Broker::private_with(&limit)).await.unwrap();
    let mut plan = Plan::at(&node.url);
    for n in 0..30 {
        plan = plan.org(&format!("org{n}"), unlimited(), "");
    }
    let world = plan.prepare().await;
    let (mut worker, _) = Process::worker(&world).await;
    // Before that a stream that many declare at once may have closed its connection (541).
    let begun = worker.stderr().len();
    let jobs = futures_util::future::join_all(world.orgs.keys().map(|org| world.reset_many(org, 60))).await;
    let records = world.recorded(jobs.iter().map(Vec::len).sum()).await;
    assert!(records.iter().all(|record| record.routing_key.ends_with(".succeeded")));
    assert_eq!(worker.terminated().await.0, 0);
    let log = &worker.stderr()[begun..];
    for trouble in ["could not be confirmed", "not consuming", "no channel is left"] {
        assert!(!log.contains(trouble), "{trouble}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orgs_that_need_more_channels_than_the_broker_allows_end_with_2_and_both_numbers() {
    let node = small().await;
    let mut plan = Plan::at(&node.url);
    for n in 0..20 {
        plan = plan.org(&format!("org{n}"), unlimited(), "");
    }
    let world = plan.prepare().await;
    let needed = (READING + 20 * (CANDIDATE + Lane::COUNT) + REFUSALS).to_string();
    let parts = ["20 orgs", &needed, &FEW.to_string(), "channel_max", "divide the orgs"];
    ends(Run::of(&world, &["worker"]), 2, &parts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_whose_queues_are_missing_keeps_nobody_from_seeing_the_others_and_is_asked_for_seldom() {
    let node = small().await;
    let world = Plan::at(&node.url).prepare().await;
    let (there, absent) = (Names::new(&world.prefix, "main"), Names::new(&world.prefix, "absent"));
    crate::world::declare(&world.connection, &there).await;
    let lane = absent.lane(Lane::Interactive);
    let depths = Depths::new(BTreeMap::from([("main".to_owned(), there), ("absent".to_owned(), absent)]));
    let connection = connect(&node.url).await;
    let watched = depths.clone();
    let _looking = depths.looking();
    let began = Instant::now();
    let following = tokio::spawn(async move { watched.follow(&connection).await });
    let mut last = None;
    for _ in 0..3 {
        let newer = async || depths.of("main").map(|depth| depth.at).filter(|at| last.is_none_or(|last| *at > last));
        last = Some(eventually("what lies there is known anew", newer).await);
    }
    following.abort();
    assert_eq!(depths.of("absent"), None);
    let asked = logged(node, &format!("no queue '{lane}'"));
    // Once, and again 2, 6, 14 and 30 s later.
    let again = [2, 6, 14, 30].into_iter().filter(|after| began.elapsed() >= Duration::from_secs(*after)).count();
    assert!((1..=1 + again).contains(&asked), "asked {asked} times for a queue that is not there");
}
