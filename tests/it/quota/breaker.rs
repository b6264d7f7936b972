//! An org that fails, and one that admits less than was configured: the breaker and the rate at work, with a worker on a real broker.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use resetd::throttle::limiter::Limiter;
use serde_json::{Value, json};
use sim::{Org, Settings, Stats};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::world::{Plan, World, by_job, delivered, eventually, fault, locked_out, named, reset_body, unlimited};

/// How `/readyz` shows the org's breaker; `None` while it is closed.
async fn breaker(world: &World, org: &str) -> Option<Value> {
    let (status, said) = world.readyz().await;
    let row = &said["orgs"][org];
    assert_eq!((status, &row["role"]), (200, &json!("active")), "a breaker changes neither: {said}");
    row.get("breaker").cloned()
}

/// Waits until the org's breaker is open.
async fn opened(world: &World, org: &str) -> Value {
    let open = async || breaker(world, org).await.filter(|breaker| breaker["state"] == "open");
    eventually("the breaker opens", open).await
}

fn next_probe(breaker: &Value) -> Timestamp {
    breaker["nextProbe"].as_str().unwrap().parse().unwrap()
}

/// One metric of the worker. Metrics are of the whole process: no other test has an org of the same name.
async fn metric(world: &World, name: &str, labels: &str) -> Option<f64> {
    let text = world.metrics().await;
    let start = format!("{name}{{{labels}}} ");
    text.lines().find_map(|line| line.strip_prefix(&start)).map(|value| value.parse().unwrap())
}

/// The users `name-0`, `name-1`, …, one job each, published in this order.
async fn send(world: &World, key: &str, users: impl Iterator<Item = String>) -> usize {
    let channel = world.channel().await;
    let mut sent = 0;
    for user in users {
        world.publish_on(&channel, key, reset_body(&user).to_string().as_bytes(), named(&user)).await;
        sent += 1;
    }
    sent
}

/// A server of an org that can go away and come back at the same place.
struct Server {
    place: std::net::SocketAddr,
    stop: CancellationToken,
}

impl Server {
    async fn of(org: &Org, place: Option<std::net::SocketAddr>) -> Self {
        let listener = TcpListener::bind(place.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap())).await.unwrap();
        let (place, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let (serving, stopped) = (org.clone(), stop.clone());
        tokio::spawn(async move { serving.serve(listener, stopped).await });
        Self { place, stop }
    }

    fn section(&self, org: &str, keys: &str) -> String {
        let base = format!("http://{}", self.place);
        format!(
            "[orgs.{org}]\ntoken_url = \"{base}/oauth/token\"\nscim_url = \"{base}/api/v2/scim/v2\"\nclient_id = \"demo\"\nclient_secret = \"demo-secret\"\n{keys}\n"
        )
    }

    async fn is_gone(&self) {
        self.stop.cancel();
        eventually("connections are refused", async || tokio::net::TcpStream::connect(self.place).await.err()).await;
    }
}

const WINDOW: Duration = Duration::from_secs(5);

/// An org that admits so many calls in each 5 s, and answers after some time.
fn admitting(quota: u32) -> Settings {
    let latency = Duration::from_millis(50);
    Settings { quota, window: WINDOW, latency, latency_jitter: latency, ..unlimited() }
}

/// What a storm came to, as the org counted it.
#[derive(Debug)]
struct Storm {
    /// From the first call to the last.
    took: Duration,
    /// Calls after the first window, and how many of them were refused.
    calls: u64,
    refused: u64,
}

