//! What a worker and a mailer do alike around their sessions: keep connected, wait before they try again, and say why they do not work.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::amqp::channels::Needs;
use crate::amqp::error::BrokerError;
use crate::amqp::link::Link;
use crate::board::Session;
use crate::config::Config;
use crate::telemetry::{logs, metrics};

/// Connects, works until a connection is lost, and connects again. `work` is told whether the very first try gave it: where not, others
/// may have worked when the broker went. `out_of_work` hears what is in the way, and says whether it ever worked, or stood by to: what
/// must be resolved ends the process only before that.
pub(super) async fn keep_linked<W: Future<Output = Result<(), BrokerError>>>(
    config: &Config,
    role: &str,
    needs: &Needs,
    shutdown: &CancellationToken,
    work: impl Fn(Arc<Link>, bool) -> W,
    out_of_work: impl Fn(&BrokerError) -> bool,
) -> Result<(), BrokerError> {
    let amqp = &config.amqp;
    if let Some(client) = &amqp.tls.client {
        logs::warn_if_readable("amqp.client_key_file", &client.key_file);
    }
    let mut failures = 0;
    let mut is_first = true;
    while !shutdown.is_cancelled() {
        let opened = tokio::select! {
            opened = Link::open(amqp, role, needs) => opened,
            () = shutdown.cancelled() => break,
        };
        match opened {
            Ok(link) => {
                failures = 0;
                metrics::broker_connected(true);
                tracing::info!("connected to the broker");
                let link = Arc::new(link);
                let ended = work(Arc::clone(&link), is_first).await;
                metrics::broker_connected(false);
                if let Some(link) = Arc::into_inner(link) {
                    link.close().await;
                }
                ended?;
            }
            Err(trouble) => {
                // While the broker is away, never long: the process before must be back before the others try.
                failures = if trouble.stays() { failures + 1 } else { 0 };
                if !out_of_work(&trouble) && trouble.stays() {
                    return Err(trouble);
                }
            }
        }
        // Who held a lease when the broker went goes first when it is back.
        is_first = false;
        wait(config.again, failures, shutdown).await;
    }
    Ok(())
}

/// A session that lasted for so long was no failure.
const LONG: Duration = Duration::from_secs(60);
/// What is waited after many refusals, in the wait after the first.
const MOST: u32 = 64;

/// How an org's sessions have ended, one after the other.
#[derive(Debug, Default)]
pub(super) struct Failures {
    in_a_row: u32,
    /// Those of them that the broker refused, since one that it did not.
    refusals: u32,
}

impl Failures {
    /// One more, of a session that lasted for so long.
    pub(super) fn note(&mut self, trouble: &BrokerError, lasted: Duration) {
        if lasted > LONG {
            *self = Self::default();
        }
        self.in_a_row += 1;
        self.refusals = if trouble.is_refusal() { self.refusals + 1 } else { 0 };
    }

    /// Waits for the next. A refusal costs the link a channel, and the link is what all orgs have: each wait after one is twice as long.
    pub(super) async fn wait(&self, least: Duration, shutdown: &CancellationToken) {
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

/// What the board shows of it.
pub(super) fn standing(trouble: &BrokerError) -> Session {
    match trouble {
        BrokerError::Retry(why) | BrokerError::Missing(why) => Session::Starting(why.clone()),
        BrokerError::NeedsOperator(why) | BrokerError::Misfit(why) => Session::Stopped(why.clone()),
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
