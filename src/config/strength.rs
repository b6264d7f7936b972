//! How hard a secret is to guess, by its shape alone: an estimate that never says less than a random text has, and far less than the
//! length of one that repeats itself, counts up or reads like words.

/// The pairs of letters that make up more than half of an English text, and a fourteenth of a random one.
const COMMON: [&str; 50] = [
    "th", "he", "in", "er", "an", "re", "on", "at", "en", "nd", "ti", "es", "or", "te", "of", "ed", "is", "it", "al",
    "ar", "st", "to", "nt", "ng", "se", "ha", "as", "ou", "io", "le", "ve", "co", "me", "de", "hi", "ri", "ro", "ic",
    "ne", "ea", "ra", "ce", "li", "ch", "ll", "be", "ma", "si", "om", "ur",
];
/// Of so many pairs it is looked whether they are common ones: fewer tell nothing.
const PAIRS: usize = 8;
/// So many characters in a row that are equal, or each one more or less than the one before, count as one.
const RUN: usize = 6;
/// What a letter of a word is worth, in bits.
const OF_A_WORD: f64 = 2.0;
/// Parts of what a person thinks up, and rows of a keyboard, as they are once figures and signs that stand for letters are those letters.
/// Each has five letters or more: few random texts have one of them.
const THOUGHT_UP: [&str; 17] = [
    "passw", "secret", "geheim", "token", "change", "qwert", "azerty", "asdfg", "zxcvb", "yxcvb", "admin", "resetd",
    "letmein", "welcome", "default", "example", "iqaz",
];
/// The random bits of a UUID, version 4 (RFC 9562, section 5.4).
const OF_A_UUID: f64 = 122.0;

/// About how many bits whoever guesses it has to find. It is of printable ASCII.
pub(super) fn bits(secret: &str) -> f64 {
    // What base64 fills up with.
    let text = secret.trim_end_matches('=');
    if text.len() == 36 && uuid::Uuid::try_parse(text).is_ok() {
        return OF_A_UUID;
    }
    if is_thought_up(text) {
        let parts = text.split(|c: char| !c.is_ascii_alphanumeric());
        return parts
            .map(|part| if is_thought_up(part) { part.len() as f64 * OF_A_WORD } else { of_random(part) })
            .sum();
    }
    of_random(text)
}

/// The same of a text that nobody has thought up, unless it repeats itself, counts up or reads like words.
fn of_random(text: &str) -> f64 {
    let (of, each) = (text.as_bytes(), alphabet(text.as_bytes()).log2());
    let counted = without_runs(&of[..period(of)]);
    let worth = |byte: &u8| if byte.is_ascii_alphabetic() { OF_A_WORD } else { each };
    if each > 4.0 && reads_like_words(of) { counted.iter().map(worth).sum() } else { counted.len() as f64 * each }
}

/// Whether a person has written it, and no source of random bits. (The figure 1 stands for i or l.)
fn is_thought_up(text: &str) -> bool {
    let letter = |c: char| match c {
        '0' => 'o',
        '1' | '!' => 'i',
        '3' => 'e',
        '4' | '@' => 'a',
        '5' | '$' => 's',
        '7' => 't',
        c => c.to_ascii_lowercase(),
    };
    let folded: String = text.chars().map(letter).collect();
    THOUGHT_UP.iter().any(|part| folded.contains(part))
}

/// How many characters the smallest of the usual alphabets has that holds all of these: of digits, hex, letters of one case and digits,
/// letters and digits, base64, all. Those between are left out: what was drawn from a larger one may lack digits by chance.
fn alphabet(text: &[u8]) -> f64 {
    let any = |kind: fn(&u8) -> bool| text.iter().any(kind);
    let (lower, upper) = (any(u8::is_ascii_lowercase), any(u8::is_ascii_uppercase));
    let others: Vec<&u8> = text.iter().filter(|byte| !byte.is_ascii_alphanumeric()).collect();
    let one_case = lower != upper;
    let of_base64 = others.iter().all(|byte| b"+/".contains(byte)) || others.iter().all(|byte| b"-_".contains(byte));
    match () {
        () if !others.is_empty() && !of_base64 => 94.0,
        () if !others.is_empty() => 64.0,
        () if !lower && !upper => 10.0,
        () if one_case && text.iter().all(u8::is_ascii_hexdigit) => 16.0,
        () if one_case => 36.0,
        () => 62.0,
    }
}

/// After how many characters it begins anew; its length where it does not do so within its half.
fn period(text: &[u8]) -> usize {
    (1..=text.len() / 2).find(|period| text[*period..] == text[..text.len() - period]).unwrap_or(text.len())
}

