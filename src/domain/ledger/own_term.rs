//! What this process knows of its own leading of an org: whether it may go on where it was, or another worker may have come in between.

use std::time::Duration;

use super::{FenceRead, Holder, Place};

/// Who worked the org before this process leads this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// We did, and nobody since.
    Ourselves,
    /// Nobody did, or who did gave it back with everything done.
    Nobody,
    /// Another did, and may still be at it, by calls that take so long at most, where all of them say.
    Another(Option<Duration>),
}

/// One org's.
///
/// Our own name in the last fence says little: it is there from the moment when a takeover begins, which may end before the ledger was read,
/// and a fence that the broker took late hides another's before it. So what counts is a place: that of the fence with which the takeover began
/// that was completed last. Whoever has written a fence after it may have led.
#[derive(Debug, Default)]
pub struct OwnTerm {
    since: Option<Since>,
}

/// From this place on nobody else has written a fence, as far as is known.
#[derive(Debug, Clone, Copy)]
struct Since {
    place: Place,
    reading: u64,
    /// Whether it took the org over completely; else nobody led when it began to.
    complete: bool,
}

impl OwnTerm {
    /// Whether it took the org over completely, and knows of nobody else since.
    pub fn is_complete(&self) -> bool {
        self.since.is_some_and(|since| since.complete)
    }

    /// Who worked the org before, now that a fence of ours was read.
    pub fn before(&mut self, read: &FenceRead) -> Before {
        // A place at or after the fence that was just written is one of another stream, too.
        let is_alone = |since: &Since| {
            since.reading == read.reading
                && since.place < read.place
                && read.other.is_none_or(|other| other < since.place)
        };
        self.since = self.since.filter(is_alone);
        match (self.since, &read.before) {
            // It may have said that it is done, since it was cut off.
            (Some(Since { complete: true, .. }), _) => Before::Ourselves,
            (Some(Since { complete: false, .. }), _) => Before::Nobody,
            (None, Holder::Nobody) => {
                self.since = Some(Since { place: read.place, reading: read.reading, complete: false });
                Before::Nobody
            }
            (None, Holder::Was(_)) => Before::Another(read.longest_call),
        }
    }

