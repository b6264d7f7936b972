//! Who gets the next permit: interactive before bulk, first come, first served within a lane; bulk keeps a tenth, so that it never starves.

use std::collections::VecDeque;

use crate::domain::job::Lane;

/// How many permits in a row the interactive lane may take while bulk waits.
const IN_A_ROW: u32 = 9;

/// Two queues and the count that is fair to both.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    interactive: VecDeque<T>,
    bulk: VecDeque<T>,
    in_a_row: u32,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { interactive: VecDeque::new(), bulk: VecDeque::new(), in_a_row: 0 }
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

    /// The next to be served.
    pub(super) fn pop(&mut self) -> Option<T> {
        let bulk_is_due = self.interactive.is_empty() || (self.in_a_row >= IN_A_ROW && !self.bulk.is_empty());
        if bulk_is_due {
            self.in_a_row = 0;
            self.bulk.pop_front()
        } else {
            self.in_a_row = if self.bulk.is_empty() { 0 } else { self.in_a_row + 1 };
            self.interactive.pop_front()
        }
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
        let first: String = (0..100).filter_map(|_| lanes.pop()).map(|(lane, _)| lane).collect();
        assert_eq!(first, "iiiiiiiiib".repeat(10));
    }

    #[test]
    fn within_a_lane_it_is_first_come_first_served() {
        let mut lanes = Lanes::default();
        (0..50).for_each(|n| lanes.push(Lane::Bulk, n));
        let served: Vec<i32> = std::iter::from_fn(|| lanes.pop()).collect();
        assert_eq!(served, (0..50).collect::<Vec<_>>());
        assert!(lanes.is_empty());
    }

    #[test]
    fn a_lone_lane_gets_every_permit() {
        let mut lanes = Lanes::default();
        (0..30).for_each(|n| lanes.push(Lane::Interactive, n));
        assert_eq!(std::iter::from_fn(|| lanes.pop()).count(), 30);
    }

    #[test]
    fn who_left_is_not_served() {
        let mut lanes = Lanes::default();
        (0..10).for_each(|n| lanes.push(Lane::Bulk, n));
        assert_eq!(lanes.take_out(|n| n % 2 == 0), [0, 2, 4, 6, 8]);
        assert_eq!(lanes.pop(), Some(1));
    }
}
