//! The language a person is written to in: a tag of RFC 5646, as far as its form can be checked.

use std::fmt;

/// A tag that could be a language's, such as `de` or `pt-BR`, in the case it came in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Language(String);

impl Language {
    /// The longest tag, in characters (RFC 5646, section 4.4.1, asks for room for 35).
    const MAX: usize = 35;

    /// Reads a tag; `pt_BR`, as POSIX writes it, is `pt-BR`. `None`: a text that is no tag.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.replace('_', "-");
        let mut parts = text.split('-');
        let first = parts.next()?;
        let is_language = (2..=8).contains(&first.len()) && first.bytes().all(|byte| byte.is_ascii_alphabetic());
        let is_part = |part: &str| (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric());
        (is_language && text.len() <= Self::MAX && parts.all(is_part)).then_some(Self(text))
    }

    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the other is the same one: in any case (RFC 5646, section 2.1.1).
    pub fn is(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }

    /// The same with its last part taken off: what to look for next (RFC 4647, section 3.4, "lookup"). `None` for the language alone.
    pub fn wider(&self) -> Option<Self> {
        let (mut rest, _) = self.0.rsplit_once('-')?;
        // A single character only says what kind the part after it is.
        while let Some((before, last)) = rest.rsplit_once('-')
            && last.len() == 1
        {
            rest = before;
        }
        Some(Self(rest.to_owned()))
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_letters_and_parts_after_hyphens() {
        for (text, tag) in [("de", "de"), ("pt-BR", "pt-BR"), ("pt_BR", "pt-BR"), ("zh-Hant-TW", "zh-Hant-TW")] {
            assert_eq!(Language::parse(text).map(|language| language.0), Some(tag.to_owned()), "{text:?}");
        }
        for bad in ["", "d", "de-", "-de", "d1", "de--AT", "abcdefghi", "de, en;q=0.5", "../x", "de\n", "dé"] {
            assert_eq!(Language::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_tag_is_widened_part_by_part_and_never_ends_in_a_single_character() {
        let mut tags = vec![];
        let mut next = Language::parse("zh-Hant-CN-x-private1");
        while let Some(tag) = next {
            next = tag.wider();
            tags.push(tag.to_string());
        }
        assert_eq!(tags, ["zh-Hant-CN-x-private1", "zh-Hant-CN", "zh-Hant", "zh"]);
        assert!(Language::parse("DE").unwrap().is(&Language::parse("de").unwrap()));
    }
}
