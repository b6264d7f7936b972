//! The mailer's section: whether it takes part, how it delivers, and what it says.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use lettre::message::Mailbox;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::proxy::Proxy;
use super::value::{List, Span};
use super::variables::MAIL_SERVICE_URL;
use super::{ConfigError, Environment, raw, value};
use crate::domain::language::Language;

/// The longest time limit of one step, as of an org's call: a takeover waits for a delivery that is on its way.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// The section as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    pub(super) enabled: bool,
    pub(super) rate_per_minute: u32,
    pub(super) timeout: Span,
    pub(super) max_attempts: u32,
    pub(super) retry_max: Span,
    pub(super) from: Option<String>,
    pub(super) templates: Option<PathBuf>,
    pub(super) language: String,
    pub(super) open_with: List,
    pub(super) require_sealed: bool,
    pub(super) smtp: raw::MailerSmtp,
    #[serde(default)]
    pub(super) http: raw::MailerHttp,
}

/// What does not depend on how it delivers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whether a mailer of ours takes the email queue.
    pub enabled: bool,
    /// Mails in any 60 s.
    pub rate_per_minute: NonZeroU32,
    /// How long one step of a delivery may take.
    pub timeout: Duration,
    /// Tries of one mail that failed by a fault.
    pub max_attempts: NonZeroU32,
    /// The bound of the backoff between them.
    pub retry_max: Duration,
    /// The folder of the templates; `None`: the notification's own text.
    pub templates: Option<PathBuf>,
    /// The language of the templates at the top of that folder.
    pub language: Language,
    /// Files with the private keys that open sealed notifications.
    pub open_with: Vec<PathBuf>,
    /// Whether a notification that is not sealed is sent to nobody.
    pub require_sealed: bool,
}

/// The mailer's section, complete.
#[derive(Debug, Clone)]
pub struct Mailer {
    /// What does not depend on how it delivers.
    pub settings: Settings,
    /// How it delivers.
    pub via: Via,
}

/// How mails are delivered.
#[derive(Debug, Clone)]
pub enum Via {
    /// To a mail server.
    Smtp(Smtp),
    /// To a service of the user's own.
    Http(Http),
}

impl Via {
    /// Who the mails are from; a service writes its own.
    pub fn sender(&self) -> Option<&Mailbox> {
        match self {
            Self::Smtp(server) => Some(&server.from),
            Self::Http(_) => None,
        }
    }

    /// How a proxy is used, where one may be.
    pub fn proxy(&self) -> Option<&Proxy> {
        match self {
            Self::Smtp(_) => None,
            Self::Http(service) => Some(&service.proxy),
        }
    }
}

/// The mail server.
#[derive(Debug, Clone)]
pub struct Smtp {
    /// Who the mails are from.
    pub from: Mailbox,
    /// Its name, or its address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the way there is encrypted.
    pub tls: Tls,
    /// The authorities that are trusted in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// What the mailer logs in with.
    pub login: Option<Login>,
    /// Connections at most.
    pub pool: u16,
    /// What the mailer calls itself.
    pub hello_name: String,
}

/// How the way to the mail server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// By STARTTLS (RFC 3207), before anything is said.
    Required,
    /// From the first byte (RFC 8314).
    Wrapper,
    /// Not at all.
    Off,
}

/// What the mailer logs in with.
#[derive(Debug, Clone)]
pub struct Login {
    /// The user.
    pub user: String,
    /// Its password.
    pub password: SecretString,
}

/// The mail service.
#[derive(Debug, Clone)]
pub struct Http {
    /// Where mails are posted; it may hold a secret.
    pub url: Url,
    /// The bearer token.
    pub token: Option<SecretString>,
    /// The authorities that are trusted in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// How it is called: `http.proxy`.
    pub proxy: Proxy,
}

impl Settings {
    pub(super) fn check(raw: &Section) -> Result<Self, ConfigError> {
        let count = |key: &str, count: u32| {
            NonZeroU32::new(count).ok_or_else(|| ConfigError::wrong(&format!("mailer.{key}"), count, "at least 1"))
        };
        let language = Language::parse(&raw.language).ok_or_else(|| {
            let wants = "a language's tag, such as \"en\" or \"pt-BR\"";
            ConfigError::wrong("mailer.language", format_args!("{:?}", raw.language), wants)
        })?;
        if raw.timeout.0 > MAX_TIMEOUT {
            return Err(ConfigError::wrong("mailer.timeout", value::show(raw.timeout.0), "at most 60s"));
        }
        Ok(Self {
            enabled: raw.enabled,
            rate_per_minute: count("rate_per_minute", raw.rate_per_minute)?,
            timeout: raw.timeout.0,
            max_attempts: count("max_attempts", raw.max_attempts)?,
            retry_max: raw.retry_max.0,
            templates: given_path(raw.templates.as_ref()),
            language,
            open_with: raw.open_with.0.iter().map(PathBuf::from).collect(),
            require_sealed: raw.require_sealed,
        })
    }
}

