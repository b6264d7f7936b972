//! Publishing what follows from a delivery, until the broker has confirmed it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::workload::{Leave, LeavePolicy, PublishRight, SessionContext, Workload};
use crate::amqp::error::{ANSWER, BrokerError};
use crate::amqp::publisher::{Message, Unpublished};
use crate::domain::retry::HaltCause;

/// How long a message that no queue takes waits until it is published again.
pub const PUBLISH_AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked whether this process leads again.
const LOOK: Duration = Duration::from_millis(50);
/// As long as one declaration counts for everybody whose message found no queue.
const DECLARED: Duration = Duration::from_millis(900);

impl<W: Workload> SessionContext<W> {
    /// Publishes until it is confirmed. What no queue takes has the topology declared again; while that does not help, processing is
    /// halted.
    ///
    /// # Errors
    /// Where the delivery has to leave first.
    pub async fn publish_until_confirmed(
        &self,
        what: &str,
        message: &Message<'_>,
        policy: &LeavePolicy,
    ) -> Result<(), Leave> {
        let (org, gate) = (self.shared.subject().org(), self.shared.gate());
        let mut halted = false;
        loop {
            let unpublished = match self.publish(message, policy).await? {
                Ok(()) => {
                    if halted {
                        gate.resolved(HaltCause::Unpublishable);
                    }
                    return Ok(());
                }
                Err(Unpublished::Lost(trouble)) => {
                    tracing::warn!(org, reason = %trouble, "{what} could not be confirmed; the session starts anew");
                    self.over.cancel();
                    return Err(Leave::Unsettled);
                }
                Err(unpublished @ (Unpublished::Returned { .. } | Unpublished::Refused { .. })) => unpublished,
            };
            let declared = tokio::select! {
                () = self.over.cancelled() => return Err(Leave::Unsettled),
                declared = self.declare_again() => declared,
            };
            if halted || declared.is_err() || matches!(unpublished, Unpublished::Refused { .. }) {
                let cure =
                    declared.err().map_or_else(|| "bind or empty that queue".to_owned(), |trouble| trouble.to_string());
                gate.stop(HaltCause::Unpublishable, &format!("{what} cannot be published: {unpublished}; {cure}"));
                self.unless_left(policy, sleep(PUBLISH_AGAIN)).await?;
            }
            halted = true;
        }
    }

    /// Publishes once. Whether it may is looked at with the place at hand: waiting for one may take longer than what the leadership
    /// allows. While that is not known to be ours, the publish is another's.
    ///
    /// # Errors
    /// Where the delivery has to leave first.
    pub async fn publish(&self, message: &Message<'_>, policy: &LeavePolicy) -> Result<Result<(), Unpublished>, Leave> {
        loop {
            while !self.may_publish(policy) {
                self.unless_left(policy, sleep(LOOK)).await?;
            }
            // Both in the time of one answer, where the session is over.
            let published = self.unless_given_up(policy, async {
                let place = match self.publisher.place().await {
                    Ok(place) => place,
                    Err(unpublished) => return Some(Err(unpublished)),
                };
                if self.may_publish(policy) { Some(place.publish(message).await) } else { None }
            });
            if let Some(published) = published.await? {
                return Ok(published);
            }
        }
    }

    fn may_publish(&self, policy: &LeavePolicy) -> bool {
        match policy.publishes {
            PublishRight::WhileLeading(called) => self.proof.allows_publish_of(called, self.shared.longest_call()),
            PublishRight::Always => true,
        }
    }

    /// What was published may still be confirmed for a while after the session is over; but no delivery is held too long for it. Of one
    /// that has its end it is waited for within the time of an answer where all is given back, or it would be there twice.
    async fn unless_given_up<T>(&self, policy: &LeavePolicy, publishing: impl Future<Output = T>) -> Result<T, Leave> {
        let over = async {
            self.over.cancelled().await;
            sleep(ANSWER).await;
        };
        let left = async {
            let leave = self.left(policy).await;
            if policy.has_ended {
                sleep(ANSWER).await;
            }
            leave
        };
        tokio::select! {
            biased;
            value = publishing => Ok(value),
            () = over => Err(Leave::Unsettled),
            leave = left => Err(leave),
        }
    }

    /// Declares the topology again, after a message found no queue.
    ///
    /// # Errors
    /// Where that does not do.
    pub async fn declare_again(&self) -> Result<(), BrokerError> {
        let mut last = self.declared.lock().await;
        if let Some((at, declared)) = last.as_ref()
            && at.elapsed() < DECLARED
        {
            return declared.clone();
        }
        let declared = self.link.declare(&self.shared.topology()).await;
        *last = Some((Instant::now(), declared.clone()));
        declared
    }
}
