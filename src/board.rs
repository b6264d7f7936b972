//! What the process knows of itself at this moment, on a watch channel: for `/readyz`, and for whoever waits for a change.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::domain::breaker::BreakerView;
use crate::domain::job::Lane;
use crate::domain::retry::HaltCause;
use crate::domain::subject::Subject;

/// What an org's worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is not consuming yet, or not again yet.
    Starting,
    /// It works.
    Active,
    /// Another worker has the org; this one is ready to take over.
    Standby,
    /// Nothing moves until somebody fixes something.
    Halted,
}

impl Role {
    /// The name in `/readyz`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Starting => "starting",
            Role::Active => "active",
            Role::Standby => "standby",
            Role::Halted => "halted",
        }
    }
}

/// Where an org's consuming stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// Not consuming; it goes on by itself.
    Starting(String),
    /// Elected, and waits for what the one before may still be at. It goes on by itself within a known time.
    TakingOver(String),
    /// Neither this process nor any other can lead, or it is not known: nothing moves.
    NoLeader(String),
    /// Consuming.
    Active,
    /// Not consuming while another worker does; with a reason where that is one of another release.
    Standby(Option<String>),
    /// Not consuming until somebody fixes what the text says.
    Stopped(String),
}

/// A lane that is closed while the other one works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedLane {
    /// Why, as the metrics call it.
    pub kind: &'static str,
    /// The same in words.
    pub cause: String,
    /// Until when at least.
    pub until: Timestamp,
}

/// Mails that are sealed to a key that is not here, and wait while the others are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Locked {
    /// Why, and what to do.
    why: String,
    /// Whether another mail could be opened since.
    others_open: bool,
}

/// One org's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrgState {
    session: Session,
    stops: BTreeMap<HaltCause, String>,
    locked: Option<Locked>,
    /// Its breaker; `None` while that is closed. It changes neither the role nor whether the org is ready.
    pub breaker: Option<BreakerView>,
    /// Its lanes; `None` while one is open. It changes neither the role nor whether the org is ready.
    pub closed: [Option<ClosedLane>; Lane::COUNT],
}

impl OrgState {
    fn starting() -> Self {
        let session = Session::Starting("connecting to the broker".into());
        Self { session, stops: BTreeMap::new(), locked: None, breaker: None, closed: Default::default() }
    }

    /// Whether this worker has the org, though its processing may be halted.
    pub fn works(&self) -> bool {
        self.session == Session::Active
    }

    /// Whether it is at work, here or at another process that this one can take over from, or about to be.
    fn is_ready(&self) -> bool {
        match self.role().0 {
            Role::Active | Role::Standby => true,
            Role::Starting => matches!(self.session, Session::TakingOver(_)),
            Role::Halted => false,
        }
    }

    /// Whether it is known that nobody can lead.
    pub fn has_no_leader(&self) -> bool {
        matches!(self.session, Session::NoLeader(_))
    }

    /// The kinds of the reasons that [`OrgState::role`] gives in words, in the same order. They name no host, no user and nothing else from
    /// outside.
    pub fn kinds(&self) -> Vec<&'static str> {
        let stops = self.stops.keys().map(|cause| cause.as_str());
        let of_session = match &self.session {
            Session::Starting(_) => Some("starting"),
            Session::TakingOver(_) => Some("taking_over"),
            Session::NoLeader(_) => Some("no_leader"),
            Session::Stopped(_) => Some("broker"),
            Session::Active if self.stops.is_empty() => self.locked.as_ref().map(|_| "no_key"),
            Session::Standby(Some(_)) => Some("older_release"),
            Session::Active | Session::Standby(None) => None,
        };
        stops.chain(of_session).collect()
    }

    /// Its role, and why where it is not at work, or not with all of it. One that can open nothing is stopped.
    pub fn role(&self) -> (Role, Option<String>) {
        let stops: Vec<&str> = self.stops.values().map(String::as_str).collect();
        match &self.session {
            Session::Starting(reason) | Session::TakingOver(reason) | Session::NoLeader(reason) if stops.is_empty() => {
                (Role::Starting, Some(reason.clone()))
            }
            Session::Starting(reason)
            | Session::TakingOver(reason)
            | Session::NoLeader(reason)
            | Session::Stopped(reason) => {
                let all: Vec<&str> = stops.into_iter().chain([reason.as_str()]).collect();
                (Role::Halted, Some(all.join("; ")))
            }
            Session::Active if stops.is_empty() => match &self.locked {
                Some(Locked { why, others_open: false }) => (Role::Halted, Some(why.clone())),
                Some(Locked { why, others_open: true }) => (Role::Active, Some(why.clone())),
                None => (Role::Active, None),
            },
            Session::Standby(reason) if stops.is_empty() => (Role::Standby, reason.clone()),
            Session::Active | Session::Standby(_) => (Role::Halted, Some(stops.join("; "))),
        }
    }
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The orgs, by name.
    pub orgs: BTreeMap<String, OrgState>,
    /// The mailer, in its own process.
    pub mailer: Option<OrgState>,
}

