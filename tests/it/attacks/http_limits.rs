//! Who reaches `http.listen` holds nobody up: thousands of connections that never say anything, say half of it or read nothing, from
//! the address that the health probe has too, and meanwhile jobs and mails go on at their rate and health answers.

use std::ops::Range;
use std::time::{Duration, Instant};

use resetd::commands::demo::postbox::Postbox;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::mails::mailer;
use crate::operator::process::{Process, Run, ready};
use crate::world::{Plan, eventually, unlimited};

/// Connections that want a place at once.
const ATTACKERS: usize = 5000;
/// How long one that was closed waits until it comes again.
const COMES_AGAIN: Duration = Duration::from_secs(10);
/// As a service has it without `LimitNOFILE`.
const DESCRIPTORS: &str = "1024";

/// What an attacker does with a connection.
#[derive(Debug, Clone, Copy)]
enum Attack {
    SaysNothing,
    SaysHalf,
    ReadsNothing,
}

/// Connections of all kinds, which come again as long as this lives.
struct Flood {
    _attackers: JoinSet<()>,
}

impl Flood {
    /// Returns once the server has closed more connections than it can hold: all of its places are taken.
    async fn of(http: &str) -> Self {
        let address = http.strip_prefix("http://").unwrap().to_owned();
        let mut attackers = JoinSet::new();
        let (closed, mut all_closed) = tokio::sync::watch::channel(0);
        for n in 0..ATTACKERS {
            let attack = [Attack::SaysNothing, Attack::SaysHalf, Attack::ReadsNothing][n % 3];
            let (address, closed) = (address.clone(), closed.clone());
            attackers.spawn(async move {
                loop {
                    attack.once(&address).await;
                    closed.send_modify(|closed| *closed += 1);
                    // Not all of them at the same moment.
                    tokio::time::sleep(COMES_AGAIN * (1 + n as u32 % 10) / 5).await;
                }
            });
        }
        let taken = all_closed.wait_for(|closed| *closed > ATTACKERS / 2);
        tokio::time::timeout(testkit::LIMIT, taken).await.expect("connections are closed for others").unwrap();
        Self { _attackers: attackers }
    }
}

impl Attack {
    /// Ends when the server has closed it.
    async fn once(self, address: &str) {
        let Ok(mut socket) = TcpStream::connect(address).await else { return };
        let said = match self {
            Attack::SaysNothing => String::new(),
            Attack::SaysHalf => "GET /healthz HTTP/1.1\r\nhost: x\r\nx: ".to_owned(),
            Attack::ReadsNothing => "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(50),
        };
        let _ = socket.write_all(said.as_bytes()).await;
        match self {
            Attack::ReadsNothing => drop(socket.ready(tokio::io::Interest::ERROR).await),
            Attack::SaysNothing | Attack::SaysHalf => drop(socket.read(&mut [0; 64]).await),
        }
    }
}

/// Pages at once.
const PAGES: usize = 64;
/// A page that shows nothing is looked for again after 10 s, and everything is slower here.
const SILENCE: Duration = Duration::from_secs(14);
/// The limit of a write, and what a machine that is loaded needs for the rest.
const GIVEN_UP: Duration = Duration::from_secs(20);

/// Asks for the event stream; `room` is what the client's system takes, in bytes, before somebody reads.
async fn stream(http: &str, room: Option<u32>) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    if let Some(room) = room {
        socket.set_recv_buffer_size(room).unwrap();
    }
    let address = http.strip_prefix("http://").unwrap().parse().unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    stream.write_all(b"GET /events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await.unwrap();
    stream
}

/// The first byte past `HTTP/1.1 `, of which whoever asked for a stream gets a 2 or a 5.
async fn kind(stream: &mut TcpStream) -> u8 {
    let mut status = [0; 10];
    stream.read_exact(&mut status).await.unwrap();
    status[9]
}

/// Event streams that are read, each by a task of its own.
struct Readers(JoinSet<String>);

