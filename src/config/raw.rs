//! The sections of the configuration as they are written: every key, nothing else. `mailer.rs` has that of the mailer, but for its transports.

use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;

use super::value::{List, PerHour, Span};

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
