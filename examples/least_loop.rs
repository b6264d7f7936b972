//! The yardstick for `crates/bench/tests/bench.rs`: the least loop that could be called a worker. No limiter, no retry, no ledger, no
//! dead letters, no log: a delivery, a PATCH, two confirmed publishes, an ack.
//!
//! `least_loop AMQP_URL PREFIX SCIM_URL TOKEN JOBS`

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use sha2::{Digest, Sha256};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, prefix, scim, token, jobs] = arguments.as_slice() else { anyhow::bail!("five arguments") };
    let consuming = Connection::connect(url, ConnectionProperties::default()).await?;
    let publishing = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = consuming.create_channel().await?;
    channel.basic_qos(64, BasicQosOptions::default()).await?;
    let queue = format!("{prefix}resets.main.bulk");
    let mut consumer =
        channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await?;
    let publisher = publishing.create_channel().await?;
    publisher.confirm_select(ConfirmSelectOptions::default()).await?;
    let http = reqwest::Client::new();
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..jobs.parse::<usize>()? {
        let Some(delivery) = consumer.next().await else { break };
        let (delivery, publisher, http) = (delivery?, publisher.clone(), http.clone());
        let (scim, token, prefix) = (scim.clone(), token.clone(), prefix.clone());
        running.spawn(async move {
            let job: serde_json::Value = serde_json::from_slice(&delivery.data)?;
            let user = job["userId"].as_str().unwrap_or_default();
            let password = hex::encode(rand::random::<[u8; 16]>());
            let hash = hex::encode(Sha256::digest(password.as_bytes()));
            let patch = serde_json::json!({"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
                "Operations": [{"op": "replace", "path": "password", "value": hash}]});
            let request = http.patch(format!("{scim}/Users/{user}")).bearer_auth(token);
            let request =
                request.header("content-type", "application/scim+json").header("accept", "application/scim+json");
            let answer = request.body(patch.to_string()).send().await?.error_for_status()?;
            answer.bytes().await?;
            let mail = serde_json::json!({"userId": user, "temporaryPassword": password}).to_string();
            let outcome = serde_json::json!({"userId": user, "outcome": "succeeded"}).to_string();
            for (exchange, key, body) in [("notifications", "email", mail), ("outcomes", "main.succeeded", outcome)] {
                let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
                let properties = BasicProperties::default().with_delivery_mode(2);
                let exchange = format!("{prefix}{exchange}");
                publisher
                    .basic_publish(exchange.into(), key.into(), options, body.as_bytes(), properties)
                    .await?
                    .await?;
            }
            delivery.ack(BasicAckOptions::default()).await?;
            anyhow::Ok(())
        });
        while let Some(done) = running.try_join_next() {
            done??;
        }
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(())
}
