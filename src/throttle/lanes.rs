//! Who gets the next permit: the lanes in their order (interactive before bulk), first come, first served within a lane; a later lane
//! keeps a tenth, so that it never starves. Who is the next probe: whoever shows most, the lanes in turn.

use std::collections::VecDeque;

use crate::domain::job::Lane;

/// How many permits in a row earlier lanes may take while a later one waits.
const IN_A_ROW: u32 = 9;

/// A queue for each lane, and the counts that are fair to all.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    queues: [VecDeque<T>; Lane::COUNT],
    /// How many permits in a row earlier lanes took while this one waited.
    passed_over: [u32; Lane::COUNT],
    /// Whose the last probe was.
    last_probe: Lane,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        let queues = [const { VecDeque::new() }; Lane::COUNT];
        Self { queues, passed_over: [0; Lane::COUNT], last_probe: Lane::LAST }
    }
}

impl<T> Lanes<T> {
    pub(super) fn push(&mut self, lane: Lane, waiting: T) {
        self.queues[lane.index()].push_back(waiting);
    }

    pub(super) fn len(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }

    /// The place of each lane's first who is meant.
    fn first(&self, is_meant: impl Fn(Lane, &T) -> bool) -> [Option<usize>; Lane::COUNT] {
        Lane::ALL.map(|lane| self.queues[lane.index()].iter().position(|waiting| is_meant(lane, waiting)))
    }

    /// Whether anybody waits who is meant.
    pub(super) fn has(&self, is_meant: impl Fn(Lane, &T) -> bool) -> bool {
        Lane::ALL.into_iter().any(|lane| self.queues[lane.index()].iter().any(|waiting| is_meant(lane, waiting)))
    }

    /// Takes out whom there is no use in serving, wherever they wait.
    pub(super) fn take_out(&mut self, gone: impl Fn(&T) -> bool) -> Vec<T> {
        let mut out = Vec::new();
        for queue in &mut self.queues {
            // Looked for first: nearly always nobody is.
            while let Some(at) = queue.iter().position(&gone) {
                out.extend(queue.remove(at));
            }
        }
        out
    }

    /// The next to be served: of each lane the first for whom `may` says so. Whoever is to be `kept` is passed over while another one can
    /// be served.
    pub(super) fn pop(&mut self, may: impl Fn(Lane, &T) -> bool, kept: impl Fn(&T) -> bool) -> Option<T> {
        let mut first = self.first(|lane, waiting| may(lane, waiting) && !kept(waiting));
        if first.iter().all(Option::is_none) {
            first = self.first(may);
        }
        let waits = |lane: &Lane| first[lane.index()].is_some();
        let is_due = |lane: &Lane| waits(lane) && self.passed_over[lane.index()] >= IN_A_ROW;
        let due = Lane::ALL.into_iter().rev().find(is_due);
        let lane = due.or_else(|| Lane::ALL.into_iter().find(waits))?;
        self.passed_over[lane.index()] = 0;
        for later in Lane::ALL.into_iter().filter(|later| *later > lane) {
            let passed_over = &mut self.passed_over[later.index()];
            *passed_over = if first[later.index()].is_some() { *passed_over + 1 } else { 0 };
        }
        self.queues[lane.index()].remove(first[lane.index()]?)
    }

    /// The first of those that are meant, the lanes in their order.
    pub(super) fn pop_first(&mut self, is_meant: impl Fn(Lane, &T) -> bool) -> Option<T> {
        let (queue, at) = self.queues.iter_mut().zip(Lane::ALL).find_map(|(queue, lane)| {
            let at = queue.iter().position(|waiting| is_meant(lane, waiting))?;
            Some((queue, at))
        })?;
        queue.remove(at)
    }

    /// The next to be a probe: the one with the least `rank`, which is told how many other lanes have their turn before its own (0: it is
    /// its lane's), and its place there. `is_first`: the interactive lane has not had its turn yet.
    ///
    /// A job whose calls fail whatever the org does would else be every probe, and keep the breaker from closing.
    pub(super) fn pop_probe<R: Ord>(
        &mut self,
        may: impl Fn(Lane, &T) -> bool,
        rank: impl Fn(&T, usize, usize) -> R,
        is_first: bool,
    ) -> Option<T> {
        let last = if is_first { Lane::LAST } else { self.last_probe };
        // The lanes in their order from the one after the last probe's on, which is the last to have its turn.
        let turn = |lane: Lane| (lane.index() + Lane::COUNT - last.index() - 1) % Lane::COUNT;
        let of = |(queue, lane)| VecDeque::iter(queue).enumerate().map(move |(at, waiting)| (lane, at, waiting));
        let all = self.queues.iter().zip(Lane::ALL).flat_map(of).filter(|(lane, _, waiting)| may(*lane, waiting));
        let (lane, at, _) = all.min_by_key(|(lane, at, waiting)| rank(waiting, turn(*lane), *at))?;
        self.last_probe = lane;
        self.queues[lane.index()].remove(at)
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
        let first: String = (0..100).filter_map(|_| lanes.pop(|_, _| true, |_| false)).map(|(lane, _)| lane).collect();
        assert_eq!(first, "iiiiiiiiib".repeat(10));
    }

