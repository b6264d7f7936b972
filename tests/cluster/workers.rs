//! Workers on the hosts of a cluster, and what a test asks of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;
use testkit::cluster::{Cluster, HUB, NODES, address, watched};
use testkit::eventually;
use testkit::process::{Process, Run, role_is};

use crate::door::Door;
use crate::world::{Plan, World, connect};

/// What a call may take.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Of the org `main`: one call every 0.1 s.
pub const PER_MINUTE: u32 = 600;

/// A world whose org is in the hub, and which looks at the cluster from there by a node that stays.
pub async fn world(cluster: &Arc<Cluster>, settings: sim::Settings, node_that_stays: &str) -> World {
    world_at(cluster, settings, node_that_stays, PER_MINUTE).await
}

/// The same with another quota.
pub async fn world_at(
    cluster: &Arc<Cluster>,
    settings: sim::Settings,
    node_that_stays: &str,
    per_minute: u32,
) -> World {
    if cluster.version() >= (4, 3) {
        // As `check` says: else what a dead node held comes back after 60 s.
        let (queues, timeout) = (r"(resets\.[a-z0-9_]+(\.bulk)?|emails)$", r#"{"consumer-disconnected-timeout":5000}"#);
        let policy = ["set_policy", "resetd-dead-node", queues, timeout, "--apply-to", "quorum_queues"];
        cluster.ctl(node_that_stays, &policy).await;
    }
    let keys = format!("rate_per_minute = {per_minute}\nrequest_timeout = \"{}s\"", REQUEST_TIMEOUT.as_secs());
    let mut plan = Plan::at(&cluster.watching(node_that_stays)).org("main", settings, &keys);
    plan.host = HUB.to_owned();
    plan.prepare().await
}

/// From now on the world looks by this node.
pub async fn look_by(world: &mut World, cluster: &Cluster, node: &str) {
    world.amqp_url = cluster.watching(node);
    world.connection = connect(&world.amqp_url).await;
}

/// A worker on a host of its own, with a door of its own to the org.
pub struct Worker {
    pub process: Process,
    pub http: String,
    door: Door,
}

impl Worker {
    /// On this host, with the addresses of these nodes.
    pub async fn start(cluster: &Arc<Cluster>, world: &World, host: &str, nodes: &[&str]) -> Self {
        let door = Door::to(&world.orgs["main"]).await;
        let listen = format!("{}:9464", watched(host));
        // Whatever listens for others wants one.
        let token = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()].map(|half| half.simple().to_string()).concat();
        let own = format!(
            "[amqp]\n{}\n[http]\nlisten = {listen:?}\ntoken = {token:?}\n[orgs.main]\ntoken_url = \"{1}/oauth/token\"\nscim_url = \"{1}/api/v2/scim/v2\"\n",
            addresses(cluster, nodes),
            door.base
        );
        let run = Run::of(world, &["--log", "json", "worker"]).config(&own).behind(&cluster.on(host));
        Self { process: run.start(), http: format!("http://{listen}"), door }
    }

    /// As [`Worker::start`], and until it has this role.
    pub async fn started(cluster: &Arc<Cluster>, world: &World, host: &str, nodes: &[&str], role: &str) -> Self {
        let worker = Self::start(cluster, world, host, nodes).await;
        worker.is(role).await;
        worker
    }

    /// The node that it is connected to.
    pub fn node(&self) -> &'static str {
        let log = self.process.stderr();
        let connected = log.lines().rfind(|line| line.contains("connected to ")).expect("it is connected");
        NODES.into_iter().find(|node| connected.contains(&address(node))).expect("to a node")
    }

    /// When it began to wait for the calls of the one before, by its own log.
    pub fn took_over_at(&self) -> Timestamp {
        let log = self.process.stderr();
        let line = log.lines().rfind(|line| line.contains("taking over: for ")).expect("it took over");
        let said: Value = serde_json::from_str(line).unwrap();
        said["timestamp"].as_str().unwrap().parse().unwrap()
    }

    /// Waits until it has this role.
    pub async fn is(&self, expected: &str) {
        role_is(&self.http, expected).await;
    }

    /// When each of its calls came.
    pub fn calls(&self) -> Vec<Instant> {
        self.door.calls()
    }

    /// Waits until it has made so many calls; the last of them has just come.
    pub async fn has_called(&self, times: usize) {
        eventually("it calls", async || (self.calls().len() >= times).then_some(())).await;
    }

    /// Its first call after this moment, once there is one.
    pub async fn calls_after(&self, moment: Instant) -> Instant {
        eventually("it calls again", async || self.calls().into_iter().find(|call| *call > moment)).await
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.process.stderr();
            let lines: Vec<&str> = log.lines().filter(|line| !line.contains("\"job done\"")).collect();
            eprintln!("the end of the log of the worker at {}, without the jobs that were done:", self.http);
            lines[lines.len().saturating_sub(40)..].iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// The keys of `[amqp]` for these nodes.
fn addresses(cluster: &Cluster, nodes: &[&str]) -> String {
    let urls: Vec<String> = nodes.iter().map(|node| cluster.url(node)).collect();
    let place = |url: &String| {
        let (_, behind) = url.split_once('@').unwrap();
        behind.split(['/', '?']).next().unwrap().to_owned()
    };
    let others: Vec<String> = urls[1..].iter().map(place).collect();
    format!("url = {:?}\nhosts = {others:?}", urls[0])
}

/// The calls of all of these, in the order in which they came.
pub fn calls(workers: &[&Worker]) -> Vec<Instant> {
    let mut calls: Vec<Instant> = workers.iter().flat_map(|worker| worker.calls()).collect();
    calls.sort();
    calls
}

/// The longest time in which none of these called, between two calls.
pub fn longest_gap(workers: &[&Worker]) -> Duration {
    let calls = calls(workers);
    calls.windows(2).map(|two| two[1] - two[0]).max().expect("there were calls")
}

/// Waits until all of them together have made so many calls.
pub async fn have_called(workers: &[&Worker], times: usize) {
    eventually("they call", async || (calls(workers).len() >= times).then_some(())).await;
}

/// Of jobs before each restart of a node: for half a minute at the full rate, of which a restart takes a third on a machine that does nothing
/// else.
const AHEAD: usize = 300;

/// Restarts one node after the other, with enough to do all the time; the users who are reset meanwhile.
pub async fn roll(cluster: &Arc<Cluster>, world: &mut World, workers: &[&Worker]) -> Vec<String> {
    let mut users = Vec::new();
    for (node, other) in [("n1", "n2"), ("n2", "n3"), ("n3", "n1")] {
        look_by(world, cluster, other).await;
        let called = calls(workers).len();
        users.extend(world.reset_range("main", users.len()..called + AHEAD).await);
        have_called(workers, called + 10).await;
        cluster.stop(node).await;
        cluster.start_nodes(node).await;
        assert!(calls(workers).len() < users.len(), "they outlast it");
    }
    users
}

/// How many of these users had their password set more than once.
pub fn twice(world: &World, users: &[String]) -> usize {
    users.iter().filter(|user| world.main().user(user).is_some_and(|user| user.password_sets > 1)).count()
}

/// The org saw no more calls in any minute than it gives, and never two clients in turn.
pub fn keep_the_quota(world: &World) {
    keep_a_quota(world, PER_MINUTE);
}

/// The same of another quota.
pub fn keep_a_quota(world: &World, per_minute: u32) {
    let stats = world.main().stats();
    assert!(stats.peak_per_minute <= u64::from(per_minute), "{stats:?}");
    assert_eq!(stats.interleaved, 0, "two called at once: {stats:?}");
}
