//! A stub in the place of `p12-keystore`, with the part of it that `tcp-stream` calls. It reads no PKCS#12 file, and says so: a client's
//! certificate and key are given in PEM. The library itself brings some fifty packages, `des`, `rc2` and `scrypt` among them, and no
//! feature of lapin's leaves it out. See `patches/README.md`.

use std::fmt;

/// What every call answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsupported;

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a client certificate in a PKCS#12 file is not supported here; give certificate and key in PEM")
    }
}

impl std::error::Error for Unsupported {}

/// A key store. There is none.
#[derive(Debug)]
pub enum KeyStore {}

/// A private key with its certificates. There is none.
#[derive(Debug)]
pub enum PrivateKeyChain {}

/// A certificate. There is none.
#[derive(Debug)]
pub enum Certificate {}

impl KeyStore {
    /// Reads a file.
    ///
    /// # Errors
    /// Always.
    pub fn from_pkcs12(_data: &[u8], _password: &str) -> Result<Self, Unsupported> {
        Err(Unsupported)
    }

    /// Its first private key, with its name.
    pub fn private_key_chain(&self) -> Option<(&str, &PrivateKeyChain)> {
        match *self {}
    }
}

impl PrivateKeyChain {
    /// The key, in PKCS#8.
    pub fn key(&self) -> &[u8] {
        match *self {}
    }

    /// Its certificate and those above it.
    pub fn chain(&self) -> &[Certificate] {
        match *self {}
    }
}

impl Certificate {
    /// Its bytes.
    pub fn as_der(&self) -> &[u8] {
        match *self {}
    }
}
