//! The cluster itself does what `scripts/cluster` says: everything else here stands on it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lapin::options::*;
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use testkit::cluster::{Cluster, HUB, Setup, address, on_cluster, watched};
use testkit::{eventually, script};

use crate::world::{connect, text};

/// What is sent in a network takes less; what does not come within this does not come.
const SOON: Duration = Duration::from_millis(500);

async fn quorum_queue(channel: &Channel, name: &str) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), options, arguments).await.unwrap();
}

async fn publish(channel: &Channel, queue: &str) {
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties = BasicProperties::default().with_delivery_mode(2);
    let confirm = channel.basic_publish("".into(), queue.into(), options, b"x", properties).await.unwrap();
    assert_eq!(confirm.await.unwrap(), lapin::Confirmation::Ack(None));
}

/// Whether a node takes a connection within a second or two.
pub async fn takes_connections(url: &str) -> bool {
    let attempt = Connection::connect(url, ConnectionProperties::default());
    matches!(tokio::time::timeout(Duration::from_secs(2), attempt).await, Ok(Ok(_)))
}

/// What a queue has, once it has a leader.
async fn get(url: &str, queue: &str) -> Option<Vec<u8>> {
    eventually("the queue has a leader", async || {
        let connection = connect(url).await;
        let channel = connection.create_channel().await.ok()?;
        let got = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.ok()?;
        Some(got.map(|got| got.delivery.data))
    })
    .await
}

/// An open connection from one host to another.
struct Line {
    from: TcpStream,
    to: TcpStream,
}

impl Line {
    async fn open(cluster: &Arc<Cluster>, from: &str, to: &str) -> Self {
        let listener = listen(cluster, to).await;
        let port = listener.local_addr().unwrap().port();
        let from = dial(cluster, from, (address(to), port)).await.unwrap();
        let to = tokio::task::spawn_blocking(move || listener.accept().unwrap().0).await.unwrap();
        to.set_read_timeout(Some(SOON)).unwrap();
        Self { from, to }
    }

    /// Whether what is written at one end comes out at the other soon.
    fn carries(&mut self, byte: u8) -> bool {
        self.from.write_all(&[byte]).unwrap();
        let mut read = [0];
        self.to.read(&mut read).is_ok_and(|n| n == 1 && read[0] == byte)
    }

    /// What was written before it was healed comes at last.
    fn brings(&mut self, byte: u8) {
        self.to.set_read_timeout(Some(testkit::LIMIT)).unwrap();
        let mut read = [0];
        self.to.read_exact(&mut read).unwrap();
        assert_eq!(read[0], byte);
        self.to.set_read_timeout(Some(SOON)).unwrap();
    }
}

async fn listen(cluster: &Arc<Cluster>, host: &str) -> TcpListener {
    cluster.at(host, || TcpListener::bind("0.0.0.0:0").unwrap()).await
}

async fn dial(cluster: &Arc<Cluster>, from: &str, to: (String, u16)) -> std::io::Result<TcpStream> {
    let address = format!("{}:{}", to.0, to.1).parse().unwrap();
    cluster.at(from, move || TcpStream::connect_timeout(&address, SOON)).await
}

