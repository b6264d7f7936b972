//! How many of an org's jobs are in flight: taken from the broker, and not settled; and how many of them are at work, and do not only wait.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::sync::watch;

use crate::domain::job::Lane;
use crate::domain::subject::Subject;
use crate::telemetry::metrics::InFlight;

/// One org's count; cheap to clone.
#[derive(Debug, Clone)]
pub struct JobsInFlight {
    subject: Subject,
    lanes: Arc<[AtomicU32; Lane::COUNT]>,
    work: watch::Sender<Work>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Work {
    /// Jobs in flight that do not only wait.
    at_work: [u32; Lane::COUNT],
    /// Whether a job runs alone: nobody who waited goes on.
    alone: bool,
}

/// How a job is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// One of many.
    One,
    /// With nobody else at work.
    Alone,
    /// Only to wait: it is never at work.
    Waiting,
}

/// One job in flight, for as long as this lives, however it ends. It is at work until it rests.
pub struct InHand {
    jobs_in_flight: JobsInFlight,
    lane: Lane,
    taken: As,
    at_work: AtomicBool,
    _metric: InFlight,
}

impl fmt::Debug for InHand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InHand").field("lane", &self.lane).field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl JobsInFlight {
    /// Nothing in flight.
    pub fn new(subject: impl Into<Subject>) -> Self {
        Self { subject: subject.into(), lanes: Arc::default(), work: watch::Sender::default() }
    }

    /// One more.
    pub fn take(&self, lane: Lane, taken: As) -> InHand {
        self.lane(lane).fetch_add(1, Ordering::Relaxed);
        let is_at_work = taken != As::Waiting;
        self.work.send_modify(|work| {
            work.at_work[lane.index()] += u32::from(is_at_work);
            work.alone |= taken == As::Alone;
        });
        let metric = InFlight::enter(&self.subject, lane);
        InHand { jobs_in_flight: self.clone(), lane, taken, at_work: AtomicBool::new(is_at_work), _metric: metric }
    }

    /// How many there are of a lane.
    pub fn count(&self, lane: Lane) -> u32 {
        self.lane(lane).load(Ordering::Relaxed)
    }

    /// Waits until none of these lanes' jobs is at work.
    pub async fn none_at_work(&self, lanes: &[Lane]) {
        self.until(|work| lanes.iter().all(|lane| work.at_work[lane.index()] == 0)).await;
    }

    async fn until(&self, is_so: impl FnMut(&Work) -> bool) {
        // It fails where the sender is gone, and that lives as long as `self`.
        let _ = self.work.subscribe().wait_for(is_so).await;
    }

    fn lane(&self, lane: Lane) -> &AtomicU32 {
        &self.lanes[lane.index()]
    }
}

impl InHand {
    /// Whether it runs alone.
    pub fn is_alone(&self) -> bool {
        self.taken == As::Alone
    }

    /// Whether it was taken only to wait.
    pub fn only_waits(&self) -> bool {
        self.taken == As::Waiting
    }

    /// From now on it only waits, until it goes on.
    pub fn rest(&self) {
        if self.at_work.swap(false, Ordering::Relaxed) {
            self.jobs_in_flight.work.send_modify(|work| {
                work.at_work[self.lane.index()] -= 1;
                work.alone &= !self.is_alone();
            });
        }
    }

    /// It goes on as soon as no job runs alone.
    pub async fn goes_on(&self) {
        if self.only_waits() {
            return;
        }
        loop {
            let mut is_free = false;
            self.jobs_in_flight.work.send_if_modified(|work| {
                is_free = !work.alone;
                if is_free && !self.at_work.swap(true, Ordering::Relaxed) {
                    work.at_work[self.lane.index()] += 1;
                }
                false
            });
            if is_free {
                return;
            }
            self.jobs_in_flight.until(|work| !work.alone).await;
        }
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.rest();
        self.jobs_in_flight.lane(self.lane).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_job_counts_for_its_lane_until_it_is_dropped() {
        let jobs_in_flight = JobsInFlight::new("main");
        let counts = || [Lane::Interactive, Lane::Bulk].map(|lane| jobs_in_flight.count(lane));
        let one = jobs_in_flight.take(Lane::Bulk, As::One);
        let two = jobs_in_flight.take(Lane::Interactive, As::Alone);
        let three = jobs_in_flight.clone().take(Lane::Bulk, As::Waiting);
        assert_eq!(counts(), [1, 2]);
        drop((one, three));
        assert_eq!(counts(), [1, 0]);
        drop(two);
        assert_eq!(counts(), [0, 0]);
    }

    #[test]
    fn who_only_waits_is_not_waited_for_and_goes_on_when_no_job_runs_alone() {
        let jobs_in_flight = JobsInFlight::new("main");
        let is_quiet = || jobs_in_flight.none_at_work(&Lane::ALL).now_or_never().is_some();
        let one = jobs_in_flight.take(Lane::Bulk, As::One);
        let _aside = jobs_in_flight.take(Lane::Interactive, As::Waiting);
        assert!(!is_quiet() && jobs_in_flight.none_at_work(&[Lane::Interactive]).now_or_never().is_some());
        one.rest();
        assert!(is_quiet());
        let alone = jobs_in_flight.take(Lane::Interactive, As::Alone);
        assert!(!is_quiet());
        let mut goes_on = Box::pin(one.goes_on());
        assert!(goes_on.as_mut().now_or_never().is_none(), "it waits while another runs alone");
        drop(alone);
        assert!(is_quiet(), "it is not at work before it goes on");
        assert!(goes_on.now_or_never().is_some() && !is_quiet());
        drop(one);
        assert!(is_quiet());
    }
}
