//! How many of an org's jobs are in hand: taken from the broker, and not settled.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::domain::job::Lane;
use crate::telemetry::metrics::InFlight;

/// One org's count; cheap to clone.
#[derive(Debug, Clone)]
pub struct Hands {
    org: String,
    lanes: Arc<[AtomicU32; 2]>,
}

/// One job in hand, for as long as this lives, however it ends.
pub struct InHand {
    hands: Hands,
    lane: Lane,
    _metric: InFlight,
}

impl Hands {
    /// Nothing in hand.
    pub fn new(org: &str) -> Self {
        Self { org: org.to_owned(), lanes: Arc::default() }
    }

    /// One more.
    pub fn take(&self, lane: Lane) -> InHand {
        self.lane(lane).fetch_add(1, Ordering::Relaxed);
        InHand { hands: self.clone(), lane, _metric: InFlight::enter(&self.org, lane) }
    }

    /// How many there are of a lane.
    pub fn count(&self, lane: Lane) -> u32 {
        self.lane(lane).load(Ordering::Relaxed)
    }

    fn lane(&self, lane: Lane) -> &AtomicU32 {
        match lane {
            Lane::Interactive => &self.lanes[0],
            Lane::Bulk => &self.lanes[1],
        }
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.hands.lane(self.lane).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_counts_for_its_lane_until_it_is_dropped() {
        let hands = Hands::new("main");
        let counts = || Lane::ALL.map(|lane| hands.count(lane));
        let one = hands.take(Lane::Bulk);
        let two = hands.take(Lane::Interactive);
        let three = hands.clone().take(Lane::Bulk);
        assert_eq!(counts(), [1, 2]);
        drop((one, three));
        assert_eq!(counts(), [1, 0]);
        drop(two);
        assert_eq!(counts(), [0, 0]);
    }
}
