//! A world for one test: a prefix at the broker, simulated orgs, a worker in this process, and the hands of a producer.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use resetd::amqp::names::Names;
use resetd::amqp::topology;
use resetd::config::{Config, Environment};
use resetd::domain::delay_tier::Delays;
use resetd::domain::job::{JobId, Lane};
use resetd::domain::outcome::{Outcome, OutcomeKind, PasswordSet};
use resetd::domain::user::UserId;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use testkit::process::Configured as _;

use crate::broker::Broker;

pub use testkit::{LIMIT, eventually};

/// What a test says of its world before it starts.
pub struct Plan {
    pub amqp_url: String,
    /// The address of the test's own at which the orgs listen.
    pub host: String,
    pub prefix: String,
    config: String,
    orgs: Vec<(String, sim::Settings, String)>,
    changes: Vec<Change>,
}

/// What a test makes shorter that is no key of the configuration.
type Change = Box<dyn Fn(&mut Config) + Send + Sync>;

/// A configuration that is quick; a test lays its own over it.
const QUICK: &str = r#"
[wire]
password = "sha256"
extensions = "envelope"
[retry]
base = "20ms"
max = "200ms"
[shutdown]
grace = "15s"
"#;

impl Plan {
    pub fn new() -> Self {
        Self::at(&Broker::shared().url)
    }

