//! What an operator sees: secrets in nothing that is written, health, metrics, and one org that does not slow another.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use lapin::types::FieldTable;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::operator::process::{Process, Run, ready, role_is};
use crate::world::{
    Plan, Taken, World, eventually, locked_out, named, refusing_port, reset_body, text, unlimited, with_header,
};

const CLIENT_SECRET: &str = "CLIENTSECRETVALUE-4f1c";
const JOB_SECRET: &str = "JOBSECRETVALUE";

/// Every way in which a text may be written somewhere without being readable at first sight.
pub fn disguises(text: &str) -> Vec<String> {
    let bytes = text.as_bytes();
    let decimal: Vec<String> = bytes.iter().map(u8::to_string).collect();
    let mut all = vec![text.to_owned(), decimal.join(", "), decimal.join(","), hex::encode(bytes)];
    // Base64 at each of the three places where it may begin, less the digits that its neighbours have a part in.
    for skip in 0..3 {
        let whole = &bytes[skip..];
        let whole = &whole[..whole.len() / 3 * 3];
        all.push(base64::engine::general_purpose::STANDARD_NO_PAD.encode(whole));
    }
    all
}

pub fn message(taken: &Taken) -> String {
    format!("{:?} {}", taken.properties, String::from_utf8_lossy(&taken.body))
}

async fn unbind_emails(world: &World) {
    let channel = world.channel().await;
    let (queue, exchange) = (world.named("emails"), world.named("notifications"));
    channel
        .queue_unbind(queue.as_str().into(), exchange.as_str().into(), "email".into(), FieldTable::default())
        .await
        .unwrap();
}

/// Jobs that end in every way there is. Returns how many jobs have an outcome in the end.
async fn a_bit_of_everything(world: &World) -> usize {
    let publish = async |key: &str, job: &str, body: Value| {
        let properties = with_header(named(job), "batch", text("wave-1"));
        world.publish(key, body.to_string().as_bytes(), properties).await;
    };
    for n in 0..10 {
        let key = if n % 2 == 0 { "main" } else { "main.bulk" };
        let mut body = reset_body(&format!("ok-{n}"));
        body["password"] = json!(JOB_SECRET);
        body["attributes"] = json!({"title": "Agent", "genesys:routingLanguages": [{"value": "en"}]});
        publish(key, &format!("ok-{n}"), body).await;
    }
    let fault = |fault: Value| world.main().add_fault(serde_json::from_value(fault).unwrap());
    fault(json!({"status": 500, "always": true, "user": "u-500"}));
    fault(json!({"status": 404, "always": true, "user": "u-404"}));
    fault(json!({"status": 403, "always": true, "user": "u-403"}));
    fault(json!({"status": 400, "always": true, "user": "u-400", "scim_type": "invalidValue"}));
    fault(json!({"cut": true, "always": true, "user": "u-cut", "apply": true}));
    fault(json!({"status": 429, "retry_after": 1, "next": 1, "user": "u-429"}));
    fault(json!({"status": 503, "retry_after": 1, "next": 1, "user": "u-503"}));
    // Apart from the two whose every call fails: faults of three users in a row would open the breaker, for who knows how long.
    let fails = async |user: &str| {
        let mut body = reset_body(user);
        body["password"] = json!({"new": JOB_SECRET});
        publish("main", user, body).await;
    };
    fails("u-503").await;
    world.recorded(11).await;
    for user in ["u-500", "u-404", "u-403", "u-400", "u-cut", "u-429"] {
        fails(user).await;
    }
    let bad = [
        format!("{{\"userId\": \"u\", \"password\": \"{JOB_SECRET}\", \"email\": "),
        format!("{{\"userId\": \"u\", \"password\": \"{JOB_SECRET}\" \"email\": 1}}"),
        format!("{JOB_SECRET} is my password"),
        json!({"userId": JOB_SECRET.len(), "password": JOB_SECRET}).to_string(),
        json!({"userId": "u", "password": JOB_SECRET, "newPassword": JOB_SECRET}).to_string(),
        json!({"userId": "u", "password": JOB_SECRET, "email": "no address at people.example"}).to_string(),
        json!({"userId": "u", "password": JOB_SECRET}).to_string(),
        json!({"userId": "u", "password": true, "email": "u@people.example", "attributes": {"clientSecret": JOB_SECRET}}).to_string(),
        json!({"userId": "u", "password": true, "email": "u@people.example", "attributes": {"password": JOB_SECRET}}).to_string(),
        json!({"userId": "u", "password": true, "email": "u@people.example", "attributes": {"title": {"passwd": [JOB_SECRET]}}, "x": 1}).to_string(),
    ];
    for (n, body) in bad.iter().enumerate() {
        world.publish("main.bulk", body.as_bytes(), named(&format!("bad-{n}"))).await;
    }
    world.recorded(17 + bad.len()).await;

    // A mail that no queue takes, and a token that has to be fetched anew.
    unbind_emails(world).await;
    world.main().revoke_tokens();
    for n in 0..5 {
        publish("main", &format!("late-{n}"), reset_body(&format!("late-{n}"))).await;
    }
    17 + bad.len() + 5
}

