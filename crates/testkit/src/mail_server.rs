//! The mail servers that mails are delivered to: a real one (aiosmtpd), and one that answers as a test wants it.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::certificates::Authority;
use crate::eventually;

/// aiosmtpd, with a folder for what it is sent. It ends when this is dropped.
pub struct RealServer {
    process: Child,
    pub port: u16,
    folder: tempfile::TempDir,
}

impl RealServer {
    /// `mode` is `starttls`, `wrapper` or `off`; with a certificate it wants a login as `mailer` with `pass word`.
    pub async fn start(mode: &str, authority: Option<&Authority>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(crate::script("samples"));
        command.arg("smtpd").arg(folder.path()).arg(mode);
        if let Some(authority) = authority {
            let (certificate, key) = authority.issue("smtp", "IP:127.0.0.1", "2");
            command.args([certificate, key]).args(["mailer", "pass word"]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let started = tokio::task::spawn_blocking(move || {
            let mut process = command.spawn().expect("scripts/samples runs");
            let mut line = String::new();
            BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
            (process, line)
        });
        let (process, line) = started.await.unwrap();
        Self { process, port: line.trim().parse().expect("the mail server says its port"), folder }
    }

    /// The envelope and the bytes of the mail with this number.
    pub async fn mail(&self, number: usize) -> (Value, Vec<u8>) {
        let file = |end: &str| self.folder.path().join(format!("{number:05}.{end}"));
        let envelope = eventually("the mail server keeps the mail", async || std::fs::read(file("json")).ok()).await;
        (serde_json::from_slice(&envelope).unwrap(), std::fs::read(file("eml")).unwrap())
    }

    /// How many mails it took.
    pub fn count(&self) -> usize {
        let is_envelope = |path: PathBuf| path.extension().is_some_and(|end| end == "json");
        std::fs::read_dir(self.folder.path())
            .unwrap()
            .filter(|entry| is_envelope(entry.as_ref().unwrap().path()))
            .count()
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a scripted server does in place of an answer.
pub const HANG: &str = "(hang)";
pub const CUT: &str = "(cut)";

/// Answers by verb, `.` for the end of a mail and `greeting` for the first; each list is used up, then the usual answer follows.
pub struct ScriptedServer {
    pub port: u16,
    told: Arc<Mutex<LedgerRecord>>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct LedgerRecord {
    answers: HashMap<String, VecDeque<String>>,
    /// What the client said, by connection.
    said: Vec<Vec<String>>,
}

impl ScriptedServer {
    pub async fn start(answers: &[(&str, &[&str])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answers = answers
            .iter()
            .map(|(verb, list)| ((*verb).to_owned(), list.iter().map(|text| (*text).to_owned()).collect()))
            .collect();
        let told = Arc::new(Mutex::new(LedgerRecord { answers, said: Vec::new() }));
        let serving = {
            let told = Arc::clone(&told);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, Arc::clone(&told)));
                }
            })
        };
        Self { port, told, serving }
    }

    /// From now on it gives the usual answers.
    pub fn recovers(&self) {
        self.told.lock().unwrap().answers.clear();
    }

    /// What was said to it, by connection.
    pub fn said(&self) -> Vec<Vec<String>> {
        self.told.lock().unwrap().said.clone()
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(stream: TcpStream, told: Arc<Mutex<LedgerRecord>>) -> Option<()> {
    let number = {
        let mut told = told.lock().unwrap();
        told.said.push(Vec::new());
        told.said.len() - 1
    };
    let (read, mut write) = stream.into_split();
    let mut lines = tokio::io::BufReader::new(read).lines();
    let mut verb = "greeting".to_owned();
    loop {
        let answer = {
            let mut told = told.lock().unwrap();
            let next = told.answers.get_mut(&verb).and_then(VecDeque::pop_front);
            next.unwrap_or_else(|| usual(&verb).to_owned())
        };
        match answer.as_str() {
            HANG => std::future::pending().await,
            CUT => return None,
            answer => write.write_all(format!("{answer}\r\n").as_bytes()).await.ok()?,
        }
        if answer.starts_with("421") || verb == "QUIT" {
            return None;
        }
        let in_mail = verb == "DATA" && answer.starts_with("354");
        loop {
            let line = lines.next_line().await.ok()??;
            if in_mail && line != "." {
                continue;
            }
            let said = line.split([' ', ':']).next().unwrap_or_default().to_uppercase();
            told.lock().unwrap().said[number].push(line);
            verb = said;
            break;
        }
    }
}

fn usual(verb: &str) -> &'static str {
    match verb {
        "greeting" => "220 scripted",
        "EHLO" => "250-scripted\r\n250-AUTH PLAIN LOGIN\r\n250 8BITMIME",
        "AUTH" => "235 welcome",
        "DATA" => "354 go on",
        "QUIT" => "221 bye",
        "." => "250 taken",
        "MAIL" | "RCPT" | "RSET" => "250 fine",
        _ => "500 what?",
    }
}
