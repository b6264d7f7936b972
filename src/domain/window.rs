//! The daily hours of a lane, by the clock on a wall: `"20:00-06:00 Europe/Berlin"`. Pure: time is an argument.
//!
//! Each day's opening begins and ends at one moment, also where the clock is put forward or back: a time that the day skips is the
//! same time after the gap, and one that it has twice is the first of the two.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// The hours of each day in which a lane works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    opens: Time,
    closes: Time,
    zone: TimeZone,
}

/// The text says no window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoWindow;

impl FromStr for Window {
    type Err = NoWindow;

    /// Reads `HH:MM-HH:MM ZONE`, the zone by its IANA name.
    fn from_str(text: &str) -> Result<Self, NoWindow> {
        let (hours, zone) = text.trim().split_once(' ').ok_or(NoWindow)?;
        let (opens, closes) = hours.split_once('-').ok_or(NoWindow)?;
        let (opens, closes) = (time(opens)?, time(closes)?);
        let zone = TimeZone::get(zone.trim()).map_err(|_| NoWindow)?;
        if opens == closes { Err(NoWindow) } else { Ok(Self { opens, closes, zone }) }
    }
}

fn time(text: &str) -> Result<Time, NoWindow> {
    let (hour, minute) = text.split_once(':').ok_or(NoWindow)?;
    let two = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
    if !two(hour) || !two(minute) {
        return Err(NoWindow);
    }
    let (hour, minute) = (hour.parse().map_err(|_| NoWindow)?, minute.parse().map_err(|_| NoWindow)?);
    Time::new(hour, minute, 0, 0).map_err(|_| NoWindow)
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (opens, closes) = (self.opens.strftime("%H:%M"), self.closes.strftime("%H:%M"));
        write!(f, "{opens}-{closes} {}", self.zone.iana_name().unwrap_or("UTC"))
    }
}

impl Window {
    /// Until when it is closed; `None` while it is open.
    pub fn closed_until(&self, now: Timestamp) -> Option<Timestamp> {
        let today = self.zone.to_datetime(now).date();
        let days = [today.yesterday().ok(), Some(today), today.tomorrow().ok(), today.checked_add(2.days()).ok()];
        let openings = days.into_iter().flatten().filter_map(|day| self.opening(day));
        // Those that have not ended; a day that has none, since its hours fall into a gap of the clock, is passed over.
        let next = openings.filter(|(_, closes)| *closes > now).min()?;
        (next.0 > now).then_some(next.0)
    }

    /// From when to when it is open on the day on which it opens.
    fn opening(&self, day: Date) -> Option<(Timestamp, Timestamp)> {
        let last = if self.closes > self.opens { day } else { day.tomorrow().ok()? };
        let (opens, closes) = (self.moment(day, self.opens)?, self.moment(last, self.closes)?);
        (opens < closes).then_some((opens, closes))
    }

    fn moment(&self, day: Date, time: Time) -> Option<Timestamp> {
        self.zone.to_ambiguous_timestamp(day.to_datetime(time)).compatible().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(window: &str, rows: &[(&str, Option<&str>)]) {
        let window: Window = window.parse().unwrap();
        for (now, until) in rows {
            let until: Option<Timestamp> = until.map(|until| until.parse().unwrap());
            assert_eq!(window.closed_until(now.parse().unwrap()), until, "{window} at {now}");
        }
    }

    #[test]
    fn it_is_open_from_its_first_moment_and_closed_from_its_last() {
        check(
            "08:00-17:30 UTC",
            &[
                ("2026-03-02T07:59:59Z", Some("2026-03-02T08:00:00Z")),
                ("2026-03-02T08:00:00Z", None),
                ("2026-03-02T17:29:59.999Z", None),
                ("2026-03-02T17:30:00Z", Some("2026-03-03T08:00:00Z")),
                ("2026-03-02T00:00:00Z", Some("2026-03-02T08:00:00Z")),
            ],
        );
    }

    #[test]
    fn one_that_goes_over_midnight_is_open_on_both_sides_of_it() {
        check(
            "20:00-06:00 Europe/Berlin",
            &[
                ("2026-01-10T18:59:59Z", Some("2026-01-10T19:00:00Z")),
                ("2026-01-10T19:00:00Z", None),
                ("2026-01-10T23:30:00Z", None),
                ("2026-01-11T04:59:59Z", None),
                ("2026-01-11T05:00:00Z", Some("2026-01-11T19:00:00Z")),
                // In summer the wall is an hour ahead.
                ("2026-07-10T17:59:59Z", Some("2026-07-10T18:00:00Z")),
                ("2026-07-11T03:59:59Z", None),
                ("2026-07-11T04:00:00Z", Some("2026-07-11T18:00:00Z")),
            ],
        );
    }

    #[test]
    fn the_night_of_the_change_is_an_hour_shorter_or_longer_and_opens_and_closes_by_the_wall() {
        check(
            "20:00-06:00 Europe/Berlin",
            &[
                // 29 March 2026: 02:00 becomes 03:00.
                ("2026-03-28T19:00:00Z", None),
                ("2026-03-29T03:59:59Z", None),
                ("2026-03-29T04:00:00Z", Some("2026-03-29T18:00:00Z")),
                // 25 October 2026: 03:00 becomes 02:00.
                ("2026-10-24T17:59:59Z", Some("2026-10-24T18:00:00Z")),
                ("2026-10-25T04:59:59Z", None),
                ("2026-10-25T05:00:00Z", Some("2026-10-25T19:00:00Z")),
            ],
        );
    }

    #[test]
    fn hours_that_a_night_skips_or_has_twice_open_once() {
        check(
            "02:30-05:00 Europe/Berlin",
            &[
                // 02:30 does not exist: an hour after 01:30 it is 03:30.
                ("2026-03-29T01:29:59Z", Some("2026-03-29T01:30:00Z")),
                ("2026-03-29T01:30:00Z", None),
                ("2026-03-29T03:00:00Z", Some("2026-03-30T00:30:00Z")),
                // 02:30 comes twice, and it opens at the first.
                ("2026-10-25T00:29:59Z", Some("2026-10-25T00:30:00Z")),
                ("2026-10-25T01:30:00Z", None),
                ("2026-10-25T04:00:00Z", Some("2026-10-26T01:30:00Z")),
            ],
        );
        check(
            "02:00-02:45 Europe/Berlin",
            // Its end comes twice too, and it closes at the first.
            &[("2026-10-25T00:30:00Z", None), ("2026-10-25T01:30:00Z", Some("2026-10-26T01:00:00Z"))],
        );
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for text in [
            "",
            "20:00-06:00",
            "20:00 06:00 UTC",
            "20:00-06:00 Berlin",
            "8:00-17:00 UTC",
            "24:00-06:00 UTC",
            "20:60-06:00 UTC",
            "08:00-08:00 UTC",
            "20:00-06:00 ",
            "+8:00-17:00 UTC",
        ] {
            assert_eq!(text.parse::<Window>(), Err(NoWindow), "{text:?}");
        }
        assert_eq!("20:00-06:00  Europe/Berlin".parse::<Window>().unwrap().to_string(), "20:00-06:00 Europe/Berlin");
    }
}
