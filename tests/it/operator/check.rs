//! `resetd check`: what it finds, that the rest still runs when something is down, and that it changes nothing.

use std::time::{Duration, Instant};

use axum::response::IntoResponse;
use lapin::options::{BasicGetOptions, ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use resetd::amqp::names::Names;
use resetd::domain::job::Lane;
use serde_json::{Value, json};

use crate::broker::Node;
use crate::operator::process::{Process, Run, role_is, says};
use crate::relay::Relay;
use crate::world::{Plan, Scribe, World, eventually, named, text, unlimited};

/// The exchanges and queues of one org.
const THINGS: usize = 14 + Lane::COUNT;

/// Its exit code and what it found.
async fn checked(run: Run) -> (i32, Vec<Value>) {
    let (code, out, err) = run.end().await;
    let all: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    assert_eq!(all["ok"], json!(code == 0), "{out}");
    assert_eq!(err.is_empty(), code == 0, "{err}");
    (code, all["findings"].as_array().unwrap().clone())
}

async fn check(world: &World) -> (i32, Vec<Value>) {
    checked(Run::of(world, &["check", "--json"])).await
}

/// What was found of this one thing.
fn of<'a>(findings: &'a [Value], what: &str) -> &'a Value {
    let mut all = findings.iter().filter(|finding| finding["what"] == what);
    let found = all.next().unwrap_or_else(|| panic!("no {what} in {findings:?}"));
    assert!(all.next().is_none(), "{what} is there twice: {findings:?}");
    found
}

/// It stands like this, and says all of these.
fn is(findings: &[Value], what: &str, result: &str, parts: &[&str]) {
    let found = of(findings, what);
    assert_eq!(found["result"], result, "{found}");
    says(&format!("{} {}", found["says"].as_str().unwrap(), found["cure"].as_str().unwrap_or_default()), parts);
    assert_eq!(found["cure"].is_null(), result == "ok", "what is not ok says what to do: {found}");
}

