//! The files that keys for sealing are in: PEM, as `resetd keygen` and `openssl` write them; and what a key is called.

use std::fmt;
use std::path::Path;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{
    KeySize, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey, PublicEncryptingKey,
};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use rustls_pki_types::pem::{self, SectionKind};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::unsealed::Unsealed;
use crate::config::ConfigError;
use crate::telemetry::logs;

const PUBLIC: &str = "a PEM file with an RSA public key (-----BEGIN PUBLIC KEY-----) of at least 2048 bits, such as resetd keygen writes";
const PRIVATE: &str = "a PEM file with an RSA private key (-----BEGIN PRIVATE KEY-----, PKCS#8, without a passphrase) of at least 2048 bits, such as resetd keygen writes";
/// Characters of a line of PEM (RFC 7468, section 2).
const LINE: usize = 64;

/// A section of a PEM file, which may be a secret.
type Part = (SectionKind, Zeroizing<Vec<u8>>);

/// A file that a key of the configuration names.
pub(super) struct KeyFile<'a> {
    /// The configuration's key.
    pub(super) key: &'static str,
    /// The file.
    pub(super) path: &'a Path,
}

impl KeyFile<'_> {
    /// What is said of a file that does not do.
    fn refused(&self, why: impl fmt::Display, wants: &str) -> ConfigError {
        ConfigError::wrong(self.key, format_args!("{:?}, which {why}", self.path), wants)
    }

    /// Every part of it, each with its kind.
    fn parts(&self, wants: &str) -> Result<Vec<Part>, ConfigError> {
        let text = std::fs::read(self.path).map(Zeroizing::new);
        let text = text.map_err(|error| self.refused(format_args!("cannot be read ({error})"), wants))?;
        let parts = <(SectionKind, Vec<u8>) as pem::PemObject>::pem_slice_iter(&text);
        let parts = parts.map(|part| part.map(|(kind, der)| (kind, Zeroizing::new(der))));
        parts.collect::<Result<_, _>>().map_err(|_| self.refused("is not PEM", wants))
    }
}

/// A public key and its `kid`.
///
/// # Errors
/// Where the file cannot be read or holds anything but one RSA public key of 2048 to 8192 bits.
pub(super) fn public(file: &KeyFile<'_>) -> Result<(String, OaepPublicEncryptingKey), ConfigError> {
    let parts = file.parts(PUBLIC)?;
    if parts.iter().any(|(kind, _)| is_private(*kind)) {
        let why = "holds a private key: whoever only seals must not have it (openssl pkey -pubout -in FILE writes the public half)";
        return Err(file.refused(why, PUBLIC));
    }
    let [(SectionKind::PublicKey, der)] = parts.as_slice() else {
        return Err(file.refused(other_than("one public key", &parts), PUBLIC));
    };
    let key = PublicEncryptingKey::from_der(der).map_err(|error| file.refused(unusable(&error.to_string()), PUBLIC))?;
    named(key).ok_or_else(|| file.refused(unusable(""), PUBLIC))
}

/// A private key and its `kid`. A file that others on this machine can read is warned of.
///
/// # Errors
/// Where the file cannot be read or holds anything but one RSA private key of 2048 to 8192 bits.
pub(super) fn private(file: &KeyFile<'_>) -> Result<(String, OaepPrivateDecryptingKey), ConfigError> {
    let parts = file.parts(PRIVATE)?;
    let der = match parts.as_slice() {
        [(SectionKind::PrivateKey, der)] => der,
        [(SectionKind::PublicKey, _)] => {
            return Err(
                file.refused("holds a public key, which opens nothing: that one is for notification.seal_to", PRIVATE)
            );
        }
        [(SectionKind::RsaPrivateKey, _)] => {
            return Err(file
                .refused("is of the older form PKCS#1 (openssl pkcs8 -topk8 -nocrypt -in FILE converts it)", PRIVATE));
        }
        parts => return Err(file.refused(other_than("one private key", parts), PRIVATE)),
    };
    let key =
        PrivateDecryptingKey::from_pkcs8(der).map_err(|error| file.refused(unusable(&error.to_string()), PRIVATE))?;
    logs::warn_if_readable(file.key, file.path);
    let named = named(key.public_key()).zip(OaepPrivateDecryptingKey::new(key).ok());
    named.map(|((kid, _), key)| (kid, key)).ok_or_else(|| file.refused(unusable(""), PRIVATE))
}

