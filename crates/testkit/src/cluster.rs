//! A RabbitMQ cluster of three nodes on hosts of their own, started by `scripts/cluster`, which says what there is. A test runs in
//! the hub: its sockets reach every host, whatever is parted, and a simulated org that listens at [`HUB`] is reached by every client.
//!
//! One cluster at a time belongs to a test process, and the tests of that process use it one after the other: a start takes some 15 s
//! of processor time. It is put in order between them, and begun anew after a test that failed.

use std::fs::{self, File};
use std::io::{BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::pipe::Pipe;
use crate::script;

/// Where the test listens, for the clients.
pub const HUB: &str = "10.78.0.254";
/// The nodes.
pub const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// The hosts for clients.
pub const CLIENTS: [&str; 4] = ["w1", "w2", "w3", "w4"];
/// As long as one test may take.
const LIMIT: Duration = Duration::from_secs(300);
/// By which `scripts/cluster` says that namespaces cannot be made.
const CANNOT: i32 = 77;

/// How a cluster is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// `cluster_partition_handling`, such as `pause_minority` or `ignore`.
    pub partition_handling: &'static str,
    /// `net_ticktime` in seconds: a silent node is noticed after this to five quarters of it.
    pub ticktime: u32,
    /// Lines for each node's `rabbitmq.conf`.
    pub conf: &'static str,
}

impl Default for Setup {
    /// `pause_minority`, and a silent node is noticed within 10 s.
    fn default() -> Self {
        Self { partition_handling: "pause_minority", ticktime: 8, conf: "" }
    }
}

/// The cluster. It lives until this value is dropped or its process ends, whichever is first.
pub struct Cluster {
    setup: Setup,
    /// Whether hosts were parted: without `pause_minority` the nodes do not come together again by themselves.
    was_parted: AtomicBool,
    folder: PathBuf,
    /// The first process in its namespaces.
    init: u32,
    pipe: Mutex<Option<Pipe>>,
    script: Child,
}

/// Runs a test on the cluster of this process, in the hub. Where namespaces cannot be made it says so on stderr and returns, and fails
/// where `CI` is `true` or `RESETD_CLUSTER_REQUIRED` is `1`.
pub fn on_cluster<Test>(setup: Setup, test: Test)
where
    Test: AsyncFnOnce(&Arc<Cluster>) + Send,
{
    on_cluster_for(LIMIT, setup, test);
}

/// As [`on_cluster`], where the test takes so long at most.
pub fn on_cluster_for<Test>(limit: Duration, setup: Setup, test: Test)
where
    Test: AsyncFnOnce(&Arc<Cluster>) + Send,
{
    static OURS: Mutex<Option<Arc<Cluster>>> = Mutex::new(None);
    let mut ours = OURS.lock().unwrap_or_else(PoisonError::into_inner);
    // A test that fails leaves nothing here.
    let before = ours.take().filter(|cluster| cluster.serves(&setup) && cluster.put_in_order());
    let cluster = match before {
        Some(cluster) => cluster,
        None => match Cluster::start(setup) {
            Ok(cluster) => Arc::new(cluster),
            Err(reason) => return skip(&reason),
        },
    };
    cluster.enter(|| {
        let hub = cluster.hub();
        // Its blocking threads too.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .on_thread_start(move || move_in(&hub))
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            tokio::time::timeout(limit, test(&cluster)).await.unwrap_or_else(|_| panic!("not within {limit:?}"));
        });
        runtime.shutdown_timeout(Duration::from_secs(5));
    });
    *ours = Some(cluster);
}

/// Says aloud, past what a test harness captures, that a test is skipped.
fn skip(reason: &str) {
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    assert!(!is("CI", "true") && !is("RESETD_CLUSTER_REQUIRED", "1"), "cluster tests must run here: {reason}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {reason}");
}

