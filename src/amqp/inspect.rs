//! Looking at the broker without changing anything: what exists and as what, which rights there are, who leads.
//!
//! Each question has a channel of its own, since a refusal, which is an answer here, closes the channel.

use std::time::Duration;

use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueDeclareOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ErrorKind, ExchangeKind};
use tokio::time::timeout;

use super::channels;
use super::error::{ANSWER, BrokerError, closing, explain, within};
use super::names::Names;
use super::topology::Thing;

/// How long an alarm's effect may take to show.
const ALARM: Duration = Duration::from_secs(3);
/// A routing key of the default exchange, where no queue has such a name.
const NOWHERE: &str = "resetd.check.nowhere";

/// How a thing stands at the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is not there.
    Missing,
    /// It is there as a worker declares it.
    AsDeclared,
    /// It is there as something else; in the broker's words.
    Differs(String),
    /// This user may not declare it. It is there all the same, but on RabbitMQ 4.3, where the right may be wanted to look.
    Forbidden,
}

/// A refusal of the broker's, and what it said.
struct Refused(AMQPSoftError, String);

/// What came of a question: an answer, or a refusal.
async fn ask<T>(
    connection: &Connection,
    what: &str,
    question: impl AsyncFnOnce(Channel) -> lapin::Result<T>,
) -> Result<Result<T, Refused>, BrokerError> {
    let channel = within(what, channels::open(connection)).await?;
    match timeout(ANSWER, question(channel.clone())).await {
        Ok(Ok(answer)) => {
            closing(channel.close(200, "bye".into())).await;
            Ok(Ok(answer))
        }
        Ok(Err(error)) => match soft(&error) {
            Some(refused) => Ok(Err(refused)),
            None => Err(explain(what, &error)),
        },
        Err(_) => Err(BrokerError::Retry(format!("{what}: the broker did not answer within {} s", ANSWER.as_secs()))),
    }
}

fn soft(error: &lapin::Error) -> Option<Refused> {
    let ErrorKind::ProtocolError(amqp) = error.kind() else { return None };
    match amqp.kind() {
        AMQPErrorKind::Soft(kind) => Some(Refused(kind.clone(), amqp.get_message().to_string())),
        AMQPErrorKind::Hard(_) => None,
    }
}

/// How a thing stands. What exists is declared once more as it should be: that changes nothing, and is refused where it is
/// another. Bindings cannot be seen.
///
/// # Errors
/// Where the broker is lost or does not answer.
pub async fn standing(connection: &Connection, thing: &Thing) -> Result<Standing, BrokerError> {
    let what = match thing {
        Thing::Exchange { name, .. } => format!("looking at exchange {name}"),
        Thing::Queue { name, .. } => format!("looking at queue {name}"),
        Thing::Binding { queue, .. } => format!("looking at the bindings of queue {queue}"),
    };
    let there = ask(connection, &what, async |channel| passively(&channel, thing).await).await?;
    match there {
        Ok(()) => {}
        Err(Refused(AMQPSoftError::NOTFOUND, _)) => return Ok(Standing::Missing),
        // 4.3.0 wants the right to configure even to look, later ones any right: `docs/development/facts.md#rights`.
        Err(Refused(AMQPSoftError::ACCESSREFUSED, _)) => return Ok(Standing::Forbidden),
        Err(Refused(_, said)) => return Ok(Standing::Differs(said)),
    }
    Ok(match ask(connection, &what, async |channel| thing.declare(&channel).await).await? {
        Ok(()) => Standing::AsDeclared,
        Err(Refused(AMQPSoftError::ACCESSREFUSED, _)) => Standing::Forbidden,
        Err(Refused(_, said)) => Standing::Differs(said),
    })
}

