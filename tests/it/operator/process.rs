//! The binary as a process: signals, exit codes, what it writes, what it takes from its environment.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use serde_json::json;
pub use testkit::process::*;

use crate::world::{Plan, World, eventually, locked_out, slow, unlimited};

/// Puts a queue of other arguments in the place of this one, until what it answers is awaited.
pub async fn other_queue(world: &World, queue: &str) -> impl Future<Output = ()> {
    let (channel, name) = (world.channel().await, world.named(queue));
    channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.as_str().into(), durable, FieldTable::default()).await.unwrap();
    async move {
        channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    }
}

/// Waits until so many jobs lie ready in both lanes together. A few more may: a busy broker loses acks of a channel that ends.
async fn lying(world: &World, jobs: u32) -> u32 {
    eventually("what is not done is back in its queue", async || {
        let lying = world.in_the_lanes().await;
        (lying >= jobs).then_some(lying)
    })
    .await
}

async fn a_signal_in_the_middle(signal: &str) {
    let world = Plan::new().org("main", slow(), "rate_per_minute = 6000").prepare().await;
    let (mut first, _) = Process::worker(&world).await;
    let users = world.reset_many("main", 200).await;
    eventually("60 passwords are set", async || (world.main().stats().password_sets >= 60).then_some(())).await;
    let asked = Instant::now();
    first.signal(signal);
    assert_eq!(first.ended().await, 0, "{}", first.stderr());
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    let done = usize::try_from(world.main().stats().password_sets).unwrap();
    // What a closed channel held comes back a moment later.
    let waiting = lying(&world, u32::try_from(200 - done).unwrap()).await;
    eprintln!("{signal}: ended in {took:?} with {done} done and {waiting} back in their queues");
    assert_eq!(world.depth("emails").await as usize, done);

    let (mut second, _) = Process::worker(&world).await;
    let records = world.recorded(200).await;
    let (succeeded, others): (Vec<_>, Vec<_>) =
        records.iter().partition(|record| record.routing_key == "main.succeeded");
    // One whose ack was lost ends as the duplicate that it is.
    assert!(others.iter().all(|record| record.routing_key == "main.duplicate"), "{others:?}");
    assert!(others.len() <= waiting as usize - (200 - done), "{} duplicates of {waiting}, {done} done", others.len());
    assert_eq!(second.terminated().await.0, 0);
    let mails = world.drained("emails").await;
    assert_eq!((succeeded.len(), mails.len()), (200, 200));
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    for user in users {
        assert_eq!(world.main().user(&user).unwrap().password_sets, 1, "{user}");
    }
    assert_eq!(world.in_the_lanes().await, 0);
    assert_eq!(world.depth("resets.main.dead").await, 0);
}

const ORG: &str = "[orgs.main]\nregion = \"mypurecloud.com\"\nclient_id = \"c\"\nclient_secret = \"s\"\n";

/// A worker whose only org and broker are in its environment, and one job of it that was done.
async fn works(run: Run, world: &World, key: &str) {
    let mut worker = run.start();
    ready(&worker.http().await).await;
    let mut job = crate::world::reset_body("u");
    job["attributes"] = json!({"title": "Agent"});
    world.publish(key, job.to_string().as_bytes(), crate::world::named("job")).await;
    let mut other = crate::world::reset_body("v");
    other["attributes"] = json!({"displayName": "Agent"});
    world.publish(key, other.to_string().as_bytes(), crate::world::named("other")).await;
    let mut said: Vec<String> = world.recorded(2).await.iter().map(|record| record.routing_key.clone()).collect();
    said.sort();
    let org = key.split('.').next().unwrap();
    assert_eq!(said, [format!("{org}.failed"), format!("{org}.succeeded")]);
    assert_eq!(worker.terminated().await.0, 0);
    assert_eq!(locked_out(world.main(), &world.drained("emails").await), Vec::<String>::new());
}

/// Everything but the org, by environment variables.
fn surroundings(world: &World) -> Run {
    Run::new(&["worker"])
        .env("RESETD__AMQP__URL", &world.amqp_url)
        .env("RESETD__AMQP__PREFIX", &world.prefix)
        .env("RESETD__HTTP__LISTEN", "127.0.0.1:0")
        .env("RESETD__WIRE__PASSWORD", "sha256")
        .env("RESETD__WIRE__EXTENSIONS", "envelope")
        .env("RESETD__WIRE__ALLOWED_ATTRIBUTES", "title, department")
}

fn urls(world: &World) -> [String; 2] {
    let base = &world.orgs["main"].base;
    [format!("{base}/oauth/token"), format!("{base}/api/v2/scim/v2")]
}

