//! The configuration as it is written, as a whole.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::{mailer, raw};

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) amqp: raw::Amqp,
    #[serde(default)]
    pub(super) orgs: BTreeMap<String, raw::Org>,
    pub(super) wire: raw::Wire,
    pub(super) password: raw::Password,
    pub(super) retry: raw::Retry,
    pub(super) notification: raw::Notification,
    pub(super) mailer: mailer::Section,
    pub(super) http: raw::Http,
    pub(super) shutdown: raw::Shutdown,
    pub(super) telemetry: raw::Telemetry,
}

impl Raw {
    /// The files that hold secrets, with the keys that name them.
    pub(super) fn secret_files(&self) -> Vec<(String, PathBuf)> {
        let mailer::Section { smtp, http, .. } = &self.mailer;
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
