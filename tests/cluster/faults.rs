//! Nodes die and networks part while workers are at work.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use testkit::cluster::{Setup, on_cluster};
use testkit::eventually;

use crate::workers::{PER_MINUTE, REQUEST_TIMEOUT, Worker, keep_the_quota, longest_gap, look_by, roll, twice, world};
use crate::world::{nobody_is_locked_out, slow};

/// Enough for ten seconds at the full rate.
const JOBS: usize = 100;
/// As long as a call may be on its way until it is seen here, on a machine that is busy with other things.
const ON_ITS_WAY: Duration = Duration::from_secs(1);
/// For how long after its newest proof was sent a worker may still begin a call.
const FRESH: Duration = Duration::from_millis(1500);

#[test]
fn a_killed_node_that_no_worker_is_connected_to_costs_nothing() {
    on_cluster(Setup::default(), async |cluster| {
        let world = world(cluster, slow(), "n1").await;
        let first = Worker::started(cluster, &world, "w1", &["n1"], "active").await;
        let second = Worker::started(cluster, &world, "w2", &["n2"], "standby").await;
        let users = world.reset_many("main", JOBS).await;
        first.has_called(10).await;
        cluster.kill("n3").await;
        assert!(first.calls().len() < JOBS, "it was killed in the middle");
        nobody_is_locked_out(&world, &users).await;
        first.is("active").await;
        second.is("standby").await;
        assert_eq!((first.calls().len(), second.calls().len()), (JOBS, 0));
        assert_eq!(twice(&world, &users), 0);
        keep_the_quota(&world);
        eprintln!("n3 killed: the longest gap between two calls was {:?}", longest_gap(&[&first]));
    });
}

#[test]
fn after_a_kill_of_the_leaders_node_the_other_works() {
    on_cluster(Setup::default(), async |cluster| {
        let mut world = world(cluster, slow(), "n1").await;
        let first = Worker::started(cluster, &world, "w1", &["n1"], "active").await;
        let second = Worker::started(cluster, &world, "w2", &["n2"], "standby").await;
        let users = world.reset_many("main", JOBS).await;
        first.has_called(10).await;
        look_by(&mut world, cluster, "n3").await;
        cluster.kill("n1").await;
        let killed = Instant::now();
        let took = second.calls_after(killed).await - killed;
        eprintln!("{:?}: the leader's node was killed: the other's first call came {took:?} later", cluster.version());
        nobody_is_locked_out(&world, &users).await;
        // 4.3 lets the active consumer of a dead node go after 5 s.
        let most = if cluster.version() < (4, 3) { 8 } else { 12 };
        assert!(took <= Duration::from_secs(most), "{took:?}");
        keep_the_quota(&world);
    });
}

#[test]
fn a_rolling_restart_makes_no_long_gap() {
    on_cluster(Setup::default(), async |cluster| {
        let mut world = world(cluster, slow(), "n3").await;
        let first = Worker::started(cluster, &world, "w1", &["n1", "n2", "n3"], "active").await;
        let second = Worker::started(cluster, &world, "w2", &["n2", "n3", "n1"], "standby").await;
        let both = [&first, &second];
        let users = roll(cluster, &mut world, &both).await;
        nobody_is_locked_out(&world, &users).await;
        let gap = longest_gap(&both);
        eprintln!("rolling restart, two workers: the longest gap was {gap:?}");
        assert!(gap <= Duration::from_secs(4), "{gap:?}");
        assert_eq!(twice(&world, &users), 0);
        keep_the_quota(&world);
    });
}

#[test]
fn cut_off_with_the_minority_the_leader_stops_and_the_other_works() {
    on_cluster(Setup::default(), async |cluster| {
        let mut world = world(cluster, slow(), "n1").await;
        let first = Worker::started(cluster, &world, "w1", &["n1"], "active").await;
        let second = Worker::started(cluster, &world, "w2", &["n2"], "standby").await;
        let users = world.reset_many("main", 3 * JOBS).await;
        first.has_called(10).await;
        look_by(&mut world, cluster, "n3").await;
        let down = || cluster.log("n2").replace('\'', "").matches("node rabbit@n1 down").count();
        let before = down();
        cluster.partition("n1,w1 n2,n3,w2").await;
        let (cut, cut_at) = (Instant::now(), Timestamp::now());
        eventually("n2 has lost n1", async || (down() > before).then_some(())).await;
        let noticed = Instant::now();
        let next = second.calls_after(cut).await;
        let last = *first.calls().last().unwrap();
        let led = cut + Duration::try_from(second.took_over_at().duration_since(cut_at)).unwrap();
        let (brokers, ours) = (led.saturating_duration_since(noticed), next.saturating_duration_since(led));
        eprintln!(
            "cut: the leader's last call came {:?} later; n1 was given up {:?} later, and the other called {:?} after that",
            last.saturating_duration_since(cut),
            noticed - cut,
            next.saturating_duration_since(noticed),
        );
        eprintln!("of which {brokers:?} until it was elected, and {ours:?} of its own");
        cluster.heal().await;
        nobody_is_locked_out(&world, &users).await;
        assert!(last.saturating_duration_since(cut) <= FRESH + ON_ITS_WAY);
        assert!(last + REQUEST_TIMEOUT < next, "a call of one may still be in flight when the other calls");
        // 7 s until an attempt to reach the lost node is given up (`net_setuptime`).
        // On 4.3 a first record to the stream takes some seconds more (`docs/development/facts.md`).
        assert!(brokers <= Duration::from_secs(14), "{brokers:?}");
        // 5 s for the calls of the one before.
        assert!(ours <= Duration::from_millis(6_500), "{ours:?}");
        let twice = twice(&world, &users);
        // All calls of the time in which its proof still held, and those that were in flight.
        let unconfirmed = (FRESH.as_secs_f64() * f64::from(PER_MINUTE) / 60.0).ceil() as usize + 2;
        assert!(twice <= unconfirmed, "{twice} users were reset twice");
        keep_the_quota(&world);
    });
}
