//! What may close a lane while others work: a limit to how many are reset in an hour, and the daily hours of the bulk lane. Pure:
//! time is an argument.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::domain::job::Lane;
use crate::domain::window::Window;

const HOUR: SignedDuration = SignedDuration::from_hours(1);
/// Resets within an hour that are known at most, where the limit is not higher: those of a rate of 1,000 a minute.
const MAX_KEPT: usize = 60_000;

/// The limits of resets within an hour, by lane; `None`: there is none.
pub type PerHour = [Option<NonZeroU32>; Lane::COUNT];

/// Why a lane is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// Too many were reset within an hour.
    PerHour {
        /// Whose limit it is.
        lane: Lane,
        /// As many as `orgs.NAME.guard_per_hour` allows.
        most: NonZeroU32,
        /// So many: what has begun ends, and those of other lanes may count too.
        reset: u32,
    },
    /// It is outside its hours: `orgs.NAME.bulk_window`.
    Window(Window),
}

impl Cause {
    /// The label in the metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::PerHour { .. } => "guard_per_hour",
            Self::Window(_) => "bulk_window",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerHour { lane, most, reset } => {
                let people = if *reset == 1 { "person was" } else { "people were" };
                // A number alone is the bulk lane's limit.
                let (by, key) = match lane.as_str() {
                    _ if *lane == Lane::Bulk => (String::new(), String::new()),
                    name => (format!(" by {name} jobs"), format!(".{name}")),
                };
                write!(
                    f,
                    "{reset} {people} reset{by} within an hour, and guard_per_hour{key} allows {most}; it goes on as that hour passes, or when the limit is raised"
                )
            }
            Self::Window(window) => write!(f, "it works only in its hours, bulk_window {window}"),
        }
    }
}

/// A lane that is closed.
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
    per_hour: PerHour,
    /// How long a reset counts.
    hour: SignedDuration,
    window: Option<Window>,
    /// When those were reset who count for the limit of a lane, the oldest first.
    resets: [VecDeque<Timestamp>; Lane::COUNT],
    /// Calls whose end is not known, by their lane: each may be one more.
    in_air: [u32; Lane::COUNT],
    /// Jobs in flight that have reserved room, by their lane: each may be one more too.
    reserved: [u32; Lane::COUNT],
}

impl Guard {
    /// With what is configured; nobody was reset yet.
    pub fn new(per_hour: PerHour, window: Option<Window>) -> Self {
        Self {
            per_hour,
            hour: HOUR,
            window,
            resets: [const { VecDeque::new() }; Lane::COUNT],
            in_air: [0; Lane::COUNT],
            reserved: [0; Lane::COUNT],
        }
    }

    /// The same with another hour.
    pub fn with_hour(self, hour: Duration) -> Self {
        Self { hour: SignedDuration::try_from(hour).unwrap_or(HOUR), ..self }
    }

    /// Why a lane is closed, and until when; `None` while it is open.
    pub fn closed(&self, lane: Lane, now: Timestamp) -> Option<Closed> {
        let window = self.window.as_ref().filter(|_| lane == Lane::Bulk);
        let by_window = window.and_then(|window| {
            let until = window.closed_until(now)?;
            Some(Closed { cause: Cause::Window(window.clone()), until })
        });
        let spent = self.limit(lane).and_then(|most| {
            let (reset, resets) = (self.within_an_hour(lane, now), &self.resets[lane.index()]);
            // It opens when one fewer than the limit count still.
            let last = resets.len().checked_sub(most.get() as usize)?;
            let until = *(reset >= most.get()).then(|| resets.get(last))?? + self.hour;
            Some(Closed { cause: Cause::PerHour { lane, most, reset }, until })
        });
        [by_window, spent].into_iter().flatten().max_by_key(|closed| closed.until)
    }

    /// Whether there is room for one more call of a lane while that is open, should every call in flight set a password.
    pub fn has_room(&self, lane: Lane, now: Timestamp) -> bool {
        let in_air = counting(lane).map(|by| self.in_air[by.index()]).sum();
        self.limit(lane).is_none_or(|most| self.within_an_hour(lane, now).saturating_add(in_air) < most.get())
    }