impl Mailer {
    pub(super) fn check(
        settings: &Settings,
        raw: &Section,
        environment: &Environment,
        proxy: &Proxy,
    ) -> Result<Self, ConfigError> {
        let host = given(raw.smtp.host.as_ref());
        let url = value::secret("mailer.http.url", raw.http.url.as_ref(), raw.http.url_file.as_deref())?;
        let (key, url) = match url.as_ref().map(ExposeSecret::expose_secret) {
            Some(url) => ("mailer.http.url", Some(url)),
            None => (MAIL_SERVICE_URL, environment.get(MAIL_SERVICE_URL)),
        };
        let via = match (host, url) {
            (Some(host), None) => Via::Smtp(Smtp::check(host, raw)?),
            (None, Some(url)) => Via::Http(Http::check(key, url, &raw.http, proxy)?),
            (Some(_), Some(_)) => {
                return Err(ConfigError::new(format!(
                    "mailer.smtp.host and {key} are both set; a mail goes one way: set one of them"
                )));
            }
            (None, None) => {
                return Err(ConfigError::missing(
                    "mailer.smtp.host",
                    &format!(
                        "the name of the mail server; or mailer.http.url (or the environment variable {MAIL_SERVICE_URL}), the URL of a service that takes a POST for each mail"
                    ),
                ));
            }
        };
        Ok(Self { settings: settings.clone(), via })
    }
}

impl Smtp {
    fn check(host: &str, raw: &Section) -> Result<Self, ConfigError> {
        let raw::MailerSmtp { port, tls, ca_file, user, password, password_file, pool, hello_name, .. } = &raw.smtp;
        if !is_host(host) {
            let wants = "the name or the address of a mail server, without a port (mailer.smtp.port)";
            return Err(ConfigError::wrong("mailer.smtp.host", format_args!("{host:?}"), wants));
        }
        let (tls, usual) = match tls.as_str() {
            "required" => (Tls::Required, 587),
            "wrapper" => (Tls::Wrapper, 465),
            "off" => (Tls::Off, 25),
            other => {
                let wants = "\"required\" (STARTTLS), \"wrapper\" (TLS from the first byte) or \"off\"";
                return Err(ConfigError::wrong("mailer.smtp.tls", format_args!("{other:?}"), wants));
            }
        };
        if *port == Some(0) || *pool == 0 {
            let key = if *pool == 0 { "mailer.smtp.pool" } else { "mailer.smtp.port" };
            return Err(ConfigError::wrong(key, 0, "1 to 65535"));
        }
        let from = from(given(raw.from.as_ref()))?;
        let hello_name = given(hello_name.as_ref()).unwrap_or_else(|| from.email.domain()).to_owned();
        if !is_host(&hello_name) {
            let wants = "the name by which this machine is known, in ASCII";
            return Err(ConfigError::wrong("mailer.smtp.hello_name", format_args!("{hello_name:?}"), wants));
        }
        Ok(Self {
            from,
            host: host.to_owned(),
            port: port.unwrap_or(usual),
            tls,
            ca_file: given_path(ca_file.as_ref()),
            login: login(given(user.as_ref()), password.as_ref(), password_file.as_deref())?,
            pool: *pool,
            hello_name,
        })
    }
}

impl Http {
    fn check(key: &str, url: &str, raw: &raw::MailerHttp, proxy: &Proxy) -> Result<Self, ConfigError> {
        let fits = |url: &Url| {
            let is_plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
            matches!(url.scheme(), "http" | "https") && url.has_host() && is_plain
        };
        let url = Url::parse(url).ok().filter(fits).ok_or_else(|| {
            ConfigError::new(format!(
                "{key} is not a URL that can be used (it is not repeated here, since it may hold a secret); it must be an http:// or https:// URL without user, password and fragment"
            ))
        })?;
        let token = value::secret("mailer.http.token", raw.token.as_ref(), raw.token_file.as_deref())?;
        if token.as_ref().is_some_and(|token| !token.expose_secret().bytes().all(|byte| byte.is_ascii_graphic())) {
            let got = "a text with characters that no header can carry (it is not repeated here)";
            return Err(ConfigError::wrong("mailer.http.token", got, "printable ASCII without blanks"));
        }
        Ok(Self { url, token, ca_file: given_path(raw.ca_file.as_ref()), proxy: proxy.clone() })
    }
}

fn from(text: Option<&str>) -> Result<Mailbox, ConfigError> {
    let wants = "the address that mails are from: \"noreply@example.com\" or \"Service desk <noreply@example.com>\"";
    let text = text.ok_or_else(|| ConfigError::missing("mailer.from", wants))?;
    let fits = |from: &Mailbox| {
        let (address, name): (&str, &str) = (from.email.as_ref(), from.name.as_deref().unwrap_or_default());
        address.is_ascii() && !name.chars().any(char::is_control)
    };
    let wrong =
        || ConfigError::wrong("mailer.from", format_args!("{text:?}"), &format!("{wants}, the address in ASCII"));
    text.parse().ok().filter(fits).ok_or_else(wrong)
}

fn login(
    user: Option<&str>,
    password: Option<&SecretString>,
    file: Option<&str>,
) -> Result<Option<Login>, ConfigError> {
    match (user, value::secret("mailer.smtp.password", password, file)?) {
        (Some(user), Some(password)) => Ok(Some(Login { user: user.to_owned(), password })),
        (None, None) => Ok(None),
        (Some(_), None) => {
            let wants = "the password of mailer.smtp.user; or set mailer.smtp.password_file";
            Err(ConfigError::missing("mailer.smtp.password", wants))
        }
        (None, Some(_)) => Err(ConfigError::missing("mailer.smtp.user", "the user whose mailer.smtp.password is set")),
    }
}

fn given(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

fn given_path(path: Option<&PathBuf>) -> Option<PathBuf> {
    path.filter(|path| !path.as_os_str().is_empty()).cloned()
}

/// A name of DNS, or an IP address.
pub(super) fn is_host(text: &str) -> bool {
    text.len() <= 253
        && !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte))
        && (!text.contains(':') || text.parse::<std::net::Ipv6Addr>().is_ok())
}
