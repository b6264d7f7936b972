//! The configuration, and what the choices in it mean.

use reqwest::Url;

use super::finding::Finding;
use crate::config::proxy::Proxy;
use crate::config::{Config, ConfigError, EnvFile};
use crate::domain::form::{ExtensionForm, Form, PasswordForm};
use crate::domain::password::PasswordKind;
use crate::telemetry::logs;
use crate::transport::seal::Seal;

/// Below these domains is Genesys Cloud itself.
const GENESYS: [&str; 7] = [
    "mypurecloud.com",
    "mypurecloud.ie",
    "mypurecloud.de",
    "mypurecloud.jp",
    "mypurecloud.com.au",
    "pure.cloud",
    "us-gov-pure.cloud",
];

/// What is wrong, one by one.
pub(super) fn problems(problems: &[ConfigError]) -> Vec<Finding> {
    let says = |problem: &ConfigError| problem.to_string().trim_start_matches("configuration: ").to_owned();
    problems.iter().map(|problem| Finding::fail("configuration", says(problem), CURE)).collect()
}

/// What adds to the environment, and so goes over the `--config` files.
pub(super) fn env_file(EnvFile { path, keys, .. }: &EnvFile) -> Finding {
    Finding::ok("env file", format!("{} sets {}", path.display(), keys.join(", ")))
}

/// Files of the configuration that others may change.
fn changeable_files(config: &Config) -> impl Iterator<Item = Finding> {
    config.changeable_files.iter().map(|(path, why)| {
        let cure = "give file and folder to this user or root, and take the right to write from others";
        Finding::warn("config file", format!("{}: {why}", path.display()), cure)
    })
}

/// Files with secrets that others on this machine can read.
fn secret_files(config: &Config) -> impl Iterator<Item = Finding> {
    let opening = config.mailer.open_with.iter().map(|path| ("mailer.open_with", path));
    let all = config.secret_files.iter().map(|(key, path)| (key.as_str(), path)).chain(opening);
    all.filter_map(|(key, path)| {
        let mode = logs::readable_by_others(path)?;
        let says = format!("{key} {} can be read by others on this machine (mode {mode:o})", path.display());
        Some(Finding::warn("secret file", says, format!("chmod 600 {}", path.display())))
    })
}

const CURE: &str =
    "fix it in a --config file or a variable RESETD__SECTION__KEY; config/default.toml explains every key";

/// The configuration, the wire form in a line, and whether the two fit the orgs.
pub(super) fn findings(config: &Config, wrong: &[ConfigError]) -> Vec<Finding> {
    let mut findings = problems(wrong);
    if wrong.is_empty() {
        let orgs: Vec<&str> = config.org_names().collect();
        findings.push(Finding::ok("configuration", format!("complete, for the orgs {}", orgs.join(", "))));
    }
    if let Ok(form) = config.form() {
        let orgs = config.org_names().filter_map(|name| config.org(name).ok());
        let urls: Vec<Url> = orgs.flat_map(|org| [org.token_url, org.scim_url]).collect();
        findings.push(wire(form, config.password, &urls));
        findings.extend(clear(&urls));
    }
    findings.extend(proxy(&config.http.proxy));
    findings.extend(secret_files(config));
    findings.extend(changeable_files(config));
    findings.extend(
        Seal::load(&config.notification.seal_to).ok().map(|seal| sealing(seal.as_ref(), config.mailer.require_sealed)),
    );
    findings
}

/// The wire form explained in one line.
fn wire(form: Form, kind: PasswordKind, urls: &[Url]) -> Finding {
    let password = match form.password {
        PasswordForm::Plaintext => "the password is sent as it is typed at the login",
        PasswordForm::Sha256 => {
            "the SHA-256 of the password is sent, in hex: who types the password logs in only where something hashes what is typed"
        }
    };
    let extensions = match form.extensions {
        ExtensionForm::Urn => "genesys: attributes are operations with Genesys Cloud's urn",
        ExtensionForm::Envelope => "genesys: attributes go into an Extensions array of their own",
    };
    let says = format!("{password}; {extensions}");
    let genesys = urls.iter().any(is_genesys);
    match (form.password, kind) {
        (PasswordForm::Sha256, _) if genesys => Finding::warn(
            "wire form",
            says,
            "Genesys Cloud itself hashes nothing: the hex would become the password, and the mailed one would not log in; take config/genesys-cloud.toml unless you know who hashes at the login",
        ),
        (PasswordForm::Plaintext, PasswordKind::Hex) if genesys => Finding::warn(
            "wire form",
            says,
            "password.kind \"hex\" fails Genesys Cloud's default policy (upper case, special character); set it to \"policy\"",
        ),
        (PasswordForm::Sha256 | PasswordForm::Plaintext, PasswordKind::Hex | PasswordKind::Policy { .. }) => {
            Finding::ok("wire form", says)
        }
    }
}

