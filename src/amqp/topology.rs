//! What a worker, and a mailer, declares before it works: `docs/contract.md#at-the-broker`. Declaring changes nothing that exists and
//! deletes nothing; and looking at a queue without declaring it.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ExchangeKind, Queue};

use super::channels;
use super::error::{BrokerError, closing, within};
use super::names::{EMAIL_KEY, Names};
use super::pings::EXPIRES;
use crate::domain::delay_tier::{DelayTier, Delays};
use crate::domain::job::Lane;

/// Deliveries before the broker itself dead-letters a job, as the last resort.
pub const DELIVERY_LIMIT: i32 = 20;
/// For queues that must never drop a message for its deliveries; 4.x would set 20.
const NO_LIMIT: i32 = 1_000_000;

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// One thing at the broker, as a worker declares it.
#[derive(Debug, Clone)]
pub enum Thing {
    /// A durable exchange.
    Exchange {
        /// Its name.
        name: String,
        /// How it routes.
        kind: ExchangeKind,
    },
    /// A durable queue.
    Queue {
        /// Its name.
        name: String,
        /// Its arguments, the queue's type among them.
        arguments: FieldTable,
    },
    /// What of an exchange's messages goes to a queue.
    Binding {
        /// The queue's name.
        queue: String,
        /// The exchange's name.
        exchange: String,
        /// The routing key.
        key: String,
    },
}

/// All of one org's things and those that all orgs share, in an order in which nothing is bound before it exists.
pub fn things(names: &Names, delays: &Delays) -> Vec<Thing> {
    let mut things = vec![
        leader(names.leader()),
        exchange(names.resets(), ExchangeKind::Direct),
        exchange(names.notifications(), ExchangeKind::Direct),
        exchange(names.outcomes(), ExchangeKind::Topic),
        quorum(names.dead(), &[("x-delivery-limit", AMQPValue::LongInt(NO_LIMIT))]),
    ];
    for lane in Lane::ALL {
        let arguments = [
            ("x-delivery-limit", AMQPValue::LongInt(DELIVERY_LIMIT)),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(&names.dead())),
            ("x-dead-letter-strategy", text("at-least-once")),
            ("x-overflow", text("reject-publish")),
        ];
        things.push(quorum(names.lane(lane), &arguments));
        things.push(binding(names.lane(lane), names.resets(), names.lane_key(lane)));
    }
    for tier in DelayTier::ALL {
        let ttl = i32::try_from(delays.of(tier).as_millis()).unwrap_or(i32::MAX);
        // No key: a job comes back to its own lane by its own.
        let arguments = [
            ("x-message-ttl", AMQPValue::LongInt(ttl)),
            ("x-dead-letter-exchange", text(&names.resets())),
            ("x-dead-letter-strategy", text("at-least-once")),
            ("x-overflow", text("reject-publish")),
        ];
        things.push(exchange(names.parked_exchange(tier), ExchangeKind::Direct));
        things.push(quorum(names.parked(tier), &arguments));
        let bound = |lane| binding(names.parked(tier), names.parked_exchange(tier), names.lane_key(lane));
        things.extend(Lane::ALL.map(bound));
    }
    things.extend(of_mails(names));
    things
}

/// What a mailer works with: those that it shares with the workers, and those of mails that wait.
pub fn mailers_things(names: &Names, delays: &Delays) -> Vec<Thing> {
    let mut things = vec![
        leader(names.emails_leader()),
        exchange(names.notifications(), ExchangeKind::Direct),
        exchange(names.outcomes(), ExchangeKind::Topic),
    ];
    things.extend(of_mails(names));
    for tier in DelayTier::ALL {
        let ttl = i32::try_from(delays.of(tier).as_millis()).unwrap_or(i32::MAX);
        let arguments = [
            ("x-message-ttl", AMQPValue::LongInt(ttl)),
            ("x-dead-letter-exchange", text(&names.notifications())),
            ("x-dead-letter-routing-key", text(EMAIL_KEY)),
            ("x-dead-letter-strategy", text("at-least-once")),
            ("x-overflow", text("reject-publish")),
        ];
        things.push(quorum(names.emails_parked(tier), &arguments));
    }
    things
}

