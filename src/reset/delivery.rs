//! What is known of any job before its body is read: its id, its lane, and what its headers wish.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use lapin::types::ShortString;
use tokio::time::Instant;

use super::checkpoints::Key;
use super::state::Interrupted;
use crate::amqp::consumer::Delivery;
use crate::amqp::names::Names;
use crate::domain::job::{Intent, JobId, Lane, Reset, Who, Wishes};
use crate::domain::outcome::{Clock, Reason};
use crate::domain::refusal::Refusal;
use crate::domain::trace::TraceParent;
use crate::telemetry::traces::JobSpan;
use crate::throttle::jobs_in_flight::InHand;
use crate::wire::again::{self, RetryHeaders};
use crate::wire::job::{self, Invalid, Rules};
use crate::wire::{permitted, properties, trace};

/// The broker delivers a job so often at most; its last delivery is spent on the dead letter.
const LAST_DELIVERY: u64 = 19;
/// From this many deliveries before it on, a job may be one that ends its worker: it runs alone.
const SUSPECT: u64 = 3;
/// From this many deliveries before it on, a job is published again and not returned.
const OFTEN: u64 = 10;

/// Whether a delivery must run alone, so that a job that ends its worker takes no neighbours along. (The last one does not run at all.)
pub(super) fn must_run_alone(delivery: &Delivery) -> bool {
    (SUSPECT..LAST_DELIVERY).contains(&deliveries_before(delivery))
}

/// Whether it may not be tried yet: until then it only waits, and need not do that alone.
pub(super) fn is_early(delivery: &Delivery) -> bool {
    let now = Timestamp::now();
    let wish = properties::wishes(&delivery.properties, now).ok().and_then(|(wishes, _)| wishes.not_before);
    wish.max(again::retry_headers(&delivery.properties).until).is_some_and(|moment| moment > now)
}

fn deliveries_before(delivery: &Delivery) -> u64 {
    properties::deliveries_before(&delivery.properties)
        .saturating_add(again::retry_headers(&delivery.properties).deliveries)
}

/// What is known of one delivery.
#[derive(Debug, Clone)]
pub(super) struct DeliveryInfo {
    pub(super) id: JobId,
    pub(super) lane: Lane,
    /// Where its producer wants the outcome, if anywhere.
    pub(super) reply_to: Option<ShortString>,
    /// Its spans for a collector of traces.
    pub(super) span: JobSpan,
    /// Where all that tells of its end goes on in a trace: from its span, else from its producer's, where it has one.
    pub(super) trace: Option<TraceParent>,
    /// What it carries, if it was published again.
    pub(super) retry_headers: RetryHeaders,
    /// Until when it may be in flight: the broker takes back what is held too long.
    pub(super) held_until: Instant,
    /// That it is in flight, and whether it is at work.
    pub(super) in_flight: Arc<InHand>,
    deliveries_before: u64,
    /// Whose clock says when it was asked for.
    pub(super) clock: Clock,
    /// Whether the text of its properties is text, it is a whole job, and it asks for no reply where none may go.
    readable: Result<(), Refusal>,
    wishes: Result<Wishes, Refusal>,
}

impl DeliveryInfo {
    pub(super) fn of(delivery: &Delivery, org: &str, names: &Names, hold: Duration, in_flight: InHand) -> Self {
        let id = properties::job_id(&delivery.body, &delivery.properties);
        let mut clock = Clock::Producer;
        let wishes = properties::wishes(&delivery.properties, Timestamp::now()).map(|(wishes, warning)| {
            if let Some(warning) = warning {
                clock = Clock::Worker;
                tracing::warn!(job.id = %id, lane = delivery.lane.as_str(), "{warning}");
            }
            wishes
        });
        let is_name = |queue: &ShortString| !queue.as_str().is_empty() && !queue.is_lossy();
        let reply_to = delivery.properties.reply_to().clone().filter(is_name);
        let is_own = reply_to.as_ref().is_some_and(|queue| names.is_own(queue.as_str()));
        let own = || Refusal("reply_to: it is one of resetd's own queues; it must be the producer's".into());
        let readable = properties::readable(&delivery.properties)
            .and_then(|()| permitted::whole(&delivery.properties))
            .and_then(|()| if is_own { Err(own()) } else { Ok(()) });
        let retry_headers = again::retry_headers(&delivery.properties);
        let producer = trace::parent(&delivery.properties);
        let span = JobSpan::begin(&id, org, delivery.lane, producer.as_ref());
        Self {
            id,
            reply_to: reply_to.filter(|_| !is_own),
            trace: span.place().or(producer),
            span,
            lane: delivery.lane,
            held_until: delivery.came + hold,
            in_flight: Arc::new(in_flight),
            deliveries_before: deliveries_before(delivery),
            retry_headers,
            clock,
            readable,
            wishes,
        }
    }

