//! What a process has: its consumers, and what they share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::term::LostTerm;
use super::workload::Workload;
use crate::amqp::depths::Depths;
use crate::amqp::election::{Candidate, Election};
use crate::amqp::ledger::Ledger;
use crate::board::Board;
use crate::config::Config;

/// One who is elected by itself: an org's worker, or the mailer.
pub struct Consumer<W> {
    /// What outlives its sessions.
    pub shared: Arc<W>,
    pub(super) election: Arc<Election>,
    /// A term that was lost with nothing left in flight, until it is said that it is over.
    lost: Mutex<Option<LostTerm>>,
    /// Whether it ever worked, or stood by to: what needs an operator ends the process only before that.
    has_worked: AtomicBool,
}

impl<W: Workload> Consumer<W> {
    /// One that is elected so.
    pub fn new(shared: Arc<W>, election: Election) -> Self {
        Self { shared, election: Arc::new(election), lost: Mutex::default(), has_worked: AtomicBool::new(false) }
    }

    /// How it stands as a candidate for leading, for observers; `None`: it is not registered.
    pub fn candidate(&self) -> impl Fn() -> Option<Candidate> + Send + Sync + use<W> {
        let election = Arc::clone(&self.election);
        move || election.candidate()
    }

    pub(super) fn lost_term(&self) -> MutexGuard<'_, Option<LostTerm>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn works(&self) {
        self.has_worked.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_worked(&self) -> bool {
        self.has_worked.load(Ordering::Relaxed)
    }
}

/// What the consumers of a process share.
pub struct Supervisor<'a, W> {
    /// The command, as the broker's own pages show it.
    pub command: &'static str,
    /// All of it.
    pub config: &'a Config,
    /// Where it is said how each stands.
    pub board: &'a Board,
    /// What was read of the stream.
    pub ledger: Ledger,
    /// How much is queued, for observers.
    pub depths: Depths,
    /// Those who are elected.
    pub consumers: Vec<Consumer<W>>,
    /// Cancelled when the process is to end.
    pub shutdown: CancellationToken,
}
