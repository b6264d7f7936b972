//! The first line of an org: is it moving, and if not, why. Pure, and in words.

use jiff::Timestamp;

use super::page_state::seconds;
use crate::board::{ClosedLane, Role};
use crate::domain::blocked::Blocked;
use crate::domain::breaker::{BreakerState, BreakerView};
use crate::domain::job::Lane;
use crate::throttle::gate::Meter;

/// What the line is coloured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Jobs end.
    Moving,
    /// There is nothing to do.
    Idle,
    /// It goes on by itself.
    Waiting,
    /// It goes on when somebody fixes something.
    Halted,
    /// Another worker works.
    Standby,
}

impl State {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            State::Moving => "moving",
            State::Idle => "idle",
            State::Waiting => "waiting",
            State::Halted => "halted",
            State::Standby => "standby",
        }
    }
}

/// What it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// An org's jobs.
    Jobs,
    /// The mails.
    Mails,
}

impl Of {
    /// One of them, and many.
    const fn unit(self) -> [&'static str; 2] {
        match self {
            Of::Jobs => ["job", "jobs"],
            Of::Mails => ["mail", "mails"],
        }
    }

    /// What is counted of them: a job ends in any way, a mail counts where it was sent.
    const fn done(self, count: u64) -> &'static str {
        match (self, count) {
            (Of::Jobs, _) => "ended",
            (Of::Mails, 1) => "was sent",
            (Of::Mails, _) => "were sent",
        }
    }

    /// The same of none.
    const fn none_yet(self) -> &'static str {
        match self {
            Of::Jobs => "has ended",
            Of::Mails => "was sent",
        }
    }

    /// Who is called.
    const fn server(self) -> &'static str {
        match self {
            Of::Jobs => "Genesys Cloud",
            Of::Mails => "The mail server",
        }
    }

    /// Why there is a pause.
    const fn far_end(self) -> &'static str {
        match self {
            Of::Jobs => "the org asked: its quota is spent",
            Of::Mails => "the mail service asked: it has enough",
        }
    }

    /// Who else may be at work, and on what.
    const fn other(self) -> [&'static str; 2] {
        match self {
            Of::Jobs => ["another worker", "works this org"],
            Of::Mails => ["another mailer", "sends the mails"],
        }
    }
}

/// What it follows from.
pub(super) struct StatusLine<'a> {
    pub(super) of: Of,
    pub(super) role: Role,
    pub(super) reason: Option<&'a str>,
    /// Another worker that leads.
    pub(super) holder: Option<String>,
    pub(super) breaker: Option<&'a BreakerView>,
    /// The lanes that are closed.
    pub(super) closed: [Option<&'a ClosedLane>; Lane::COUNT],
    pub(super) meter: &'a Meter,
    /// Jobs that ended in the last 60 s.
    pub(super) per_minute: u64,
    /// Jobs that have not ended, where that is known.
    pub(super) backlog: Option<u32>,
    pub(super) in_flight: u32,
    /// What keeps the worker that has the org, where that is another.
    pub(super) blocked: Option<&'a Blocked>,
}

impl StatusLine<'_> {
    /// The one rate, and the time that it is of.
    fn ended(&self) -> String {
        let [unit, units] = self.of.unit();
        let (unit, done) = (if self.per_minute == 1 { unit } else { units }, self.of.done(self.per_minute));
        format!("{} {unit} {done} in the last 60 s", self.per_minute)
    }
}

/// The state, the line, and the moment that is waited for.
pub(super) fn status_line(about: &StatusLine<'_>) -> (State, String, Option<Timestamp>) {
    let (state, text, until) = match about.role {
        Role::Halted => {
            let reason = about.reason.unwrap_or("something must be resolved");
            (State::Halted, format!("Halted until this is resolved: {reason}"), about.meter.next_try)
        }
        Role::Starting => {
            (State::Waiting, format!("Not consuming yet: {}", about.reason.unwrap_or("it goes on by itself")), None)
        }
        Role::Standby => {
            let [other, works] = about.of.other();
            let who = about.holder.as_deref().unwrap_or(other);
            let (how, until) = match about.blocked {
                Some(blocked) => (format!("; {}: {}", blocked.cause.words(), blocked.reason), blocked.until),
                None if about.per_minute > 0 => (format!(", {}", about.ended()), None),
                None => (String::new(), None),
            };
            (State::Standby, format!("Standing by: {who} {works}{how}"), until)
        }
        Role::Active => active(about),
    };
    (state, text, seconds(until))
}

