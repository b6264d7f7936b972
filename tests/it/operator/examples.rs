//! The sample producers in `examples/`, run as a reader would run them.

use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::world::{Plan, World};

/// Runs a sample to its end.
async fn sample(language: &str, world: &World, prefix: &str) -> Output {
    let mut run = std::process::Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/samples"));
    run.args([language, "u-1", "u-1@example.com"]).stdin(Stdio::null());
    run.env("AMQP_URL", &world.amqp_url).env("AMQP_PREFIX", prefix);
    tokio::task::spawn_blocking(move || run.output().expect("scripts/samples runs")).await.unwrap()
}

/// It asks for a reset, and prints the outcome; where nobody takes jobs it fails and says so.
async fn asks_and_is_told(language: &str) {
    let world = Plan::new().start().await;
    let mut emails = world.tap("emails").await;
    let run = sample(language, &world, &world.prefix).await;
    let complaints = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "{language}: {complaints}");
    let outcome: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!((&outcome["outcome"], &outcome["scimResponse"]["id"]), (&json!("succeeded"), &json!("u-1")));
    let mail = emails.next().await.json();
    assert_eq!((&mail["jobId"], &mail["to"]), (&outcome["jobId"], &json!("u-1@example.com")));
    assert!(world.main().logs_in("u-1", mail["temporaryPassword"].as_str().unwrap()));

    let channel = world.channel().await;
    let (leads_nowhere, exchange) = (world.named("nowhere."), world.named("nowhere.resets"));
    let kind = lapin::ExchangeKind::Direct;
    channel.exchange_declare(exchange.as_str().into(), kind, Default::default(), Default::default()).await.unwrap();
    let run = sample(language, &world, &leads_nowhere).await;
    channel.exchange_delete(exchange.as_str().into(), Default::default()).await.unwrap();
    let complaints = String::from_utf8_lossy(&run.stderr);
    assert!(!run.status.success() && run.stdout.is_empty(), "{language}: {run:?}");
    assert!(complaints.contains("UnroutableError") || complaints.contains("no queue takes jobs"), "{complaints}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_producer_in_python_asks_for_a_reset_and_is_told_the_outcome() {
    asks_and_is_told("python").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_producer_in_node_asks_for_a_reset_and_is_told_the_outcome() {
    asks_and_is_told("node").await;
}