    #[test]
    fn within_a_lane_it_is_first_come_first_served() {
        let mut lanes = Lanes::default();
        (0..50).for_each(|n| lanes.push(Lane::Bulk, n));
        let served: Vec<i32> = std::iter::from_fn(|| lanes.pop(|_, _| true, |_| false)).collect();
        assert_eq!(served, (0..50).collect::<Vec<_>>());
        assert!(lanes.is_empty());
    }

    #[test]
    fn a_lone_lane_gets_every_permit() {
        let mut lanes = Lanes::default();
        (0..30).for_each(|n| lanes.push(Lane::Interactive, n));
        assert_eq!(std::iter::from_fn(|| lanes.pop(|_, _| true, |_| false)).count(), 30);
    }

    #[test]
    fn probes_go_round_all_lanes_whoever_waits_there() {
        let mut lanes = Lanes::default();
        let rounds = 3;
        for lane in Lane::ALL {
            (0..rounds).for_each(|n| lanes.push(lane, (lane, n)));
        }
        lanes.push(Lane::FIRST, (Lane::FIRST, rounds));
        let order: Vec<_> =
            std::iter::from_fn(|| lanes.pop_probe(|_, _| true, |_, turn, at| (turn, at), false)).collect();
        let each = (0..rounds).flat_map(|n| Lane::ALL.map(|lane| (lane, n)));
        assert_eq!(order, each.chain([(Lane::FIRST, rounds)]).collect::<Vec<_>>());
    }

    #[test]
    fn probes_come_from_both_lanes_in_turn_and_the_interactive_one_is_first() {
        let mut lanes = Lanes::default();
        (0..3).for_each(|n| lanes.push(Lane::Interactive, ('i', n)));
        (0..5).for_each(|n| lanes.push(Lane::Bulk, ('b', n)));
        assert_eq!(lanes.pop(|_, _| true, |_| false), Some(('i', 0)));
        let probe =
            |lanes: &mut Lanes<(char, i32)>, is_first| lanes.pop_probe(|_, _| true, |_, turn, at| (turn, at), is_first);
        assert_eq!(probe(&mut lanes, true), Some(('i', 1)));
        assert_eq!(probe(&mut lanes, false), Some(('b', 0)));
        assert_eq!(probe(&mut lanes, true), Some(('i', 2)), "each time that it opens");
        let rest: Vec<_> = std::iter::from_fn(|| probe(&mut lanes, false)).collect();
        assert_eq!(rest, [('b', 1), ('b', 2), ('b', 3), ('b', 4)]);
    }

    #[test]
    fn the_probe_is_the_one_with_the_least_rank_whatever_its_lane() {
        let mut lanes = Lanes::default();
        [3, 2].into_iter().for_each(|rank| lanes.push(Lane::Interactive, rank));
        [1, 2, 0].into_iter().for_each(|rank| lanes.push(Lane::Bulk, rank));
        let may = |_: Lane, rank: &i32| *rank != 0;
        let order: Vec<i32> = std::iter::from_fn(|| lanes.pop_probe(may, |rank, _, _| *rank, true)).collect();
        assert_eq!(order, [1, 2, 2, 3]);
        assert_eq!(lanes.len(), 1, "its lane is closed");
    }

    #[test]
    fn who_is_kept_is_served_only_where_nobody_else_waits() {
        let mut lanes = Lanes::default();
        (0..3).for_each(|n| lanes.push(Lane::Interactive, n));
        (3..5).for_each(|n| lanes.push(Lane::Bulk, n));
        let served: Vec<i32> = std::iter::from_fn(|| lanes.pop(|_, _| true, |n| [0, 1, 3].contains(n))).collect();
        assert_eq!(served, [2, 4, 0, 1, 3]);
    }

    #[test]
    fn the_first_of_those_that_are_meant_is_an_interactive_one() {
        let mut lanes = Lanes::default();
        (0..4).for_each(|n| lanes.push(Lane::Bulk, n));
        (4..8).for_each(|n| lanes.push(Lane::Interactive, n));
        let order: Vec<i32> = std::iter::from_fn(|| lanes.pop_first(|_, n| n % 2 == 1)).collect();
        assert_eq!((order, lanes.len()), (vec![5, 7, 1, 3], 4));
    }

    #[test]
    fn who_left_is_not_served() {
        let mut lanes = Lanes::default();
        (0..10).for_each(|n| lanes.push(Lane::Bulk, n));
        assert_eq!(lanes.take_out(|n| n % 2 == 0), [0, 2, 4, 6, 8]);
        assert_eq!(lanes.pop(|_, _| true, |_| false), Some(1));
    }

    #[test]
    fn of_a_closed_lane_only_those_are_served_who_may() {
        let mut lanes = Lanes::default();
        (0..4).for_each(|n| lanes.push(Lane::Bulk, n));
        lanes.push(Lane::Interactive, 10);
        let served: Vec<i32> =
            std::iter::from_fn(|| lanes.pop(|lane, n| lane == Lane::Interactive || *n == 2, |_| false)).collect();
        assert_eq!(served, [10, 2]);
        assert!(!lanes.has(|_, n| *n == 2) && lanes.has(|_, _| true));
    }
}
