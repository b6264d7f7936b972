//! RabbitMQ nodes, started by `scripts/broker`, which ends each with the pipe that this process holds.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};

/// One node. It lives until this value is dropped, or until the process ends.
pub struct Broker {
    pub url: String,
    pipe: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
    script: Child,
}

impl Broker {
    /// The node that all tests share; nobody may stop it.
    pub fn shared() -> &'static Broker {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(|| Broker::start(&[], None))
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
    pub fn folder(&self) -> std::path::PathBuf {
        self.tell("folder").strip_prefix("folder ").expect("scripts/broker says its folder").into()
    }

    fn start(arguments: &[&str], conf: Option<&str>) -> Broker {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/broker");
        let mut script = Command::new(script);
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
        let stdin = script.stdin.take().unwrap();
        let mut stdout = BufReader::new(script.stdout.take().unwrap());
        let url = answer(&mut stdout).strip_prefix("ready ").expect("scripts/broker says ready").to_owned();
        Broker { url, pipe: Mutex::new(Some((stdin, stdout))), script }
    }

    /// `kill`, `stop`, `start`, `pause`, `resume`, `folder` or `ctl …`: see `scripts/broker`. Waits until it is done.
    pub fn tell(&self, command: &str) -> String {
        let mut pipe = self.pipe.lock().unwrap();
        let pipe = pipe.as_mut().expect("the node lives as long as this value");
        writeln!(pipe.0, "{command}").expect("scripts/broker listens");
        let said = answer(&mut pipe.1);
        assert!(!said.starts_with("error"), "{command}: {said}");
        said
    }

    /// As [`Broker::tell`], off the runtime's threads.
    pub async fn told(self: &std::sync::Arc<Self>, command: &'static str) -> String {
        let broker = std::sync::Arc::clone(self);
        tokio::task::spawn_blocking(move || broker.tell(command)).await.unwrap()
    }
}

fn answer(stdout: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    stdout.read_line(&mut line).expect("scripts/broker answers");
    line.trim_end().to_owned()
}

impl Drop for Broker {
    fn drop(&mut self) {
        // The end of its input is what makes the script end its node.
        drop(self.pipe.lock().unwrap().take());
        let _ = self.script.wait();
    }
}