fn without_runs(text: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let step = after.first().map(|next| i16::from(*next) - i16::from(*first)).filter(|step| step.abs() <= 1);
        let goes_on = |pair: &&[u8]| Some(i16::from(pair[1]) - i16::from(pair[0])) == step;
        let run = 1 + rest.windows(2).take_while(goes_on).count();
        kept.push(*first);
        rest = if run >= RUN { &rest[run..] } else { after };
    }
    kept
}

fn reads_like_words(text: &[u8]) -> bool {
    let pairs = text.windows(2).filter(|pair| pair.iter().all(u8::is_ascii_alphabetic));
    let pairs: Vec<[u8; 2]> = pairs.map(|pair| [pair[0].to_ascii_lowercase(), pair[1].to_ascii_lowercase()]).collect();
    let common = pairs.iter().filter(|pair| COMMON.iter().any(|common| common.as_bytes() == *pair)).count();
    // Two fifths: English has more, and of random texts one in some thousands.
    pairs.len() >= PAIRS && common * 5 >= pairs.len() * 2
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    use super::*;

    #[test]
    fn what_a_person_thinks_up_has_fewer_than_128_bits() {
        for guessable in [
            "",
            "a",
            "s3cr3t-page-token-1",
            "resetd-local-page",
            "PAGETOKENVALUE-7c31",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "passwordpasswordpasswordpassword",
            "hunter2hunter2hunter2hunter2hunter2",
            "0123456789abcdef0123456789abcdef",
            "abcdefghijklmnopqrstuvwxyz0123456789",
            "00000000000000000000000000000000000000000000000000000001",
            "correct-horse-battery-staple",
            "ThisIsTheSecretTokenOfThePage2026",
            "please-change-this-token-before-production",
            "0f6e7c1a-5b7e-4c2e-9d3b-0a1b2c3d4e5f",
            "0f6e7c1a5b7e4c2e9d3b0a1b2c3d4e5",
            "Tr0ub4dor&3",
            "qwertyuiopasdfghjklzxcvbnm",
            "1qaz2wsx3edc4rfv5tgb6yhn7ujm",
            "P@ssw0rd!P@ssw0rd!2026",
            "my-super-secret-page-token-2026!",
            "MeinSuperGeheimesPasswort2026",
            "S3cr3tT0k3nF0rR3s3tdP4g3",
        ] {
            assert!(bits(guessable) < 128.0, "{guessable}: {}", bits(guessable));
        }
    }

    #[test]
    fn a_random_part_counts_beside_a_word() {
        for token in ["token-9f2c41d07be85a3366e1f0947cd2ab18", "resetd_page:5c0e9fb1d73a42c68e17b4f09a2d6c83"] {
            assert!(bits(token) >= 128.0, "{token}: {}", bits(token));
        }
    }

    #[test]
    fn whatever_is_made_of_128_random_bits_or_more_has_them() {
        let mut refused = 0;
        for _ in 0..2_000 {
            for length in [16, 18, 24, 32] {
                let mut random = vec![0_u8; length];
                random.iter_mut().for_each(|byte| *byte = rand::random());
                let hex = hex::encode(&random);
                assert!(bits(&hex) >= 100.0, "{hex}");
                let all = [hex.clone(), hex.to_uppercase(), STANDARD.encode(&random), URL_SAFE_NO_PAD.encode(&random)];
                refused += all.iter().filter(|token| bits(token) < 128.0).count();
            }
        }
        // Of 32,000 some hold a run or read like words by chance.
        assert!(refused < 32, "{refused}");
    }

    #[test]
    fn each_way_to_write_it_has_the_bits_of_its_alphabet() {
        for (text, each) in [
            ("7302918465", 10.0_f64),
            ("9c01f7a4e2", 16.0),
            ("9C01F7A4E2", 16.0),
            ("qzjxkvwpgy", 36.0),
            ("QZ2XK7WPGY", 36.0),
            ("qZjXkVwPgY", 62.0),
            ("qZ1Xk8wPgY", 62.0),
            ("qZ1X/8w+gY", 64.0),
            ("qZ1X_8w-gY", 64.0),
            ("qZ1X!8w-gY", 94.0),
        ] {
            assert!((bits(text) - 10.0 * each.log2()).abs() < 1e-9, "{text}: {}", bits(text));
        }
        assert_eq!(bits("qZ1Xk8wPgY=="), bits("qZ1Xk8wPgY"), "padding is worth nothing");
    }
}
