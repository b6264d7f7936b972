//! Opening a connection to whichever address of the cluster answers, and what is said where none does.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use futures_util::future::join_all;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties};
use tokio::time::{Duration, timeout};

use super::addresses::{Address, Found, find, first, ordered, patience};
use super::dial;
use super::error::{BrokerError, meaning, silence, unreadable};
use super::greeting::greeting_of;
use crate::config::amqp::{Amqp, place};

/// The heartbeat, in seconds: `docs/contract.md#at-the-broker`.
const HEARTBEAT: u16 = 10;
/// The largest frame, in bytes: the broker's own default. Less, and a job whose producer wrote long headers could not be taken.
/// Said at once, since lapin writes zeros over all of its buffers (16 MiB) when the broker's answer makes it grow them.
const FRAME_MAX: u32 = 128 * 1024;
/// How long a broker may take to say what it has against us.
const SAID: Duration = Duration::from_secs(2);

/// Opens one connection, beside another one if need be: to the same address, as long as that takes it. Else it begins with the one that
/// was used longest ago, or never.
///
/// # Errors
/// Where no address takes it: the text names all that were tried. Somebody must fix it only where that is so for each of them.
pub(super) async fn connect(
    amqp: &Amqp,
    name: &str,
    beside: Option<SocketAddr>,
) -> Result<(Connection, Address), BrokerError> {
    let Found { mut uris, addresses, unknown } = find(amqp).await;
    for uri in &mut uris {
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        uri.query.frame_max.get_or_insert(FRAME_MAX);
    }
    let addresses = ordered(addresses, &amqp.used.all(), beside);
    let open = async |address: &Address| {
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        dial::connect(uris[address.nth].clone(), address.socket, &amqp.tls, properties).await
    };
    let failed = match first(&addresses, patience(addresses.len()), open).await {
        Ok((address, connection)) => {
            amqp.used.note(address.socket);
            return Ok((connection, address.clone()));
        }
        Err(failed) => failed,
    };
    let why = failed.into_iter().map(async |(address, error)| {
        let why = error.map_or_else(silence, |error| meaning(&error));
        let why = last_word(amqp, &uris[address.nth], address, why).await;
        Failed { nth: address.nth, label: address.label.clone(), why }
    });
    let mut all = join_all(why).await;
    all.extend(unknown.into_iter().map(|(nth, why)| Failed {
        nth,
        label: place(&uris[nth]),
        why: BrokerError::Retry(why),
    }));
    all.sort_by_key(|failed| failed.nth);
    Err(trouble(&uris, all))
}

/// A broker that does not take our certificate says so and closes, and lapin may hear the second first. So it is asked once more.
async fn last_word(amqp: &Amqp, uri: &AMQPUri, address: &Address, why: BrokerError) -> BrokerError {
    let is_unclear = match &why {
        BrokerError::Retry(_) => uri.scheme == AMQPScheme::AMQPS,
        BrokerError::Missing(_) | BrokerError::NeedsOperator(_) | BrokerError::Misfit(_) => false,
    };
    if is_unclear
        && let Ok(Err(said @ BrokerError::NeedsOperator(_))) = timeout(SAID, greeting_of(amqp, uri, address)).await
    {
        return said;
    }
    why
}

/// What an address said.
struct Failed {
    nth: usize,
    label: String,
    why: BrokerError,
}

/// All of them as one. What must be fixed at one of a name's sockets must be so for the name, as its certificate; what must be at one
/// of several addresses may be that node's alone, and another that is down may be well tomorrow.
fn trouble(uris: &[AMQPUri], all: Vec<Failed>) -> BrokerError {
    let Some(uri) = uris.first() else { return unreadable() };
    let at = if uris.len() == 1 { format!(" at {}", place(uri)) } else { String::new() };
    let what =
        format!("connecting to the broker{at}, vhost {:?}, as user {:?}", uri.vhost, uri.authority.userinfo.username);
    let needs_operator: BTreeSet<usize> =
        all.iter().filter(|failed| failed.why.stays()).map(|failed| failed.nth).collect();
    if needs_operator.len() == uris.len() {
        return BrokerError::NeedsOperator(said(&all)).of(&what);
    }
    let are = if uris.len() == 1 { "amqp.url" } else { "are amqp.url and amqp.hosts" };
    BrokerError::Retry(format!("{}; is RabbitMQ running there, and {are} right?", said(&all))).of(&what)
}

/// What each said, those that said the same together. One alone needs no name.
fn said(all: &[Failed]) -> String {
    let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
    for Failed { label, why, .. } in all {
        let why = why.to_string();
        match reasons.iter_mut().find(|(other, _)| *other == why) {
            Some((_, labels)) => labels.push(label),
            None => reasons.push((why, vec![label])),
        }
    }
    match reasons.as_slice() {
        [(why, labels)] if labels.len() == 1 => why.clone(),
        reasons => {
            let each = reasons.iter().map(|(why, labels)| format!("{}: {why}", labels.join(", ")));
            each.collect::<Vec<_>>().join("; ")
        }
    }
}
