//! The broker's section.

use std::fmt;
use std::path::PathBuf;

use lapin::uri::{AMQPScheme, AMQPUri};
use reqwest::Url;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
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
    /// Who is believed to be the broker, and who we are: for `amqps://`.
    pub tls: Tls,
    /// Before every exchange's and queue's name.
    pub prefix: String,
    /// Deliveries in flight for each lane.
    pub prefetch: u16,
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
        Ok(Self { url, tls, prefix: raw.prefix, prefetch: raw.prefetch })
    }

    /// `amqp.url` in its parts; `None` cannot be, since it was read when this was made.
    pub fn uri(&self) -> Option<AMQPUri> {
        parse(&self.url)
    }
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