impl State {
    /// Whether each is at work, here or at another process that this one can take over from, or about to be.
    pub fn ready(&self) -> bool {
        self.orgs.values().chain(&self.mailer).all(OrgState::is_ready)
    }
}

/// The one place it is written to; cheap to clone.
#[derive(Debug, Clone)]
pub struct Board(watch::Sender<State>);

impl Board {
    /// One with a row for each org, all of them starting.
    pub fn new<'a>(orgs: impl Iterator<Item = &'a str>) -> Self {
        let orgs = orgs.map(|name| (name.to_owned(), OrgState::starting())).collect();
        Self(watch::Sender::new(State { orgs, mailer: None }))
    }

    /// One with a row for the mailer, which is starting.
    pub fn of_mailer() -> Self {
        Self(watch::Sender::new(State { orgs: BTreeMap::new(), mailer: Some(OrgState::starting()) }))
    }

    /// What it says now, and every change from here on.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.0.subscribe()
    }

    /// Where an org's consuming stands. `true`: that is news.
    pub fn session(&self, subject: &Subject, session: Session) -> bool {
        self.row(subject, |row| row.session = session)
    }

    /// The line of an org stops, and why.
    pub fn stop(&self, subject: &Subject, cause: HaltCause, why: &str) {
        let _ = self.row(subject, |row| drop(row.stops.insert(cause, why.to_owned())));
    }

    /// That cause is resolved.
    pub fn resolved(&self, subject: &Subject, cause: HaltCause) {
        let _ = self.row(subject, |row| drop(row.stops.remove(&cause)));
    }

    /// Something came that is sealed to a key that is not here, and what to do. It is said until the process ends: keys are read at its
    /// start.
    pub fn locked(&self, subject: &Subject, why: &str) {
        let _ = self.row(subject, |row| row.locked = Some(Locked { why: why.to_owned(), others_open: false }));
    }

    /// Something else could be opened.
    pub fn opened(&self, subject: &Subject) {
        let _ = self.row(subject, |row| row.locked.iter_mut().for_each(|locked| locked.others_open = true));
    }

    /// How the org's breaker stands; `None`: closed.
    pub fn breaker(&self, subject: &Subject, breaker: Option<BreakerView>) {
        let _ = self.row(subject, |row| row.breaker = breaker);
    }

    /// Why a lane of the org is closed; `None`: it is open.
    pub fn lane(&self, subject: &Subject, lane: Lane, closed: Option<ClosedLane>) {
        let _ = self.row(subject, |row| row.closed[lane.index()] = closed);
    }

    fn row(&self, subject: &Subject, change: impl FnOnce(&mut OrgState)) -> bool {
        self.0.send_if_modified(|state| {
            let row = match subject {
                Subject::Org(name) => state.orgs.get_mut(name),
                Subject::Mailer => state.mailer.as_mut(),
            };
            let Some(row) = row else { return false };
            let before = row.clone();
            change(row);
            *row != before
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::breaker::BreakerState;

    #[test]
    fn an_org_is_ready_only_while_it_consumes_and_nothing_stops_it() {
        let board = Board::new(["a", "b"].into_iter());
        let state = || board.watch().borrow().clone();
        assert!(!state().ready());
        board.session(&"a".into(), Session::Active);
        board.session(&"b".into(), Session::Active);
        assert!(state().ready());
        board.stop(&"a".into(), HaltCause::ClientRefused, "invalid_client");
        assert_eq!(state().orgs["a"].role(), (Role::Halted, Some("invalid_client".into())));
        assert_eq!(state().orgs["b"].role(), (Role::Active, None));
        board.resolved(&"a".into(), HaltCause::ClientRefused);
        assert!(state().ready());
    }

    #[test]
    fn each_reason_has_a_kind_that_names_nothing_from_outside() {
        let board = Board::new(["a"].into_iter());
        let row = || board.watch().borrow().orgs["a"].clone();
        let reasons = || row().role().1.map_or(0, |all| all.split("; ").count());
        assert_eq!((row().kinds(), reasons()), (vec!["starting"], 1));
        board.session(&"a".into(), Session::Stopped("the queue at mq.example.com".into()));
        board.stop(&"a".into(), HaltCause::ForeignAnswer, "https://portal.example answered");
        assert_eq!((row().kinds(), reasons()), (vec!["foreign_answer", "broker"], 2));
        board.session(&"a".into(), Session::Active);
        board.stop(&"a".into(), HaltCause::ClientRefused, "invalid_client");
        assert_eq!((row().kinds(), reasons()), (vec!["client_refused", "foreign_answer"], 2));
        board.resolved(&"a".into(), HaltCause::ForeignAnswer);
        board.resolved(&"a".into(), HaltCause::ClientRefused);
        assert_eq!((row().kinds(), reasons()), (vec![], 0));
        board.locked(&"a".into(), "no key");
        assert_eq!((row().kinds(), reasons()), (vec!["no_key"], 1));
        board.session(&"a".into(), Session::Standby(None));
        assert_eq!((row().kinds(), reasons()), (vec![], 0));
    }

    #[test]
    fn a_takeover_is_ready_and_an_org_that_nobody_can_lead_is_not() {
        let board = Board::new(["a"].into_iter());
        let state = || board.watch().borrow().clone();
        board.session(&"a".into(), Session::TakingOver("for 5 s".into()));
        let row = &state().orgs["a"];
        assert_eq!((row.role().0, row.kinds(), state().ready()), (Role::Starting, vec!["taking_over"], true));
        board.stop(&"a".into(), HaltCause::ClientRefused, "invalid_client");
        assert!(!state().ready(), "what halts it does so after the takeover too");
        board.resolved(&"a".into(), HaltCause::ClientRefused);
        board.session(&"a".into(), Session::NoLeader("no majority".into()));
        let row = &state().orgs["a"];
        assert_eq!((row.role().0, row.kinds(), state().ready()), (Role::Starting, vec!["no_leader"], false));
        assert!(row.has_no_leader());
    }

    #[test]
    fn a_worker_that_stands_by_is_ready_unless_something_stops_it() {
        let board = Board::new(["a"].into_iter());
        let state = || board.watch().borrow().clone();
        board.session(&"a".into(), Session::Standby(None));
        assert_eq!((state().ready(), state().orgs["a"].role()), (true, (Role::Standby, None)));
        board.stop(&"a".into(), HaltCause::Forbidden, "missing.permissions");
        let stopped = (Role::Halted, Some("missing.permissions".into()));
        assert_eq!((state().ready(), state().orgs["a"].role()), (false, stopped));
    }

    #[test]
    fn what_lacks_a_key_is_said_and_stops_only_where_nothing_else_can_be_opened() {
        let board = Board::new(["a"].into_iter());
        let role = || board.watch().borrow().orgs["a"].role();
        board.session(&"a".into(), Session::Active);
        board.opened(&"a".into());
        assert_eq!(role(), (Role::Active, None));
        board.locked(&"a".into(), "no key");
        assert_eq!((role(), board.watch().borrow().ready()), ((Role::Halted, Some("no key".into())), false));
        board.opened(&"a".into());
        assert_eq!((role(), board.watch().borrow().ready()), ((Role::Active, Some("no key".into())), true));
        board.locked(&"a".into(), "no key");
        board.session(&"a".into(), Session::Standby(None));
        assert_eq!(role(), (Role::Standby, None), "another one may have it");
    }

    #[test]
    fn an_open_breaker_leaves_the_role_as_it_is() {
        let board = Board::new(["a"].into_iter());
        board.session(&"a".into(), Session::Active);
        let next_probe = Timestamp::UNIX_EPOCH;
        board.breaker(
            &"a".into(),
            Some(BreakerView { state: BreakerState::Open, kind: "faults_in_row", cause: "faults".into(), next_probe }),
        );
        let state = board.watch().borrow().clone();
        assert!(state.ready() && state.orgs["a"].breaker.is_some());
        assert_eq!(state.orgs["a"].role(), (Role::Active, None));
    }
}
