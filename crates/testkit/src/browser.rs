//! A headless Chromium, driven over its DevTools protocol: what a page shows, what it asks for, and what it complains of.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::{LIMIT, eventually};

/// One browser with a profile of its own. It is killed, with all its processes, when this is dropped.
pub struct Browser {
    process: Child,
    port: u16,
    _profile: tempfile::TempDir,
}

/// One of its pages.
pub struct Tab {
    socket: WebSocketStream<TcpStream>,
    calls: u64,
    /// Whatever it told unasked.
    events: Vec<Value>,
}

impl Browser {
    pub async fn start() -> Self {
        let found = Command::new(crate::script("browser"));
        let found = tokio::task::spawn_blocking(move || { found }.stderr(Stdio::inherit()).output()).await.unwrap();
        let found = found.expect("scripts/browser runs");
        assert!(found.status.success(), "scripts/browser finds a browser");
        let path = String::from_utf8(found.stdout).unwrap();
        let profile = tempfile::tempdir().unwrap();
        let quiet = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--remote-debugging-port=0",
        ];
        let process = Command::new(path.trim())
            .args(quiet)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let said = profile.path().join("DevToolsActivePort");
        let port = eventually("the browser says where it listens", async || {
            std::fs::read_to_string(&said).ok()?.lines().next()?.parse().ok()
        })
        .await;
        Self { process, port, _profile: profile }
    }

    /// A new page, which nothing was opened in yet.
    pub async fn tab(&self) -> Tab {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://127.0.0.1:{}/json/new?about:blank", self.port);
        let made: Value = http.put(url).send().await.unwrap().json().await.unwrap();
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let url = made["webSocketDebuggerUrl"].as_str().unwrap();
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        let mut tab = Tab { socket, calls: 0, events: Vec::new() };
        tab.call("Emulation.setScrollbarsHidden", json!({"hidden": true})).await;
        for domain in ["Page", "Runtime", "Log", "Network"] {
            tab.call(&format!("{domain}.enable"), json!({})).await;
        }
        tab
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.process.id())]).status();
        let _ = self.process.wait();
    }
}

impl Tab {
    pub async fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let id = self.calls;
        let asked = json!({"id": id, "method": method, "params": params}).to_string();
        self.socket.send(Message::text(asked)).await.unwrap();
        loop {
            let next = tokio::time::timeout(LIMIT, self.socket.next()).await;
            let next = next.unwrap_or_else(|_| panic!("{method} is not answered within {LIMIT:?}"));
            let Message::Text(text) = next.expect("the browser lives").unwrap() else { continue };
            let said: Value = serde_json::from_str(&text).unwrap();
            if said["id"] == id {
                assert!(said["error"].is_null(), "{method}: {said}");
                return said["result"].clone();
            }
            self.events.push(said);
        }
    }

    pub async fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url})).await;
    }

    /// The value of an expression in the page.
    pub async fn value(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", asked).await;
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// The text of the first element that a selector finds; empty where there is none.
    pub async fn text(&mut self, selector: &str) -> String {
        let value = self.value(&format!("document.querySelector({selector:?})?.innerText ?? ''")).await;
        value.as_str().unwrap().to_owned()
    }

    /// Waits until the text that a selector finds is as wanted, and returns it.
    pub async fn until(&mut self, selector: &str, wanted: impl Fn(&str) -> bool) -> String {
        let begun = std::time::Instant::now();
        loop {
            let text = self.text(selector).await;
            if wanted(&text) {
                return text;
            }
            assert!(begun.elapsed() < LIMIT, "{selector} says {text:?}\n{}", self.text("body").await);
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// As on a screen of this size; up to 480 wide, a phone's.
    pub async fn size(&mut self, width: u32, height: u32) {
        let screen = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width <= 480});
        self.call("Emulation.setDeviceMetricsOverride", screen).await;
    }

    /// `light` or `dark`.
    pub async fn scheme(&mut self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features})).await;
    }

    /// Whatever the page complained of: errors and warnings on its console, exceptions, what its policy forbade.
    pub fn complaints(&self) -> Vec<String> {
        let told = self.events.iter().filter(|event| match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" | "Log.entryAdded" => true,
            "Runtime.consoleAPICalled" => event["params"]["type"] != "log",
            _ => false,
        });
        told.map(Value::to_string).collect()
    }

    /// Every URL that was asked for.
    pub fn asked(&self) -> Vec<String> {
        let asked = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        asked.map(|event| event["params"]["request"]["url"].as_str().unwrap().to_owned()).collect()
    }

    /// A picture of the whole page, as PNG.
    pub async fn picture(&mut self, path: &Path) {
        let asked = json!({"format": "png", "captureBeyondViewport": true, "optimizeForSpeed": false});
        let picture = self.call("Page.captureScreenshot", asked).await;
        let bytes = base64::engine::general_purpose::STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}