/// Nobody refuses: it is as if nobody were there.
async fn vanishes(cluster: &Arc<Cluster>, from: &str, to: &str) {
    let error = dial(cluster, from, (address(to), 5672)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{from} to {to}: {error}");
}

async fn reaches(cluster: &Arc<Cluster>, from: &str, to: &str) {
    dial(cluster, from, (address(to), 5672)).await.unwrap();
}

/// A process and all of its group, which ends by SIGKILL.
struct Group(Child);

impl Group {
    fn kill(&mut self) {
        let group = format!("-{}", self.0.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        self.0.wait().unwrap();
    }
}

impl Drop for Group {
    /// Where a test fails.
    fn drop(&mut self) {
        if self.0.try_wait().unwrap().is_none() {
            self.kill();
        }
    }
}

/// The processes whose environment names this folder.
fn processes_of(folder: &Path) -> Vec<String> {
    let name = folder.to_str().unwrap().as_bytes();
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let names_it = |pid: &String| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.windows(name.len()).any(|part| part == name)
    };
    pids.filter(|pid| pid.bytes().all(|c| c.is_ascii_digit())).filter(names_it).collect()
}

#[test]
fn three_nodes_are_one_cluster_and_outlive_one_that_is_killed_stopped_or_paused() {
    on_cluster(Setup::default(), async |cluster| {
        let connection = connect(&cluster.watching("n2")).await;
        let channel = connection.create_channel().await.unwrap();
        quorum_queue(&channel, "harness").await;
        let members = cluster.ctl("n1", &["list_queues", "name", "members"]).await;
        let row = members.lines().find(|line| line.starts_with("harness")).unwrap();
        for node in ["rabbit@n1", "rabbit@n2", "rabbit@n3"] {
            assert!(row.contains(node), "{members}");
        }

        // Its leader is where it was declared.
        publish(&channel, "harness").await;
        cluster.kill("n2").await;
        eventually("the connection has ended", async || (!connection.status().connected()).then_some(())).await;
        assert!(!takes_connections(&cluster.watching("n2")).await);
        assert_eq!(get(&cluster.watching("n1"), "harness").await.as_deref(), Some(&b"x"[..]));
        cluster.start_nodes("n2").await;
        let members = cluster.ctl("n2", &["cluster_status"]).await;
        assert!(members.contains("rabbit@n1") && members.contains("rabbit@n3"), "{members}");

        let started = cluster.log("n3").matches("Server startup complete").count();
        cluster.stop("n3").await;
        assert!(!takes_connections(&cluster.watching("n3")).await);
        cluster.start_nodes("n3").await;
        assert_eq!(cluster.log("n3").matches("Server startup complete").count(), started + 1);

        cluster.pause("n3").await;
        assert!(!takes_connections(&cluster.watching("n3")).await);
        assert!(takes_connections(&cluster.watching("n1")).await);
        cluster.resume("n3").await;
        eventually("it goes on", async || takes_connections(&cluster.watching("n3")).await.then_some(())).await;
    });
}

#[test]
fn what_is_sent_over_a_cut_vanishes_and_comes_when_it_is_healed() {
    on_cluster(Setup::default(), async |cluster| {
        let mut across = Line::open(cluster, "w1", "w2").await;
        let mut beside = Line::open(cluster, "w2", "w3").await;
        assert!(across.carries(b'a') && beside.carries(b'a'));
        // They know each other's link addresses from now on: nothing but the cut keeps them apart.
        for (from, to) in [("w1", "n2"), ("w2", "n1"), ("w4", "n2")] {
            reaches(cluster, from, to).await;
        }

        // Shorter than any node takes to notice it.
        cluster.partition("w1,n1 w2,w3,n2,n3").await;
        assert!(!across.carries(b'b') && beside.carries(b'b'));
        reaches(cluster, "w1", "n1").await;
        reaches(cluster, "w2", "n2").await;
        vanishes(cluster, "w1", "n2").await;
        vanishes(cluster, "w2", "n1").await;
        // In no group: it stayed with the first.
        reaches(cluster, "w4", "n1").await;
        vanishes(cluster, "w4", "n2").await;
        // The hub reaches everybody, and everybody the hub.
        let hub = TcpListener::bind((HUB, 0)).unwrap();
        let port = hub.local_addr().unwrap().port();
        for host in ["w1", "w2"] {
            dial(cluster, host, (HUB.to_owned(), port)).await.unwrap();
        }
        for node in ["n1", "n2"] {
            TcpStream::connect_timeout(&format!("{}:5672", watched(node)).parse().unwrap(), SOON).unwrap();
        }
        cluster.heal().await;
        across.brings(b'b');
        reaches(cluster, "w1", "n2").await;

        cluster.sever("w1", "w2").await;
        assert!(!across.carries(b'c') && beside.carries(b'c'));
        cluster.sever("w1", "n2").await;
        vanishes(cluster, "w1", "n2").await;
        reaches(cluster, "w1", "n3").await;
        cluster.join("w1", "n2").await;
        reaches(cluster, "w1", "n2").await;
        cluster.heal().await;
        across.brings(b'c');
        assert!(across.carries(b'd'));
    });
}

/// From 4.3 on no node pauses: what is replicated has no leader in the minority, and that is all.
#[test]
fn a_cut_is_noticed_the_smaller_side_pauses_and_all_is_well_again() {
    on_cluster(Setup::default(), async |cluster| {
        // What it has logged since: a test before this one may have parted them too.
        let [begun, other] = ["n1", "n2"].map(|node| cluster.log(node).len());
        let has_said = async |node: &str, words: &str| {
            let from = if node == "n1" { begun } else { other };
            eventually(&format!("{node}: {words}"), async || {
                cluster.log(node)[from..].replace('\'', "").contains(words).then_some(())
            })
            .await;
        };
        let pauses = cluster.version() < (4, 3);
        cluster.partition("n1 n2,n3,w1").await;
        let cut = Instant::now();
        has_said("n2", "node rabbit@n1 down").await;
        eprintln!("n2 gave n1 up after {:?}", cut.elapsed());
        // Healed before it has stopped, it would not come back: RabbitMQ's nodes do not like short cuts.
        has_said("n1", if pauses { "Successfully stopped RabbitMQ" } else { "node rabbit@n2 down" }).await;
        assert!(!pauses || !takes_connections(&cluster.watching("n1")).await);
        assert!(takes_connections(&cluster.watching("n2")).await);
        cluster.heal().await;
        has_said("n2", "node rabbit@n1 up").await;
        eventually("n1 is back", async || takes_connections(&cluster.watching("n1")).await.then_some(())).await;
    });
}

/// Of another cluster than the one of the other tests, which goes on beside it.
#[test]
fn nothing_is_left_after_a_kill_of_the_holder_and_other_clusters_go_on() {
    on_cluster(Setup::default(), async |cluster| {
        let folder = tempfile::tempdir().unwrap();
        // `sleep` holds the standard input of the script.
        let mut holder = Command::new("sh")
            .args(["-c", "sleep 1000 | \"$0\" serve"])
            .arg(script("cluster"))
            .env("TMPDIR", folder.path())
            .env_remove("RESETD_BROKER_ROOT") // its files would be there
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .map(Group)
            .unwrap();
        let mut answers = BufReader::new(holder.0.stdout.take().unwrap());
        let (mut answers, ready) = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            answers.read_line(&mut line).unwrap();
            (answers, line)
        })
        .await
        .unwrap();
        assert!(ready.starts_with("ready amqp://guest:guest@10.77.0.1:5672/%2f "), "{ready}");
        let theirs = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
        // As if a worker were there, which is a child of somebody else.
        let mut guest = Command::new(script("cluster"))
            .args(["on", theirs.to_str().unwrap(), "w1", "sleep", "1000"])
            .env("TMPDIR", folder.path())
            .spawn()
            .unwrap();
        eventually("it is there", async || {
            let name = std::fs::read_to_string(format!("/proc/{}/comm", guest.id())).unwrap();
            (name.trim() == "sleep").then_some(())
        })
        .await;
        assert!(processes_of(folder.path()).len() > 5, "{:?}", processes_of(folder.path()));
        assert!(!Path::new("/run/netns/n1").exists() && !Path::new("/etc/netns/n1").exists(), "seen from inside alone");

        let killed = Instant::now();
        holder.kill();
        eventually("the guest has ended", async || guest.try_wait().unwrap()).await;
        eventually("nothing is left", async || {
            let is_empty = std::fs::read_dir(&folder).unwrap().next().is_none();
            (is_empty && processes_of(folder.path()).is_empty()).then_some(())
        })
        .await;
        eprintln!("all was gone {:?} later", killed.elapsed());
        let mut rest = String::new();
        answers.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
        for node in ["n1", "n2", "n3"] {
            assert!(takes_connections(&cluster.watching(node)).await, "ours is not disturbed");
        }
    });
}

/// Without the right to make namespaces it says so by a code of its own.
#[test]
fn where_namespaces_cannot_be_made_it_says_so() {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]).arg(script("cluster")).arg("serve");
    let ended = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!((ended.status.code(), ended.stdout.as_slice()), (Some(77), &b""[..]), "{said}");
    assert!(said.starts_with("cluster: namespaces cannot be made here"), "{said}");
}
