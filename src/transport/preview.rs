//! A sample of every mail, to be looked at before the first one is sent.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use lettre::message::Mailbox;

use super::smtp;
use super::templates::{Templates, Unwritten, sample};
use crate::domain::language::Language;
use crate::domain::notification::Template;

/// A sample that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum NoSample {
    /// A template cannot be filled in.
    #[error(transparent)]
    Unwritten(#[from] Unwritten),
    /// No mail can be made of it.
    #[error(transparent)]
    Unsendable(#[from] smtp::Unsendable),
    /// The file cannot be written.
    #[error("{} cannot be written: {error}", path.display())]
    Unsaved {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Writes into a folder, for each language, the text (`de.txt`), the HTML where there is one (`de.html`) and the whole mail (`de.eml`);
/// where there are no templates, the notification's own text under the name of `language`. Returns the files' paths.
///
/// # Errors
/// Where a sample cannot be made or written.
pub fn preview(
    templates: &Templates,
    language: &Language,
    own: &Template,
    from: &Mailbox,
    folder: &Path,
) -> Result<Vec<PathBuf>, NoSample> {
    let mut paths = Vec::new();
    let mut save = |name: String, bytes: &[u8]| {
        let path = folder.join(name);
        let saved = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, bytes));
        saved.map_err(|error| NoSample::Unsaved { path: path.clone(), error })?;
        paths.push(path);
        Ok::<(), NoSample>(())
    };
    let mut languages: Vec<&Language> = templates.languages().collect();
    if languages.is_empty() {
        languages.push(language);
    }
    for language in languages {
        let (mut note, mut words) = sample(language);
        own.subject().clone_into(&mut note.subject);
        words.body = own.body(&words.password);
        let mail = templates.mail(&note, &words)?;
        save(format!("{language}.txt"), mail.text.as_bytes())?;
        if let Some(html) = &mail.html {
            save(format!("{language}.html"), html.as_bytes())?;
        }
        save(format!("{language}.eml"), &smtp::bytes(&mail, from, SystemTime::now())?)?;
    }
    Ok(paths)
}