async fn declare(world: &World) {
    crate::world::declare(&world.connection, &Names::new(&world.prefix, "main")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_all_is_well_each_line_is_ok_and_it_ends_with_0() {
    let world = Plan::new().org("main", sim::Settings::default(), "rate_per_minute = 300").prepare().await;
    let (_worker, _) = Process::worker(&world).await;
    let (code, findings) = check(&world).await;
    assert_eq!(code, 0, "{findings:?}");
    assert!(findings.iter().all(|finding| finding["result"] == "ok"), "{findings:?}");
    is(&findings, "configuration", "ok", &["main"]);
    is(&findings, "wire form", "ok", &["SHA-256", "Extensions"]);
    is(&findings, "broker", "ok", &["RabbitMQ "]);
    is(&findings, "topology", "ok", &[&format!("all {THINGS}")]);
    is(&findings, "rights", "ok", &["configure, write and read, where a worker needs it"]);
    is(&findings, "delivery limit", "ok", &["20", "policy"]);
    is(&findings, "leader", "ok", &["a worker leads"]);
    is(&findings, "token", "ok", &["granted"]);
    is(&findings, "rate", "ok", &["admits 300 calls a minute", "rate_per_minute is 300"]);
    is(&findings, "clock", "ok", &["within a few seconds"]);
    let (code, out, err) = Run::of(&world, &["check"]).end().await;
    assert_eq!((code, err.as_str()), (0, ""));
    says(&out, &["ok    broker", "ok    main: token"]);
    assert!(!out.contains('\u{1b}') && !out.contains("demo-secret"), "{out}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_is_there_yet_it_says_so_and_leaves_it_so() {
    let world = Plan::new().prepare().await;
    let (code, findings) = check(&world).await;
    assert_eq!(code, 0, "{findings:?}");
    is(&findings, "topology", "warn", &[&format!("0 of {THINGS}"), "resets.main.bulk", "a worker declares them"]);
    is(&findings, "leader", "ok", &["nobody leads"]);
    for queue in ["resets.main", "resets.main.dead", "resets.main.leader", "emails", "resets.outcomes"] {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let channel = world.channel().await;
        let there = channel.queue_declare(world.named(queue).as_str().into(), options, FieldTable::default()).await;
        assert!(there.unwrap_err().to_string().contains("NOT_FOUND"), "{queue}");
    }
    for exchange in ["resets", "notifications", "outcomes"] {
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let (name, kind) = (world.named(exchange), lapin::ExchangeKind::Direct);
        let channel = world.channel().await;
        let there = channel.exchange_declare(name.as_str().into(), kind, options, FieldTable::default());
        assert!(there.await.unwrap_err().to_string().contains("NOT_FOUND"), "{exchange}");
    }
    assert_eq!(world.main().stats().calls, 0, "nobody was patched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_touches_no_job_no_letter_and_no_record() {
    let world = Plan::new().prepare().await;
    declare(&world).await;
    let mut outcomes = world.outcomes().await;
    world.publish("main", b"{}", named("old").with_expiration("1".into())).await;
    eventually("it is a letter", async || (world.depth("resets.main.dead").await == 1).then_some(())).await;
    world.reset("main", "u-1", "job-1").await;
    world.reset("main.bulk", "u-2", "job-2").await;
    for _ in 0..3 {
        assert_eq!(check(&world).await.0, 0);
    }
    let channel = world.channel().await;
    for (queue, job) in [("resets.main", "job-1"), ("resets.main.bulk", "job-2")] {
        assert_eq!(world.depth(queue).await, 1, "{queue}");
        let got = channel.basic_get(world.named(queue).as_str().into(), BasicGetOptions::default()).await;
        let got = got.unwrap().unwrap();
        assert!(!got.delivery.redelivered, "{queue}: nobody had it in flight before");
        assert_eq!(got.delivery.properties.message_id().as_ref().unwrap().as_str(), job);
    }
    assert_eq!((world.depth("emails").await, world.depth("resets.main.dead").await), (0, 1));
    // The first record there is is this one.
    let options = lapin::options::BasicPublishOptions::default();
    let (exchange, properties) = (world.named("outcomes"), named("mine"));
    channel.basic_publish(exchange.as_str().into(), "main.test".into(), options, b"{}", properties).await.unwrap();
    assert_eq!(outcomes.next().await.id(), "mine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_another_kind_fails_with_what_to_do_and_is_not_changed() {
    let world = Plan::new().prepare().await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(3));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let queue = world.named("resets.main.bulk");
    world.channel().await.queue_declare(queue.as_str().into(), options, arguments.clone()).await.unwrap();
    let exchange = world.named("outcomes");
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let kind = lapin::ExchangeKind::Fanout;
    let channel = world.channel().await;
    channel.exchange_declare(exchange.as_str().into(), kind, durable, FieldTable::default()).await.unwrap();
    let (code, findings) = check(&world).await;
    assert_eq!(code, 1);
    is(&findings, "topology", "fail", &["resets.main.bulk", "outcomes", "PRECONDITION_FAILED", "amqp.prefix"]);
    world.channel().await.queue_declare(queue.as_str().into(), options, arguments).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_rights_are_named_one_by_one_and_an_alarm_is_seen() {
    let node = Node::lent().await;
    let world = Plan::at(node.url()).prepare().await;
    declare(&world).await;
    node.tell("ctl add_user ops secret").await;
    let prefix = world.prefix.replace('.', "\\.");
    let own = world.amqp_url.replace("guest:guest", "ops:secret");
    let restricted = || Run::of(&world, &["check", "--json"]).config(&format!("[amqp]\nurl = {own:?}\n"));
    // No right to enter the vhost yet.
    let (code, findings) = checked(restricted()).await;
    assert_eq!(code, 1);
    is(&findings, "login", "fail", &["\"ops\"", "set_permissions"]);
    is(&findings, "token", "ok", &[]);
    let permissions: String = format!(
        "ctl set_permissions ops ^{prefix}resets.*$ ^({prefix}resets.*|amq\\.default)$ ^{prefix}resets\\.main$"
    );
    node.tell(permissions).await;
    let (code, findings) = checked(restricted()).await;
    assert_eq!(code, 1);
    let found = of(&findings, "rights")["says"].as_str().unwrap().replace(&world.prefix, "");
    // A lane is declared only with the right to read it too: it dead-letters.
    says(
        &found,
        &[
            "declare notifications",
            "write outcomes",
            "write notifications",
            "read resets.main.bulk",
            "read resets.outcomes",
        ],
    );
    for held in ["write resets,", "write amq.default", "read resets.main,"] {
        assert!(!found.contains(held), "{held} in {found}");
    }
    node.tell("ctl set_vm_memory_high_watermark 0").await;
    let began = Instant::now();
    let (code, findings) = check(&world).await;
    assert_eq!(code, 1);
    is(&findings, "alarm", "fail", &["resource alarm", "no one is reset"]);
    is(&findings, "topology", "ok", &[&format!("all {THINGS}")]);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    node.tell("ctl set_vm_memory_high_watermark absolute 1GB").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_down_or_silent_fails_and_the_orgs_are_checked_all_the_same() {
    let world = Plan::new().prepare().await;
    let relay = Relay::to(&world.amqp_url);
    relay.stall();
    let nobody = "amqp://guest:guest@127.0.0.1:1/%2f";
    for (url, word) in [(nobody, "refused"), (relay.url(), "broker")] {
        let began = Instant::now();
        let (code, findings) =
            checked(Run::of(&world, &["check", "--json"]).config(&format!("[amqp]\nurl = {url:?}\n"))).await;
        assert_eq!(code, 1);
        is(&findings, "broker", "fail", &["127.0.0.1", word, "start RabbitMQ"]);
        is(&findings, "token", "ok", &["granted"]);
        is(&findings, "org", "ok", &["answers 200"]);
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
    // What listens there is no broker.
    let http = world.orgs["main"].base.replace("http://", "");
    let url = format!("[amqp]\nurl = \"amqp://guest:guest@{http}/%2f\"\n");
    let (code, findings) = checked(Run::of(&world, &["check", "--json"]).config(&url)).await;
    assert_eq!(code, 1);
    is(&findings, "broker", "fail", &["no AMQP"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_that_is_down_or_refuses_the_client_fails_and_the_others_are_checked() {
    let world = Plan::new().org("main", unlimited(), "").org("other", unlimited(), "").prepare().await;
    let base = &world.orgs["other"].base;
    let (code, findings) =
        checked(Run::of(&world, &["check", "--json"]).config("[orgs.other]\nclient_secret = \"wrong-s3cr3t\"\n")).await;
    assert_eq!(code, 1);
    let of = |org: &str| findings.iter().filter(|f| f["org"] == org).cloned().collect::<Vec<_>>();
    is(&of("other"), "token", "fail", &["invalid_client", "client_secret"]);
    is(&of("other"), "org", "ok", &["401", "no token"]);
    is(&of("other"), "clock", "ok", &[]);
    is(&of("main"), "token", "ok", &["granted"]);
    assert!(!format!("{findings:?}").contains("s3cr3t"), "{findings:?}");
    let down =
        format!("[orgs.other]\ntoken_url = {:?}\nscim_url = \"http://127.0.0.1:1/x\"\n", format!("{base}/oauth/token"));
    let (code, findings) = checked(Run::of(&world, &["check", "--json"]).config(&down)).await;
    assert_eq!(code, 1);
    let of = |org: &str| findings.iter().filter(|f| f["org"] == org).cloned().collect::<Vec<_>>();
    is(&of("other"), "org", "fail", &["127.0.0.1:1", "does not answer"]);
    is(&of("main"), "org", "ok", &["answers 200"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scopes_and_the_rate_are_compared_with_what_the_org_says() {
    let settings =
        || sim::Settings { scope: Some("users scim:users:write".into()), quota: 180, ..sim::Settings::default() };
    let keys = "rate_per_minute = 300\nrequired_scopes = [\"scim:users:write\"]";
    let world = Plan::new().org("main", settings(), keys).prepare().await;
    let (code, findings) = check(&world).await;
    assert_eq!(code, 0);
    is(&findings, "scopes", "ok", &["users scim:users:write"]);
    is(
        &findings,
        "rate",
        "warn",
        &["admits 180 calls a minute", "rate_per_minute is 300", "set rate_per_minute to 180"],
    );
    let (code, findings) =
        checked(Run::of(&world, &["check", "--json"]).config("[orgs.main]\nrequired_scopes = [\"admin\"]\n")).await;
    assert_eq!(code, 1);
    is(&findings, "token", "fail", &["lacks the scope admin", "required_scopes"]);
}

/// An org whose clock is an hour slow.
fn an_hour_ago() -> axum::response::Response {
    let then = std::time::SystemTime::now() - Duration::from_secs(3600);
    let date = httpdate::fmt_http_date(then);
    ([("date", date)], axum::Json(json!({"totalResults": 0}))).into_response()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_off_and_a_refused_look_are_told() {
    let scribe = Scribe::answering(|_| an_hour_ago()).await;
    let world = scribe.prepare(Plan::new()).await;
    let (code, findings) = check(&world).await;
    assert_eq!(code, 1);
    is(&findings, "clock", "fail", &["s ahead of the org's", "NTP"]);
    let line = scribe.asked().last().unwrap().line.clone();
    assert_eq!(line, "GET /api/v2/scim/v2/Users?count=0", "it reads nobody");

    let refusing = Scribe::answering(|_| {
        let body = json!({"status": 403, "code": "missing.permissions", "message": "no right to view"});
        (axum::http::StatusCode::FORBIDDEN, axum::Json(body)).into_response()
    })
    .await;
    let world = refusing.prepare(Plan::new()).await;
    let (code, findings) = check(&world).await;
    assert_eq!(code, 0, "a reset by userId needs no look");
    is(&findings, "org", "warn", &["403", "missing.permissions", "directory:user:setPassword"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_is_wrong_in_the_configuration_is_named_at_once_and_it_ends_with_2() {
    let bad = "[amqp]\nprefix = \"a b\"\n[password]\nkind = \"x\"\n[orgs.main]\nregion = \"x y\"\n[orgs.second]\nclient_id = \"i\"\n";
    let (code, out, err) = Run::new(&["check"]).config(bad).end().await;
    assert_eq!(code, 2, "{out}{err}");
    let parts =
        ["amqp.prefix", "wire.password", "wire.extensions", "password.kind", "orgs.main.region", "orgs.second.region"];
    says(&out, &parts);
    says(&err, &["6 of its values must be fixed"]);
    // One that a worker cannot start with, and the broker can be looked at all the same.
    let world = Plan::new().prepare().await;
    let (code, findings) =
        checked(Run::of(&world, &["check", "--json"]).config("[orgs.second]\nregion = \"mypurecloud.de\"\n")).await;
    assert_eq!(code, 2);
    is(&findings, "configuration", "fail", &["orgs.second.client_id"]);
    is(&findings, "broker", "ok", &["RabbitMQ"]);
    let (code, out, _) = Run::new(&["check"]).config("[nothing]\nx = 1\n").end().await;
    assert_eq!(code, 2);
    says(&out, &["nothing"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_and_a_check_take_no_lease_from_each_other() {
    let world = Plan::new().prepare().await;
    let (mut worker, http) = Process::worker(&world).await;
    is(&check(&world).await.1, "leader", "ok", &["a worker leads"]);
    role_is(&http, "active").await;
    assert_eq!(worker.terminated().await.0, 0);
    is(&check(&world).await.1, "leader", "ok", &["nobody leads"]);
    let (_next, http) = Process::worker(&world).await;
    role_is(&http, "active").await;
}
