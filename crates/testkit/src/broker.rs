//! RabbitMQ nodes, started by `scripts/broker`: one that all tests of a run share, a few that tests borrow one at a time to kill or
//! block them, and any that a test starts for itself.

use std::fs::{self, File, OpenOptions};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crate::pipe::Pipe;
use crate::script;

/// What the nodes of a run are configured with, unless `RESETD_BROKER_CONF` says something else: few channels for a connection, so
/// that what uses them up is seen. (By default a broker allows 2,047.) `scripts/test-broker` says the same.
const CONF: &str = "channel_max = 128";
/// How many nodes there are to borrow at the most. A node takes some 100 MB and, to start, some 5 s of processor time.
const NODES: usize = 4;

/// One node. It lives until this value is dropped, or, where it is shared by a run, until the run ends.
pub struct Broker {
    pub url: String,
    pipe: Mutex<Option<Pipe>>,
    script: Option<Child>,
    /// Where the run keeps what it knows of this node, if it is the run's.
    lent: Option<PathBuf>,
}

impl Broker {
    /// The node that all tests share; nobody may stop it.
    pub fn shared() -> &'static Broker {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(|| Broker::sharing("shared", &[], None))
    }

    /// A node that some tests share, under this name, and that has these lines in its `rabbitmq.conf`; nobody may stop it.
    pub fn shared_with(name: &str, conf: &str) -> Broker {
        Broker::sharing(name, &["--private"], Some(conf))
    }

    fn sharing(name: &str, arguments: &[&str], conf: Option<&str>) -> Broker {
        let lent = Run::this().folder.join(name);
        Broker {
            url: Run::this().start(&lent, arguments, conf),
            pipe: Mutex::new(None),
            script: None,
            lent: Some(lent),
        }
    }

    /// A node for one test, which may do with it what it likes.
    pub fn private() -> Broker {
        Broker::start(&["--private"], None)
    }

    /// The same with these lines in its `rabbitmq.conf`, such as `channel_max = 64`, and none of `RESETD_BROKER_CONF`.
    pub fn private_with(conf: &str) -> Broker {
        Broker::start(&["--private"], Some(conf))
    }

    /// One for one test that takes TLS too, with the certificates of this folder: see `scripts/broker`.
    pub fn with_tls(folder: &str) -> Broker {
        Broker::start(&["--private", "--tls", folder], None)
    }

    /// The port on which it takes TLS, where it does.
    pub fn tls_port(&self) -> u16 {
        let port: u16 = self.url.rsplit(':').next().unwrap().split('/').next().unwrap().parse().unwrap();
        port + 3
    }

    /// Where all of its files are.
    pub fn folder(&self) -> PathBuf {
        match &self.lent {
            Some(lent) => fs::read_to_string(lent.join("folder")).unwrap().trim().into(),
            None => self.tell("folder").strip_prefix("folder ").expect("scripts/broker says its folder").into(),
        }
    }

    fn start(arguments: &[&str], conf: Option<&str>) -> Broker {
        let mut script = Command::new(script("broker"));
        if let Some(conf) = conf {
            script.env("RESETD_BROKER_CONF", conf);
        }
        let mut script = script
            .arg("serve")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("scripts/broker runs");
        let commands = script.stdin.take().unwrap();
        let answers = BufReader::new(script.stdout.take().unwrap());
        let mut pipe = Pipe::new(commands, answers);
        let url = pipe.answer().strip_prefix("ready ").expect("scripts/broker says ready").to_owned();
        Broker { url, pipe: Mutex::new(Some(pipe)), script: Some(script), lent: None }
    }

    /// `kill`, `stop`, `start`, `pause`, `resume`, `folder` or `ctl …`: see `scripts/broker`. Waits until it is done.
    pub fn tell(&self, command: &str) -> String {
        let said = self.ask(command);
        assert!(!said.starts_with("error"), "{command}: {said}");
        said
    }

    fn ask(&self, command: &str) -> String {
        let mut pipe = self.pipe.lock().unwrap();
        let pipe = pipe.as_mut().expect("this node is not one for a test to stop");
        pipe.ask(command);
        pipe.answer()
    }

    /// As [`Broker::tell`], off the runtime's threads.
    pub async fn told(self: &Arc<Self>, command: impl Into<String>) -> String {
        let (broker, command) = (Arc::clone(self), command.into());
        tokio::task::spawn_blocking(move || broker.tell(&command)).await.unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // The end of its input is what makes the script end its node.
        drop(self.pipe.lock().unwrap().take());
        if let Some(script) = &mut self.script {
            let _ = script.wait();
        }
    }
}

