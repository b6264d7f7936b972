//! Sealed notifications: a compact JWE (RFC 7516, section 3.1) by RSA-OAEP-256 and A256GCM (RFC 7518, sections 4.3 and 5.3). The worker
//! has public keys and closes, whoever delivers has the private ones and opens.
//!
//! A key's `kid` is its thumbprint (RFC 7638): both halves give it by themselves, so nobody has to name keys and no two can be mixed up.

use std::fmt;
use std::path::PathBuf;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::keys::{self, KeyFile};
use super::unsealed::Unsealed;
use crate::config::ConfigError;

const ALG: &str = "RSA-OAEP-256";
const ENC: &str = "A256GCM";
/// The length of an A256GCM tag, in bytes.
const TAG: usize = 16;
/// How much of a foreign header's value is repeated, in characters.
const REPEATED: usize = 80;

/// What closes: the first of the public keys.
pub struct Seal {
    key: OaepPublicEncryptingKey,
    header: String,
    /// The `kid` of every key that was given, the one that seals first.
    kids: Vec<String>,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal").field("kids", &self.kids).finish_non_exhaustive()
    }
}

impl Seal {
    /// Reads the files of `notification.seal_to`; `None` where there are none, and nothing is sealed.
    ///
    /// # Errors
    /// Where one cannot be read or holds no RSA public key of 2048 to 8192 bits.
    pub fn load(files: &[PathBuf]) -> Result<Option<Self>, ConfigError> {
        let load = |path: &PathBuf| keys::public(&KeyFile { key: "notification.seal_to", path });
        let mut keys = files.iter().map(load).collect::<Result<Vec<_>, _>>()?.into_iter();
        let Some((kid, key)) = keys.next() else { return Ok(None) };
        // Read for nothing but their being keys: the next one is known to do before it becomes the first.
        let others = keys.map(|(kid, _)| kid);
        let header = BASE64URL.encode(format!(r#"{{"alg":"{ALG}","enc":"{ENC}","kid":"{kid}"}}"#));
        Ok(Some(Self { key, header, kids: [kid].into_iter().chain(others).collect() }))
    }

    /// The `kid` of the key that seals.
    pub fn kid(&self) -> &str {
        &self.kids[0]
    }

    /// The `kid` of each key that would seal if it stood first.
    pub fn others(&self) -> &[String] {
        &self.kids[1..]
    }

    /// Closes it for whoever has the private key: a compact JWE.
    ///
    /// # Errors
    /// Where the system's random source fails.
    pub fn close(&self, secret: &[u8]) -> Result<String, Unsealed> {
        let (mut content_key, mut nonce) = (Zeroizing::new([0; 32]), [0; NONCE_LEN]);
        rand::fill(content_key.as_mut_slice())?;
        rand::fill(&mut nonce)?;
        let mut encrypted = vec![0; self.key.ciphertext_size()];
        let encrypted = self.key.encrypt(&OAEP_SHA256_MGF1SHA256, content_key.as_slice(), &mut encrypted, None)?;
        let mut text = Zeroizing::new(secret.to_vec());
        let tag = content_cipher(&content_key)?.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(self.header.as_bytes()),
            &mut text,
        )?;
        let parts = [&*encrypted, nonce.as_slice(), text.as_slice(), tag.as_ref()];
        let parts = parts.map(|part| BASE64URL.encode(part));
        Ok([self.header.as_str()].into_iter().chain(parts.iter().map(String::as_str)).collect::<Vec<_>>().join("."))
    }
}

/// The content key is used once, so no nonce can come again under it.
fn content_cipher(content_key: &[u8; 32]) -> Result<LessSafeKey, Unspecified> {
    UnboundKey::new(&AES_256_GCM, content_key).map(LessSafeKey::new)
}

/// What opens: private keys by their `kid`.
pub struct Keys(Vec<(String, OaepPrivateDecryptingKey)>);

/// Why a sealed text cannot be opened. None of it holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotOpen {
    /// It was never sealed, or cut.
    #[error("it is no compact JWE with a kid")]
    NotSealed,
    /// It was sealed by somebody who knows other ways.
    #[error(
        "it is sealed to kid {kid} by alg {alg:?} and enc {enc:?}; only RSA-OAEP-256 and A256GCM, without crit and zip, are opened"
    )]
    Foreign {
        /// The key it names.
        kid: String,
        /// How the content key is encrypted.
        alg: String,
        /// How the content is.
        enc: String,
    },
    /// The private key is not here.
    #[error("it is sealed to kid {kid}, and mailer.open_with has {known}")]
    UnknownKey {
        /// The key it names.
        kid: String,
        /// Those that are here.
        known: String,
    },
    /// It was changed, or sealed to another key under this name.
    #[error("it is sealed to kid {kid} and damaged: it does not open with that key")]
    Damaged {
        /// The key it names.
        kid: String,
    },
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    enc: String,
    kid: String,
    /// What one must understand to open it (RFC 7516, section 4.1.13).
    crit: Option<serde::de::IgnoredAny>,
    zip: Option<serde::de::IgnoredAny>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keys").field(&self.kids().collect::<Vec<_>>()).finish()
    }
}

