//! The text of a `.env` file: `NAME=value` on each line, as a POSIX shell reads it but that nothing is replaced. What another program
//! would replace is refused, since nobody can know which of the two was meant.

use std::iter::Peekable;
use std::str::Chars;

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
