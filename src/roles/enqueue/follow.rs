//! Following a batch in the stream of outcomes. The stream is read anew after a lost broker: what is known is a fold over it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use jiff::Timestamp;
use lapin::BasicProperties;
use uuid::Uuid;

use crate::amqp::link;
use crate::amqp::names::Names;
use crate::amqp::publisher::{Message, Publisher, Unpublished};
use crate::amqp::tail::{Start, Tail};
use crate::amqp::trouble::{Trouble, closing};
use crate::config::Config;
use crate::domain::batch::{Progress, Record};
use crate::domain::mailing::Unsent;
use crate::domain::outcome::OutcomeKind;
use crate::wire::batch::{About, about, is_mark, mark};
use crate::wire::mail;

/// The tag that the broker's own pages show.
const TAG: &str = "resetd-batch";
/// How often what is seen is shown, at least.
const LOOK: Duration = Duration::from_millis(250);
/// How long after a lost broker it is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Which batch, and from where on.
pub(super) struct Batch<'a> {
    pub(super) config: &'a Config,
    pub(super) org: &'a str,
    pub(super) name: &'a str,
    pub(super) since: Since,
}

/// From where on a batch is followed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Since {
    /// All that the stream holds, a week.
    Ever,
    /// The announcement of this moment: what was sent under the name before it counts for nothing.
    Announced(Timestamp),
}

impl Since {
    /// For the stream, by the broker's own clock; more than enough, since clocks differ.
    fn offset(self) -> String {
        match self {
            Since::Ever => "first".into(),
            Since::Announced(at) => {
                format!("{}m", Timestamp::now().duration_since(at).as_secs().max(0) / 60 + 60)
            }
        }
    }
}

/// What was seen of it.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) progress: Progress,
    /// Why each job was given up, by its id.
    pub(super) given_up: HashMap<String, (String, String)>,
    /// The jobs whose mail was given up, by their ids, and why.
    pub(super) unsent: HashMap<String, Option<Unsent>>,
    /// Whether the announcement that it is about has come.
    has_begun: bool,
    /// Whether everything was read that was written before.
    is_whole: bool,
}

impl Seen {
    fn note(&mut self, batch: &Batch<'_>, own: &str, body: &[u8], properties: &BasicProperties) {
        self.is_whole |= is_mark(body, properties, own);
        let Some(About { org, batch: name, record }) = about(body, properties) else { return };
        if org != batch.org || name != batch.name {
            return;
        }
        self.has_begun |= match (batch.since, &record) {
            (Since::Ever, _) => true,
            (Since::Announced(at), Record::Announced(announced)) => announced.at == at,
            (Since::Announced(_), Record::Ended(_) | Record::Mailed { .. }) => false,
        };
        if !self.has_begun {
            return;
        }
        if let Record::Ended(ended) = &record {
            match ended.kind {
                OutcomeKind::Failed | OutcomeKind::Expired => {
                    let text = |text: &Option<Cow<'_, str>>| text.as_deref().unwrap_or_default().to_owned();
                    let why = (text(&ended.reason), text(&ended.detail));
                    self.given_up.insert(ended.job.to_string(), why);
                }
                OutcomeKind::Succeeded
                | OutcomeKind::PassedThrough
                | OutcomeKind::Superseded
                | OutcomeKind::Duplicate => {
                    self.given_up.remove(&*ended.job);
                }
            }
        }
        if let Some(mailed) = mail::read(body).filter(|_| matches!(record, Record::Mailed { .. })) {
            // Whose newer password came in between has the mail of that one.
            if mailed.told || mailed.unsent == Some(Unsent::Superseded) {
                self.unsent.remove(&*mailed.job);
            } else {
                self.unsent.insert(mailed.job.into_owned(), mailed.unsent);
            }
        }
        self.progress.note(&record);
    }
}

/// Reads, and shows what is known each time that all was read that was there, until it is enough.
///
/// # Errors
/// Where the broker cannot be reached at the start, or there is no stream of outcomes.
pub(super) async fn follow(batch: &Batch<'_>, mut show: impl FnMut(&Seen) -> Result<ControlFlow<()>>) -> Result<()> {
    let mut is_first = true;
    loop {
        match read(batch, &mut is_first, &mut show).await {
            Ok(shown) => return shown,
            Err(Trouble::Again(why) | Trouble::Missing(why)) if !is_first => {
                tracing::warn!(reason = why, "the broker is lost; it is tried again");
            }
            Err(Trouble::Missing(why)) => {
                bail!("{why}; has a worker with this amqp.prefix declared it? Start `resetd worker` once")
            }
            Err(Trouble::Again(why) | Trouble::Mend(why) | Trouble::Misfit(why)) => bail!(why),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn read(
    batch: &Batch<'_>,
    is_first: &mut bool,
    show: &mut impl FnMut(&Seen) -> Result<ControlFlow<()>>,
) -> Result<Result<()>, Trouble> {
    let amqp = &batch.config.amqp;
    let stream = Names::new(&amqp.prefix, batch.org).ledger();
    let connection = Arc::new(link::connect(amqp, "resetd batch").await?);
    let mut tail = Tail::open(&connection, &stream, TAG, Start::Words(&batch.since.offset()), &|| {}).await?;
    let own = Uuid::new_v4().to_string();
    let publisher = Publisher::open(Arc::clone(&connection)).await?;
    let (body, properties) = mark(&own);
    let written = publisher.publish(&Message { exchange: "", key: &stream, body: &body, properties }).await;
    written.map_err(|unpublished| match unpublished {
        Unpublished::Lost(trouble) => trouble,
        Unpublished::Returned { .. } | Unpublished::Refused { .. } => {
            Trouble::Mend(format!("stream {stream} takes no record: {unpublished}"))
        }
    })?;
    *is_first = false;
    let mut seen = Seen::default();
    let shown = loop {
        for record in tail.next(LOOK).await? {
            seen.note(batch, &own, &record.data, &record.properties);
        }
        if !seen.is_whole {
            continue;
        }
        match show(&seen) {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    closing(connection.close(200, "done".into())).await;
    Ok(shown)
}
