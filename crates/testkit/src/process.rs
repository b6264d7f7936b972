//! The binary as a process: how a test starts it, what it writes, how it ends.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::eventually;

/// What has a configuration for a worker: a test's world.
pub trait Configured {
    /// The configuration as files, later ones over earlier ones, and the folder that holds them.
    fn files(&self) -> (tempfile::TempDir, Vec<PathBuf>);
}

/// The `resetd` that was built with the test that runs.
pub fn binary() -> PathBuf {
    // target/PROFILE/deps/NAME-HASH, beside target/PROFILE/resetd.
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).expect("a test lies two folders deep");
    Path::new(profile).join(format!("resetd{}", std::env::consts::EXE_SUFFIX))
}

/// A `resetd` process with an empty environment and an empty working folder. It is killed when this is dropped.
pub struct Process {
    child: Child,
    out: Arc<Mutex<Vec<u8>>>,
    err: Arc<Mutex<Vec<u8>>>,
    _folder: tempfile::TempDir,
}

/// What is run before it runs.
pub struct Run {
    command: Command,
    arguments: Vec<String>,
    folder: tempfile::TempDir,
    stdin: Vec<u8>,
    stdin_of: Option<PathBuf>,
    unread: bool,
}

impl Run {
    pub fn new(arguments: &[&str]) -> Self {
        Self::of_binary(&binary(), arguments)
    }

    /// Of another `resetd` than the one that was built with the test.
    pub fn of_binary(binary: &Path, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(binary);
        command.env_clear().current_dir(folder.path());
        Self {
            command,
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            folder,
            stdin: Vec::new(),
            stdin_of: None,
            unread: false,
        }
    }

    /// With the configuration of a world, then these arguments.
    pub fn of(world: &impl Configured, arguments: &[&str]) -> Self {
        Run::new(arguments).configured(world)
    }

