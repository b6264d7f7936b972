//! One at a time per user: two of a user's jobs never run at once, over all lanes, and they run in the order they came.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Mutex as Turnstile, OwnedMutexGuard};

use crate::domain::user::UserId;

/// Whose job is running.
#[derive(Debug, Clone, Default)]
pub struct UserOrder(Arc<Mutex<HashMap<UserId, Arc<Turnstile<()>>>>>);

/// The right to run a job of this user, given up when dropped.
#[derive(Debug)]
pub struct Turn {
    guard: Option<OwnedMutexGuard<()>>,
    user: UserId,
    user_order: UserOrder,
}

impl UserOrder {
    /// Takes a place among those who wait for the user's turn, at once: so they have it in the order in which they came.
    pub fn line_up(&self, user: &UserId) -> BoxFuture<'static, Turn> {
        let (user_order, user) = (self.clone(), user.clone());
        let mut turn = async move { user_order.take(&user).await }.boxed();
        match (&mut turn).now_or_never() {
            Some(taken) => std::future::ready(taken).boxed(),
            None => turn,
        }
    }

    /// Waits until no earlier job of the user is running, in whichever case their id is written.
    pub async fn take(&self, user: &UserId) -> Turn {
        let user = &user.in_lower_case();
        let turnstile = {
            let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(users.entry(user.clone()).or_default())
        };
        // Made before it is waited for, so that whoever gives up last tidies up.
        let mut turn = Turn { guard: None, user: user.clone(), user_order: self.clone() };
        // tokio's mutex is fair: first come, first served.
        turn.guard = Some(turnstile.lock_owned().await);
        turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.guard.take());
        let mut users = self.user_order.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The map's own is the only one left where nobody holds or waits for it.
        if users.get(&self.user).is_some_and(|turnstile| Arc::strong_count(turnstile) == 1) {
            users.remove(&self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn the_second_job_of_a_user_waits_and_another_users_does_not() {
        let user_order = UserOrder::default();
        let (a, b) = (UserId::parse("a").unwrap(), UserId::parse("b").unwrap());
        let first = user_order.take(&a).await;
        let mut second = Box::pin(user_order.take(&a));
        assert!(second.as_mut().now_or_never().is_none());
        let other = user_order.take(&b).await;
        drop((first, other));
        drop(second.await);
        assert!(user_order.0.lock().unwrap().is_empty(), "nothing is kept of users whose jobs are done");
    }

    #[tokio::test]
    async fn one_who_gives_up_waiting_leaves_nothing_behind() {
        let user_order = UserOrder::default();
        let user = UserId::parse("a").unwrap();
        for gives_up_first in [true, false] {
            let first = user_order.take(&user).await;
            let mut waiting = Box::pin(user_order.take(&user));
            assert!(waiting.as_mut().now_or_never().is_none());
            if gives_up_first {
                drop(waiting);
                drop(first);
            } else {
                drop(first);
                drop(waiting);
            }
            assert!(user_order.0.lock().unwrap().is_empty(), "{gives_up_first}");
        }
    }
}
