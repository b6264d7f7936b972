//! Users whose calls fail while others' pass: that is their own fault, and not the org's. Pure: what happened is told in its order.
//!
//! A job whose calls failed twice, with another user's success after each of the two, is suspect: from then on its failures say nothing of
//! the org. A user who was answered by somebody else than the org, while the org answered another user's call after that, is odd: so is
//! the way to this one user, and not the way to the org. One user has one job at a time, so a user stands for the job.

use std::cmp::Ordering;
use std::collections::HashMap;

use crate::domain::user::UserId;

/// After so many failures that were each followed by another user's success a job is suspect.
const CONFIRMED: u32 = 2;
/// From so many users on whose calls fail it is not about a few of them.
const MANY: usize = 10;
/// So many users are known at most; the one of whom nothing was heard for longest is forgotten first.
const MOST: usize = 4096;

/// What is known of one org's users.
#[derive(Debug, Default)]
pub struct Doubts {
    /// Numbers what is told, from 1 on.
    moment: u64,
    successes: Latest,
    answers: Latest,
    foreign: Latest,
    users: HashMap<UserId, Doubt>,
}

/// One user, since a password of theirs was set last.
#[derive(Debug, Clone, Copy, Default)]
struct Doubt {
    /// When something was told of them last.
    noted: u64,
    /// Their last failure.
    failed: Option<u64>,
    /// The failures before that which another user's success followed.
    confirmed: u32,
    /// When they were answered by somebody else than the org, for the first time since the org answered them.
    foreign: Option<u64>,
}

/// How well a user would show whether calls pass again: the least is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    /// Nothing is known against them.
    Clear,
    /// Their failures say nothing, and cost nothing either.
    Suspect,
    /// Their last call failed, at that moment.
    Failed(u64),
}

impl Witness {
    fn rank(self) -> (u8, u64) {
        match self {
            Self::Clear => (0, 0),
            Self::Suspect => (1, 0),
            Self::Failed(moment) => (2, moment),
        }
    }
}

impl Ord for Witness {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for Witness {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The newest moment of one user, and the newest of all others.
#[derive(Debug, Default)]
struct Latest {
    newest: Option<(UserId, u64)>,
    of_others: u64,
}

impl Latest {
    fn note(&mut self, user: &UserId, moment: u64) {
        match &mut self.newest {
            Some((newest, at)) if newest == user => *at = moment,
            Some((_, at)) => {
                self.of_others = *at;
                self.newest = Some((user.clone(), moment));
            }
            None => self.newest = Some((user.clone(), moment)),
        }
    }

    /// The newest moment of any user but this one; 0 where there is none.
    fn of_another(&self, user: &UserId) -> u64 {
        match &self.newest {
            Some((newest, at)) if newest != user => *at,
            Some(_) | None => self.of_others,
        }
    }
}

impl Doubt {
    fn is_suspect(&self, user: &UserId, successes: &Latest) -> bool {
        let last = self.failed.is_some_and(|failed| successes.of_another(user) > failed);
        self.confirmed + u32::from(last) >= CONFIRMED
    }
}

impl Doubts {
    /// A password of theirs was set: nothing is held against them any more.
    pub fn succeeded(&mut self, user: &UserId) {
        self.answered(user);
        self.successes.note(user, self.moment);
        self.users.remove(user);
    }

    /// The org itself answered a PATCH of theirs, whatever it said.
    pub fn answered(&mut self, user: &UserId) {
        self.moment += 1;
        self.answers.note(user, self.moment);
        if let Some(doubt) = self.users.get_mut(user) {
            (doubt.noted, doubt.foreign) = (self.moment, None);
        }
    }

    /// A call of theirs failed as calls to an org that is down do.
    pub fn failed(&mut self, user: &UserId) {
        let successes = self.successes.of_another(user);
        let moment = self.next();
        let doubt = self.doubt(user);
        doubt.confirmed += u32::from(doubt.failed.is_some_and(|failed| successes > failed));
        (doubt.failed, doubt.noted) = (Some(moment), moment);
    }

