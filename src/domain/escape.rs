//! Text from outside, made fit to be read by a person: what moves the cursor, ends a line, turns the direction of what follows or is
//! not seen at all stands there as an escape. Whoever writes a log line, a table or an error for people goes through here.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// Whether a character does not stand where it is seen, or is not seen: control characters (C0, DEL, C1), line and paragraph
/// separators, marks of bidirectional text, and what has no width (Unicode 16, general categories Cc, Zl, Zp and Cf, the fillers of
/// Hangul, and variation selectors).
pub const fn is_hidden(c: char) -> bool {
    matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        | '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}' | '\u{891}' | '\u{8e2}'
        | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// What is displayed, on one line and with every such character as `\n`, `\t` or `\u{202e}`.
pub struct Escaped<T>(pub T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping { to: f, but: None }, "{}", self.0)
    }
}

/// The same of a text of several lines, whose line breaks are our own.
pub struct EscapedLines<T>(pub T);

impl<T: fmt::Display> fmt::Display for EscapedLines<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping { to: f, but: Some('\n') }, "{}", self.0)
    }
}

struct Escaping<'a, W> {
    to: &'a mut W,
    /// What is left as it is.
    but: Option<char>,
}

impl<W: Write> Write for Escaping<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut from = 0;
        for (at, c) in text.char_indices().filter(|(_, c)| is_hidden(*c) && self.but != Some(*c)) {
            self.to.write_str(&text[from..at])?;
            // Line breaks and tabs by their letters, others by their numbers.
            if matches!(c, '\n' | '\r' | '\t') {
                write!(self.to, "{}", c.escape_default())?;
            } else {
                write!(self.to, "{}", c.escape_unicode())?;
            }
            from = at + c.len_utf8();
        }
        self.to.write_str(&text[from..])
    }
}

/// The text on one line, with every such character as an escape.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if text.contains(is_hidden) { Escaped(text).to_string().into() } else { text.into() }
}

/// JSON that says the same, with every such character of its texts as an escape of JSON's own (RFC 8259, section 7), which needs it for
/// C0 alone. The line breaks between its tokens stay.
pub fn escaped_json(json: &str) -> Cow<'_, str> {
    let is_meant = |c: char| is_hidden(c) && !matches!(c, '\n' | '\r' | '\t');
    if !json.contains(is_meant) {
        return json.into();
    }
    let mut text = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_meant(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        } else {
            text.push(c);
        }
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_where_it_stands_is_an_escape() {
        for (text, expected) in [
            ("job-7 Jörg 東京 👍 مرحبا", "job-7 Jörg 東京 👍 مرحبا"),
            ("", ""),
            ("a\nb\r\tc", r"a\nb\r\tc"),
            ("a\0\u{7}\u{1b}[2J\u{7f}b", r"a\u{0}\u{7}\u{1b}[2J\u{7f}b"),
            ("\u{85}\u{9b}31m", r"\u{85}\u{9b}31m"),
            ("a\u{2028}b\u{2029}c", r"a\u{2028}b\u{2029}c"),
            (
                "\u{61c}\u{200e}\u{200f}\u{202a}\u{202e}\u{2066}\u{2069}",
                r"\u{61c}\u{200e}\u{200f}\u{202a}\u{202e}\u{2066}\u{2069}",
            ),
            ("\u{ad}\u{200b}\u{200c}\u{200d}\u{2060}\u{feff}", r"\u{ad}\u{200b}\u{200c}\u{200d}\u{2060}\u{feff}"),
            ("\u{e0041}\u{e007f}", r"\u{e0041}\u{e007f}"),
        ] {
            assert_eq!(escaped(text), expected);
            assert_eq!(Escaped(text).to_string(), expected);
            assert_eq!(escaped(expected), expected);
        }
        assert_eq!(EscapedLines("a\r\nb\u{202e}\n").to_string(), "a\\r\nb\\u{202e}\n");
    }

    #[test]
    fn every_control_character_and_whatever_rust_does_not_print_of_its_format_characters_is_hidden() {
        for c in (0..=0x10_ffff).filter_map(char::from_u32) {
            let is_control = c.is_control();
            assert!(!is_control || is_hidden(c), "{c:?}");
            assert!(!is_hidden(c) || !c.is_ascii_graphic() && c != ' ', "{c:?}");
        }
    }

    #[test]
    fn json_says_the_same() {
        let value = serde_json::json!({"id": "a\nb\u{1b}\u{7f}\u{85}\u{202e}\u{2028}\u{e0041}é"});
        for json in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let text = escaped_json(&json);
            assert!(text.ends_with("\\u007f\\u0085\\u202e\\u2028\\udb40\\udc41é\"}") || text.contains('\n'), "{text}");
            assert!(!text.contains(|c| is_hidden(c) && c != '\n'), "{text}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        }
        assert_eq!(escaped_json("{\"a\": 1}\n"), "{\"a\": 1}\n");
    }
}
