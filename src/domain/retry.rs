//! What follows a try that failed: one table, and the delays in it. Pure: chance is an argument.

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{
    failure::Failure,
    outcome::{PasswordSet, Reason},
};

/// The part of the configuration that says how often and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries of one PATCH that failed by a fault.
    pub max_attempts: u32,
    /// The first backoff's bound.
    pub base: Duration,
    /// The bound of every backoff of our own.
    pub max: Duration,
    /// How long after it was halted processing is tried again for the first time. Not a key; tests make it shorter.
    pub halted: Duration,
}

/// How long after it was halted processing is tried again for the first time.
pub const HALTED: Duration = Duration::from_secs(15);

/// How often one job may be throttled while others pass before it is given up.
pub const MAX_THROTTLES: u32 = 20;
/// How often one job may be refused by the org's minimum age before it is given up: each time for a later moment.
pub const MAX_TOO_SOON: u32 = 20;
/// How far ahead the moment may be from which on a password may be changed.
pub const TOO_SOON_MAX: SignedDuration = SignedDuration::from_hours(24);
/// How long after that moment it is tried again, as the org's own Terraform provider does (`docs/development/facts.md#passwords`).
const TOO_SOON_SPARE: SignedDuration = SignedDuration::from_secs(2);
/// From how many different users in a row a 403 is taken for the client's fault.
pub const FORBIDDEN_USERS: usize = 5;

/// What one job has been through so far. Kept over a lost broker, so that nothing is counted twice or forgotten.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Calls answered by anything but a 429, a first 401 or what halts processing, or not answered.
    pub attempts: u32,
    /// How many of these were the breaker's probes, and faults: they bring no job nearer to being given up.
    pub probes: u32,
    /// Answers of 429 since which another job's call was admitted.
    pub throttles: u32,
    /// How often the org's minimum age of a password refused a try.
    pub too_soon: u32,
    /// Whether any try may have set a password: one of this process, or an earlier one's.
    pub password_set: PasswordSet,
    /// Whether a try may have set the very password that is at hand: this process alone knows it.
    pub may_be_this_one: bool,
    /// The status of the last answer.
    pub status: Option<u16>,
    /// Whether the last answer was a 401, so that the next one is a fresh token's.
    pub token_refused: bool,
    /// Consecutive 429s, for the backoff where the org does not say how long.
    pub throttled_in_row: u32,
}

/// Why nothing can be called until somebody fixes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HaltCause {
    /// The token endpoint refuses the client, or its token lacks a scope.
    ClientRefused,
    /// A fresh token is refused.
    TokenRefused,
    /// The client lacks a permission.
    Forbidden,
    /// Somebody else than the org answers its calls.
    ForeignAnswer,
    /// A queue does not take what is owed.
    Unpublishable,
    /// The mail service refuses the mailer, or the way there is not safe.
    MailRefused,
}

impl HaltCause {
    /// The name in `/readyz` for those who may not see the reason.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientRefused => "client_refused",
            Self::TokenRefused => "token_refused",
            Self::Forbidden => "forbidden",
            Self::ForeignAnswer => "foreign_answer",
            Self::Unpublishable => "unpublishable",
            Self::MailRefused => "mail_refused",
        }
    }
}

/// What the job does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Through the gate again, as soon as it opens.
    Again,
    /// The refused token is dropped, then through the gate again.
    FreshToken,
    /// Processing is halted; the job waits at the gate, and nothing is counted against it.
    Hold(HaltCause),
    /// Again after this delay of its own.
    After(Duration),
    /// Again at this moment, which no attempt was spent for. A password that may be set is given up until then.
    At(Timestamp),
    /// It is given up.
    DeadLetter(Reason),
}

impl fmt::Display for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Again => f.write_str("retry at once"),
            Self::FreshToken => f.write_str("retry with a fresh token"),
            Self::Hold(cause) => write!(f, "halt ({cause:?})"),
            Self::After(delay) => write!(f, "retry in {} ms", delay.as_millis()),
            Self::At(moment) => write!(f, "retry at {moment}"),
            Self::DeadLetter(reason) => write!(f, "dead-letter ({})", reason.as_str()),
        }
    }
}

