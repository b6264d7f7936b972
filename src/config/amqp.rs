//! The broker's section.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use lapin::uri::{AMQPScheme, AMQPUri};
use reqwest::Url;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::{ExposeSecret, SecretString};

use super::{ConfigError, mailer, raw, value};

/// The value of `amqp.url` in the default: a file given for it wins over this one.
const DEFAULT_URL: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";
const MAX_PREFIX: usize = 100;
/// How many addresses are remembered as used.
const MAX_USED: usize = 64;

/// Where the broker is, and what we call things there.
#[derive(Debug, Clone)]
pub struct Amqp {
    /// With the user and the password.
    pub url: SecretString,
    /// More addresses of the same cluster.
    pub hosts: Vec<Host>,
    /// Which addresses were used.
    pub used: Used,
    /// The management API, with a user and a password where they are not those of `url`.
    pub management_url: Option<SecretString>,
    /// Who is believed to be the broker, and who we are: for `amqps://`.
    pub tls: Tls,
    /// Before every exchange's and queue's name.
    pub prefix: String,
    /// Deliveries in flight for each lane.
    pub prefetch: u16,
}

/// An address of `amqp.hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// A name, or an IP address without brackets.
    pub host: String,
    /// `None`: the one that the scheme of `amqp.url` has by default.
    pub port: Option<u16>,
}

/// The addresses that the connections of this process went to, the newest last, so that the next one after a loss begins elsewhere.
/// It is shared by all clones of the section, and nothing of it is configured.
#[derive(Debug, Clone, Default)]
pub struct Used(Arc<Mutex<Vec<SocketAddr>>>);

impl Used {
    /// A connection was opened to this one.
    pub fn note(&self, address: SocketAddr) {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|other| *other != address);
        if used.len() == MAX_USED {
            used.remove(0);
        }
        used.push(address);
    }

    /// All that are remembered, the newest last.
    pub fn all(&self) -> Vec<SocketAddr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The certificates of a connection by TLS.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// The CAs that are believed; `None`: those of the system.
    pub ca: Option<Vec<CertificateDer<'static>>>,
    /// What we show.
    pub client: Option<ClientCertificate>,
}

/// A certificate of ours with what comes between it and its CA, and its private key.
pub struct ClientCertificate {
    /// Ours first.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Its own.
    pub key: PrivateKeyDer<'static>,
    /// Where the key was read.
    pub key_file: PathBuf,
}

impl Clone for ClientCertificate {
    fn clone(&self) -> Self {
        Self { certificates: self.certificates.clone(), key: self.key.clone_key(), key_file: self.key_file.clone() }
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCertificate(…)")
    }
}

impl Amqp {
    pub(super) fn check(raw: raw::Amqp) -> Result<Self, ConfigError> {
        let url = match raw.url_file.as_deref().filter(|path| !path.is_empty()) {
            Some(_) if raw.url.expose_secret() != DEFAULT_URL => {
                return Err(ConfigError::new("amqp.url and amqp.url_file are both set; set one of them"));
            }
            Some(path) => value::secret_file("amqp.url_file", path)?,
            None => SecretString::from(value::unbroken(raw.url.expose_secret())),
        };
        let Some(parsed) = parse(&url) else {
            return Err(ConfigError::new(
                "amqp.url is not a URL that can be read (it is not repeated here, since it may hold a password); it must be amqp://user:password@host:port/vhost, with / in a vhost's name written %2f",
            ));
        };
        let hosts = raw.hosts.0.iter().map(|text| host(text)).collect::<Result<_, _>>()?;
        let tls = tls(raw.ca_file, raw.client_cert_file, raw.client_key_file, parsed.scheme)?;
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
        let management_url = management(raw.management_url.as_ref(), raw.management_url_file.as_deref())?;
        Ok(Self { url, hosts, used: Used::default(), management_url, tls, prefix: raw.prefix, prefetch: raw.prefetch })
    }

    /// `amqp.url` in its parts; `None` cannot be, since it was read when this was made.
    pub fn uri(&self) -> Option<AMQPUri> {
        parse(&self.url)
    }

    /// The same for each address of the cluster: that of `amqp.url`, then those of `amqp.hosts`, each once. Empty cannot be.
    pub fn uris(&self) -> Vec<AMQPUri> {
        let mut uris: Vec<AMQPUri> = self.uri().into_iter().collect();
        let Some(first) = uris.first().cloned() else { return uris };
        for Host { host, port } in &self.hosts {
            let mut uri = first.clone();
            host.clone_into(&mut uri.authority.host);
            uri.authority.port = port.unwrap_or_else(|| first.scheme.default_port());
            if !uris.iter().any(|other| place(other).eq_ignore_ascii_case(&place(&uri))) {
                uris.push(uri);
            }
        }
        uris
    }
}

/// It is not repeated, since it may hold a password.
fn management(given: Option<&SecretString>, file: Option<&str>) -> Result<Option<SecretString>, ConfigError> {
    let Some(secret) = value::secret("amqp.management_url", given, file)? else { return Ok(None) };
    let text = value::unbroken(secret.expose_secret());
    let fits = Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.query().is_none()
            && url.fragment().is_none()
            && (url.password().is_none() || !url.username().is_empty())
    });
    if fits {
        return Ok(Some(SecretString::from(text)));
    }
    Err(ConfigError::new(
        "amqp.management_url is not a URL that can be used (it is not repeated here, since it may hold a password); it must be http://host:15672 or https://host:15671, with user:password@ before the host where they are not those of amqp.url",
    ))
}