    /// For how many jobs more of that lane there is room, should every one in flight set a password; `None`: for as many as may come. A job
    /// that is taken without room for it would have to be returned, and each return brings it nearer to its delivery limit.
    pub fn room(&self, lane: Lane, now: Timestamp) -> Option<u32> {
        let most = self.limit(lane)?;
        Some(most.get().saturating_sub(self.within_an_hour(lane, now)).saturating_sub(self.in_flight(lane)))
    }

    /// The same, but for the jobs of that lane that are in flight: for how many of them there is room at once.
    pub fn room_in_all(&self, lane: Lane, now: Timestamp) -> Option<u32> {
        Some(self.room(lane, now)?.saturating_add(self.reserved[lane.index()]))
    }

    /// The limit that closes a lane.
    fn limit(&self, lane: Lane) -> Option<NonZeroU32> {
        self.per_hour[lane.index()]
    }

    /// How many more that count for a lane may be reset by what is in flight: by jobs that have reserved room, and by calls of jobs that
    /// have not.
    fn in_flight(&self, lane: Lane) -> u32 {
        counting(lane).map(|by| self.in_air[by.index()].max(self.reserved[by.index()])).sum()
    }

    fn has_limits(&self) -> bool {
        self.per_hour.iter().any(Option::is_some)
    }

    /// A job of that lane is in flight. Only where its lane has a limit it takes room; [`Guard::free`] gives that back.
    pub fn reserve(&mut self, lane: Lane) {
        if self.limit(lane).is_some() {
            self.reserved[lane.index()] += 1;
        }
    }

    /// It is no longer, or what it has set is counted. `true`: that may have made room.
    pub fn free(&mut self, lane: Lane) -> bool {
        let reserved = &mut self.reserved[lane.index()];
        *reserved = reserved.saturating_sub(1);
        self.has_limits()
    }

    fn within_an_hour(&self, lane: Lane, now: Timestamp) -> u32 {
        let resets = &self.resets[lane.index()];
        let left = resets.partition_point(|at| now.duration_since(*at) >= self.hour);
        u32::try_from(resets.len() - left).unwrap_or(u32::MAX)
    }

    /// A permit is given to a job of that lane.
    pub fn permitted(&mut self, lane: Lane) {
        self.in_air[lane.index()] += 1;
    }

    /// The call of a permit ended, or was never made. `true`: that may have made room in the hour.
    pub fn ended(&mut self, lane: Lane) -> bool {
        let in_air = &mut self.in_air[lane.index()];
        *in_air = in_air.saturating_sub(1);
        self.has_limits()
    }

    /// Somebody was reset by a job of that lane at that moment; moments come in their order.
    pub fn reset(&mut self, by: Lane, at: Timestamp) {
        for lane in Lane::ALL {
            let (Some(most), true) = (self.limit(lane), counting(lane).any(|counting| counting == by)) else {
                continue;
            };
            let (hour, resets) = (self.hour, &mut self.resets[lane.index()]);
            let gone = resets.partition_point(|reset| at.duration_since(*reset) >= hour);
            resets.drain(..gone);
            // More say nothing but their number.
            if resets.len() >= MAX_KEPT.max(most.get() as usize) {
                resets.pop_front();
            }
            resets.push_back(at);
        }
    }

    /// Starts over with what others have reset: by a job of which lane, and when, in their order.
    pub fn begin(&mut self, resets: impl Iterator<Item = (Lane, Timestamp)>) {
        self.resets.iter_mut().for_each(VecDeque::clear);
        resets.for_each(|(by, at)| self.reset(by, at));
    }
}

