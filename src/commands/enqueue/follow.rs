//! Following a batch in the stream of outcomes, and whether anybody works its org. The stream is read anew after a lost broker: what is known is a fold over it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use jiff::Timestamp;
use lapin::{BasicProperties, Connection};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::amqp::election::is_led;
use crate::amqp::error::{BrokerError, closing};
use crate::amqp::link;
use crate::amqp::names::Names;
use crate::amqp::publisher::{Message, Publisher, Unpublished};
use crate::amqp::tail::{Start, Tail};
use crate::config::Config;
use crate::domain::batch::{Progress, Record, key};
use crate::domain::blocked::{Blocked, Cause, Status};
use crate::domain::ended::Ended;
use crate::domain::mailing::{Mailed, Unsent};
use crate::domain::outcome::OutcomeKind;
use crate::wire::batch::{About, is_mark, mark};
use crate::wire::ledger::{self, LedgerRecord};

/// The tag that the broker's own pages show.
const TAG: &str = "resetd-batch";
/// How often what is seen is shown, at least.
const LOOK: Duration = Duration::from_millis(250);
/// How often it looks whether a worker leads the org.
const LEADER: Duration = Duration::from_secs(2);
/// Where none does it is looked once more so soon: in between one worker may have taken over from another.
const ONCE_MORE: Duration = Duration::from_millis(500);
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
    /// How the newest record spells a job, by its key, where that is not the key.
    spelled: HashMap<String, String>,
    /// How the org's worker stands, as it said last.
    status: Option<Status>,
    /// Whether a worker has the org; `None` while that is not known.
    has_worker: Option<bool>,
    /// Whether the announcement that it is about has come.
    has_begun: bool,
    /// Whether everything was read that was written before.
    is_whole: bool,
}

impl Seen {
    fn note(&mut self, batch: &Batch<'_>, own: &str, body: &[u8], properties: &BasicProperties) {
        self.is_whole |= is_mark(body, properties, own);
        let Some(read) = ledger::read(body, properties) else { return };
        if let LedgerRecord::State { org, status } = &read {
            if org == batch.org {
                self.status = Some(status.clone());
            }
            return;
        }
        let Some(About { org, batch: name, record }) = read.of_batch() else { return };
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
        self.progress.note(&record);
        match &read {
            LedgerRecord::Ended(ended) => self.ended(ended),
            LedgerRecord::Mailed(mailed) => self.mailed(mailed),
            LedgerRecord::Batch(_)
            | LedgerRecord::Dropped { .. }
            | LedgerRecord::Leader(_)
            | LedgerRecord::State { .. } => {}
        }
    }

    /// Names a job as given up, or no longer, as it is counted.
    fn ended(&mut self, ended: &Ended<'_>) {
        let key = self.respelled(ended.batch.as_deref(), &ended.job);
        if !self.progress.is_mail_given_up(&key) {
            self.unsent.remove(&*ended.job);
        }
        if !self.progress.is_given_up(&key) {
            self.given_up.remove(&*ended.job);
        } else if matches!(ended.kind, OutcomeKind::Failed | OutcomeKind::Expired) {
            let text = |text: &Option<Cow<'_, str>>| text.as_deref().unwrap_or_default().to_owned();
            let why = (text(&ended.reason), text(&ended.detail));
            self.given_up.insert(ended.job.to_string(), why);
        }
    }

    /// Likewise a mail. Whose newer password came in between has the mail of that one.
    fn mailed(&mut self, mailed: &Mailed<'_>) {
        let key = self.respelled(mailed.batch.as_deref(), &mailed.job);
        if self.progress.is_mail_given_up(&key) {
            self.unsent.insert(mailed.job.to_string(), mailed.unsent);
        } else {
            self.unsent.remove(&*mailed.job);
        }
    }

    /// What a job is counted by; where a record before this one spelled it otherwise, it is named as this one does.
    fn respelled<'a>(&mut self, batch: Option<&str>, job: &'a str) -> Cow<'a, str> {
        let key = key(batch, job);
        let spelled = self.spelled.get(&*key).map_or(&*key, String::as_str);
        if spelled != job {
            let before = spelled.to_owned();
            if let Some(why) = self.given_up.remove(&before) {
                self.given_up.insert(job.to_owned(), why);
            }
            if let Some(why) = self.unsent.remove(&before) {
                self.unsent.insert(job.to_owned(), why);
            }
            if *key == *job {
                self.spelled.remove(&*key);
            } else {
                self.spelled.insert(key.to_string(), job.to_owned());
            }
        }
        key
    }

    /// The jobs that were given up, by their reason.
    pub(super) fn by_reason(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (job, (reason, _)) in &self.given_up {
            reasons.entry(reason).or_default().push(job);
        }
        reasons.values_mut().for_each(|jobs| jobs.sort_unstable());
        reasons
    }

    /// What its time left depends on.
    pub(super) fn outlook(&self, now: Timestamp) -> Outlook {
        let no_worker = || Blocked {
            cause: Cause::NoWorker,
            reason: "no worker has the org; start `resetd worker`".into(),
            until: None,
        };
        let is_left = self.has_worker == Some(false) && !self.progress.is_done();
        let blocked = if is_left { Some(no_worker()) } else { self.progress.blocked(self.status.as_ref(), now) };
        Outlook { blocked, in_force: self.status.as_ref().map(|status| status.rate) }
    }
}