/// A node that this test alone has, which it may kill, stop and block. It goes back to the others with this value.
pub struct Node {
    broker: Arc<Broker>,
    /// There while somebody has the node: what was not given back in order is put in order by the next who borrows it.
    mark: PathBuf,
    is_down: Mutex<bool>,
    _lock: File,
}

impl Node {
    /// Borrows one, and waits for one where all are lent. It is up, and without an alarm.
    pub async fn lent() -> Self {
        let lock = eventually_free().await;
        tokio::task::spawn_blocking(move || Self::open(lock)).await.unwrap()
    }

    fn open((folder, lock): (PathBuf, File)) -> Self {
        let mark = folder.with_extension("lent");
        let was_left = mark.exists();
        File::create(&mark).unwrap();
        let url = Run::this().start(&folder, &["--private"], None);
        let way = |name: &str| (OpenOptions::new(), folder.join(name));
        let (mut to, commands) = way("in");
        let (mut from, answers) = way("out");
        let commands = to.write(true).open(commands).unwrap();
        let answers = BufReader::new(from.read(true).open(answers).unwrap());
        let mut pipe = Pipe::new(commands, answers);
        if was_left {
            // Answers that nobody read any more come before this one.
            let token = uuid::Uuid::new_v4().to_string();
            pipe.ask(&format!("echo {token}"));
            while pipe.answer() != token {}
        }
        let broker = Broker { url, pipe: Mutex::new(Some(pipe)), script: None, lent: Some(folder) };
        if was_left {
            broker.ask("kill"); // it may be down already
            broker.tell("start");
        }
        Self { broker: Arc::new(broker), mark, is_down: Mutex::new(false), _lock: lock }
    }

    pub fn url(&self) -> &str {
        &self.broker.url
    }

    /// Where all of its files are.
    pub fn folder(&self) -> PathBuf {
        self.broker.folder()
    }

    /// As [`Broker::tell`].
    pub async fn tell(&self, command: impl Into<String>) {
        self.broker.told(command).await;
    }

    /// Ends it by `kill` or `stop`.
    pub async fn end(&self, how: &str) {
        *self.is_down.lock().unwrap() = true;
        self.tell(how).await;
    }

    pub async fn start(&self) {
        self.tell("start").await;
        *self.is_down.lock().unwrap() = false;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !std::thread::panicking() && !*self.is_down.lock().unwrap() {
            let _ = fs::remove_file(&self.mark);
        }
    }
}

/// The folder of a node that nobody has, and the lock on it.
async fn eventually_free() -> (PathBuf, File) {
    loop {
        for number in 0..NODES {
            let folder = Run::this().folder.join(format!("node-{number}"));
            let lock = lock_file(&folder.with_extension("lock"));
            if lock.try_lock().is_ok() {
                return (folder, lock);
            }
        }
        // Its holder's own limits end this.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn lock_file(path: &Path) -> File {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

/// One run of tests: under cargo-nextest all of its processes, else this process.
struct Run {
    /// Where its nodes are.
    folder: PathBuf,
    /// The process whose end ends the run.
    runner: u32,
}

impl Run {
    fn this() -> &'static Run {
        static THIS: OnceLock<Run> = OnceLock::new();
        THIS.get_or_init(|| {
            let (name, runner) = match std::env::var("NEXTEST_RUN_ID") {
                Ok(run) => (run, std::os::unix::process::parent_id()),
                Err(_) => (uuid::Uuid::new_v4().to_string(), std::process::id()),
            };
            Run { folder: std::env::temp_dir().join(format!("resetd-test-{name}")), runner }
        })
    }

    /// Starts the node of this folder, where nobody did yet, and returns its URL.
    fn start(&self, folder: &Path, arguments: &[&str], conf: Option<&str>) -> String {
        let url = folder.join("url");
        if let Ok(url) = fs::read_to_string(&url) {
            return url.trim().to_owned();
        }
        let starting = lock_file(&folder.with_extension("starting"));
        starting.lock().unwrap();
        if let Ok(url) = fs::read_to_string(&url) {
            return url.trim().to_owned();
        }
        let mut command = Command::new(script("broker"));
        command.arg("lend").arg(folder).arg(self.runner.to_string()).args(arguments).stdin(Stdio::null());
        if let Some(conf) = conf {
            command.env("RESETD_BROKER_CONF", conf);
        } else if std::env::var_os("RESETD_BROKER_CONF").is_none() {
            command.env("RESETD_BROKER_CONF", CONF);
        }
        let started = command.stderr(Stdio::inherit()).output().expect("scripts/broker runs");
        assert!(started.status.success(), "scripts/broker starts a node");
        String::from_utf8(started.stdout).unwrap().trim().to_owned()
    }
}
