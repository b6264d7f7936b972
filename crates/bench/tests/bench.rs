//! The figures: `make bench`; docs/performance.md has them. Not part of the tests, since a figure depends on the machine; each
//! prints what it saw. Only `floor` fails, by a ratio that depends less on it: `make bench-floor`.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use sim::Stats;
use testkit::broker::Broker;
use testkit::process::binary;

/// Ends its process with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a process has used so far.
struct Used {
    cpu: Duration,
    peak_mib: f64,
}

impl Process {
    fn used(&self) -> Used {
        let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", self.0.id())).unwrap_or_default();
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        // utime and stime are fields 14 and 15 of proc(5), in ticks of 1/100 s.
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        let peak =
            read("status").lines().find_map(|line| line.strip_prefix("VmHWM:").map(str::to_owned)).unwrap_or_default();
        let kib: f64 = peak.trim().trim_end_matches(" kB").parse().unwrap_or(0.0);
        Used { cpu: Duration::from_millis(ticks * 10), peak_mib: kib / 1024.0 }
    }

    fn terminate(mut self) -> Used {
        let used = self.used();
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
        used
    }
}

struct Bench {
    broker: Broker,
    folder: tempfile::TempDir,
    channel: Channel,
    _connection: Connection,
}

const SIM: &str = "127.0.0.1:18321";