    /// What the job asks for. One whose properties hold bytes that are not UTF-8, say that it has lost a value, or want the reply in a queue
    /// of ours, asks for nothing that could be trusted; its user is known where the body says so.
    pub(super) fn intent(&self, delivery: &Delivery, rules: &Rules) -> Result<Intent, Invalid> {
        let read = job::parse(&delivery.body, rules);
        let Err(refusal) = &self.readable else { return read };
        let user = match read {
            Ok(Intent::Reset(Reset { who: Who::Id(user), .. })) => Some(user),
            Ok(Intent::Reset(Reset { who: Who::Name(_), .. }) | Intent::PassThrough) => None,
            Err(invalid) => invalid.user,
        };
        Err(Invalid { reason: Reason::InvalidJob, detail: refusal.0.clone(), user })
    }

    /// Whether it runs alone: while it is in flight, no other job is.
    pub(super) fn runs_alone(&self) -> bool {
        self.deliveries_before >= SUSPECT
    }

    /// What the job is remembered by.
    pub(super) fn key(&self, delivery: &Delivery) -> Key {
        if let Some(state) = &self.retry_headers.resume_token {
            return Key::Again(self.id.clone(), state.clone());
        }
        let mut hasher = DefaultHasher::new();
        let reply_to = self.reply_to.as_ref().map(ShortString::as_str);
        let correlation = delivery.properties.correlation_id().as_ref().map(ShortString::as_str);
        (&delivery.body, reply_to, correlation).hash(&mut hasher);
        Key::Delivered(self.id.clone(), hasher.finish())
    }

    /// Whether the broker, or we ourselves, gave this job out before.
    pub(super) fn came_before(&self, delivery: &Delivery) -> bool {
        delivery.redelivered || self.retry_headers != RetryHeaders::default()
    }

    /// No try before this moment: its producer's wish, or the wait it was delayed for.
    pub(super) fn not_before(&self) -> Option<Timestamp> {
        self.wishes.as_ref().ok().and_then(|wishes| wishes.not_before).max(self.retry_headers.until)
    }

    /// Whether it may not be tried yet.
    pub(super) fn is_early(&self) -> bool {
        self.not_before().is_some_and(|moment| moment > Timestamp::now())
    }

    /// Whether it was returned so often that once more could bring it near the delivery limit.
    pub(super) fn is_often_returned(&self) -> bool {
        self.deliveries_before >= OFTEN
    }

    /// Whether it may be returned since its lane is closed, which counts as a delivery: often enough that each day's hours may end, and
    /// never so often that it must run alone.
    pub(super) fn may_be_returned(&self) -> bool {
        self.deliveries_before + 1 < SUSPECT
    }

    /// How often it was delivered before, to be carried along by a job that runs alone. It has just outlived a delivery, so that it
    /// gets no nearer to its limit by being returned and published again, however often.
    pub(super) fn carried_deliveries(&self) -> u64 {
        if self.runs_alone() { self.deliveries_before.min(OFTEN) } else { 0 }
    }

    /// The 20th delivery is spent on the dead letter, before anything else.
    pub(super) fn may_be_delivered(&self) -> Result<(), Interrupted> {
        if self.deliveries_before < LAST_DELIVERY {
            return Ok(());
        }
        let detail = format!(
            "delivered {} times without being settled; a job that ends its worker each time looks like this",
            self.deliveries_before + 1
        );
        Err(Interrupted::dead(Reason::DeliveryLimit, detail))
    }

    /// What its headers wish.
    pub(super) fn wishes(&self) -> Result<&Wishes, Interrupted> {
        self.wishes.as_ref().map_err(|refusal| Interrupted::dead(Reason::InvalidJob, refusal.0.clone()))
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
