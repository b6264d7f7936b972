//! Where the configuration comes from: the default, the files, the environment, each over the one before.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use config::{Config, ConfigError as Cause, File, FileFormat};

use super::{ConfigError, env_file, raw::Raw, value};

const DEFAULT: &str = include_str!("../../config/default.toml");
const PREFIX: &str = "RESETD";
const SEPARATOR: &str = "__";

/// The environment, taken once at the start: the process's variables over those of `.env`. A line break at the end of one is not part
/// of it.
#[derive(Clone, Default)]
pub struct Environment(HashMap<String, String>);

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Environment(…)")
    }
}

impl Environment {
    /// The process's own, and what a `.env` in the working folder adds.
    ///
    /// # Errors
    /// Where `.env` is there but cannot be read, with the line; its content is not repeated.
    pub fn of_process() -> Result<Self, ConfigError> {
        let own =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let own: HashMap<String, String> = own.collect();
        let mut variables: HashMap<_, _> = dotenv(&own)?.into_iter().collect();
        variables.extend(own);
        Ok(Self::unbroken(variables))
    }

    fn unbroken(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(variables.into_iter().map(|(name, text)| (name, value::unbroken(&text).to_owned())).collect())
    }

    /// One made of these.
    pub fn of<const N: usize>(variables: [(&str, &str); N]) -> Self {
        Self::unbroken(variables.map(|(name, value)| (name.to_owned(), value.to_owned())))
    }

    /// Sets one over what is there.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// One variable; an empty one counts as unset.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// What the `.env` in the working folder adds to the process's own variables.
fn dotenv(own: &HashMap<String, String>) -> Result<Vec<(String, String)>, ConfigError> {
    let cannot =
        |why: &dyn std::fmt::Display| ConfigError::new(format!(".env in the working folder cannot be read: {why}"));
    let text = match std::fs::read_to_string(".env") {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(cannot(&error)),
    };
    env_file::read(&text, |name| own.contains_key(name))
        .map_err(|env_file::Unreadable { line, why }| ConfigError::new(format!(".env, line {line}: {why}")))
}

/// Lays them over one another: default, compiled-in texts, files, environment.
pub(super) fn read(files: &[PathBuf], texts: &[&str], environment: &Environment) -> Result<Raw, ConfigError> {
    let mut builder = Config::builder().add_source(File::from_str(DEFAULT, FileFormat::Toml));
    for text in texts {
        builder = builder.add_source(File::from_str(text, FileFormat::Toml));
    }
    for path in files {
        builder = builder.add_source(File::from_str(&toml_of(path)?, FileFormat::Toml));
    }
    // Only texts: never try_parsing, which turns a secret 007 into 7.
    let ours = environment.0.iter().filter(|(name, _)| name.starts_with("RESETD__"));
    let variables = ours.map(|(name, value)| (name.clone(), value.clone())).collect();
    let environment = config::Environment::with_prefix(PREFIX)
        .prefix_separator(SEPARATOR)
        .separator(SEPARATOR)
        .source(Some(variables));
    let config = builder.add_source(environment).build().map_err(|cause| explain(&cause))?;
    config.try_deserialize().map_err(|cause| explain(&cause))
}

/// The text of a file, known to be TOML. The parser's own error would repeat the line, and with it a secret.
fn toml_of(path: &Path) -> Result<String, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::new(format!("--config {}: it cannot be read: {error}", path.display())))?;
    let text = value::unmarked(&text).to_owned();
    if let Err(error) = text.parse::<toml::Table>() {
        let line =
            error.span().and_then(|span| text.get(..span.start)).map_or(0, |before| before.lines().count().max(1));
        return Err(ConfigError::new(format!(
            "--config {}: it is not TOML: near line {line}: {}",
            path.display(),
            error.message()
        )));
    }
    Ok(text)
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
