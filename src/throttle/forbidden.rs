//! How many different users in a row were answered 403: from the fifth on it is the client's fault, not theirs. The mailer counts the
//! recipients whom its next hop refuses in the same way.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use crate::domain::retry::FORBIDDEN_USERS;
use crate::domain::user::UserId;

/// The run of forbidden users since the last success.
#[derive(Debug)]
pub struct ForbiddenRun<T = UserId>(Mutex<HashSet<T>>);

impl<T> Default for ForbiddenRun<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone + Eq + Hash> ForbiddenRun<T> {
    /// One more user was forbidden; how many different ones in a row that makes. It counts no further than it must.
    pub fn forbidden(&self, user: &T) -> usize {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() < FORBIDDEN_USERS {
            users.insert(user.clone());
        }
        users.len()
    }

    /// How many different ones there are in a row.
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// A password was set, or a mail taken: the run is over.
    pub fn succeeded(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_different_users_count_and_a_success_ends_the_run() {
        let run = ForbiddenRun::default();
        let user = |name: &str| UserId::parse(name).unwrap();
        assert_eq!(["a", "a", "b", "c"].map(|name| run.forbidden(&user(name))), [1, 1, 2, 3]);
        assert_eq!(run.count(), 3);
        run.succeeded();
        assert_eq!(["d", "e", "f", "g", "h", "i"].map(|name| run.forbidden(&user(name))), [1, 2, 3, 4, 5, 5]);
    }
}
