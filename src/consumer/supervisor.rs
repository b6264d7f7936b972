//! Keeps a process connected, and each of its consumers in sessions: what ends one is waited out, and the next begins.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::process::{Consumer, Supervisor};
use super::session::{self, End};
use super::workload::Workload;
use crate::amqp::channels::{CANDIDATE, Needs, READING};
use crate::amqp::error::BrokerError;
use crate::amqp::link::Link;
use crate::board::Session as Standing;
use crate::telemetry::{logs, metrics};

impl<W: Workload> Supervisor<'_, W> {
    /// Connects, works until a connection is lost, and connects again. `who` needs the channels, such as "60 orgs", and `or` is what else
    /// than more channels helps.
    ///
    /// # Errors
    /// Where something needs an operator before any consumer has worked, or stood by to.
    pub async fn run(&self, who: String, or: &'static str) -> Result<(), BrokerError> {
        let amqp = &self.config.amqp;
        if let Some(client) = &amqp.tls.client {
            logs::warn_if_readable("amqp.client_key_file", &client.key_file);
        }
        let queues: usize = self.consumers.iter().map(|consumer| CANDIDATE + consumer.shared.queues().len()).sum();
        let needs = Needs { channels: READING + queues, publishers: self.consumers.len(), who, or };
        let mut failures = 0;
        let mut is_first = true;
        while !self.shutdown.is_cancelled() {
            let opened = tokio::select! {
                opened = Link::open(amqp, self.command, &needs) => opened,
                () = self.shutdown.cancelled() => break,
            };
            match opened {
                Ok(link) => {
                    failures = 0;
                    metrics::broker_connected(true);
                    let link = Arc::new(link);
                    let ended = self.work(&link, is_first).await;
                    metrics::broker_connected(false);
                    if let Some(link) = Arc::into_inner(link) {
                        link.close().await;
                    }
                    ended?;
                }
                Err(trouble) => {
                    // While the broker is away, never long: the process before must be back before the others try.
                    failures = if trouble.stays() { failures + 1 } else { 0 };
                    self.consumers.iter().for_each(|consumer| self.out_of_work(consumer, &trouble));
                    if trouble.stays() && !self.consumers.iter().any(Consumer::has_worked) {
                        return Err(trouble);
                    }
                }
            }
            // Who led when the broker went goes first when it is back.
            is_first = false;
            wait(self.config.again, failures, &self.shutdown).await;
        }
        Ok(())
    }

    /// All consumers at once; one that cannot go on is not another's trouble, except at the start. `is_first`: where not, others may have
    /// worked when the broker went.
    async fn work(&self, link: &Arc<Link>, is_first: bool) -> Result<(), BrokerError> {
        let consumers = join_all(self.consumers.iter().map(|consumer| self.keep_working(consumer, link, is_first)));
        let reading = async {
            link.streams_are_there().await;
            tokio::join!(self.ledger.follow(&link.consuming), self.depths.follow(&link.consuming));
            std::future::pending().await
        };
        tokio::select! {
            ends = consumers => ends.into_iter().collect(),
            never = reading => never,
        }
    }

    /// One consumer's sessions, one after the other, until the link is lost or the process ends.
    async fn keep_working(&self, consumer: &Consumer<W>, link: &Arc<Link>, is_first: bool) -> Result<(), BrokerError> {
        if !is_first && self.shutdown.run_until_cancelled(consumer.after_former_leader()).await.is_none() {
            return Ok(());
        }
        let mut failures = Failures::default();
        loop {
            let begun = Instant::now();
            let trouble = match self.session(consumer, link).await {
                End::Drained => return Ok(()),
                End::BrokerError(trouble) => trouble,
            };
            self.out_of_work(consumer, &trouble);
            if trouble.stays() && !consumer.has_worked() {
                self.shutdown.cancel();
                return Err(trouble);
            }
            if link.lost().is_cancelled() {
                return Ok(());
            }
            failures.note(&trouble, begun.elapsed());
            tokio::select! {
                () = failures.wait(self.config.again, &self.shutdown) => {}
                () = link.lost().cancelled() => return Ok(()),
            }
        }
    }

    /// Stands by, takes over, works, and hands over where everything is done.
    async fn session(&self, consumer: &Consumer<W>, link: &Arc<Link>) -> End {
        let term = match self.shutdown.run_until_cancelled(consumer.elect(self, link)).await {
            Some(Ok(term)) => term,
            Some(Err(trouble)) => return End::BrokerError(trouble),
            None => return End::Drained,
        };
        let (end, clean) = session::run(self, consumer, link, &term).await;
        match end {
            End::Drained if clean && consumer.shared.is_all_confirmed() => consumer.release(term).await,
            End::Drained | End::BrokerError(_) => consumer.lost(term, clean).await,
        }
        end
    }

    /// Says why, once for as long as it stays the same.
    fn out_of_work(&self, consumer: &Consumer<W>, trouble: &BrokerError) {
        let (subject, needs_operator) = (consumer.shared.subject(), trouble.stays());
        let reason = trouble.to_string();
        let standing = if needs_operator { Standing::Stopped } else { Standing::Starting };
        if !self.board.session(subject, standing(reason.clone())) {
            return;
        }
        if needs_operator {
            tracing::error!(org = subject.org(), reason, "not consuming until this is resolved; nothing is lost");
        } else {
            tracing::warn!(org = subject.org(), reason, "not consuming; retrying");
        }
    }
}

