//! That this process leads, and the proof of it. What it is proved by is known here and in `leadership` alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::amqp::election::Fenced;
use crate::amqp::publisher::Publisher;
use crate::amqp::registration::{self, Registration};
use crate::domain::leader_proof::{Chain, PUBLISH_GRACE};

/// This process leads, until that is lost or released.
pub(super) struct Term {
    pub(super) registration: Registration,
    pub(super) publisher: Arc<Publisher>,
    /// By which it is looked whether a process of release 0.1 leads.
    pub(super) looks: Arc<Publisher>,
    /// The proofs with which it began.
    pub(super) chain: Chain,
    /// The fence with which it began.
    pub(super) fenced: Fenced,
}

/// A term that was lost with its connection.
#[derive(Debug, Clone)]
pub(super) struct LostTerm {
    /// The fence with which it began.
    pub(super) fenced: Fenced,
    /// Until when what its calls brought may be published.
    pub(super) proof: registration::Proof,
    /// When it was lost: release 0.1 goes by that, and not by the term.
    pub(super) at: Timestamp,
}

/// That this process leads: to be looked at before each call and publish.
#[derive(Debug, Clone)]
pub struct Proof(registration::Proof);

impl Proof {
    /// Whether a call may begin.
    pub fn is_fresh(&self) -> bool {
        self.0.is_fresh()
    }

    /// Whether what a call has brought that ended at that moment may be published, where calls take at most `longest`.
    pub(super) fn allows_publish_of(&self, called: Option<Instant>, longest: Duration) -> bool {
        let has_just_called = called.is_some_and(|ended| ended.elapsed() < PUBLISH_GRACE);
        has_just_called && self.0.allows_late_publishes(longest) || self.0.is_fresh()
    }
}

impl Term {
    pub(super) fn proof(&self) -> Proof {
        Proof(self.registration.proof().clone())
    }

    /// Cancelled when it is known to be over.
    pub(super) fn lost(&self) -> &CancellationToken {
        self.registration.gone()
    }
}
