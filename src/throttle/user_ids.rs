//! Which user a name was found to be, for a while: so that the tries of one job, or several jobs of one user, search once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::user::{UserId, UserName};

/// How long a finding is believed: a user may be given another name, and another user this one.
const KEPT: Duration = Duration::from_mins(5);
/// Findings at most; the oldest goes.
const MAX: usize = 10_000;

/// The names that were found.
#[derive(Debug, Default)]
pub struct UserIdCache(Mutex<Found>);

#[derive(Debug, Default)]
struct Found {
    /// By the name's key, since a name is often an address.
    users: HashMap<UserId, (Instant, UserId)>,
    /// In the order they were found.
    order: VecDeque<(Instant, UserId)>,
}

impl UserIdCache {
    /// Who it was found to be, not long ago.
    pub fn user(&self, name: &UserName) -> Option<UserId> {
        let found = self.lock();
        let (since, user) = found.users.get(&name.key())?;
        (since.elapsed() < KEPT).then(|| user.clone())
    }

    /// A search found this user.
    pub fn found(&self, name: &UserName, user: UserId) {
        let (now, mut found) = (Instant::now(), self.lock());
        found.users.insert(name.key(), (now, user));
        found.order.push_back((now, name.key()));
        let goes =
            |found: &Found| found.order.len() > MAX || found.order.front().is_some_and(|(at, _)| at.elapsed() >= KEPT);
        while goes(&found)
            && let Some((since, key)) = found.order.pop_front()
        {
            found.forget(since, &key);
        }
    }

    /// The org knows no user of the id that it was found to be.
    pub fn forget(&self, name: &UserName) {
        self.lock().users.remove(&name.key());
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Found {
    /// Forgets one, unless it was found again since.
    fn forget(&mut self, since: Instant, key: &UserId) {
        if self.users.get(key).is_some_and(|(newest, _)| *newest == since) {
            self.users.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> UserName {
        UserName::parse(text).unwrap()
    }

    fn id(text: &str) -> Option<UserId> {
        UserId::parse(text).ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_finding_is_believed_for_five_minutes_in_any_case_or_until_it_is_forgotten() {
        let directory = UserIdCache::default();
        assert_eq!(directory.user(&name("ann")), None);
        directory.found(&name("Ann"), id("u-1").unwrap());
        assert_eq!(directory.user(&name("aNN")), id("u-1"));
        tokio::time::advance(KEPT - Duration::from_millis(1)).await;
        assert_eq!(directory.user(&name("ann")), id("u-1"));
        directory.found(&name("bob"), id("u-2").unwrap());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!((directory.user(&name("ann")), directory.user(&name("bob"))), (None, id("u-2")));
        directory.forget(&name("bob"));
        assert_eq!(directory.user(&name("bob")), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_bounded_and_the_oldest_goes_first() {
        let directory = UserIdCache::default();
        for n in 0..MAX + 10 {
            directory.found(&name(&n.to_string()), id(&format!("u-{n}")).unwrap());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!((directory.user(&name("9")), directory.user(&name("10"))), (None, id("u-10")));
        let found = directory.lock();
        assert_eq!((found.users.len(), found.order.len()), (MAX, MAX));
    }
}
