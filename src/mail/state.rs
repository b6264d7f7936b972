//! How far one mail has come in its lifecycle.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::context::{MailerContext, Sent};
use super::in_flight::Place;
use crate::consumer::{Leave, LeavePolicy, PublishRight, SessionContext, WhenHeld};
use crate::domain::mailing::Unsent;
use crate::domain::note::Note;
use crate::domain::{job::Lane, refusal::Refusal};
use crate::throttle::user_order::Turn;
use crate::wire::again::RetryHeaders;
use crate::wire::redact::Scrubber;

/// One session, as a mail in flight sees it.
pub(super) type Session = SessionContext<MailerContext>;

/// What is known of one mail so far.
pub(super) struct MailState {
    pub(super) note: Result<Arc<Note>, Refusal>,
    pub(super) retry_headers: RetryHeaders,
    /// The code of the next hop's last answer.
    pub(super) status: Option<u16>,
    /// What must not be in any text of the next hop's that is kept.
    pub(super) scrubber: Scrubber,
    pub(super) held_until: Instant,
    pub(super) place: Option<Place>,
    /// Nobody else sends to its person until it is settled.
    pub(super) turn: Option<Turn>,
}

/// How it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// A record says that it was sent: only its ack had been lost.
    Known,
    /// The next hop has taken it.
    Sent(Sent),
    /// It is not sent, and why.
    Unsent(Unsent, String),
}

impl MailState {
    /// Cancelled when a newer one for the same person is in flight, or was.
    pub(super) fn overtaken(&self) -> CancellationToken {
        self.place.as_ref().map(|place| place.overtaken.clone()).unwrap_or_default()
    }

    /// How it leaves before it ended. To be given back costs it nothing; held for too long, all are.
    pub(super) fn policy(&self) -> LeavePolicy {
        LeavePolicy {
            lane: Lane::Interactive,
            held_until: self.held_until,
            drains: true,
            returning: Some(Leave::Unsettled),
            closed: None,
            held: WhenHeld::ReturnsAll,
            has_ended: false,
            publishes: PublishRight::Always,
        }
    }

    /// The same once there is something to publish: that is done first, unless the session ends or it is held for too long.
    pub(super) fn policy_of_publish(&self) -> LeavePolicy {
        LeavePolicy { drains: false, returning: None, ..self.policy() }
    }

    /// Waits for something, unless the mail has to leave first.
    pub(super) async fn unless_left<T>(
        &self,
        session: &Session,
        something: impl Future<Output = T>,
    ) -> Result<T, Leave> {
        session.unless_left(&self.policy(), something).await
    }
}
