//! What a worker declares before it works: section 3 of the contract. Declaring changes nothing that exists and deletes nothing.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ExchangeKind};

use super::names::Names;
use super::trouble::{Trouble, closing, within};
use crate::domain::job::Lane;
use crate::domain::rung::Rung;

/// Deliveries before the broker itself dead-letters a job, as the last resort.
const DELIVERY_LIMIT: i32 = 20;
/// For queues that must never drop a message for its deliveries; 4.x would set 20.
const NO_LIMIT: i32 = 1_000_000;

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// Declares everything on a channel of its own, since a refusal closes the channel.
///
/// # Errors
/// Where one exists with other arguments or kind, or a right is missing: the text names it and what to do.
pub async fn declare_on(connection: &Connection, names: &Names) -> Result<(), Trouble> {
    let channel = within("opening a channel", connection.create_channel()).await?;
    declare(&channel, names).await?;
    closing(channel.close(200, "declared".into())).await;
    Ok(())
}

/// Declares everything, in an order in which nothing is bound before it exists.
async fn declare(channel: &Channel, names: &Names) -> Result<(), Trouble> {
    exchange(channel, &names.resets(), ExchangeKind::Direct).await?;
    exchange(channel, &names.notifications(), ExchangeKind::Direct).await?;
    exchange(channel, &names.outcomes(), ExchangeKind::Topic).await?;
    quorum(channel, &names.dead(), &[("x-delivery-limit", AMQPValue::LongInt(NO_LIMIT))]).await?;
    for lane in Lane::ALL {
        let arguments = [
            ("x-delivery-limit", AMQPValue::LongInt(DELIVERY_LIMIT)),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(&names.dead())),
            ("x-dead-letter-strategy", text("at-least-once")),
            ("x-overflow", text("reject-publish")),
        ];
        quorum(channel, &names.lane(lane), &arguments).await?;
        bind(channel, &names.lane(lane), &names.resets(), &names.lane_key(lane)).await?;
    }
    for rung in Rung::ALL {
        let ttl = i32::try_from(rung.wait().as_millis()).unwrap_or(i32::MAX);
        // No key: a job comes back to its own lane by its own.
        let arguments = [
            ("x-message-ttl", AMQPValue::LongInt(ttl)),
            ("x-dead-letter-exchange", text(&names.resets())),
            ("x-dead-letter-strategy", text("at-least-once")),
            ("x-overflow", text("reject-publish")),
        ];
        exchange(channel, &names.parked_exchange(rung), ExchangeKind::Direct).await?;
        quorum(channel, &names.parked(rung), &arguments).await?;
        for lane in Lane::ALL {
            bind(channel, &names.parked(rung), &names.parked_exchange(rung), &names.lane_key(lane)).await?;
        }
    }
    quorum(channel, &names.emails(), &[("x-delivery-limit", AMQPValue::LongInt(NO_LIMIT))]).await?;
    bind(channel, &names.emails(), &names.notifications(), "email").await?;
    quorum(channel, &names.emails_dead(), &[("x-delivery-limit", AMQPValue::LongInt(NO_LIMIT))]).await?;
    stream(channel, &names.ledger()).await?;
    bind(channel, &names.ledger(), &names.outcomes(), "#").await
}

async fn exchange(channel: &Channel, name: &str, kind: ExchangeKind) -> Result<(), Trouble> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    within(
        &format!("declaring exchange {name}"),
        channel.exchange_declare(name.into(), kind, options, FieldTable::default()),
    )
    .await
}

async fn quorum(channel: &Channel, name: &str, more: &[(&str, AMQPValue)]) -> Result<(), Trouble> {
    queue(channel, name, "quorum", more).await
}

async fn stream(channel: &Channel, name: &str) -> Result<(), Trouble> {
    let limits = [("x-max-age", text("7D")), ("x-stream-max-segment-size-bytes", AMQPValue::LongInt(20_000_000))];
    queue(channel, name, "stream", &limits).await
}

async fn queue(channel: &Channel, name: &str, kind: &str, more: &[(&str, AMQPValue)]) -> Result<(), Trouble> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text(kind));
    for (key, value) in more {
        arguments.insert((*key).into(), value.clone());
    }
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    within(&format!("declaring queue {name}"), channel.queue_declare(name.into(), options, arguments)).await.map(drop)
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> Result<(), Trouble> {
    let what = format!("binding queue {queue} to exchange {exchange} with key {key}");
    within(
        &what,
        channel.queue_bind(
            queue.into(),
            exchange.into(),
            key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        ),
    )
    .await
}
