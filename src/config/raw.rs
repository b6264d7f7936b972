//! The configuration as it is written: every key, nothing else.

use std::collections::BTreeMap;
use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;

use super::value::{List, PerHour, Span};

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) amqp: Amqp,
    #[serde(default)]
    pub(super) orgs: BTreeMap<String, Org>,
    pub(super) wire: Wire,
    pub(super) password: Password,
    pub(super) retry: Retry,
    pub(super) notification: Notification,
    pub(super) mailer: Mailer,
    pub(super) http: Http,
    pub(super) shutdown: Shutdown,
    pub(super) telemetry: Telemetry,
}

impl Raw {
    /// The files that hold secrets, with the keys that name them.
    pub(super) fn secret_files(&self) -> Vec<(String, PathBuf)> {
        let Mailer { smtp, http, .. } = &self.mailer;
        let files = [
            ("amqp.url_file", &self.amqp.url_file),
            ("amqp.management_url_file", &self.amqp.management_url_file),
            ("amqp.client_key_file", &self.amqp.client_key_file),
            ("http.token_file", &self.http.token_file),
            ("http.proxy_file", &self.http.proxy_file),
            ("mailer.smtp.password_file", &smtp.password_file),
            ("mailer.http.url_file", &http.url_file),
            ("mailer.http.token_file", &http.token_file),
        ];
        let files = files.into_iter().map(|(key, file)| (key.to_owned(), file));
        let orgs =
            self.orgs.iter().map(|(name, org)| (format!("orgs.{name}.client_secret_file"), &org.client_secret_file));
        let named = files.chain(orgs);
        let set = named.filter_map(|(key, file)| Some((key, file.as_deref().filter(|path| !path.is_empty())?)));
        set.map(|(key, path)| (key, PathBuf::from(path))).collect()
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Amqp {
    pub(super) url: SecretString,
    pub(super) url_file: Option<String>,
    pub(super) hosts: List,
    pub(super) management_url: Option<SecretString>,
    pub(super) management_url_file: Option<String>,
    pub(super) ca_file: Option<String>,
    pub(super) client_cert_file: Option<String>,
    pub(super) client_key_file: Option<String>,
    pub(super) prefix: String,
    pub(super) prefetch: u16,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Org {
    pub(super) region: Option<String>,
    pub(super) token_url: Option<String>,
    pub(super) scim_url: Option<String>,
    pub(super) client_id: Option<String>,
    pub(super) client_secret: Option<SecretString>,
    pub(super) client_secret_file: Option<String>,
    #[serde(default)]
    pub(super) required_scopes: List,
    pub(super) rate_per_minute: Option<u32>,
    pub(super) burst: Option<u32>,
    pub(super) request_timeout: Option<Span>,
    pub(super) guard_per_hour: Option<PerHour>,
    pub(super) bulk_window: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wire {
    pub(super) password: Option<String>,
    pub(super) extensions: Option<String>,
    pub(super) allowed_attributes: List,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Password {
    pub(super) kind: String,
    pub(super) length: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Retry {
    pub(super) max_attempts: u32,
    pub(super) base: Span,
    pub(super) max: Span,
    pub(super) after_max: Span,
    pub(super) inline_max: Span,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Notification {
    pub(super) fallback_address: Option<String>,
    pub(super) allowed_domains: List,
    pub(super) subject: String,
    pub(super) body: String,
    pub(super) ttl: Span,
    pub(super) seal_to: List,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mailer {
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
    pub(super) smtp: MailerSmtp,
    #[serde(default)]
    pub(super) http: MailerHttp,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MailerSmtp {
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) tls: String,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) user: Option<String>,
    pub(super) password: Option<SecretString>,
    pub(super) password_file: Option<String>,
    pub(super) pool: u16,
    pub(super) hello_name: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MailerHttp {
    pub(super) url: Option<SecretString>,
    pub(super) url_file: Option<String>,
    pub(super) token: Option<SecretString>,
    pub(super) token_file: Option<String>,
    pub(super) ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Http {
    pub(super) listen: String,
    pub(super) token: Option<SecretString>,
    pub(super) token_file: Option<String>,
    pub(super) allowed_hosts: List,
    pub(super) proxy: Option<SecretString>,
    pub(super) proxy_file: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Telemetry {
    pub(super) otlp_endpoint: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shutdown {
    pub(super) grace: Span,
}