/// `host`, `host:port`, `[address]` or `[address]:port`. What may hold a password is not repeated.
fn host(text: &str) -> Result<Host, ConfigError> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address, None),
        Some((address, rest)) => (address, Some(rest.strip_prefix(':').unwrap_or_default())),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_bracketed = text.starts_with('[');
    let named = mailer::is_host(host) && is_bracketed == host.parse::<Ipv6Addr>().is_ok();
    let parsed = port.map(|port| port.parse::<u16>().ok().filter(|port| *port != 0));
    if !named || parsed == Some(None) {
        let got = if text.contains('@') { "one with a user or password in it".to_owned() } else { format!("{text:?}") };
        let wants = "host or host:port, such as rabbit-2.example.com, 10.0.0.2:5672 or [fd00::2]:5672; user, vhost and TLS are those of amqp.url";
        return Err(ConfigError::wrong("amqp.hosts", got, wants));
    }
    Ok(Host { host: host.to_owned(), port: parsed.flatten() })
}

/// The library's own reading takes an IPv6 address for no host, which is this machine: user and password would go there. And a URL that
/// ends in `/` for the vhost without a name; RabbitMQ's Cluster Operator writes it and means the vhost `/`.
fn parse(url: &SecretString) -> Option<AMQPUri> {
    let mut uri: AMQPUri = url.expose_secret().parse().ok()?;
    let url = Url::parse(url.expose_secret()).ok()?;
    if let Some(address) = url.host_str().and_then(|host| host.strip_prefix('[')?.strip_suffix(']')) {
        address.clone_into(&mut uri.authority.host);
    }
    if url.path() == "/" {
        "/".clone_into(&mut uri.vhost);
    }
    Some(uri)
}

/// Host and port, as a URL has them.
pub fn place(uri: &AMQPUri) -> String {
    let (host, port) = (&uri.authority.host, uri.authority.port);
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn tls(
    ca: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
    scheme: AMQPScheme,
) -> Result<Tls, ConfigError> {
    let given = |path: Option<String>| path.filter(|path| !path.is_empty());
    let (ca, certificate, key) = (given(ca), given(certificate), given(key));
    let names = [("amqp.ca_file", &ca), ("amqp.client_cert_file", &certificate), ("amqp.client_key_file", &key)];
    if let (AMQPScheme::AMQP, Some((name, _))) = (scheme, names.iter().find(|(_, path)| path.is_some())) {
        return Err(ConfigError::new(format!(
            "{name} is set, and amqp.url begins with amqp://, which is not encrypted; begin it with amqps://, or leave {name} out"
        )));
    }
    let client = match (certificate, key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some(client(&certificate, &key)?),
        (Some(_), None) => {
            return Err(ConfigError::missing("amqp.client_key_file", "the private key of amqp.client_cert_file"));
        }
        (None, Some(_)) => {
            return Err(ConfigError::missing("amqp.client_cert_file", "the certificate of amqp.client_key_file"));
        }
    };
    Ok(Tls { ca: ca.map(|path| authorities("amqp.ca_file", &path)).transpose()?, client })
}

const CERTIFICATES: &str = "the path of a PEM file with one certificate (-----BEGIN CERTIFICATE-----) or more";
const PRIVATE_KEY: &str = "the path of a PEM file with a private key (-----BEGIN PRIVATE KEY-----; RSA, ECDSA or Ed25519) without a passphrase";

/// Those that cannot be read are passed over, as TLS does: a system's own collection may hold a strange one. Not one, and nobody would
/// be believed.
fn authorities(key: &str, path: &str) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let all = certificates(key, path)?;
    match RootCertStore::empty().add_parsable_certificates(all.iter().cloned()) {
        (0, _) => {
            Err(ConfigError::wrong(key, format_args!("{path:?}, whose certificates cannot be read"), CERTIFICATES))
        }
        (_, _) => Ok(all),
    }
}

/// What we show: that TLS can use it is seen here, and not at the broker, who would be blamed for it.
fn client(certificate: &str, key: &str) -> Result<ClientCertificate, ConfigError> {
    let (name, key_name) = ("amqp.client_cert_file", "amqp.client_key_file");
    let shown = ClientCertificate {
        certificates: certificates(name, certificate)?,
        key: private_key(key_name, key)?,
        key_file: key.into(),
    };
    let signing = any_supported_type(&shown.key).map_err(|_| {
        ConfigError::wrong(key_name, format_args!("{key:?}, whose private key cannot be used"), PRIVATE_KEY)
    })?;
    match CertifiedKey::new(shown.certificates.clone(), signing).keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(shown),
        Err(Error::InconsistentKeys(_)) => Err(ConfigError::wrong(
            key_name,
            format_args!("{key:?}, the private key of another certificate"),
            &format!("that of the first one in {name}, {certificate:?}"),
        )),
        Err(_) => Err(ConfigError::wrong(
            name,
            format_args!("{certificate:?}, whose first certificate cannot be read"),
            CERTIFICATES,
        )),
    }
}

fn certificates(key: &str, path: &str) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let pem = value::secret_file(key, path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.expose_secret().as_bytes()).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) | Err(_) => {
            Err(ConfigError::wrong(key, format_args!("{path:?}, which holds no certificate"), CERTIFICATES))
        }
    }
}

fn private_key(key: &str, path: &str) -> Result<PrivateKeyDer<'static>, ConfigError> {
    let pem = value::secret_file(key, path)?;
    PrivateKeyDer::from_pem_slice(pem.expose_secret().as_bytes())
        .map_err(|_| ConfigError::wrong(key, format_args!("{path:?}, which holds no private key"), PRIVATE_KEY))
}