impl Cluster {
    /// Starts one; where namespaces cannot be made here, the reason.
    fn start(setup: Setup) -> Result<Self, String> {
        let errors = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new(script("cluster"));
        command
            .arg("serve")
            .env("RESETD_CLUSTER_PARTITION", setup.partition_handling)
            .env("RESETD_CLUSTER_TICKTIME", setup.ticktime.to_string());
        if !setup.conf.is_empty() {
            command.env("RESETD_BROKER_CONF", setup.conf);
        }
        let said = errors.reopen().unwrap();
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(said);
        let mut script = pipes.spawn().expect("scripts/cluster runs");
        let mut pipe = Pipe::new(script.stdin.take().unwrap(), BufReader::new(script.stdout.take().unwrap()));
        if !pipe.answer().starts_with("ready") {
            let code = script.wait().unwrap().code();
            let said = fs::read_to_string(errors.path()).unwrap();
            assert_eq!(code, Some(CANNOT), "scripts/cluster started no cluster: {said}");
            return Err(said.trim().trim_start_matches("cluster: ").to_owned());
        }
        let mut cluster = Self {
            setup,
            was_parted: AtomicBool::new(false),
            folder: PathBuf::new(),
            init: 0,
            pipe: Mutex::new(Some(pipe)),
            script,
        };
        cluster.folder = cluster.tell("folder").strip_prefix("folder ").expect("it says its folder").into();
        cluster.init = fs::read_to_string(cluster.folder.join("init")).unwrap().trim().parse().unwrap();
        Ok(cluster)
    }

    /// Whether it can be put in order for a test that wants this.
    fn serves(&self, setup: &Setup) -> bool {
        self.setup == *setup && (self.heals() || !self.was_parted.load(Ordering::Relaxed))
    }

    /// All nodes run, and all hosts hear each other; `false` where the nodes do not come together.
    fn put_in_order(&self) -> bool {
        self.tell("heal");
        for node in NODES {
            self.ask(&format!("resume {node}")); // it may not run
        }
        for node in NODES {
            self.ask(&format!("boot {node}")); // it may run
        }
        self.ask("up n1 n2 n3") == "ready"
    }

    /// One of the commands of `scripts/cluster serve`. Waits until it is done.
    pub fn tell(&self, command: &str) -> String {
        let said = self.ask(command);
        assert!(!said.starts_with("error"), "{command}: {said}");
        said
    }

    fn ask(&self, command: &str) -> String {
        let mut pipe = self.pipe.lock().unwrap();
        let pipe = pipe.as_mut().expect("it was not dropped");
        pipe.ask(command);
        let said = pipe.answer();
        assert!(!said.is_empty(), "{command}: scripts/cluster has ended");
        said
    }

    /// As [`Cluster::tell`], off the runtime's threads.
    async fn told(self: &Arc<Self>, command: String) {
        let cluster = Arc::clone(self);
        tokio::task::spawn_blocking(move || cluster.tell(&command)).await.unwrap();
    }

    /// SIGKILL to these nodes, separated by blanks as in all that follows.
    pub async fn kill(self: &Arc<Self>, nodes: &str) {
        self.told(format!("kill {nodes}")).await;
    }

    /// Ends them gracefully.
    pub async fn stop(self: &Arc<Self>, nodes: &str) {
        self.told(format!("stop {nodes}")).await;
    }

    /// Starts them again and waits until they take connections. Without the others a node may wait for them.
    pub async fn start_nodes(self: &Arc<Self>, nodes: &str) {
        self.told(format!("start {nodes}")).await;
    }

    /// Starts them again and does not wait.
    pub async fn boot(self: &Arc<Self>, nodes: &str) {
        self.told(format!("boot {nodes}")).await;
    }

    /// Waits until these, which were booted, take connections.
    pub async fn up(self: &Arc<Self>, nodes: &str) {
        self.told(format!("up {nodes}")).await;
    }

    /// SIGSTOP.
    pub async fn pause(self: &Arc<Self>, nodes: &str) {
        self.told(format!("pause {nodes}")).await;
    }

    /// SIGCONT.
    pub async fn resume(self: &Arc<Self>, nodes: &str) {
        self.told(format!("resume {nodes}")).await;
    }

    /// Hosts of different groups hear nothing of each other: `n1,w1 n2,n3,w2`. Those that are in none stay with the first.
    pub async fn partition(self: &Arc<Self>, groups: &str) {
        self.was_parted.store(true, Ordering::Relaxed);
        self.told(format!("partition {groups}")).await;
    }

    /// These two hear nothing of each other.
    pub async fn sever(self: &Arc<Self>, one: &str, other: &str) {
        self.was_parted.store(true, Ordering::Relaxed);
        self.told(format!("sever {one} {other}")).await;
    }

