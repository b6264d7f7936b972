//! The scripts hold to what their headers say: here `scripts/broker serve`, whatever its standard input is.
#![expect(clippy::unwrap_used, reason = "a test fails loudly, in its helpers too")]

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// `scripts/broker serve --private`, whose files are all in a folder of its own.
struct Serve {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    port: u16,
    folder: tempfile::TempDir,
}

/// `scripts/broker serve --private`, not started. It must take every signal, also where these tests run under nohup or in the
/// background, which ignore some.
fn serve(folder: &Path) -> Command {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/broker");
    let mut command = if cfg!(target_os = "linux") {
        let mut command = Command::new("env");
        command.args(["--default-signal", script]);
        command
    } else {
        Command::new(script)
    };
    command.args(["serve", "--private"]).env("TMPDIR", folder);
    command
}

impl Serve {
    /// One that is ready, with this as its standard input.
    fn with_stdin(stdin: Stdio) -> Serve {
        let folder = tempfile::tempdir().unwrap();
        let command = serve(folder.path());
        Serve::ready(command, stdin, folder)
    }

    /// One that is ready, without a standard input.
    fn without_stdin() -> Serve {
        let folder = tempfile::tempdir().unwrap();
        let serve = serve(folder.path());
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$@\" <&-", "sh"]).arg(serve.get_program()).args(serve.get_args());
        command.env("TMPDIR", folder.path());
        Serve::ready(command, Stdio::null(), folder)
    }

    fn ready(mut command: Command, stdin: Stdio, folder: tempfile::TempDir) -> Serve {
        let mut child = command.stdin(stdin).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut serve = Serve { child, stdin, stdout, port: 0, folder };
        let said = serve.answer();
        let port = said.strip_prefix("ready amqp://guest:guest@127.0.0.1:").and_then(|rest| rest.split('/').next());
        serve.port = port.unwrap_or_else(|| panic!("{said:?} is no ready")).parse().unwrap();
        assert!(serve.node_answers());
        serve
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// A RabbitMQ is behind its port: it opens a connection with the method `connection.start`.
    fn node_answers(&self) -> bool {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(b"AMQP\x00\x00\x09\x01").unwrap();
        let mut frame = [0; 11];
        stream.read_exact(&mut frame).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
        frame[0] == 1 && frame[7..] == [0, 10, 0, 10]
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// Waits until it has ended, and nothing it started is there any more: its exit code, and None where a signal ended it.
    fn ended(mut self) -> Option<i32> {
        let status = soon("it ends", || self.child.try_wait().unwrap());
        soon("nothing outlives it", || {
            let ports = (0..3).all(|n| TcpStream::connect(("127.0.0.1", self.port + n)).is_err());
            (ports && nothing_left(self.folder.path())).then_some(())
        });
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "nothing is said that was not asked for");
        status.code()
    }
}

impl Drop for Serve {
    /// Where a test fails, it ends what it started.
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.signal("TERM");
            let _ = self.child.wait();
        }
    }
}

/// No file is left in this folder, and no process that was started with it as its `TMPDIR` or `HOME`.
fn nothing_left(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none() && processes_of(folder).is_empty()
}

/// The processes whose environment names this folder, on Linux: the folder and the ports are all there is to see elsewhere.
fn processes_of(folder: &Path) -> Vec<String> {
    let name = folder.to_str().unwrap().as_bytes();
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let names_it = |pid: &String| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.windows(name.len()).any(|part| part == name)
    };
    pids.filter(|pid| pid.bytes().all(|c| c.is_ascii_digit())).filter(names_it).collect()
}

fn soon<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn broker_without_a_standard_input_serves_until_sigterm() {
    let serve = Serve::without_stdin();
    serve.signal("TERM");
    assert_eq!(serve.ended(), Some(143));
}

#[test]
fn broker_with_dev_null_as_its_standard_input_serves_until_sigint() {
    let serve = Serve::with_stdin(Stdio::null());
    serve.signal("INT");
    assert_eq!(serve.ended(), Some(130));
}

/// As nohup gives it one: it can only be written. And nobody cleans up but what watches over it.
#[test]
fn broker_that_is_killed_leaves_nothing_behind() {
    let null = OpenOptions::new().write(true).open("/dev/null").unwrap();
    let serve = Serve::with_stdin(null.into());
    if cfg!(target_os = "linux") {
        assert!(processes_of(serve.folder.path()).len() >= 3, "the script, epmd and the node are seen");
    }
    serve.signal("KILL");
    assert_eq!(serve.ended(), None);
}

#[test]
fn broker_obeys_a_pipe_and_ends_on_sighup_while_that_is_open() {
    let mut serve = Serve::with_stdin(Stdio::piped());
    writeln!(serve.stdin.as_mut().unwrap(), "folder").unwrap();
    let said = serve.answer();
    assert!(Path::new(said.strip_prefix("folder ").unwrap()).starts_with(serve.folder.path()), "{said}");
    serve.signal("HUP");
    assert_eq!(serve.ended(), Some(129));
}

#[test]
fn broker_ends_with_its_pipe() {
    let mut serve = Serve::with_stdin(Stdio::piped());
    drop(serve.stdin.take());
    assert_eq!(serve.ended(), Some(0));
}

#[test]
fn broker_whose_pipe_ends_before_it_is_ready_ends_without_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = serve(folder.path());
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let output = child.wait_with_output().unwrap(); // which closes its standard input first
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(output.status.code(), Some(0));
    soon("nothing outlives it", || nothing_left(folder.path()).then_some(()));
}
