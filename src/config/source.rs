//! Where the configuration comes from: the default, the files, the environment, each over the one before.

use std::path::{Path, PathBuf};

use config::{Config, ConfigError as Cause, File, FileFormat};
use rustix::fs::StatVfsMountFlags;

use super::env_file::{self, EnvFile};
use super::{ConfigError, Environment, inline, root::Raw, value};

const DEFAULT: &str = include_str!("../../config/default.toml");
const PREFIX: &str = "RESETD";
const SEPARATOR: &str = "__";

/// What was read.
pub(super) struct Read {
    pub(super) raw: Raw,
    /// The files that hold secrets themselves, with the keys of these.
    pub(super) with_secrets: Vec<(String, PathBuf)>,
    /// The `--config` files that others may change, and why.
    pub(super) changeable: Vec<(PathBuf, String)>,
}

/// Lays them over one another: default, compiled-in texts, files, environment.
pub(super) fn read(files: &[PathBuf], texts: &[&str], environment: &Environment) -> Result<Read, ConfigError> {
    let mut builder = Config::builder().add_source(File::from_str(DEFAULT, FileFormat::Toml));
    for text in texts {
        builder = builder.add_source(File::from_str(text, FileFormat::Toml));
    }
    let mut with_secrets: Vec<_> = environment.file().and_then(EnvFile::secrets).into_iter().collect();
    let mut changeable = Vec::new();
    for path in files {
        let (text, table) = toml_of(path)?;
        // A pipe of the shell's is its alone; and where nobody can write, as in a mounted secret, modes say nothing.
        let is_read_only =
            rustix::fs::statvfs(path).is_ok_and(|system| system.f_flag.contains(StatVfsMountFlags::RDONLY));
        let found = path.metadata().ok().filter(|found| found.is_file() && !is_read_only);
        let why = found.and_then(|found| env_file::distrusted(path, &found));
        changeable.extend(why.map(|why| (path.clone(), why)));
        let keys = inline::keys(&table);
        if !keys.is_empty() {
            with_secrets.push((keys.join(", "), path.clone()));
        }
        builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
    }
    // Only texts: never try_parsing, which turns a secret 007 into 7.
    let environment = config::Environment::with_prefix(PREFIX)
        .prefix_separator(SEPARATOR)
        .separator(SEPARATOR)
        .source(Some(environment.keys()));
    let config = builder.add_source(environment).build().map_err(|cause| explain(&cause))?;
    Ok(Read { raw: config.try_deserialize().map_err(|cause| explain(&cause))?, with_secrets, changeable })
}

/// The text of a file, and the TOML that it is. The parser's own error would repeat the line, and with it a secret.
fn toml_of(path: &Path) -> Result<(String, toml::Table), ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::new(format!("--config {}: it cannot be read: {error}", path.display())))?;
    let text = value::unmarked(&text).to_owned();
    let table = text.parse().map_err(|error: toml::de::Error| {
        let line =
            error.span().and_then(|span| text.get(..span.start)).map_or(0, |before| before.lines().count().max(1));
        ConfigError::new(format!("--config {}: it is not TOML: near line {line}: {}", path.display(), error.message()))
    })?;
    Ok((text, table))
}

/// The cause with its key in front.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library's own errors; all but these explain themselves")]
fn explain(cause: &Cause) -> ConfigError {
    match cause {
        Cause::At { error, key: Some(key), .. } => ConfigError::new(format!("{key}: {error}")),
        Cause::Type { unexpected, expected, key: Some(key), .. } => {
            ConfigError::new(format!("{key} is {unexpected}; it must be {expected}"))
        }
        other => ConfigError::new(other.to_string()),
    }
}