impl Bench {
    async fn new() -> Self {
        let broker = Broker::private();
        let connection = Connection::connect(&broker.url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { broker, folder: tempfile::tempdir().unwrap(), channel, _connection: connection }
    }

    async fn sim(&self, arguments: &[&str]) -> Process {
        let log = fs::File::create(self.folder.path().join("sim.log")).unwrap();
        let mut command = Command::new(binary());
        let process = Process(command.args(["sim", "--listen", SIM]).args(arguments).stderr(log).spawn().unwrap());
        until("the sim", async || reqwest::get(format!("http://{SIM}/sim")).await.ok().map(drop)).await;
        process
    }

    fn worker(&self, keys: &str, prefetch: u16) -> Process {
        let config = self.folder.path().join("bench.toml");
        let text = format!(
            "[amqp]\nurl = {:?}\nprefetch = {prefetch}\n[wire]\npassword = \"sha256\"\nextensions = \"envelope\"\n[http]\nlisten = \"127.0.0.1:18322\"\n\
             [orgs.main]\ntoken_url = \"http://{SIM}/oauth/token\"\nscim_url = \"http://{SIM}/api/v2/scim/v2\"\nclient_id = \"demo\"\nclient_secret = \"demo-secret\"\n{keys}\n",
            self.broker.url
        );
        fs::write(&config, text).unwrap();
        let log = fs::File::create(self.folder.path().join("worker.log")).unwrap();
        let mut command = Command::new(binary());
        Process(command.env("RUST_LOG", "warn").arg("--config").arg(&config).arg("worker").stderr(log).spawn().unwrap())
    }

    async fn ready(&self) {
        until("the worker", async || {
            reqwest::get("http://127.0.0.1:18322/readyz")
                .await
                .ok()
                .filter(|answer| answer.status().is_success())
                .map(drop)
        })
        .await;
    }

    /// Declares the topology, by a worker that is started and ended.
    async fn declare(&self) {
        let worker = self.worker("", 64);
        self.ready().await;
        worker.terminate();
    }

    async fn enqueue(&self, jobs: usize) {
        let mut confirms = Vec::with_capacity(jobs);
        // Ids of their own: one that was done is not done again.
        let round = uuid::Uuid::new_v4();
        for n in 0..jobs {
            let body = format!(r#"{{"userId":"u-{n}","password":true,"email":"u-{n}@example.com"}}"#);
            let properties =
                BasicProperties::default().with_delivery_mode(2).with_message_id(format!("{round}-{n}").into());
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            confirms.push(
                self.channel
                    .basic_publish("resets".into(), "main.bulk".into(), options, body.as_bytes(), properties)
                    .await
                    .unwrap(),
            );
        }
        for confirm in confirms {
            confirm.await.unwrap();
        }
    }

    async fn depth(&self, queue: &str) -> u32 {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.into(), passive, Default::default()).await.unwrap().message_count()
    }

    async fn empty(&self) {
        for queue in ["emails", "resets.main.bulk"] {
            self.channel.queue_purge(queue.into(), Default::default()).await.unwrap();
        }
    }

    async fn stats(&self) -> Stats {
        let text = reqwest::get(format!("http://{SIM}/sim/stats")).await.unwrap().text().await.unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(120), "{what} did not come");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The least loop, built with this test.
const LEAST_LOOP: &str = env!("CARGO_BIN_EXE_least_loop");

const JOBS: usize = 8_000;

/// What sealing adds to a message, and opening, on one core.
#[test]
#[ignore = "a measurement; make bench"]
fn the_cost_of_sealing() {
    use resetd::transport::keys::{Bits, Pair};
    use resetd::transport::seal::{Keys, Seal};
    let folder = tempfile::tempdir().unwrap();
    let secret = br#"{"notificationId":"0199d7a0-0000-7000-8000-000000000000","org":"main","userId":"0f6e7c1a-0000-4000-8000-000000000000","to":"agent@example.com","temporaryPassword":"0123456789abcdef0123","body":"Your temporary password is: 0123456789abcdef0123. Please log in and change it immediately."}"#;
    for (bits, name) in [(Bits::Rsa3072, "RSA 3072"), (Bits::Rsa4096, "RSA 4096")] {
        let begun = Instant::now();
        let pair = Pair::generate(bits).unwrap();
        let made = begun.elapsed();
        let (public, private) = (folder.path().join("public"), folder.path().join("private"));
        fs::write(&public, &pair.public).unwrap();
        fs::write(&private, pair.private.as_bytes()).unwrap();
        let (seal, keys) = (Seal::load(&[public]).unwrap().unwrap(), Keys::load(&[private]).unwrap());
        let begun = Instant::now();
        let sealed: Vec<String> = (0..2_000).map(|_| seal.close(secret).unwrap()).collect();
        let closing = begun.elapsed() / 2_000;
        let begun = Instant::now();
        for sealed in &sealed[..500] {
            assert_eq!(keys.open(sealed).unwrap().as_slice(), secret);
        }
        let opening = begun.elapsed() / 500;
        println!(
            "sealing, {name}: {closing:?} a message to close, {opening:?} to open, {} bytes in place of {}; {made:?} to make a pair",
            sealed[0].len(),
            secret.len()
        );
    }
}

#[tokio::test]
#[ignore = "a measurement; make bench"]
async fn figures() {
    let bench = Bench::new().await;
    throughput(&bench).await;
    quota(&bench).await;
    start(&bench).await;
}

/// Jobs without a limit against a stub, the worker and the least loop in turn.
async fn throughput(bench: &Bench) {
    let (sim, token) = unlimited(bench).await;
    for round in 1..=3 {
        for which in [Which::Resetd, Which::LeastLoop] {
            println!("round {round}: {which:?}: {}", bench.run(which, JOBS, &token).await);
        }
    }
    sim.terminate();
}

/// Jobs/s of the worker over those of the least loop: about the middle of the medians that the last runs of [`floor`] saw on 2026-11-28, on
/// two quiet cores that broker, org and both share, in the profile `bench-floor`. `docs/performance.md` has them, and says how to
/// set it anew.
const USUAL_RATIO: f64 = 0.645;
/// How much of it may be lost.
const SLACK: f64 = 0.1;
const PAIRS: usize = 7;
const JOBS_OF_A_PAIR: usize = 4_000;

/// The worker is no slower than it was, beside the least loop. The two run in turn, since the machine's own speed changes, and
/// the median of some pairs counts. Where that is below the floor, as many pairs again have their say.
#[tokio::test]
#[ignore = "a measurement; make bench-floor"]
async fn floor() {
    let bench = Bench::new().await;
    let (sim, token) = unlimited(&bench).await;
    let floor = USUAL_RATIO * (1.0 - SLACK);
    let mut ratios = Vec::new();
    for pair in 1..=2 * PAIRS {
        let ours = bench.run(Which::Resetd, JOBS_OF_A_PAIR, &token).await;
        let least = bench.run(Which::LeastLoop, JOBS_OF_A_PAIR, &token).await;
        ratios.push(ours.jobs_per_second / least.jobs_per_second);
        println!("pair {pair}: {:.3}", ratios[pair - 1]);
        println!("  resetd:     {ours}\n  least loop: {least}");
        if pair == PAIRS && median(&ratios) >= floor {
            break;
        }
    }
    sim.terminate();
    let ratio = median(&ratios);
    println!(
        "jobs/s over the least loop's: median of {} pairs {ratio:.3}, usual {USUAL_RATIO:.3}, floor {floor:.3}",
        ratios.len()
    );
    assert!(
        ratio >= floor,
        "the worker is slower than it was beside the least loop: {ratio:.3}, and the floor is {floor:.3}"
    );
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// An org that takes all, a token for it, and the topology.
async fn unlimited(bench: &Bench) -> (Process, String) {
    let sim = bench.sim(&["--quota", "0"]).await;
    bench.declare().await;
    let asked = reqwest::Client::new()
        .post(format!("http://{SIM}/oauth/token"))
        .basic_auth("demo", Some("demo-secret"))
        .form(&[("grant_type", "client_credentials")]);
    let token: serde_json::Value = asked.send().await.unwrap().json().await.unwrap();
    (sim, token["access_token"].as_str().unwrap().to_owned())
}

#[derive(Debug, Clone, Copy)]
enum Which {
    Resetd,
    LeastLoop,
}

struct Run {
    jobs_per_second: f64,
    cpu_ms_per_job: f64,
    peak_mib: f64,
    start_to_end: Duration,
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { jobs_per_second, cpu_ms_per_job, peak_mib, start_to_end } = self;
        let took = start_to_end.as_secs_f64();
        write!(f, "{jobs_per_second:.0} jobs/s, {cpu_ms_per_job:.3} ms of CPU a job, ")?;
        write!(f, "peak {peak_mib:.1} MiB, {took:.2} s from start to end")
    }
}

impl Bench {
    /// So many jobs, from the first call to the last mail, by a process that is started for it.
    async fn run(&self, which: Which, jobs: usize, token: &str) -> Run {
        self.enqueue(jobs).await;
        let before = self.stats().await.calls;
        let begun = Instant::now();
        let process = match which {
            Which::Resetd => self.worker("rate_per_minute = 4000000000\nburst = 1000", 64),
            Which::LeastLoop => {
                let mut command = Command::new(LEAST_LOOP);
                let (scim, jobs) = (format!("http://{SIM}/api/v2/scim/v2"), jobs.to_string());
                command.args([self.broker.url.as_str(), "", &scim, token, &jobs]);
                Process(command.stdout(Stdio::null()).spawn().unwrap())
            }
        };
        until("the first call", async || (self.stats().await.calls > before).then_some(())).await;
        let first = Instant::now();
        let mut used = process.used();
        until("all mails", async || {
            let now = process.used();
            if now.peak_mib > 0.0 {
                used = now;
            }
            (self.depth("emails").await as usize >= jobs).then_some(())
        })
        .await;
        let (took, start_to_end) = (first.elapsed(), begun.elapsed());
        process.terminate();
        self.empty().await;
        Run {
            jobs_per_second: per_second(jobs, took),
            cpu_ms_per_job: used.cpu.as_secs_f64() * 1e3 / jobs as f64,
            peak_mib: used.peak_mib,
            start_to_end,
        }
    }
}

/// 300 bulk jobs at 1,200 a minute against an org that allows exactly that.
async fn quota(bench: &Bench) {
    for window in ["60s", "1s"] {
        let quota = if window == "60s" { "1200" } else { "20" };
        let sim = bench.sim(&["--quota", quota, "--window", window, "--latency", "100ms"]).await;
        bench.enqueue(300).await;
        let worker = bench.worker("rate_per_minute = 1200", 64);
        until("all mails", async || (bench.depth("emails").await >= 300).then_some(())).await;
        let stats = bench.stats().await;
        let took = (stats.last_call_ms.unwrap() - stats.first_call_ms.unwrap()) as f64 / 1e3;
        // Between 300 calls lie 299 periods.
        let shortest = 299.0 * 60.0 / 1200.0;
        println!(
            "quota in windows of {window}: {took:.2} s, {:.3} of the shortest, {} of {} calls refused",
            took / shortest,
            stats.throttled,
            stats.calls
        );
        worker.terminate();
        sim.terminate();
        bench.empty().await;
    }
}

/// From the process's start to its first PATCH, the broker up and a job waiting.
async fn start(bench: &Bench) {
    let sim = bench.sim(&["--quota", "0"]).await;
    for round in 1..=5 {
        bench.enqueue(1).await;
        let before = bench.stats().await.calls;
        let begun = Instant::now();
        let worker = bench.worker("rate_per_minute = 60000", 64);
        until("the first call", async || (bench.stats().await.calls > before).then_some(())).await;
        println!("start {round}: {:.0} ms to the first PATCH", begun.elapsed().as_secs_f64() * 1e3);
        until("its mail", async || (bench.depth("emails").await >= 1).then_some(())).await;
        worker.terminate();
        bench.empty().await;
    }
    sim.terminate();
}

const MAILS: usize = 20_000;
const CONNECTIONS: usize = 8;

/// Mails per second to a mail server on this machine over eight connections: the courier, and the least that lettre can do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement; make bench"]
async fn mails() {
    let port = mail_server().await;
    let text = format!(
        "[mailer]\nfrom = \"noreply@example.com\"\n[mailer.smtp]\nhost = \"127.0.0.1\"\nport = {port}\ntls = \"off\"\npool = {CONNECTIONS}\n"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mailer.toml");
    fs::write(&file, text).unwrap();
    let config = resetd::config::Config::load(&[file], resetd::config::Environment::of([])).unwrap();
    let courier = resetd::transport::Courier::new(&config.delivery().unwrap(), Duration::from_secs(900)).unwrap();
    for round in 1..=3 {
        let took = in_parallel(async |_, count| {
            for n in 0..count {
                courier.deliver(&mail(n)).await.unwrap();
            }
        });
        println!("mails, round {round}: the courier {:.0} mails/s", per_second(MAILS, took.await));
        let took = in_parallel(async |_, count| least_lettre(port, count).await);
        println!("mails, round {round}: a bare lettre loop {:.0} mails/s", per_second(MAILS, took.await));
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn per_second(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

async fn in_parallel(work: impl AsyncFn(usize, usize)) -> Duration {
    let begun = Instant::now();
    futures_util::future::join_all((0..CONNECTIONS).map(|n| work(n, MAILS / CONNECTIONS))).await;
    begun.elapsed()
}

fn mail(n: usize) -> resetd::transport::Mail {
    resetd::transport::Mail {
        id: resetd::domain::note::NoteId::parse(&format!("n-{n}")).unwrap(),
        to: resetd::domain::recipient::Recipient::parse("to", "agent@example.com").unwrap(),
        password: resetd::domain::password::Password::known("0123456789abcdef".to_owned().into()),
        subject: "Genesys Cloud Temporary Password Reset".into(),
        text: "Your temporary password is: 0123456789abcdef. Please log in and change it immediately."
            .to_owned()
            .into(),
        html: None,
    }
}

async fn least_lettre(port: u16, count: usize) {
    use lettre::transport::smtp::client::AsyncSmtpConnection;
    use lettre::transport::smtp::extension::ClientId;
    let hello = ClientId::Domain("example.com".into());
    let mut connection =
        AsyncSmtpConnection::connect_tokio1(("127.0.0.1", port), None, &hello, None, None).await.unwrap();
    for _ in 0..count {
        let message = lettre::Message::builder()
            .from("noreply@example.com".parse().unwrap())
            .to("agent@example.com".parse().unwrap())
            .subject("Genesys Cloud Temporary Password Reset")
            .body("Your temporary password is: 0123456789abcdef. Please log in and change it immediately.".to_owned());
        let message = message.unwrap();
        connection.send(message.envelope(), &message.formatted()).await.unwrap();
    }
}

/// It takes everything at once.
async fn mail_server() -> u16 {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let (read, mut write) = stream.into_split();
                let mut lines = tokio::io::BufReader::new(read).lines();
                let _ = write.write_all(b"220 here\r\n").await;
                let mut in_mail = false;
                while let Ok(Some(line)) = lines.next_line().await {
                    if in_mail && line != "." {
                        continue;
                    }
                    in_mail = line == "DATA";
                    let answer: &[u8] = if in_mail { b"354 go on\r\n" } else { b"250 fine\r\n" };
                    let _ = write.write_all(answer).await;
                }
            });
        }
    });
    port
}
