//! The soak: one worker and one that stands by, 50 jobs a second, the broker killed or stopped every 3 minutes, for half an hour; and an
//! hour in which nothing is restarted. Memory, threads, tasks and channels must stay what they were, and in the end the standby takes over.
//! `make soak` does both; SOAK_MINUTES, SOAK_RATE and SOAK_RESTART (seconds; 0: never) change it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::options::*;
use lapin::types::FieldTable;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::operator::process::{Process, role, role_is};
use crate::world::{Plan, World, connect, eventually, named, reset_body, unlimited};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// What a worker's process has at a moment.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sample {
    at: Duration,
    rss_mib: f64,
    threads: u64,
    tasks: u64,
}

async fn sample(process: &Process, http: &str, at: Duration) -> Option<Sample> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let metrics = testkit::http::get(format!("{http}/metrics")).await.ok()?.text().await.ok()?;
    let tasks = metrics.lines().find_map(|line| line.strip_prefix("resetd_tasks "))?.parse().ok()?;
    Some(Sample { at, rss_mib: field("VmRSS:")? as f64 / 1024.0, threads: field("Threads:")?, tasks })
}

/// Runs it on a thread of its own.
fn apart<F: Future>(make: impl FnOnce() -> F + Send + 'static) -> tokio::task::JoinHandle<F::Output>
where
    F::Output: Send + 'static,
{
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || runtime.block_on(make()))
}

/// Publishes at the rate until the end, over whatever connection there is; a job whose confirm is lost is published again.
async fn produce(url: String, exchange: String, rate: u64, until: Instant) -> u64 {
    let mut every = interval(Duration::from_secs_f64(1.0 / rate as f64));
    every.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut sent = 0;
    let mut channel: Option<lapin::Channel> = None;
    let mut _connection = None;
    while Instant::now() < until {
        every.tick().await;
        let job = format!("soak-{sent}");
        let body = reset_body(&format!("user-{}", sent % 5_000)).to_string();
        let key = if sent % 5 == 0 { "main" } else { "main.bulk" };
        loop {
            let Some(open) = &channel else {
                let connection = connect(&url).await;
                if let Ok(opened) = connection.create_channel().await
                    && opened.confirm_select(ConfirmSelectOptions::default()).await.is_ok()
                {
                    channel = Some(opened);
                }
                _connection = Some(connection);
                continue;
            };
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let properties = named(&job).with_delivery_mode(2);
            let sending = async {
                let sent =
                    open.basic_publish(exchange.as_str().into(), key.into(), options, body.as_bytes(), properties);
                sent.await?.await
            };
            match tokio::time::timeout(Duration::from_secs(10), sending).await {
                Ok(Ok(lapin::Confirmation::Ack(None))) => break,
                _ => channel = None,
            }
        }
        sent += 1;
    }
    sent
}

/// Takes all mails and outcomes, and keeps what the end is judged by.
#[derive(Default)]
struct Seen {
    /// By user, when the newest was issued and its password.
    newest: BTreeMap<String, (String, String)>,
    mails: u64,
}

