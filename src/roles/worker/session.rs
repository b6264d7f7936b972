//! One org's session: declare, consume both lanes, hand each job to the pipeline; in the end let those in hand finish.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::amqp::consumer::{Consumer, Delivery};
use crate::amqp::link::Link;
use crate::amqp::publisher::Publisher;
use crate::amqp::topology;
use crate::amqp::trouble::Trouble;
use crate::board::{Board, Session};
use crate::config::Config;
use crate::domain::job::Lane;
use crate::pipeline::org::Org;
use crate::pipeline::{self, Desk};

/// What is kept of the grace for publishing what the last calls bring.
const LAST_PUBLISHES: Duration = Duration::from_secs(2);
/// What is kept of it for closing channels and connections, even where the broker does not answer.
const GOODBYES: Duration = Duration::from_secs(2);

/// How a session ended.
pub(super) enum End {
    /// The process is to end, and what was in hand is finished or goes back.
    Drained,
    /// Something happened; the next session may do better.
    Trouble(Trouble),
}

/// Runs one session to its end. `worked` is set once it consumes.
pub(super) async fn run(
    org: &Arc<Org>,
    link: &Arc<Link>,
    config: &Config,
    board: &Board,
    worked: &AtomicBool,
    shutdown: &CancellationToken,
) -> End {
    let mut lanes = match shutdown.run_until_cancelled(open(org, link, config)).await {
        Some(Ok(lanes)) => lanes,
        Some(Err(trouble)) => return End::Trouble(trouble),
        None => return End::Drained,
    };
    worked.store(true, Ordering::Relaxed);
    board.session(&org.name, Session::Active);
    tracing::info!(org = org.name, "consuming both lanes");
    let end = lanes.consume(link, shutdown).await;
    if let End::Trouble(trouble) = &end {
        board.session(&org.name, Session::Starting(trouble.to_string()));
    }
    lanes.finish(&end, config.grace, shutdown).await;
    end
}

struct Lanes {
    desk: Arc<Desk>,
    interactive: Consumer,
    bulk: Consumer,
    jobs: TaskTracker,
}

async fn open(org: &Arc<Org>, link: &Arc<Link>, config: &Config) -> Result<Lanes, Trouble> {
    topology::declare_on(&link.publishing, &org.names).await?;
    let desk = Desk {
        org: Arc::clone(org),
        publisher: Publisher::open(Arc::clone(&link.publishing)).await?,
        draining: CancellationToken::new(),
        over: link.lost().child_token(),
        link: Arc::clone(link),
        declaring: Mutex::default(),
    };
    let prefetch = config.amqp.prefetch;
    Ok(Lanes {
        desk: Arc::new(desk),
        interactive: Consumer::start(&link.consuming, &org.names, Lane::Interactive, prefetch).await?,
        bulk: Consumer::start(&link.consuming, &org.names, Lane::Bulk, prefetch).await?,
        jobs: TaskTracker::new(),
    })
}

impl Lanes {
    /// Hands over one job after the other, until something ends that.
    async fn consume(&mut self, link: &Link, shutdown: &CancellationToken) -> End {
        let (over, org) = (self.desk.over.clone(), Arc::clone(&self.desk.org));
        let mut refused_for_long = std::pin::pin!(org.refused_for_long());
        loop {
            let (lane, delivery) = tokio::select! {
                () = shutdown.cancelled() => return End::Drained,
                () = over.cancelled() => return End::Trouble(self.why_over(link)),
                () = &mut refused_for_long => {
                    return End::Trouble(Trouble::Mend("all jobs went back to their queues until the client is let in".into()));
                }
                delivery = self.interactive.next() => (Lane::Interactive, delivery),
                delivery = self.bulk.next() => (Lane::Bulk, delivery),
            };
            match delivery {
                Some(delivery) => self.start(delivery).await,
                None if link.lost().is_cancelled() => return End::Trouble(self.why_over(link)),
                None => {
                    let queue = self.desk.org.names.lane(lane);
                    return End::Trouble(Trouble::Again(format!(
                        "consuming queue {queue} ended; the broker cancelled it, or the queue was deleted"
                    )));
                }
            }
        }
    }

    async fn start(&self, delivery: Delivery) {
        let arrival = pipeline::arrive(&self.desk, delivery).await;
        // On the heap at once: it is some kilobytes, and would be copied at each hand-over.
        self.jobs.spawn(Box::pin(pipeline::handle(Arc::clone(&self.desk), arrival)));
    }

    fn why_over(&self, link: &Link) -> Trouble {
        let what = if link.lost().is_cancelled() {
            "a connection to the broker was lost"
        } else {
            "a channel to the broker was lost"
        };
        Trouble::Again(what.into())
    }

    /// Lets the jobs in hand end, so that none of them is still at work when its redelivery comes; then closes the channels,
    /// which returns what was not settled.
    async fn finish(self, end: &End, grace: Duration, shutdown: &CancellationToken) {
        self.jobs.close();
        match end {
            End::Drained => self.drain(grace).await,
            End::Trouble(_) => {
                self.desk.over.cancel();
                let grace_ended = async {
                    shutdown.cancelled().await;
                    tokio::time::sleep(grace.saturating_sub(GOODBYES)).await;
                };
                tokio::select! { () = self.jobs.wait() => {}, () = grace_ended => {} }
            }
        }
        // Whatever could not be published is owed by nobody now; the redelivered jobs find out anew.
        self.desk.org.publishable();
        tokio::join!(self.desk.publisher.close(), self.interactive.close(), self.bulk.close());
    }

    /// Jobs that were never tried go back at once. The others may go on until only the time of one call and its publishes is
    /// left of the grace; then only a call in the air is waited for.
    async fn drain(&self, grace: Duration) {
        let in_hand = self.jobs.len();
        tracing::info!(org = self.desk.org.name, in_hand, "draining");
        self.desk.draining.cancel();
        tokio::join!(self.interactive.cancel(), self.bulk.cancel());
        let grace = grace.saturating_sub(GOODBYES);
        let last_call = grace.saturating_sub(self.desk.org.config.request_timeout + LAST_PUBLISHES);
        let all = async {
            if tokio::time::timeout(last_call, self.jobs.wait()).await.is_err() {
                self.desk.over.cancel();
                self.jobs.wait().await;
            }
        };
        if tokio::time::timeout(grace, all).await.is_err() {
            tracing::warn!(
                org = self.desk.org.name,
                in_hand = self.jobs.len(),
                "shutdown.grace has ended; these jobs go back to their queues"
            );
        }
    }
}
