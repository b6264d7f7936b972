//! Rounds of chaos on a cluster: `CHAOS_NODES=3 make chaos`. In each, two workers are at work while nodes are killed, stopped and paused,
//! networks part, workers die or are stopped, and the org fails. What a round does is decided from the seed and its number alone, so one
//! that failed is run again with `CHAOS_FIRST`.

use std::sync::Arc;
use std::time::Duration;

use testkit::cluster::{Cluster, NODES, Setup, on_cluster_for};
use testkit::dice::Dice;
use testkit::eventually;
use testkit::process::role;
use tokio::time::{Instant, sleep};

use crate::harness::takes_connections;
use crate::workers::{Worker, have_called, keep_the_quota, look_by, twice, world};
use crate::world::{fault, nobody_is_locked_out, unlimited};

/// Of a round: more than can be done while it lasts.
const JOBS: usize = 150;
/// What a round may take, with a broker that needs its time to come together again.
const ROUND: Duration = Duration::from_secs(300);
/// Users that one fault may have reset twice at most: what was on its way, and not confirmed.
const TWICE: usize = 10;
const HOSTS: [&str; 2] = ["w1", "w2"];

/// What is done, and how long it lasts.
#[derive(Debug, Clone, Copy)]
enum Act {
    KillNode(&'static str),
    StopNode(&'static str),
    PauseNode(&'static str),
    /// This node and these workers on one side.
    Cut(&'static str, &'static [&'static str]),
    /// These two nodes hear nothing of each other, and the third hears both.
    Sever(&'static str, &'static str),
    KillWorker(usize),
    PauseWorker(usize),
    Org(&'static str),
}

fn act(dice: &mut Dice) -> Act {
    let node = dice.pick(&NODES);
    let sides: [&[&str]; 4] = [&[], &["w1"], &["w2"], &["w1", "w2"]];
    match dice.below(10) {
        0 | 1 => Act::KillNode(node),
        2 => Act::StopNode(node),
        3 => Act::PauseNode(node),
        4 | 5 => Act::Cut(node, dice.pick(&sides)),
        6 => Act::Sever(node, NODES[(NODES.iter().position(|other| *other == node).unwrap() + 1) % 3]),
        7 => Act::KillWorker(dice.below(2)),
        8 => Act::PauseWorker(dice.below(2)),
        _ => Act::Org(dice.pick(&["status=429,retry_after=2,next=5", "status=503,next=4", "cut,apply,next=3"])),
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: no number")))
}

async fn round_of(cluster: &Arc<Cluster>, dice: &mut Dice) {
    let began = Instant::now();
    let mut world = world(cluster, unlimited(), "n1").await;
    let mut workers = Vec::new();
    for host in HOSTS {
        workers.push(Worker::start(cluster, &world, host, &NODES).await);
    }
    both_are_well(&workers).await;
    let users = world.reset_many("main", JOBS).await;
    have_called(&workers.iter().collect::<Vec<_>>(), 5).await;
    let faults = 1 + dice.below(2);
    for _ in 0..faults {
        let (act, lasts) = (act(dice), dice.millis(2_000, 15_000));
        eprintln!("{:?} into it, for {lasts:?}: {act:?}", began.elapsed());
        perform(cluster, &world, &mut workers, act, lasts).await;
    }
    // Those that were parted, and did not come together by themselves.
    if !cluster.heals() {
        for node in NODES {
            cluster.stop(node).await;
            cluster.start_nodes(node).await;
        }
    }
    all_stay(cluster).await;
    both_are_well(&workers).await;
    look_by(&mut world, cluster, "n1").await;
    nobody_is_locked_out(&world, &users).await;
    let twice = twice(&world, &users);
    eprintln!("all {JOBS} done after {:?}, {twice} of them reset twice", began.elapsed());
    assert!(twice <= TWICE * faults, "{twice} users were reset twice");
    keep_the_quota(&world);
}

/// As long as nodes take to find out that they were parted, and to pause for it: after the heal, where only two of them were.
const FINDS_OUT: Duration = Duration::from_secs(10);

async fn all_stay(cluster: &Cluster) {
    let mut since = Instant::now();
    eventually("all nodes take connections, and go on to", async || {
        for node in NODES {
            if !takes_connections(&cluster.watching(node)).await {
                since = Instant::now();
            }
        }
        sleep(Duration::from_millis(200)).await;
        (since.elapsed() >= FINDS_OUT).then_some(())
    })
    .await;
}

async fn both_are_well(workers: &[Worker]) {
    eventually("one leads and the other stands by", async || {
        let roles = [role(&workers[0].http).await, role(&workers[1].http).await];
        let mut roles: Vec<&str> = roles.iter().flatten().map(String::as_str).collect();
        roles.sort_unstable();
        (roles == ["active", "standby"]).then_some(())
    })
    .await;
}

async fn perform(
    cluster: &Arc<Cluster>,
    world: &crate::world::World,
    workers: &mut [Worker],
    act: Act,
    lasts: Duration,
) {
    match act {
        Act::KillNode(node) => {
            cluster.kill(node).await;
            sleep(lasts).await;
            cluster.start_nodes(node).await;
        }
        Act::StopNode(node) => {
            cluster.stop(node).await;
            sleep(lasts).await;
            cluster.start_nodes(node).await;
        }
        Act::PauseNode(node) => {
            cluster.pause(node).await;
            sleep(lasts).await;
            cluster.resume(node).await;
        }
        Act::Cut(node, side) => {
            let together = |hosts: Vec<&str>| hosts.join(",");
            let one: Vec<&str> = [node].into_iter().chain(side.iter().copied()).collect();
            let other: Vec<&str> = NODES.into_iter().chain(HOSTS).filter(|host| !one.contains(host)).collect();
            cluster.partition(&format!("{} {}", together(one), together(other))).await;
            // Nodes do not like it when a cut ends just as they notice it.
            sleep(lasts.max(Duration::from_secs(12))).await;
            cluster.heal().await;
        }
        Act::Sever(one, other) => {
            cluster.sever(one, other).await;
            sleep(lasts.max(Duration::from_secs(12))).await;
            cluster.heal().await;
        }
        Act::KillWorker(nth) => {
            workers[nth].process.kill().await;
            sleep(lasts).await;
            workers[nth] = Worker::start(cluster, world, HOSTS[nth], &NODES).await;
        }
        Act::PauseWorker(nth) => {
            workers[nth].process.signal("STOP");
            sleep(lasts).await;
            workers[nth].process.signal("CONT");
        }
        Act::Org(text) => world.main().add_fault(fault(text)),
    }
}

#[test]
#[ignore = "minutes: CHAOS_NODES=3 make chaos"]
fn two_workers_on_a_cluster_lose_nobody_and_never_call_at_once_while_everything_breaks() {
    let (seed, first, rounds) = (number("CHAOS_SEED", 1), number("CHAOS_FIRST", 0), number("CHAOS_ROUNDS", 20));
    let partition_handling = match std::env::var("CHAOS_PARTITION").as_deref() {
        Ok("ignore") => "ignore",
        _ => "pause_minority",
    };
    for round in first..first + rounds {
        eprintln!(
            "to repeat: CHAOS_NODES=3 CHAOS_SEED={seed} CHAOS_FIRST={round} CHAOS_ROUNDS=1 CHAOS_PARTITION={partition_handling} make chaos"
        );
        let mut dice = Dice::new(seed, round);
        on_cluster_for(ROUND, Setup { partition_handling, ..Setup::default() }, async |cluster| {
            round_of(cluster, &mut dice).await;
        });
    }
}
