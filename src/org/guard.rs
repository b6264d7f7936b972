//! What may close the bulk lane while the other one works: its daily hours, and a limit to how many are reset in an hour. Pure: time is
//! an argument.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU32;

use jiff::{SignedDuration, Timestamp};

use crate::domain::window::Window;

const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// Why the bulk lane is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// So many were reset within an hour: `orgs.NAME.guard_per_hour`.
    PerHour(NonZeroU32),
    /// It is outside its hours: `orgs.NAME.bulk_window`.
    Window(Window),
}

impl Cause {
    /// The label in the metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::PerHour(_) => "guard_per_hour",
            Self::Window(_) => "bulk_window",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerHour(most) => write!(
                f,
                "{most} people were reset within an hour, as many as guard_per_hour allows; it goes on as that hour passes, or when the limit is raised"
            ),
            Self::Window(window) => write!(f, "it works only in its hours, bulk_window {window}"),
        }
    }
}

/// A bulk lane that is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Why.
    pub cause: Cause,
    /// Until when at least.
    pub until: Timestamp,
}

/// One org's guard.
#[derive(Debug)]
pub struct Guard {
    per_hour: Option<NonZeroU32>,
    window: Option<Window>,
    /// When those were reset who count, the oldest first; never more than the limit, since older ones say nothing.
    resets: VecDeque<Timestamp>,
    /// Calls whose end is not known: each may be one more.
    in_air: u32,
}

impl Guard {
    /// With what is configured; nobody was reset yet.
    pub fn new(per_hour: Option<NonZeroU32>, window: Option<Window>) -> Self {
        Self { per_hour, window, resets: VecDeque::new(), in_air: 0 }
    }

    /// Why the bulk lane is closed, and until when; `None` while it is open.
    pub fn closed(&self, now: Timestamp) -> Option<Closed> {
        let by_window = self.window.as_ref().and_then(|window| {
            let until = window.closed_until(now)?;
            Some(Closed { cause: Cause::Window(window.clone()), until })
        });
        let spent = self.per_hour.filter(|most| self.within_an_hour(now) >= most.get()).and_then(|most| {
            let until = *self.resets.front()? + HOUR;
            Some(Closed { cause: Cause::PerHour(most), until })
        });
        [by_window, spent].into_iter().flatten().max_by_key(|closed| closed.until)
    }

    /// Whether there is room for one more while it is open, should every call in the air set a password.
    pub fn has_room(&self, now: Timestamp) -> bool {
        self.per_hour.is_none_or(|most| self.within_an_hour(now).saturating_add(self.in_air) < most.get())
    }

    fn within_an_hour(&self, now: Timestamp) -> u32 {
        let left = self.resets.partition_point(|at| now.duration_since(*at) >= HOUR);
        u32::try_from(self.resets.len() - left).unwrap_or(u32::MAX)
    }

    /// A permit is given.
    pub fn permitted(&mut self) {
        self.in_air += 1;
    }

    /// The call of a permit ended, or was never made. `true`: that may have made room in the hour.
    pub fn ended(&mut self) -> bool {
        self.in_air = self.in_air.saturating_sub(1);
        self.per_hour.is_some()
    }

    /// Somebody was reset at that moment; moments come in their order.
    pub fn reset(&mut self, at: Timestamp) {
        let Some(most) = self.per_hour else { return };
        if self.resets.len() == most.get() as usize {
            self.resets.pop_front();
        }
        self.resets.push_back(at);
    }

    /// Starts over with what others have reset: so many at each moment, in their order.
    pub fn begin(&mut self, resets: impl Iterator<Item = Timestamp>) {
        self.resets.clear();
        resets.for_each(|at| self.reset(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn of(per_hour: u32) -> Guard {
        Guard::new(NonZeroU32::new(per_hour), None)
    }

    #[test]
    fn without_a_limit_and_hours_it_is_always_open() {
        let mut guard = Guard::new(None, None);
        (0..1_000).for_each(|n| guard.reset(at(n)));
        (0..1_000).for_each(|_| guard.permitted());
        assert_eq!((guard.closed(at(1_000)), guard.has_room(at(1_000))), (None, true));
    }

    #[test]
    fn it_closes_with_as_many_as_the_limit_and_opens_as_each_of_them_leaves_the_hour() {
        let mut guard = of(3);
        [0, 10, 20].into_iter().for_each(|n| guard.reset(at(n)));
        let until =
            |guard: &Guard, now| guard.closed(at(now)).map(|closed| closed.until.as_second() - at(0).as_second());
        assert_eq!(until(&guard, 20), Some(3_600));
        assert_eq!(until(&guard, 3_599), Some(3_600));
        assert_eq!(until(&guard, 3_600), None);
        guard.reset(at(3_600));
        assert_eq!(until(&guard, 3_600), Some(3_610), "the interactive lane goes on and counts too");
        assert_eq!(until(&guard, 3_610), None);
    }

    #[test]
    fn calls_in_the_air_count_as_if_each_set_a_password_but_do_not_close_it() {
        let mut guard = of(2);
        guard.reset(at(0));
        assert!(guard.has_room(at(1)));
        guard.permitted();
        assert_eq!((guard.has_room(at(1)), guard.closed(at(1))), (false, None));
        assert!(guard.ended());
        assert!(guard.has_room(at(1)));
        guard.permitted();
        assert!(guard.ended());
        guard.reset(at(2));
        assert!(!guard.has_room(at(2)) && guard.closed(at(2)).is_some());
    }

    #[test]
    fn of_what_others_have_reset_it_takes_the_newest() {
        let mut guard = of(2);
        guard.begin([0, 10, 20].map(at).into_iter());
        assert_eq!(guard.closed(at(30)).unwrap().until, at(3_610));
        guard.begin(std::iter::empty());
        assert_eq!(guard.closed(at(30)), None);
    }

    #[test]
    fn outside_its_hours_it_is_closed_and_the_later_of_two_reasons_is_given() {
        let window: Window = "20:00-06:00 UTC".parse().unwrap();
        let mut guard = Guard::new(NonZeroU32::new(1), Some(window.clone()));
        let noon: Timestamp = "2026-03-02T12:00:00Z".parse().unwrap();
        let closed = guard.closed(noon).unwrap();
        assert_eq!((closed.cause, closed.until), (Cause::Window(window), noon + SignedDuration::from_hours(8)));
        let late = noon + SignedDuration::from_mins(8 * 60 - 1);
        guard.reset(late);
        assert_eq!(guard.closed(late).unwrap().cause, Cause::PerHour(NonZeroU32::MIN));
    }
}
