//! A `.env` file, and who may have written it. Its text: `NAME=value` on each line, as a POSIX shell reads it but that nothing is
//! replaced. What another program would replace is refused, since nobody can know which of the two was meant.

use std::fmt::Display;
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::iter::Peekable;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::Chars;

use rustix::process::geteuid;
use zeroize::Zeroizing;

use super::{ConfigError, inline};

/// Where it is looked for, unless another is named: in the working folder.
const USUAL: &str = ".env";

/// What was read, for whoever wants to know where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvFile {
    /// The whole path.
    pub path: PathBuf,
    /// The names of its variables, in their order.
    pub keys: Vec<String>,
    /// Those whose value is a secret.
    secret_keys: Vec<String>,
}

impl EnvFile {
    /// Its secrets, where it holds any, with the path.
    pub(super) fn secrets(&self) -> Option<(String, PathBuf)> {
        (!self.secret_keys.is_empty()).then(|| (self.secret_keys.join(", "), self.path.clone()))
    }
}

/// Variables with their values.
type Pairs = Vec<(String, String)>;

/// Reads the file that is named, which must be there, or a `.env` in the working folder, where there is one. `known`: whether the
/// environment has a variable of this name.
///
/// # Errors
/// Where it cannot be read, with the line; or where somebody else may have written it: what it says goes over the configuration.
pub(super) fn load(
    named: Option<&Path>,
    known: impl Fn(&str) -> bool,
) -> Result<Option<(EnvFile, Pairs)>, ConfigError> {
    let path = named.unwrap_or(Path::new(USUAL));
    let (called, place) = match named {
        Some(path) => (format!("--env-file {}", path.display()), ""),
        None => (USUAL.to_owned(), " in the working folder"),
    };
    let cannot = |why: &dyn Display| ConfigError::new(format!("{called}{place} cannot be read: {why}"));
    // One that nobody named could be a pipe, and opening it would wait for whoever writes there.
    if named.is_none() && path.metadata().is_ok_and(|found| !found.is_file()) {
        return Err(cannot(&"it is no file; take it away, or name another by --env-file"));
    }
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if named.is_none() && error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot(&error)),
    };
    // What was opened, and not what stands there a moment later.
    let opened = file.metadata().map_err(|error| cannot(&error))?;
    if let Some(why) = distrusted(path, &opened) {
        return Err(ConfigError::new(format!(
            "{called} is not read: {why}; fix that, or name another file by --env-file"
        )));
    }
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).map_err(|error| cannot(&error))?;
    let pairs = read(&text, known)
        .map_err(|Unreadable { line, why }| ConfigError::new(format!("{called}, line {line}: {why}")))?;
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let keys = pairs.iter().map(|(name, _)| name.clone()).collect();
    let secret = pairs.iter().filter(|(name, text)| inline::is_secret_variable(name, text));
    let secret_keys = secret.map(|(name, _)| name.clone()).collect();
    Ok(Some((EnvFile { path, keys, secret_keys }, pairs)))
}

/// Why somebody else may have written a file, or put it there, and what that means.
pub(super) fn distrusted(path: &Path, opened: &Metadata) -> Option<String> {
    let why = written_by_others(path, opened)?;
    Some(format!("{why}, so that somebody else may say where the client's secret and the passwords go"))
}

/// Who may have: by the file itself, or by the folder that it, or a link to it, lies in.
fn written_by_others(path: &Path, opened: &Metadata) -> Option<String> {
    if opened.file_type().is_char_device() {
        return None; // /dev/null: nobody leaves anything there
    }
    let us = geteuid().as_raw();
    if let Some(why) = who_else(opened.mode(), opened.uid(), us) {
        return Some(format!("it {why}"));
    }
    // A pipe of the shell's lies in no folder.
    let real = path.canonicalize().ok().filter(|_| opened.is_file());
    for path in [Some(path), real.as_deref()].into_iter().flatten() {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match folder.metadata().map(|found| who_else(found.mode(), found.uid(), us)) {
            Ok(None) => {}
            Ok(Some(why)) => {
                let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
                return Some(format!("its folder {} {why}", folder.display()));
            }
            Err(error) => return Some(format!("its folder cannot be looked at ({error})")),
        }
    }
    None
}