impl Readers {
    async fn of(http: &str, count: usize) -> Self {
        let mut readers = JoinSet::new();
        for _ in 0..count {
            let mut stream = stream(http, None).await;
            assert_eq!(kind(&mut stream).await, b'2');
            readers.spawn(async move {
                let mut some = [0; 4096];
                loop {
                    match tokio::time::timeout(SILENCE, stream.read(&mut some)).await {
                        Ok(Ok(1..)) => {}
                        Ok(ended) => return format!("it was cut: {ended:?}"),
                        Err(_) => return format!("nothing came for {SILENCE:?}"),
                    }
                }
            });
        }
        Self(readers)
    }

    /// None was cut, and each had something to read all the time.
    fn still_read(mut self) {
        let ended = self.0.try_join_next().map(Result::unwrap);
        assert_eq!(ended, None);
    }
}

/// Whether the server has given a stream up that nobody read: what lies here is followed by an end.
async fn was_cut(mut stream: TcpStream) -> bool {
    let ends = async {
        let mut some = [0; 4096];
        while let Ok(1..) = stream.read(&mut some).await {}
    };
    tokio::time::timeout(Duration::from_millis(500), ends).await.is_ok()
}

/// How long `/healthz` takes over a connection of its own.
async fn health(http: &str) -> Duration {
    let asked = Instant::now();
    let mut socket = TcpStream::connect(http.strip_prefix("http://").unwrap()).await.unwrap();
    socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    asked.elapsed()
}

