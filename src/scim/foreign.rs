//! Whether an answer is the org's at all: a portal, a proxy or another server may answer in its place. One pure table over every status and
//! what the body looks like.

use crate::domain::failure::Failure;
use crate::wire::scim::Said;

/// What a call asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To set something: its answer may be empty.
    Patch,
    /// Whom a name stands for: what cannot be read is judged by whoever reads it.
    Search,
}

/// `Some` where the answer is not the org's.
///
/// A 2xx that is not the org's may have reached it all the same, by a proxy that answered in its place.
pub fn foreign(asked: Asked, status: u16, said: Said) -> Option<Failure> {
    let is_foreign = match status {
        200..=299 => match said {
            Said::Html | Said::Error => true,
            Said::Other => asked == Asked::Patch,
            Said::Nothing | Said::Object => false,
        },
        // The org has no other place for its users, no user who cannot be changed at all, and stands behind no proxy of ours.
        300..=399 | 405 | 407 => true,
        404 => said != Said::Error,
        // These have a meaning of their own, whoever says so; nobody is given up for them at once.
        401 | 408 | 409 | 412 | 429 => false,
        // The org never answers with a page for people.
        400..=499 => said == Said::Html,
        // A fault, whosever.
        0..=199 | 500.. => false,
    };
    is_foreign.then_some(Failure::Foreign { odd: false, may_have_set: (200..=299).contains(&status) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every status there can be, in runs of the same meaning.
    #[test]
    fn every_status_and_every_kind_of_body_has_its_meaning() {
        let kinds = [Said::Nothing, Said::Error, Said::Object, Said::Html, Said::Other];
        let of = |status| {
            let marks = kinds.map(|said| match foreign(Asked::Patch, status, said) {
                None => "its own",
                Some(Failure::Foreign { may_have_set: true, .. }) => "foreign, may be set",
                Some(_) => "foreign",
            });
            marks.join(" | ")
        };
        let mut table = format!("{kinds:?}\n");
        let mut start = 0;
        for status in 0..=999_u16 {
            if status == 999 || of(status) != of(status + 1) {
                table += &format!("{start}..={status}: {}\n", of(status));
                start = status + 1;
            }
        }
        insta::assert_snapshot!(table, @r"
        [Nothing, Error, Object, Html, Other]
        0..=199: its own | its own | its own | its own | its own
        200..=299: its own | foreign, may be set | its own | foreign, may be set | foreign, may be set
        300..=399: foreign | foreign | foreign | foreign | foreign
        400..=400: its own | its own | its own | foreign | its own
        401..=401: its own | its own | its own | its own | its own
        402..=403: its own | its own | its own | foreign | its own
        404..=404: foreign | its own | foreign | foreign | foreign
        405..=405: foreign | foreign | foreign | foreign | foreign
        406..=406: its own | its own | its own | foreign | its own
        407..=407: foreign | foreign | foreign | foreign | foreign
        408..=409: its own | its own | its own | its own | its own
        410..=411: its own | its own | its own | foreign | its own
        412..=412: its own | its own | its own | its own | its own
        413..=428: its own | its own | its own | foreign | its own
        429..=429: its own | its own | its own | its own | its own
        430..=499: its own | its own | its own | foreign | its own
        500..=999: its own | its own | its own | its own | its own
        ");
        assert_eq!(foreign(Asked::Search, 200, Said::Other), None, "whoever reads it says that it cannot be read");
        assert!(foreign(Asked::Search, 200, Said::Html).is_some());
    }
}
