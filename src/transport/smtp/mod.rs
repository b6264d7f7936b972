//! Delivery to a mail server: a few connections, each a dialogue of lettre's, and one transaction for each mail.
//!
//! lettre's own pool is not used. It takes a connection back wherever in a dialogue its user gave up, so that a mail that was given up
//! by a time limit would leave its recipient to the next one; here only a connection whose transaction has ended is used again.

mod classify;
mod dial;
mod lines;
mod message;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail as MailFrom, Quit, Rcpt, Rset};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use lettre::transport::smtp::response::Response;
use secrecy::ExposeSecret;
use tokio::net::lookup_host;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use self::classify::{SmtpError, Stage, classify};
use self::dial::{dial, share};
use self::lines::Lines;
use self::message::SmtpMessage;
use super::delivery::{Delivered, Mail, Transport, Undelivered, untrusted};
use crate::config::ConfigError;
use crate::config::mailer::{self, Tls};
use crate::domain::failure::root;

pub use message::Unsendable;
pub(super) use message::bytes;

/// A connection that nobody used for this long is closed: most servers would close it soon.
const IDLE: Duration = Duration::from_secs(30);
/// So many times `mailer.timeout` a whole delivery may take: a server that looks long at a mail before it takes it would get it twice
/// if it were given up too soon (RFC 5321, section 4.5.3.2.6, would wait for 10 minutes).
const PATIENCE: u32 = 3;

const NEEDS_UTF8: &str = "the address has characters outside ASCII before the @; that takes a mail server with SMTPUTF8 (RFC 6531), and this one has it not";

/// The mail server, and the connections to it.
pub(super) struct Smtp {
    server: mailer::Smtp,
    hello: ClientId,
    tls: Option<TlsParameters>,
    credentials: Option<Credentials>,
    /// For one step.
    timeout: Duration,
    room: Arc<Semaphore>,
    idle: Mutex<VecDeque<(Instant, Line)>>,
}

/// One connection.
struct Line(AsyncSmtpConnection);

impl std::fmt::Debug for Smtp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Smtp({}:{})", self.server.host, self.server.port)
    }
}

type Failed = (Stage, SmtpError);

impl Transport for Smtp {
    fn longest(&self) -> Duration {
        self.timeout * PATIENCE
    }

    fn secrets(&self) -> Vec<&str> {
        self.server.login.iter().map(|login| login.password.expose_secret()).collect()
    }

    /// Waits until a connection is free, or may be opened.
    fn room(&self) -> BoxFuture<'_, Option<OwnedSemaphorePermit>> {
        Box::pin(async { Arc::clone(&self.room).acquire_owned().await.ok() })
    }

    /// Sends one mail, once, by a connection that [`Transport::room`] was waited for.
    fn deliver<'a>(&'a self, mail: &'a Mail) -> BoxFuture<'a, Result<Delivered, Undelivered>> {
        Box::pin(async {
            let letter = SmtpMessage::of(mail, &self.server.from, SystemTime::now())
                .map_err(|unsendable| Undelivered::Never { detail: unsendable.to_string(), status: None })?;
            match timeout(self.longest(), self.send(&letter)).await {
                Ok(sent) => sent,
                Err(_) => Err(classify(Stage::Text, SmtpError::TimedOut)),
            }
        })
    }

    /// As the protocol wants it.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            while let Some(mut line) = self.take() {
                let _ = timeout(self.timeout.min(Duration::from_secs(1)), line.0.command(Quit)).await;
            }
        })
    }
}

impl Smtp {
    pub(super) fn new(server: &mailer::Smtp, timeout: Duration) -> Result<Self, ConfigError> {
        let tls = match server.tls {
            Tls::Off => None,
            Tls::Required | Tls::Wrapper => Some(parameters(server)?),
        };
        let login = server.login.as_ref();
        Ok(Self {
            hello: ClientId::Domain(server.hello_name.clone()),
            tls,
            credentials: login
                .map(|login| Credentials::new(login.user.clone(), login.password.expose_secret().to_owned())),
            timeout,
            room: Arc::new(Semaphore::new(server.pool.into())),
            idle: Mutex::default(),
            server: server.clone(),
        })
    }

