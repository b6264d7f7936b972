//! Taking secrets out of what is kept: a body's passwords by their keys, an answer's text by the secrets themselves.

use serde_json::Value;
use zeroize::Zeroizing;

use super::job::MAX_BODY;

const WORDS: [&str; 4] = ["password", "passwd", "pwd", "secret"];
const REMOVED: &str = "[redacted]";

/// A body fit to be kept: every value under a key that speaks of a secret is `true`, unless it is `null`, `false` or `""`.
///
/// What is not JSON is kept only where none of those words is in it; otherwise, and over 64 KiB, nothing is.
pub fn body(body: &[u8]) -> Vec<u8> {
    if body.len() > MAX_BODY {
        return Vec::new();
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(mut value) => {
            redact(&mut value);
            value.to_string().into_bytes()
        }
        Err(_) if speaks_of_a_secret(&plain(body)) => Vec::new(),
        Err(_) => body.to_vec(),
    }
}

fn redact(value: &mut Value) {
    match value {
        Value::Object(map) => map.iter_mut().for_each(|(key, value)| {
            let keeps_nothing = matches!(value, Value::Null | Value::Bool(false)) || value.as_str() == Some("");
            if speaks_of_a_secret(key) && !keeps_nothing {
                *value = Value::Bool(true);
            } else {
                redact(value);
            }
        }),
        Value::Array(list) => list.iter_mut().for_each(redact),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether a name, or a text, has one of the words in it that stand for a secret.
pub(super) fn speaks_of_a_secret(text: &str) -> bool {
    let text = text.to_lowercase();
    WORDS.iter().any(|word| text.contains(word))
}

/// The text of bytes that are no JSON, as far as a word in it could be read: UTF-16's zero bytes and JSON's `\u00XX` taken away.
fn plain(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes).chars().filter(|c| *c != '\0').collect();
    let mut pieces = text.split("\\u00");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                plain.push(char::from(byte));
                plain.push_str(&piece[2..]);
            }
            None => plain.push_str(piece),
        }
    }
    plain
}

/// The text with a mark for each word that holds an `@`: whoever speaks of an address may write it in another way than we do.
pub fn without_addresses(text: &str) -> String {
    let words = text.split_inclusive(char::is_whitespace).map(|word| {
        let (bare, blank) = word.split_at(word.trim_end().len());
        if bare.contains('@') || bare.contains("%40") { format!("[address]{blank}") } else { word.to_owned() }
    });
    words.collect()
}

/// The text with a mark for each place where `name` stands as a word, or words, of its own: within another word it is not meant.
pub fn without_name(text: &str, name: &str, mark: &str) -> String {
    let within = |at: Option<char>, edge: Option<char>| at.is_some_and(is_of_a_word) && edge.is_some_and(is_of_a_word);
    let mut left = String::with_capacity(text.len());
    let mut from = 0;
    for (begin, said) in text.match_indices(name).filter(|(_, said)| !said.is_empty()) {
        let (before, after) = (&text[..begin], &text[begin + said.len()..]);
        let is_part = within(before.chars().next_back(), name.chars().next())
            || within(after.chars().next(), name.chars().next_back());
        if !is_part {
            left += &text[from..begin];
            left += mark;
            from = begin + said.len();
        }
    }
    left + &text[from..]
}

/// The text with a mark for each word in which `secret` stands: a part of one would be a word cut in two, and may be guessed from the rest.
fn without_secret(text: &str, secret: &str) -> String {
    let mut left = String::with_capacity(text.len());
    let mut from = 0;
    while let Some(at) = text[from..].find(secret) {
        let (begin, end) = (from + at, from + at + secret.len());
        let word = |edge: Option<char>| edge.is_some_and(is_of_a_word);
        let mut kept = &text[from..begin];
        if word(secret.chars().next()) {
            kept = kept.trim_end_matches(is_of_a_word);
        }
        let mut rest = &text[end..];
        if word(secret.chars().next_back()) {
            rest = rest.trim_start_matches(is_of_a_word);
        }
        left += kept;
        left += REMOVED;
        from = text.len() - rest.len();
    }
    left + &text[from..]
}

fn is_of_a_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The longest word that is left out as a whole, in bytes; what is longer is none, and is cut.
const LONGEST_WORD: usize = 64;

/// The first `max` characters at most, and of the last word all or nothing.
pub fn cut(text: &str, max: usize) -> &str {
    let Some((end, next)) = text.char_indices().nth(max) else { return text };
    let kept = &text[..end];
    if next.is_whitespace() {
        return kept;
    }
    kept.rfind(char::is_whitespace)
        .filter(|at| *at > 0 && end - at <= LONGEST_WORD)
        .map_or(kept, |at| kept[..at].trim_end())
}

/// Takes the secrets of one job out of text from outside. Words of our own are added to it afterwards: a secret may be one of them.
#[derive(Default)]
pub struct Scrubber(Vec<Zeroizing<String>>);

impl Scrubber {
    /// Adds a secret; a very short one is left out, since it would take half of every text with it.
    pub fn add(&mut self, secret: &str) {
        if secret.len() >= 4 && !self.0.iter().any(|known| known.as_str() == secret) {
            self.0.push(Zeroizing::new(secret.to_owned()));
        }
    }

