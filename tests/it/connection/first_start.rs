//! The first start of all: nothing is declared yet, and the broker has never had a stream.

use crate::broker::Broker;
use crate::operator::process::{Process, readyz};
use crate::world::{Plan, eventually, unlimited};

/// Twice as many as declare at once.
const ORGS: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_with_many_orgs_on_an_empty_broker_loses_no_connection() {
    let node = tokio::task::spawn_blocking(Broker::private).await.unwrap();
    let mut plan = Plan::at(&node.url);
    for n in 0..ORGS {
        plan = plan.org(&format!("org{n}"), unlimited(), "");
    }
    let world = plan.prepare().await;
    let (mut worker, http) = Process::worker(&world).await;
    eventually("all orgs are worked", async || {
        let (_, said) = readyz(&http).await?;
        let orgs = said["orgs"].as_object()?;
        (orgs.len() == ORGS && orgs.values().all(|org| org["role"] == "active")).then_some(())
    })
    .await;
    let log = worker.stderr();
    let mut lost: Vec<&str> = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    // A busy machine may be late with a ping, which says nothing of a connection.
    let late = ["no call begins until one does", "no ping came back in time; the takeover starts over"];
    lost.retain(|line| !late.iter().any(|words| line.contains(words)));
    assert_eq!((log.matches("\"connected to ").count(), lost), (1, vec![]), "{log}");
    assert_eq!(worker.terminated().await.0, 0);
}
