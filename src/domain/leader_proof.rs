//! What proves that this process leads: its own pings that come back through the leader queue. `docs/adr/0006` has the argument.

use std::time::{Duration, Instant};

/// How long after a ping that came back was sent a call may still begin.
pub const FRESH: Duration = Duration::from_millis(1500);

/// How long after its end what a call has brought may be published without a fresh proof.
pub const PUBLISH_GRACE: Duration = Duration::from_secs(1);

/// One unbroken chain of proofs, by its number: each ping of it came back before the one before it was too old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain(u64);

/// The proof of one registration.
///
/// The broker hands a ping to whoever is the active consumer by an entry of the queue's log that is later than the ping. So whoever led next
/// was made active after the newest own ping that came back was *sent*, and that moment is what counts. Between two chains another may have
/// led: a chain allows calls only once it is accepted, after a fence that was read back.
#[derive(Debug, Clone, Copy, Default)]
pub struct LeaderProof {
    chain: u64,
    /// When the newest ping of this chain that came back was sent.
    newest: Option<Instant>,
    accepted: bool,
    /// The same of the newest chain that was accepted.
    led: Option<Instant>,
}

impl LeaderProof {
    /// A ping of this registration came back. One that is too old to count, or that was sent before the chain broke, proves nothing.
    pub fn came_back(&mut self, sent: Instant, now: Instant) {
        if is_old(sent, now) {
            return;
        }
        match self.newest {
            Some(newest) if !is_old(newest, now) => self.newest = Some(newest.max(sent)),
            // Sent before the chain broke, it may have passed before another led.
            Some(newest) if sent < newest + FRESH => return,
            Some(_) | None => {
                *self = Self { chain: self.chain + 1, newest: Some(sent), accepted: false, led: self.led }
            }
        }
        if self.accepted {
            self.led = self.newest;
        }
    }

    /// The broker has handed to this registration what another had: it was made active again, and another may have led in between.
    pub fn interrupted(&mut self) {
        self.newest = None;
        self.accepted = false;
    }

    /// The chain that holds at this moment: the broker has this registration for the active one.
    pub fn chain(&self, now: Instant) -> Option<Chain> {
        self.newest.filter(|newest| !is_old(*newest, now)).map(|_| Chain(self.chain))
    }

    /// When the chain breaks, unless another ping comes back; `None`: it has, or there is none.
    pub fn breaks(&self, chain: Chain, now: Instant) -> Option<Instant> {
        self.newest.filter(|_| self.chain(now) == Some(chain)).map(|newest| newest + FRESH)
    }

    /// All that others have done before this chain is known: calls may begin. `false`: it is broken.
    pub fn accept(&mut self, chain: Chain, now: Instant) -> bool {
        let holds = self.chain(now) == Some(chain);
        if holds {
            self.accepted = true;
            self.led = self.newest;
        }
        holds
    }

    /// Whether a call may begin.
    pub fn is_fresh(&self, now: Instant) -> bool {
        self.accepted && self.chain(now).is_some()
    }

    /// Whether what a call has brought may still be published, where a call takes at most `longest`: who takes over waits for longer.
    pub fn allows_late_publishes(&self, longest: Duration, now: Instant) -> bool {
        self.led.is_some_and(|sent| now.saturating_duration_since(sent) < FRESH + longest + PUBLISH_GRACE)
    }

    /// Whether a ping has come back that was sent at this moment or later.
    pub fn is_newer_than(&self, moment: Instant) -> bool {
        self.newest.is_some_and(|newest| newest >= moment)
    }

    /// How old the newest proof is.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.newest.map(|newest| now.saturating_duration_since(newest))
    }
}

