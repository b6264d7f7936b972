//! The broker's section.

use secrecy::{ExposeSecret, SecretString};

use super::{ConfigError, raw, value};

/// The value of `amqp.url` in the default: a file given for it wins over this one.
const DEFAULT_URL: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";
const MAX_PREFIX: usize = 100;

/// Where the broker is, and what we call things there.
#[derive(Debug, Clone)]
pub struct Amqp {
    /// With the user and the password.
    pub url: SecretString,
    /// Before every exchange's and queue's name.
    pub prefix: String,
    /// Deliveries in flight for each lane.
    pub prefetch: u16,
}

impl Amqp {
    pub(super) fn check(raw: raw::Amqp) -> Result<Self, ConfigError> {
        let url = match raw.url_file.as_deref() {
            Some(_) if raw.url.expose_secret() != DEFAULT_URL => {
                return Err(ConfigError::new("amqp.url and amqp.url_file are both set; set one of them"));
            }
            Some(path) => value::secret_file("amqp.url_file", path)?,
            None => raw.url,
        };
        let parsed: Result<lapin::uri::AMQPUri, _> = url.expose_secret().parse();
        if parsed.is_err() {
            return Err(ConfigError::new(
                "amqp.url is not a URL that can be read (it is not repeated here, since it may hold a password); it must be amqp://user:password@host:port/vhost, with / in a vhost's name written %2f",
            ));
        }
        let named = raw.prefix.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if !named || raw.prefix.len() > MAX_PREFIX {
            return Err(ConfigError::wrong(
                "amqp.prefix",
                format_args!("{:?}", raw.prefix),
                "at most 100 of A-Z a-z 0-9 . _ -",
            ));
        }
        if raw.prefetch == 0 {
            return Err(ConfigError::wrong("amqp.prefetch", 0, "1 to 65535 (0 would mean without a limit)"));
        }
        Ok(Self { url, prefix: raw.prefix, prefetch: raw.prefetch })
    }
}