/// The email queue, the dead mails and the stream of outcomes.
fn of_mails(names: &Names) -> [Thing; 5] {
    let limits = [("x-max-age", text("7D")), ("x-stream-max-segment-size-bytes", AMQPValue::LongInt(20_000_000))];
    [
        quorum(names.emails(), &[("x-delivery-limit", AMQPValue::LongInt(NO_LIMIT))]),
        binding(names.emails(), names.notifications(), EMAIL_KEY.to_owned()),
        quorum(names.emails_dead(), &[("x-delivery-limit", AMQPValue::LongInt(NO_LIMIT))]),
        queue(names.ledger(), "stream", &limits),
        binding(names.ledger(), names.outcomes(), "#".to_owned()),
    ]
}

/// A queue of pings, of whose consumers the broker makes one the active one: another, where that one's node is silent for so long.
fn leader(name: String) -> Thing {
    let millis = i32::try_from(EXPIRES.as_millis()).unwrap_or(i32::MAX);
    let arguments = [
        ("x-single-active-consumer", AMQPValue::Boolean(true)),
        ("x-message-ttl", AMQPValue::LongInt(millis)),
        ("x-consumer-disconnected-timeout", AMQPValue::LongInt(millis)),
    ];
    quorum(name, &arguments)
}

fn exchange(name: String, kind: ExchangeKind) -> Thing {
    Thing::Exchange { name, kind }
}

fn quorum(name: String, more: &[(&str, AMQPValue)]) -> Thing {
    queue(name, "quorum", more)
}

fn queue(name: String, kind: &str, more: &[(&str, AMQPValue)]) -> Thing {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text(kind));
    for (key, value) in more {
        arguments.insert((*key).into(), value.clone());
    }
    Thing::Queue { name, arguments }
}

fn binding(queue: String, exchange: String, key: String) -> Thing {
    Thing::Binding { queue, exchange, key }
}

/// Declares things on a channel of its own, since a refusal closes the channel.
///
/// # Errors
/// Where one exists with other arguments or kind, or a right is missing: the text names it and what to do.
pub async fn declare(connection: &Connection, things: &[Thing]) -> Result<(), BrokerError> {
    let channel = within("opening a channel", channels::open(connection)).await?;
    for thing in things {
        within(&thing.what(), thing.declare(&channel)).await?;
    }
    closing(channel.close(200, "declared".into())).await;
    Ok(())
}

impl Thing {
    /// Its name; of a binding that of its queue.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Exchange { name, .. } | Self::Queue { name, .. } | Self::Binding { queue: name, .. } => name,
        }
    }

    /// Whether it is a stream.
    pub(super) fn is_stream(&self) -> bool {
        match self {
            Self::Queue { arguments, .. } => arguments.inner().get("x-queue-type") == Some(&text("stream")),
            Self::Exchange { .. } | Self::Binding { .. } => false,
        }
    }

    /// What declaring it is called.
    fn what(&self) -> String {
        match self {
            Self::Exchange { name, .. } => format!("declaring exchange {name}"),
            Self::Queue { name, .. } => format!("declaring queue {name}"),
            Self::Binding { queue, exchange, key } => {
                format!("binding queue {queue} to exchange {exchange} with key {key}")
            }
        }
    }

    /// Declares it.
    ///
    /// # Errors
    /// Where it exists with other arguments or kind, or a right is missing.
    pub async fn declare(&self, channel: &Channel) -> lapin::Result<()> {
        match self {
            Self::Exchange { name, kind } => {
                let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
                channel.exchange_declare(name.as_str().into(), kind.clone(), options, FieldTable::default()).await
            }
            Self::Queue { name, arguments } => {
                let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
                channel.queue_declare(name.as_str().into(), options, arguments.clone()).await.map(drop)
            }
            Self::Binding { queue, exchange, key } => {
                let options = QueueBindOptions::default();
                let (queue, exchange) = (queue.as_str().into(), exchange.as_str().into());
                channel.queue_bind(queue, exchange, key.as_str().into(), options, FieldTable::default()).await
            }
        }
    }
}

/// How many messages lie ready in a queue, and how many consumers it has.
///
/// # Errors
/// Where it does not exist, which closes the channel, or the broker does not answer.
pub(super) async fn look_at(channel: &Channel, queue: &str) -> Result<Queue, BrokerError> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let looked = channel.queue_declare(queue.into(), options, FieldTable::default());
    within(&format!("looking at queue {queue}"), looked).await
}
