//! What a mail says: the templates of the configuration, or the notification's own text.
//!
//! A folder holds `subject.txt`, `body.txt` and, if wanted, `body.html`, in `mailer.language`; each sub-folder holds the same in the
//! language it is called by. A person whose language is not there is written to in the next wider one (`pt` for `pt-BR`), else in that
//! of the folder itself. Other files that end in `.txt` or `.html` can be included or extended; a sub-folder's go before the folder's.
//! All of it is tried before the first mail: an unknown name, a subject that holds the password or a body without it ends the process.

mod files;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use minijinja::{AutoEscape, Environment, Error, HtmlEscape, UndefinedBehavior, Value};
use zeroize::Zeroizing;

use self::files::Files;
use super::delivery::Mail;
use crate::config::ConfigError;
use crate::config::mailer::Settings;
use crate::domain::escape::is_hidden;
use crate::domain::job::JobId;
use crate::domain::language::Language;
use crate::domain::note::{Content, Note, NoteId, Words};
use crate::domain::password::Password;
use crate::domain::recipient::Recipient;
use crate::domain::user::UserId;

const SUBJECT: &str = "subject.txt";
const TEXT: &str = "body.txt";
const HTML: &str = "body.html";
/// What a template may name beside the password, which a subject may not.
const NAMES: [&str; 6] = ["to", "userId", "org", "jobId", "issuedAt", "language"];
const PASSWORD: &str = "password";
/// Every character of it that HTML has a meaning for must be seen as typed.
const SAMPLE: &str = "Sample<b>&amp;\"'/!*-7";

/// The templates, in all their languages; or none.
#[derive(Debug, Default)]
pub struct Templates {
    /// The first is that of the folder itself.
    sets: Vec<Set>,
}

/// The templates of one language.
struct Set {
    language: Language,
    templates: Environment<'static>,
    has_html: bool,
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Set").field("language", &self.language).finish_non_exhaustive()
    }
}

/// A mail that could not be written. In words without its values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the template {file} of the language {language} cannot be filled in: {why}")]
pub struct Unwritten {
    file: &'static str,
    language: Language,
    why: String,
}

impl Templates {
    /// Reads those of the configuration, and tries every one of them with a sample.
    ///
    /// # Errors
    /// Where one cannot be read, or would write a mail that must not be sent. The error names the file and the line.
    pub fn load(settings: &Settings) -> Result<Self, ConfigError> {
        let Some(folder) = &settings.templates else { return Ok(Self::default()) };
        let top = Files::of(folder)?;
        let mut sets = vec![Set::of(settings.language.clone(), &top, None)?];
        for (language, sub) in files::languages(folder)? {
            if let Some(twice) = sets.iter().find(|set| set.language.is(&language)) {
                return Err(ConfigError::new(format!(
                    "mailer.templates: {}: the language {} stands twice; the files in {} are in mailer.language, \"{}\"",
                    sub.display(),
                    twice.language,
                    folder.display(),
                    settings.language
                )));
            }
            sets.push(Set::of(language, &Files::of(&sub)?, Some(&top))?);
        }
        Ok(Self { sets })
    }

    /// The languages there are, the one for everybody else first; none where mails say the notification's own text.
    pub fn languages(&self) -> impl Iterator<Item = &Language> {
        self.sets.iter().map(|set| &set.language)
    }

    /// The mail of a notification, in the person's language where that is there.
    ///
    /// # Errors
    /// Where a template cannot be filled in with it.
    pub fn mail(&self, note: &Note, words: &Words) -> Result<Mail, Unwritten> {
        let (subject, text, html) = match self.set(note.language.as_ref()) {
            Some(set) => set.fill_in(note, &words.password)?,
            None => (note.subject.clone(), words.body.clone(), None),
        };
        let password = words.password.clone();
        Ok(Mail { id: note.id.clone(), to: note.to.clone(), password, subject, text, html })
    }

    /// RFC 4647, section 3.4: the language itself, else the next wider one, else the folder's own.
    fn set(&self, language: Option<&Language>) -> Option<&Set> {
        let mut wanted = language.cloned();
        while let Some(language) = wanted {
            if let Some(set) = self.sets.iter().find(|set| set.language.is(&language)) {
                return Some(set);
            }
            wanted = language.wider();
        }
        self.sets.first()
    }
}

type Filled = (String, Zeroizing<String>, Option<Zeroizing<String>>);

impl Set {
    /// Of the files in a folder, which may include those of the folder above it.
    fn of(language: Language, files: &Files, above: Option<&Files>) -> Result<Self, ConfigError> {
        let mut templates = Environment::new();
        templates.set_fuel(Some(files::STEPS));
        templates.set_undefined_behavior(UndefinedBehavior::Strict);
        templates.set_auto_escape_callback(|name| {
            if Path::new(name).extension().is_some_and(|end| end == "html") {
                AutoEscape::Html
            } else {
                AutoEscape::None
            }
        });
        for (name, source) in above.into_iter().chain([files]).flat_map(Files::sources) {
            let added = templates.add_template_owned(name.to_owned(), source.to_owned());
            added.map_err(|error| files.refused(above, name, &error))?;
        }
        let set = Self { language, templates, has_html: files.has(HTML) };
        for name in set.own() {
            if !files.has(name) {
                return Err(ConfigError::new(format!("mailer.templates: {} is missing", files.path(name).display())));
            }
        }
        let all: BTreeSet<&str> =
            above.into_iter().chain([files]).flat_map(Files::sources).map(|(name, _)| name).collect();
        for name in all {
            set.knows_every_name(above.filter(|_| !files.has(name)).unwrap_or(files), name)?;
        }
        set.try_out(files, above)?;
        Ok(set)
    }

