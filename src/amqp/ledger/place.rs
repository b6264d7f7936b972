//! Where in the stream to go on.

use jiff::{SignedDuration, Timestamp};

use crate::amqp::tail::Start;
use crate::domain::ledger::KEPT;

/// What is kept of where it was.
#[derive(Debug, Default)]
pub(super) struct Place {
    last: Option<Last>,
}

/// The record read last, which shows that the stream is still the same.
#[derive(Debug)]
struct Last {
    offset: u64,
    body: Vec<u8>,
    read_at: Timestamp,
}

/// Where a consumer attaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum From {
    /// A day back: nothing is known, the place was lost, or it is so old that this is less to read.
    DayBack,
    /// At the record read last, which comes once more and at once, or the stream is another one.
    Last(u64),
}

impl From {
    pub(super) fn start(&self) -> Start<'static> {
        match self {
            Self::DayBack => Start::Words("24h"),
            Self::Last(offset) => Start::Offset(*offset),
        }
    }
}

impl Place {
    /// Where to attach.
    pub(super) fn from(&self, now: Timestamp) -> From {
        let young = |last: &&Last| now.duration_since(last.read_at) < KEPT - SignedDuration::from_hours(1);
        self.last.as_ref().filter(young).map_or(From::DayBack, |last| From::Last(last.offset))
    }

    /// A record was read.
    pub(super) fn read(&mut self, offset: u64, body: Vec<u8>, now: Timestamp) {
        self.last = Some(Last { offset, body, read_at: now });
    }

    /// Whether this is the record read last.
    pub(super) fn is_last(&self, offset: Option<u64>, body: &[u8]) -> bool {
        self.last.as_ref().is_some_and(|last| Some(last.offset) == offset && last.body == body)
    }

    /// The stream is another one, or may be.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn it_goes_on_where_it_was_unless_a_day_back_is_nearer() {
        let mut place = Place::default();
        assert_eq!(place.from(at(0)), From::DayBack);
        place.read(41, b"41".to_vec(), at(-5));
        place.read(42, b"42".to_vec(), at(0));
        for (now, from) in [(0, From::Last(42)), (23 * 3600 - 1, From::Last(42)), (23 * 3600, From::DayBack)] {
            assert_eq!(place.from(at(now)), from, "after {now} s");
        }
        place.forget();
        assert_eq!(place.from(at(0)), From::DayBack);
    }

    #[test]
    fn the_record_read_last_is_known_by_its_offset_and_its_body() {
        let mut place = Place::default();
        assert!(!place.is_last(None, b""));
        place.read(7, b"seven".to_vec(), at(0));
        assert!(place.is_last(Some(7), b"seven"));
        for (offset, body) in [(Some(8), "seven"), (Some(7), "other"), (None, "seven")] {
            assert!(!place.is_last(offset, body.as_bytes()), "{offset:?} {body}");
        }
    }
}