fn is_private(kind: SectionKind) -> bool {
    [SectionKind::PrivateKey, SectionKind::RsaPrivateKey, SectionKind::EcPrivateKey].contains(&kind)
}

/// What a file has in place of what it should.
fn other_than(wanted: &str, parts: &[Part]) -> String {
    match parts {
        [] => format!("has not {wanted} in it"),
        [(SectionKind::Certificate, _)] => format!("holds a certificate, not {wanted}"),
        _ => format!("holds something else than {wanted}"),
    }
}

/// In words; `TooSmall` is the library's own for fewer than 2048 bits.
fn unusable(error: &str) -> &'static str {
    if error == "TooSmall" {
        "holds an RSA key of fewer than 2048 bits"
    } else {
        "holds no RSA key of 2048 to 8192 bits"
    }
}

fn named(key: PublicEncryptingKey) -> Option<(String, OaepPublicEncryptingKey)> {
    let der: PublicKeyX509Der<'_> = key.as_der().ok()?;
    Some((thumbprint(der.as_ref())?, OaepPublicEncryptingKey::new(key).ok()?))
}

/// RFC 7638, section 3: the SHA-256 of a JWK of the members that make the key, in their order, without blanks.
fn thumbprint(spki: &[u8]) -> Option<String> {
    let (mut outer, mut bits) = (field(0x30, &mut &*spki)?, &[][..]);
    field(0x30, &mut outer)?; // the algorithm
    if let [0, key @ ..] = field(0x03, &mut outer)? {
        bits = key;
    }
    let mut key = field(0x30, &mut bits)?;
    let mut number = || {
        let bytes = field(0x02, &mut key)?;
        let leading = bytes.iter().take_while(|byte| **byte == 0).count();
        Some(BASE64_URL_SAFE_NO_PAD.encode(&bytes[leading..]))
    };
    let (n, e) = (number()?, number()?);
    let jwk = format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#);
    Some(BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(jwk)))
}

/// Takes the next field of this tag off a DER text (X.690, section 8.1).
fn field<'a>(tag: u8, der: &mut &'a [u8]) -> Option<&'a [u8]> {
    let [first, length, rest @ ..] = *der else { return None };
    let (length, rest) = match usize::from(*length) {
        short @ 0..0x80 => (short, rest),
        long => {
            let (length, rest) = rest.split_at_checked(long - 0x80).filter(|(length, _)| length.len() <= 4)?;
            (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
    };
    let (value, rest) = rest.split_at_checked(length).filter(|_| *first == tag)?;
    *der = rest;
    Some(value)
}

/// A fresh pair, as its two files have it.
pub struct Pair {
    /// What both halves are called.
    pub kid: String,
    /// For whoever seals.
    pub public: String,
    /// For whoever opens.
    pub private: Zeroizing<String>,
}

/// How long a fresh key is, in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    /// As strong as 128 bits (NIST SP 800-57, part 1, table 2), which is what the content is sealed with at least.
    Rsa3072,
    /// Somewhat stronger; opening takes about twice as long.
    Rsa4096,
}

impl Pair {
    /// Makes one from the system's random source.
    ///
    /// # Errors
    /// Where that source fails.
    pub fn generate(bits: Bits) -> Result<Self, Unsealed> {
        let size = match bits {
            Bits::Rsa3072 => KeySize::Rsa3072,
            Bits::Rsa4096 => KeySize::Rsa4096,
        };
        let key = PrivateDecryptingKey::generate(size)?;
        let private: Pkcs8V1Der<'_> = key.as_der()?;
        let public: PublicKeyX509Der<'_> = key.public_key().as_der()?;
        let kid = thumbprint(public.as_ref()).ok_or(aws_lc_rs::error::Unspecified)?;
        let public_pem = pem("PUBLIC KEY", public.as_ref()).to_string();
        Ok(Self { kid, public: public_pem, private: pem("PRIVATE KEY", private.as_ref()) })
    }
}

/// RFC 7468, section 2. It is written into room that fits, so that growing leaves no copy behind.
fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let base64 = Zeroizing::new(BASE64_STANDARD.encode(der));
    let mut text = Zeroizing::new(String::with_capacity(base64.len() + base64.len() / LINE + 2 * label.len() + 64));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}
