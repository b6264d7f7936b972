//! The binary as a process: signals, exit codes, what it writes, what it takes from its environment.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::world::{Plan, World, eventually, locked_out, unlimited};

/// A `resetd` process with an empty environment and an empty working folder. It is killed when this is dropped.
pub struct Process {
    child: Child,
    out: Arc<Mutex<Vec<u8>>>,
    err: Arc<Mutex<Vec<u8>>>,
    pub folder: tempfile::TempDir,
}

/// What is run before it runs.
pub struct Run {
    command: Command,
    arguments: Vec<String>,
    folder: tempfile::TempDir,
    stdin: Vec<u8>,
}

impl Run {
    pub fn new(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_resetd"));
        command.args(arguments).env_clear().current_dir(folder.path());
        Self {
            command,
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            folder,
            stdin: Vec::new(),
        }
    }

    /// With the configuration of a world, then these arguments.
    pub fn of(world: &World, arguments: &[&str]) -> Self {
        let mut run = Run::new(arguments);
        let (files, paths) = world.files();
        for path in paths {
            run = run.config(&std::fs::read_to_string(path).unwrap());
        }
        drop(files);
        run
    }

    /// One more `--config`, before the arguments.
    pub fn config(mut self, toml: &str) -> Self {
        let n = std::fs::read_dir(self.folder.path()).unwrap().count();
        let path = self.file(&format!("config-{n}.toml"), toml);
        self.command.arg("--config").arg(path);
        self
    }

    /// A file in its working folder.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn stdin(mut self, text: &str) -> Self {
        self.stdin = text.into();
        self
    }

    pub fn start(mut self) -> Process {
        let command = self.command.args(self.arguments).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let text = self.stdin;
        std::thread::spawn(move || stdin.write_all(&text));
        Process {
            out: collect(child.stdout.take().unwrap()),
            err: collect(child.stderr.take().unwrap()),
            child,
            folder: self.folder,
        }
    }

    /// Runs it to its end: exit code, stdout, stderr.
    pub async fn end(self) -> (i32, String, String) {
        let mut process = self.start();
        let code = process.ended().await;
        (code, process.stdout(), process.stderr())
    }
}

fn collect(mut from: impl Read + Send + 'static) -> Arc<Mutex<Vec<u8>>> {
    let all = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&all);
    std::thread::spawn(move || {
        let mut some = [0; 65536];
        while let Ok(n @ 1..) = from.read(&mut some) {
            kept.lock().unwrap().extend_from_slice(&some[..n]);
        }
    });
    all
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// A worker of this world, at its address once it is ready.
    pub async fn worker(world: &World) -> (Process, String) {
        let process = Run::of(world, &["--log", "json", "worker"]).start();
        let http = process.http().await;
        ready(&http).await;
        (process, http)
    }

    pub fn stdout(&self) -> String {
        String::from_utf8(self.out.lock().unwrap().clone()).unwrap()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8(self.err.lock().unwrap().clone()).unwrap()
    }

    /// Where it serves health and metrics, out of its own log.
    pub async fn http(&self) -> String {
        eventually("the log says where it listens", async || {
            let log = self.stderr();
            let line = log.lines().find(|line| line.contains("listening for /healthz"))?;
            let at = line.find("127.0.0.1:")?;
            let address: String = line[at..]
                .chars()
                .take_while(|c| c.is_ascii_digit() || ".:".contains(*c))
                .collect();
            Some(format!("http://{address}"))
        })
        .await
    }

    /// Sends it a signal such as `TERM`.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([&format!("-{name}"), &id])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Its exit code, once it has ended by itself and everything it wrote was read.
    pub async fn ended(&mut self) -> i32 {
        let status = eventually("the process ends", async || self.child.try_wait().unwrap()).await;
        eventually("its output is read", async || {
            (Arc::strong_count(&self.out) == 1 && Arc::strong_count(&self.err) == 1).then_some(())
        })
        .await;
        status.code().unwrap_or(-1)
    }

    /// Ends it as an operator does: exit code, and how long that took.
    pub async fn terminated(&mut self) -> (i32, Duration) {
        let asked = Instant::now();
        self.signal("TERM");
        (self.ended().await, asked.elapsed())
    }
}

pub async fn ready(http: &str) {
    eventually("the worker is ready", async || {
        let answer = reqwest::get(format!("{http}/readyz")).await.ok()?;
        (answer.status() == 200).then_some(())
    })
    .await;
}

/// What a new process of this configuration says to the operator, and its exit code.
pub fn says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

/// An org that takes 20 to 50 ms for a call.
pub fn slow() -> resetd::sim::Settings {
    resetd::sim::Settings {
        latency: Duration::from_millis(20),
        latency_jitter: Duration::from_millis(30),
        ..unlimited()
    }
}

async fn a_signal_in_the_middle(signal: &str) {
    let world = Plan::new()
        .org("main", slow(), "rate_per_minute = 6000")
        .prepare()
        .await;
    let (mut first, _) = Process::worker(&world).await;
    let users = world.reset_many("main", 200).await;
    eventually("60 passwords are set", async || {
        (world.main().stats().password_sets >= 60).then_some(())
    })
    .await;
    let asked = Instant::now();
    first.signal(signal);
    assert_eq!(first.ended().await, 0, "{}", first.stderr());
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    let done = usize::try_from(world.main().stats().password_sets).unwrap();
    let waiting = (world.depth("resets.main").await + world.depth("resets.main.bulk").await) as usize;
    eprintln!("{signal}: ended in {took:?} with {done} done and {waiting} back in their queues");
    assert_eq!(done + waiting, 200, "what is not done is back in its queue");
    assert_eq!(world.depth("emails").await as usize, done);

    let (mut second, _) = Process::worker(&world).await;
    let records = world.recorded(200).await;
    assert!(records.iter().all(|record| record.routing_key == "main.succeeded"));
    assert_eq!(second.terminated().await.0, 0);
    let mails = world.drained("emails").await;
    assert_eq!((records.len(), mails.len()), (200, 200));
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    for user in users {
        assert_eq!(world.main().user(&user).unwrap().password_sets, 1, "{user}");
    }
    assert_eq!(
        world.depth("resets.main").await + world.depth("resets.main.bulk").await,
        0
    );
    assert_eq!(world.depth("resets.main.dead").await, 0);
}

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
    eventually("the call is in the air", async || {
        (world.main().stats().calls > 0).then_some(())
    })
    .await;
    worker.signal("TERM");
    eventually("it says that it ends", async || {
        worker.stderr().contains("a second signal ends at once").then_some(())
    })
    .await;
    let asked = Instant::now();
    worker.signal("TERM");
    assert_ne!(worker.ended().await, 0);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    eventually("the job is back", async || {
        (world.depth("resets.main").await == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_an_idle_worker_within_a_second() {
    let world = Plan::new().prepare().await;
    let (mut worker, _) = Process::worker(&world).await;
    let (code, took) = worker.terminated().await;
    assert_eq!(code, 0, "{}", worker.stderr());
    assert!(took < Duration::from_secs(1), "{took:?}");
}
