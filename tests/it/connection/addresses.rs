//! Several addresses of one cluster: a dead one, a silent one, one that is lost; and what is said of each.

use std::time::{Duration, Instant};

use resetd::amqp::error::BrokerError;
use resetd::amqp::link;
use resetd::config::amqp::{Amqp, Used};

use crate::certificates::Authority;
use crate::operator::process::{Process, Run, ends, ready, says};
use crate::relay::Relay;
use crate::world::{Plan, World, eventually};

/// Nobody listens there.
const DEAD: &str = "127.0.0.1:1";
/// A worker that lost its node is connected again within so long where another is there: `docs/contract.md#several-addresses`.
const AGAIN: Duration = Duration::from_secs(3);

/// `host:port` of a URL.
fn place(url: &str) -> String {
    let url = reqwest::Url::parse(url).unwrap();
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap())
}

/// The keys that lay these addresses over a world's own: the first one in the URL.
fn keys(url: &str, hosts: &[&str]) -> String {
    format!("[amqp]\nurl = {url:?}\nhosts = {hosts:?}\n")
}

/// A URL of the shared broker with another place in it.
fn at(world: &World, other: &str) -> String {
    world.amqp_url.replace(&place(&world.amqp_url), other)
}

fn section(world: &mut World, keys: &str) -> Amqp {
    world.config += keys;
    world.load().amqp
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_lost_its_node_is_connected_elsewhere_within_three_seconds_and_back_again() {
    let mut world = Plan::new().prepare().await;
    let relays = [Relay::to(&world.amqp_url), Relay::to(&world.amqp_url)];
    world.config += &keys(relays[0].url(), &[&place(relays[1].url()), DEAD]);
    world.start_worker().await;
    world.ready().await;
    world.reset("main", "u-0", "job-0").await;
    world.recorded(1).await;
    for round in 1..=3 {
        let used = usize::from(relays[1].connections() > 0);
        let (lost, other) = (&relays[used], &relays[1 - used]);
        assert_eq!(other.connections(), 0, "both of its connections go to one node");
        // The node is gone, or says nothing any more.
        if round == 2 {
            lost.stall()
        } else {
            lost.refuse()
        }
        let began = Instant::now();
        lost.cut();
        eventually("it is connected elsewhere", async || (other.connections() >= 2).then_some(())).await;
        assert!(began.elapsed() < AGAIN, "round {round}: {:?}", began.elapsed());
        world.reset("main", &format!("u-{round}"), &format!("job-{round}")).await;
        world.recorded(round + 1).await;
        lost.heal();
        eventually("it is left", async || (lost.connections() == 0).then_some(())).await;
    }
    world.stop_worker().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_say_nothing_or_refuse_hold_a_connection_up_for_a_second_each_at_most() {
    let mut world = Plan::new().prepare().await;
    let silent = [Relay::to(&world.amqp_url), Relay::to(&world.amqp_url)];
    silent.iter().for_each(Relay::stall);
    let own = place(&world.amqp_url);
    let silent_places = [place(silent[0].url()), place(silent[1].url())];
    let keys = keys(&at(&world, DEAD), &["127.0.0.1:2", &silent_places[0], &silent_places[1], &own]);
    let amqp = section(&mut world, &keys);
    for _ in 0..4 {
        let fresh = Amqp { used: Used::default(), ..amqp.clone() };
        let began = Instant::now();
        let connection = link::connect(&fresh, "test").await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        let used: Vec<String> = fresh.used.all().iter().map(ToString::to_string).collect();
        assert_eq!(used.join(" "), own);
        connection.close(200, "bye".into()).await.unwrap();
    }
    // What was tried in vain is let go: a relay that is stalled does not see that.
    silent.iter().for_each(Relay::heal);
    eventually("they are gone", async || silent.iter().all(|relay| relay.connections() == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_address_answers_all_are_named_and_a_wrong_password_stays_wrong() {
    let mut world = Plan::new().prepare().await;
    let nobody = keys(&at(&world, DEAD), &["127.0.0.1:2", "nowhere.invalid"]);
    let (code, _, err) = Run::of(&world, &["dead", "list"]).config(&nobody).end().await;
    assert_eq!(code, 1, "{err}");
    let words = err.replace("Temporary failure in name resolution", "Name or service not known");
    insta::assert_snapshot!("no address answers", words.trim());

    let relay = Relay::to(&world.amqp_url);
    let wrong = world.amqp_url.replace("guest:guest", "guest:wrong-s3cr3t");
    let amqp = section(&mut world, &keys(&wrong, &[&place(relay.url())]));
    let refused = link::connect(&amqp, "test").await.unwrap_err();
    assert!(matches!(refused, BrokerError::NeedsOperator(_)), "{refused:?}");
    says(&refused.to_string(), &["ACCESS_REFUSED", &place(&world.amqp_url), &place(relay.url()), "correct user"]);
    assert!(!refused.to_string().contains("s3cr3t"), "{refused}");
    // One that is down may be the one that is well: nothing ends over it.
    relay.refuse();
    let refused = link::connect(&amqp, "test").await.unwrap_err();
    assert!(matches!(refused, BrokerError::Retry(_)), "{refused:?}");
    says(&refused.to_string(), &["ACCESS_REFUSED", &place(relay.url()), "correct user"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_goes_on_by_the_addresses_that_answer_and_check_names_the_dead() {
    let postbox = resetd::commands::demo::postbox::Postbox::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mails = crate::mails::mailer::section(listener.local_addr().unwrap().port());
    let _serving = crate::mails::mailer::serve(&postbox, listener).await;
    let world = Plan::new().config(&mails).prepare().await;
    let own = place(&world.amqp_url);
    let others = keys(&at(&world, DEAD), &["127.0.0.1:2", &own]);
    let mut worker: Process = Run::of(&world, &["--log", "json", "worker"]).config(&others).start();
    ready(&worker.http().await).await;
    says(&worker.stderr(), &[&format!("connected to {own}")]);
    let mut mailer = Run::of(&world, &["--log", "json", "mailer"]).config(&others).start();
    crate::mails::mailer::role_is(&mailer.http().await, "active").await;
    let csv = "userId,email\nu-1,u-1@example.com\n";
    let enqueue = Run::of(&world, &["enqueue", "--batch", "b", "--wait", "-"]).config(&others).stdin(csv);
    let (code, out, err) = enqueue.end().await;
    assert_eq!(code, 0, "{out}{err}");
    eventually("the mail came", async || (postbox.letters().len() == 1).then_some(())).await;
    for arguments in [&["dead", "list"][..], &["batch", "b"]] {
        let (code, out, err) = Run::of(&world, arguments).config(&others).end().await;
        assert_eq!(code, 0, "{arguments:?}: {out}{err}");
    }
    let (code, out, err) = Run::of(&world, &["check"]).config(&others).end().await;
    assert_eq!(code, 0, "a worker goes on: {out}{err}");
    let lines: Vec<&str> = out.lines().skip_while(|line| !line.contains("  addresses  ")).take(2).collect();
    insta::assert_snapshot!("one address of several answers", lines.join("\n").replace(&own, "BROKER"));
    let all = keys(&world.amqp_url, &[&own]);
    let (code, out, _) = Run::of(&world, &["check"]).config(&all).end().await;
    assert_eq!(code, 0, "{out}");
    assert!(!out.contains("  addresses  "), "the same one twice is one: {out}");
    let none = keys(&at(&world, DEAD), &["127.0.0.1:2"]);
    let (code, out, _) = Run::of(&world, &["check"]).config(&none).end().await;
    assert_eq!(code, 1, "{out}");
    says(&out, &["FAIL  broker", "broker at 127.0.0.1:1", "broker at 127.0.0.1:2", "start RabbitMQ"]);
    assert_eq!((worker.terminated().await.0, mailer.terminated().await.0), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_address_ends_with_2_and_is_named() {
    for hosts in ["[\"::1\"]", "[\"a b\"]", "\"rabbit-2,rabbit-3:0\""] {
        let run = Run::new(&["dead", "list"]).config(&format!("[amqp]\nhosts = {hosts}\n"));
        ends(run, 2, &["amqp.hosts is ", "host or host:port", "[fd00::2]:5672"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certificate_is_checked_for_the_host_that_is_tried() {
    let authority = Authority::new();
    let broker = crate::connection::tls::broker(&authority);
    let world = Plan::at(&broker.url).prepare().await;
    let (certificate, key) = authority.issue("worker", "DNS:worker", "2");
    let (ca, port) = (authority.certificate(), broker.tls_port());
    let section = |host: &str, other: &str| {
        let section = crate::connection::tls::section(&broker, host, Some(&ca), Some((&certificate, &key)));
        let section = section.replace(&format!("resetd:{}", crate::connection::tls::PASSWORD), "guest:guest");
        format!("{section}hosts = [\"{other}:{port}\"]\n")
    };
    // Its certificate names 127.0.0.1 and no other.
    for (host, other) in [("127.0.0.1", "localhost"), ("localhost", "127.0.0.1")] {
        let mut worker: Process = Run::of(&world, &["--log", "json", "worker"]).config(&section(host, other)).start();
        ready(&worker.http().await).await;
        says(&worker.stderr(), &[&format!("connected to 127.0.0.1:{port}")]);
        let (code, out, err) = Run::of(&world, &["check"]).config(&section(host, other)).end().await;
        assert_eq!(code, 0, "{out}{err}");
        says(&out, &["warn  addresses", "1 of 2 answer", "localhost", "certificate not valid for name"]);
        assert_eq!(worker.terminated().await.0, 0);
    }
    let none = section("localhost", "nobody.localhost");
    let (code, _, err) = Run::of(&world, &["dead", "list"]).config(&none).end().await;
    assert_eq!(code, 1, "{err}");
    says(&err, &["TLS: ", "localhost", "the host that the broker's certificate names"]);
}