/// Who may write there beside its owner and root, or who its owner is, where that is neither us nor root. Where a folder's sticky bit
/// keeps others from replacing what is there, they may still put there what is not.
fn who_else(mode: u32, owner: u32, us: u32) -> Option<String> {
    if owner != us && owner != 0 {
        return Some(format!("belongs to another user (uid {owner})"));
    }
    let who = match (mode & 0o020, mode & 0o002) {
        (0, 0) => return None,
        (_, 0) => "its group",
        _ => "everybody",
    };
    Some(format!("can be written by {who} (mode {:o}: chmod go-w)", mode & 0o7777))
}

/// What cannot be read, without a word of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) line: usize,
    pub(super) why: &'static str,
}

const NO_PAIR: &str = "it must be NAME=value, or begin with #";
const OPEN: &str = "its quote is never closed";
const BLANK: &str = "text follows a blank; a value with blanks wants quotes around it";
const BACKSLASH: &str = "a backslash stands before a character that wants none; put single quotes around the value";
const DOLLAR: &str = "its $ names a variable, and nothing is replaced here; write the value itself, or put single quotes around what is meant as it stands";

/// The variables in their order. `known`: whether the environment has a variable of this name.
pub(super) fn read(text: &str, known: impl Fn(&str) -> bool) -> Result<Vec<(String, String)>, Unreadable> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut reader = Reader { chars: text.chars().peekable(), line: 1 };
    while reader.next_entry() {
        let line = reader.line;
        let is_known = |name: &str| known(name) || pairs.iter().any(|(earlier, _)| earlier == name);
        let pair = reader.pair(is_known).map_err(|why| Unreadable { line, why })?;
        pairs.push(pair);
    }
    Ok(pairs)
}

