//! What takes a minute or more, or is measured: `make test-brokers` runs it on each RabbitMQ.

use std::time::{Duration, Instant};

use testkit::cluster::{NODES, Setup, on_cluster, on_cluster_for};
use testkit::eventually;
use tokio::time::sleep_until;

use crate::workers::{
    REQUEST_TIMEOUT, Worker, keep_a_quota, keep_the_quota, longest_gap, look_by, roll, twice, world, world_at,
};
use crate::world::{nobody_is_locked_out, slow};

/// The quota of an org that says nothing of it, in calls a minute.
const DEFAULT_QUOTA: u32 = 300;

/// 300 jobs at once, and the leader in the minority for two minutes.
fn cut_for_two_minutes(setup: Setup) {
    on_cluster_for(Duration::from_secs(500), setup, async |cluster| {
        let mut world = world_at(cluster, slow(), "n1", DEFAULT_QUOTA).await;
        let first = Worker::started(cluster, &world, "w1", &["n1"], "active").await;
        let second = Worker::started(cluster, &world, "w2", &["n2"], "standby").await;
        let mut users = world.reset_many("main", 300).await;
        first.has_called(20).await;
        cluster.partition("n1,w1 n2,n3,w2").await;
        let cut = Instant::now();
        look_by(&mut world, cluster, "n2").await;
        let next = second.calls_after(cut).await;
        let last = *first.calls().last().unwrap();
        users.extend(world.reset_range("main", 300..700).await);
        sleep_until((cut + Duration::from_secs(120)).into()).await;
        assert_eq!(first.calls().last(), Some(&last), "it was cut off, and called");
        cluster.heal().await;
        if cluster.version() < (4, 3) && !cluster.heals() {
            // Who stays in its partition does so until somebody decides for it.
            cluster.stop("n1").await;
            cluster.start_nodes("n1").await;
        }
        eventually("both are well", async || {
            let roles = [testkit::process::role(&first.http).await, testkit::process::role(&second.http).await];
            roles.iter().all(|role| matches!(role.as_deref(), Some("active" | "standby"))).then_some(())
        })
        .await;
        users.extend(world.reset_range("main", 700..750).await);
        nobody_is_locked_out(&world, &users).await;
        let twice = twice(&world, &users);
        eprintln!(
            "{:?} {}: cut for 120 s: the leader's last call came {:?} later, the other's first {:?}; {twice} of {} reset twice",
            cluster.version(),
            cluster.partition_handling(),
            last.saturating_duration_since(cut),
            next - cut,
            users.len(),
        );
        assert!(last + REQUEST_TIMEOUT < next, "a call of one may still be in flight when the other calls");
        assert!(twice <= 10, "{twice} users were reset twice");
        keep_a_quota(&world, DEFAULT_QUOTA);
    });
}

#[test]
#[ignore = "a figure: make test-brokers"]
fn after_a_kill_of_its_node_a_lone_worker_goes_on_by_another() {
    on_cluster(Setup::default(), async |cluster| {
        let mut world = world(cluster, slow(), "n1").await;
        let worker = Worker::started(cluster, &world, "w1", &NODES, "active").await;
        let users = world.reset_many("main", 200).await;
        worker.has_called(10).await;
        let node = worker.node();
        let other = NODES.into_iter().find(|other| *other != node).unwrap();
        look_by(&mut world, cluster, other).await;
        cluster.kill(node).await;
        let killed = Instant::now();
        let took = worker.calls_after(killed + REQUEST_TIMEOUT / 4).await - killed;
        eprintln!("{:?}: a lone worker's node was killed: its next call came {took:?} later", cluster.version());
        nobody_is_locked_out(&world, &users).await;
        let most = if cluster.version() < (4, 3) { 3 } else { 8 };
        assert!(took <= Duration::from_secs(most), "{took:?}");
        keep_the_quota(&world);
    });
}

#[test]
#[ignore = "a figure: make test-brokers"]
fn a_rolling_restart_makes_no_long_gap_for_a_lone_worker() {
    on_cluster(Setup::default(), async |cluster| {
        let mut world = world(cluster, slow(), "n3").await;
        let worker = Worker::started(cluster, &world, "w1", &NODES, "active").await;
        let users = roll(cluster, &mut world, &[&worker]).await;
        nobody_is_locked_out(&world, &users).await;
        let gap = longest_gap(&[&worker]);
        eprintln!("{:?}: rolling restart, a lone worker: the longest gap was {gap:?}", cluster.version());
        assert!(gap <= Duration::from_secs(3), "{gap:?}");
        assert_eq!(twice(&world, &users), 0);
        keep_the_quota(&world);
    });
}

#[test]
#[ignore = "a figure: make test-brokers"]
fn after_the_leaders_end_the_other_works_as_soon_as_it_may() {
    on_cluster(Setup::default(), async |cluster| {
        let world = world(cluster, slow(), "n1").await;
        let mut first = Worker::started(cluster, &world, "w1", &["n1"], "active").await;
        let mut second = Worker::started(cluster, &world, "w2", &["n2"], "standby").await;
        let users = world.reset_many("main", 300).await;
        first.has_called(10).await;
        first.process.kill().await;
        let ended = Instant::now();
        let after_kill = second.calls_after(ended).await - ended;
        let third = Worker::started(cluster, &world, "w3", &["n3"], "standby").await;
        second.process.signal("TERM");
        let second_ended = Instant::now();
        let next = third.calls_after(second_ended).await;
        second.process.ended().await;
        // What was in flight ends first: the gap is from the last call of the one to the first of the other.
        let after_sigterm = next - second.calls().into_iter().filter(|call| *call < next).max().unwrap();
        eprintln!("{:?}: next call {after_kill:?} after SIGKILL, {after_sigterm:?} after SIGTERM", cluster.version());
        nobody_is_locked_out(&world, &users).await;
        assert!(after_kill <= REQUEST_TIMEOUT + Duration::from_millis(3_500), "{after_kill:?}");
        // Beside the 0.5 s a call of the quota's own pace.
        assert!(after_sigterm <= Duration::from_millis(600), "{after_sigterm:?}");
        // What a killed process had not said.
        assert!(twice(&world, &users) <= 2);
        keep_the_quota(&world);
    });
}

#[test]
#[ignore = "minutes: make test-brokers"]
fn in_a_cut_of_two_minutes_few_are_reset_twice() {
    cut_for_two_minutes(Setup::default());
}

#[test]
#[ignore = "minutes: make test-brokers"]
fn in_a_cut_of_two_minutes_that_the_nodes_ignore_few_are_reset_twice() {
    cut_for_two_minutes(Setup { partition_handling: "ignore", ..Setup::default() });
}