async fn passively(channel: &Channel, thing: &Thing) -> lapin::Result<()> {
    match thing {
        Thing::Exchange { name, .. } => {
            let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
            let kind = ExchangeKind::Direct;
            channel.exchange_declare(name.as_str().into(), kind, options, FieldTable::default()).await
        }
        Thing::Queue { name, .. } | Thing::Binding { queue: name, .. } => {
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await.map(drop)
        }
    }
}

/// Whether this user may publish to an exchange that exists. Asked by a message that can never be sent: it is refused, after the
/// right was looked at, since its expiration is no number.
///
/// # Errors
/// Where the broker is lost or does not answer.
pub async fn may_write(connection: &Connection, exchange: &str) -> Result<bool, BrokerError> {
    let what = format!("asking for the right to write to exchange {exchange:?}");
    let asked = ask(connection, &what, async |channel| {
        let options = BasicPublishOptions::default();
        let never = BasicProperties::default().with_expiration("never".into());
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        channel.basic_publish(exchange.into(), NOWHERE.into(), options, b"", never).await?.await
    });
    Ok(!matches!(asked.await?, Err(Refused(AMQPSoftError::ACCESSREFUSED, _))))
}

/// Whether this user may consume a queue that exists. Asked by a consumer that there can never be: it is refused, after the right
/// was looked at, since its priority is no number.
///
/// # Errors
/// Where the broker is lost or does not answer.
pub async fn may_read(connection: &Connection, queue: &str) -> Result<bool, BrokerError> {
    let what = format!("asking for the right to read queue {queue}");
    let asked = ask(connection, &what, async |channel| {
        let mut arguments = FieldTable::default();
        arguments.insert("x-priority".into(), AMQPValue::LongString("none".into()));
        channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), arguments).await.map(drop)
    });
    Ok(!matches!(asked.await?, Err(Refused(AMQPSoftError::ACCESSREFUSED, _))))
}

/// Whether a worker leads an org, or is about to: it consumes the leader queue, or holds the lease of release 0.1. Nothing is taken from it,
/// not even for a moment.
///
/// # Errors
/// Where the broker is lost or does not answer.
pub async fn is_led(connection: &Connection, names: &Names) -> Result<bool, BrokerError> {
    Ok(consumers(connection, &names.leader()).await?.is_none_or(|consumers| consumers > 0)
        || consumers(connection, &names.lease()).await? != Some(0))
}

/// How many consume a queue, none where it is missing; `None`: it is another connection's alone.
async fn consumers(connection: &Connection, queue: &str) -> Result<Option<u32>, BrokerError> {
    let what = format!("looking at queue {queue}");
    let asked = ask(connection, &what, async |channel| {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.into(), options, FieldTable::default()).await
    });
    match asked.await? {
        Ok(found) => Ok(Some(found.consumer_count())),
        Err(Refused(AMQPSoftError::NOTFOUND, _)) => Ok(Some(0)),
        Err(Refused(AMQPSoftError::RESOURCELOCKED, _)) => Ok(None),
        Err(Refused(_, said)) => Err(BrokerError::Retry(format!("{what}: {said}"))),
    }
}

/// Whether a resource alarm keeps the broker from taking messages. The connection is blocked from then on: it should be one of
/// its own.
///
/// # Errors
/// Where the broker is lost.
pub async fn is_blocked(connection: &Connection) -> Result<bool, BrokerError> {
    let what = "publishing what goes nowhere";
    let channel = within(what, channels::open(connection)).await?;
    within(what, channel.confirm_select(ConfirmSelectOptions::default())).await?;
    // The first one is taken, and only then the connection blocked.
    for _ in 0..2 {
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let sent = channel.basic_publish("".into(), NOWHERE.into(), options, b"", properties);
        match timeout(ALARM, async { sent.await?.await }).await {
            Ok(Ok(_)) => {}
            // One who may not write there learns that elsewhere.
            Ok(Err(_)) => return Ok(false),
            Err(_) => return Ok(true),
        }
    }
    closing(channel.close(200, "bye".into())).await;
    Ok(false)
}