fn active(about: &StatusLine<'_>) -> (State, String, Option<Timestamp>) {
    let [unit, units] = about.of.unit();
    let waits = about.in_flight > 0 || about.backlog.is_some_and(|jobs| jobs > 0);
    if let Some(breaker) = about.breaker {
        let doing = match breaker.state {
            BreakerState::Open => "retrying",
            BreakerState::HalfOpen => "testing with one call at a time",
        };
        let text = format!("{} is not answering ({}); {doing}", about.of.server(), breaker.cause);
        return (State::Waiting, text, Some(breaker.next_probe));
    }
    if !about.meter.may_call {
        let why = "No calls: the broker does not confirm publishes, or no ping comes back";
        return (State::Waiting, why.into(), None);
    }
    if let Some(until) = about.meter.no_token_until {
        return (State::Waiting, "No calls: the token endpoint failed; retrying".into(), Some(until));
    }
    if let Some(until) = about.meter.paused_until {
        return (State::Waiting, format!("Paused, as {}, or it is not available", about.of.far_end()), Some(until));
    }
    let closed = closed_lanes(&about.closed);
    if let Some((text, until)) = closed.filter(|_| about.in_flight == 0) {
        return (State::Waiting, text, Some(until));
    }
    if waits && about.per_minute > 0 {
        return (State::Moving, format!("Moving: {}", about.ended()), None);
    }
    if waits && about.meter.spent > 0 {
        let calls =
            format!("Moving: {} calls in the last 60 s, and no {unit} {}", about.meter.spent, about.of.none_yet());
        return (State::Moving, calls, None);
    }
    match (waits, about.backlog) {
        (true, _) if about.in_flight > 0 => {
            (State::Waiting, format!("{units} in flight, but none {} in the last 60 s", about.of.none_yet()), None)
        }
        (true, _) => (State::Waiting, format!("No {unit} is in flight; those at the broker wait for their time"), None),
        (false, Some(_)) => (State::Idle, format!("Idle: no {unit} waits"), None),
        (false, None) => (State::Idle, "Working; loading queue sizes…".into(), None),
    }
}