struct Reader<'a> {
    chars: Peekable<Chars<'a>>,
    line: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.chars.next()?;
        self.line += usize::from(c == '\n');
        Some(c)
    }

    /// Goes to the next line that has a variable.
    fn next_entry(&mut self) -> bool {
        while let Some(c) = self.chars.peek().copied() {
            match c {
                '#' => self.skip(|c| c != '\n'),
                c if c.is_whitespace() => drop(self.next()),
                _ => return true,
            }
        }
        false
    }

    fn skip(&mut self, what: impl Fn(char) -> bool) {
        while self.chars.peek().is_some_and(|c| what(*c)) {
            self.next();
        }
    }

    fn blanks(&mut self) {
        self.skip(|c| c == ' ' || c == '\t');
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_' || *c == '.') {
            name.push(c);
        }
        self.blanks();
        name
    }

    fn pair(&mut self, known: impl Fn(&str) -> bool) -> Result<(String, String), &'static str> {
        let mut name = self.name();
        if name == "export" && self.chars.peek() != Some(&'=') {
            name = self.name();
        }
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit() || c == '.') || self.next() != Some('=') {
            return Err(NO_PAIR);
        }
        self.blanks();
        Ok((name, self.value(known)?))
    }

    fn value(&mut self, known: impl Fn(&str) -> bool) -> Result<String, &'static str> {
        let mut value = String::new();
        // The quote that is open.
        let mut within = None;
        if self.chars.peek() == Some(&'#') {
            return Ok(value);
        }
        while let Some(c) = self.next() {
            match (within, c) {
                (None, '\n') => return Ok(value),
                (None, ' ' | '\t') => {
                    self.blanks();
                    return match self.chars.peek() {
                        None | Some('\n' | '#') => Ok(value),
                        Some(_) => Err(BLANK),
                    };
                }
                (None, '\'' | '"') => within = Some(c),
                (Some(quote), c) if c == quote => within = None,
                (Some('\''), c) => value.push(c),
                (_, '\\') => value.push(match self.next() {
                    Some('n') => '\n',
                    Some(c @ ('\\' | '\'' | '"' | '$' | ' ')) => c,
                    Some(_) | None => return Err(BACKSLASH),
                }),
                (_, '$') if self.names_a_variable(&known) => return Err(DOLLAR),
                (_, c) => value.push(c),
            }
        }
        if within.is_some() { Err(OPEN) } else { Ok(value) }
    }

    /// Whether what follows a `$` names one: in braces whatever it is, without them one that there is.
    fn names_a_variable(&self, known: impl Fn(&str) -> bool) -> bool {
        let mut ahead = self.chars.clone();
        if ahead.peek() == Some(&'{') {
            return true;
        }
        let name: String = ahead.take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        known(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<String> {
        let pairs = read(text, |name| name == "HOME").unwrap();
        assert!(pairs.iter().zip(1..).all(|((name, _), n)| *name == format!("K{n}")), "{pairs:?}");
        pairs.into_iter().map(|(_, value)| value).collect()
    }

    #[test]
    fn a_value_is_what_a_shell_would_make_of_it() {
        let text = "K1=1\nK2=\"2 \\\"\\$x\\\\\\n\"\n  # a comment\nK3='3 $HOME\\'\nexport K4=f\\ our\nK5=\nK6=   # nothing\nK7  =  a#b # c\nK8=a'b'\"c\"\n\nK9=\"two\nlines\"\nK10=end";
        let expected = ["1", "2 \"$x\\\n", "3 $HOME\\", "f our", "", "", "a#b", "abc", "two\nlines", "end"];
        assert_eq!(values(text), expected);
        assert_eq!(values(&format!("\u{feff}{}", text.replace('\n', "\r\n"))), expected);
        assert_eq!(read("export=1", |_| false), Ok(vec![("export".into(), "1".into())]));
    }

    #[test]
    fn a_dollar_that_names_no_variable_is_one() {
        assert_eq!(values("K1=pa$word\nK2=$\nK3=a$$b$1\nK4=\"$HOMER\""), ["pa$word", "$", "a$$b$1", "$HOMER"]);
    }

    #[test]
    fn others_than_its_owner_and_root_may_not_have_written_it() {
        // (mode, owner, us, what is said)
        for (mode, owner, us, says) in [
            (0o100_600, 1000, 1000, None),
            (0o100_644, 1000, 1000, None),
            (0o040_755, 0, 1000, None),
            (0o100_400, 0, 0, None),
            (0o100_664, 1000, 1000, Some("its group (mode 664")),
            (0o100_646, 0, 0, Some("everybody (mode 646")),
            (0o041_777, 0, 1000, Some("everybody (mode 1777")),
            (0o100_620, 0, 1000, Some("its group")),
            (0o100_600, 1001, 1000, Some("another user (uid 1001)")),
            (0o040_755, 1000, 0, Some("another user (uid 1000)")),
        ] {
            let said = who_else(mode, owner, us);
            assert_eq!(said.is_some(), says.is_some(), "{mode:o} {owner} {us}: {said:?}");
            assert!(says.is_none_or(|part| said.as_ref().unwrap().contains(part)), "{said:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_has_its_line() {
        for (line, why) in [
            ("K=$HOME", DOLLAR),
            ("K=a$A/b", DOLLAR),
            ("K=\"${ANY}\"", DOLLAR),
            ("K=a b", BLANK),
            ("K=\"a\" b", BLANK),
            ("K=\\d", BACKSLASH),
            ("K", NO_PAIR),
            ("=x", NO_PAIR),
            ("1K=x", NO_PAIR),
            ("K: x", NO_PAIR),
            ("export K", NO_PAIR),
            ("K='a", OPEN),
            ("K=\"a\n", OPEN),
        ] {
            let text = format!("A=\"1\n\"\n{line}\nB=2");
            assert_eq!(read(&text, |name| name == "HOME"), Err(Unreadable { line: 3, why }), "{line}");
        }
    }
}