    async fn send(&self, letter: &SmtpMessage) -> Result<Delivered, Undelivered> {
        // A connection that was idle may have been closed by the server long since, which shows at the first command: nothing of the
        // mail was said then, and another one is taken.
        while let Some(mut line) = self.take() {
            match self.begin(&mut line, letter).await {
                Ok(()) => return self.finish(line, letter).await,
                Err((_, SmtpError::Lost(_) | SmtpError::Reply { code: 421, .. })) => {}
                Err(failed) => return Err(self.end(line, failed).await),
            }
        }
        let mut line = self.opened().await.map_err(|(stage, trouble)| classify(stage, trouble))?;
        match self.begin(&mut line, letter).await {
            Ok(()) => self.finish(line, letter).await,
            Err(failed) => Err(self.end(line, failed).await),
        }
    }

    /// lettre 0.11.23 panics at an answer to EHLO of which a line is nothing but blanks (`ServerInfo::from_response`). That is the server's
    /// fault, and costs this mail a try.
    async fn opened(&self) -> Result<Line, Failed> {
        let unreadable = |_| Err((Stage::Opening, SmtpError::Lost("its answer to EHLO cannot be read".into())));
        AssertUnwindSafe(self.open()).catch_unwind().await.unwrap_or_else(unreadable)
    }

    async fn open(&self) -> Result<Line, Failed> {
        let stage = Stage::Opening;
        let limited = timeout(self.timeout, self.connect()).await.unwrap_or(Err(SmtpError::TimedOut));
        let mut connection = limited.map_err(|trouble| (stage, trouble))?;
        if let (Tls::Required, Some(tls)) = (self.server.tls, &self.tls) {
            if !connection.can_starttls() {
                return Err((stage, SmtpError::NotOffered("STARTTLS, and mailer.smtp.tls is \"required\"")));
            }
            let upgraded = timeout(self.timeout, connection.starttls(tls.clone(), &self.hello)).await;
            upgraded
                .map_or(Err(SmtpError::TimedOut), |done| done.map_err(opening))
                .map_err(|trouble| (stage, trouble))?;
        }
        if let Some(credentials) = &self.credentials {
            if connection.server_info().get_auth_mechanism(DEFAULT_MECHANISMS).is_none() {
                return Err((
                    Stage::Login,
                    SmtpError::NotOffered("a login by PLAIN or LOGIN, and mailer.smtp.user is set"),
                ));
            }
            let login = timeout(self.timeout, connection.auth(DEFAULT_MECHANISMS, credentials)).await;
            login
                .map_or(Err(SmtpError::TimedOut), |said| said.map_err(trouble))
                .map_err(|trouble| (Stage::Login, trouble))?;
        }
        Ok(Line(connection))
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, SmtpError> {
        let lost = |error: std::io::Error| SmtpError::Lost(error.to_string());
        let found = lookup_host((self.server.host.as_str(), self.server.port)).await.map_err(lost)?;
        let addresses: Vec<SocketAddr> = found.collect();
        let share = share(self.timeout, addresses.len());
        if let (Tls::Wrapper, Some(tls)) = (self.server.tls, &self.tls) {
            let connection = AsyncSmtpConnection::connect_tokio1(
                addresses.as_slice(),
                Some(share),
                &self.hello,
                Some(tls.clone()),
                None,
            );
            return connection.await.map_err(opening);
        }
        let stream = dial(&addresses, share).await.map_err(lost)?;
        let _ = stream.set_nodelay(true);
        AsyncSmtpConnection::connect_with_transport(Box::new(Lines(stream)), &self.hello).await.map_err(opening)
    }

    /// Everything up to the mail itself.
    async fn begin(&self, line: &mut Line, letter: &SmtpMessage) -> Result<(), Failed> {
        let info = line.0.server_info();
        let mut wishes = Vec::new();
        let sender = if letter.needs_utf8() { Stage::SenderInUtf8 } else { Stage::Sender };
        if letter.needs_utf8() {
            if !info.supports_feature(Extension::SmtpUtfEight) {
                return Err((sender, SmtpError::Unable(NEEDS_UTF8)));
            }
            wishes = vec![MailParameter::SmtpUtfEight, MailParameter::Body(MailBodyParameter::EightBitMime)];
        }
        let from = MailFrom::new(Some(self.server.from.email.clone()), wishes);
        self.ask(line, sender, from, 200..=299).await?;
        self.ask(line, Stage::Recipient, Rcpt::new(letter.to.clone(), vec![]), 200..=299).await?;
        self.ask(line, Stage::Data, Data, 354..=354).await
    }

    /// The mail itself, and the server's word that it answers for it.
    async fn finish(&self, mut line: Line, letter: &SmtpMessage) -> Result<Delivered, Undelivered> {
        // Not limited by the time for one step: see `PATIENCE`.
        let failed = match line.0.message(&letter.bytes).await {
            Ok(said) => match wanted(&said, &(200..=299)) {
                Ok(status) => {
                    self.keep(line);
                    return Ok(Delivered { status });
                }
                Err(trouble) => trouble,
            },
            Err(error) => trouble(error),
        };
        Err(self.end(line, (Stage::Text, failed)).await)
    }

    async fn ask(
        &self,
        line: &mut Line,
        stage: Stage,
        command: impl std::fmt::Display,
        codes: std::ops::RangeInclusive<u16>,
    ) -> Result<(), Failed> {
        let said = match timeout(self.timeout, line.0.command(command)).await {
            Ok(said) => said.map_err(trouble),
            Err(_) => Err(SmtpError::TimedOut),
        };
        said.and_then(|said| wanted(&said, &codes)).map(|_| ()).map_err(|trouble| (stage, trouble))
    }

    /// A transaction that failed. Its connection is used again where the server has put everything back.
    async fn end(&self, mut line: Line, (stage, trouble): Failed) -> Undelivered {
        if trouble.leaves_connection() && self.ask(&mut line, stage, Rset, 200..=299).await.is_ok() {
            self.keep(line);
        }
        classify(stage, trouble)
    }

    fn take(&self) -> Option<Line> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, _)| since.elapsed() < IDLE);
        idle.pop_back().map(|(_, line)| line)
    }

    fn keep(&self, line: Line) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push_back((Instant::now(), line));
    }
}

