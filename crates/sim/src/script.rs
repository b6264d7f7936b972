//! The faults in force, and which call each of them takes.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::fault::{Fault, Target, What, When};

/// The faults in force, in the order in which they were added.
pub(super) struct Script {
    armed: Vec<Armed>,
}

struct Armed {
    fault: Fault,
    chance: StdRng,
}

impl Script {
    pub(super) fn new(faults: Vec<Fault>) -> Self {
        let mut script = Self { armed: Vec::new() };
        faults.into_iter().for_each(|fault| script.add(fault));
        script
    }

    pub(super) fn add(&mut self, fault: Fault) {
        let seed = match fault.when {
            When::Share { seed: Some(seed), .. } => seed,
            When::Share { seed: None, .. } | When::Next(_) | When::Between { .. } | When::Always => rand::random(),
        };
        self.armed.push(Armed { fault, chance: StdRng::seed_from_u64(seed) });
    }

    pub(super) fn clear(&mut self) {
        self.armed.clear();
    }

    /// What happens to this call, if anything does; `now` is since the start of the org. A fault that has taken its last
    /// call is gone.
    pub(super) fn take(&mut self, target: Target, user: Option<&str>, now: Duration) -> Option<What> {
        let index = self.armed.iter_mut().position(|armed| armed.takes(target, user, now))?;
        let what = self.armed.get(index)?.fault.what.clone();
        if self.armed.get(index)?.fault.when == When::Next(0) {
            self.armed.remove(index);
        }
        Some(what)
    }
}

impl Armed {
    fn takes(&mut self, target: Target, user: Option<&str>, now: Duration) -> bool {
        let other_user = self.fault.user.is_some() && self.fault.user.as_deref() != user;
        if self.fault.target != target || other_user {
            return false;
        }
        match &mut self.fault.when {
            When::Next(left) => {
                *left = left.saturating_sub(1);
                true
            }
            When::Share { share, .. } => self.chance.random::<f64>() < *share,
            When::Between { from, to } => *from <= now && to.is_none_or(|to| now < to),
            When::Always => true,
        }
    }
}
