//! One session, while its process leads: from its queues to what ends it, and then until what is in flight is finished. How it takes
//! deliveries meanwhile is in `intake`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::TaskTracker;

use super::process::{Consumer, Supervisor};
use super::term::Term;
use super::workload::{SessionContext, Workload};
use crate::amqp::consumer::{Delivery, Intake};
use crate::amqp::error::BrokerError;
use crate::amqp::link::Link;
use crate::board::Session as Standing;
use crate::domain::retry::HaltCause;

/// How often it is looked whether any call can still be made.
const LOOK: Duration = Duration::from_millis(100);
/// What is kept of the grace for closing channels and connections, even where the broker does not answer.
const GOODBYES: Duration = Duration::from_secs(2);

/// How a session ended.
pub(super) enum End {
    /// The process is to end, and what was in flight is finished or goes back.
    Drained,
    /// Something happened; the next session may do better.
    BrokerError(BrokerError),
}

/// Runs one session to its end, and says whether nothing is in flight any more.
pub(super) async fn run<W: Workload>(
    supervisor: &Supervisor<'_, W>,
    consumer: &Consumer<W>,
    link: &Arc<Link>,
    term: &Term,
) -> (End, bool) {
    let opened = supervisor.shutdown.run_until_cancelled(Session::open(supervisor, consumer, link, term)).await;
    let mut session = match opened {
        Some(Ok(session)) => session,
        Some(Err(trouble)) => return (End::BrokerError(trouble), true),
        None => return (End::Drained, true),
    };
    let (shared, board) = (&consumer.shared, supervisor.board);
    let subject = shared.subject();
    consumer.works();
    board.session(subject, Standing::Active);
    let queues: Vec<String> = shared.queues().into_iter().map(|(_, queue)| queue).collect();
    tracing::info!(org = subject.org(), "at work on {}", queues.join(" and "));
    let (proof, heartbeat) = (term.proof(), link.heartbeat.clone());
    shared.gate().admit(Some(Box::new(move || proof.is_fresh() && heartbeat.is_alive())));
    let end = session.work(supervisor, consumer, term).await;
    if let End::BrokerError(trouble) = &end {
        board.session(subject, Standing::Starting(format!("{trouble}; waiting for {} in flight", W::WHAT)));
    }
    let clean = session.finish(&end, supervisor).await;
    (end, clean)
}

pub(super) struct Session<W: Workload> {
    pub(super) context: Arc<SessionContext<W>>,
    /// One for each queue.
    pub(super) lanes: Vec<Intake>,
    /// So many deliveries of each are in flight at most.
    pub(super) prefetch: u16,
    /// How long everything may have to wait before all of it is given back.
    pub(super) long: Duration,
    pub(super) tasks: TaskTracker,
    /// Taken, and not handed over: they must run alone.
    pub(super) suspects: Vec<Delivery>,
    /// From when on all have left that leave since their lane is closed.
    pub(super) have_left: Instant,
}

impl<W: Workload> Session<W> {
    async fn open(
        supervisor: &Supervisor<'_, W>,
        consumer: &Consumer<W>,
        link: &Arc<Link>,
        term: &Term,
    ) -> Result<Self, BrokerError> {
        let (shared, config) = (&consumer.shared, supervisor.config);
        shared.begins_session();
        let last_call = until_last_call(&**shared, config.grace.saturating_sub(GOODBYES));
        let context = Arc::new(SessionContext::new(Arc::clone(shared), Arc::clone(link), term, last_call));
        let prefetch = config.amqp.prefetch;
        let queues = shared.queues().into_iter();
        let lanes = queues.map(|(lane, queue)| Intake::open(&link.consuming, queue, lane, prefetch));
        Ok(Self {
            context,
            lanes: try_join_all(lanes).await?,
            prefetch,
            long: config.long,
            tasks: TaskTracker::new(),
            suspects: Vec::new(),
            have_left: Instant::now(),
        })
    }

    /// Takes deliveries until something ends that.
    async fn work(&mut self, supervisor: &Supervisor<'_, W>, consumer: &Consumer<W>, term: &Term) -> End {
        let (over, shutdown) = (self.context.over.clone(), supervisor.shutdown.clone());
        tokio::select! {
            () = shutdown.cancelled() => End::Drained,
            () = over.cancelled() => End::BrokerError(BrokerError::Retry("a connection or a channel was lost".into())),
            Err(trouble) = consumer.keep_leading(term, supervisor.board) => End::BrokerError(trouble),
            Err(trouble) = self.take_in() => End::BrokerError(trouble),
            never = consumer.repeat(term) => match never {},
            never = consumer.shared.report(&term.publisher) => match never {},
        }
    }

    /// Lets what is in flight end, so that none of it is still at work when its redelivery comes; then closes the channels, which returns
    /// what was not settled. `true`: nothing is in flight any more.
    async fn finish(mut self, end: &End, supervisor: &Supervisor<'_, W>) -> bool {
        self.tasks.close();
        let grace = supervisor.config.grace.saturating_sub(GOODBYES);
        match end {
            End::Drained => self.drain(grace).await,
            End::BrokerError(_) => {
                self.context.over.cancel();
                let grace_ended = async {
                    supervisor.shutdown.cancelled().await;
                    sleep(grace).await;
                };
                tokio::select! { () = self.tasks.wait() => {}, () = grace_ended => {} }
            }
        }
        let Self { context, mut lanes, tasks, suspects, .. } = self;
        context.not_begun(suspects);
        lanes.iter_mut().for_each(|lane| context.not_begun(lane.came()));
        context.shared.gate().admit(None);
        // Nobody in flight waits any more for a queue to take what it publishes; what is redelivered finds out anew.
        context.shared.gate().resolved(HaltCause::Unpublishable);
        join_all(lanes.into_iter().map(Intake::close)).await;
        tasks.is_empty()
    }

    /// What was never tried goes back at once. The rest may go on until only the time of one call and its publishes is left of the grace,
    /// or no call can be made before that; then only a call in flight is waited for.
    async fn drain(&mut self, grace: Duration) {
        let Self { context, lanes, tasks, .. } = self;
        let shared = &context.shared;
        let org = shared.subject().org();
        tracing::info!(org, in_flight = tasks.len(), "draining");
        context.draining.cancel();
        join_all(lanes.iter_mut().map(Intake::rest)).await;
        let last_call = Instant::now() + until_last_call(&**shared, grace);
        let all = async {
            tokio::select! {
                () = tasks.wait() => return,
                () = sleep_until(last_call) => {}
                () = no_call_before(&**shared, last_call), if W::ENDS_WITH_GRACE => {}
            }
            context.over.cancel();
            tasks.wait().await;
        };
        tokio::pin!(all);
        if timeout(grace, all.as_mut()).await.is_err() {
            let in_flight = tasks.len();
            if W::ENDS_WITH_GRACE {
                tracing::warn!(org, in_flight, "shutdown.grace has ended; what is in flight goes back to its queue");
            } else {
                tracing::info!(org, in_flight, "what is in flight is waited for, whatever shutdown.grace is");
                all.await;
            }
        }
    }
}

/// How long a drain waits for calls that can still be made.
fn until_last_call<W: Workload>(shared: &W, grace: Duration) -> Duration {
    grace.saturating_sub(shared.after_last_call())
}

/// Waits until it is known that no call can be made before that moment.
async fn no_call_before<W: Workload>(shared: &W, last_call: Instant) {
    while shared.gate().shut(Instant::now()).is_none_or(|until| until <= last_call) {
        sleep(LOOK).await;
    }
}
