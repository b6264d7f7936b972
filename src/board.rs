//! What the process knows of itself at this moment, on a watch channel: for `/readyz`, and for whoever waits for a change.

use std::collections::BTreeMap;

use tokio::sync::watch;

use crate::domain::retry::StopCause;

/// What an org's worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is not consuming yet, or not again yet.
    Starting,
    /// It works.
    Active,
    /// Nothing moves until somebody mends something.
    Stopped,
}

impl Role {
    /// The name in `/readyz`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Starting => "starting",
            Role::Active => "active",
            Role::Stopped => "stopped",
        }
    }
}

/// Where an org's consuming stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// Not consuming; it goes on by itself.
    Starting(String),
    /// Consuming.
    Active,
    /// Not consuming until somebody mends what the text says.
    Stopped(String),
}

/// One org's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrgState {
    session: Session,
    stops: BTreeMap<StopCause, String>,
}

impl OrgState {
    /// Its role, and why where it is not at work.
    pub fn role(&self) -> (Role, Option<String>) {
        let stops: Vec<&str> = self.stops.values().map(String::as_str).collect();
        match &self.session {
            Session::Starting(reason) if stops.is_empty() => (Role::Starting, Some(reason.clone())),
            Session::Starting(reason) | Session::Stopped(reason) => {
                let all: Vec<&str> = stops.into_iter().chain([reason.as_str()]).collect();
                (Role::Stopped, Some(all.join("; ")))
            }
            Session::Active if stops.is_empty() => (Role::Active, None),
            Session::Active => (Role::Stopped, Some(stops.join("; "))),
        }
    }
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The orgs, by name.
    pub orgs: BTreeMap<String, OrgState>,
}

impl State {
    /// Whether every org is at work.
    pub fn ready(&self) -> bool {
        self.orgs.values().all(|org| org.role().0 == Role::Active)
    }
}

/// The one place it is written to; cheap to clone.
#[derive(Debug, Clone)]
pub struct Board(watch::Sender<State>);

impl Board {
    /// One with a row for each org, all of them starting.
    pub fn new<'a>(orgs: impl Iterator<Item = &'a str>) -> Self {
        let row = OrgState { session: Session::Starting("connecting to the broker".into()), stops: BTreeMap::new() };
        Self(watch::Sender::new(State { orgs: orgs.map(|name| (name.to_owned(), row.clone())).collect() }))
    }

    /// What it says now, and every change from here on.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.0.subscribe()
    }

    /// Where an org's consuming stands.
    pub fn session(&self, org: &str, session: Session) {
        self.row(org, |row| row.session = session);
    }

    /// The line of an org stops, and why.
    pub fn stop(&self, org: &str, cause: StopCause, why: &str) {
        self.row(org, |row| drop(row.stops.insert(cause, why.to_owned())));
    }

    /// That cause is mended.
    pub fn mended(&self, org: &str, cause: StopCause) {
        self.row(org, |row| drop(row.stops.remove(&cause)));
    }

    fn row(&self, org: &str, change: impl FnOnce(&mut OrgState)) {
        self.0.send_if_modified(|state| {
            let Some(row) = state.orgs.get_mut(org) else {
                return false;
            };
            let before = row.clone();
            change(row);
            *row != before
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_org_is_ready_only_while_it_consumes_and_nothing_stops_it() {
        let board = Board::new(["a", "b"].into_iter());
        let state = || board.watch().borrow().clone();
        assert!(!state().ready());
        board.session("a", Session::Active);
        board.session("b", Session::Active);
        assert!(state().ready());
        board.stop("a", StopCause::ClientRefused, "invalid_client");
        assert_eq!(state().orgs["a"].role(), (Role::Stopped, Some("invalid_client".into())));
        assert_eq!(state().orgs["b"].role(), (Role::Active, None));
        board.mended("a", StopCause::ClientRefused);
        assert!(state().ready());
    }
}