    /// The templates that it is made of.
    fn own(&self) -> impl Iterator<Item = &'static str> {
        [SUBJECT, TEXT].into_iter().chain(self.has_html.then_some(HTML))
    }

    /// Where no sample leads is looked too, and what is included or extended there.
    fn knows_every_name(&self, files: &Files, name: &str) -> Result<(), ConfigError> {
        let known = |used: &String| {
            NAMES.contains(&used.as_str())
                || (name != SUBJECT && used == PASSWORD)
                || self.templates.globals().any(|(global, _)| global == used)
        };
        let used = self.templates.get_template(name).map(|template| template.undeclared_variables(false));
        let used: BTreeSet<String> = used.map_err(|error| files.refused(None, name, &error))?.into_iter().collect();
        let Some(unknown) = used.into_iter().find(|used| !known(used)) else { return Ok(()) };
        let place = files.place(name, &unknown);
        if unknown == PASSWORD {
            return Err(ConfigError::new(format!("mailer.templates: {place}: a subject must not hold the password")));
        }
        let names = NAMES.join(", ");
        Err(ConfigError::new(format!(
            "mailer.templates: {place}: the name {unknown:?} is unknown; there are password (not in a subject), {names}"
        )))
    }

    /// Writes a mail to nobody.
    fn try_out(&self, files: &Files, above: Option<&Files>) -> Result<(), ConfigError> {
        let (note, words) = sample(&self.language);
        let values = values(&note, &self.language);
        let write = |name: &str, password: Option<&Password>| {
            self.render(name, &values, password).map_err(|error| files.refused(above, name, &error))
        };
        let wrong = |name: &str, what: &str| {
            Err(ConfigError::new(format!("mailer.templates: {}: {what}", files.path(name).display())))
        };
        let subject = write(SUBJECT, None)?;
        if subject.trim().is_empty() || subject.trim().chars().any(char::is_control) {
            return wrong(SUBJECT, "a subject must be one line of text");
        }
        if !write(TEXT, Some(&words.password))?.contains(SAMPLE) {
            return wrong(TEXT, "the password is not in what it writes; put {{ password }} where it goes");
        }
        if self.has_html && !write(HTML, Some(&words.password))?.contains(&HtmlEscape(SAMPLE).to_string()) {
            let what = "the password is not in what it writes, or not escaped; put {{ password }} where it goes, without a filter";
            return wrong(HTML, what);
        }
        Ok(())
    }

    fn fill_in(&self, note: &Note, password: &Password) -> Result<Filled, Unwritten> {
        let values = values(note, &self.language);
        let write = |file: &'static str, password: Option<&Password>| {
            // Its kind alone: the rest of an error may repeat a value.
            self.render(file, &values, password).map_err(|error| self.unwritten(file, files::kind(&error)))
        };
        let subject = write(SUBJECT, None)?.trim().to_owned();
        let text = write(TEXT, Some(password))?;
        let html = self.has_html.then(|| write(HTML, Some(password))).transpose()?;
        if !text.contains(password.expose()) {
            return Err(self.unwritten(TEXT, "the password is not in what it writes".into()));
        }
        Ok((subject, text, html))
    }

    fn unwritten(&self, file: &'static str, why: String) -> Unwritten {
        Unwritten { file, language: self.language.clone(), why }
    }

    fn render(
        &self,
        name: &str,
        values: &[(&'static str, String)],
        password: Option<&Password>,
    ) -> Result<Zeroizing<String>, Error> {
        let password = password.map(|password| (PASSWORD, Value::from(password.expose())));
        let values = values.iter().map(|(name, value)| (*name, Value::from(value.as_str())));
        let context = Value::from_pairs(values.chain(password));
        self.templates.get_template(name)?.render(context).map(Zeroizing::new)
    }
}

/// What a template may name. No value has a line break in it, or what is not seen: a job's id is its producer's.
fn values(note: &Note, language: &Language) -> [(&'static str, String); NAMES.len()] {
    let line = |text: &str| text.chars().map(|c| if is_hidden(c) { ' ' } else { c }).collect();
    let [to, user, org, job, issued_at, tongue] = NAMES;
    [
        (to, line(note.to.as_str())),
        (user, line(note.user.as_str())),
        (org, line(&note.org)),
        (job, line(note.job.as_str())),
        (issued_at, note.issued_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        (tongue, language.to_string()),
    ]
}

/// A notification to nobody, for trying templates and for looking at them.
pub(super) fn sample(language: &Language) -> (Note, Words) {
    let password = Password::known(Zeroizing::new(SAMPLE.into()));
    let body =
        Zeroizing::new(format!("Your temporary password is: {SAMPLE}. Please log in and change it immediately."));
    let words = Words { password, body };
    let parts = (
        NoteId::parse("sample"),
        UserId::parse("0f6e7c1a-5b7e-4e0b-9d0c-6f1f5d1c2a3b"),
        Recipient::parse("to", "agent@example.com"),
    );
    let (Ok(id), Ok(user), Ok(to)) = parts else { unreachable!("the sample's parts are written above") };
    let note = Note {
        id,
        job: JobId::new("sample/0f6e7c1a-5b7e-4e0b-9d0c-6f1f5d1c2a3b"),
        org: "main".into(),
        user,
        to,
        subject: "Genesys Cloud Temporary Password Reset".into(),
        issued_at: jiff::Timestamp::from_second(1_795_456_800).unwrap_or_default(),
        language: Some(language.clone()),
        batch: Some("sample".into()),
        content: Content::Open(words.clone()),
    };
    (note, words)
}

#[cfg(test)]
mod tests;
