//! What the integration tests share. It knows nothing of `resetd` but that it is a binary, so that a change there builds nothing here.
//!
//! Everything here ends with the value that stands for it, and what is shared by a whole run ends with the run.
#![expect(clippy::unwrap_used, reason = "a test fails loudly, in its helpers too")]
#![expect(missing_docs, reason = "no one but the tests reads it")]
#![expect(clippy::new_without_default, reason = "what starts something says so: new, not default")]

pub mod broker;
pub mod browser;
pub mod certificates;
#[cfg(target_os = "linux")]
pub mod cluster;
pub mod dice;
pub mod http;
pub mod mail_server;
mod pipe;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod relay;
pub mod tls_front;
mod wait;

pub use wait::{LIMIT, eventually};

use std::path::{Path, PathBuf};

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// One of the repository's scripts.
pub fn script(name: &str) -> PathBuf {
    root().join("scripts").join(name)
}
