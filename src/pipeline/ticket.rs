//! What is known of any job before its body is read: its id, its lane, and what its headers wish.

use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::Timestamp;
use lapin::types::ShortString;

use super::Halt;
use super::memory::Key;
use crate::amqp::consumer::Delivery;
use crate::domain::job::{JobId, Lane, Refusal, Wishes};
use crate::domain::outcome::Reason;
use crate::wire::properties;

/// One delivery's ticket.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) id: JobId,
    pub(super) lane: Lane,
    /// Where its producer wants the outcome, if anywhere.
    pub(super) reply_to: Option<ShortString>,
    deliveries_before: u64,
    wishes: Result<Wishes, Refusal>,
}

impl Ticket {
    pub(super) fn of(delivery: &Delivery) -> Self {
        let id = properties::job_id(&delivery.body, &delivery.properties);
        let wishes = properties::wishes(&delivery.properties, Timestamp::now()).map(|(wishes, warning)| {
            if let Some(warning) = warning {
                tracing::warn!(job.id = %id, lane = delivery.lane.as_str(), "{warning}");
            }
            wishes
        });
        let reply_to = delivery.properties.reply_to().clone().filter(|queue| !queue.as_str().is_empty());
        Self {
            id,
            reply_to,
            lane: delivery.lane,
            deliveries_before: properties::deliveries_before(&delivery.properties),
            wishes,
        }
    }

    /// What the job is remembered by.
    pub(super) fn key(&self, delivery: &Delivery) -> Key {
        let mut hasher = DefaultHasher::new();
        delivery.body.hash(&mut hasher);
        (self.id.clone(), hasher.finish())
    }

    /// Whether its `not-before` is still ahead.
    pub(super) fn is_early(&self) -> bool {
        let not_before = self.wishes.as_ref().ok().and_then(|wishes| wishes.not_before);
        not_before.is_some_and(|moment| moment > Timestamp::now())
    }

    /// The 20th delivery is spent on the dead letter, before anything else.
    pub(super) fn may_be_delivered(&self) -> Result<(), Halt> {
        if self.deliveries_before < super::LAST_DELIVERY {
            return Ok(());
        }
        let detail = format!(
            "delivered {} times without being settled; a job that ends its worker each time looks like this",
            self.deliveries_before + 1
        );
        Err(Halt::Dead { reason: Reason::DeliveryLimit, detail: Some(detail) })
    }

    /// What its headers wish.
    pub(super) fn wishes(&self) -> Result<&Wishes, Halt> {
        self.wishes
            .as_ref()
            .map_err(|refusal| Halt::Dead { reason: Reason::InvalidJob, detail: Some(refusal.0.clone()) })
    }

    /// Its batch, where it has one.
    pub(super) fn batch(&self) -> Option<String> {
        self.wishes.as_ref().ok().and_then(|wishes| wishes.batch.clone())
    }

    /// When it was asked for, where its producer said.
    pub(super) fn asked_at(&self) -> Option<Timestamp> {
        self.wishes.as_ref().ok().and_then(|wishes| wishes.asked_at)
    }
}