    /// It has taken the org over completely, in a takeover that began with this fence.
    pub fn complete(&mut self, read: &FenceRead) {
        self.since = Some(Since { place: read.place, reading: read.reading, complete: true });
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::{Fence, Leaders};
    use super::*;

    /// A ledger's fences of one org, and a worker `a` that writes to it.
    #[derive(Default)]
    struct Ledger {
        leaders: Option<Leaders>,
        place: Place,
        reading: u64,
        own_term: OwnTerm,
    }

    impl Ledger {
        fn write(&mut self, worker: &str, term: Option<&str>, seconds: Option<u64>) -> FenceRead {
            self.place += 1;
            let fence = Fence {
                worker: worker.into(),
                id: format!("{}", self.place).into(),
                term: term.map(|term| term.to_owned().into()),
                longest_call: seconds.map(Duration::from_secs),
                at: Timestamp::UNIX_EPOCH,
            };
            let read = self.leaders.as_ref().map_or(FenceRead::alone(self.place, self.reading), |leaders| {
                leaders.read(worker, self.place, self.reading)
            });
            match &mut self.leaders {
                Some(leaders) => leaders.next(&fence, self.place),
                None => self.leaders = Some(Leaders::first(&fence, self.place)),
            }
            read
        }

        fn fence(&mut self, worker: &str) -> FenceRead {
            self.write(worker, None, Some(10))
        }

        fn released(&mut self, worker: &str, term: &FenceRead) {
            self.leaders.as_mut().unwrap().released(worker, Some(&term.place.to_string()), Timestamp::UNIX_EPOCH);
        }

        /// `a` writes a fence, and reads it.
        fn take(&mut self) -> (Before, FenceRead) {
            let read = self.fence("a");
            (self.own_term.before(&read), read)
        }

        fn before(&mut self) -> Before {
            self.take().0
        }

        /// `a` has taken over.
        fn settled() -> Self {
            let mut ledger = Self::default();
            let (before, read) = ledger.take();
            assert_eq!(before, Before::Nobody);
            ledger.own_term.complete(&read);
            ledger
        }
    }

    const ANOTHER: Before = Before::Another(Some(Duration::from_secs(10)));

    #[test]
    fn who_worked_and_lost_the_lead_to_nobody_goes_on() {
        let mut ledger = Ledger::settled();
        assert_eq!([ledger.before(), ledger.before()], [Before::Ourselves; 2]);
    }

    #[test]
    fn a_takeover_that_ended_while_its_fence_was_read_leaves_the_worker_before_in_sight() {
        let mut ledger = Ledger::settled();
        ledger.fence("b");
        ledger.fence("a");
        assert_eq!(ledger.before(), ANOTHER, "the name before the second fence is its own");
    }

    #[test]
    fn a_takeover_that_ended_while_it_waited_waits_again() {
        let mut ledger = Ledger::default();
        ledger.fence("b");
        assert_eq!((ledger.before(), ledger.before()), (ANOTHER, ANOTHER));
        let (_, read) = ledger.take();
        ledger.own_term.complete(&read);
        assert_eq!(ledger.before(), Before::Ourselves);
    }

    #[test]
    fn a_fence_that_the_broker_took_late_does_not_hide_anothers_before_it() {
        let mut ledger = Ledger::settled();
        ledger.fence("b");
        // Given up with its connection, before this process settled.
        ledger.fence("a");
        assert_eq!(ledger.before(), ANOTHER);
    }

    #[test]
    fn one_who_began_to_take_over_before_our_own_wait_ended_may_have_led() {
        let mut ledger = Ledger::default();
        ledger.fence("c");
        let (before, first) = ledger.take();
        assert_eq!(before, ANOTHER);
        ledger.fence("b");
        let term = first.place.to_string();
        ledger.write("a", Some(&term), None);
        ledger.own_term.complete(&first);
        assert_eq!(ledger.before(), ANOTHER);
    }

    #[test]
    fn who_gave_it_back_is_nobody_until_another_comes() {
        let mut ledger = Ledger::settled();
        let term = ledger.fence("b");
        ledger.released("b", &term);
        assert_eq!([ledger.before(), ledger.before()], [Before::Nobody; 2], "nobody has led since");
        ledger.fence("b");
        assert_eq!(ledger.before(), ANOTHER);
    }

    #[test]
    fn a_release_counts_only_while_its_own_term_is_the_last() {
        let mut ledger = Ledger::default();
        let first = ledger.fence("b");
        ledger.fence("c");
        let marked = first.place.to_string();
        ledger.write("b", Some(&marked), None);
        ledger.released("b", &first);
        assert_eq!(ledger.before(), ANOTHER, "c waits, and will lead");
    }

    #[test]
    fn who_was_cut_off_and_said_that_it_is_done_goes_on_unless_another_came() {
        let mut ledger = Ledger::default();
        let (_, first) = ledger.take();
        ledger.own_term.complete(&first);
        ledger.released("a", &first);
        assert_eq!(ledger.before(), Before::Ourselves);
        ledger.fence("b");
        assert_eq!(ledger.before(), ANOTHER);
    }

    #[test]
    fn who_waits_begins_when_the_very_one_it_waits_for_is_done_and_nobody_else_came() {
        let mut ledger = Ledger::default();
        let of_b = ledger.fence("b");
        let (before, waiting) = ledger.take();
        assert_eq!(before, ANOTHER);
        let is_released = |ledger: &Ledger| ledger.leaders.as_ref().unwrap().is_released(&waiting);
        assert!(!is_released(&ledger));
        ledger.released("c", &FenceRead { place: 77, ..of_b.clone() });
        assert!(!is_released(&ledger), "another's term");
        ledger.released("b", &of_b);
        assert!(is_released(&ledger));
        ledger.fence("b");
        assert!(!is_released(&ledger), "it is back");
    }

    #[test]
    fn a_second_fence_and_one_an_hour_change_nothing_that_is_known() {
        let mut ledger = Ledger::settled();
        ledger.fence("b");
        ledger.write("a", Some("1"), None);
        assert_eq!(ledger.before(), ANOTHER);
    }

    #[test]
    fn the_wait_is_for_the_longest_call_of_all_who_may_still_be_at_work() {
        let mut ledger = Ledger::default();
        let longest = |ledger: &mut Ledger| match ledger.before() {
            Before::Another(longest) => longest.map(|longest| longest.as_secs()),
            before @ (Before::Ourselves | Before::Nobody) => panic!("{before:?}"),
        };
        ledger.write("b", None, Some(60));
        ledger.write("c", None, Some(2));
        assert_eq!(longest(&mut ledger), Some(60));
        let term = ledger.write("d", None, None);
        assert_eq!(longest(&mut ledger), None, "one of release 0.1 does not say");
        ledger.released("d", &term);
        let term = ledger.write("d", None, Some(5));
        ledger.released("d", &term);
        ledger.write("e", None, Some(3));
        assert_eq!(longest(&mut ledger), Some(3), "d had waited for all before it");
    }

    #[test]
    fn a_place_in_a_stream_that_was_there_before_says_nothing() {
        let mut ledger = Ledger::settled();
        ledger.place = 1_000;
        ledger.reading = 1;
        assert_eq!(ledger.before(), ANOTHER);
    }

    #[test]
    fn a_place_beyond_the_fence_just_written_is_one_of_another_stream() {
        let mut ledger = Ledger::settled();
        ledger.own_term.complete(&FenceRead { place: 1_000, ..FenceRead::alone(0, 0) });
        assert_eq!(ledger.before(), ANOTHER);
    }
}
