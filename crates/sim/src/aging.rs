//! Two rules of an org about a password that is set again: how long the one in force must stay, and how many of the last ones are
//! refused (`docs/development/facts.md#passwords`).

use std::{collections::VecDeque, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{
    invalid::{Invalid, ScimType},
    operation::{Action, Change},
    password::Digest,
};

/// Both rules; nothing and 0 are none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Aging {
    pub(super) min_age: Duration,
    pub(super) history: usize,
}

/// A user's last passwords, the newest first, and when that was set.
#[derive(Default)]
pub(super) struct Past {
    digests: VecDeque<Digest>,
    set_at: Option<Timestamp>,
}

impl Past {
    /// A password is set now.
    pub(super) fn add(&mut self, digest: Digest, now: Timestamp, history: usize) {
        self.digests.push_front(digest);
        self.digests.truncate(history);
        self.set_at = Some(now);
    }

    /// Refuses a new password: the age first, which says when to come again.
    pub(super) fn check(&self, changes: &[Change], rules: Aging, now: Timestamp) -> Result<(), Invalid> {
        let refused = |detail: String| Err(Invalid::new(ScimType::InvalidValue, detail));
        for change in changes {
            let Action::Password(digest) = &change.action else { continue };
            let age = SignedDuration::try_from(rules.min_age).unwrap_or(SignedDuration::MAX);
            let until = self.set_at.map(|at| at.checked_add(age).unwrap_or(Timestamp::MAX));
            if let Some(until) = until.filter(|until| *until > now) {
                return refused(format!("The password cannot be changed until {until}"));
            }
            if self.digests.iter().take(rules.history).any(|past| past == digest) {
                return refused("The password was used before: it is in the password history".to_owned());
            }
        }
        Ok(())
    }
}