impl Keys {
    /// Reads the files of `mailer.open_with`. One that others on the machine can read is warned of.
    ///
    /// # Errors
    /// Where one cannot be read or holds no RSA private key of 2048 to 8192 bits.
    pub fn load(files: &[PathBuf]) -> Result<Self, ConfigError> {
        files
            .iter()
            .map(|path| keys::private(&KeyFile { key: "mailer.open_with", path }))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The `kid` of each.
    pub fn kids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(kid, _)| kid.as_str())
    }

    /// Whether the key that a sealed text names is here. It need not open with that.
    ///
    /// # Errors
    /// As [`Keys::open`], but for what is damaged.
    pub fn find(&self, sealed: &str) -> Result<(), CannotOpen> {
        self.key_for(sealed.split('.').next().unwrap_or_default()).map(drop)
    }

    /// The key that the first part of a compact JWE names, and its `kid`.
    fn key_for(&self, header: &str) -> Result<(String, &OaepPrivateDecryptingKey), CannotOpen> {
        let header: Option<Header> = decode(header).and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let Header { alg, enc, kid, crit, zip } = header.ok_or(CannotOpen::NotSealed)?;
        if alg != ALG || enc != ENC || crit.is_some() || zip.is_some() {
            return Err(CannotOpen::Foreign { kid: cut(&kid), alg: cut(&alg), enc: cut(&enc) });
        }
        if let Some((_, key)) = self.0.iter().find(|(known, _)| *known == kid) {
            return Ok((kid, key));
        }
        let known: Vec<&str> = self.kids().collect();
        let known = if known.is_empty() { "no key".to_owned() } else { known.join(", ") };
        Err(CannotOpen::UnknownKey { kid: cut(&kid), known })
    }

    /// Opens a compact JWE.
    ///
    /// # Errors
    /// As [`CannotOpen`] says.
    pub fn open(&self, sealed: &str) -> Result<Zeroizing<Vec<u8>>, CannotOpen> {
        let parts: Vec<&str> = sealed.split('.').collect();
        let [first, encrypted, nonce, text, tag] = parts[..] else { return Err(CannotOpen::NotSealed) };
        let (kid, key) = self.key_for(first)?;
        let opened = (|| {
            let nonce = Nonce::try_assume_unique_for_key(&decode(nonce)?).ok()?;
            let mut content_key = Zeroizing::new(vec![0; key.min_output_size()]);
            let content_key = key.decrypt(&OAEP_SHA256_MGF1SHA256, &decode(encrypted)?, &mut content_key, None).ok()?;
            let cipher = content_cipher((&*content_key).try_into().ok()?).ok()?;
            let mut text = Zeroizing::new([decode(text)?, decode(tag).filter(|tag| tag.len() == TAG)?].concat());
            let length = cipher.open_in_place(nonce, Aad::from(first.as_bytes()), &mut text).ok()?.len();
            text.truncate(length);
            Some(text)
        })();
        opened.ok_or(CannotOpen::Damaged { kid })
    }
}

fn decode(part: &str) -> Option<Vec<u8>> {
    BASE64URL.decode(part).ok()
}

/// A foreign value as far as it is repeated, without its control characters.
fn cut(value: &str) -> String {
    value.chars().filter(|c| !c.is_control()).take(REPEATED).collect()
}

#[cfg(test)]
mod tests;
