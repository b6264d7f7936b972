//! The ledger's reader at a real stream: what was there before, what comes later, and what ends its reading.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeleteOptions};
use lapin::{BasicProperties, Connection};
use resetd::amqp::error::BrokerError;
use resetd::amqp::ledger::{Ledger, Reading};
use resetd::amqp::names::Names;
use resetd::amqp::publisher::{Message, Publisher};
use resetd::domain::job::{JobId, Lane};
use resetd::domain::ledger::{Fence, Holder, WorkerName};
use resetd::domain::outcome::Outcome;
use resetd::domain::user::UserId;
use resetd::wire;
use tokio::task::JoinHandle;

use crate::broker::Broker;
use crate::operator::process::{Process, Run, ready, role_is, ticks};
use crate::world::{Plan, connect, eventually, succeeded};

type Record = (Vec<u8>, BasicProperties);

/// A stream of one test, what writes to it, and the ledger that reads it.
struct Observer {
    url: String,
    names: Names,
    connection: Connection,
    publisher: Publisher,
    ledger: Ledger,
}

/// A connection on which the ledger is read.
struct Reader {
    connection: Arc<Connection>,
    task: JoinHandle<()>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Observer {
    async fn new() -> Self {
        Self::at(&Broker::shared().url).await
    }

    async fn at(url: &str) -> Self {
        Self::of(url, &format!("t{}.", uuid::Uuid::new_v4().simple())).await
    }

    async fn follow(&self) -> Reader {
        let connection = Arc::new(connect(&self.url).await);
        let (ledger, on) = (self.ledger.clone(), Arc::clone(&connection));
        Reader { connection, task: tokio::spawn(async move { ledger.follow(&on).await }) }
    }

    /// What reads, once it has read `old-0` to `old-4`. The first is there before it attaches: else it may be handed none (3.10).
    async fn has_read_five(&self) -> (Reader, Reading) {
        let reader = self.follow().await;
        self.write(outcome("old-0", "u-1")).await;
        let reading = self.ledger.reading();
        for n in 1..5 {
            self.write(outcome(&format!("old-{n}"), "u-1")).await;
        }
        self.done("old-4").await;
        (reader, reading)
    }

    async fn write(&self, (body, properties): Record) {
        let (exchange, key) = ("", self.names.ledger());
        self.publisher.publish(&Message { exchange, key: &key, body: &body, properties }).await.unwrap();
    }

    async fn fence(&self, worker: &str) -> String {
        let id = uuid::Uuid::new_v4().to_string();
        let at = Timestamp::now();
        let fence = Fence { worker: worker.into(), id: id.as_str().into(), term: None, longest_call: None, at };
        self.write(wire::ledger::fence("main", &fence)).await;
        id
    }

    /// Reads up to a fence: who led before it.
    async fn before(&self, fence: &str) -> Holder {
        self.ledger.until_fence(fence).await.unwrap().before
    }

    /// Writes a fence and reads up to it.
    async fn caught_up(&self) {
        self.ledger.until_fence(&self.fence("test").await).await.unwrap();
    }

    /// The stream that the workers of this prefix write to.
    async fn of(url: &str, prefix: &str) -> Self {
        let names = Names::new(prefix, "main");
        let connection = connect(url).await;
        crate::world::declare(&connection, &names).await;
        let publisher = Publisher::open(Arc::new(connect(url).await)).await.unwrap();
        let ledger = Ledger::new(names.ledger());
        Self { url: url.to_owned(), names, connection, publisher, ledger }
    }

    fn is_done(&self, job: &str) -> bool {
        self.ledger.is_done("main", &JobId::new(job), None, false)
    }

    async fn done(&self, job: &str) {
        eventually(job, async || self.is_done(job).then_some(())).await;
    }

    /// Another stream under the same name.
    async fn declared_anew(&self) {
        let channel = self.connection.create_channel().await.unwrap();
        channel.queue_delete(self.names.ledger().into(), QueueDeleteOptions::default()).await.unwrap();
        crate::world::declare(&self.connection, &self.names).await;
    }

    /// Writes very many, without waiting for each one's confirm.
    async fn write_many(&self, records: impl Iterator<Item = Record>) {
        self.write_ahead(records, 2_000).await;
    }

    /// Writes with so many not confirmed at most: with one, each record gets a chunk of its own in the stream.
    async fn write_ahead(&self, records: impl Iterator<Item = Record>, unconfirmed: usize) {
        let channel = self.connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let key = self.names.ledger();
        let mut confirms = std::collections::VecDeque::new();
        for (body, properties) in records {
            let options = BasicPublishOptions::default();
            let sent = channel.basic_publish("".into(), key.as_str().into(), options, &body, properties);
            confirms.push_back(sent.await.unwrap());
            if confirms.len() == unconfirmed {
                confirms.pop_front().unwrap().await.unwrap();
            }
        }
        for confirm in confirms {
            confirm.await.unwrap();
        }
    }
}

/// A job that ended now, as the worker writes it.
fn outcome(job: &str, user: &str) -> Record {
    let now = Timestamp::now();
    let asked_at = Some(now - SignedDuration::from_secs(60));
    wire::outcome::record(&Outcome { lane: Lane::Bulk, asked_at, ..succeeded(JobId::new(job), user, now) })
}

/// Records of 4 KB: 10,000 of them fill more than one segment of the stream, and the broker takes an offset for itself between two.
fn large(jobs: std::ops::Range<usize>) -> impl Iterator<Item = Record> {
    jobs.map(|n| {
        let (body, properties) = outcome(&format!("job-{n}"), &format!("u-{}", n % 100));
        let mut record: serde_json::Value = serde_json::from_slice(&body).unwrap();
        record["detail"] = "x".repeat(4_000).into();
        (record.to_string().into_bytes(), properties)
    })
}

/// A day at the full quota.
const DAY: usize = 432_000;

fn day() -> impl Iterator<Item = Record> {
    let user = |n: usize| format!("0f6e7c1a-1f00-4c2e-{:012}", n * 7919 % 300_000);
    (0..DAY).map(move |n| outcome(&format!("0f6e7c1a-1f00-4c2e-9d3b-{n:012}"), &user(n)))
}

/// Waits until a worker has taken over, and returns how long that took, as it says. (By its log: asking it all the while would cost
/// it what is measured.)
async fn took(worker: &Process) -> Duration {
    eventually("it has taken over", async || {
        let log = worker.stderr();
        let line = log.lines().rfind(|line| line.contains("history loaded\""))?;
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        line["took_ms"].as_u64().map(Duration::from_millis)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_reads_what_was_there_before_and_what_comes_later_while_somebody_wants_it() {
    let observer = Observer::new().await;
    observer.write(outcome("before", "u-1")).await;
    let _reader = observer.follow().await;
    assert!(!observer.is_done("before"), "nobody wants it read");
    let reading = observer.ledger.reading();
    observer.done("before").await;
    assert!(observer.ledger.newest("main", &UserId::parse("u-1").unwrap()).is_some());
    observer.write(outcome("later", "u-1")).await;
    observer.done("later").await;

    drop(reading);
    observer.write(outcome("meanwhile", "u-1")).await;
    let _reading = observer.ledger.reading();
    observer.done("meanwhile").await;
    assert_eq!(observer.ledger.records(), 3, "it went on from its place");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_shows_that_the_ledger_was_read_to_its_end_and_who_led_before() {
    let observer = Observer::new().await;
    let _reader = observer.follow().await;
    observer.write_many((0..1_000).map(|n| outcome(&format!("job-{n}"), "u-1"))).await;
    let first = observer.fence("a").await;
    assert_eq!(observer.before(&first).await, Holder::Nobody, "it is read while it is waited for");
    assert!(observer.is_done("job-999"));
    assert_eq!(observer.ledger.holder("main"), Holder::Was(WorkerName::new("a")));

    let _reading = observer.ledger.reading();
    observer.caught_up().await;
    let mut slowest = Duration::ZERO;
    for worker in ["a", "b", "b"] {
        let start = Instant::now();
        let before = observer.before(&observer.fence(worker).await).await;
        assert_ne!(before, Holder::Nobody);
        slowest = slowest.max(start.elapsed());
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");

    let of_b = observer.fence("b").await;
    observer.write(wire::ledger::released("main", &WorkerName::new("b"), &of_b, Timestamp::now())).await;
    let last = observer.fence("c").await;
    assert_eq!(observer.before(&last).await, Holder::Nobody);
    assert_eq!(observer.before(&last).await, Holder::Nobody, "one that was read already");
}

/// A reader that attaches while the stream gets its first record is not handed that one by RabbitMQ 3.10, now and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_record_of_a_new_stream_is_read_though_the_reader_attached_meanwhile() {
    let observer = Observer::new().await;
    for nth in 0..40 {
        observer.declared_anew().await;
        let ledger = Ledger::new(observer.names.ledger());
        let on = &observer.connection;
        let _reading = ledger.reading();
        let read = async {
            // Not in step with the reader: at another moment of its attaching each time.
            tokio::time::sleep(Duration::from_micros(nth * 500)).await;
            let id = observer.fence("test").await;
            let begun = Instant::now();
            ledger.until_fence(&id).await.unwrap();
            begun.elapsed()
        };
        let took = tokio::select! {
            () = ledger.follow(on) => panic!("the connection is lost"),
            took = read => took,
        };
        assert!(took < Duration::from_secs(6), "stream {nth}: {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_that_never_comes_is_given_up_and_the_next_one_is_read() {
    let observer = Observer::new().await;
    let _reader = observer.follow().await;
    // Before it attaches: RabbitMQ 3.10 may not hand it the first record of a stream.
    observer.write(outcome("job", "u-1")).await;
    let _reading = observer.ledger.reading();
    observer.done("job").await;
    let start = Instant::now();
    let trouble = observer.ledger.until_fence("nobody wrote it").await.unwrap_err();
    assert!(matches!(&trouble, BrokerError::Retry(why) if why.contains("10 s")), "{trouble:?}");
    assert!(start.elapsed() < Duration::from_secs(13), "{:?}", start.elapsed());
    observer.caught_up().await;
    assert_eq!(observer.ledger.records(), 2, "it has kept its place: the stream is still the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_deleted_and_declared_anew_is_read_from_its_beginning() {
    let observer = Observer::new().await;
    let (reader, reading) = observer.has_read_five().await;
    // While it is read.
    observer.declared_anew().await;
    observer.write(outcome("new", "u-1")).await;
    observer.done("new").await;
    assert!(observer.is_done("old-4"), "what is known stays known");
    assert!(!reader.task.is_finished(), "the connection lives");

    // While it is not: now its place is the record of another job.
    drop((reading, reader));
    observer.declared_anew().await;
    for job in ["newest-0", "newest-1"] {
        observer.write(outcome(job, "u-1")).await;
    }
    let _reader = observer.follow().await;
    let _reading = observer.ledger.reading();
    observer.done("newest-0").await;
    observer.done("newest-1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_became_shorter_is_noticed() {
    let observer = Observer::new().await;
    let (reader, reading) = observer.has_read_five().await;
    drop((reading, reader));
    observer.declared_anew().await;
    observer.write(outcome("new", "u-1")).await;
    let _reader = observer.follow().await;
    let _reading = observer.ledger.reading();
    // Its place lies beyond the end, where nothing comes: 10 s, and then from a day back.
    observer.done("new").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_lost_connection_the_ledger_goes_on_from_its_place_without_gaps() {
    let observer = Observer::new().await;
    let _reading = observer.ledger.reading();
    let mut written = 0;
    for round in 0..5_u64 {
        let mut reader = observer.follow().await;
        let mut jobs = Vec::new();
        for n in 0..40 {
            jobs.push(format!("job-{round}-{n}"));
            observer.write(outcome(&jobs[n], "u-1")).await;
            if n == 20 {
                let _ = reader.connection.close(320, "lost".into()).await;
                tokio::time::timeout(Duration::from_secs(10), &mut reader.task).await.expect("it ends").unwrap();
                reader = observer.follow().await;
            }
        }
        written += jobs.len() as u64;
        for job in &jobs {
            observer.done(job).await;
        }
        assert_eq!(observer.ledger.records(), written, "no record twice");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_stretch_is_read_by_several_at_once_in_its_order_through_a_lost_connection() {
    const JOBS: usize = 10_000;
    let observer = Observer::new().await;
    observer.write_many(large(0..JOBS / 2)).await;
    // Who held the lease last depends on the order.
    let mut of_a = String::new();
    for worker in ["a", "b", "a", "c"] {
        let fence = observer.fence(worker).await;
        of_a = if worker == "a" { fence } else { of_a };
    }
    observer.write(wire::ledger::released("main", &WorkerName::new("a"), &of_a, Timestamp::now())).await;
    observer.write_many(large(JOBS / 2..JOBS)).await;
    let written = JOBS as u64 + 5;

    let reading = observer.ledger.reading();
    let mut reader = observer.follow().await;
    eventually("some are read", async || (observer.ledger.records() > 2_500).then_some(())).await;
    assert!(observer.ledger.records() < written, "it is cut off before its end");
    let _ = reader.connection.close(320, "lost".into()).await;
    tokio::time::timeout(Duration::from_secs(10), &mut reader.task).await.expect("it ends").unwrap();
    reader = observer.follow().await;

    let fence = observer.fence("d").await;
    assert_eq!(observer.before(&fence).await, Holder::Was(WorkerName::new("c")));
    assert_eq!(observer.ledger.records(), written + 1, "no record twice, and none left out");
    for n in 0..JOBS {
        assert!(observer.is_done(&format!("job-{n}")), "{n}");
    }
    observer.write(outcome("later", "u-1")).await;
    observer.done("later").await;
    drop((reading, reader));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_wanting_a_long_stretch_goes_on_from_there_later() {
    let observer = Observer::new().await;
    observer.write_many(large(0..8_000)).await;
    let reading = observer.ledger.reading();
    let _reader = observer.follow().await;
    eventually("some are read", async || (observer.ledger.records() > 2_500).then_some(())).await;
    drop(reading);
    // The channels of those who read are closed one by one: what the broker sends until then is not read.
    let read = observer.ledger.records();
    assert!(read < 8_000, "{read}");
    observer.caught_up().await;
    assert_eq!(observer.ledger.records(), 8_001);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_starts_far_behind_says_so_and_does_nothing_twice() {
    let world = Plan::new().prepare().await;
    let observer = Observer::of(&world.amqp_url, &world.prefix).await;
    observer.write_many(large(0..8_000)).await;
    let worker = Run::of(&world, &["--log", "json", "worker"]).start();
    ready(&worker.http().await).await;
    let mut outcomes = world.outcomes().await;
    for job in ["job-0", "job-4000", "job-7999"] {
        world.reset("main", "u-1", job).await;
        let record = outcomes.next().await.json();
        assert_eq!((&record["jobId"], &record["outcome"]), (&job.into(), &"duplicate".into()), "{record}");
    }
    let log = worker.stderr();
    assert!(log.contains("far behind the end of stream"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_records_are_passed_over() {
    let observer = Observer::new().await;
    let _reader = observer.follow().await;
    // A first one before it attaches, as above.
    observer.write(outcome("first", "u-1")).await;
    let _reading = observer.ledger.reading();
    for kind in ["outcome", "fence", "released", "mail", ""] {
        for body in [&b"no JSON"[..], b"\xff\xfe", b"{}", b"", br#"{"org":"main","worker":7,"fence":null,"at":0}"#] {
            observer.write((body.to_vec(), BasicProperties::default().with_type(kind.into()))).await;
        }
    }
    observer.write((outcome("untyped", "u-1").0, BasicProperties::default())).await;
    observer.write(outcome("job", "u-1")).await;
    observer.done("job").await;
    assert!(!observer.is_done("untyped"));
    assert_eq!(observer.ledger.holder("main"), Holder::Nobody);
    assert_eq!(observer.ledger.records(), 28);
}

/// `CARGO_PROFILE_RELEASE_LTO=off cargo test --release --test it -- --ignored --nocapture how_long_the_ledger`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "printing is what it is for")]
async fn how_long_the_ledger_takes_to_read_a_million_records() {
    let broker = tokio::task::spawn_blocking(Broker::private).await.unwrap();
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<i64>().unwrap() / 1000
    };
    for count in [432_000, 1_000_000] {
        let mut observer = Observer::at(&broker.url).await;
        let (mut start, size) = (Instant::now(), outcome("0f6e7c1a-1f00-4c2e-9d3b-000000000000", "u-1").0.len());
        let records = (0..count).map(|n| {
            outcome(
                &format!("0f6e7c1a-1f00-4c2e-9d3b-{n:012}"),
                &format!("0f6e7c1a-1f00-4c2e-{:012}", n * 7919 % 300_000),
            )
        });
        observer.write_many(records).await;
        println!("{count} records of {size} bytes: written in {:?}", start.elapsed());
        for turn in 0..2 {
            let before = resident();
            observer.ledger = Ledger::telling(observer.names.ledger(), ["main"].into_iter());
            let _reader = observer.follow().await;
            let _reading = observer.ledger.reading();
            start = Instant::now();
            eventually("all are read", async || (observer.ledger.records() >= count).then_some(())).await;
            let taken = start.elapsed();
            println!("turn {turn}: read in {taken:?}; VmRSS grew from {before} by {} MB", resident() - before);
        }
    }
}

/// `cargo test --release --test it -- --ignored --nocapture how_long_taking_over` (a debug build reads
/// some ten times slower)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "printing is what it is for")]
async fn how_long_taking_over_takes_with_a_day_of_records() {
    let broker = tokio::task::spawn_blocking(Broker::private).await.unwrap();
    let world = Plan::at(&broker.url).prepare().await;
    let observer = Observer::of(&broker.url, &world.prefix).await;
    observer.write_many(day()).await;

    let mut first = Run::of(&world, &["--log", "json", "worker"]).start();
    let from_nothing = took(&first).await;
    println!("{DAY} records: a worker that starts has the lease and has read them in {from_nothing:?}");

    let second = Run::of(&world, &["--log", "json", "worker"]).start();
    let http = second.http().await;
    role_is(&http, "standby").await;
    eventually("it has read what there is", async || {
        let before = ticks(second.id());
        tokio::time::sleep(Duration::from_secs(1)).await;
        (ticks(second.id()) - before < 10).then_some(())
    })
    .await;
    assert_eq!(first.terminated().await.0, 0);
    role_is(&http, "active").await;
    let standing_by = took(&second).await;
    println!("{DAY} records: a worker that stood by has taken over in {standing_by:?} after it got the lease");
    assert!(from_nothing < Duration::from_secs(10), "{from_nothing:?}");
    assert!(standing_by < Duration::from_secs(1), "{standing_by:?}");
}

/// The same with a quarter of a day, as a worker at its quota writes it. Writing takes minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "printing is what it is for")]
async fn how_long_taking_over_takes_where_each_record_was_written_by_itself() {
    let broker = tokio::task::spawn_blocking(Broker::private).await.unwrap();
    let world = Plan::at(&broker.url).prepare().await;
    let observer = Observer::of(&broker.url, &world.prefix).await;
    observer.write_ahead(day().take(DAY / 4), 1).await;
    let worker = Run::of(&world, &["--log", "json", "worker"]).start();
    let took = took(&worker).await;
    println!("{} records, one by one: a worker that starts has read them in {took:?}", DAY / 4);
}