/// What the time left of a batch depends on, beside its own outcomes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outlook {
    /// What keeps its jobs from ending.
    pub(super) blocked: Option<Blocked>,
    /// The rate in force, in calls a minute.
    pub(super) in_force: Option<u32>,
}

impl Outlook {
    /// How long it will take, where nothing keeps it.
    pub(super) fn time_left(&self, progress: &Progress, now: Timestamp) -> Option<Duration> {
        if self.blocked.is_some() { None } else { progress.time_left(now, self.in_force) }
    }
}

/// Looks whether a worker has the org, until the guard is dropped.
fn look_for_a_worker(
    connection: Arc<Connection>,
    publisher: Arc<Publisher>,
    names: Names,
) -> (watch::Receiver<Option<bool>>, DropGuard) {
    let (known, said) = watch::channel(None);
    let over = CancellationToken::new();
    let looking = async move {
        loop {
            // Under a resource alarm of the broker this waits for its end, and the batch is shown all the same.
            let mut led = is_led(&connection, &publisher, &names).await;
            if led == Ok(false) {
                tokio::time::sleep(ONCE_MORE).await;
                led = is_led(&connection, &publisher, &names).await;
            }
            // Where it cannot be looked at, nothing is said of it.
            known.send_replace(led.ok());
            tokio::time::sleep(LEADER).await;
        }
    };
    tokio::spawn(over.clone().run_until_cancelled_owned(looking));
    (said, over.drop_guard())
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
            Err(BrokerError::Retry(why) | BrokerError::Missing(why)) if !is_first => {
                tracing::warn!(reason = why, "the broker is lost; it is tried again");
            }
            Err(BrokerError::Missing(why)) => {
                bail!("{why}; has a worker with this amqp.prefix declared it? Start `resetd worker` once")
            }
            Err(BrokerError::Retry(why) | BrokerError::NeedsOperator(why) | BrokerError::Misfit(why)) => bail!(why),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn read(
    batch: &Batch<'_>,
    is_first: &mut bool,
    show: &mut impl FnMut(&Seen) -> Result<ControlFlow<()>>,
) -> Result<Result<()>, BrokerError> {
    let amqp = &batch.config.amqp;
    let stream = Names::new(&amqp.prefix, batch.org).ledger();
    let connection = Arc::new(link::connect(amqp, "resetd batch").await?);
    let mut tail = Tail::open(&connection, &stream, TAG, Start::Words(&batch.since.offset()), &|| {}).await?;
    let own = Uuid::new_v4().to_string();
    let publisher = Arc::new(Publisher::open(Arc::clone(&connection)).await?);
    let (body, properties) = mark(&own);
    let written = publisher.publish(&Message { exchange: "", key: &stream, body: &body, properties }).await;
    written.map_err(|unpublished| match unpublished {
        Unpublished::Lost(trouble) => trouble,
        Unpublished::Returned { .. } | Unpublished::Refused { .. } => {
            BrokerError::NeedsOperator(format!("stream {stream} takes no record: {unpublished}"))
        }
    })?;
    *is_first = false;
    let names = Names::new(&amqp.prefix, batch.org);
    let (mut has_worker, _looking) = look_for_a_worker(Arc::clone(&connection), Arc::clone(&publisher), names);
    let mut seen = Seen::default();
    let shown = loop {
        for record in tail.next(LOOK).await? {
            seen.note(batch, &own, &record.data, &record.properties);
        }
        if !seen.is_whole {
            continue;
        }
        if seen.has_worker.is_none() {
            let _ = tokio::time::timeout(LEADER, has_worker.wait_for(Option::is_some)).await;
        }
        seen.has_worker = *has_worker.borrow();
        match show(&seen) {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    closing(connection.close(200, "done".into())).await;
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;
    use serde_json::{Value, json};

    /// What is seen of batch `b` after these records, each a `type` and a body; all there is is read.
    fn seen(records: &[(&str, Value)]) -> Seen {
        let config = Config::load(&[], Environment::default()).unwrap();
        let batch = Batch { config: &config, org: "main", name: "b", since: Since::Ever };
        let mut seen = Seen::default();
        for (kind, body) in records {
            let properties = BasicProperties::default().with_type((*kind).into());
            seen.note(&batch, "own", body.to_string().as_bytes(), &properties);
        }
        seen
    }

    fn announced(jobs: u64) -> (&'static str, Value) {
        let at = "2027-01-15T08:00:00Z";
        ("batch", json!({"batch": "b", "org": "main", "lane": "bulk", "jobs": jobs, "enqueuedAt": at}))
    }

    fn ended(user: &str, outcome: &str) -> (&'static str, Value) {
        let (job, at) = (format!("b/{user}"), "2027-01-15T08:00:01Z");
        let reason = (outcome == "failed").then_some("not_found");
        let body = json!({"jobId": job, "org": "main", "lane": "bulk", "userId": user, "batch": "b", "outcome": outcome,
            "success": outcome == "succeeded", "reason": reason, "finishedAt": at});
        ("outcome", body)
    }

    fn mailed(user: &str, outcome: &str) -> (&'static str, Value) {
        ("mail", json!({"jobId": format!("b/{user}"), "org": "main", "batch": "b", "outcome": outcome}))
    }

    /// Total, succeeded and failed, who is named as failed; then mails sent and failed, and whose mail is named as failed.
    fn check(records: &[(&str, Value)], jobs: (u64, u64, u64, &[&str]), mails: (u64, u64, &[&str])) {
        let seen = seen(records);
        let counts = seen.progress.counts();
        let named: Vec<&str> = seen.by_reason().into_values().flatten().collect();
        let said = (seen.progress.total().unwrap(), counts.succeeded, counts.failed, &*named);
        assert_eq!(said, jobs, "{records:?}");
        let named: Vec<&str> = seen.unsent.keys().map(String::as_str).collect();
        assert_eq!((counts.notified, counts.notification_failed, &*named), mails, "{records:?}");
    }

    #[test]
    fn who_is_named_as_failed_is_counted_as_failed() {
        let (ok, no) = (ended("u", "succeeded"), ended("u", "failed"));
        let nobody = (0, 0, &[][..]);
        check(&[announced(1), no.clone()], (1, 0, 1, &["b/u"]), nobody);
        check(&[announced(1), no.clone(), ok.clone()], (1, 1, 0, &[]), nobody);
        // Replayed twice, or too late: the password of the first stays set.
        check(&[announced(1), ok.clone(), no.clone()], (1, 1, 0, &[]), nobody);
        // Sent again a day later, when nobody knows any more that it was done: the newest call says how it is.
        let again = [announced(1), ok.clone(), announced(1), no];
        check(&again, (1, 0, 1, &["b/u"]), nobody);
        check(&[&again[..], &[ended("u", "duplicate")]].concat(), (1, 0, 0, &[]), nobody);
        check(&[&again[..], std::slice::from_ref(&ok)].concat(), (1, 1, 0, &[]), nobody);
        check(&[announced(1), ok.clone(), announced(1), ended("u", "duplicate")], (1, 1, 0, &[]), nobody);
        check(&[announced(1), ok, announced(1), ended("u", "expired")], (1, 1, 0, &[]), nobody);
    }

    #[test]
    fn whose_mail_is_named_as_failed_is_counted_so() {
        let (ok, no) = (ended("u", "succeeded"), ended("u", "failed"));
        let (sent, unsent) = (mailed("u", "notified"), mailed("u", "notification_failed"));
        check(&[announced(1), ok.clone(), unsent.clone()], (1, 1, 0, &[]), (0, 1, &["b/u"]));
        check(&[announced(1), ok.clone(), sent.clone(), unsent.clone()], (1, 1, 0, &[]), (1, 0, &[]));
        check(&[announced(1), ok.clone(), unsent.clone(), sent.clone()], (1, 1, 0, &[]), (1, 0, &[]));
        // The mail was about a password from before.
        for mail in [sent, unsent] {
            check(&[announced(1), ok.clone(), mail, announced(1), no.clone()], (1, 0, 1, &["b/u"]), (0, 0, &[]));
        }
    }

    #[test]
    fn a_user_who_is_spelled_in_another_case_by_a_later_run_is_the_same_one() {
        let none = (0, 0, &[][..]);
        let twice = [announced(1), ended("Abc", "succeeded"), announced(1), ended("abc", "succeeded")];
        check(&twice, (1, 1, 0, &[]), none);
        assert!(seen(&twice).progress.is_done() && !seen(&twice[..3]).progress.is_done());
        let failed = [announced(1), ended("Abc", "failed"), announced(1)];
        check(&[&failed[..], &[ended("abc", "succeeded")]].concat(), (1, 1, 0, &[]), none);
        check(&[&failed[..], &[ended("abc", "failed")]].concat(), (1, 0, 1, &["b/abc"]), none);
        let mails = [announced(1), ended("Abc", "succeeded"), mailed("Abc", "notification_failed")];
        check(&[&mails[..], &[mailed("abc", "notified")]].concat(), (1, 1, 0, &[]), (1, 0, &[]));
        check(&[&mails[..], &[mailed("abc", "notification_failed")]].concat(), (1, 1, 0, &[]), (0, 1, &["b/abc"]));
        // Who gives jobs ids of their own means what they say.
        let mut own = [announced(2), ended("Abc", "succeeded"), ended("abc", "succeeded")];
        (own[1].1["jobId"], own[2].1["jobId"]) = (json!("J-1"), json!("j-1"));
        check(&own, (2, 2, 0, &[]), none);
    }
}