    /// These two hear each other again.
    pub async fn join(self: &Arc<Self>, one: &str, other: &str) {
        self.told(format!("join {one} {other}")).await;
    }

    /// Everybody hears everybody again.
    pub async fn heal(self: &Arc<Self>) {
        self.told("heal".into()).await;
    }

    /// The URL of a node for a client.
    pub fn url(&self, node: &str) -> String {
        format!("amqp://guest:guest@{}:5672/%2f", address(node))
    }

    /// The URL of a node for the test itself, whatever is parted.
    pub fn watching(&self, node: &str) -> String {
        format!("amqp://guest:guest@{}:5672/%2f", watched(node))
    }

    /// Where all of its files are; `NODE/log` is a node's log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What a node has logged since it was first started.
    pub fn log(&self, node: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join(node).join("log")).unwrap_or_default()).into_owned()
    }

    /// `cluster_partition_handling`.
    pub fn partition_handling(&self) -> &'static str {
        self.setup.partition_handling
    }

    /// Whether nodes that were parted come together again by themselves.
    pub fn heals(&self) -> bool {
        self.setup.partition_handling == "pause_minority"
    }

    /// The RabbitMQ that runs, such as `(4, 3)`.
    pub fn version(&self) -> (u16, u16) {
        let log = self.log("n1");
        let said = log.split("Starting RabbitMQ ").nth(1).expect("n1 says which it is");
        let mut parts = said.split(['.', ' ']).map(|part| part.parse().unwrap());
        (parts.next().unwrap(), parts.next().unwrap())
    }

    /// What `rabbitmqctl` prints at a node, without its headings.
    ///
    /// # Panics
    /// Where it fails.
    pub async fn ctl(self: &Arc<Self>, node: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(script("cluster"));
        command.arg("ctl").arg(&self.folder).args([node, "--quiet"]).args(arguments).stdin(Stdio::null());
        let done = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    /// The words before a program that is to run on a host, in a process that keeps its id: see [`crate::process::Run::behind`].
    pub fn on(&self, host: &str) -> [String; 4] {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        [path(&fs::canonicalize(script("cluster")).unwrap()), "on".into(), path(&self.folder), host.into()]
    }

    /// Runs this, which may block, in a thread whose sockets belong to a host.
    pub async fn at<T: Send + 'static>(self: &Arc<Self>, host: &str, run: impl FnOnce() -> T + Send + 'static) -> T {
        let host = self.namespace(host);
        let there = move || {
            move_in(&host);
            run()
        };
        // Not one of the runtime's: those stay where they are.
        let thread = std::thread::spawn(there);
        let ended = tokio::task::spawn_blocking(move || thread.join()).await.unwrap();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs this in a thread whose sockets belong to the hub.
    fn enter<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        let name = std::thread::current().name().unwrap_or("cluster").to_owned();
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name(name).spawn_scoped(scope, || {
                move_in(&self.hub());
                run()
            });
            thread.unwrap().join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn hub(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.init).into()
    }

    fn namespace(&self, host: &str) -> PathBuf {
        format!("/proc/{}/root/run/netns/{host}", self.init).into()
    }
}

/// From now on the sockets that this thread makes belong to this network.
fn move_in(namespace: &Path) {
    let there = File::open(namespace).expect("the cluster is there");
    move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter it");
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The end of its input is what makes the script end everything.
        drop(self.pipe.lock().unwrap_or_else(PoisonError::into_inner).take());
        let _ = self.script.wait();
    }
}

/// The address of a host in the network that can be parted.
pub fn address(host: &str) -> String {
    format!("10.77.0.{}", number(host))
}

/// The address of a host in the network that is never parted.
pub fn watched(host: &str) -> String {
    format!("10.78.0.{}", number(host))
}

fn number(host: &str) -> u8 {
    let place = |hosts: &[&str]| hosts.iter().position(|known| *known == host);
    match (place(&NODES), place(&CLIENTS)) {
        (Some(node), _) => 1 + u8::try_from(node).unwrap(),
        (None, Some(client)) => 11 + u8::try_from(client).unwrap(),
        (None, None) => panic!("there is no host {host}"),
    }
}
