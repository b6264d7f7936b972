//! Sending the jobs: a batch's announcement first, then each job, mandatory and confirmed, many at once on channels of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::file::Job;
use super::view::Bar;
use crate::amqp::error::closing;
use crate::amqp::link;
use crate::amqp::names::Names;
use crate::amqp::publisher::{Message, Publisher, Unpublished};
use crate::config::Config;
use crate::domain::batch::Announced;
use crate::domain::job::{Lane, Wishes};
use crate::wire::batch::{ANNOUNCEMENT_KEY, announcement};
use crate::wire::properties::wished;

/// Confirms that may be outstanding at once.
const IN_FLIGHT: usize = 64;

/// Where the jobs go, and what is said of all of them.
pub(super) struct Sending<'a> {
    pub(super) config: &'a Config,
    pub(super) org: &'a str,
    pub(super) lane: Lane,
    pub(super) wishes: &'a Wishes,
}

impl Sending<'_> {
    /// Sends them all.
    ///
    /// # Errors
    /// Where the broker did not take one; the text says how many it took.
    pub(super) async fn send(&self, jobs: &[Job], shutdown: &CancellationToken) -> Result<()> {
        let connection = Arc::new(link::connect(&self.config.amqp, "resetd enqueue").await?);
        let publisher = Publisher::open(Arc::clone(&connection)).await?;
        let bar = Bar::new(jobs.len() as u64);
        let sent = AtomicUsize::new(0);
        let sending = async {
            self.announce(&publisher, jobs.len()).await?;
            self.jobs(&publisher, jobs, || {
                sent.fetch_add(1, Ordering::Relaxed);
                bar.queued();
            })
            .await
        };
        let ended = tokio::select! {
            ended = sending => ended.map_err(|unpublished| unpublished.to_string()),
            () = shutdown.cancelled() => Err("interrupted".into()),
        };
        bar.end();
        closing(connection.close(200, "done".into())).await;
        ended.map_err(|why| {
            let again = match &self.wishes.batch {
                Some(batch) => {
                    format!("Send the same file again with --batch {batch:?}: nobody who was reset is reset twice")
                }
                None => "What was confirmed is queued: sending the whole file again resets those people twice (with --batch it does not)".into(),
            };
            anyhow::anyhow!(
                "{} of {} jobs were confirmed, then: {why}; has a worker with this org and this amqp.prefix declared the queues? Start `resetd worker` once. {again}",
                sent.load(Ordering::Relaxed),
                jobs.len()
            )
        })
    }

    /// How many jobs the batch has is known nowhere else.
    async fn announce(&self, publisher: &Publisher, jobs: usize) -> Result<(), Unpublished> {
        let (Some(batch), Some(at)) = (&self.wishes.batch, self.wishes.asked_at) else { return Ok(()) };
        let announced = Announced { lane: self.lane, jobs: jobs as u64, at, not_before: self.wishes.not_before };
        let (body, properties) = announcement(self.org, batch, &announced);
        let exchange = Names::new(&self.config.amqp.prefix, self.org).outcomes();
        let key = format!("{}.{ANNOUNCEMENT_KEY}", self.org);
        publisher.publish(&Message { exchange: &exchange, key: &key, body: &body, properties }).await
    }

    async fn jobs(&self, publisher: &Publisher, jobs: &[Job], confirmed: impl Fn()) -> Result<(), Unpublished> {
        let names = Names::new(&self.config.amqp.prefix, self.org);
        let (exchange, key) = (names.resets(), names.lane_key(self.lane));
        let each = stream::iter(jobs).map(Ok);
        each.try_for_each_concurrent(IN_FLIGHT, |job| {
            let (exchange, key, confirmed) = (exchange.as_str(), key.as_str(), &confirmed);
            async move {
                let id = job.id.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
                let properties = wished(&id, self.wishes);
                publisher.publish(&Message { exchange, key, body: job.body.as_bytes(), properties }).await?;
                confirmed();
                Ok(())
            }
        })
        .await
    }
}
