//! From a notification to the person: the mail it becomes, and its way to the next hop, by SMTP or by HTTP; and what seals
//! it for those who may read it, and opens it again.
//!
//! What goes wrong is named by what is done next. Nothing here waits, tries again or knows of a queue: that is the role's.

mod delivery;
mod http;
pub mod keys;
pub mod preview;
mod recipient;
pub mod seal;
mod smtp;
pub mod templates;
mod unsealed;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use self::delivery::Transport;
use self::http::Http;
use self::smtp::Smtp;
use crate::config::ConfigError;
use crate::config::mailer::{Mailer, Tls, Via};
use crate::wire::redact::{Scrubber, cut, without_addresses};

pub use delivery::{Delivered, Mail, Undelivered};
pub use smtp::{Unsendable, at_the_recipient};
pub use templates::Templates;
pub use unsealed::Unsealed;

/// The longest detail, in characters.
const MAX_DETAIL: usize = 512;

/// Brings mails to the next hop. Its clones share the connections.
#[derive(Debug, Clone)]
pub struct Courier {
    transport: Arc<dyn Transport>,
}

/// The way to the next hop is free for one mail. It is waited for before a delivery begins, so that the delivery's own time is spent on
/// nothing else.
#[derive(Debug)]
pub struct Slot<'a> {
    courier: &'a Courier,
    /// Its connection's; HTTP has no bound of its own.
    _room: Option<OwnedSemaphorePermit>,
}

impl Courier {
    /// For what the configuration says; `after_max` is the longest `Retry-After` that is obeyed.
    ///
    /// # Errors
    /// Where a file of certificates cannot be read, or TLS cannot be set up.
    pub fn new(mailer: &Mailer, after_max: Duration) -> Result<Self, ConfigError> {
        let timeout = mailer.settings.timeout;
        let transport: Arc<dyn Transport> = match &mailer.via {
            Via::Smtp(server) => {
                if server.tls == Tls::Off && !is_here(&server.host) {
                    tracing::warn!(
                        host = server.host,
                        "mailer.smtp.tls is \"off\": whoever listens on the way to the mail server reads the passwords"
                    );
                }
                Arc::new(Smtp::new(server, timeout)?)
            }
            Via::Http(service) => {
                let host = service.url.host_str().unwrap_or_default();
                if service.url.scheme() == "http" && !is_here(host) {
                    tracing::warn!(
                        host,
                        "the mail service is called without TLS: whoever listens on the way reads the passwords"
                    );
                }
                Arc::new(Http::new(service, timeout, after_max)?)
            }
        };
        Ok(Self { transport })
    }

    /// How long one delivery takes at most.
    pub fn longest(&self) -> Duration {
        self.transport.longest()
    }

    /// Waits until the way is free: for a mail server, for one of `mailer.smtp.pool` connections.
    pub async fn slot(&self) -> Slot<'_> {
        Slot { courier: self, _room: self.transport.room().await }
    }

    /// Brings one mail to the next hop, once, as soon as the way is free.
    ///
    /// # Errors
    /// See [`Undelivered`].
    pub async fn deliver(&self, mail: &Mail) -> Result<Delivered, Undelivered> {
        self.slot().await.deliver(mail).await
    }

    /// Ends the connections that are open, once no mail is on its way.
    pub async fn close(&self) {
        self.transport.close().await;
    }

    fn tellable(&self, mail: &Mail, detail: &str) -> String {
        tellable(detail, mail.password.expose(), self.transport.secrets())
    }
}

/// What may be told: without the password, and, in what the next hop said, without `secrets`. That stands behind the first `: `; before
/// it are our own words, and a secret of the configuration may be one of them.
fn tellable<'a>(detail: &str, password: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let (mut of_the_mail, mut all) = (Scrubber::default(), Scrubber::default());
    of_the_mail.add(password);
    secrets.into_iter().for_each(|secret| all.add(secret));
    let detail = of_the_mail.text(detail);
    let said = match detail.split_once(": ") {
        Some((ours, theirs)) => format!("{ours}: {}", all.text(theirs)),
        None => detail,
    };
    let line: String = without_addresses(&said).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    cut(&line, MAX_DETAIL).to_owned()
}

impl Slot<'_> {
    /// Brings one mail to the next hop, once. What is told of a failure is without password and address, in one line of at most 512
    /// characters: it may go into logs and dead mails.
    ///
    /// # Errors
    /// See [`Undelivered`].
    pub async fn deliver(self, mail: &Mail) -> Result<Delivered, Undelivered> {
        let result = self.courier.transport.deliver(mail).await;
        result.map_err(|undelivered| undelivered.told(|detail| self.courier.tellable(mail, &detail)))
    }
}

/// Whether a host is this machine.
fn is_here(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_cut_out_of_what_the_next_hop_said_and_of_no_hint() {
        for (secret, detail, told) in [
            ("login", "535 at the login: bad login hunter22", "535 at the login: bad [redacted] [redacted]"),
            (
                "mailer",
                "the mail server does not offer STARTTLS, and mailer.smtp.tls is \"required\"",
                "the mail server does not offer STARTTLS, and mailer.smtp.tls is \"required\"",
            ),
            ("hunter23", "550 at the recipient: <a@example.com>\nno", "550 at the recipient: [address] no"),
        ] {
            assert_eq!(tellable(detail, "hunter22", std::iter::once(secret)), told, "{secret}");
        }
    }
}