    pub fn at(amqp_url: &str) -> Self {
        let prefix = format!("t{}.", uuid::Uuid::new_v4().simple());
        Self {
            amqp_url: amqp_url.to_owned(),
            host: "127.0.0.1".to_owned(),
            prefix,
            config: String::new(),
            orgs: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// Lays TOML over the quick configuration.
    pub fn config(mut self, toml: &str) -> Self {
        self.config += toml;
        self.config += "\n";
        self
    }

    /// A worker in this process that holds a delivery for so long at most, and takes a wait of all for long from `long` on.
    pub fn holding(self, hold: Duration, long: Duration) -> Self {
        self.with(move |config| (config.hold, config.long) = (hold, long))
    }

    /// A worker in this process whose parked queues hold a job for so long, the shortest first.
    pub fn delaying(self, delays: [Duration; 3]) -> Self {
        self.with(move |config| config.retry.delays = Delays::new(delays))
    }

    /// A worker in this process that tries again so long after it was halted, and ever later.
    pub fn halted_for(self, halted: Duration) -> Self {
        self.with(move |config| config.retry.policy.halted = halted)
    }

    /// A worker in this process that takes so long for an hour, where `guard_per_hour` counts.
    pub fn guarding_for(self, hour: Duration) -> Self {
        self.with(move |config| config.guard_hour = hour)
    }

    fn with(mut self, change: impl Fn(&mut Config) + Send + Sync + 'static) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    /// A worker in this process that tries again so soon what failed.
    pub fn trying_again_after(self, least: Duration) -> Self {
        self.with(move |config| config.again = least)
    }

    /// Adds an org: how it behaves, and more keys of its section (such as `rate_per_minute = 300`).
    pub fn org(mut self, name: &str, settings: sim::Settings, keys: &str) -> Self {
        self.orgs.push((name.to_owned(), settings, keys.to_owned()));
        self
    }

    /// Starts the orgs, not yet a worker.
    pub async fn prepare(mut self) -> World {
        if self.orgs.is_empty() {
            self = self.org("main", unlimited(), "");
        }
        let shutdown = CancellationToken::new();
        let mut orgs = BTreeMap::new();
        let mut sections = String::new();
        for (name, settings, keys) in self.orgs {
            let listener = TcpListener::bind((self.host.as_str(), 0)).await.unwrap();
            let base = format!("http://{}", listener.local_addr().unwrap());
            let (id, secret) = (settings.client_id.clone(), settings.client_secret.expose().to_owned());
            let rate = if keys.contains("rate_per_minute") { "" } else { "rate_per_minute = 60000\n" };
            sections += &format!(
                "[orgs.{name}]\ntoken_url = \"{base}/oauth/token\"\nscim_url = \"{base}/api/v2/scim/v2\"\nclient_id = {id:?}\nclient_secret = {secret:?}\n{rate}{keys}\n"
            );
            let org = sim::Org::new(settings).unwrap();
            let (serving, stop) = (org.clone(), shutdown.clone());
            tokio::spawn(async move { serving.serve(listener, stop).await });
            orgs.insert(name, SimOrg { base, org });
        }
        let connection = connect(&self.amqp_url).await;
        let config = format!("{sections}\n{}", self.config);
        World {
            amqp_url: self.amqp_url,
            prefix: self.prefix,
            config,
            orgs,
            connection,
            changes: self.changes,
            shutdown,
            worker: None,
        }
    }

    /// Starts the orgs and a worker, and waits until it is ready.
    pub async fn start(self) -> World {
        let mut world = self.prepare().await;
        world.start_worker().await;
        world.ready().await;
        world
    }

    /// As [`Plan::start`], and until the topology is old enough to outlive the broker: what was declared within a second
    /// of its end can be lost, with all that was confirmed there (`docs/development/facts.md#a-broker-that-was-killed`).
    /// Nothing tells of that, so here time does.
    pub async fn settled(self) -> World {
        let world = self.start().await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        world
    }
}

/// An org without a quota.
pub fn unlimited() -> sim::Settings {
    sim::Settings { quota: 0, ..sim::Settings::default() }
}

/// An org that takes 20 to 50 ms for a call.
pub fn slow() -> sim::Settings {
    sim::Settings { latency: Duration::from_millis(20), latency_jitter: Duration::from_millis(30), ..unlimited() }
}

/// Declares what a worker of this org declares.
pub async fn declare(connection: &Connection, names: &Names) {
    topology::declare(connection, &topology::things(names, &Delays::default())).await.unwrap();
}

/// A reset in the interactive lane that succeeded, as a worker records it.
pub fn succeeded(job: JobId, user: &str, finished_at: Timestamp) -> Outcome {
    Outcome {
        job,
        org: "main".into(),
        lane: Lane::Interactive,
        user: UserId::parse(user).ok(),
        batch: None,
        asked_at: None,
        kind: OutcomeKind::Succeeded,
        reason: None,
        status: Some(200),
        attempts: 1,
        password_set: PasswordSet::Yes,
        detail: None,
        finished_at,
    }
}

/// A port of the test's own that refuses every connection, as long as this is held: nobody else can listen there.
pub fn refusing_port() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket
}

pub async fn connect(url: &str) -> Connection {
    eventually("a connection to the broker", async || {
        Connection::connect(url, ConnectionProperties::default()).await.ok()
    })
    .await
}

pub struct SimOrg {
    pub base: String,
    pub org: sim::Org,
}

impl SimOrg {
    /// The address at which it listens, without the port.
    pub fn host(&self) -> &str {
        self.base.trim_start_matches("http://").rsplit_once(':').unwrap().0
    }
}

pub struct World {
    pub amqp_url: String,
    pub prefix: String,
    /// The TOML that the worker gets, over `QUICK`.
    pub config: String,
    pub orgs: BTreeMap<String, SimOrg>,
    pub connection: Connection,
    changes: Vec<Change>,
    shutdown: CancellationToken,
    worker: Option<Worker>,
}

/// A worker in this process.
pub struct Worker {
    pub http: String,
    pub shutdown: CancellationToken,
    pub task: JoinHandle<anyhow::Result<()>>,
}

impl testkit::process::Configured for World {
    fn files(&self) -> (tempfile::TempDir, Vec<std::path::PathBuf>) {
        let folder = tempfile::tempdir().unwrap();
        let broker = format!(
            "[amqp]\nurl = {:?}\nprefix = {:?}\n[http]\nlisten = \"127.0.0.1:0\"\n",
            self.amqp_url, self.prefix
        );
        let mut paths = Vec::new();
        for (name, text) in [("quick.toml", QUICK), ("broker.toml", &broker), ("test.toml", &self.config)] {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            paths.push(path);
        }
        (folder, paths)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(worker) = &self.worker {
            worker.shutdown.cancel();
        }
    }
}

impl World {
    pub fn load(&self) -> Config {
        let (_folder, paths) = self.files();
        let mut config = Config::load(&paths, Environment::default()).unwrap();
        for change in &self.changes {
            change(&mut config);
        }
        config
    }

    pub async fn start_worker(&mut self) -> &Worker {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(resetd::commands::worker::run(self.load(), listener, shutdown.clone()));
        self.worker.insert(Worker { http, shutdown, task })
    }

    pub fn worker(&self) -> &Worker {
        self.worker.as_ref().expect("a worker was started")
    }

    /// Ends the worker as SIGTERM does, and waits for its end.
    pub async fn stop_worker(&mut self) -> anyhow::Result<()> {
        let worker = self.worker.take().expect("a worker was started");
        worker.shutdown.cancel();
        tokio::time::timeout(LIMIT, worker.task).await.expect("the worker ends").unwrap()
    }

    pub async fn readyz(&self) -> (u16, Value) {
        let answer = testkit::http::get(format!("{}/readyz", self.worker().http)).await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    pub async fn ready(&self) {
        eventually("the worker is ready", async || (self.readyz().await.0 == 200).then_some(())).await;
    }

    pub fn sim(&self, org: &str) -> &sim::Org {
        &self.orgs[org].org
    }

    pub fn main(&self) -> &sim::Org {
        self.sim("main")
    }

    /// A name at the broker, with the prefix.
    pub fn named(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }

    pub async fn channel(&self) -> Channel {
        let channel = self.connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        channel
    }

    /// Publishes a job with a routing key such as `main` or `main.bulk`.
    pub async fn publish(&self, key: &str, body: &[u8], properties: BasicProperties) {
        self.publish_on(&self.channel().await, key, body, properties).await;
    }

    pub async fn publish_on(&self, channel: &Channel, key: &str, body: &[u8], properties: BasicProperties) {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirm = channel
            .basic_publish(
                self.named("resets").as_str().into(),
                key.into(),
                options,
                body,
                properties.with_delivery_mode(2),
            )
            .await
            .unwrap();
        assert_eq!(confirm.await.unwrap(), lapin::Confirmation::Ack(None));
    }

    /// One reset of `user` under the id `job`.
    pub async fn reset(&self, key: &str, user: &str, job: &str) {
        self.publish(key, reset_body(user).to_string().as_bytes(), named(job)).await;
    }

    /// A consumer of a queue (its name without the prefix) that acks what it gets.
    pub async fn tap(&self, queue: &str) -> Tap {
        Tap::of(&self.channel().await, &self.named(queue)).await
    }

    /// A consumer of outcomes, from now on.
    pub async fn outcomes(&self) -> Tap {
        let channel = self.channel().await;
        let queue = channel.queue_declare("".into(), exclusive(), FieldTable::default()).await.unwrap();
        let name = queue.name().clone();
        channel
            .queue_bind(
                name.clone(),
                self.named("outcomes").as_str().into(),
                "#".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .unwrap();
        Tap::of(&channel, name.as_str()).await
    }

    /// How many messages are ready in a queue.
    pub async fn depth(&self, queue: &str) -> u32 {
        self.counts(queue).await.unwrap().0
    }

    /// How many jobs lie ready in both lanes.
    pub async fn in_the_lanes(&self) -> u32 {
        self.depth("resets.main").await + self.depth("resets.main.bulk").await
    }

    /// How many messages are ready in a queue, and how many consumers it has.
    pub async fn counts(&self, queue: &str) -> lapin::Result<(u32, u32)> {
        let (channel, name) = (self.channel().await, self.named(queue));
        let mut looks = 0;
        loop {
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let found = channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await?;
            let counts = (found.message_count(), found.consumer_count());
            looks += 1;
            // So says a quorum queue too whose leader does not answer within 250 ms.
            if counts != (0, 0) || looks == 3 {
                return Ok(counts);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> String {
        testkit::http::get(format!("{}/metrics", self.worker().http)).await.unwrap().text().await.unwrap()
    }
}

pub fn exclusive() -> QueueDeclareOptions {
    QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() }
}

pub fn reset_body(user: &str) -> Value {
    json!({"userId": user, "password": true, "email": format!("{user}@example.com")})
}

/// Properties with this id.
pub fn named(job: &str) -> BasicProperties {
    BasicProperties::default().with_message_id(job.into())
}

/// Properties with one header more.
pub fn with_header(properties: BasicProperties, name: &str, value: AMQPValue) -> BasicProperties {
    let mut table = properties.headers().clone().unwrap_or_default();
    table.insert(name.into(), value);
    properties.with_headers(table)
}

/// As if the job was delivered so often before; from three times on it runs alone.
pub fn delivered(properties: BasicProperties, times: i64) -> BasicProperties {
    with_header(properties, "resetd-deliveries", AMQPValue::LongLongInt(times))
}

pub fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// A message that was taken.
#[derive(Debug)]
pub struct Taken {
    pub body: Vec<u8>,
    pub properties: BasicProperties,
    pub routing_key: String,
}

impl Taken {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    pub fn id(&self) -> &str {
        self.properties.message_id().as_ref().map_or("", |id| id.as_str())
    }

    /// A header as text, whatever kind it is of.
    pub fn header(&self, name: &str) -> Option<String> {
        let value = self.properties.headers().as_ref()?.inner().get(name)?;
        Some(match value {
            AMQPValue::LongString(text) => text.to_string(),
            AMQPValue::LongInt(n) => n.to_string(),
            AMQPValue::LongLongInt(n) => n.to_string(),
            AMQPValue::Void => "null".into(),
            other => format!("{other:?}"),
        })
    }
}

/// Messages as they come.
pub struct Tap {
    name: String,
    consumer: lapin::Consumer,
    /// A stream's records are acked, so many at once: it sends no more than its prefetch ahead of them.
    ack_every: Option<u64>,
    _channel: Channel,
}

impl Tap {
    pub async fn of(channel: &Channel, queue: &str) -> Self {
        let consumer = channel
            .basic_consume(
                queue.into(),
                "".into(),
                BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() },
                FieldTable::default(),
            )
            .await
            .unwrap();
        Self { name: queue.to_owned(), consumer, ack_every: None, _channel: channel.clone() }
    }

    pub async fn next(&mut self) -> Taken {
        let next = tokio::time::timeout(LIMIT, self.consumer.next()).await;
        let delivery = next
            .unwrap_or_else(|_| panic!("nothing came from {} within {LIMIT:?}", self.name))
            .expect("the consumer lives")
            .unwrap();
        if self.ack_every.is_some_and(|every| delivery.delivery_tag.is_multiple_of(every)) {
            delivery.acker.ack(BasicAckOptions { multiple: true }).await.unwrap();
        }
        Taken { body: delivery.data, properties: delivery.properties, routing_key: delivery.routing_key.to_string() }
    }

    /// The next `n`.
    pub async fn take(&mut self, n: usize) -> Vec<Taken> {
        let mut taken = Vec::with_capacity(n);
        while taken.len() < n {
            taken.push(self.next().await);
        }
        taken
    }
}

/// The users whose newest mail does not log in, of all these mails in their order.
pub fn locked_out(org: &sim::Org, mails: &[Taken]) -> Vec<String> {
    let newest: BTreeMap<String, String> = mails
        .iter()
        .map(|mail| mail.json())
        .map(|mail| {
            (mail["userId"].as_str().unwrap().to_owned(), mail["temporaryPassword"].as_str().unwrap().to_owned())
        })
        .collect();
    newest.into_iter().filter(|(user, password)| !org.logs_in(user, password)).map(|(user, _)| user).collect()
}

/// All jobs are done, and the newest mail of everybody logs in.
pub async fn nobody_is_locked_out(world: &World, users: &[String]) {
    let records = world.recorded(users.len()).await;
    let odd: Vec<&Taken> = records
        .iter()
        .filter(|record| !["main.succeeded", "main.duplicate"].contains(&record.routing_key.as_str()))
        .collect();
    assert!(odd.is_empty(), "{odd:?}");
    let mut mails = world.drained("emails").await;
    // One that a stalled network delivers late is not the newest.
    mails.sort_by_key(|mail| mail.json()["issuedAt"].as_str().unwrap().parse::<Timestamp>().unwrap());
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    let mut told: Vec<String> = mails.iter().map(|mail| mail.json()["userId"].as_str().unwrap().to_owned()).collect();
    told.sort();
    told.dedup();
    assert_eq!(told.len(), users.len());
}

/// A scripted fault from its compact text.
pub fn fault(text: &str) -> sim::Fault {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Letters by the id of their job.
pub fn by_id(letters: Vec<Taken>) -> BTreeMap<String, Taken> {
    letters.into_iter().map(|letter| (letter.id().to_owned(), letter)).collect()
}

/// Outcomes, mails or replies by the id of their job.
pub fn by_job(taken: &[Taken]) -> BTreeMap<String, Value> {
    let records = taken.iter().map(Taken::json);
    records.map(|record| (record["jobId"].as_str().unwrap().to_owned(), record)).collect()
}

impl World {
    /// One job of org `main` under the id `job`.
    pub async fn send(&self, job: &str, body: &Value) {
        self.publish("main", body.to_string().as_bytes(), named(job)).await;
    }
}

/// A request as it came to a [`Scribe`].
#[derive(Debug, Clone)]
pub struct Asked {
    /// Method and path, such as `PATCH /api/v2/scim/v2/Users/u-1`.
    pub line: String,
    pub headers: axum::http::HeaderMap,
    pub body: Vec<u8>,
}

/// An org that grants every token, keeps each request as it came, and answers a PATCH with what the test makes of it.
pub struct Scribe {
    base: String,
    asked: std::sync::Arc<std::sync::Mutex<Vec<Asked>>>,
}

impl Scribe {
    pub async fn answering(answer: fn(&Asked) -> axum::response::Response) -> Self {
        use axum::response::IntoResponse;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let kept = std::sync::Arc::clone(&asked);
        let handle = async move |request: axum::extract::Request| {
            let (parts, body) = request.into_parts();
            let asked = Asked {
                line: format!("{} {}", parts.method, parts.uri),
                headers: parts.headers,
                body: axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec(),
            };
            kept.lock().unwrap().push(asked.clone());
            if asked.line == "POST /oauth/token" {
                let token = json!({"access_token": "the-bearer-token", "token_type": "bearer", "expires_in": 3600});
                axum::Json(token).into_response()
            } else {
                answer(&asked)
            }
        };
        tokio::spawn(axum::serve(listener, axum::Router::new().fallback(handle)).into_future());
        Self { base, asked }
    }

    /// A world whose org `main` is this one, not yet a worker.
    pub async fn prepare(&self, plan: Plan) -> World {
        let mut world = plan.prepare().await;
        world.config = world.config.replace(&world.orgs["main"].base, &self.base);
        world
    }

    /// A world whose org `main` is this one.
    pub async fn start(&self, plan: Plan) -> World {
        let mut world = self.prepare(plan).await;
        world.start_worker().await;
        world.ready().await;
        world
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Tap {
    /// A stream from its first record on; `None` while it has no leader, as after a broker's start.
    pub async fn replay(channel: &Channel, stream: &str) -> Option<Self> {
        channel.basic_qos(10_000, BasicQosOptions::default()).await.ok()?;
        let mut from = FieldTable::default();
        from.insert("x-stream-offset".into(), text("first"));
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(stream.into(), "".into(), options, from).await;
        Some(Self {
            name: stream.to_owned(),
            consumer: consumer.ok()?,
            ack_every: Some(1_000),
            _channel: channel.clone(),
        })
    }
}

impl World {
    /// Everything that lies ready in a queue, taken out in its order.
    pub async fn drained(&self, queue: &str) -> Vec<Taken> {
        let channel = self.channel().await;
        let mut taken = Vec::new();
        let name = self.named(queue);
        while let Some(got) = channel.basic_get(name.as_str().into(), BasicGetOptions { no_ack: true }).await.unwrap() {
            taken.push(Taken {
                routing_key: got.delivery.routing_key.to_string(),
                body: got.delivery.data,
                properties: got.delivery.properties,
            });
        }
        taken
    }

    /// The outcomes from the stream itself, from its beginning until there is one for each of `jobs` different jobs.
    pub async fn recorded(&self, jobs: usize) -> Vec<Taken> {
        // A connection of its own for each look: a stream that is being made or elected can close it (541).
        let (_connection, mut stream) = eventually("the stream has a leader", async || {
            let connection = connect(&self.amqp_url).await;
            let channel = connection.create_channel().await.ok()?;
            Some((connection, Tap::replay(&channel, &self.named("resets.outcomes")).await?))
        })
        .await;
        let (mut records, mut ids) = (Vec::new(), std::collections::BTreeSet::new());
        while ids.len() < jobs {
            let record = stream.next().await;
            if record.properties.kind().as_ref().is_none_or(|kind| kind.as_str() != "outcome") {
                continue; // the worker's own fence, for one
            }
            ids.insert(record.json()["jobId"].as_str().unwrap().to_owned());
            records.push(record);
        }
        records
    }

    /// Publishes `n` resets, every other one into the bulk lane, and waits for their confirms at the end. Returns the users.
    pub async fn reset_many(&self, org: &str, n: usize) -> Vec<String> {
        self.reset_range(org, 0..n).await
    }

    /// The same of the users with these numbers.
    pub async fn reset_range(&self, org: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
        let channel = self.channel().await;
        let users: Vec<String> = numbers.map(|n| format!("{org}-user-{n}")).collect();
        let mut confirms = Vec::new();
        for (n, user) in users.iter().enumerate() {
            let key = if n % 2 == 0 { org.to_owned() } else { format!("{org}.bulk") };
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let properties = named(&format!("job-{user}")).with_delivery_mode(2);
            let body = reset_body(user).to_string();
            let exchange = self.named("resets");
            let sent = channel.basic_publish(
                exchange.as_str().into(),
                key.as_str().into(),
                options,
                body.as_bytes(),
                properties,
            );
            confirms.push(sent.await.unwrap());
        }
        for confirm in confirms {
            assert_eq!(confirm.await.unwrap(), lapin::Confirmation::Ack(None));
        }
        users
    }
}