/// A session that lasted for so long was no failure.
const LONG: Duration = Duration::from_secs(60);
/// What is waited after many refusals, in the wait after the first.
const MOST: u32 = 64;

/// How a consumer's sessions have ended, one after the other.
#[derive(Debug, Default)]
struct Failures {
    in_a_row: u32,
    /// Those of them that the broker refused, since one that it did not.
    refusals: u32,
}

impl Failures {
    /// One more, of a session that lasted for so long.
    fn note(&mut self, trouble: &BrokerError, lasted: Duration) {
        if lasted > LONG {
            *self = Self::default();
        }
        self.in_a_row += 1;
        self.refusals = if trouble.is_refusal() { self.refusals + 1 } else { 0 };
    }

    /// Waits for the next. A refusal costs the link a channel, and the link is what all orgs have: each wait after one is twice as long.
    async fn wait(&self, least: Duration, shutdown: &CancellationToken) {
        let refused = async {
            tokio::select! {
                () = sleep(after_refusals(least, self.refusals)) => {}
                () = shutdown.cancelled() => {}
            }
        };
        tokio::join!(refused, wait(least, self.in_a_row, shutdown));
    }
}

/// Up to [`MOST`] times the least wait, and not in step with others.
fn after_refusals(least: Duration, refusals: u32) -> Duration {
    let Some(before) = refusals.checked_sub(1) else { return Duration::ZERO };
    let times = f64::from(1_u32.checked_shl(before).map_or(MOST, |times| times.min(MOST)));
    least.mul_f64(times * f64::midpoint(1.0, rand::random::<f64>()))
}

/// At least so long, more after more failures, and not in step with other processes.
async fn wait(least: Duration, failures: u32, shutdown: &CancellationToken) {
    let most = 2_f64.powi(failures.clamp(0, 4).cast_signed());
    let wait = least.mul_f64(1.0 + most * rand::random::<f64>() / 2.0);
    tokio::select! {
        () = sleep(wait) => {}
        () = shutdown.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_after_a_refusal_is_twice_as_long_up_to_64_times_the_first() {
        let least = Duration::from_secs(1);
        let refused = BrokerError::NeedsOperator("403".into());
        let mut failures = Failures::default();
        assert_eq!(after_refusals(least, 0), Duration::ZERO);
        for (nth, most) in [1, 2, 4, 8, 16, 32, 64, 64, 64].into_iter().enumerate() {
            failures.note(&refused, Duration::ZERO);
            let wait = after_refusals(least, failures.refusals);
            let most = least * most;
            assert!(most / 2 <= wait && wait <= most, "refusal {nth}: {wait:?}, not {most:?}");
        }
        assert!(after_refusals(least, u32::MAX) <= least * MOST);
        failures.note(&BrokerError::Retry("lost".into()), Duration::ZERO);
        assert_eq!((failures.in_a_row, failures.refusals), (10, 0));
        failures.note(&refused, LONG * 2);
        assert_eq!((failures.in_a_row, failures.refusals), (1, 1));
    }
}