    /// The text without any of the secrets.
    pub fn text(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| without_secret(&text, secret))
    }

    /// The JSON without any of the secrets, in keys and values, and without what stands under a key that speaks of one.
    pub fn json(&self, mut value: Value) -> Value {
        redact(&mut value);
        self.strings(value)
    }

    fn strings(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(list) => Value::Array(list.into_iter().map(|value| self.strings(value)).collect()),
            Value::Object(map) => {
                Value::Object(map.into_iter().map(|(key, value)| (self.text(&key), self.strings(value))).collect())
            }
            other @ (Value::Null | Value::Bool(_) | Value::Number(_)) => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: &str) {
        assert_eq!(String::from_utf8(body(input.as_bytes())).unwrap(), expected, "{input}");
    }

    #[test]
    fn what_stands_under_a_secret_key_becomes_true_at_any_depth() {
        check(r#"{"userId":"u","password":"hunter2"}"#, r#"{"userId":"u","password":true}"#);
        check(
            r#"{"password":0,"Passwd":"x","myPWD":[1],"clientSecret":{"a":1}}"#,
            r#"{"password":true,"Passwd":true,"myPWD":true,"clientSecret":true}"#,
        );
        check(r#"{"a":[{"b":{"PASSWORD_new":"hunter2"}}]}"#, r#"{"a":[{"b":{"PASSWORD_new":true}}]}"#);
        check(r#"{"password":null,"pwd":false,"secret":""}"#, r#"{"password":null,"pwd":false,"secret":""}"#);
        check(r#"{"pass\u0077ord":"hunter2"}"#, r#"{"password":true}"#);
        check(r#"["password"]"#, r#"["password"]"#);
        check(r#"{"z":1,"a":2.50,"n":12345678901234567890}"#, r#"{"z":1,"a":2.50,"n":12345678901234567890}"#);
    }

    #[test]
    fn what_is_no_json_is_kept_only_where_it_speaks_of_no_secret() {
        check("hello", "hello");
        check("{\"Password\": hunter2", "");
        check("{\"pass\\u0077ord\": hunter2", "");
        check("my pwd is hunter2", "");
        let utf16: Vec<u8> = "{\"password\":\"hunter2\"".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(body(&utf16).is_empty());
        assert!(body(&vec![b'x'; MAX_BODY + 1]).is_empty());
    }

    #[test]
    fn no_address_is_left_however_it_is_written() {
        for (said, left) in [
            ("550 5.1.1 <agent@example.com> unknown", "550 5.1.1 [address] unknown"),
            ("<Agent@Example.COM>: no\tagent@xn--exmple-cua.com", "[address] no\t[address]"),
            ("/send?to=agent%40example.com", "[address]"),
            ("line\nü@é\n", "line\n[address]\n"),
            ("nothing here", "nothing here"),
            ("", ""),
        ] {
            assert_eq!(without_addresses(said), left);
        }
    }

    #[test]
    fn a_name_is_masked_where_it_is_a_word_of_its_own() {
        for (said, name, left) in [
            ("User er not found in another order", "er", "User [name] not found in another order"),
            (
                "ann, joann, ann_b and (ann) are annoyed by ann",
                "ann",
                "[name], joann, ann_b and ([name]) are annoyed by [name]",
            ),
            ("no Ann Smith here", "Ann Smith", "no [name] here"),
            ("é.é and xé.éx: .é.", "é.é", "[name] and xé.éx: .é."),
            (".a. x.a.x", ".a.", "[name] x[name]x"),
            ("nobody", "", "nobody"),
        ] {
            assert_eq!(without_name(said, name, "[name]"), left);
        }
    }

    #[test]
    fn a_secret_takes_the_whole_word_with_it() {
        let scrubber = |secret: &str| {
            let mut scrubber = Scrubber::default();
            scrubber.add(secret);
            scrubber
        };
        for (secret, said, left) in [
            ("word", "the password, a word and wording", "the [redacted], a [redacted] and [redacted]"),
            ("tok-1", "Bearer=tok-1; tok-12 xtok-1", "Bearer=[redacted]; [redacted] [redacted]"),
            ("-abc-", "x-abc-y", "x[redacted]y"),
            ("üñüñ", "über üñüñen.", "über [redacted]."),
            ("aaaa", "aaaaaaaaa", "[redacted]"),
        ] {
            assert_eq!(scrubber(secret).text(said), left, "{secret}");
        }
    }

    #[test]
    fn what_is_too_long_ends_with_a_whole_word() {
        for (text, left) in [
            ("one two", "one two"),
            ("one twos", "one"),
            ("one two three", "one two"),
            ("one  [redacted]", "one"),
            ("ééééééééé", "ééééééé"),
            (" longer-than", " longer"),
            ("", ""),
        ] {
            assert_eq!(cut(text, 7), left, "{text:?}");
        }
        let long = format!("it said: {}", "ü".repeat(200));
        assert_eq!(cut(&long, 100).chars().count(), 100, "what is no word is cut");
    }

    #[test]
    fn a_scrubber_takes_its_secrets_out_of_text_and_json() {
        let mut scrubber = Scrubber::default();
        scrubber.add("hunter2-long");
        scrubber.add("");
        assert_eq!(scrubber.text("no hunter2-long here"), "no [redacted] here");
        let json = serde_json::json!({"hunter2-long": ["x hunter2-long", {"password": "other"}], "n": 1});
        assert_eq!(scrubber.json(json).to_string(), r#"{"[redacted]":["x [redacted]",{"password":true}],"n":1}"#);
    }
}
