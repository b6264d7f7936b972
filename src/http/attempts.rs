//! What a wrong token costs: the next one from the same address is looked at later, and it is counted and logged. Pure but for its lock:
//! time is an argument.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many wrong ones in a row are looked at at once, from each address: somebody may mistype.
const AT_ONCE: u32 = 10;
/// After those, one is looked at so often.
const EVERY: Duration = Duration::from_secs(1);
/// One that would have to wait for longer than this is refused unseen.
const LONGEST: Duration = Duration::from_secs(5);
/// So many addresses are known apart; all others count as one.
const MAX_ADDRESSES: usize = 1_024;
/// How often it is logged.
const LOGGED: Duration = Duration::from_secs(60);

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Until when the allowance of each address would be spent if one was used up in each interval (GCRA); `None`: all others.
    spent_until: HashMap<Option<IpAddr>, Instant>,
    failed: Failed,
    logged: Option<Instant>,
}

/// What was not logged yet.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failed {
    /// Wrong ones.
    pub(super) wrong: u64,
    /// Refused unseen.
    pub(super) unseen: u64,
    /// From where the last one came.
    pub(super) from: Option<IpAddr>,
}

impl Attempts {
    /// A token from that address is to be looked at after so long; `Err`: not at all, and another one after so long.
    pub(super) fn take(&self, from: Option<IpAddr>, now: Instant) -> Result<Duration, Duration> {
        let mut counts = self.lock();
        let key = counts.key(from, now);
        let spent = counts.spent_until.get(&key).copied().map_or(now, |spent| spent.max(now));
        let wait = (spent + EVERY).saturating_duration_since(now).saturating_sub(EVERY * AT_ONCE);
        if wait > LONGEST {
            counts.failed.unseen += 1;
            counts.failed.from = from;
            return Err(wait - LONGEST);
        }
        counts.spent_until.insert(key, spent + EVERY);
        Ok(wait)
    }

    /// It was no wrong one.
    pub(super) fn give_back(&self, from: Option<IpAddr>, now: Instant) {
        let mut counts = self.lock();
        let key = counts.key(from, now);
        if let Some(spent) = counts.spent_until.get_mut(&key) {
            *spent = spent.checked_sub(EVERY).unwrap_or(now);
        }
    }

    /// It was a wrong one.
    pub(super) fn failed(&self, from: Option<IpAddr>) {
        let mut counts = self.lock();
        counts.failed.wrong += 1;
        counts.failed.from = from;
    }

    /// What is to be logged now, if anything.
    pub(super) fn to_log(&self, now: Instant) -> Option<Failed> {
        let mut counts = self.lock();
        let is_due = counts.logged.is_none_or(|logged| now.duration_since(logged) >= LOGGED);
        if !is_due || (counts.failed.wrong, counts.failed.unseen) == (0, 0) {
            return None;
        }
        counts.logged = Some(now);
        Some(std::mem::take(&mut counts.failed))
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// What an address is counted by: of IPv6 the network of 64 bits, which is what one host gets.
    fn key(&mut self, from: Option<IpAddr>, now: Instant) -> Option<IpAddr> {
        let key = from.map(|from| match from.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            address @ IpAddr::V4(_) => address,
        });
        if self.spent_until.len() >= MAX_ADDRESSES && !self.spent_until.contains_key(&key) {
            self.spent_until.retain(|_, spent| *spent > now);
            if self.spent_until.len() >= MAX_ADDRESSES {
                return None;
            }
        }
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }

    #[tokio::test(start_paused = true)]
    async fn ten_are_looked_at_at_once_then_one_a_second_and_those_that_would_wait_longer_not_at_all() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let waits: Vec<_> = (0..17).map(|_| attempts.take(at("192.0.2.1"), now)).collect();
        assert!(waits[..10].iter().all(|wait| *wait == Ok(Duration::ZERO)), "{waits:?}");
        assert_eq!(waits[10..15], [1, 2, 3, 4, 5].map(|wait| Ok(Duration::from_secs(wait))));
        assert_eq!(waits[15..], [Err(Duration::from_secs(1)); 2]);
        assert_eq!(attempts.take(at("192.0.2.2"), now), Ok(Duration::ZERO), "another address");
        let later = now + Duration::from_secs(1);
        assert_eq!(attempts.take(at("192.0.2.1"), later), Ok(LONGEST));
        assert_eq!(attempts.take(at("192.0.2.1"), now + Duration::from_secs(3600)), Ok(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn the_right_one_costs_nothing() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for _ in 0..1_000 {
            assert_eq!(attempts.take(at("192.0.2.1"), now), Ok(Duration::ZERO));
            attempts.give_back(at("192.0.2.1"), now);
        }
        assert_eq!(attempts.to_log(now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_host_is_one_address_and_beyond_a_thousand_all_are_one() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for n in 0..10 {
            assert!(attempts.take(at(&format!("2001:db8::{n}")), now).is_ok());
        }
        assert_eq!(attempts.take(at("2001:db8::ffff"), now), Ok(EVERY), "the same network");
        assert_eq!(attempts.take(at("2001:db8:0:1::1"), now), Ok(Duration::ZERO));
        for n in 0..2_000_u32 {
            let _ = attempts.take(Some(IpAddr::V4(n.into())), now);
        }
        assert!(attempts.lock().spent_until.len() <= MAX_ADDRESSES + 1);
        assert!(attempts.take(at("198.51.100.1"), now).is_err(), "of all others too many failed");
        let later = now + Duration::from_secs(60);
        assert_eq!(attempts.take(at("198.51.100.1"), later), Ok(Duration::ZERO));
        assert!(attempts.lock().spent_until.len() < 10);
    }

    #[tokio::test(start_paused = true)]
    async fn they_are_logged_at_once_and_then_once_a_minute_with_how_many_there_were() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        assert_eq!(attempts.to_log(now), None);
        attempts.failed(at("192.0.2.1"));
        assert_eq!(attempts.to_log(now), Some(Failed { wrong: 1, unseen: 0, from: at("192.0.2.1") }));
        for second in 1..60 {
            attempts.failed(at("192.0.2.2"));
            assert_eq!(attempts.to_log(now + Duration::from_secs(second)), None);
        }
        assert_eq!(attempts.to_log(now + LOGGED), Some(Failed { wrong: 59, unseen: 0, from: at("192.0.2.2") }));
        assert_eq!(attempts.to_log(now + 3 * LOGGED), None);
    }
}
