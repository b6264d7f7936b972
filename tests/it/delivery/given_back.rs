//! When everything is given back, what was published already is not published once more.

use std::collections::BTreeMap;
use std::time::Duration;

use lapin::options::QueueBindOptions;
use lapin::types::FieldTable;

use crate::relay::Relay;
use crate::world::{Plan, Taken, World, eventually, exclusive, fault, locked_out, unlimited};

/// How long the broker's words take to the worker.
const LAG: Duration = Duration::from_millis(300);
const JOBS: usize = 150;

/// A queue that keeps every outcome; its name without the prefix.
async fn outcomes_kept(world: &World) -> &'static str {
    let (channel, name) = (world.channel().await, world.named("kept"));
    channel.queue_declare(name.as_str().into(), exclusive(), FieldTable::default()).await.unwrap();
    let (exchange, options) = (world.named("outcomes"), QueueBindOptions::default());
    let (queue, exchange) = (name.as_str().into(), exchange.as_str().into());
    channel.queue_bind(queue, exchange, "#".into(), options, FieldTable::default()).await.unwrap();
    "kept"
}

/// Those of which there is more than one, by a name.
fn more_than_once(taken: &[Taken], name: impl Fn(&Taken) -> String) -> Vec<(String, usize)> {
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    taken.iter().for_each(|one| *times.entry(name(one)).or_default() += 1);
    times.into_iter().filter(|(_, times)| *times > 1).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_its_confirm_when_all_is_given_back_is_published_once() {
    // Every fifth user is not there: a dead letter.
    let is_there = |n: &usize| !n.is_multiple_of(5);
    let users = (0..JOBS).filter(is_there).map(|n| format!("main-user-{n}")).collect();
    let org = sim::Settings { users: Some(users), ..unlimited() };
    let plan = Plan::new().org("main", org, "rate_per_minute = 6000");
    let mut world = plan.holding(Duration::from_secs(600), Duration::from_secs(1)).prepare().await;
    let relay = Relay::to(&world.amqp_url);
    world.amqp_url = relay.url().to_owned();
    world.start_worker().await;
    world.ready().await;
    let kept = outcomes_kept(&world).await;
    relay.lag_back(LAG);
    world.reset_many("main", JOBS).await;
    for calls in [30, 70, 110] {
        eventually("jobs are under way", async || (world.main().stats().calls >= calls).then_some(())).await;
        world.main().add_fault(fault("status=429,retry_after=2,next=1"));
    }
    eventually("all have ended", async || (world.depth(kept).await as usize >= JOBS).then_some(())).await;
    world.stop_worker().await.unwrap();
    assert!(world.main().stats().by_status["429"] > 0);
    let outcomes = world.drained(kept).await;
    let (mails, letters) = (world.drained("emails").await, world.drained("resets.main.dead").await);
    let of_job = |taken: &Taken| taken.json()["jobId"].as_str().unwrap().to_owned();
    let twice = (
        more_than_once(&outcomes, of_job),
        more_than_once(&mails, of_job),
        more_than_once(&letters, |letter| letter.id().to_owned()),
    );
    assert_eq!(twice, (vec![], vec![], vec![]), "outcomes, mails and dead letters");
    let there = (0..JOBS).filter(is_there).count();
    assert_eq!((outcomes.len(), mails.len(), letters.len()), (JOBS, there, JOBS - there));
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
}
