//! What a worker and a mailer do alike around their sessions: keep connected, wait before they try again, and say why they do not work.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::amqp::channels::Needs;
use crate::amqp::link::Link;
use crate::amqp::trouble::Trouble;
use crate::board::Session;
use crate::config::Config;
use crate::telemetry::{logs, metrics};

/// Connects, works until a connection is lost, and connects again. `work` is told whether the very first try gave it: where not, others
/// may have worked when the broker went. `out_of_work` hears what is in the way, and says whether it ever worked, or stood by to: what
/// must be mended ends the process only before that.
pub(super) async fn keep_linked<W: Future<Output = Result<(), Trouble>>>(
    config: &Config,
    role: &str,
    needs: &Needs,
    shutdown: &CancellationToken,
    work: impl Fn(Arc<Link>, bool) -> W,
    out_of_work: impl Fn(&Trouble) -> bool,
) -> Result<(), Trouble> {
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

/// At least so long, more after more failures, and not in step with other processes.
pub(super) async fn wait(least: Duration, failures: u32, shutdown: &CancellationToken) {
    let most = 2_f64.powi(failures.clamp(0, 4).cast_signed());
    let wait = least.mul_f64(1.0 + most * rand::random::<f64>() / 2.0);
    tokio::select! {
        () = sleep(wait) => {}
        () = shutdown.cancelled() => {}
    }
}

/// What the board shows of it.
pub(super) fn standing(trouble: &Trouble) -> Session {
    match trouble {
        Trouble::Again(why) | Trouble::Missing(why) => Session::Starting(why.clone()),
        Trouble::Mend(why) | Trouble::Misfit(why) => Session::Stopped(why.clone()),
    }
}