fn is_old(sent: Instant, now: Instant) -> bool {
    now.saturating_duration_since(sent) >= FRESH
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A proof, line of what happens at moments in milliseconds.
    struct Timeline {
        start: Instant,
        proof: LeaderProof,
    }

    impl Timeline {
        fn new() -> Self {
            Self { start: Instant::now(), proof: LeaderProof::default() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn came_back(&mut self, sent: u64, now: u64) {
            self.proof.came_back(self.at(sent), self.at(now));
        }

        fn chain(&self, now: u64) -> Option<u64> {
            self.proof.chain(self.at(now)).map(|Chain(number)| number)
        }

        fn accept(&mut self, chain: u64, now: u64) -> bool {
            self.proof.accept(Chain(chain), self.at(now))
        }

        fn is_fresh(&self, now: u64) -> bool {
            self.proof.is_fresh(self.at(now))
        }

        /// Leads from 100 on, by a ping sent at 0.
        fn leading() -> Self {
            let mut line = Self::new();
            line.came_back(0, 100);
            assert!(line.accept(1, 100));
            line
        }
    }

    #[test]
    fn a_ping_that_came_back_counts_from_when_it_was_sent() {
        let mut line = Timeline::new();
        assert_eq!(line.chain(0), None);
        line.came_back(0, 1400);
        assert_eq!((line.chain(1499), line.chain(1500)), (Some(1), None));
        line.came_back(0, 1500);
        assert_eq!(line.chain(1500), None, "it came back too late");
    }

    #[test]
    fn no_call_begins_before_a_chain_is_accepted_nor_later_than_it_holds() {
        let mut line = Timeline::new();
        line.came_back(0, 10);
        assert!(!line.is_fresh(10));
        assert!(line.accept(1, 10) && line.is_fresh(1499) && !line.is_fresh(1500));
        line.came_back(1000, 1490);
        assert!(line.is_fresh(2499) && !line.is_fresh(2500));
        line.came_back(500, 2000);
        assert!(line.is_fresh(2499), "an earlier ping that comes later takes nothing away");
    }

    #[test]
    fn after_a_lapse_only_a_ping_sent_after_it_begins_a_chain_which_has_to_be_accepted() {
        let mut line = Timeline::leading();
        line.came_back(1400, 1600);
        assert_eq!(line.chain(1600), None, "sent before the chain broke");
        line.came_back(1500, 1700);
        assert_eq!(line.chain(1700), Some(2));
        assert!(!line.is_fresh(1700));
        assert!(!line.accept(1, 1700) && !line.is_fresh(1700), "what was accepted is another chain");
        assert!(line.accept(2, 1700) && line.is_fresh(1700));
    }

    #[test]
    fn what_another_had_breaks_the_chain_at_once() {
        let mut line = Timeline::leading();
        line.proof.interrupted();
        assert!(!line.is_fresh(100) && line.chain(100).is_none());
        line.came_back(90, 110);
        assert_eq!((line.chain(110), line.is_fresh(110)), (Some(2), false));
        assert!(line.proof.allows_late_publishes(Duration::from_secs(1), line.at(110)), "of the calls before it");
    }

    #[test]
    fn a_chain_that_broke_meanwhile_is_not_accepted() {
        let mut line = Timeline::new();
        line.came_back(0, 10);
        assert!(!line.accept(1, 1500));
        line.came_back(1600, 1610);
        assert!(!line.accept(1, 1620) && line.accept(2, 1620));
    }

    #[test]
    fn what_calls_have_brought_is_published_for_as_long_as_a_successor_waits_at_least() {
        let mut line = Timeline::leading();
        let longest = Duration::from_secs(10);
        let allows = |line: &Timeline, now| line.proof.allows_late_publishes(longest, line.at(now));
        assert!(allows(&line, 12_499) && !allows(&line, 12_500));
        line.came_back(5_000, 5_010);
        assert!(!allows(&line, 12_500), "a chain that is not accepted proves nothing of what was called before it");
        assert!(line.accept(2, 5_020) && allows(&line, 17_499));
        assert!(!allows(&Timeline::new(), 0));
    }

    #[test]
    fn it_is_known_when_a_chain_breaks() {
        let mut line = Timeline::leading();
        let breaks = |line: &Timeline, chain, now| line.proof.breaks(Chain(chain), line.at(now));
        assert_eq!(breaks(&line, 1, 100), Some(line.at(1500)));
        line.came_back(600, 700);
        assert_eq!(breaks(&line, 1, 700), Some(line.at(2100)));
        assert_eq!(breaks(&line, 1, 2100), None);
        line.came_back(2100, 2200);
        assert_eq!((breaks(&line, 1, 2200), breaks(&line, 2, 2200)), (None, Some(line.at(3600))));
    }
}
