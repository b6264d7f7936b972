//! A producer that never gives up: what was not confirmed is published again, under the same id.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation, Connection, ConnectionProperties};
use testkit::raw::{self, Producer};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::plan::Job;

/// As long as the broker may take for one thing.
const PATIENCE: Duration = Duration::from_secs(10);

/// Publishes each job at its time, one after the other. The ids of those that were published more than once, for want of a
/// confirm or on purpose.
pub async fn produce(url: &str, exchange: &str, jobs: &[Job], began: Timestamp, start: Instant) -> BTreeSet<String> {
    let (mut line, mut again) = (None, BTreeSet::new());
    for job in jobs {
        sleep_until(start + job.at).await;
        for copy in 0..job.copies() {
            if copy > 0 {
                again.insert(job.id.clone());
            }
            while publish(&mut line, url, exchange, job, began).await.is_none() {
                line = None;
                again.insert(job.id.clone());
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
    again
}

/// `None` where it may or may not have arrived.
async fn publish(
    line: &mut Option<(Connection, Channel)>,
    url: &str,
    exchange: &str,
    job: &Job,
    began: Timestamp,
) -> Option<()> {
    if let Some((body, properties)) = job.raw() {
        return timeout(PATIENCE, publish_raw(url, exchange, job.key, &body, &properties)).await.ok()?;
    }
    if line.is_none() {
        *line = Some(timeout(PATIENCE, connect(url)).await.ok()??);
    }
    let (_, channel) = line.as_ref()?;
    let (body, properties) = job.message(began);
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties = properties.with_delivery_mode(2);
    let sent = async {
        let confirm = channel.basic_publish(exchange.into(), job.key.into(), options, &body, properties).await.ok()?;
        confirm.await.ok()
    };
    (timeout(PATIENCE, sent).await.ok()?? == Confirmation::Ack(None)).then_some(())
}

/// Over a connection of its own.
async fn publish_raw(url: &str, exchange: &str, key: &str, body: &[u8], properties: &raw::Properties) -> Option<()> {
    let mut producer = Producer::try_connect(url).await.ok()?;
    producer.try_publish(exchange, key, body, properties).await.ok()
}

async fn connect(url: &str) -> Option<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.ok()?;
    let channel = connection.create_channel().await.ok()?;
    channel.confirm_select(ConfirmSelectOptions::default()).await.ok()?;
    Some((connection, channel))
}
