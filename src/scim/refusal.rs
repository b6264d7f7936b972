//! What a refused password says of itself, read out of words that are meant for people: from when on it may be changed, and that it was
//! set before. Pure. Nothing is guessed: a text that says more than that is a refusal like any other.

use jiff::Timestamp;

use crate::wire::scim::ErrorBody;

/// What the moment follows (Genesys Cloud: `docs/development/facts.md#passwords`).
const UNTIL: &str = "changed until";

/// Ways to say that a password was set before.
const HISTORY: [&str; 5] =
    ["used before", "previously used", "used previously", "password history", "previous passwords"];

/// What else may stand in a text that names the history alone. Any other word may be another rule's: length, kinds of characters, words of
/// a dictionary; and an `or` leaves open what it was.
const WORDS: &str = "\
    a again allowed already an and another any are be because been before by can cannot choose current different do does \
    earlier enter error for found from had has have history in invalid is it its last match matches must new not of old once \
    one other passwd password passwords past pick please previous previously recent recently refused rejected reuse reused s \
    same t that the their them this to try use used user users using value violated violates violation was were with you \
    your";

/// From when on the password may be changed, by the org's clock, where a refusal says so.
pub(super) fn until(said: &ErrorBody) -> Option<Timestamp> {
    texts(said).find_map(moment)
}

/// `… changed until 2026-11-23T18:00:00Z`, in whatever quotes and with whatever behind it.
fn moment(text: &str) -> Option<Timestamp> {
    let begins = text.to_ascii_lowercase().find(UNTIL)? + UNTIL.len();
    let mut words = text.get(begins..)?.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()).split_whitespace();
    let bare = |word: &str| word.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned();
    let first = bare(words.next()?);
    let second = words.next().map(bare).unwrap_or_default();
    // RFC 3339 allows a blank for the T.
    first.parse().or_else(|_| format!("{first} {second}").parse()).ok()
}

/// Whether a refusal names the history of passwords and no other rule.
pub(super) fn names_history_alone(said: &ErrorBody) -> bool {
    let text = texts(said).collect::<Vec<_>>().join(" ").to_lowercase();
    let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let names = HISTORY.iter().any(|way| format!(" {} ", words.join(" ")).contains(&format!(" {way} ")));
    // A slash may be an `or`.
    names && !said.lists_more && !text.contains(['/', '|']) && (0..words.len()).all(|at| is_known(&words, at))
}

/// A word of such a text, or how many passwords are remembered: `last 10`.
fn is_known(words: &[&str], at: usize) -> bool {
    let counts = |word: &str| word.len() <= 3 && word.bytes().all(|byte| byte.is_ascii_digit());
    let of = |before: &&str| ["last", "previous", "past", "recent"].contains(before);
    words.get(at).is_some_and(|word| {
        WORDS.split(' ').any(|known| known == *word)
            || counts(word) && at.checked_sub(1).and_then(|before| words.get(before)).is_some_and(of)
    })
}

fn texts(said: &ErrorBody) -> impl Iterator<Item = &str> {
    [&said.detail, &said.message].into_iter().flatten().map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail(text: &str) -> ErrorBody {
        ErrorBody { detail: Some(text.into()), ..ErrorBody::default() }
    }

    #[test]
    fn the_moment_is_read_however_it_is_written() {
        for (text, expected) in [
            ("Password cannot be changed until 2026-11-23T18:00:00Z", Some("2026-11-23T18:00:00Z")),
            ("The password CANNOT be Changed Until 2026-11-23T18:00:00.250Z.", Some("2026-11-23T18:00:00.25Z")),
            (
                "password cannot be changed until '2026-11-23T19:00:00+01:00' (minimum age)",
                Some("2026-11-23T18:00:00Z"),
            ),
            ("password cannot be changed until 2026-11-23T18:00:00+0000", Some("2026-11-23T18:00:00Z")),
            (
                "é: password cannot be changed until: 2026-11-23 18:00:00Z, says the policy",
                Some("2026-11-23T18:00:00Z"),
            ),
            ("password cannot be changed until tomorrow", None),
            ("password cannot be changed until", None),
            ("password cannot be changed until 2026-11-23", None),
            ("password cannot be changed until 2026-11-23T18:00:00", None),
            ("the account is locked until 2026-11-23T18:00:00Z", None),
        ] {
            assert_eq!(until(&detail(text)), expected.map(|text| text.parse().unwrap()), "{text}");
        }
        let platform = ErrorBody::parse(
            br#"{"message":"password cannot be changed until 2026-11-23T18:00:00Z","code":"bad.request","status":400}"#,
        );
        assert!(until(&platform).is_some());
    }

    #[test]
    fn a_text_names_the_history_alone_or_proves_nothing() {
        for text in [
            "The password was used before",
            "Password was used before: it is in the password history.",
            "This password has been previously used; please choose another.",
            "Password was previously used and can't be reused",
            "password history",
            "The new password must not match any of the last 10 passwords in the user's password history",
            "You cannot use one of your previous passwords again.",
        ] {
            assert!(names_history_alone(&detail(text)), "{text}");
        }
        for text in [
            "",
            "Password rejected",
            "Password must have at least 8 characters and must not have been used before",
            "Password does not meet the requirements: length, complexity, password history",
            "Invalid or previously used password",
            "Invalid/previously used password",
            "Password must contain a digit, and must not have been used before",
            "The password history could not be checked",
            "The password may have been used before",
            "This password cannot be used before 2026-11-23",
            "The password was used before 12",
            "Password is too common or was used before",
            "Das Passwort: password history",
            "Password must have 8 signs. Not previously used.",
        ] {
            assert!(!names_history_alone(&detail(text)), "{text}");
        }
    }

    #[test]
    fn what_else_the_body_says_counts_too() {
        let said = |json: &str| names_history_alone(&ErrorBody::parse(json.as_bytes()));
        assert!(said(r#"{"message":"Password was used before","code":"bad.request","details":[],"errors":[]}"#));
        assert!(said(r#"{"scimType":"invalidValue","detail":"Password was used before"}"#));
        assert!(!said(r#"{"message":"Password was used before","errors":[{"message":"too short"}]}"#));
        assert!(!said(r#"{"message":"Password was used before","details":[{"errorCode":"length"}]}"#));
        assert!(!said(r#"{"message":"Password is too short","detail":"Password was used before"}"#));
    }
}
