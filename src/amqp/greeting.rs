//! What a broker says of itself before anybody logs in (AMQP 0-9-1, section 4.2.2). lapin does not hand it on, so that it is read
//! on a connection of its own, which is closed then.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use lapin::tcp::{HandshakeError, TcpStream};
use lapin::types::parsing::parse_field_table;
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::{AMQPScheme, AMQPUri};

use super::addresses::{Address, Found, find};
use super::error::{ANSWER, BrokerError};
use super::tls;
use crate::config::amqp::{Amqp, Tls, place};

/// The protocol's header: its name and version.
const HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
/// Of the first frame: its kind, channel and length, before its content.
const FRAME: usize = 7;
/// In the content: class, method and two bytes of version, before the properties.
const METHOD: usize = 6;
/// The longest greeting that is read, in bytes.
const LONGEST: usize = 16 * 1024;
const NO_BROKER: &str = "what answers there is no AMQP 0-9-1 broker";
/// How long the network may take for any one step.
const STEP: Duration = Duration::from_secs(5);

/// Who the broker says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Such as `RabbitMQ`.
    pub product: String,
    /// Such as `3.13.7`.
    pub version: String,
}

/// What came of asking one address.
#[derive(Debug)]
pub struct Heard {
    /// Where it is.
    pub place: String,
    /// Whether it is this machine itself.
    pub is_loopback: bool,
    /// Which of the configured addresses it belongs to, by its number.
    pub nth: usize,
    /// What it said, or why it said nothing.
    pub said: Result<Greeting, BrokerError>,
}

/// Asks the broker at each address of the configuration by itself, all at the same time.
pub async fn greetings(amqp: &Amqp) -> Vec<Heard> {
    let Found { uris, addresses, unknown } = find(amqp).await;
    let asked = addresses.iter().map(async |address| Heard {
        place: address.label.clone(),
        is_loopback: address.socket.ip().is_loopback(),
        nth: address.nth,
        said: greeting_of(amqp, &uris[address.nth], address).await,
    });
    let mut heard = join_all(asked).await;
    heard.extend(unknown.into_iter().map(|(nth, why)| {
        let place = place(&uris[nth]);
        let said = Err(failed(&place, why));
        Heard { place, is_loopback: false, nth, said }
    }));
    heard.sort_by_key(|heard| heard.nth);
    heard
}

fn failed(place: &str, why: impl std::fmt::Display) -> BrokerError {
    BrokerError::Retry(format!("reaching the broker at {place}: {why}"))
}

/// Asks the broker at one address.
///
/// # Errors
/// Where nobody listens there, TLS fails, or what answers is no AMQP broker.
pub(super) async fn greeting_of(amqp: &Amqp, uri: &AMQPUri, address: &Address) -> Result<Greeting, BrokerError> {
    let place = &address.label;
    let (uri, tls, socket) = (uri.clone(), amqp.tls.clone(), address.socket);
    let asking = tokio::task::spawn_blocking(move || ask(&uri, socket, &tls));
    match tokio::time::timeout(ANSWER, asking).await {
        Ok(Ok(Ok(greeting))) => Ok(greeting),
        Ok(Ok(Err(error))) => Err(match tls::disagreement(&error) {
            Some(disagreement) => BrokerError::NeedsOperator(format!("reaching the broker at {place}: {disagreement}")),
            None => failed(place, error),
        }),
        Ok(Err(_)) => Err(failed(place, "it could not be asked")),
        Err(_) => Err(failed(place, format_args!("it did not answer within {} s", ANSWER.as_secs()))),
    }
}

fn ask(uri: &AMQPUri, socket: SocketAddr, tls: &Tls) -> io::Result<Greeting> {
    let mut stream = connected(uri, socket, tls)?;
    let asked = exchange(&mut stream);
    asked.map_err(|error| {
        let error = last_word(&mut stream, error);
        if tls::disagreement(&error).is_some() { error } else { io::Error::other(format!("{NO_BROKER}: {error}")) }
    })?
}

/// A connection for a thread that waits, without AMQP.
fn connected(uri: &AMQPUri, socket: SocketAddr, tls: &Tls) -> io::Result<TcpStream> {
    let stream = std::net::TcpStream::connect_timeout(&socket, STEP)?;
    stream.set_read_timeout(Some(STEP))?;
    let stream = TcpStream::from_std(stream)?;
    match uri.scheme {
        AMQPScheme::AMQP => Ok(stream),
        AMQPScheme::AMQPS => {
            stream.into_rustls(&tls::connector(tls)?, &uri.authority.host).map_err(|error| match error {
                HandshakeError::Failure(error) => error,
                HandshakeError::WouldBlock(_) => io::ErrorKind::TimedOut.into(),
            })
        }
    }
}

/// What the broker had to say, where it has closed the connection before we read that: it judges our certificate when the handshake is
/// over on our side (TLS 1.3), and what we write meanwhile finds nobody.
fn last_word(stream: &mut TcpStream, error: io::Error) -> io::Error {
    if let TcpStream::Rustls(stream) = stream {
        while let Ok(1..) = stream.conn.read_tls(&mut stream.sock) {
            if let Err(said) = stream.conn.process_new_packets() {
                return io::Error::new(io::ErrorKind::InvalidData, said);
            }
        }
    }
    error
}

/// The header there, and the first frame back.
fn exchange(stream: &mut (impl Read + Write)) -> io::Result<io::Result<Greeting>> {
    let no_broker = || Ok(Err(io::Error::other(NO_BROKER)));
    stream.write_all(HEADER)?;
    let mut read = |length: usize| {
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).map(|()| bytes)
    };
    let frame = read(FRAME)?;
    // Its kind is 1, a method; its channel 0.
    let [1, 0, 0, length @ ..] = frame.as_slice() else { return no_broker() };
    let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    if length > LONGEST {
        return no_broker();
    }
    parse(&read(length)?).map_or_else(no_broker, |greeting| Ok(Ok(greeting)))
}

/// The properties in the first method's content.
fn parse(content: &[u8]) -> Option<Greeting> {
    let (_, properties) = parse_field_table(content.get(METHOD..)?).ok()?;
    Some(Greeting { product: said(&properties, "product")?, version: said(&properties, "version")? })
}

fn said(properties: &FieldTable, name: &str) -> Option<String> {
    match properties.inner().get(name) {
        Some(AMQPValue::LongString(text)) => Some(text.to_string()),
        Some(_) | None => None,
    }
}