/// Which lanes are closed, why, and until when the first of them is.
fn closed_lanes(closed: &[Option<&ClosedLane>; Lane::COUNT]) -> Option<(String, Timestamp)> {
    let closed: Vec<_> =
        Lane::ALL.into_iter().zip(closed).filter_map(|(lane, closed)| Some((lane, (*closed)?))).collect();
    let until = closed.iter().map(|(_, closed)| closed.until).min()?;
    let [(lane, first), others @ ..] = closed.as_slice() else { return None };
    let which = match others {
        [] => format!("The {} lane is closed", lane.as_str()),
        [_] if Lane::COUNT == 2 => "Both lanes are closed".to_owned(),
        [..] => format!("{} lanes are closed: {}", closed.len(), lane.as_str()),
    };
    let others = others.iter().map(|(lane, closed)| format!("; {}: {}", lane.as_str(), closed.cause));
    Some((format!("{which}: {}{}", first.cause, others.collect::<String>()), until))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::blocked::Cause;

    fn at(seconds: i64) -> Option<Timestamp> {
        Timestamp::from_second(seconds).ok()
    }

    fn closed<'a>(lanes: &[(Lane, &'a ClosedLane)]) -> [Option<&'a ClosedLane>; Lane::COUNT] {
        Lane::ALL.map(|lane| lanes.iter().find(|(closed, _)| *closed == lane).map(|(_, closed)| *closed))
    }

    /// The line of an active worker whose gate stands so, with this rate, backlog and number of jobs in flight.
    fn line(meter: &Meter, per_minute: u64, backlog: Option<u32>, in_flight: u32) -> (State, String) {
        let about = StatusLine {
            of: Of::Jobs,
            role: Role::Active,
            reason: None,
            holder: None,
            breaker: None,
            closed: [None; Lane::COUNT],
            meter,
            per_minute,
            backlog,
            in_flight,
            blocked: None,
        };
        let (state, text, _) = status_line(&about);
        (state, text)
    }

    #[test]
    fn it_says_that_it_moves_and_how_fast_or_that_there_is_nothing_to_do() {
        let meter = Meter::idle(300);
        assert_eq!(line(&meter, 287, Some(40), 3), (State::Moving, "Moving: 287 jobs ended in the last 60 s".into()));
        assert_eq!(line(&meter, 287, Some(0), 0), (State::Idle, "Idle: no job waits".into()));
        assert_eq!(line(&meter, 0, None, 0).0, State::Idle);
        assert_eq!(line(&meter, 1, Some(9), 9).1, "Moving: 1 job ended in the last 60 s");
        let calls = "Moving: 7 calls in the last 60 s, and no job has ended";
        assert_eq!(line(&Meter { spent: 7, ..meter.clone() }, 0, Some(9), 9).1, calls);
        assert_eq!(line(&meter, 0, Some(9), 9).0, State::Waiting);
        assert!(line(&meter, 0, Some(9), 0).1.contains("wait for their time"));
    }

    #[test]
    fn what_keeps_it_from_moving_is_said_with_the_moment_at_which_it_goes_on() {
        let breaker = BreakerView {
            state: BreakerState::Open,
            kind: "faults_in_row",
            cause: "5 calls failed".into(),
            next_probe: at(9).unwrap(),
        };
        let mut about = StatusLine {
            of: Of::Jobs,
            role: Role::Active,
            reason: None,
            holder: None,
            breaker: Some(&breaker),
            closed: [None; Lane::COUNT],
            meter: &Meter { paused_until: at(3), next_try: at(5), ..Meter::idle(300) },
            per_minute: 200,
            backlog: Some(40),
            in_flight: 4,
            blocked: None,
        };
        let open = "Genesys Cloud is not answering (5 calls failed); retrying".to_owned();
        assert_eq!(status_line(&about), (State::Waiting, open, at(9)));
        about.breaker = None;
        let (state, text, until) = status_line(&about);
        assert_eq!((state, until), (State::Waiting, at(3)));
        assert!(text.starts_with("Paused"), "{text}");
        let blocked = Meter { may_call: false, ..Meter::idle(300) };
        about.meter = &blocked;
        assert!(status_line(&about).1.contains("does not confirm"));
        let untokened = Meter { no_token_until: at(4), ..Meter::idle(300) };
        about.meter = &untokened;
        assert_eq!(status_line(&about).2, at(4));
        let bulk = ClosedLane { kind: "bulk_window", cause: "its hours".into(), until: at(8).unwrap() };
        let open = Meter::idle(300);
        (about.meter, about.closed, about.in_flight) = (&open, closed(&[(Lane::Bulk, &bulk)]), 0);
        assert_eq!(status_line(&about), (State::Waiting, "The bulk lane is closed: its hours".into(), at(8)));
        let interactive = ClosedLane { kind: "guard_per_hour", cause: "too many".into(), until: at(7).unwrap() };
        about.closed = closed(&[(Lane::Interactive, &interactive)]);
        assert_eq!(status_line(&about), (State::Waiting, "The interactive lane is closed: too many".into(), at(7)));
        about.closed = closed(&[(Lane::Interactive, &interactive), (Lane::Bulk, &bulk)]);
        let which = if Lane::COUNT == 2 { "Both lanes are closed" } else { "2 lanes are closed: interactive" };
        let both = format!("{which}: too many; bulk: its hours");
        assert_eq!(status_line(&about), (State::Waiting, both, at(7)));
        (about.closed, about.in_flight) = (closed(&[(Lane::Bulk, &bulk)]), 1);
        assert_eq!(status_line(&about).0, State::Moving, "the interactive lane goes on");
        (about.role, about.reason) = (Role::Halted, Some("invalid_client"));
        let stopping = Meter { next_try: at(5), ..Meter::idle(300) };
        about.meter = &stopping;
        let stopped = "Halted until this is resolved: invalid_client".to_owned();
        assert_eq!(status_line(&about), (State::Halted, stopped, at(5)));
        (about.role, about.reason) = (Role::Starting, Some("connecting"));
        assert_eq!(status_line(&about), (State::Waiting, "Not consuming yet: connecting".into(), None));
    }

    #[test]
    fn a_worker_that_stands_by_says_who_works() {
        let meter = Meter::idle(300);
        let mut about = StatusLine {
            of: Of::Jobs,
            role: Role::Standby,
            reason: None,
            holder: Some("web-2, process 7".into()),
            breaker: None,
            closed: [None; Lane::COUNT],
            meter: &meter,
            per_minute: 290,
            backlog: Some(40),
            in_flight: 0,
            blocked: None,
        };
        let line = "Standing by: web-2, process 7 works this org, 290 jobs ended in the last 60 s".to_owned();
        assert_eq!(status_line(&about), (State::Standby, line, None));
        let halted = Blocked { cause: Cause::Halted, reason: "invalid_client".into(), until: at(7) };
        about.blocked = Some(&halted);
        let line = "Standing by: web-2, process 7 works this org; halted: invalid_client".to_owned();
        assert_eq!(status_line(&about), (State::Standby, line, at(7)));
        (about.holder, about.per_minute, about.blocked) = (None, 0, None);
        assert_eq!(status_line(&about).1, "Standing by: another worker works this org");
        about.of = Of::Mails;
        assert_eq!(status_line(&about).1, "Standing by: another mailer sends the mails");
        (about.role, about.backlog) = (Role::Active, Some(0));
        assert_eq!(status_line(&about).1, "Idle: no mail waits");
    }
}