    /// Somebody else than the org answered a call of theirs. `true`: the org has answered another user's since it was so for the first time,
    /// and nobody else has answered another's since, so that this is about them alone. (An answer of the org's may be to a call that was
    /// made before the way to it went wrong.)
    pub fn foreign(&mut self, user: &UserId) -> bool {
        let (answers, foreign) = (self.answers.of_another(user), self.foreign.of_another(user));
        let moment = self.next();
        self.foreign.note(user, moment);
        let doubt = self.doubt(user);
        doubt.noted = moment;
        answers > *doubt.foreign.get_or_insert(moment) && answers > foreign
    }

    /// Their job has ended: the next one begins without anything held against it.
    pub fn ended(&mut self, user: &UserId) {
        self.users.remove(user);
    }

    /// Whether their failures say nothing of the org any more.
    pub fn is_suspect(&self, user: &UserId) -> bool {
        self.users.get(user).is_some_and(|doubt| doubt.is_suspect(user, &self.successes))
    }

    /// Whether their first failure was followed by another user's success, so that a second call shows soonest whose fault it is.
    pub fn is_to_be_confirmed(&self, user: &UserId) -> bool {
        let confirms = |doubt: &Doubt| doubt.failed.is_some_and(|failed| self.successes.of_another(user) > failed);
        self.users.get(user).is_some_and(|doubt| doubt.confirmed == 0 && confirms(doubt))
    }

    /// What they would show as the next to be tried.
    pub fn witness(&self, user: &UserId) -> Witness {
        let Some(doubt) = self.users.get(user) else { return Witness::Clear };
        match doubt.failed.max(doubt.foreign.map(|_| doubt.noted)) {
            None => Witness::Clear,
            Some(_) if doubt.foreign.is_none() && doubt.is_suspect(user, &self.successes) => Witness::Suspect,
            Some(moment) => Witness::Failed(moment),
        }
    }

    /// Whether more than one user was answered by somebody else than the org since it answered anybody else.
    pub fn several_are_foreign(&self) -> bool {
        let still = |(user, doubt): &(&UserId, &Doubt)| {
            doubt.foreign.is_some_and(|foreign| self.answers.of_another(user) < foreign)
        };
        self.users.iter().filter(still).nth(1).is_some()
    }

    /// Whether so many users' calls failed, with no other user's success since, that it is not about a few of them.
    pub fn many_fail(&self) -> bool {
        let still = |(user, doubt): &(&UserId, &Doubt)| {
            doubt.failed.is_some_and(|failed| self.successes.of_another(user) < failed)
        };
        // Calls that say nothing of a user are not known: then it is about all of them.
        let failing = self.users.iter().filter(still).count();
        failing == 0 || failing >= MANY
    }

    /// The number of the newest success; 0 before the first.
    pub fn newest_success(&self) -> u64 {
        self.successes.newest.as_ref().map_or(0, |(_, moment)| *moment)
    }