/// Only where there is one, used or not.
fn proxy(proxy: &Proxy) -> Option<Finding> {
    let cure = "set http.proxy = \"env\" where it is meant for these calls too, or http.proxy to another proxy's URL; else leave it";
    let unused = proxy.unused().map(|unused| Finding::warn("proxy", unused, cure));
    unused.or_else(|| {
        Some(Finding::ok("proxy", format!("http.proxy: {}; this machine itself directly", proxy.places()?)))
    })
}

/// Whether the passwords of the email queue can be read at the broker.
fn sealing(seal: Option<&Seal>, is_required: bool) -> Finding {
    if seal.is_none() && is_required {
        let says =
            "off, and mailer.require_sealed is true: a mailer configured so sends nobody what this worker notifies of";
        return Finding::warn("sealing", says, "set notification.seal_to, or mailer.require_sealed = false");
    }
    let says = match seal {
        None => "off: who reads the email queue or the broker's disk reads passwords (notification.seal_to)".to_owned(),
        Some(seal) if seal.others().is_empty() => format!("notifications are sealed to kid {}", seal.kid()),
        Some(seal) => {
            let others = seal.others().join(", ");
            format!("notifications are sealed to kid {}; known too: {others}", seal.kid())
        }
    };
    Finding::ok("sealing", says)
}

fn is_genesys(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    GENESYS.iter().any(|domain| host == *domain || host.ends_with(&format!(".{domain}")))
}

/// Passwords and tokens that would leave this machine without TLS.
fn clear(urls: &[Url]) -> Option<Finding> {
    let local = |url: &&Url| {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    let open = urls.iter().find(|url| url.scheme() == "http" && !local(url))?;
    let says = format!("{} is reached without TLS: passwords, tokens and secrets can be read on the way", open);
    Some(Finding::warn("TLS", says, "write https:// in token_url and scim_url"))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn level(password: PasswordForm, kind: PasswordKind, url: &str) -> Level {
        let form = Form { password, extensions: ExtensionForm::Urn };
        wire(form, kind, &[Url::parse(url).unwrap()]).level
    }

    #[test]
    fn a_mailer_that_sends_nothing_of_what_is_queued_is_a_warning() {
        assert_eq!((sealing(None, false).level, sealing(None, true).level), (Level::Ok, Level::Warn));
    }

    #[test]
    fn a_form_that_locks_people_out_of_genesys_cloud_is_a_warning() {
        let policy = PasswordKind::Policy { length: 20 };
        let cloud = "https://api.usw2.pure.cloud/api/v2/scim/v2";
        let other = "https://scim.example.com/v2";
        for (password, kind, url, expected) in [
            (PasswordForm::Plaintext, policy, cloud, Level::Ok),
            (PasswordForm::Plaintext, PasswordKind::Hex, cloud, Level::Warn),
            (PasswordForm::Sha256, PasswordKind::Hex, cloud, Level::Warn),
            (PasswordForm::Sha256, PasswordKind::Hex, other, Level::Ok),
            (PasswordForm::Sha256, PasswordKind::Hex, "https://notpure.cloud.example.com", Level::Ok),
        ] {
            assert_eq!(level(password, kind, url), expected, "{password:?} {kind:?} {url}");
        }
    }

    #[test]
    fn a_password_in_the_clear_is_a_warning_unless_it_stays_on_this_machine() {
        let found = |url| clear(&[Url::parse(url).unwrap()]).map(|finding| finding.level);
        assert_eq!(found("http://scim.example.com/v2"), Some(Level::Warn));
        for fine in ["https://scim.example.com/v2", "http://127.0.0.1:1/x", "http://[::1]/x", "http://localhost/x"] {
            assert_eq!(found(fine), None, "{fine}");
        }
    }
}