async fn a_run_leaves_no_secret(log: &str, filter: &str) -> String {
    let settings = sim::Settings { client_secret: CLIENT_SECRET.into(), ..unlimited() };
    let world = Plan::new().org("main", settings, "").prepare().await;
    let run = Run::of(&world, &["--log", log, "worker"]).env("RUST_LOG", filter);
    let mut worker = run.start();
    let http = worker.http().await;
    ready(&http).await;
    let jobs = a_bit_of_everything(&world).await;
    let records = world.recorded(jobs).await;
    let metrics = testkit::http::get(format!("{http}/metrics")).await.unwrap().text().await.unwrap();
    let page = testkit::http::get(format!("{http}/readyz")).await.unwrap().text().await.unwrap();
    assert_eq!(worker.terminated().await.0, 0);
    let mails = world.drained("emails").await;
    let letters = world.drained("resets.main.dead").await;
    // ok, u-429 and u-503 (and the one that was cut, after it was applied, is a dead letter), late.
    assert_eq!((mails.len(), letters.len()), (10 + 2 + 5, 5 + 10), "{}", worker.stderr());
    assert!(world.main().stats().tokens_issued >= 2);
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for letter in &letters {
        *reasons.entry(letter.header("resetd-reason").unwrap()).or_default() += 1;
    }
    let expected = [
        ("attribute_not_allowed", 2),
        ("forbidden", 1),
        ("invalid_job", 7),
        ("no_address", 1),
        ("not_found", 1),
        ("rejected", 1),
        ("retries_exhausted", 2),
    ];
    assert_eq!(reasons, expected.map(|(reason, n)| (reason.to_owned(), n)).into());

    let mut written = vec![
        ("log".to_owned(), worker.stderr()),
        ("stdout".to_owned(), worker.stdout()),
        ("metrics".to_owned(), metrics),
        ("readyz".to_owned(), page),
    ];
    written.extend(records.iter().map(|taken| (format!("outcome {}", taken.id()), message(taken))));
    written.extend(letters.iter().map(|taken| (format!("letter {}", taken.id()), message(taken))));
    let mut secrets = disguises(CLIENT_SECRET);
    secrets.extend(disguises(&format!("demo:{CLIENT_SECRET}")));
    secrets.extend(disguises(JOB_SECRET));
    secrets.extend(disguises("Your temporary password"));
    secrets.extend(disguises("Your temp")); // one line of a longer list
    secrets.extend(["Bearer ", "Basic ", "bearer ", "basic "].map(str::to_owned));
    for mail in &mails {
        let password = mail.json()["temporaryPassword"].as_str().unwrap().to_owned();
        secrets.extend(disguises(&password));
        secrets.extend(disguises(&hex::encode(Sha256::digest(&password))));
    }
    for (place, text) in &written {
        for secret in &secrets {
            if let Some(at) = text.find(secret.as_str()) {
                let line = text[..at].rfind('\n').map_or(0, |at| at + 1);
                let line = &text[line..text[at..].find('\n').map_or(text.len(), |end| at + end)];
                panic!("{secret:?} is in {place}: {line}");
            }
        }
    }
    for address in ["@example.com", "people.example"] {
        assert!(!worker.stderr().contains(address), "a mail address is in the log:\n{}", worker.stderr());
    }
    worker.stderr()
}

/// The value of one series of `/metrics`, its labels in any order.
fn value(metrics: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    metrics.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (inside, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.split_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let all = labels.iter().all(|(key, value)| inside.contains(&format!("{key}=\"{value}\"")));
        let count = inside.matches("=\"").count();
        (all && count == labels.len()).then(|| value.parse().unwrap())
    })
}

