//! Who gets the next permit: interactive before bulk, first come, first served within a lane; bulk keeps a tenth, so that it never starves.

use std::collections::VecDeque;

use crate::domain::job::Lane;

/// How many permits in a row the interactive lane may take while bulk waits.
const IN_A_ROW: u32 = 9;

/// Two queues, the count that is fair to both, and whom it served last.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    interactive: VecDeque<T>,
    bulk: VecDeque<T>,
    in_a_row: u32,
    last: Lane,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { interactive: VecDeque::new(), bulk: VecDeque::new(), in_a_row: 0, last: Lane::Bulk }
    }
}

impl<T> Lanes<T> {
    pub(super) fn push(&mut self, lane: Lane, waiting: T) {
        match lane {
            Lane::Interactive => self.interactive.push_back(waiting),
            Lane::Bulk => self.bulk.push_back(waiting),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.interactive.len() + self.bulk.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.interactive.is_empty() && self.bulk.is_empty()
    }

    /// Whether anybody waits who may be served; of the bulk lane those do for whom `may` says so.
    pub(super) fn has_one(&self, may: impl Fn(&T) -> bool) -> bool {
        !self.interactive.is_empty() || self.bulk.iter().any(may)
    }

    /// Takes out whom there is no use in serving, wherever they wait.
    pub(super) fn take_out(&mut self, gone: impl Fn(&T) -> bool) -> Vec<T> {
        let mut out = Vec::new();
        for queue in [&mut self.interactive, &mut self.bulk] {
            // Looked for first: nearly always nobody is.
            while let Some(at) = queue.iter().position(&gone) {
                out.extend(queue.remove(at));
            }
        }
        out
    }

    /// The next to be served; of the bulk lane the first for whom `may` says so.
    pub(super) fn pop(&mut self, may: impl Fn(&T) -> bool) -> Option<T> {
        let bulk = self.bulk.iter().position(may);
        let bulk_is_due = self.interactive.is_empty() || (self.in_a_row >= IN_A_ROW && bulk.is_some());
        if bulk_is_due {
            self.in_a_row = 0;
            self.take(Lane::Bulk, bulk)
        } else {
            self.in_a_row = if bulk.is_none() { 0 } else { self.in_a_row + 1 };
            self.take(Lane::Interactive, bulk)
        }
    }

    /// The next to be a probe: of the lane that was not served last, where one waits there. A job whose calls fail whatever the
    /// org does, alone in its lane, would else be every probe, and keep the breaker from closing.
    pub(super) fn pop_probe(&mut self, may: impl Fn(&T) -> bool) -> Option<T> {
        let bulk = self.bulk.iter().position(may);
        let (other, same) = match self.last {
            Lane::Interactive => (Lane::Bulk, Lane::Interactive),
            Lane::Bulk => (Lane::Interactive, Lane::Bulk),
        };
        self.take(other, bulk).or_else(|| self.take(same, bulk))
    }

    /// Takes the first of a lane; of the bulk lane the one at that place.
    fn take(&mut self, lane: Lane, bulk: Option<usize>) -> Option<T> {
        let next = match lane {
            Lane::Interactive => self.interactive.pop_front(),
            Lane::Bulk => bulk.and_then(|at| self.bulk.remove(at)),
        }?;
        self.last = lane;
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interactive_goes_first_and_bulk_keeps_a_tenth() {
        let mut lanes = Lanes::default();
        for n in 0..100 {
            lanes.push(Lane::Bulk, ('b', n));
            lanes.push(Lane::Interactive, ('i', n));
        }
        let first: String = (0..100).filter_map(|_| lanes.pop(|_| true)).map(|(lane, _)| lane).collect();
        assert_eq!(first, "iiiiiiiiib".repeat(10));
    }

    #[test]
    fn within_a_lane_it_is_first_come_first_served() {
        let mut lanes = Lanes::default();
        (0..50).for_each(|n| lanes.push(Lane::Bulk, n));
        let served: Vec<i32> = std::iter::from_fn(|| lanes.pop(|_| true)).collect();
        assert_eq!(served, (0..50).collect::<Vec<_>>());
        assert!(lanes.is_empty());
    }

    #[test]
    fn a_lone_lane_gets_every_permit() {
        let mut lanes = Lanes::default();
        (0..30).for_each(|n| lanes.push(Lane::Interactive, n));
        assert_eq!(std::iter::from_fn(|| lanes.pop(|_| true)).count(), 30);
    }

    #[test]
    fn probes_come_from_both_lanes_in_turn() {
        let mut lanes = Lanes::default();
        (0..3).for_each(|n| lanes.push(Lane::Interactive, ('i', n)));
        (0..5).for_each(|n| lanes.push(Lane::Bulk, ('b', n)));
        assert_eq!(lanes.pop(|_| true), Some(('i', 0)));
        let probes: String = std::iter::from_fn(|| lanes.pop_probe(|_| true)).map(|(lane, _)| lane).collect();
        assert_eq!(probes, "bibibbb");
    }

    #[test]
    fn who_left_is_not_served() {
        let mut lanes = Lanes::default();
        (0..10).for_each(|n| lanes.push(Lane::Bulk, n));
        assert_eq!(lanes.take_out(|n| n % 2 == 0), [0, 2, 4, 6, 8]);
        assert_eq!(lanes.pop(|_| true), Some(1));
    }

    #[test]
    fn of_a_closed_lane_only_those_are_served_who_may() {
        let mut lanes = Lanes::default();
        (0..4).for_each(|n| lanes.push(Lane::Bulk, n));
        lanes.push(Lane::Interactive, 10);
        let served: Vec<i32> = std::iter::from_fn(|| lanes.pop(|n| *n == 2)).collect();
        assert_eq!(served, [10, 2]);
        assert!(!lanes.has_one(|n| *n == 2) && lanes.has_one(|_| true));
    }
}
