//! The variables that the process was started with, and those that an env file adds.

use std::collections::HashMap;
use std::path::Path;

use super::env_file::{self, EnvFile};
use super::{ConfigError, value};

/// The environment, taken once at the start: the process's variables over those of `.env`. A line break at the end of one is not part
/// of it.
#[derive(Clone, Default)]
pub struct Environment {
    variables: HashMap<String, String>,
    file: Option<EnvFile>,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Environment(…)")
    }
}

impl Environment {
    /// The process's own, and what a file adds: the one that is named, or a `.env` in the working folder.
    ///
    /// # Errors
    /// Where it is there but cannot be read, with the line; its content is not repeated. Where somebody else may have written it.
    pub fn of_process(named: Option<&Path>) -> Result<Self, ConfigError> {
        let own =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let own: HashMap<String, String> = own.collect();
        let (file, pairs) = env_file::load(named, |name| own.contains_key(name))?.unzip();
        let mut variables: HashMap<_, _> = pairs.into_iter().flatten().collect();
        variables.extend(own);
        Ok(Self { file, ..Self::unbroken(variables) })
    }

    /// The file that added to it, where there was one.
    pub fn file(&self) -> Option<&EnvFile> {
        self.file.as_ref()
    }

    fn unbroken(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let variables = variables.into_iter().map(|(name, text)| (name, value::unbroken(&text).to_owned())).collect();
        Self { variables, file: None }
    }

    /// One made of these.
    pub fn of<const N: usize>(variables: [(&str, &str); N]) -> Self {
        Self::unbroken(variables.map(|(name, value)| (name.to_owned(), value.to_owned())))
    }

    /// Sets one over what is there.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.variables.insert(name.to_owned(), value.into());
    }

    /// One variable; an empty one counts as unset.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Those that stand for keys of the configuration.
    pub(super) fn keys(&self) -> HashMap<String, String> {
        let ours = self.variables.iter().filter(|(name, _)| name.starts_with("RESETD__"));
        ours.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}