/// What follows a failure, for the job and for the whole org.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What the job does.
    pub next: Next,
    /// How long every call of the org waits.
    pub pause: Option<Duration>,
}

impl Progress {
    /// Notes what a failed try adds, before [`decide`]. `probe`: whether the call was the breaker's probe.
    pub fn note(&mut self, failure: &Failure, forbidden_users: usize, probe: bool) {
        let counts = match failure {
            Failure::Throttled { .. } => false,
            Failure::TokenRefused => false,
            Failure::Forbidden { client } => !halts(*client, forbidden_users),
            Failure::TooSoon { .. } => false,
            Failure::Foreign { odd, may_have_set: _ } => *odd,
            Failure::Unavailable { .. }
            | Failure::NotFound
            | Failure::Conflict
            | Failure::NotInTime
            | Failure::UsedBefore
            | Failure::Rejected
            | Failure::Fault { .. } => true,
        };
        self.attempts += u32::from(counts);
        self.probes += u32::from(probe && is_fault(failure));
        self.too_soon += u32::from(matches!(failure, Failure::TooSoon { .. }));
        self.throttled_in_row =
            if matches!(failure, Failure::Throttled { .. }) { self.throttled_in_row + 1 } else { 0 };
        if may_have_set(failure) {
            self.password_set = PasswordSet::Unknown;
            self.may_be_this_one = true;
        }
    }
}

fn may_have_set(failure: &Failure) -> bool {
    match failure {
        Failure::Unavailable { .. } => true,
        Failure::Fault { may_have_set, .. } | Failure::Foreign { may_have_set, .. } => *may_have_set,
        Failure::Throttled { .. }
        | Failure::TokenRefused
        | Failure::Forbidden { .. }
        | Failure::NotFound
        | Failure::Conflict
        | Failure::TooSoon { .. }
        | Failure::NotInTime
        | Failure::UsedBefore
        | Failure::Rejected => false,
    }
}

fn is_fault(failure: &Failure) -> bool {
    match failure {
        Failure::Unavailable { .. } | Failure::Fault { .. } => true,
        Failure::Throttled { .. }
        | Failure::TokenRefused
        | Failure::Forbidden { .. }
        | Failure::Foreign { .. }
        | Failure::NotFound
        | Failure::Conflict
        | Failure::TooSoon { .. }
        | Failure::NotInTime
        | Failure::UsedBefore
        | Failure::Rejected => false,
    }
}

fn halts(client: bool, forbidden_users: usize) -> bool {
    client || forbidden_users >= FORBIDDEN_USERS
}

/// What follows a failure that `progress` has already noted.
///
/// `forbidden_users`: how many different users in a row, this one included, were answered 403. `chance`: uniform in 0..1.
pub fn decide(
    failure: &Failure,
    progress: &Progress,
    forbidden_users: usize,
    policy: &RetryPolicy,
    chance: f64,
) -> Decision {
    let only = |next| Decision { next, pause: None };
    match failure {
        Failure::Throttled { wait } => Decision {
            next: if progress.throttles >= MAX_THROTTLES {
                Next::DeadLetter(Reason::RetriesExhausted)
            } else {
                Next::Again
            },
            pause: Some(wait.unwrap_or_else(|| backoff(policy, progress.throttled_in_row, chance))),
        },
        Failure::Unavailable { wait } => {
            let next = unless_exhausted(Next::Again, Reason::RetriesExhausted, progress, policy);
            Decision { next, pause: Some(*wait) }
        }
        Failure::TokenRefused if progress.token_refused => only(Next::Hold(HaltCause::TokenRefused)),
        Failure::TokenRefused => only(Next::FreshToken),
        Failure::Forbidden { client } if halts(*client, forbidden_users) => only(Next::Hold(HaltCause::Forbidden)),
        Failure::Forbidden { .. } => only(Next::DeadLetter(Reason::Forbidden)),
        Failure::NotFound => only(Next::DeadLetter(Reason::NotFound)),
        Failure::TooSoon { .. } if progress.too_soon > MAX_TOO_SOON => only(Next::DeadLetter(Reason::TooSoon)),
        Failure::TooSoon { until } => only(Next::At(until.checked_add(TOO_SOON_SPARE).unwrap_or(*until))),
        Failure::NotInTime => only(Next::DeadLetter(Reason::TooSoon)),
        // Where that is no proof: see `proves_set`.
        Failure::UsedBefore | Failure::Rejected => only(Next::DeadLetter(Reason::Rejected)),
        Failure::Conflict => {
            let again = Next::After(backoff(policy, progress.attempts, chance));
            only(unless_exhausted(again, Reason::RetriesExhausted, progress, policy))
        }
        Failure::Foreign { odd: false, .. } => only(Next::Hold(HaltCause::ForeignAnswer)),
        Failure::Foreign { odd: true, .. } => {
            let again = Next::After(backoff(policy, progress.attempts, chance));
            only(unless_exhausted(again, Reason::Rejected, progress, policy))
        }
        Failure::Fault { wait, .. } => {
            let delay = backoff(policy, progress.attempts, chance).max(wait.unwrap_or_default());
            only(unless_exhausted(Next::After(delay), Reason::RetriesExhausted, progress, policy))
        }
    }
}