/// Watches an org until it has set so many passwords.
async fn storm(org: &Org, jobs: u64) -> Storm {
    let millis = |ms: Option<u64>| Duration::from_millis(ms.unwrap_or_default());
    let mut first: Option<Stats> = None;
    loop {
        let stats = org.stats();
        let began = millis(stats.first_call_ms);
        let window_ends = WINDOW * (began.div_duration_f64(WINDOW) as u32 + 1);
        if first.is_none() || millis(stats.last_call_ms) < window_ends {
            first = Some(stats.clone());
        }
        if let Some(first) = first.as_ref().filter(|_| stats.password_sets >= jobs) {
            let took = millis(stats.last_call_ms) - began;
            let (calls, refused) = (stats.calls - first.calls, stats.throttled - first.throttled);
            return Storm { took, calls, refused };
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// A worker that only obeys `Retry-After`, with nothing else to do: the same limiter, no broker, no estimate. It begins at the
/// same point of a window as the other one did.
async fn obeying(settings: Settings, rate: u32, jobs: u64, begins: Duration) -> Storm {
    let started = Instant::now();
    let org = Org::new(settings).unwrap();
    let server = Server::of(&org, None).await;
    let base = format!("http://{}", server.place);
    let http = reqwest::Client::new();
    let token = http.post(format!("{base}/oauth/token")).basic_auth("demo", Some("demo-secret"));
    let token: Value = token.form(&[("grant_type", "client_credentials")]).send().await.unwrap().json().await.unwrap();
    let token = token["access_token"].as_str().unwrap().to_owned();
    let (again, mut waiting) = mpsc::unbounded_channel();
    (0..jobs).for_each(|job| again.send(job).unwrap());
    let paused_until = Arc::new(Mutex::new(started));
    let windows = started.elapsed().saturating_sub(begins).div_duration_f64(WINDOW).ceil();
    sleep_until(started + begins + WINDOW.mul_f64(windows)).await;
    let limiter = Limiter::new(NonZeroU32::new(rate).unwrap(), NonZeroU32::MIN);
    let calling = async {
        while let Some(job) = waiting.recv().await {
            loop {
                let until = *paused_until.lock().unwrap();
                if Instant::now() < until {
                    sleep_until(until).await;
                } else if let Err(wait) = limiter.check() {
                    sleep(wait).await;
                } else {
                    break;
                }
            }
            let body = json!({"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
                "Operations": [{"op": "replace", "path": "password", "value": "0".repeat(64)}]});
            let call = http.patch(format!("{base}/api/v2/scim/v2/Users/u-{job}")).bearer_auth(&token);
            let call = call.header("content-type", "application/scim+json").header("accept", "application/scim+json");
            let (call, paused_until, again) = (call.body(body.to_string()), Arc::clone(&paused_until), again.clone());
            tokio::spawn(async move {
                let answer = call.send().await.unwrap();
                if answer.status() == 429 {
                    let wait: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
                    let until = Instant::now() + Duration::from_secs(wait);
                    let mut paused = paused_until.lock().unwrap();
                    *paused = until.max(*paused);
                    again.send(job).unwrap();
                } else {
                    assert_eq!(answer.status(), 200);
                }
            });
        }
    };
    tokio::select! {
        storm = storm(&org, jobs) => storm,
        () = calling => unreachable!("it waits for more"),
    }
}

/// The storm, and the lowest rate that the worker showed for the org meanwhile.
async fn lowest_rate(world: &World, org: &str, storm: impl Future<Output = Storm>) -> (Storm, f64) {
    let labels = format!("org=\"{org}\"");
    let mut lowest = f64::INFINITY;
    let watching = async {
        loop {
            lowest = lowest.min(metric(world, "resetd_rate_per_minute", &labels).await.unwrap());
            sleep(Duration::from_millis(100)).await;
        }
    };
    let storm = tokio::select! {
        storm = storm => storm,
        () = watching => unreachable!("it has no end"),
    };
    (storm, lowest)
}

/// Jobs for seven windows and a bit: at the very end a worker that does not slow down is always ahead by half a window.
fn jobs_of(rate: u32) -> u64 {
    u64::from(rate / 24 * 36 / 5)
}

/// The worker's storm with the lowest rate that it showed, and beside it the storm of one that only obeys.
async fn both(world: &World, rate: u32) -> ((Storm, f64), Storm) {
    let (org, jobs) = (format!("storm_{rate}"), jobs_of(rate));
    let sim = world.sim(&org);
    let adapting = lowest_rate(world, &org, storm(sim, jobs));
    let reference = async {
        let begins = eventually("the first call", async || sim.stats().first_call_ms).await;
        obeying(admitting(rate / 24), rate, jobs, Duration::from_millis(begins % 5_000)).await
    };
    tokio::join!(adapting, reference)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_faults_in_a_row_open_it_and_the_first_probe_that_passes_closes_it() {
    // A call each 100 ms, of which some ten are in flight: so more than one at a time would be seen.
    let settings = Settings { latency: Duration::from_secs(1), ..unlimited() };
    let world = Plan::new().org("row", settings, "rate_per_minute = 600").start().await;
    let mut outcomes = world.outcomes().await;
    world.sim("row").add_fault(fault("status=500,always"));
    let jobs = send(&world, "row", (0..40).map(|n| format!("u-{n}"))).await;
    let open = opened(&world, "row").await;
    let probe_at = next_probe(&open);
    let cause = open["cause"].as_str().unwrap();
    let error = "; the last one: HTTP 500, internal.server.error: Internal Server Error";
    assert!(cause.starts_with(&format!("5 calls in a row failed, of several users{error}")), "{cause}");
    assert!(probe_at <= Timestamp::now() + SignedDuration::from_secs(6), "{open}");
    assert_eq!(metric(&world, "resetd_breaker_state", "org=\"row\"").await, Some(2.0));
    let counted = "org=\"row\",cause=\"faults_in_row\"";
    assert_eq!(metric(&world, "resetd_breaker_opened_total", counted).await, Some(1.0));
    let shown = metric(&world, "resetd_breaker_next_probe_timestamp_seconds", "org=\"row\"").await.unwrap();
    assert!((shown - probe_at.as_millisecond() as f64 / 1e3).abs() < 0.01, "{shown} {open}");

    // What was in flight when it opened is answered; from then on nothing is called.
    let spent = eventually("the calls in flight end", async || {
        let answered = metric(&world, "resetd_patches_total", "org=\"row\",status=\"500\"").await?;
        let calls = world.sim("row").stats().calls;
        (answered == calls as f64).then_some(calls)
    })
    .await;
    assert!(spent < 40, "{spent} calls for 40 jobs");
    world.sim("row").clear_faults();
    let mut was_half_open = false;
    eventually("it closes", async || {
        let calls = world.sim("row").stats().calls;
        let shown = breaker(&world, "row").await;
        let now = Timestamp::now();
        match shown {
            Some(breaker) if breaker["state"] == "open" => assert_eq!(calls, spent, "a call while it was open"),
            Some(breaker) => {
                assert_eq!(breaker["state"], "half_open");
                assert!(calls <= spent + 1, "{} probes at once", calls - spent);
                assert!(now >= probe_at - SignedDuration::from_millis(50), "the probe came early: {now} {breaker}");
                was_half_open = true;
            }
            None => return Some(()),
        }
        None
    })
    .await;
    assert!(was_half_open);

    let records = by_job(&outcomes.take(jobs).await);
    assert!(records.values().all(|record| record["outcome"] == "succeeded"), "{records:?}");
    let attempts: u64 = records.values().map(|record| record["attempts"].as_u64().unwrap()).sum();
    assert_eq!(attempts, world.sim("row").stats().calls, "an attempt is a call and nothing else");
    assert_eq!(attempts, jobs as u64 + spent);
    assert_eq!(metric(&world, "resetd_breaker_state", "org=\"row\"").await, Some(0.0));
    assert_eq!(metric(&world, "resetd_breaker_next_probe_timestamp_seconds", "org=\"row\"").await, Some(0.0));
    assert_eq!(metric(&world, "resetd_breaker_opened_total", counted).await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_twenty_calls_that_fail_open_it_though_every_other_one_succeeds() {
    // Their retries come when all have been called once.
    let plan = Plan::new().config("[retry]\nbase = \"5s\"\nmax = \"5s\"");
    let world = plan.org("half", unlimited(), "rate_per_minute = 600").start().await;
    let mut outcomes = world.outcomes().await;
    (0..15).for_each(|n| world.sim("half").add_fault(fault(&format!("status=500,always,user=bad-{n}"))));
    let users = (0..30).map(|n| if n % 2 == 0 { format!("good-{n}") } else { format!("bad-{}", n / 2) });
    let jobs = send(&world, "half", users).await;
    let open = opened(&world, "half").await;
    let (cause, _error) = open["cause"].as_str().unwrap().split_once("; the last one: HTTP 500").unwrap();
    let counts = cause.strip_suffix(" calls of the last 30 s failed, of several users").expect(cause);
    let (faults, calls) = counts.split_once(" of the ").expect(cause);
    let (faults, calls): (u32, u32) = (faults.parse().unwrap(), calls.parse().unwrap());
    // The 20th call is the 10th fault; on a busy machine its answer may come after the next one's.
    assert!((20..=23).contains(&calls) && 2 * faults >= calls, "{cause}");
    let counted = "org=\"half\",cause=\"half_of_calls\"";
    assert_eq!(metric(&world, "resetd_breaker_opened_total", counted).await, Some(1.0));
    world.sim("half").clear_faults();
    let records = by_job(&outcomes.take(jobs).await);
    assert!(records.values().all(|record| record["outcome"] == "succeeded"), "{records:?}");
    assert_eq!(breaker(&world, "half").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_users_alone_are_given_up_while_others_pass_and_never_open_it() {
    let config = "[retry]\nmax_attempts = 12\nbase = \"10ms\"\nmax = \"20ms\"";
    let world = Plan::new().config(config).org("bad_users", unlimited(), "").start().await;
    let (mut outcomes, mut dead) = (world.outcomes().await, world.tap("resets.bad_users.dead").await);
    for bad in ["bad-1", "bad-2"] {
        world.sim("bad_users").add_fault(fault(&format!("status=500,always,user={bad}")));
    }
    send(&world, "bad_users", ["bad-1", "bad-2"].into_iter().map(str::to_owned)).await;
    // 24 faults, and no other call between them.
    let mut records = outcomes.take(2).await;
    world.sim("bad_users").add_fault(fault("status=500,always,user=bad-1"));
    world.publish("bad_users", reset_body("bad-1").to_string().as_bytes(), named("again")).await;
    let others = send(&world, "bad_users", (0..40).map(|n| format!("good-{n}"))).await;
    records.extend(outcomes.take(1 + others).await);
    for (job, record) in by_job(&records) {
        let said = json!([record["outcome"], record["reason"], record["attempts"], record["passwordSet"]]);
        let expected = if job.starts_with("good") {
            json!(["succeeded", null, 1, "yes"])
        } else {
            json!(["failed", "retries_exhausted", 12, "unknown"])
        };
        assert_eq!(said, expected, "{record}");
    }
    let letters = dead.take(3).await;
    assert!(letters.iter().all(|letter| letter.header("resetd-reason").unwrap() == "retries_exhausted"));
    let metrics = world.metrics().await;
    assert!(!metrics.contains("resetd_breaker_opened_total{org=\"bad_users\""), "it opened");
    assert_eq!(breaker(&world, "bad_users").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_orgs_breaker_is_not_anothers() {
    let world = Plan::new().org("own_north", unlimited(), "").org("own_south", unlimited(), "").start().await;
    let mut outcomes = world.outcomes().await;
    world.sim("own_north").add_fault(fault("status=500,always"));
    send(&world, "own_north", (0..20).map(|n| format!("n-{n}"))).await;
    opened(&world, "own_north").await;
    let jobs = send(&world, "own_south", (0..20).map(|n| format!("s-{n}"))).await;
    for (job, record) in by_job(&outcomes.take(jobs).await) {
        let said = json!([record["org"], record["outcome"], record["attempts"]]);
        assert_eq!(said, json!(["own_south", "succeeded", 1]), "{job}: {record}");
    }
    assert_eq!(breaker(&world, "own_south").await, None);
    assert!(breaker(&world, "own_north").await.is_some());
    assert_eq!(world.sim("own_north").stats().password_sets, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_that_is_down_costs_jobs_that_run_alone_no_attempts_either() {
    // Each hears of one fault at most before the breaker has heard of three users, and of one more before it has heard of five.
    let plan = Plan::new().config("[retry]\nmax_attempts = 3\nbase = \"20ms\"\nmax = \"40ms\"");
    let mut world = plan.org("alone", unlimited(), "rate_per_minute = 600").start().await;
    world.stop_worker().await.unwrap();
    let mut outcomes = world.outcomes().await;
    world.sim("alone").add_fault(fault("status=500,always"));
    let channel = world.channel().await;
    for n in 0..4 {
        let user = format!("u-{n}");
        let properties = delivered(named(&user), 3);
        world.publish_on(&channel, "alone", reset_body(&user).to_string().as_bytes(), properties).await;
    }
    world.start_worker().await;
    world.ready().await;
    opened(&world, "alone").await;
    assert_eq!(world.sim("alone").stats().calls, 5);
    world.sim("alone").clear_faults();
    for (job, record) in by_job(&outcomes.take(4).await) {
        assert_eq!(record["outcome"], "succeeded", "{job}: {record}");
    }
    assert_eq!(world.depth("resets.alone.dead").await, 0);
    assert_eq!(locked_out(world.sim("alone"), &world.drained("emails").await), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_that_is_down_costs_no_job_its_attempts() {
    const JOBS: usize = 20;
    // Two attempts: the calls in flight when it opens may take one, and no failed probe may take the other. A call each 200 ms,
    // or 500 ms where each takes 3 s to fail, so that the breaker opens before any job is called twice.
    let keys = "rate_per_minute = 300";
    let unreachable = Org::new(unlimited()).unwrap();
    // An address of its own: on the common one somebody else may be given its port while it is gone.
    let server = Server::of(&unreachable, Some("127.77.0.1:0".parse().unwrap())).await;
    let mut plan = Plan::new().config("[retry]\nmax_attempts = 2\nbase = \"20ms\"\nmax = \"40ms\"");
    plan = plan.config(&server.section("down_refused", keys));
    let faults = [("down_500", "status=500,always"), ("down_silent", "hang=30s,always"), ("down_cut", "cut,always")];
    for (org, _) in faults {
        let silent = "rate_per_minute = 120\nrequest_timeout = \"3s\"";
        plan = plan.org(org, unlimited(), if org == "down_silent" { silent } else { keys });
    }
    let world = plan.start().await;
    let orgs = ["down_500", "down_silent", "down_cut", "down_refused"];
    let mut outcomes = world.outcomes().await;
    // All jobs are in flight when the first call fails: a pause holds them until then.
    for org in orgs {
        let sim = if org == "down_refused" { &unreachable } else { world.sim(org) };
        sim.add_fault(fault("status=429,retry_after=15,next=1"));
        send(&world, org, std::iter::once(format!("{org}-first"))).await;
        eventually("the pause", async || metric(&world, "resetd_pauses_total", &format!("org=\"{org}\"")).await).await;
        world.reset_many(org, JOBS - 1).await;
        eventually("all in flight", async || {
            let mut in_flight = 0.0;
            for lane in ["interactive", "bulk"] {
                let labels = format!("org=\"{org}\",lane=\"{lane}\"");
                in_flight += metric(&world, "resetd_jobs_in_flight", &labels).await?;
            }
            (in_flight == JOBS as f64).then_some(())
        })
        .await;
        match faults.iter().find(|(name, _)| *name == org) {
            Some((_, text)) => sim.add_fault(fault(text)),
            None => server.is_gone().await,
        }
    }
    let failed_probes = orgs.map(async |org| {
        let first = next_probe(&opened(&world, org).await);
        eventually("a probe fails, and it opens again", async || {
            let open = breaker(&world, org).await.filter(|breaker| breaker["state"] == "open")?;
            (next_probe(&open) > first + SignedDuration::from_secs(3)).then_some(())
        })
        .await;
    });
    futures_util::future::join_all(failed_probes).await;
    for (org, _) in faults {
        world.sim(org).clear_faults();
    }
    let _server = Server::of(&unreachable, Some(server.place)).await;
    for (job, record) in by_job(&outcomes.take(JOBS * orgs.len()).await) {
        assert_eq!(record["outcome"], "succeeded", "{job}: {record}");
    }
    let mails = world.drained("emails").await;
    for org in orgs {
        let sim = if org == "down_refused" { &unreachable } else { world.sim(org) };
        let own: Vec<_> = mails.iter().filter(|mail| mail.json()["org"] == org).collect();
        assert_eq!(own.len(), JOBS, "{org}");
        for mail in own {
            assert_eq!(locked_out(sim, std::slice::from_ref(mail)), Vec::<String>::new());
        }
        assert_eq!(world.depth(&format!("resets.{org}.dead")).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_user_alone_in_the_interactive_lane_is_not_every_probe_at_the_broker_either() {
    let world = Plan::new().org("probes", unlimited(), "rate_per_minute = 600").prepare().await;
    let mut config = world.load();
    // The breaker's first opening is longer than half of it: everything goes back, and probes are taken from the broker.
    config.hold = Duration::from_secs(6);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let http = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let worker = tokio::spawn(resetd::commands::worker::run(config, listener, shutdown.clone()));
    crate::operator::process::ready(&http).await;
    let mut outcomes = world.outcomes().await;
    let sim = world.sim("probes");
    sim.add_fault(fault("status=500,always"));
    send(&world, "probes", std::iter::once("bad".to_owned())).await;
    let jobs = send(&world, "probes.bulk", (0..10).map(|n| format!("good-{n}"))).await;
    eventually("the breaker opens", async || {
        let (_, said) = crate::operator::process::readyz(&http).await?;
        (said["orgs"]["probes"]["breaker"]["state"] == "open").then_some(())
    })
    .await;
    sim.clear_faults();
    sim.add_fault(fault("status=500,always,user=bad"));
    let records = by_job(&outcomes.take(jobs + 1).await);
    for (job, record) in &records {
        let expected = if job == "bad" { json!("retries_exhausted") } else { Value::Null };
        assert_eq!(record["reason"], expected, "{record}");
    }
    shutdown.cancel();
    worker.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_storm_few_calls_are_refused_and_little_time_is_lost() {
    // Two orgs admit half of what is configured, and one all of it; there any 5 s may have one call more than the average 5 s.
    const RATES: [u32; 2] = [1_200, 3_000];
    const CALM: usize = 300;
    let mut plan = Plan::new().org("calm", admitting(1_200 / 12 + 1), "rate_per_minute = 1200");
    for rate in RATES {
        plan = plan.org(&format!("storm_{rate}"), admitting(rate / 24), &format!("rate_per_minute = {rate}"));
    }
    let world = plan.start().await;
    for rate in RATES {
        world.reset_many(&format!("storm_{rate}"), jobs_of(rate) as usize).await;
    }
    world.reset_many("calm", CALM).await;
    let storms = futures_util::future::join_all(RATES.map(|rate| both(&world, rate)));
    let calm = lowest_rate(&world, "calm", storm(world.sim("calm"), CALM as u64));
    let (storms, (calm, calm_rate)) = tokio::join!(storms, calm);

    let all = jobs_of(RATES[0]) as usize + jobs_of(RATES[1]) as usize + CALM;
    let records = world.recorded(all).await;
    assert_eq!(records.len(), all);
    assert!(records.iter().all(|record| record.routing_key.ends_with(".succeeded") && record.json()["attempts"] == 1));
    let of_shortest = calm.took.div_duration_f64(Duration::from_millis(50) * (CALM as u32 - 1));
    eprintln!("all of 1200 a minute admitted: {of_shortest:.3} of the shortest time, {calm:?}");
    for (rate, ((storm, lowest), reference)) in RATES.into_iter().zip(&storms) {
        let refused = storm.refused as f64 / storm.calls as f64;
        let longer = storm.took.div_duration_f64(reference.took);
        eprintln!(
            "half of {rate} a minute admitted: {:.1} % refused, {longer:.3} of the time of one that only obeys; lowest rate {lowest}, {storm:?}, {reference:?}",
            refused * 100.0
        );
        assert!(refused <= 0.05 && longer <= 1.15, "{rate}: {refused} refused, {longer} of the time");
        assert!(*lowest < f64::from(rate), "{rate}: it was never lowered");
    }
    // How long that takes: ops::a_whole_quota_is_spent_and_no_call_is_refused.
    assert_eq!((calm.refused, calm_rate), (0, 1_200.0), "{calm:?}");
}