/// A grace of 7 s and calls of 2 s at most.
const SHORT: &str = "[shutdown]\ngrace = \"7s\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_in_the_middle_of_200_jobs_leaves_the_rest_to_a_second_worker_and_sets_nobody_twice() {
    a_signal_in_the_middle("TERM").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigint_in_the_middle_of_200_jobs_leaves_the_rest_to_a_second_worker_and_sets_nobody_twice() {
    a_signal_in_the_middle("INT").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once_with_another_code_than_0() {
    let world = Plan::new().prepare().await;
    let hang = json!({"hang": "60s", "always": true});
    world.main().add_fault(serde_json::from_value(hang).unwrap());
    let (mut worker, _) = Process::worker(&world).await;
    world.reset("main", "u", "job").await;
    eventually("the call is in flight", async || (world.main().stats().calls > 0).then_some(())).await;
    worker.signal("TERM");
    eventually("it says that it ends", async || worker.stderr().contains("a second signal ends at once").then_some(()))
        .await;
    let asked = Instant::now();
    worker.signal("TERM");
    assert_ne!(worker.ended().await, 0);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    eventually("the job is back", async || (world.depth("resets.main").await == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_an_idle_worker_within_a_second() {
    let world = Plan::new().prepare().await;
    let (mut worker, _) = Process::worker(&world).await;
    let (code, took) = worker.terminated().await;
    assert_eq!(code, 0, "{}", worker.stderr());
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wire_form_that_is_not_chosen_ends_with_2_and_both_choices_explained() {
    let parts = ["wire.password", "\"sha256\"", "\"plaintext\"", "config/spec.toml", "config/genesys-cloud.toml"];
    ends(Run::new(&["worker"]).config(ORG), 2, &parts).await;
    let half = "[wire]\npassword = \"sha256\"\n";
    let parts = ["wire.extensions", "\"envelope\"", "\"urn\""];
    ends(Run::new(&["worker"]).config(ORG).config(half), 2, &parts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_key_ends_with_2_and_is_named() {
    let whole = format!("[wire]\npassword = \"sha256\"\nextensions = \"urn\"\n{ORG}");
    let typo = "[retry]\nmax_attempt = 3\n";
    ends(Run::new(&["worker"]).config(&whole).config(typo), 2, &["max_attempt"]).await;
    let run = Run::new(&["worker"]).config(&whole).env("RESETD__AMQP__PREFECHT", "3");
    ends(run, 2, &["prefecht"]).await;
    let run = Run::new(&["worker"]).config(&whole).config("[orgs.main]\nrate = 3\n");
    ends(run, 2, &["rate"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_command_line_cannot_be_ends_with_2() {
    ends(Run::new(&["worker", "--nothing"]), 2, &["--nothing"]).await;
    ends(Run::new(&["nothing"]), 2, &["nothing"]).await;
    ends(Run::new(&["--log", "xml", "worker"]), 2, &["xml", "json", "text"]).await;
    ends(Run::new(&["worker"]).env("RUST_LOG", "resetd=loud"), 2, &["RUST_LOG"]).await;
    ends(Run::new(&["--config", "nowhere.toml", "worker"]), 2, &["nowhere.toml"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_before_the_subcommand_and_one_after_it_both_count() {
    let run = Run::new(&["worker", "--config", "second.toml"]).config("[wire]\npassword = \"neither\"\n");
    run.file("second.toml", ORG);
    ends(run, 2, &["wire.password", "neither"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_taken_ends_with_1_and_says_which() {
    let world = Plan::new().prepare().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let run = Run::of(&world, &["worker"]).config(&format!("[http]\nlisten = {address:?}"));
    ends(run, 1, &["http.listen", &address, "another port"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_may_be_given_by_environment_variables_alone() {
    let settings = sim::Settings { scope: Some("users:read scim:users:write".into()), ..unlimited() };
    let world = Plan::new().org("main", settings, "").prepare().await;
    let [token, scim] = urls(&world);
    let run = surroundings(&world)
        .env("RESETD__ORGS__EU_1__TOKEN_URL", &token)
        .env("RESETD__ORGS__EU_1__SCIM_URL", &scim)
        .env("RESETD__ORGS__EU_1__CLIENT_ID", "demo")
        .env("RESETD__ORGS__EU_1__CLIENT_SECRET", "demo-secret")
        .env("RESETD__ORGS__EU_1__RATE_PER_MINUTE", "6000")
        .env("RESETD__ORGS__EU_1__REQUIRED_SCOPES", "scim:users:write,users:read");
    works(run, &world, "eu_1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_org_main_takes_genesys_variables_from_a_env_file_and_a_list_from_one_too() {
    let world = Plan::new().prepare().await;
    let [token, scim] = urls(&world);
    let run = surroundings(&world).env("RESETD__ORGS__MAIN__SCIM_URL", &scim);
    run.file(
        ".env",
        &format!("# for the test\nRESETD__ORGS__MAIN__TOKEN_URL={token}\nGENESYS_CLIENT_ID=demo\nGENESYS_CLIENT_SECRET=\"demo-secret\"\nRESETD__WIRE__ALLOWED_ATTRIBUTES=nothing\n"),
    );
    works(run, &world, "main").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn genesys_variables_of_the_process_and_secrets_in_files_do_too() {
    let world = Plan::new().prepare().await;
    let [token, scim] = urls(&world);
    let run = surroundings(&world).env("GENESYS_CLIENT_ID", "demo").config(&format!(
        "[orgs.main]\ntoken_url = {token:?}\nscim_url = {scim:?}\nclient_secret_file = \"secret.txt\"\n"
    ));
    run.file("secret.txt", "demo-secret\n");
    works(run, &world, "main").await;
    let run = Run::new(&["worker"])
        .config("[wire]\npassword = \"sha256\"\nextensions = \"urn\"")
        .config("[orgs.main]\nregion = \"mypurecloud.com\"\nclient_id = \"c\"\nclient_secret_file = \"nowhere.txt\"\n");
    ends(run, 2, &["orgs.main.client_secret_file", "nowhere.txt"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_a_worker_without_a_broker_within_a_second() {
    let world = Plan::new().prepare().await;
    // Somebody listens who is no broker: whoever comes is counted and sent away.
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    tokio::spawn(async move {
        while nobody.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let no_broker = format!("[amqp]\nurl = \"amqp://guest:secret-pw@{address}/%2f\"\n");
    let mut worker = Run::of(&world, &["--log", "json", "worker"]).config(&no_broker).start();
    let http = worker.http().await;
    eventually("it has tried twice", async || (tries.load(Ordering::Relaxed) >= 2).then_some(())).await;
    says(&worker.stderr(), &["not consuming; retrying", &address.to_string()]);
    let answer = testkit::http::get(format!("{http}/readyz")).await.unwrap();
    assert_eq!(answer.status(), 503);
    let (code, took) = worker.terminated().await;
    assert_eq!(code, 0);
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(!worker.stderr().contains("secret-pw"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_waits_for_a_call_in_the_air_and_ends_within_the_grace_though_the_org_hangs() {
    let plan = Plan::new().org("main", unlimited(), "request_timeout = \"2s\"").config(SHORT);
    let world = plan.prepare().await;
    let hang = json!({"hang": "60s", "always": true});
    world.main().add_fault(serde_json::from_value(hang).unwrap());
    let (mut worker, _) = Process::worker(&world).await;
    for n in 0..5 {
        world.reset("main", &format!("u-{n}"), &format!("job-{n}")).await;
    }
    eventually("the calls are in flight", async || (world.main().stats().calls == 5).then_some(())).await;
    let (code, took) = worker.terminated().await;
    assert_eq!(code, 0, "{}", worker.stderr());
    assert!((Duration::from_secs(1)..Duration::from_secs(7)).contains(&took), "{took:?}");
    assert_eq!(lying(&world, 5).await, 5);
    assert_eq!(world.depth("resets.main.dead").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_during_a_long_pause_ends_within_the_grace_and_returns_everything() {
    let plan = Plan::new().org("main", unlimited(), "request_timeout = \"2s\"").config(SHORT);
    let world = plan.prepare().await;
    let pause = json!({"status": 429, "retry_after": 600, "next": 1});
    world.main().add_fault(serde_json::from_value(pause).unwrap());
    let (mut worker, http) = Process::worker(&world).await;
    world.reset("main", "first", "first").await;
    eventually("it pauses", async || {
        let metrics = testkit::http::get(format!("{http}/metrics")).await.unwrap().text().await.unwrap();
        metrics.contains("resetd_pauses_total{org=\"main\"} 1").then_some(())
    })
    .await;
    world.reset_many("main", 99).await;
    let (code, took) = worker.terminated().await;
    assert_eq!(code, 0, "{}", worker.stderr());
    assert!(took < Duration::from_secs(7), "{took:?}");
    assert_eq!(lying(&world, 100).await, 100);
    assert_eq!((world.main().stats().calls, world.main().stats().password_sets), (1, 0));
}