/// What a refusal until a moment means for a job that may not be tried after `not_after`: it waits, or cannot; and one that speaks of
/// the past is a refusal like any other.
pub fn in_time(failure: Failure, now: Timestamp, not_after: Option<Timestamp>) -> Failure {
    let Failure::TooSoon { until } = failure else { return failure };
    let again = until.checked_add(TOO_SOON_SPARE).unwrap_or(Timestamp::MAX);
    if until <= now {
        Failure::Rejected
    } else if until.duration_since(now) > TOO_SOON_MAX || not_after.is_some_and(|limit| limit < again) {
        Failure::NotInTime
    } else {
        failure
    }
}

/// Whether a refusal proves that the password is set: the org knows this very one, which is random and was sent by this job alone, in a
/// try of which nothing else is known.
pub fn proves_set(failure: &Failure, progress: &Progress) -> bool {
    matches!(failure, Failure::UsedBefore) && progress.may_be_this_one
}

fn unless_exhausted(next: Next, reason: Reason, progress: &Progress, policy: &RetryPolicy) -> Next {
    let spent = progress.attempts.saturating_sub(progress.probes);
    if spent >= policy.max_attempts { Next::DeadLetter(reason) } else { next }
}

/// How much sooner than otherwise the first try comes where somebody else than the org answers: it may be about one user alone, and
/// all the others wait for it.
const FOREIGN_SOONER: u32 = 3;
/// How long at most until the next try while few users are concerned, so that whoever comes then finds all at work.
const OF_FEW: Duration = Duration::from_secs(60);

/// How long after `halted`, the usual first wait, the first try for this cause is.
pub fn first_after_stop(cause: HaltCause, halted: Duration) -> Duration {
    match cause {
        HaltCause::ForeignAnswer => halted / FOREIGN_SOONER,
        HaltCause::ClientRefused
        | HaltCause::TokenRefused
        | HaltCause::Forbidden
        | HaltCause::Unpublishable
        | HaltCause::MailRefused => halted,
    }
}

/// How long after the last try the next one is: `usual` where what went wrong went wrong for `many` users. While it did for a few, it may
/// be about them alone, and `another` user who waits is tried after `first`.
pub fn sooner_for_another(usual: Duration, first: Duration, many: bool, another: bool) -> Duration {
    match (many, another) {
        (true, _) => usual,
        (false, true) => usual.min(first),
        (false, false) => usual.min(OF_FEW),
    }
}

/// How long until halted processing is tried again: `first` after it stopped, doubled with each try since, at most 5 min.
pub fn retry_after_stop(first: Duration, tries: u32) -> Duration {
    first.saturating_mul(1 << tries.min(10)).min(Duration::from_secs(300))
}

