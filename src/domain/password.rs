//! Temporary passwords: made from the system's random source, zeroed when dropped, never printed.

use std::fmt;

use rand::{Rng, TryCryptoRng, TryRng, rand_core::UnwrapErr, rngs::SysRng, seq::SliceRandom};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// How a password is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordKind {
    /// 16 random bytes in hex: 128 bits, 32 characters.
    Hex,
    /// This many characters of all four classes, none that reads like another: what Genesys Cloud's default policy takes.
    Policy {
        /// How many characters.
        length: usize,
    },
}

impl PasswordKind {
    /// The lengths that a policy password may have, in characters; 12 hold 67 bits.
    pub const LENGTHS: std::ops::RangeInclusive<usize> = 12..=128;
}

/// A password that somebody will log in with. It has no `Display` and no `Serialize`; the one way out is [`Password::expose`].
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

/// The system's random source could not be read; no password is made of anything less.
#[derive(Debug, thiserror::Error)]
#[error("the system's random source failed: {0}")]
pub struct NoRandomness(String);

// Characters that are not taken for one another: no I l 1, no O o 0. The one special is left as it is by JSON, HTML and URLs, and is the only
// one at which a double click does not stop: it takes the whole password, to be copied.
const LOWER: &[u8] = b"abcdefghijkmnpqrstuvwxyz";
const UPPER: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZ";
const DIGIT: &[u8] = b"23456789";
const SPECIAL: &[u8] = b"_";

impl Password {
    /// Makes a fresh one from the system's random source.
    ///
    /// # Errors
    /// Where that source fails.
    pub fn generate(kind: PasswordKind) -> Result<Self, NoRandomness> {
        // One read before any use, so that a failing source is an error here and not a panic below.
        SysRng.try_next_u32().map_err(|error| NoRandomness(error.to_string()))?;
        Ok(Self::from_source(kind, &mut UnwrapErr(SysRng)))
    }

    /// One that was made elsewhere, as a notification says it.
    pub fn known(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    fn from_source(kind: PasswordKind, random: &mut (impl Rng + TryCryptoRng)) -> Self {
        match kind {
            PasswordKind::Hex => {
                let mut bytes = Zeroizing::new([0_u8; 16]);
                random.fill_bytes(bytes.as_mut_slice());
                Self(Zeroizing::new(hex::encode(bytes.as_slice())))
            }
            PasswordKind::Policy { length } => Self(policy(length, random)),
        }
    }

    /// The password itself. Whoever calls this answers for where it goes.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The SHA-256 of the password, in lower-case hex.
    pub fn sha256_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(Sha256::digest(self.0.as_bytes())))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// One character of each class, the rest from all of them, then shuffled, so that no place tells its class.
fn policy(length: usize, random: &mut impl Rng) -> Zeroizing<String> {
    let all = [LOWER, UPPER, DIGIT, SPECIAL].concat();
    let mut bytes = Zeroizing::new(Vec::with_capacity(length));
    for class in [LOWER, UPPER, DIGIT, SPECIAL] {
        bytes.push(pick(class, random));
    }
    while bytes.len() < length {
        bytes.push(pick(&all, random));
    }
    bytes.shuffle(random);
    Zeroizing::new(bytes.iter().copied().map(char::from).collect())
}

fn pick(class: &[u8], random: &mut impl Rng) -> u8 {
    use rand::RngExt;
    class[random.random_range(0..class.len())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hex_password_is_16_bytes_in_hex_and_never_the_same_twice() {
        let one = Password::generate(PasswordKind::Hex).unwrap();
        let two = Password::generate(PasswordKind::Hex).unwrap();
        assert_eq!(hex::decode(one.expose()).unwrap().len(), 16);
        assert_eq!(one.expose(), one.expose().to_lowercase());
        assert_ne!(one.expose(), two.expose());
    }

    #[test]
    fn the_hash_is_sha256_in_hex() {
        let password = Password(Zeroizing::new("abc".into()));
        assert_eq!(password.sha256_hex().as_str(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn debug_hides_it() {
        let password = Password::generate(PasswordKind::Hex).unwrap();
        assert!(!format!("{password:?}").contains(password.expose()));
    }

    proptest! {
        #[test]
        fn a_policy_password_has_every_class_and_nothing_that_reads_like_another(length in PasswordKind::LENGTHS) {
            let password = Password::generate(PasswordKind::Policy { length }).unwrap();
            let text = password.expose();
            prop_assert_eq!(text.len(), length);
            for class in [LOWER, UPPER, DIGIT, SPECIAL] {
                prop_assert!(text.bytes().any(|b| class.contains(&b)), "no {:?} in a password", std::str::from_utf8(class));
            }
            prop_assert!(!text.contains(['I', 'l', '1', 'O', 'o', '0', '|']));
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "a double click stops in a password");
        }
    }

    #[test]
    fn every_character_of_a_policy_password_comes_up_everywhere() {
        let mut first = std::collections::BTreeSet::new();
        for _ in 0..2000 {
            first.insert(Password::generate(PasswordKind::Policy { length: 20 }).unwrap().expose().as_bytes()[0]);
        }
        assert_eq!(first.len(), LOWER.len() + UPPER.len() + DIGIT.len() + SPECIAL.len());
    }
}
