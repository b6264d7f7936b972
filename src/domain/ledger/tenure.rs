//! What this process knows of its own hold on an org: whether it may go on where it was, or another worker may have come in between.

use super::{Holder, WorkerName};

/// So many fences at most whose place in the ledger is not known; after more, nothing is relied on.
const UNREAD: usize = 100;

/// Who worked the org before the lease came to us this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// We did, and nobody since.
    Ourselves,
    /// Nobody did, or who did gave it back with everything done.
    Nobody,
    /// Another did, and may still be at it.
    Another,
}

/// One org's hold.
///
/// Our own name in the last fence says little: it is there from the moment when a takeover begins, which may end before the
/// ledger was read. So all our fences since we worked last are kept, and whoever stands before any of them counts.
#[derive(Debug, Default)]
pub struct Tenure {
    settled: bool,
    fences: Vec<String>,
}

impl Tenure {
    /// Whether it took the org over completely, and knows of nobody else since.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// A fence of ours is about to be written, with this id.
    pub fn claims(&mut self, id: &str) {
        if self.fences.len() == UNREAD {
            *self = Self::default();
        }
        self.fences.push(id.to_owned());
    }

    /// A fence of ours is about to be written while we work. Those before it were confirmed while we worked, so nobody stands between.
    pub fn claims_again(&mut self, id: &str) {
        self.fences = vec![id.to_owned()];
    }

    /// Who worked the org before, now that the ledger is read up to the newest of our fences; `holder` says who held the lease
    /// before a fence, and `None` of one that was never written.
    pub fn before(&mut self, name: &WorkerName, holder: impl Fn(&str) -> Option<Holder>) -> Before {
        let holders: Vec<Holder> = self.fences.iter().filter_map(|id| holder(id)).collect();
        let is_another = |holder: &Holder| matches!(holder, Holder::Was(other) if other != name);
        if holders.iter().any(is_another) {
            self.settled = false;
            Before::Another
        } else if holders.contains(&Holder::Nobody) {
            Before::Nobody
        } else if self.settled {
            Before::Ourselves
        } else {
            Before::Another
        }
    }

    /// It has taken the org over completely.
    pub fn settles(&mut self) {
        *self = Self { settled: true, fences: Vec::new() };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// A ledger's fences of one org, by their ids, and a worker `a` that writes to it.
    #[derive(Default)]
    struct Snapshot {
        holder: Option<WorkerName>,
        before: HashMap<String, Holder>,
        tenure: Tenure,
    }

    impl Snapshot {
        fn fence(&mut self, worker: &str) -> String {
            let id = format!("fence {}", self.before.len());
            let before = self.holder.replace(WorkerName::new(worker)).map_or(Holder::Nobody, Holder::Was);
            self.before.insert(id.clone(), before);
            id
        }

        /// `a` writes its fence, and has not read it.
        fn claim(&mut self) {
            let id = self.fence("a");
            self.tenure.claims(&id);
        }

        fn read(&mut self) -> Before {
            self.tenure.before(&WorkerName::new("a"), |id| self.before.get(id).cloned())
        }

        fn take(&mut self) -> Before {
            self.claim();
            self.read()
        }

        fn settled() -> Self {
            let mut snapshot = Self::default();
            assert_eq!(snapshot.take(), Before::Nobody);
            snapshot.tenure.settles();
            snapshot
        }
    }

    #[test]
    fn who_worked_and_lost_the_lease_to_nobody_goes_on() {
        let mut snapshot = Snapshot::settled();
        assert_eq!(snapshot.take(), Before::Ourselves);
    }

    #[test]
    fn a_takeover_that_ended_while_its_fence_was_read_leaves_the_worker_before_in_sight() {
        let mut snapshot = Snapshot::settled();
        snapshot.fence("b");
        snapshot.claim();
        assert_eq!(snapshot.take(), Before::Another, "the name before the second fence is its own");
    }

    #[test]
    fn a_takeover_that_ended_while_it_waited_waits_again() {
        let mut snapshot = Snapshot::default();
        snapshot.fence("b");
        assert_eq!((snapshot.take(), snapshot.take()), (Before::Another, Before::Another));
        snapshot.tenure.settles();
        assert_eq!(snapshot.take(), Before::Ourselves);
    }

    #[test]
    fn a_fence_that_was_never_written_says_nothing() {
        let mut snapshot = Snapshot::settled();
        snapshot.tenure.claims("lost with the connection");
        assert_eq!(snapshot.take(), Before::Ourselves);
    }

    #[test]
    fn who_gave_it_back_is_nobody_until_another_comes() {
        let mut snapshot = Snapshot::settled();
        snapshot.fence("b");
        snapshot.holder = None;
        snapshot.claim();
        assert_eq!(snapshot.take(), Before::Nobody);
        snapshot.fence("b");
        assert_eq!(snapshot.take(), Before::Another);
    }

    #[test]
    fn a_claim_that_comes_late_does_not_hide_who_came_before_it() {
        let mut snapshot = Snapshot::settled();
        snapshot.fence("b");
        let late = snapshot.fence("a");
        snapshot.tenure.claims_again(&late);
        assert_eq!(snapshot.take(), Before::Another);
    }

    #[test]
    fn after_too_many_takeovers_that_came_to_nothing_it_does_not_rely_on_its_name() {
        let mut snapshot = Snapshot::settled();
        for _ in 0..UNREAD {
            snapshot.claim();
        }
        assert_eq!(snapshot.take(), Before::Another);
    }
}