/// Exponential backoff with full jitter: uniform between nothing and `base · 2^(failures − 1)`, never above `max`.
///
/// Source: M. Brooker, "Exponential Backoff and Jitter" (2015), the row "full jitter".
pub fn backoff(policy: &RetryPolicy, failures: u32, chance: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    let bound = policy.base.saturating_mul(1 << doublings).min(policy.max);
    bound.mul_f64(chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: RetryPolicy =
        RetryPolicy { max_attempts: 5, base: Duration::from_secs(2), max: Duration::from_secs(60), halted: HALTED };
    const S7: Duration = Duration::from_secs(7);

    fn after(failure: &Failure, before: Progress, forbidden_users: usize) -> (Decision, Progress) {
        let mut progress = before;
        progress.note(failure, forbidden_users, false);
        (decide(failure, &progress, forbidden_users, &POLICY, 0.5), progress)
    }

    fn check(failure: Failure, before: Progress, next: Next, pause: Option<Duration>, attempts: u32) {
        let (decision, progress) = after(&failure, before, 1);
        assert_eq!(decision, Decision { next, pause }, "{failure:?}");
        assert_eq!(progress.attempts, attempts, "{failure:?}");
    }

    fn tried(attempts: u32) -> Progress {
        Progress { attempts, ..Progress::default() }
    }

    const FAULT: Failure = Failure::Fault { may_have_set: true, wait: None };

    #[test]
    fn what_follows_each_failure() {
        let fresh = Progress::default;
        check(Failure::Throttled { wait: Some(S7) }, fresh(), Next::Again, Some(S7), 0);
        check(Failure::Throttled { wait: None }, fresh(), Next::Again, Some(Duration::from_secs(1)), 0);
        check(
            Failure::Throttled { wait: Some(S7) },
            Progress { throttles: 20, ..fresh() },
            Next::DeadLetter(Reason::RetriesExhausted),
            Some(S7),
            0,
        );
        check(Failure::Unavailable { wait: S7 }, fresh(), Next::Again, Some(S7), 1);
        check(Failure::Unavailable { wait: S7 }, tried(4), Next::DeadLetter(Reason::RetriesExhausted), Some(S7), 5);
        check(Failure::TokenRefused, fresh(), Next::FreshToken, None, 0);
        check(
            Failure::TokenRefused,
            Progress { token_refused: true, ..fresh() },
            Next::Hold(HaltCause::TokenRefused),
            None,
            0,
        );
        check(Failure::Forbidden { client: false }, fresh(), Next::DeadLetter(Reason::Forbidden), None, 1);
        check(Failure::Forbidden { client: true }, fresh(), Next::Hold(HaltCause::Forbidden), None, 0);
        check(Failure::NotFound, fresh(), Next::DeadLetter(Reason::NotFound), None, 1);
        check(Failure::Rejected, fresh(), Next::DeadLetter(Reason::Rejected), None, 1);
        let foreign = |odd| Failure::Foreign { odd, may_have_set: false };
        check(foreign(false), fresh(), Next::Hold(HaltCause::ForeignAnswer), None, 0);
        check(foreign(false), tried(4), Next::Hold(HaltCause::ForeignAnswer), None, 4);
        check(foreign(true), fresh(), Next::After(Duration::from_secs(1)), None, 1);
        check(foreign(true), tried(4), Next::DeadLetter(Reason::Rejected), None, 5);
        check(Failure::Conflict, fresh(), Next::After(Duration::from_secs(1)), None, 1);
        check(Failure::Conflict, tried(4), Next::DeadLetter(Reason::RetriesExhausted), None, 5);
        check(FAULT, fresh(), Next::After(Duration::from_secs(1)), None, 1);
        check(FAULT, tried(3), Next::After(Duration::from_secs(8)), None, 4);
        check(FAULT, tried(4), Next::DeadLetter(Reason::RetriesExhausted), None, 5);
        check(Failure::Fault { may_have_set: true, wait: Some(S7) }, fresh(), Next::After(S7), None, 1);
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_refusal_until_a_moment_is_waited_out_where_the_job_may_wait_so_long() {
        const DAY: i64 = 24 * 3600;
        let too_soon = |seconds| Failure::TooSoon { until: at(seconds) };
        for (until, not_after, means) in [
            (-1, None, Failure::Rejected),
            (0, None, Failure::Rejected),
            (1, None, too_soon(1)),
            (DAY, None, too_soon(DAY)),
            (DAY + 1, None, Failure::NotInTime),
            (60, Some(62), too_soon(60)),
            (60, Some(61), Failure::NotInTime),
            (60, Some(-5), Failure::NotInTime),
            (-1, Some(-5), Failure::Rejected),
        ] {
            assert_eq!(in_time(too_soon(until), at(0), not_after.map(at)), means, "{until}, {not_after:?}");
        }
        for other in [Failure::Rejected, Failure::UsedBefore, FAULT, Failure::TooSoon { until: Timestamp::MAX }] {
            let means = in_time(other.clone(), at(0), None);
            assert!(means == other || means == Failure::NotInTime, "{other:?}");
        }
        check(too_soon(60), tried(2), Next::At(at(62)), None, 2);
        check(Failure::NotInTime, Progress::default(), Next::DeadLetter(Reason::TooSoon), None, 1);
        let often = |too_soon| Progress { too_soon, ..tried(1) };
        check(too_soon(60), often(MAX_TOO_SOON - 1), Next::At(at(62)), None, 1);
        check(too_soon(60), often(MAX_TOO_SOON), Next::DeadLetter(Reason::TooSoon), None, 1);
    }

    #[test]
    fn a_password_that_was_used_before_is_set_only_where_a_try_may_have_set_this_very_one() {
        let used = Failure::UsedBefore;
        let after_each = |before: &[Failure]| {
            let mut progress = Progress::default();
            before.iter().for_each(|failure| progress.note(failure, 0, false));
            proves_set(&used, &progress)
        };
        assert!(after_each(std::slice::from_ref(&FAULT)));
        assert!(after_each(&[Failure::Unavailable { wait: S7 }, Failure::Throttled { wait: None }]));
        assert!(!after_each(&[]));
        assert!(!after_each(&[Failure::Conflict, Failure::Fault { may_have_set: false, wait: None }]));
        // What another process has tried was another password.
        let elsewhere = Progress { password_set: PasswordSet::Unknown, ..tried(1) };
        assert!(!proves_set(&used, &elsewhere));
        let unknown = Progress { may_be_this_one: true, ..elsewhere };
        assert!(proves_set(&used, &unknown) && !proves_set(&Failure::Rejected, &unknown));
        check(used, Progress::default(), Next::DeadLetter(Reason::Rejected), None, 1);
    }

    #[test]
    fn the_fifth_forbidden_user_in_a_row_halts_processing_and_costs_nothing() {
        let forbidden = Failure::Forbidden { client: false };
        assert_eq!(after(&forbidden, Progress::default(), 4).0.next, Next::DeadLetter(Reason::Forbidden));
        let (decision, progress) = after(&forbidden, Progress::default(), 5);
        assert_eq!((decision.next, progress.attempts), (Next::Hold(HaltCause::Forbidden), 0));
    }

    #[test]
    fn a_failed_probe_is_an_attempt_that_brings_no_job_nearer_to_being_given_up() {
        let probed = |failure: &Failure, before: Progress| {
            let mut progress = before;
            progress.note(failure, 1, true);
            (decide(failure, &progress, 1, &POLICY, 0.5).next, progress.attempts, progress.probes)
        };
        let exhausted = Next::DeadLetter(Reason::RetriesExhausted);
        let probes = |attempts, probes| Progress { attempts, probes, ..Progress::default() };
        assert_eq!(probed(&Failure::Unavailable { wait: S7 }, probes(4, 0)), (Next::Again, 5, 1));
        assert_eq!(probed(&FAULT, probes(4, 0)), (Next::After(Duration::from_secs(16)), 5, 1));
        assert_eq!(probed(&FAULT, probes(104, 100)).1, 105);
        assert_eq!(after(&FAULT, probes(103, 100), 0).0.next, Next::After(Duration::from_secs(30)));
        assert_eq!(after(&FAULT, probes(104, 100), 0).0.next, exhausted);
        // The org answered: that was no fault, and counts as ever.
        assert_eq!(probed(&Failure::Conflict, probes(4, 0)), (exhausted, 5, 0));
        assert_eq!(probed(&Failure::Throttled { wait: Some(S7) }, probes(4, 0)), (Next::Again, 4, 0));
        assert_eq!(probed(&Failure::TokenRefused, probes(4, 0)), (Next::FreshToken, 4, 0));
    }

    #[test]
    fn a_halted_org_tries_again_ever_later() {
        let waits = [0, 1, 2, 3, 4, 5, 1000].map(|tries| retry_after_stop(HALTED, tries).as_secs());
        assert_eq!(waits, [15, 30, 60, 120, 240, 300, 300]);
    }

    #[test]
    fn one_odd_user_holds_up_another_for_5_s_at_most_and_several_are_tried_ever_later() {
        let first = first_after_stop(HaltCause::ForeignAnswer, HALTED);
        assert_eq!((first.as_secs(), first_after_stop(HaltCause::Forbidden, HALTED)), (5, HALTED));
        let next =
            |tries, many, another| sooner_for_another(retry_after_stop(first, tries), first, many, another).as_secs();
        assert_eq!([0, 1, 2, 3, 4, 5, 6].map(|tries| next(tries, true, true)), [5, 10, 20, 40, 80, 160, 300]);
        assert_eq!([0, 1, 2, 3, 4, 5, 6].map(|tries| next(tries, false, true)), [5; 7]);
        assert_eq!([0, 1, 2, 3, 4, 5, 6].map(|tries| next(tries, false, false)), [5, 10, 20, 40, 60, 60, 60]);
    }

    #[test]
    fn password_set_stays_unknown_once_it_was() {
        let (_, progress) = after(&FAULT, Progress::default(), 0);
        for failure in [Failure::NotFound, Failure::TooSoon { until: at(60) }, Failure::UsedBefore] {
            let (_, progress) = after(&failure, progress.clone(), 0);
            assert_eq!(progress.password_set, PasswordSet::Unknown, "{failure:?}");
        }
        let (_, progress) = after(&Failure::Fault { may_have_set: false, wait: None }, Progress::default(), 0);
        assert_eq!(progress.password_set, PasswordSet::No);
        for (may_have_set, set) in [(false, PasswordSet::No), (true, PasswordSet::Unknown)] {
            let (_, progress) = after(&Failure::Foreign { odd: false, may_have_set }, Progress::default(), 0);
            assert_eq!(progress.password_set, set);
        }
    }

    proptest! {
        #[test]
        fn our_own_backoff_never_exceeds_its_bound(base in 1_u64..10_000, max in 1_u64..100_000, failures in 0_u32..1000, chance in 0.0..1.0_f64) {
            let (base, max) = (Duration::from_millis(base), Duration::from_millis(max));
            let policy = RetryPolicy { max_attempts: 5, base, max, halted: HALTED };
            prop_assert!(backoff(&policy, failures, chance) <= policy.max);
        }

        #[test]
        fn no_wait_is_shorter_than_retry_after(seconds in 1_u64..900, attempts in 0_u32..4, chance in 0.0..1.0_f64) {
            let asked = Duration::from_secs(seconds);
            for failure in [Failure::Throttled { wait: Some(asked) }, Failure::Unavailable { wait: asked }, Failure::Fault { may_have_set: true, wait: Some(asked) }] {
                let mut progress = tried(attempts);
                progress.note(&failure, 0, false);
                let decision = decide(&failure, &progress, 0, &POLICY, chance);
                let own = if let Next::After(delay) = decision.next { delay } else { Duration::ZERO };
                if !matches!(decision.next, Next::DeadLetter(_)) {
                    prop_assert!(own.max(decision.pause.unwrap_or_default()) >= asked);
                }
            }
        }
    }
}
