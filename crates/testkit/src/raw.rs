//! A producer that writes AMQP 0-9-1 by hand, for what no library lets a test send: text that is not UTF-8.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The frame types of AMQP 0-9-1, section 4.2.3.
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const END: u8 = 0xce;

/// The properties of a message that are short strings, with their flags (AMQP 0-9-1, class basic), in the order they are written in.
const TEXTS: [(&str, u16); 10] = [
    ("content_type", 1 << 15),
    ("content_encoding", 1 << 14),
    ("correlation_id", 1 << 10),
    ("reply_to", 1 << 9),
    ("expiration", 1 << 8),
    ("message_id", 1 << 7),
    ("type", 1 << 5),
    ("user_id", 1 << 4),
    ("app_id", 1 << 3),
    ("cluster_id", 1 << 2),
];
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;

/// The properties of one message, as bytes.
#[derive(Debug, Clone, Default)]
pub struct Properties {
    texts: Vec<(&'static str, Vec<u8>)>,
    headers: Vec<u8>,
}

impl Properties {
    /// Sets a property that is a short string, such as `message_id`; `type` is one too.
    pub fn text(mut self, name: &'static str, value: &[u8]) -> Self {
        assert!(TEXTS.iter().any(|(known, _)| *known == name), "{name} is no short string");
        self.texts.push((name, value.to_vec()));
        self
    }

    /// Adds a header whose value is a long string.
    pub fn header(mut self, name: &[u8], value: &[u8]) -> Self {
        self.headers.extend(short(name));
        self.headers.push(b'S');
        self.headers.extend(long(value));
        self
    }

    /// The flags, and then what they say is there, persistent always.
    fn written(&self) -> Vec<u8> {
        let mut flags = DELIVERY_MODE;
        let mut values = Vec::new();
        for (name, flag) in TEXTS {
            // Headers and delivery mode come between the second and the third of them.
            if name == "correlation_id" {
                if !self.headers.is_empty() {
                    flags |= HEADERS;
                    values.extend(long(&self.headers));
                }
                values.push(2);
            }
            if let Some((_, value)) = self.texts.iter().find(|(given, _)| *given == name) {
                flags |= flag;
                values.extend(short(value));
            }
        }
        [flags.to_be_bytes().to_vec(), values].concat()
    }
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// A connection with one channel, on which what is published is confirmed.
#[derive(Debug)]
pub struct Producer {
    stream: TcpStream,
}

impl Producer {
    /// Connects to a broker without TLS, such as `amqp://guest:guest@127.0.0.1:5672/%2f`.
    pub async fn connect(url: &str) -> Self {
        Self::try_connect(url).await.unwrap()
    }

    /// The same, where the broker may be away.
    ///
    /// # Errors
    /// Where it cannot be reached, or ends the connection.
    pub async fn try_connect(url: &str) -> io::Result<Self> {
        let url = reqwest::Url::parse(url).unwrap();
        let stream = TcpStream::connect((url.host_str().unwrap(), url.port().expect("the URL has a port"))).await?;
        let mut producer = Self { stream };
        producer.stream.write_all(b"AMQP\0\0\x09\x01").await?;
        producer.hears(10, 10).await?;
        let login = format!("\0{}\0{}", url.username(), url.password().unwrap_or_default());
        // No client properties.
        let mut start_ok = long(b"");
        start_ok.extend([short(b"PLAIN"), long(login.as_bytes()), short(b"en_US")].concat());
        producer.says(0, 10, 11, &start_ok).await?;
        let tune = producer.hears(10, 30).await?;
        // What the broker wishes, and no heartbeat.
        producer.says(0, 10, 31, &[&tune[..6], &[0, 0]].concat()).await?;
        let vhost = match url.path().trim_start_matches('/') {
            "" | "%2f" | "%2F" => "/",
            other => other,
        };
        producer.says(0, 10, 40, &[short(vhost.as_bytes()), short(b""), vec![0]].concat()).await?;
        producer.hears(10, 41).await?;
        producer.says(1, 20, 10, &short(b"")).await?;
        producer.hears(20, 11).await?;
        producer.says(1, 85, 10, &[0]).await?;
        producer.hears(85, 11).await?;
        Ok(producer)
    }

    /// Publishes a message, mandatory and persistent, and waits for its confirm.
    pub async fn publish(&mut self, exchange: &str, key: &str, body: &[u8], properties: &Properties) {
        self.try_publish(exchange, key, body, properties).await.unwrap();
    }

    /// The same, where the broker may go away.
    ///
    /// # Errors
    /// Where it was not confirmed: it came back, was refused, or the connection has ended. It may have arrived.
    pub async fn try_publish(
        &mut self,
        exchange: &str,
        key: &str,
        body: &[u8],
        properties: &Properties,
    ) -> io::Result<()> {
        let mandatory = 1;
        let place = [short(exchange.as_bytes()), short(key.as_bytes()), vec![mandatory]].concat();
        self.says(1, 60, 40, &[&[0, 0], place.as_slice()].concat()).await?;
        let size = u64::try_from(body.len()).unwrap().to_be_bytes();
        let header = [&[0, 60, 0, 0], size.as_slice(), &properties.written()].concat();
        self.writes(HEADER, 1, &header).await?;
        self.writes(BODY, 1, body).await?;
        // A message that comes back is a method 50, and none that this waits for.
        self.hears(60, 80).await?;
        Ok(())
    }

    async fn says(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) -> io::Result<()> {
        let payload = [&class.to_be_bytes(), method.to_be_bytes().as_slice(), arguments].concat();
        self.writes(METHOD, channel, &payload).await
    }

    async fn writes(&mut self, kind: u8, channel: u16, payload: &[u8]) -> io::Result<()> {
        let frame = [&[kind], channel.to_be_bytes().as_slice(), &long(payload), &[END]].concat();
        self.stream.write_all(&frame).await
    }

    /// The arguments of the next method, which must be this one.
    async fn hears(&mut self, class: u16, method: u16) -> io::Result<Vec<u8>> {
        loop {
            let (kind, payload) = tokio::time::timeout(crate::LIMIT, self.frame()).await??;
            if kind == HEARTBEAT {
                continue;
            }
            let expected = [class.to_be_bytes(), method.to_be_bytes()].concat();
            if kind != METHOD || payload.get(..4) != Some(expected.as_slice()) {
                let said = String::from_utf8_lossy(&payload);
                return Err(io::Error::other(format!("not method {class}.{method}: frame {kind}, {said:?}")));
            }
            return Ok(payload[4..].to_vec());
        }
    }

    async fn frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 7];
        self.stream.read_exact(&mut head).await?;
        let size = u32::from_be_bytes(head[3..].try_into().unwrap());
        let mut payload = vec![0; usize::try_from(size).unwrap() + 1];
        self.stream.read_exact(&mut payload).await?;
        assert_eq!(payload.pop(), Some(END));
        Ok((head[0], payload))
    }
}
