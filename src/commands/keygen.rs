//! `resetd keygen NAME`: a key pair for sealed notifications, in two files, and the lines of the configuration that name them.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf, absolute};

use anyhow::{Context, Result};

use super::stdout;
use crate::config::ConfigError;
use crate::transport::keys::{Bits, Pair};

/// The flags of `resetd keygen`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It writes NAME.pub.pem, for the workers (notification.seal_to), and NAME.key.pem, which only its owner can read, for who opens (mailer.open_with, or your own mail service). Files that are there are never overwritten. The private key should not lie where workers or the broker run: it opens every password that was sealed to it.

Standard output is TOML, with the kid, which is the key's RFC 7638 thumbprint. How keys are changed: docs/security.md.

Examples:
  resetd keygen /etc/resetd/mail-2026
  resetd keygen --bits 4096 mail"
)]
pub struct Args {
    /// What both files are called, without .pub.pem and .key.pem; the folder must be there.
    #[arg(value_name = "NAME")]
    name: PathBuf,
    /// How long the key is, in bits.
    #[arg(long, value_enum, default_value = "3072")]
    bits: Length,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Length {
    #[value(name = "3072")]
    Rsa3072,
    #[value(name = "4096")]
    Rsa4096,
}

/// Makes a pair, and writes the lines to standard output.
///
/// # Errors
/// Where one of the files is there already, which is a usage error, or cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let [public, private] = ["pub.pem", "key.pem"].map(|rest| with(&args.name, rest));
    for path in [&public, &private] {
        if path.symlink_metadata().is_ok() {
            return Err(taken(path).into());
        }
    }
    let pair = Pair::generate(match args.bits {
        Length::Rsa3072 => Bits::Rsa3072,
        Length::Rsa4096 => Bits::Rsa4096,
    })?;
    write(&private, 0o600, pair.private.as_bytes())?;
    write(&public, 0o644, pair.public.as_bytes()).inspect_err(|_| {
        // Half a pair is of no use, and nobody has seen this one.
        let _ = fs::remove_file(&private);
    })?;
    let shown = |path: &Path| toml_string(&absolute(path).unwrap_or_else(|_| path.to_owned()).to_string_lossy());
    stdout::say(&format!(
        "# kid {}: the first for the workers, the second for who opens.\n[notification]\nseal_to = [{}]\n[mailer]\nopen_with = [{}]",
        pair.kid,
        shown(&public),
        shown(&private)
    ))
}

/// A basic string of TOML. What cannot be seen is written as what it is; Rust has another way for that.
fn toml_string(text: &str) -> String {
    let write = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        // Seen as it is.
        c if c == '\'' || c.escape_debug().len() == 1 => c.to_string(),
        c => format!("\\U{:08X}", u32::from(c)),
    };
    format!("\"{}\"", text.chars().map(write).collect::<String>())
}

/// A name may have dots of its own.
fn with(name: &Path, rest: &str) -> PathBuf {
    let mut whole = name.as_os_str().to_owned();
    whole.push(".");
    whole.push(rest);
    whole.into()
}

fn taken(path: &Path) -> ConfigError {
    ConfigError::new(format!("NAME: {} is there already, and no key is overwritten; take another NAME", path.display()))
}

fn write(path: &Path, mode: u32, content: &[u8]) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = match file {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(taken(path).into()),
        file => file.with_context(|| format!("{} cannot be written; its folder must be there", path.display()))?,
    };
    let written = file.write_all(content).and_then(|()| file.sync_all());
    written.with_context(|| format!("{} could not be written in full", path.display())).inspect_err(|_| {
        let _ = fs::remove_file(path);
    })
}