/// Whose resets count for the limit of a lane: its own, and those of the lanes before it. So the bulk lane's limit is what is left of the
/// org's, and a file of bulk jobs takes nothing from who waits for an interactive one.
fn counting(lane: Lane) -> impl Iterator<Item = Lane> {
    Lane::ALL.into_iter().filter(move |by| *by <= lane)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    const BOTH: [Lane; 2] = [Lane::Interactive, Lane::Bulk];

    /// With these limits; 0 is none.
    fn with(interactive: u32, bulk: u32, window: Option<Window>) -> Guard {
        let mut limits = [None; Lane::COUNT];
        limits[Lane::Interactive.index()] = NonZeroU32::new(interactive);
        limits[Lane::Bulk.index()] = NonZeroU32::new(bulk);
        Guard::new(limits, window)
    }

    fn of(per_hour: u32) -> Guard {
        with(0, per_hour, None)
    }

    #[test]
    fn without_a_limit_and_hours_it_is_always_open() {
        let mut guard = of(0);
        (0..1_000).for_each(|n| guard.reset(Lane::Bulk, at(n)));
        (0..1_000).for_each(|_| guard.permitted(Lane::Bulk));
        (0..1_000).for_each(|_| guard.reserve(Lane::Bulk));
        assert_eq!((guard.closed(Lane::Bulk, at(1_000)), guard.has_room(Lane::Bulk, at(1_000))), (None, true));
        assert_eq!(guard.room(Lane::Bulk, at(1_000)), None);
    }

    #[test]
    fn it_closes_with_as_many_as_the_limit_and_opens_as_each_of_them_leaves_the_hour() {
        let mut guard = of(3);
        [0, 10, 20].into_iter().for_each(|n| guard.reset(Lane::Bulk, at(n)));
        let until = |guard: &Guard, now| {
            guard.closed(Lane::Bulk, at(now)).map(|closed| closed.until.as_second() - at(0).as_second())
        };
        assert_eq!(until(&guard, 20), Some(3_600));
        assert_eq!(until(&guard, 3_599), Some(3_600));
        assert_eq!(until(&guard, 3_600), None);
        guard.reset(Lane::Interactive, at(3_600));
        assert_eq!(until(&guard, 3_600), Some(3_610), "the interactive lane goes on and counts too");
        assert_eq!(until(&guard, 3_610), None);
    }

    #[test]
    fn calls_in_the_air_count_as_if_each_set_a_password_but_do_not_close_it() {
        let mut guard = of(2);
        guard.reset(Lane::Bulk, at(0));
        assert!(guard.has_room(Lane::Bulk, at(1)));
        guard.permitted(Lane::Bulk);
        assert_eq!((guard.has_room(Lane::Bulk, at(1)), guard.closed(Lane::Bulk, at(1))), (false, None));
        assert!(guard.ended(Lane::Bulk));
        assert!(guard.has_room(Lane::Bulk, at(1)));
        guard.permitted(Lane::Bulk);
        assert!(guard.ended(Lane::Bulk));
        guard.reset(Lane::Bulk, at(2));
        assert!(!guard.has_room(Lane::Bulk, at(2)) && guard.closed(Lane::Bulk, at(2)).is_some());
    }

    #[test]
    fn jobs_in_flight_take_room_until_they_end_or_are_counted_and_another_lanes_calls_do_too() {
        let mut guard = of(5);
        let rooms = |guard: &Guard, now| (guard.room(Lane::Bulk, at(now)), guard.room_in_all(Lane::Bulk, at(now)));
        assert_eq!(rooms(&guard, 0), (Some(5), Some(5)));
        (0..3).for_each(|_| guard.reserve(Lane::Bulk));
        guard.reserve(Lane::Interactive);
        assert_eq!(rooms(&guard, 0), (Some(2), Some(5)), "the interactive lane has no limit and reserves nothing");
        guard.permitted(Lane::Bulk);
        assert_eq!(rooms(&guard, 0), (Some(2), Some(5)), "its job has reserved that");
        guard.permitted(Lane::Interactive);
        assert_eq!(rooms(&guard, 0), (Some(1), Some(4)));
        // One sets a password, one sets nothing.
        guard.reset(Lane::Bulk, at(0));
        assert!(guard.ended(Lane::Bulk) && guard.free(Lane::Bulk) && guard.free(Lane::Bulk));
        assert_eq!(rooms(&guard, 0), (Some(2), Some(3)));
        assert!(guard.ended(Lane::Interactive));
        assert_eq!(rooms(&guard, 0), (Some(3), Some(4)));
        assert_eq!(rooms(&guard, 3_600), (Some(4), Some(5)));
        (0..9).for_each(|n| guard.reset(Lane::Bulk, at(n)));
        assert_eq!(rooms(&guard, 9), (Some(0), Some(1)), "the interactive lane goes on");
        assert_eq!(guard.room(Lane::Interactive, at(9)), None);
    }

    #[test]
    fn it_says_how_many_were_reset_and_not_how_many_may_be() {
        let mut guard = of(50);
        (0..440).for_each(|n| guard.reset(Lane::Bulk, at(n)));
        let closed = guard.closed(Lane::Bulk, at(440)).unwrap();
        assert_eq!(closed.until, at(390 + 3_600), "when 49 of them count");
        let said = closed.cause.to_string();
        assert!(said.starts_with("440 people were reset within an hour, and guard_per_hour allows 50;"), "{said}");
        assert_eq!((guard.closed(Lane::Bulk, at(3_989)).is_some(), guard.closed(Lane::Bulk, at(3_990))), (true, None));
    }

    #[test]
    fn interactive_jobs_count_for_both_lanes_and_bulk_jobs_for_their_own_alone() {
        let mut guard = with(2, 4, None);
        let open = |guard: &Guard, now| BOTH.map(|lane| guard.closed(lane, at(now)).is_none());
        let rooms = |guard: &Guard, now| BOTH.map(|lane| guard.room(lane, at(now)));
        assert_eq!(rooms(&guard, 0), [Some(2), Some(4)]);
        guard.begin([(Lane::Bulk, at(0)), (Lane::Interactive, at(1))].into_iter());
        assert_eq!((open(&guard, 1), rooms(&guard, 1)), ([true; 2], [Some(1), Some(2)]));
        guard.reserve(Lane::Interactive);
        assert_eq!(rooms(&guard, 1), [Some(0), Some(1)], "a job in flight likewise");
        guard.permitted(Lane::Interactive);
        assert_eq!((rooms(&guard, 1), guard.has_room(Lane::Interactive, at(1))), ([Some(0), Some(1)], false));
        assert!(guard.has_room(Lane::Bulk, at(1)) && guard.ended(Lane::Interactive) && guard.free(Lane::Interactive));
        guard.reset(Lane::Interactive, at(2));
        assert_eq!((open(&guard, 2), rooms(&guard, 2)), ([false, true], [Some(0), Some(1)]));
        let closed = guard.closed(Lane::Interactive, at(2)).unwrap();
        assert_eq!((closed.until, closed.cause.label()), (at(3_601), "guard_per_hour"));
        let said = closed.cause.to_string();
        assert!(
            said.starts_with(
                "2 people were reset by interactive jobs within an hour, and guard_per_hour.interactive allows 2;"
            ),
            "{said}"
        );
        guard.reset(Lane::Bulk, at(3));
        assert_eq!(open(&guard, 3), [false; 2]);
        assert_eq!((open(&guard, 3_600), open(&guard, 3_601)), ([false, true], [true; 2]));
    }

    #[test]
    fn an_interactive_lane_alone_may_have_a_limit_and_has_no_hours() {
        let nobody: Window = "00:00-00:01 UTC".parse().unwrap();
        let mut guard = with(1, 0, Some(nobody));
        let noon: Timestamp = "2026-03-02T12:00:00Z".parse().unwrap();
        assert!(guard.closed(Lane::Interactive, noon).is_none() && guard.closed(Lane::Bulk, noon).is_some());
        guard.reset(Lane::Bulk, noon);
        assert_eq!((guard.room(Lane::Interactive, noon), guard.room(Lane::Bulk, noon)), (Some(1), None));
        guard.reset(Lane::Interactive, noon);
        assert!(guard.closed(Lane::Interactive, noon).is_some() && guard.has_room(Lane::Bulk, noon));
    }

    #[test]
    fn of_what_others_have_reset_each_counts() {
        let mut guard = of(2);
        guard.begin([0, 10, 20].map(|n| (Lane::Bulk, at(n))).into_iter());
        assert_eq!(guard.closed(Lane::Bulk, at(30)).unwrap().until, at(3_610));
        guard.begin(std::iter::empty());
        assert_eq!(guard.closed(Lane::Bulk, at(30)), None);
    }

    #[test]
    fn outside_its_hours_it_is_closed_and_the_later_of_two_reasons_is_given() {
        let window: Window = "20:00-06:00 UTC".parse().unwrap();
        let mut guard = with(0, 1, Some(window.clone()));
        let noon: Timestamp = "2026-03-02T12:00:00Z".parse().unwrap();
        let closed = guard.closed(Lane::Bulk, noon).unwrap();
        assert_eq!((closed.cause, closed.until), (Cause::Window(window), noon + SignedDuration::from_hours(8)));
        let late = noon + SignedDuration::from_mins(8 * 60 - 1);
        guard.reset(Lane::Bulk, late);
        assert_eq!(
            guard.closed(Lane::Bulk, late).unwrap().cause,
            Cause::PerHour { lane: Lane::Bulk, most: NonZeroU32::MIN, reset: 1 }
        );
    }
}