fn parameters(server: &mailer::Smtp) -> Result<TlsParameters, ConfigError> {
    let mut builder = TlsParameters::builder(server.host.clone());
    if let Some(path) = &server.ca_file {
        let wants = "the path of a readable file with certificates in PEM";
        let wrong = |why: &dyn std::fmt::Display| {
            ConfigError::wrong("mailer.smtp.ca_file", format_args!("{path:?} ({why})"), wants)
        };
        let pem = std::fs::read(path).map_err(|error| wrong(&error))?;
        if !pem.windows(10).any(|bytes| bytes == b"-----BEGIN") {
            return Err(wrong(&"it holds none"));
        }
        let authority = Certificate::from_pem(&pem).map_err(|error| wrong(&error))?;
        builder = builder.certificate_store(CertificateStore::None).add_root_certificate(authority);
    }
    builder.build().map_err(|error| {
        ConfigError::new(format!(
            "mailer.smtp: TLS cannot be set up: {error}; are CA certificates installed (Debian: apt-get install ca-certificates)?"
        ))
    })
}

/// The code, where it is one of those that were asked for.
fn wanted(said: &Response, codes: &std::ops::RangeInclusive<u16>) -> Result<u16, SmtpError> {
    let code = u16::from(said.code());
    if codes.contains(&code) {
        return Ok(code);
    }
    Err(SmtpError::Reply { code, text: said.message().collect::<Vec<_>>().join(" ") })
}

/// What a mail server says where a recipient is named: the code where it takes them, or what follows. `None`: that is no whole reply.
/// For the fuzz targets, which have no server.
pub fn at_the_recipient(reply: &str) -> Option<Result<u16, Undelivered>> {
    let said: Response = reply.parse().ok()?;
    Some(wanted(&said, &(200..=299)).map_err(|trouble| classify(Stage::Recipient, trouble)))
}

/// What an error of the library is.
fn trouble(error: Error) -> SmtpError {
    match error.status() {
        Some(code) => SmtpError::Reply { code: code.into(), text: root(&error) },
        None => SmtpError::Lost(root(&error)),
    }
}

/// The same while a connection is opened: there a disagreement about TLS shows.
fn opening(error: Error) -> SmtpError {
    match untrusted(&error) {
        Some(why) => SmtpError::Untrusted(why),
        None => trouble(error),
    }
}

#[cfg(test)]
mod replies;