/// A call of the org's at its own pace, for 20 calls a second.
fn twenty_a_second() -> sim::Settings {
    sim::Settings { quota: 20, window: Duration::from_secs(1), ..unlimited() }
}

/// Waits until this long after the beginning of one of the org's windows of a second. A permit falls every 50 ms from the first
/// one on; without this some would fall on the border of two windows, and a delay of a millisecond would decide.
async fn into_a_window(orgs_began: tokio::time::Instant, by: Duration) {
    let into = Duration::from_nanos(u64::from(orgs_began.elapsed().subsec_nanos()));
    tokio::time::sleep(Duration::from_secs(1) + by - into).await;
}

/// How long `org`'s calls took, from the first of these jobs to the last.
async fn called(world: &World, org: &str, jobs: u64, begun: tokio::time::Instant) -> Duration {
    eventually("all passwords are set", async || (world.sim(org).stats().password_sets >= jobs).then_some(())).await;
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_fails_in_every_way_leaves_no_secret_in_its_json_log_its_outcomes_letters_and_metrics() {
    let log = a_run_leaves_no_secret("json", "trace,lapin::returned_messages=trace").await;
    let mut settled = 0;
    for line in log.lines() {
        let said: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for field in ["timestamp", "level", "target", "message"] {
            assert!(said[field].is_string(), "no {field} in {line}");
        }
        let message = said["message"].as_str().unwrap();
        if ["a try failed", "job dead-lettered", "job done"].contains(&message) {
            for field in ["job.id", "org", "lane"] {
                assert!(said[field].is_string(), "no {field} in {line}");
            }
            assert!(said["attempt"].is_u64(), "no attempt in {line}");
        }
        settled += usize::from(message == "job dead-lettered" || message == "job done");
    }
    assert_eq!(settled, 32, "one line for each job where it is settled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_fails_in_every_way_leaves_no_secret_in_its_text_log() {
    let log = a_run_leaves_no_secret("text", "trace").await;
    assert_eq!(log.matches("job dead-lettered").count(), 15);
}

#[test]
fn a_disguised_secret_is_found() {
    let mail = b"{\"body\":\"Your temporary password is: x\"}";
    for at in 0..3 {
        let told = [
            format!("{:?}", &mail[at..]),
            base64::engine::general_purpose::STANDARD.encode(&mail[at..]),
            hex::encode(&mail[at..]),
        ];
        for told in told {
            assert!(disguises("Your temporary password").iter().any(|secret| told.contains(secret)), "{told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_readiness_say_what_the_contract_says() {
    let world = Plan::new().prepare().await;
    let (mut worker, http) = Process::worker(&world).await;
    role_is(&http, "active").await;
    let get = async |path: &str| {
        let answer = testkit::http::get(format!("{http}{path}")).await.unwrap();
        let kind = answer.headers().get("content-type").map_or("", |kind| kind.to_str().unwrap()).to_owned();
        (answer.status().as_u16(), kind, answer.text().await.unwrap())
    };
    assert_eq!(get("/healthz").await.0, 200);
    let (status, kind, body) = get("/readyz").await;
    assert_eq!((status, kind.as_str()), (200, "application/json"));
    let (before, leader) = body.split_once(r#","leader":{"#).unwrap();
    let (leader, after) = leader.split_once('}').unwrap();
    assert!(leader.starts_with(r#""here":true,"name":""#), "{leader}");
    assert_eq!(
        format!("{before}{after}"),
        r#"{"ready":true,"orgs":{"main":{"role":"active","reason":null,"ratePerMinute":60000}}}"#
    );
    let (status, kind, body) = get("/").await;
    assert_eq!((status, kind.starts_with("text/html")), (200, true), "{kind}");
    assert!(body.contains("/readyz"), "{body}");
    let (status, kind, _) = get("/metrics").await;
    assert_eq!((status, kind.as_str()), (200, "text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(get("/nothing").await.0, 404);
    assert_eq!(worker.terminated().await.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_count_what_happened() {
    let world = Plan::new().prepare().await;
    for fault in [
        json!({"status": 404, "always": true, "user": "nobody"}),
        json!({"status": 429, "retry_after": 1, "next": 1, "user": "u-1"}),
        json!({"cut": true, "next": 1, "user": "u-2"}),
    ] {
        world.main().add_fault(serde_json::from_value(fault).unwrap());
    }
    let (mut worker, http) = Process::worker(&world).await;
    for (key, user) in
        [("main", "u-1"), ("main", "u-2"), ("main", "u-3"), ("main.bulk", "u-4"), ("main.bulk", "nobody")]
    {
        world.reset(key, user, &format!("job-{user}")).await;
    }
    world.publish("main.bulk", b"{\"userId\":\"x\"}", named("none")).await;
    world.recorded(6).await;
    let read = async || testkit::http::get(format!("{http}/metrics")).await.unwrap().text().await.unwrap();
    let metrics = eventually("nothing is in flight, and it was proved lately that it leads", async || {
        let metrics = read().await;
        let settled = [("interactive"), ("bulk")]
            .iter()
            .all(|lane| value(&metrics, "resetd_jobs_in_flight", &[("org", "main"), ("lane", lane)]) == Some(0.0));
        let age = value(&metrics, "resetd_leader_proof_age_seconds", &[("org", "main")]);
        (settled && age.is_some_and(|age| age < 1.5)).then_some(metrics)
    })
    .await;
    let job = |lane, outcome, reason| {
        let labels = [("org", "main"), ("lane", lane), ("outcome", outcome), ("reason", reason)];
        value(&metrics, "resetd_jobs_total", &labels)
    };
    assert_eq!(job("interactive", "succeeded", ""), Some(3.0), "{metrics}");
    assert_eq!(job("bulk", "succeeded", ""), Some(1.0));
    assert_eq!(job("bulk", "failed", "not_found"), Some(1.0));
    assert_eq!(job("bulk", "passed_through", ""), Some(1.0));
    for (status, calls) in [("200", 4.0), ("404", 1.0), ("429", 1.0), ("cut", 1.0)] {
        assert_eq!(
            value(&metrics, "resetd_patches_total", &[("org", "main"), ("status", status)]),
            Some(calls),
            "{metrics}"
        );
    }
    let main = [("org", "main")];
    assert_eq!(value(&metrics, "resetd_patch_duration_seconds_count", &main), Some(7.0));
    for (lane, permits) in [("interactive", 5.0), ("bulk", 2.0)] {
        let labels = [("org", "main"), ("lane", lane)];
        assert_eq!(value(&metrics, "resetd_permit_wait_seconds_count", &labels), Some(permits));
        assert!(value(&metrics, "resetd_permit_wait_seconds_sum", &labels).unwrap() >= 0.0);
    }
    assert_eq!(value(&metrics, "resetd_pauses_total", &main), Some(1.0));
    let granted = [("org", "main"), ("result", "granted")];
    assert_eq!(value(&metrics, "resetd_token_refreshes_total", &granted), Some(1.0));
    assert_eq!(value(&metrics, "resetd_broker_connected", &[]), Some(1.0));
    assert_eq!(value(&metrics, "resetd_halted", &main), Some(0.0));
    assert_eq!(value(&metrics, "resetd_breaker_state", &main), Some(0.0));
    assert_eq!(value(&metrics, "resetd_breaker_next_probe_timestamp_seconds", &main), Some(0.0));
    assert!(value(&metrics, "resetd_rate_per_minute", &main).unwrap() > 0.0);
    assert_eq!(value(&metrics, "resetd_active", &main), Some(1.0));
    // All but those that are not there before they count: `resetd_breaker_opened_total`, `resetd_searches_total`, `resetd_bulk_closed`.
    assert_eq!(metrics.lines().filter(|line| line.starts_with("# HELP resetd_")).count(), 16, "{metrics}");
    assert_eq!(worker.terminated().await.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_quota_is_spent_and_no_call_is_refused() {
    let shortest = Duration::from_secs(60).mul_f64(119.0 / 1200.0);
    // On a machine so busy that a permit comes 25 ms late the border is crossed: then once more. A limiter that gives too
    // much, or too little, does so each time.
    for last in [false, false, true] {
        let orgs_began = tokio::time::Instant::now();
        let plan = Plan::new().org("main", twenty_a_second(), "rate_per_minute = 1200");
        let world = plan.start().await;
        world.reset("main", "first", "first").await;
        called(&world, "main", 1, orgs_began).await;
        into_a_window(orgs_began, Duration::from_millis(75)).await;
        let begun = tokio::time::Instant::now();
        world.reset_many("main", 120).await;
        let ratio = called(&world, "main", 121, begun).await.div_duration_f64(shortest);
        let refused = world.main().stats().throttled;
        eprintln!("120 calls at 1200 a minute: {ratio:.3} of the shortest time; {refused} refused");
        if refused == 0 && ratio < 1.15 {
            return;
        }
        assert!(!last, "{ratio}, {refused} refused");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_that_admits_half_of_the_rate_loses_nobody_and_its_retry_after_is_kept() {
    let settings = sim::Settings { quota: 10, window: Duration::from_secs(1), ..unlimited() };
    let world = Plan::new().org("main", settings, "rate_per_minute = 1200").start().await;
    let begun = tokio::time::Instant::now();
    let users = world.reset_many("main", 80).await;
    let records = world.recorded(80).await;
    let took = begun.elapsed();
    assert!(records.iter().all(|record| record.routing_key == "main.succeeded" && record.json()["attempts"] == 1));
    let mails = world.drained("emails").await;
    assert_eq!((mails.len(), locked_out(world.main(), &mails)), (80, vec![]));
    assert!(users.iter().all(|user| world.main().user(user).unwrap().password_sets == 1));
    let stats = world.main().stats();
    eprintln!("a storm: 80 jobs in {took:?}, {} calls of which {} were refused", stats.calls, stats.throttled);
    assert!(world.metrics().await.contains("resetd_pauses_total{org=\"main\"}"));
    // Retry-After reaches past the end of the window: at most the calls that were in flight are refused in each.
    assert!(stats.throttled > 0);
    assert!(stats.throttled as f64 <= 2.0 * (took.as_secs_f64() + 1.0), "{stats:?} in {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_orgs_have_a_limiter_each() {
    let keys = "rate_per_minute = 1200";
    let plan = Plan::new().org("east", unlimited(), keys).org("west", unlimited(), keys);
    let world = plan.start().await;
    let begun = tokio::time::Instant::now();
    tokio::join!(world.reset_many("east", 60), world.reset_many("west", 60));
    let (east, west) = tokio::join!(called(&world, "east", 60, begun), called(&world, "west", 60, begun));
    let shortest = Duration::from_secs(60).mul_f64(59.0 / 1200.0);
    eprintln!("two orgs with 60 jobs each: {east:?} and {west:?}, alone at least {shortest:?}");
    for took in [east, west] {
        assert!(took.div_duration_f64(shortest) < 1.5, "{took:?}");
        assert!(took.div_duration_f64(shortest) > 0.95, "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_that_is_down_slows_no_other_and_its_jobs_are_done_once_it_is_up() {
    // Nobody listens there, until the org does.
    let port = refusing_port();
    let place = port.local_addr().unwrap();
    let down = format!(
        "[orgs.down]\ntoken_url = \"http://{place}/oauth/token\"\nscim_url = \"http://{place}/api/v2/scim/v2\"\nclient_id = \"demo\"\nclient_secret = \"demo-secret\"\n"
    );
    let world = Plan::new().org("up", unlimited(), "rate_per_minute = 1200").config(&down).start().await;
    let lost = world.reset_many("down", 40).await;
    let begun = tokio::time::Instant::now();
    world.reset_many("up", 60).await;
    let took = called(&world, "up", 60, begun).await;
    let ratio = took.div_duration_f64(Duration::from_secs(60).mul_f64(59.0 / 1200.0));
    eprintln!("60 jobs beside an org that is down: {took:?}, {ratio:.3} of the shortest time");
    assert!(ratio < 1.5, "{ratio}");
    let up = world.recorded(60).await;
    assert!(up.iter().all(|record| record.routing_key == "up.succeeded"), "the other org's jobs wait");

    let org = sim::Org::new(unlimited()).unwrap();
    let listener = port.listen(1024).unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let serving = org.clone();
    tokio::spawn(async move { serving.serve(listener, stop).await });
    world.recorded(100).await;
    let mails: Vec<Taken> =
        world.drained("emails").await.into_iter().filter(|mail| mail.json()["org"] == "down").collect();
    assert_eq!((mails.len(), locked_out(&org, &mails)), (40, vec![]));
    assert!(lost.iter().all(|user| org.user(user).unwrap().password_sets == 1));
    assert_eq!(world.depth("resets.down.dead").await, 0);
}
