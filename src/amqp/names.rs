//! What things are called at the broker, with the prefix: `docs/contract.md#at-the-broker`.

use crate::domain::delay_tier::DelayTier;
use crate::domain::job::Lane;

/// The routing key of notifications; keys have no prefix.
pub const EMAIL_KEY: &str = "email";

/// The names of one org's things, and of those that all share.
#[derive(Debug, Clone)]
pub struct Names {
    prefix: String,
    org: String,
}

impl Names {
    /// With the prefix of `amqp.prefix`.
    pub fn new(prefix: &str, org: &str) -> Self {
        Self { prefix: prefix.to_owned(), org: org.to_owned() }
    }

    /// Those of another org, with the same prefix.
    pub fn of(&self, org: &str) -> Self {
        Self { org: org.to_owned(), ..self.clone() }
    }

    /// Whether a queue is one of resetd's own, of whichever org.
    pub fn is_own(&self, queue: &str) -> bool {
        let is_below = |own: &str| {
            let rest = queue.strip_prefix(&self.prefix).and_then(|rest| rest.strip_prefix(own));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        is_below("resets") || is_below("emails")
    }

    fn named(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }

    /// The exchange that producers publish to.
    pub fn resets(&self) -> String {
        self.named("resets")
    }

    /// A lane's routing key; keys have no prefix.
    pub fn lane_key(&self, lane: Lane) -> String {
        if lane == Lane::FIRST { self.org.clone() } else { format!("{}.{}", self.org, lane.as_str()) }
    }

    /// A lane's queue.
    pub fn lane(&self, lane: Lane) -> String {
        self.named(&format!("resets.{}", self.lane_key(lane)))
    }

    /// The exchange that leads to the parked queues of one tier, shared by the orgs.
    pub fn parked_exchange(&self, tier: DelayTier) -> String {
        self.named(&format!("resets.parked.{}", tier.as_str()))
    }

    /// The org's parked queue of one tier.
    pub fn parked(&self, tier: DelayTier) -> String {
        self.named(&format!("resets.{}.parked.{}", self.org, tier.as_str()))
    }

    /// The queue whose active consumer works the org.
    pub fn leader(&self) -> String {
        self.named(&format!("resets.{}.leader", self.org))
    }

    /// The exclusive queue whose holder works the org, by workers of release 0.1.
    pub fn lease(&self) -> String {
        self.named(&format!("resets.{}.lease", self.org))
    }

    /// The queue of dead letters.
    pub fn dead(&self) -> String {
        self.named(&format!("resets.{}.dead", self.org))
    }

    /// The exchange of notifications.
    pub fn notifications(&self) -> String {
        self.named("notifications")
    }

    /// The email queue.
    pub fn emails(&self) -> String {
        self.named("emails")
    }

    /// The parked queue of one tier for mails that wait.
    pub fn emails_parked(&self, tier: DelayTier) -> String {
        self.named(&format!("emails.parked.{}", tier.as_str()))
    }

    /// The queue whose active consumer sends the mails.
    pub fn emails_leader(&self) -> String {
        self.named("emails.leader")
    }

    /// The exclusive queue whose holder sends the mails, by mailers of release 0.1.
    pub fn emails_lease(&self) -> String {
        self.named("emails.lease")
    }

    /// The mailer's dead letters.
    pub fn emails_dead(&self) -> String {
        self.named("emails.dead")
    }

    /// The exchange of outcomes.
    pub fn outcomes(&self) -> String {
        self.named("outcomes")
    }

    /// The stream of outcomes.
    pub fn ledger(&self) -> String {
        self.named("resets.outcomes")
    }
}
