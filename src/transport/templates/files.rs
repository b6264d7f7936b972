//! The folder of templates: which files and languages there are, and how one is named in an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::{Error, ErrorKind};

use crate::config::ConfigError;
use crate::domain::language::Language;

/// So many steps of the library's (its fuel) filling in one template may take; 64 bytes of text cost one too. It is far more than a long
/// mail takes, and some milliseconds.
pub(super) const STEPS: u64 = 100_000;

/// The templates of one folder, by their names.
pub(super) struct Files {
    folder: PathBuf,
    sources: BTreeMap<String, String>,
}

impl Files {
    /// Reads all that ends in `.txt` or `.html`.
    pub(super) fn of(folder: &Path) -> Result<Self, ConfigError> {
        let mut sources = BTreeMap::new();
        for path in entries(folder)? {
            let is_template = path.extension().is_some_and(|end| end == "txt" || end == "html");
            let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|_| is_template && path.is_file())
            else {
                continue;
            };
            let source = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
            sources.insert(name.to_owned(), source);
        }
        Ok(Self { folder: folder.to_owned(), sources })
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.sources.iter().map(|(name, source)| (name.as_str(), source.as_str()))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.sources.contains_key(name)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The file, and the first line that has this word.
    pub(super) fn place(&self, name: &str, word: &str) -> String {
        let source = self.sources.get(name).map(String::as_str).unwrap_or_default();
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let line = source.lines().position(|line| line.split(|c| !is_part(c)).any(|part| part == word));
        let path = self.path(name);
        line.map_or_else(|| path.display().to_string(), |line| format!("{} line {}", path.display(), line + 1))
    }

    /// What is wrong with a template, and where: it may be in one that it includes.
    pub(super) fn refused(&self, above: Option<&Self>, name: &str, error: &Error) -> ConfigError {
        let mut error = error;
        while let Some(within) = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Error>()) {
            error = within;
        }
        let name = error.name().unwrap_or(name);
        let place = above.filter(|_| !self.has(name)).unwrap_or(self).path(name);
        let line = error.line().map(|line| format!(" line {line}")).unwrap_or_default();
        let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
        ConfigError::new(format!("mailer.templates: {}{line}: {}{detail}", place.display(), kind(error)))
    }
}

/// What kind of error it is; where one within it says that there were too many steps, that.
pub(super) fn kind(error: &Error) -> String {
    let within = std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source());
    let mut within = within.filter_map(|error| error.downcast_ref::<Error>());
    if within.any(|error| error.kind() == ErrorKind::OutOfFuel) {
        return format!("it takes more than {STEPS} steps to fill in; is there a loop in it that hardly ends?");
    }
    error.kind().to_string()
}

/// The sub-folders, each called by a language.
pub(super) fn languages(folder: &Path) -> Result<Vec<(Language, PathBuf)>, ConfigError> {
    let mut languages = Vec::new();
    for path in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let language = Language::parse(name).ok_or_else(|| {
            ConfigError::new(format!(
                "mailer.templates: {}: a folder in it must be called by a language, such as \"de\" or \"pt-BR\"",
                path.display()
            ))
        })?;
        languages.push((language, path));
    }
    Ok(languages)
}

/// What is in a folder, sorted; what begins with a dot is not ours.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect()
    };
    let mut paths = read().map_err(|error| unreadable(folder, &error))?;
    paths.retain(|path| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")));
    paths.sort();
    Ok(paths)
}

fn unreadable(path: &Path, error: &std::io::Error) -> ConfigError {
    ConfigError::new(format!("mailer.templates: {} cannot be read: {error}", path.display()))
}