    fn next(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    fn doubt(&mut self, user: &UserId) -> &mut Doubt {
        if self.users.len() >= MOST && !self.users.contains_key(user) {
            let oldest = self.users.iter().min_by_key(|(_, doubt)| doubt.noted).map(|(user, _)| user.clone());
            if let Some(oldest) = oldest {
                self.users.remove(&oldest);
            }
        }
        self.users.entry(user.clone()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    /// What happened, in words of a letter and a user: `f` failed, `s` succeeded, `a` answered, `x` answered by another, `e` ended.
    fn after(what: &str) -> Doubts {
        let mut doubts = Doubts::default();
        for word in what.split_whitespace() {
            let user = user(&word[1..]);
            match &word[..1] {
                "f" => doubts.failed(&user),
                "s" => doubts.succeeded(&user),
                "a" => doubts.answered(&user),
                "x" => drop(doubts.foreign(&user)),
                _ => doubts.ended(&user),
            }
        }
        doubts
    }

    #[test]
    fn who_failed_twice_with_anothers_success_after_each_is_suspect() {
        for (what, suspect, to_be_confirmed) in [
            ("", false, false),
            ("f1", false, false),
            ("f1 s2", false, true),
            ("f1 s2 f1", false, false),
            ("f1 s2 f1 s2", true, false),
            ("f1 s2 f1 s3 f1 f1", true, false),
            ("s2 f1 f1 f1", false, false),
            // One success after both is one.
            ("f1 f1 s2", false, true),
            ("f1 f1 s2 f1", false, false),
            ("f1 f1 s2 f1 s2", true, false),
            // An answer is no success, and nobody witnesses for themselves.
            ("f1 a2 f1 a2", false, false),
            ("f1 s1 f1 s1", false, false),
            ("f1 s2 f1 s2 s1 f1", false, false),
            ("f1 s2 f1 s2 e1 f1", false, false),
            ("f1 s2 s1 f1 s2", false, true),
            // What the org answers to themselves changes none of it.
            ("f1 s2 f1 s2 a1", true, false),
        ] {
            let doubts = after(what);
            assert_eq!(doubts.is_suspect(&user("1")), suspect, "{what}");
            assert_eq!(doubts.is_to_be_confirmed(&user("1")), to_be_confirmed, "{what}");
        }
    }

    #[test]
    fn an_outage_makes_nobody_suspect_however_long_it_is() {
        let mut doubts = after("f1 f2 s3 s4");
        for n in 0..1_000 {
            (1..=60).for_each(|n| doubts.failed(&user(&n.to_string())));
            assert!((1..=60).all(|n| !doubts.is_suspect(&user(&n.to_string()))), "{n}");
        }
    }

    #[test]
    fn who_is_answered_by_another_while_the_org_answers_others_is_odd() {
        for (what, odd) in [
            ("", false),
            ("x1", false),
            ("x1 x2 x3", false),
            ("x1 s2", true),
            ("x1 a2", true),
            ("x1 a2 x1 x1", true),
            ("x1 a1", false),
            ("a2 x1", false),
            ("x1 a2 a1", false),
            ("x1 f2", false),
            // The org's answer was to a call from before the way to it went wrong.
            ("x1 a2 x3", false),
            ("x1 a2 x3 x4 x1", false),
            ("x1 a2 x3 a4", true),
        ] {
            assert_eq!(after(what).foreign(&user("1")), odd, "{what}");
        }
        assert!(after("x1 x2").several_are_foreign());
        for what in ["x1", "x1 x1", "x1 a3 x2", "x1 x2 a3", "x1 x2 a3 x4"] {
            assert!(!after(what).several_are_foreign(), "{what}");
        }
    }

    #[test]
    fn another_user_is_tried_each_time_and_the_one_who_failed_longest_ago_last_of_all() {
        let doubts = after("f1 s9 f1 s9 f2 f3 f2 x4 a5");
        let witness = ["1", "2", "3", "4", "5", "6"].map(|name| doubts.witness(&user(name)));
        assert_eq!(witness[..2], [Witness::Suspect, Witness::Failed(7)]);
        assert_eq!(witness[2..], [Witness::Failed(6), Witness::Failed(8), Witness::Clear, Witness::Clear]);
        assert!(Witness::Clear < Witness::Suspect && Witness::Suspect < Witness::Failed(1));
        assert!(Witness::Failed(6) < Witness::Failed(7));
    }

    #[test]
    fn nine_who_fail_are_a_few_and_ten_are_many() {
        let fails = |n: usize| (1..=n).map(|n| format!("f{n} ")).collect::<String>();
        assert!(!after(&fails(9)).many_fail());
        assert!(after(&fails(10)).many_fail());
        assert!(!after(&(fails(12) + "s99 f1")).many_fail(), "of these one alone failed since");
        assert!(after("").many_fail());
    }

    #[test]
    fn only_so_many_are_known_and_the_oldest_is_forgotten() {
        let mut doubts = after("f1 s0");
        (2..=MOST + 1).for_each(|n| doubts.failed(&user(&n.to_string())));
        assert_eq!(doubts.users.len(), MOST);
        assert_eq!(doubts.witness(&user("1")), Witness::Clear);
        assert!(matches!(doubts.witness(&user("2")), Witness::Failed(_)));
    }
}