/// Asks for the health of a process that is flooded until this is done; the longest answer.
async fn healthy_until(http: &str, done: impl Future<Output = ()>) -> Duration {
    tokio::pin!(done);
    let (mut slowest, mut asked) = (Duration::ZERO, 0);
    let mut every = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            () = &mut done => break,
            _ = every.tick() => {
                slowest = slowest.max(health(http).await);
                asked += 1;
            }
        }
    }
    assert!(asked > 10, "{asked}");
    slowest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_stream_that_nobody_reads_gives_its_place_up_and_one_that_is_read_keeps_it() {
    const READ: usize = 2;
    let world = Plan::new().prepare().await;
    let (_worker, http) = Process::worker(&world).await;
    let readers = Readers::of(&http, READ).await;
    // Until no page more has a place. On a slow machine the first are given up before.
    let mut unread = Vec::new();
    loop {
        let mut one = stream(&http, Some(1024)).await;
        if kind(&mut one).await == b'5' {
            break;
        }
        unread.push(one);
    }
    assert!(unread.len() >= PAGES - READ, "{}", unread.len());
    let taken = Instant::now();
    let mut others = Vec::new();
    eventually("as many others have", async || {
        let mut other = stream(&http, None).await;
        if kind(&mut other).await == b'2' {
            others.push(other);
        }
        (others.len() == PAGES - READ).then_some(())
    })
    .await;
    let took = taken.elapsed();
    eprintln!("{} other pages have a place after {took:?}", others.len());
    assert!(took < GIVEN_UP, "{took:?}");
    for stream in unread {
        assert!(was_cut(stream).await);
    }
    readers.still_read();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_resets_at_its_rate_and_is_healthy_while_5000_connections_hold_all_places() {
    const JOBS: usize = 150;
    let world = Plan::new().org("main", unlimited(), "rate_per_minute = 600").prepare().await;
    let worker = Run::of(&world, &["--log", "json", "worker"]).descriptors(DESCRIPTORS).start();
    let http = worker.http().await;
    ready(&http).await;
    let readers = Readers::of(&http, PAGES / 8).await;
    let mut unread = Vec::new();
    for _ in 0..PAGES / 8 {
        unread.push(stream(&http, Some(1024)).await);
    }
    let flood = Flood::of(&http).await;
    world.reset_many("main", JOBS).await;
    let began = Instant::now();
    let slowest = healthy_until(&http, async {
        let done = async || (world.main().stats().password_sets == JOBS as u64).then_some(());
        eventually("all jobs are done", done).await;
    })
    .await;
    let took = began.elapsed();
    readers.still_read();
    drop(flood);
    for stream in unread {
        assert!(was_cut(stream).await);
    }
    eprintln!("{JOBS} jobs in {took:?}, health within {slowest:?}");
    // 600 a minute are 15 s.
    assert!(took < Duration::from_secs(18), "{took:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert_eq!(world.main().stats().calls, JOBS as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailer_sends_at_its_rate_and_is_healthy_while_5000_connections_hold_all_places() {
    const MAILS: usize = 100;
    let (postbox, listener) = (Postbox::default(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let section = mailer::section(listener.local_addr().unwrap().port()).replace("= 60000", "= 600");
    let world = Plan::new().config(&section).prepare().await;
    let _serving = mailer::serve(&postbox, listener).await;
    let process = Run::of(&world, &["--log", "json", "mailer"]).descriptors(DESCRIPTORS).start();
    let http = process.http().await;
    ready(&http).await;
    let flood = Flood::of(&http).await;
    let notes: Vec<_> = (0..MAILS).map(|n| mailer::note(n, 0)).collect();
    mailer::notify_all(&world, &notes).await;
    let began = Instant::now();
    let slowest = healthy_until(&http, async {
        eventually("all mails are sent", async || (postbox.letters().len() == MAILS).then_some(())).await;
    })
    .await;
    let took = began.elapsed();
    drop(flood);
    eprintln!("{MAILS} mails in {took:?}, health within {slowest:?}");
    assert!(took < Duration::from_secs(13), "{took:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

/// What a process holds of memory at its peak, in MiB.
fn peak(process: &Process) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1024
}

/// The only body that anybody sends is a token. It is read before it is known whose it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_no_sign_in_has_is_not_kept() {
    const CLIENTS: usize = 100;
    const LENGTH: usize = 1_990_000;
    let world = Plan::new().prepare().await;
    let (worker, http) = Process::worker(&world).await;
    let before = peak(&worker);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let address = http.strip_prefix("http://").unwrap().to_owned();
        clients.spawn(async move {
            let mut socket = TcpStream::connect(address).await.unwrap();
            let head = format!(
                "POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {LENGTH}\r\n\r\n"
            );
            // All but the last byte, for as long as it is taken.
            let _ = socket.write_all(head.as_bytes()).await;
            let _ = socket.write_all(&vec![b'x'; LENGTH - 1]).await;
            let mut answer = String::new();
            let _ = socket.read_to_string(&mut answer).await;
            answer
        });
    }
    let answers = clients.join_all().await;
    assert!(answers.iter().all(|answer| answer.is_empty() || answer.starts_with("HTTP/1.1 413")), "{answers:?}");
    assert!(answers.iter().any(|answer| !answer.is_empty()), "nobody was answered");
    let grown = peak(&worker) - before;
    eprintln!("{CLIENTS} bodies of {LENGTH} bytes: {grown} MiB more");
    assert!(grown < 30, "{grown} MiB");
}

/// A client that is held to what it asked for: the head of its request must come, and so must its body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_does_not_come_is_not_waited_for() {
    let world = Plan::new().prepare().await;
    let (_worker, http) = Process::worker(&world).await;
    let ends = async |said: &str, answer: &str, within: Range<u64>| {
        // It is waited for from when it connects, which may be a moment before the connection is known here.
        let asked = Instant::now();
        let mut socket = TcpStream::connect(http.strip_prefix("http://").unwrap()).await.unwrap();
        socket.write_all(said.as_bytes()).await.unwrap();
        let mut answered = String::new();
        let ended = tokio::time::timeout(testkit::LIMIT, socket.read_to_string(&mut answered)).await;
        assert!(ended.is_ok(), "{said:?} is waited for");
        assert!(answered.starts_with(answer) && (!answer.is_empty() || answered.is_empty()), "{said:?}: {answered:?}");
        assert!(within.contains(&asked.elapsed().as_secs()), "{said:?}: {:?}", asked.elapsed());
    };
    let half_a_body = "POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: 9\r\n\r\ntoken";
    tokio::join!(
        ends("", "", 5..9),
        ends("GET /healthz HTTP/1.1\r\n", "", 5..9),
        ends(half_a_body, "HTTP/1.1 408", 9..15),
    );
}
