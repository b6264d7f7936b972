//! One org's session, under its lease: from its desk and its two lanes to what ends it, and then until the jobs in flight are finished.
//! How it takes them meanwhile is in `shifts`.

mod shifts;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::takeover::Held;
use super::{Crew, Office};
use crate::amqp::claim::REPEAT;
use crate::amqp::consumer::{Delivery, Intake};
use crate::amqp::error::BrokerError;
use crate::amqp::link::Link;
use crate::board::Session as Standing;
use crate::domain::job::Lane;
use crate::reset::{Desk, Returns};

/// What is kept of the grace for publishing what the last calls bring.
const LAST_PUBLISHES: Duration = Duration::from_secs(2);
/// How often it is looked whether any call can still be made.
const LOOK: Duration = Duration::from_millis(100);
/// What is kept of it for closing channels and connections, even where the broker does not answer.
const GOODBYES: Duration = Duration::from_secs(2);

/// How a session ended.
pub(super) enum End {
    /// The process is to end, and what was in flight is finished or goes back.
    Drained,
    /// Something happened; the next session may do better.
    BrokerError(BrokerError),
}

/// Runs one session to its end, and says whether no job is at work any more.
pub(super) async fn run(crew: &Crew<'_>, office: &Office, link: &Arc<Link>, held: &Held) -> (End, bool) {
    let mut session = match crew.shutdown.run_until_cancelled(Session::open(crew, office, link, held)).await {
        Some(Ok(session)) => session,
        Some(Err(trouble)) => return (End::BrokerError(trouble), true),
        None => return (End::Drained, true),
    };
    office.works();
    crew.board.session(&office.org.name, Standing::Active);
    tracing::info!(org = office.org.name, "at work on both lanes");
    let (renewed, heartbeat) = (held.lease.renewed().clone(), link.heartbeat.clone());
    office.org.gate.admit(Some(Box::new(move || renewed.is_fresh() && heartbeat.is_alive())));
    let end = session.work(crew, office, held).await;
    if let End::BrokerError(trouble) = &end {
        crew.board.session(&office.org.name, Standing::Starting(format!("{trouble}; waiting for calls in flight")));
    }
    let clean = session.finish(&end, crew).await;
    (end, clean)
}

struct Session {
    desk: Arc<Desk>,
    lanes: [Intake; Lane::COUNT],
    /// So many deliveries of each lane are in flight at most.
    prefetch: u16,
    jobs: TaskTracker,
    /// Taken, and not handed over: they must run alone.
    suspects: Vec<Delivery>,
    /// From when on all have left that leave since their lane is closed.
    have_left: Instant,
}

impl Session {
    async fn open(crew: &Crew<'_>, office: &Office, link: &Arc<Link>, held: &Held) -> Result<Self, BrokerError> {
        let org = &office.org;
        org.begins_again();
        let desk = Desk {
            org: Arc::clone(org),
            publisher: Arc::clone(&held.publisher),
            draining: CancellationToken::new(),
            over: held.lease.gone().child_token(),
            returning: CancellationToken::new(),
            closed: Default::default(),
            last_call: until_last_call(org.config.request_timeout, crew.config.grace.saturating_sub(GOODBYES)),
            returns: Returns::default(),
            probing: false,
            link: Arc::clone(link),
            lease: held.lease.renewed().clone(),
            declaring: Arc::new(Mutex::default()),
        };
        let prefetch = crew.config.amqp.prefetch;
        let lanes = [
            Intake::open(&link.consuming, org.names.lane(Lane::Interactive), Lane::Interactive, prefetch).await?,
            Intake::open(&link.consuming, org.names.lane(Lane::Bulk), Lane::Bulk, prefetch).await?,
        ];
        Ok(Self {
            desk: Arc::new(desk),
            lanes,
            prefetch,
            jobs: TaskTracker::new(),
            suspects: Vec::new(),
            have_left: Instant::now(),
        })
    }

    /// Shift after shift, until something ends that.
    async fn work(&mut self, crew: &Crew<'_>, office: &Office, held: &Held) -> End {
        let (over, shutdown) = (self.desk.over.clone(), crew.shutdown.clone());
        let claiming = async {
            loop {
                sleep(REPEAT).await;
                office.claim.repeat(&held.publisher).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => End::Drained,
            () = over.cancelled() => End::BrokerError(BrokerError::Retry("a connection, a channel or the lease was lost".into())),
            Err(trouble) = self.shifts() => End::BrokerError(trouble),
            never = claiming => match never {},
            never = super::state::tell(crew, office, &held.publisher) => match never {},
        }
    }

    /// Lets the jobs in flight end, so that none of them is still at work when its redelivery comes; then closes the channels,
    /// which returns what was not settled. `true`: none of them is at work any more.
    async fn finish(self, end: &End, crew: &Crew<'_>) -> bool {
        let Self { desk, lanes: [mut interactive, mut bulk], jobs, suspects, .. } = self;
        jobs.close();
        match end {
            End::Drained => drain(&desk, &mut interactive, &mut bulk, &jobs, crew.config.grace).await,
            End::BrokerError(_) => {
                desk.over.cancel();
                let grace_ended = async {
                    crew.shutdown.cancelled().await;
                    sleep(crew.config.grace.saturating_sub(GOODBYES)).await;
                };
                tokio::select! { () = jobs.wait() => {}, () = grace_ended => {} }
            }
        }
        shifts::not_begun(&desk, suspects);
        for lane in [&mut interactive, &mut bulk] {
            shifts::not_begun(&desk, lane.came());
        }
        desk.org.gate.admit(None);
        // Whatever could not be published is owed by nobody now; the redelivered jobs find out anew.
        desk.org.publishable();
        tokio::join!(interactive.close(), bulk.close());
        jobs.is_empty()
    }
}

/// How long a drain waits for calls that can still be made: then the time of one call and its publishes is left of the grace.
fn until_last_call(request_timeout: Duration, grace: Duration) -> Duration {
    grace.saturating_sub(request_timeout + LAST_PUBLISHES)
}

/// Waits until it is known that no call can be made before that moment.
async fn no_call_before(desk: &Desk, last_call: Instant) {
    while desk.org.gate.shut(Instant::now()).is_none_or(|until| until <= last_call) {
        sleep(LOOK).await;
    }
}

/// Jobs that were never tried go back at once. The others may go on until only the time of one call and its publishes is
/// left of the grace, or no call can be made before that; then only a call in flight is waited for.
async fn drain(desk: &Desk, interactive: &mut Intake, bulk: &mut Intake, jobs: &TaskTracker, grace: Duration) {
    let in_flight = jobs.len();
    tracing::info!(org = desk.org.name, in_flight, "draining");
    desk.draining.cancel();
    tokio::join!(interactive.cancel(), bulk.cancel());
    let grace = grace.saturating_sub(GOODBYES);
    let last_call = Instant::now() + until_last_call(desk.org.config.request_timeout, grace);
    let all = async {
        tokio::select! {
            () = jobs.wait() => return,
            () = sleep_until(last_call) => {}
            () = no_call_before(desk, last_call) => {}
        }
        desk.over.cancel();
        jobs.wait().await;
    };
    if tokio::time::timeout(grace, all).await.is_err() {
        tracing::warn!(
            org = desk.org.name,
            in_flight = jobs.len(),
            "shutdown.grace has ended; these jobs go back to their queues"
        );
    }
}