    /// With the configuration of a world.
    pub fn configured(self, world: &impl Configured) -> Self {
        let mut run = self;
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
        // It may hold a secret.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
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

    /// Its standard input is this file.
    pub fn stdin_of(mut self, path: &Path) -> Self {
        self.stdin_of = Some(path.to_owned());
        self
    }

    /// Whoever read its standard output has gone away, as in `resetd … | true`.
    pub fn unread(mut self) -> Self {
        self.unread = true;
        self
    }

    /// On a terminal of 80 columns, by `script`: what it writes to it, stderr too, is the stdout of the process.
    pub fn on_terminal(mut self) -> Self {
        let program = self.command.get_program().to_owned();
        let words =
            std::iter::once(program.as_os_str()).chain(self.command.get_args()).map(|word| word.to_str().unwrap());
        let words = words.chain(self.arguments.iter().map(String::as_str));
        let words: Vec<String> = words.map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
        let command = format!("stty cols 80 rows 24; exec {}", words.join(" "));
        let mut script = Command::new("script");
        script.env_clear().current_dir(self.folder.path());
        let kept = self.command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
        script.envs(kept).env("PATH", "/usr/bin:/bin").env("TERM", "xterm-256color").env("SHELL", "/bin/sh");
        self.arguments = if cfg!(target_os = "macos") {
            ["-q", "/dev/null", "sh", "-c", &command].map(str::to_owned).into()
        } else {
            ["-qefc", &command, "/dev/null"].map(str::to_owned).into()
        };
        self.command = script;
        self
    }

    /// As another user, who may read what is in its working folder.
    pub fn as_user(mut self, id: u32) -> Self {
        let readable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(self.folder.path(), readable).unwrap();
        self.command.uid(id);
        self
    }

    /// By a command that becomes it, such as one that puts it on a host of a cluster.
    pub fn behind(mut self, words: &[String]) -> Self {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(self.command.get_program()).args(self.command.get_args());
        let environment = self.command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        command.env_clear().envs(environment).current_dir(self.folder.path());
        self.command = command;
        self
    }

    /// With a soft limit of so many descriptors, which it may raise itself.
    pub fn descriptors(mut self, limit: &str) -> Self {
        let program = self.command.get_program().to_owned();
        let arguments: Vec<_> = self.command.get_args().map(ToOwned::to_owned).collect();
        let environment: Vec<_> =
            self.command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &format!("ulimit -S -n {limit} && exec \"$0\" \"$@\"")]).arg(program).args(arguments);
        shell.env_clear().envs(environment).current_dir(self.folder.path());
        self.command = shell;
        self
    }

    pub fn start(mut self) -> Process {
        let stdin = self.stdin_of.map_or_else(Stdio::piped, |path| std::fs::File::open(path).unwrap().into());
        let command = self.command.args(self.arguments).stdin(stdin);
        let stdout = if self.unread {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            writer.into()
        } else {
            Stdio::piped()
        };
        let mut child = command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
        if let Some(mut stdin) = child.stdin.take() {
            let text = self.stdin;
            std::thread::spawn(move || stdin.write_all(&text));
        }
        Process {
            out: child.stdout.take().map(collect).unwrap_or_default(),
            err: collect(child.stderr.take().unwrap()),
            child,
            _folder: self.folder,
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
    /// A worker of this world, run as the systemd unit and the image do, at its address once it is ready.
    pub async fn worker(world: &impl Configured) -> (Process, String) {
        let process = Run::of(world, &["--log", "json", "worker"]).env("MALLOC_ARENA_MAX", "2").start();
        let http = process.http().await;
        ready(&http).await;
        (process, http)
    }

    /// One of several workers of this world, which reaches the broker by a URL of its own. It may not be ready yet.
    pub fn worker_by(world: &impl Configured, amqp_url: &str) -> Process {
        let own = format!("[amqp]\nurl = {amqp_url:?}\n");
        Run::of(world, &["--log", "json", "worker"]).config(&own).start()
    }

    /// The same, held up for a moment where a job reaches a stage, such as `notified@job-1`.
    pub fn paused_at(world: &impl Configured, amqp_url: &str, stage: &str) -> Process {
        let own = format!("[amqp]\nurl = {amqp_url:?}\n");
        let run = Run::of(world, &["--log", "json", "worker"]).config(&own);
        run.env("RESETD_FAILPOINT", &format!("{stage}=pause")).start()
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
            let address: String = line[at..].chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
            Some(format!("http://{address}"))
        })
        .await
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal such as `TERM`.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// Ends it by SIGKILL and waits until it is gone and everything it wrote was read.
    pub async fn kill(&mut self) {
        self.child.kill().unwrap();
        self.ended().await;
    }

    /// Its exit code where it has ended; -1 is a signal's.
    pub fn has_ended(&mut self) -> Option<i32> {
        self.child.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
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

/// What a process and its threads have taken of the processors so far, in hundredths of a second.
pub fn ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name before them may have blanks.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

pub async fn ready(http: &str) {
    let client = crate::http::client();
    eventually("the worker is ready", async || {
        let answer = client.get(format!("{http}/readyz")).send().await.ok()?;
        (answer.status() == 200).then_some(())
    })
    .await;
}

/// What `/readyz` says, where anybody answers within a second.
pub async fn readyz(http: &str) -> Option<(u16, Value)> {
    let asked = crate::http::client().get(format!("{http}/readyz")).timeout(Duration::from_secs(1));
    let answer = asked.send().await.ok()?;
    Some((answer.status().as_u16(), answer.json().await.ok()?))
}

/// The role of the org `main` in a worker, where it answers.
pub async fn role(http: &str) -> Option<String> {
    Some(readyz(http).await?.1["orgs"]["main"]["role"].as_str()?.to_owned())
}

/// Waits until the org `main` has this role in a worker.
pub async fn role_is(http: &str, expected: &str) {
    eventually(&format!("main is {expected}"), async || (role(http).await.as_deref() == Some(expected)).then_some(()))
        .await;
}

/// Waits until it is stopped, until somebody fixes what it says.
pub async fn stopped(http: &str, org: &str) -> String {
    eventually(&format!("{org} is stopped"), async || {
        let said = readyz(http).await?.1;
        let row = if org == "mailer" { &said["mailer"] } else { &said["orgs"][org] };
        (row["role"] == "halted").then(|| row["reason"].as_str().unwrap().to_owned())
    })
    .await
}

/// All of these are in what was said.
pub fn says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

/// Ends by itself, with this code and these words on stderr, and nothing on stdout.
pub async fn ends(run: Run, code: i32, parts: &[&str]) -> String {
    let (ended, out, said) = run.end().await;
    assert_eq!((ended, out.as_str()), (code, ""), "{said}");
    says(&said, parts);
    said
}