async fn take_mails(url: String, queue: String, seen: Arc<Mutex<Seen>>, stop: CancellationToken) {
    use futures_util::StreamExt;
    while !stop.is_cancelled() {
        let connection = connect(&url).await;
        let consume = async {
            let channel = connection.create_channel().await?;
            channel.basic_qos(200, BasicQosOptions::default()).await?;
            channel
                .basic_consume(queue.as_str().into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
                .await
        };
        let Ok(Ok(mut consumer)) = tokio::time::timeout(Duration::from_secs(10), consume).await else { continue };
        while let Ok(Some(Ok(mail))) = tokio::time::timeout(Duration::from_secs(30), consumer.next()).await {
            let body: serde_json::Value = serde_json::from_slice(&mail.data).unwrap();
            let text = |field: &str| body[field].as_str().unwrap().to_owned();
            {
                let mut seen = seen.lock().unwrap();
                seen.mails += 1;
                let issued = (text("issuedAt"), text("temporaryPassword"));
                let newest = seen.newest.entry(text("userId")).or_default();
                if issued.0 >= newest.0 {
                    *newest = issued;
                }
            }
            if mail.acker.ack(BasicAckOptions::default()).await.is_err() {
                break;
            }
        }
    }
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// The samples of one process from the second to the fifth tenth, and from the sixth on.
fn halves(samples: &[(&str, Sample)], who: &str, length: Duration) -> (Vec<Sample>, Vec<Sample>) {
    let of = samples.iter().filter(|(name, _)| *name == who).map(|(_, sample)| *sample);
    of.filter(|sample| sample.at > length / 10).partition(|sample| sample.at < length / 2)
}

fn print_table(samples: &[(&str, Sample)], length: Duration) {
    for who in ["first", "second"] {
        for tenth in 0..10 {
            let (from, to) = (length * tenth / 10, length * (tenth + 1) / 10);
            let of: Vec<&Sample> = samples
                .iter()
                .filter(|(name, sample)| *name == who && sample.at >= from && sample.at < to)
                .map(|(_, sample)| sample)
                .collect();
            if of.is_empty() {
                continue;
            }
            let middle = |what: fn(&Sample) -> f64| median(of.iter().map(|sample| what(sample)).collect());
            eprintln!(
                "{who:>6} worker, {:>5} s: {:>6.1} MiB, {:>3} threads, {:>4} tasks",
                from.as_secs(),
                middle(|s| s.rss_mib),
                middle(|s| s.threads as f64),
                middle(|s| s.tasks as f64)
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "half an hour and an hour: make soak"]
async fn jobs_for_long_leave_memory_threads_tasks_and_channels_as_they_were_and_the_standby_takes_over() {
    let length = Duration::from_secs(60 * setting("SOAK_MINUTES", 30));
    let (rate, restart) = (setting("SOAK_RATE", 50), Duration::from_secs(setting("SOAK_RESTART", 180)));
    let broker = Arc::new(tokio::task::spawn_blocking(Broker::private).await.unwrap());
    let keys = format!("rate_per_minute = {}\nrequest_timeout = \"2s\"", rate * 60 * 2);
    let mut world: World = Plan::at(&broker.url).org("main", unlimited(), &keys).prepare().await;
    let (mut first, first_http) = Process::worker(&world).await;
    let (mut second, second_http) = Process::worker(&world).await;
    let begun = Instant::now();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let stop = CancellationToken::new();
    let (url, queue, mails, ends) = (broker.url.clone(), world.named("emails"), Arc::clone(&seen), stop.clone());
    apart(move || take_mails(url, queue, mails, ends));
    let (url, exchange) = (broker.url.clone(), world.named("resets"));
    let producing = apart(move || produce(url, exchange, rate, begun + length));
    let (mut samples, mut restarts, mut next_restart) = (Vec::new(), 0, begun + restart);
    let mut every = interval(Duration::from_secs(10));
    while begun.elapsed() < length {
        every.tick().await;
        for (who, process, http) in [("first", &first, &first_http), ("second", &second, &second_http)] {
            if let Some(sample) = sample(process, http, begun.elapsed()).await {
                samples.push((who, sample));
            }
        }
        if !restart.is_zero() && Instant::now() >= next_restart && begun.elapsed() + Duration::from_secs(60) < length {
            broker.told(if restarts % 2 == 0 { "kill" } else { "stop" }).await;
            broker.told("start").await;
            restarts += 1;
            next_restart += restart;
            let last = samples.last().unwrap().1;
            eprintln!("{:>5} s: restart {restarts}, {last:?}", begun.elapsed().as_secs());
        }
    }
    let sent = producing.await.unwrap();
    world.connection = connect(&broker.url).await;
    eventually("both lanes are empty", async || {
        let left = world.in_the_lanes().await;
        (left == 0).then_some(())
    })
    .await;
    let records = world.recorded(usize::try_from(sent).unwrap()).await;
    let mut ends: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in &records {
        let record = record.json();
        let text = |field: &str| record[field].as_str().unwrap().to_owned();
        ends.entry(text("jobId")).or_default().push(text("outcome"));
    }
    let failed: BTreeSet<_> = ends.iter().filter(|(_, ends)| !ends.iter().any(|end| end == "succeeded")).collect();
    let twice = ends.values().filter(|ends| ends.len() > 1).count();
    let mailed = async || (seen.lock().unwrap().mails >= sent).then_some(());
    eventually("every mail is taken", mailed).await;
    eventually("nobody is locked out", async || {
        let newest = seen.lock().unwrap().newest.clone();
        newest.iter().all(|(user, (_, password))| world.main().logs_in(user, password)).then_some(())
    })
    .await;
    stop.cancel();
    broker.told("ctl list_channels connection name messages_unacknowledged").await;
    // The publisher's pool keeps 64 at most (ADR 5); the rest of both workers, and the test, some ten.
    let few_channels = broker.told("ctl eval true=length(rabbit_channel:list())<80.").await;
    // After broker failures either of them may have the org.
    let (ending, other) = match role(&first_http).await.as_deref() {
        Some("active") => (&mut first, &second_http),
        _ => (&mut second, &first_http),
    };
    let asked = Instant::now();
    assert_eq!(ending.terminated().await.0, 0, "{}", ending.stderr());
    role_is(other, "active").await;
    let took_over = asked.elapsed();
    let mails = seen.lock().unwrap().mails;
    print_table(&samples, length);
    eprintln!(
        "{sent} jobs in {} s, {restarts} restarts: {} outcomes, {mails} mails, {twice} jobs with more than one outcome, {} not succeeded",
        begun.elapsed().as_secs(),
        records.len(),
        failed.len()
    );
    eprintln!("SIGTERM to the active one: the other was active {took_over:?} later");
    assert!(took_over < Duration::from_secs(5), "{took_over:?}");
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(few_channels, "done 0", "fewer than 80 channels");
    for who in ["first", "second"] {
        let (early, late) = halves(&samples, who, length);
        let of = |half: &[Sample], what: fn(&Sample) -> f64| median(half.iter().map(what).collect());
        // What the ledger keeps of a job that is done, some 60 bytes in two tables that double: allowed for.
        let allowed = 8.0 + sent as f64 * 200.0 / 1_048_576.0;
        let grown = of(&late, |s| s.rss_mib) - of(&early, |s| s.rss_mib);
        assert!(grown < allowed, "{who}: {grown} MiB more in the second half, {allowed} allowed");
        assert!(of(&late, |s| s.threads as f64) <= of(&early, |s| s.threads as f64) + 1.0, "{who}: threads");
        assert!(of(&late, |s| s.tasks as f64) <= of(&early, |s| s.tasks as f64) + 5.0, "{who}: tasks");
    }
}
