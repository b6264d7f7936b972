//! What must be true at the end: the invariants, each with its count and what is wrong with it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use jiff::Timestamp;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;

use resetd::commands::demo::postbox::ReceivedMail;
use resetd::wire;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout};

use super::faults::Diary;
use super::mails::Mails;
use super::plan::{JOB_SECRET, Job, Kind, Setup};
use super::{CLIENT_SECRET, JOBS, MAX_ATTEMPTS, REQUEST_TIMEOUT};
use crate::operator::ops::{disguises, message};
use crate::world::{Taken, World, connect, eventually, text};

/// How long everything may take to settle once all is healed: a breaker may have to be waited for.
const SETTLES_WITHIN: Duration = Duration::from_secs(300);
/// How long the jobs that are published once more in the calm may take.
const CALM: Duration = Duration::from_secs(30);
/// How long after a fault of the org a job's tries may be used up because of it.
const EXHAUSTED: Duration = Duration::from_secs(30);
/// How much later than another worker's fence the one before may have set a password: `docs/adr/0006`.
const LAST_DEEDS: Duration = Duration::from_secs(3);
/// Calls that may come by an old token after the first by a new one, within one worker.
const OVERTAKEN: u64 = 2;
/// What a worker's log says of the guard.
const CLOSED: &str = "the bulk lane is closed";
const OPEN: &str = "the bulk lane is open again";
const WAITING: [&str; 5] =
    ["resets.main", "resets.main.bulk", "resets.main.parked.15s", "resets.main.parked.2m", "resets.main.parked.10m"];
/// The same for mails.
const MAILS: [&str; 4] = ["emails", "emails.parked.15s", "emails.parked.2m", "emails.parked.10m"];

/// The stream of outcomes, from its beginning on.
pub struct Records {
    consumer: lapin::Consumer,
    _connection: lapin::Connection,
    taken: Vec<Taken>,
}

impl Records {
    pub async fn open(world: &World) -> Self {
        let (connection, consumer) = eventually("the stream has a leader", async || {
            let connection = connect(&world.amqp_url).await;
            let channel = connection.create_channel().await.ok()?;
            channel.basic_qos(1000, BasicQosOptions::default()).await.ok()?;
            let mut first = FieldTable::default();
            first.insert("x-stream-offset".into(), text("first"));
            let (stream, options) = (world.named("resets.outcomes"), BasicConsumeOptions::default());
            let consumer = channel.basic_consume(stream.as_str().into(), "".into(), options, first).await.ok()?;
            Some((connection, consumer))
        })
        .await;
        Self { consumer, _connection: connection, taken: Vec::new() }
    }

    /// Reads until nothing has come for a second, or until then.
    async fn read(&mut self, deadline: Instant) {
        while Instant::now() < deadline
            && let Ok(next) = timeout(Duration::from_secs(1), self.consumer.next()).await
        {
            let delivery = next.expect("the stream's consumer lives").unwrap();
            delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
            self.taken.push(Taken {
                body: delivery.data,
                properties: delivery.properties,
                routing_key: delivery.routing_key.to_string(),
            });
        }
    }

    fn outcomes(&self) -> impl Iterator<Item = &Taken> {
        self.taken.iter().filter(|record| is_of(record, "outcome"))
    }

    /// Waits until each of these notifications has an end. What is wrong where that does not come.
    pub async fn told(&mut self, notes: &[Taken]) -> Option<String> {
        let deadline = Instant::now() + SETTLES_WITHIN;
        loop {
            self.read(deadline).await;
            let mails = self.taken.iter().filter(|record| is_of(record, "mail"));
            let ended: BTreeSet<String> = mails.map(|mail| field(&mail.json(), "notificationId")).collect();
            let notes = notes.iter().map(|note| field(&note.json(), "notificationId"));
            let missing: Vec<String> = notes.filter(|id| !ended.contains(id)).collect();
            if missing.is_empty() {
                return None;
            }
            if Instant::now() >= deadline {
                return Some(format!("{} mails have no end: {}", missing.len(), some(&missing)));
            }
        }
    }

    /// Waits until every job has an outcome and nothing waits in a queue. What is wrong where that does not come.
    pub async fn settle(&mut self, world: &World, jobs: &[Job]) -> Vec<String> {
        let deadline = Instant::now() + SETTLES_WITHIN;
        loop {
            self.read(deadline).await;
            let done: BTreeSet<String> = self.outcomes().map(|record| field(&record.json(), "jobId")).collect();
            let missing: Vec<&str> = jobs.iter().map(|job| job.id.as_str()).filter(|id| !done.contains(*id)).collect();
            let waiting = waiting(world, &WAITING).await;
            let mut wrong = Vec::new();
            if !missing.is_empty() {
                wrong.push(format!("{} jobs have no outcome: {}", missing.len(), some(&missing)));
            }
            if !waiting.is_empty() {
                wrong.push(format!("still waiting: {}", waiting.join(", ")));
            }
            if wrong.is_empty() || Instant::now() >= deadline {
                return wrong;
            }
        }
    }
}

/// Publishes a hundred of the jobs that succeeded once more, now that nothing breaks: each is a duplicate and calls nobody.
pub async fn published_again(world: &World, records: &mut Records, jobs: &[Job], began: Timestamp) -> Option<String> {
    let ended = |records: &Records, how: &str| -> Vec<String> {
        let all = records.outcomes().map(Taken::json).filter(|outcome| outcome["outcome"] == how);
        all.map(|outcome| field(&outcome, "jobId")).collect()
    };
    let succeeded = ended(records, "succeeded");
    let again: Vec<&Job> = jobs.iter().filter(|job| succeeded.contains(&job.id)).take(100).collect();
    let (before, calls) = (ended(records, "duplicate").len(), world.main().stats().calls);
    let channel = world.channel().await;
    for job in &again {
        let (body, properties) = job.message(began);
        world.publish_on(&channel, job.key, &body, properties).await;
    }
    let deadline = Instant::now() + CALM;
    let duplicates = loop {
        records.read(deadline).await;
        let duplicates = ended(records, "duplicate").len() - before;
        if duplicates >= again.len() || Instant::now() >= deadline {
            break duplicates;
        }
    };
    let calls = world.main().stats().calls - calls;
    let wrong = || {
        format!(
            "of {} jobs published again in the calm {duplicates} were duplicates, and {calls} calls were made",
            again.len()
        )
    };
    (duplicates != again.len() || calls > 0).then(wrong)
}

/// The queues where jobs still wait, with how many. One that does not exist has none.
async fn waiting(world: &World, queues: &[&str]) -> Vec<String> {
    let mut waiting = Vec::new();
    for queue in queues {
        let depth = world.counts(queue).await.map_or(0, |(ready, _)| ready);
        if depth > 0 {
            waiting.push(format!("{depth} in {queue}"));
        }
    }
    waiting
}

fn is_of(record: &Taken, kind: &str) -> bool {
    record.properties.kind().as_ref().is_some_and(|own| own.as_str() == kind)
}

fn field(record: &Value, name: &str) -> String {
    record[name].as_str().unwrap_or_default().to_owned()
}

fn moment(record: &Value, name: &str) -> Timestamp {
    field(record, name).parse().unwrap_or_else(|error| panic!("{name} of {record}: {error}"))
}

/// The first few.
fn some<T: AsRef<str>>(all: &[T]) -> String {
    let mut few: Vec<&str> = all.iter().take(10).map(AsRef::as_ref).collect();
    if all.len() > few.len() {
        few.push("…");
    }
    few.join(", ")
}

/// Everything that was left behind.
pub struct Check<'a> {
    org: &'a sim::Org,
    jobs: BTreeMap<&'a str, &'a Job>,
    /// The ids of the jobs that were published more than once.
    again: BTreeSet<String>,
    /// How many messages there ever were of each job.
    messages: BTreeMap<String, usize>,
    diary: &'a Diary,
    records: Vec<Taken>,
    /// By the job's id, in their order.
    outcomes: BTreeMap<String, Vec<Value>>,
    mails: Vec<Value>,
    letters: Vec<Taken>,
    /// What lies in the lanes after all workers have ended.
    returned: Vec<String>,
    logs: Vec<String>,
    /// What the mail server took, in its order.
    took: Vec<ReceivedMail>,
    dead_mails: Vec<Taken>,
}

impl<'a> Check<'a> {
    pub async fn gather(
        world: &'a World,
        jobs: &'a [Job],
        again: BTreeSet<String>,
        mut records: Records,
        diary: &'a Diary,
        logs: Vec<String>,
        (mails, took): (Vec<Value>, Vec<ReceivedMail>),
    ) -> Self {
        records.read(Instant::now() + SETTLES_WITHIN).await;
        let mut outcomes: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for outcome in records.outcomes().map(Taken::json) {
            outcomes.entry(field(&outcome, "jobId")).or_default().push(outcome);
        }
        let mut messages = BTreeMap::new();
        for message in world.drained(JOBS).await {
            let id = wire::properties::job_id(&message.body, &message.properties);
            *messages.entry(id.as_str().to_owned()).or_default() += 1;
        }
        Self {
            org: world.main(),
            messages,
            jobs: jobs.iter().map(|job| (job.id.as_str(), job)).collect(),
            again,
            diary,
            records: records.taken,
            outcomes,
            mails,
            letters: world.drained("resets.main.dead").await,
            returned: [waiting(world, &WAITING).await, waiting(world, &MAILS).await].concat(),
            logs,
            took,
            dead_mails: world.drained("emails.dead").await,
        }
    }

    fn post(&self) -> Mails<'_> {
        let records: Vec<&Taken> = self.records.iter().filter(|record| is_of(record, "mail")).collect();
        Mails::new(&self.mails, &records, &self.took, &self.dead_mails, self.diary.refusals())
    }

    /// All that is wrong, after a table of what was counted.
    pub fn all(&self, setup: &Setup) -> Vec<String> {
        let rate = setup.rate_per_minute();
        self.print(rate);
        let mut wrong = Vec::new();
        for (id, outcomes) in &self.outcomes {
            match self.jobs.get(id.as_str()) {
                Some(job) => wrong.extend(self.outcome_fits(job, outcomes)),
                None => wrong.push(format!("an outcome of a job that was never published: {id}")),
            }
        }
        if !self.returned.is_empty() {
            wrong.push(format!("after the workers' end there is {}", self.returned.join(", ")));
        }
        wrong.extend(self.done_again().1);
        wrong.extend(self.reset_again().1);
        wrong.extend(self.too_many_exhausted());
        wrong.extend(self.letters_fit());
        wrong.extend(self.mails_fit());
        wrong.extend(self.post().wrong(&self.newest()));
        let peak = self.org.stats().peak_per_minute;
        if peak > rate {
            wrong.push(format!("{peak} calls in 60 s, where {rate} are configured"));
        }
        let interleaved = self.org.stats().interleaved;
        if interleaved > OVERTAKEN {
            wrong.push(format!("two workers called at once: {interleaved} calls came between those of another token"));
        }
        for (n, log) in self.logs.iter().enumerate() {
            if let Some(line) = log.lines().find(|line| line.contains("panic in the worker's own code")) {
                wrong.push(format!("worker {n} panicked: {line}"));
            }
        }
        if self.said(CLOSED) == 0 || self.said(OPEN) == 0 {
            wrong.push("the guard did not close the bulk lane and open it again".to_owned());
        }
        wrong.extend(self.never_came(setup));
        wrong.extend(self.secrets());
        wrong
    }

    /// What a run of this size has for sure: else it has shown nothing of it.
    fn never_came(&self, setup: &Setup) -> Vec<String> {
        const SURE: usize = 2000;
        let jobs = |is: fn(&Job) -> bool| self.jobs.values().filter(|job| is(job)).count();
        let came = [
            ("a halt by a wrong gateway", self.said("foreign_answer: ")),
            ("a mail server that refuses everybody", self.diary.refusals()),
            ("a job by userName", jobs(|job| job.by_name)),
            ("a job that is not UTF-8", jobs(|job| job.kind == Kind::NotUtf8)),
        ];
        let never = came.into_iter().filter(|(_, times)| setup.jobs >= SURE && *times == 0);
        never.map(|(what, _)| format!("there was never {what}")).collect()
    }

    /// Each of a job's outcomes is one that such a job can have.
    fn outcome_fits(&self, job: &Job, outcomes: &[Value]) -> Option<String> {
        let fits = |outcome: &Value| {
            let (kind, reason) = (field(outcome, "outcome"), field(outcome, "reason"));
            let exhausted = kind == "failed" && reason == "retries_exhausted" && self.exhaustion_is_explained(outcome);
            match job.kind {
                Kind::Plain | Kind::Twice | Kind::Newer | Kind::Soon => {
                    ["succeeded", "duplicate"].contains(&kind.as_str()) || exhausted
                }
                Kind::Older => {
                    ["succeeded", "duplicate"].contains(&kind.as_str())
                        || (kind == "superseded" && self.newer_succeeded(job))
                        || exhausted
                }
                Kind::UnknownUser => (kind == "failed" && reason == "not_found") || exhausted,
                Kind::Invalid | Kind::NotUtf8 | Kind::NoAddress | Kind::NotAllowed => {
                    kind == "failed" && Some(reason.as_str()) == job.kind.dead()
                }
                Kind::Late => kind == "expired",
                Kind::NoIntent => ["passed_through", "duplicate"].contains(&kind.as_str()),
            }
        };
        let odd = outcomes.iter().find(|outcome| !fits(outcome))?;
        Some(format!("{} ({:?}) ended as no such job may: {odd}", job.id, job.kind))
    }

    fn newer_succeeded(&self, older: &Job) -> bool {
        let newer = self.jobs.values().find(|job| job.kind == Kind::Newer && job.user == older.user);
        newer.is_some_and(|newer| self.succeeded(&newer.id))
    }

    fn succeeded(&self, id: &str) -> bool {
        self.outcomes.get(id).into_iter().flatten().any(|outcome| outcome["outcome"] == "succeeded")
    }

    fn exhaustion_is_explained(&self, outcome: &Value) -> bool {
        outcome["attempts"].as_u64().is_some_and(|attempts| attempts >= MAX_ATTEMPTS)
            && self.diary.org_failed(moment(outcome, "finishedAt"), EXHAUSTED)
    }

    fn exhausted(&self) -> usize {
        self.letters
            .iter()
            .filter(|letter| letter.header("resetd-reason").as_deref() == Some("retries_exhausted"))
            .count()
    }

    /// Faults of the org last for seconds: few jobs meet one with all their tries.
    fn too_many_exhausted(&self) -> Option<String> {
        let (exhausted, most) = (self.exhausted(), 5 + self.jobs.len() / 50);
        (exhausted > most)
            .then(|| format!("{exhausted} jobs used up their tries, where {most} at most are to be expected"))
    }

    /// How many jobs have more than one outcome beside their duplicates, and what is wrong: that a job has none, that one
    /// succeeded more than once (the ledger knows it), or that one ended more often than there were messages of it, though the session went
    /// on (each begins with a fence). A worker that publishes a job again and cannot ack it any more leaves two of it.
    fn done_again(&self) -> (usize, Vec<String>) {
        let mut fences: Vec<Timestamp> = self.fences().iter().map(|fence| moment(fence, "at")).collect();
        fences.sort();
        let mut done: BTreeMap<&str, Vec<(usize, String)>> = BTreeMap::new();
        for (id, outcomes) in &self.outcomes {
            let ends = done.entry(id).or_default();
            for outcome in outcomes.iter().filter(|outcome| outcome["outcome"] != "duplicate") {
                // By its own clock: a broker may take an outcome late, after the fence of the session that follows.
                let finished = moment(outcome, "finishedAt");
                ends.push((fences.partition_point(|at| *at <= finished), field(outcome, "outcome")));
            }
        }
        let (mut more, mut wrong) = (0, Vec::new());
        for (id, ends) in done {
            more += usize::from(ends.len() > 1);
            let for_good =
                ends.iter().filter(|(_, end)| ["succeeded", "passed_through"].contains(&end.as_str())).count();
            let messages = self.messages.get(id).copied().unwrap_or(1);
            let is_odd = |session: &[(usize, String)]| session.len() > messages;
            let at_once = !self.again.contains(id) && ends.chunk_by(|one, next| one.0 == next.0).any(is_odd);
            if ends.is_empty() || for_good > 1 || at_once {
                wrong.push(format!(
                    "{id} has these ends, by session, beside its duplicates: {ends:?}; there were {messages} messages of it"
                ));
            }
        }
        (more, wrong)
    }

    /// The fences, in their order in the stream.
    fn fences(&self) -> Vec<Value> {
        self.records.iter().filter(|record| is_of(record, "fence")).map(Taken::json).collect()
    }

    /// When the lease changed hands: the fences that another worker had written than the one before.
    fn changes_of_hands(&self) -> Vec<Timestamp> {
        let fences = self.fences();
        let changes = fences.windows(2).filter(|two| two[0]["worker"] != two[1]["worker"]);
        changes.map(|two| moment(&two[1], "at")).collect()
    }

    /// How many jobs had their password set anew, under another notification, since the worker that had set it could tell nobody
    /// before another took over; and those for which none did.
    fn reset_again(&self) -> (usize, Vec<String>) {
        let changes = self.changes_of_hands();
        let mut issued: BTreeMap<String, BTreeMap<Timestamp, String>> = BTreeMap::new();
        for mail in &self.mails {
            issued
                .entry(field(mail, "jobId"))
                .or_default()
                .insert(moment(mail, "issuedAt"), field(mail, "notificationId"));
        }
        let (mut more, mut wrong) = (0, Vec::new());
        for (id, issued) in issued.iter().filter(|(_, issued)| issued.len() > 1) {
            more += 1;
            let moments: Vec<&Timestamp> = issued.keys().collect();
            let explained = |from: Timestamp, to| changes.iter().any(|at| from <= *at && *at <= to);
            if !moments.windows(2).all(|two| explained(*two[0] - (REQUEST_TIMEOUT + LAST_DEEDS), *two[1])) {
                wrong.push(format!("{id} was reset again though no other worker had taken over: {issued:?}"));
            }
        }
        (more, wrong)
    }

    /// The bad jobs are dead letters with their reasons, and no others but those whose tries were used up.
    fn letters_fit(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut found = BTreeSet::new();
        for letter in &self.letters {
            let reason = letter.header("resetd-reason");
            // One whose `message_id` was not UTF-8 has none.
            let id = wire::letter::DeadLetter::read(&letter.body, &letter.properties).job.as_str().to_owned();
            let kind = self.jobs.get(id.as_str()).map(|job| job.kind);
            let expected = kind.and_then(Kind::dead);
            let exhausted = reason.as_deref() == Some("retries_exhausted");
            let is_odd = match kind {
                Some(Kind::Invalid | Kind::NotUtf8 | Kind::NoAddress | Kind::NotAllowed | Kind::Late) => {
                    reason.as_deref() != expected
                }
                Some(Kind::UnknownUser) => reason.as_deref() != expected && !exhausted,
                Some(_) => !exhausted,
                None => true,
            };
            if is_odd {
                wrong.push(format!("dead letter {id} ({kind:?}) with the reason {reason:?}"));
            }
            found.insert(id);
        }
        let dead = |outcome: &Value| ["failed", "expired"].contains(&field(outcome, "outcome").as_str());
        let owed = self.outcomes.iter().filter(|(_, outcomes)| outcomes.iter().any(dead)).map(|(id, _)| id.as_str());
        let missing: Vec<&str> = owed.filter(|id| !found.contains(*id)).collect();
        if !missing.is_empty() {
            wrong.push(format!("{} jobs failed and are no dead letters: {}", missing.len(), some(&missing)));
        }
        wrong
    }

    /// The newest mail of everybody, by when it was issued.
    fn newest(&self) -> BTreeMap<String, &Value> {
        let mut newest: BTreeMap<String, &Value> = BTreeMap::new();
        for mail in &self.mails {
            let kept = newest.entry(field(mail, "userId")).or_insert(mail);
            if moment(mail, "issuedAt") >= moment(kept, "issuedAt") {
                *kept = mail;
            }
        }
        newest
    }

    /// Whoever was reset has a mail, the newest of each logs in, and of two resets the one asked for last is the newest.
    fn mails_fit(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let newest = self.newest();
        let locked: Vec<&str> = newest
            .iter()
            .filter(|(user, mail)| !self.org.logs_in(user, mail["temporaryPassword"].as_str().unwrap()))
            .filter(|(user, mail)| !self.was_set_unknown_after(user, moment(mail, "issuedAt")))
            .map(|(user, _)| user.as_str())
            .collect();
        if !locked.is_empty() {
            wrong.push(format!("the newest mail of {} users does not log in: {}", locked.len(), some(&locked)));
        }
        let told: BTreeSet<String> = self.mails.iter().map(|mail| field(mail, "jobId")).collect();
        let not_notified: Vec<&str> =
            self.jobs.keys().copied().filter(|id| self.succeeded(id) && !told.contains(*id)).collect();
        if !not_notified.is_empty() {
            wrong.push(format!("{} jobs succeeded and sent no mail: {}", not_notified.len(), some(&not_notified)));
        }
        let older_won = |job: &&&Job| {
            job.kind == Kind::Newer
                && self.succeeded(&job.id)
                && newest.get(&job.user).is_none_or(|mail| mail["jobId"] != job.id.as_str())
        };
        let older: Vec<&str> = self.jobs.values().filter(older_won).map(|job| job.id.as_str()).collect();
        if !older.is_empty() {
            wrong.push(format!("{} users have the password of the older of two resets: {}", older.len(), some(&older)));
        }
        wrong
    }

    /// A job that used up its tries and may have set a password nobody was told: its dead letter says so.
    fn was_set_unknown_after(&self, user: &str, moment_of_mail: Timestamp) -> bool {
        let of_user = self.outcomes.values().flatten().filter(|outcome| outcome["userId"] == user);
        of_user
            .filter(|outcome| outcome["outcome"] == "failed" && outcome["passwordSet"] == "unknown")
            .any(|outcome| moment(outcome, "finishedAt") >= moment_of_mail)
    }

    fn secrets(&self) -> Vec<String> {
        let mut secrets = Vec::new();
        for text in [CLIENT_SECRET, &format!("demo:{CLIENT_SECRET}"), JOB_SECRET, "Your temporary password"] {
            secrets.extend(disguises(text));
        }
        for mail in &self.mails {
            let password = field(mail, "temporaryPassword");
            secrets.extend(disguises(&password));
            secrets.extend(disguises(&hex::encode(Sha256::digest(&password))));
        }
        let scan = Scan::new(&secrets);
        let mut written: Vec<(String, String)> =
            self.logs.iter().enumerate().map(|(n, log)| (format!("the log of worker {n}"), log.clone())).collect();
        written.extend(self.records.iter().map(|taken| (format!("a record of {}", taken.id()), message(taken))));
        written.extend(self.letters.iter().map(|taken| (format!("the dead letter {}", taken.id()), message(taken))));
        written.extend(self.dead_mails.iter().map(|taken| (format!("the dead mail {}", taken.id()), message(taken))));
        // A token is known to the org alone: what stands before one is looked for.
        let token =
            |text: &str| ["Bearer ", "bearer ", "Basic ", "basic "].into_iter().find(|word| text.contains(word));
        let found = written.iter().filter_map(|(place, text)| {
            let secret = scan.finds(text).or_else(|| token(text).map(str::to_owned))?;
            Some(format!("{secret:?} is in {place}"))
        });
        found.take(10).collect()
    }

    /// How many lines of the logs say this.
    fn said(&self, what: &str) -> usize {
        self.logs.iter().flat_map(|log| log.lines()).filter(|line| line.contains(what)).count()
    }

    fn print(&self, rate: u64) {
        let count = |kind: &str| {
            let all = self.outcomes.values().flatten();
            all.filter(|outcome| outcome["outcome"] == kind).count().to_string()
        };
        let stats = self.org.stats();
        let set_again = |job: &&&Job| self.org.user(&job.user).is_some_and(|user| user.password_sets > 1);
        let of_one = self.jobs.values().filter(|job| !matches!(job.kind, Kind::Older | Kind::Newer));
        let mut faults: BTreeMap<String, usize> = BTreeMap::new();
        for entry in self.diary.entries.lock().unwrap().iter() {
            let what = entry.what.split(" for ").next().unwrap_or_default();
            let what = what.trim_matches(|c: char| !c.is_alphabetic()).replace(char::is_numeric, "");
            *faults.entry(what).or_default() += 1;
        }
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        for (what, n) in [
            ("jobs", self.jobs.len().to_string()),
            ("of them by userName", self.jobs.values().filter(|job| job.by_name).count().to_string()),
            ("of them not UTF-8", self.jobs.values().filter(|job| job.kind == Kind::NotUtf8).count().to_string()),
            ("published more than once", self.again.len().to_string()),
            ("faults", faults.values().sum::<usize>().to_string()),
            ("succeeded", count("succeeded")),
            ("failed", count("failed")),
            ("passed through", count("passed_through")),
            ("superseded", count("superseded")),
            ("expired", count("expired")),
            ("duplicate", count("duplicate")),
            ("the lease changed hands", self.changes_of_hands().len().to_string()),
            ("jobs with more than one end", self.done_again().0.to_string()),
            ("jobs reset again after a takeover, and told twice", self.reset_again().0.to_string()),
            ("users of one job set more than once", of_one.filter(set_again).count().to_string()),
            ("mails", self.mails.len().to_string()),
            ("users told", self.newest().len().to_string()),
            ("dead letters", self.letters.len().to_string()),
            ("of them retries_exhausted", self.exhausted().to_string()),
            ("calls", stats.calls.to_string()),
            ("searches", stats.reads.to_string()),
            ("the bulk lane closed", self.said(CLOSED).to_string()),
            ("and opened again", self.said(OPEN).to_string()),
            ("halts by a wrong gateway", self.said("foreign_answer: ").to_string()),
            ("refused by the quota", stats.throttled.to_string()),
            ("most calls in 60 s", format!("{} of {rate}", stats.peak_per_minute)),
            ("most calls at once", stats.peak_in_flight.to_string()),
            ("of two workers at once", stats.interleaved.to_string()),
        ] {
            table.add_row([what.to_owned(), n]);
        }
        for (what, n) in self.post().rows() {
            table.add_row([what.to_owned(), n.to_string()]);
        }
        eprintln!("{table}");
        let faults: Vec<String> = faults.iter().map(|(what, n)| format!("{n} × {what}")).collect();
        eprintln!("faults: {}", faults.join("; "));
    }

    /// Writes the logs and the outcomes where they can be looked at.
    pub fn keep(&self, seed: u64) -> PathBuf {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{seed}"));
        std::fs::create_dir_all(&folder).unwrap();
        for (n, log) in self.logs.iter().enumerate() {
            std::fs::write(folder.join(format!("worker-{n}.log")), log).unwrap();
        }
        let outcomes: Vec<String> = self.outcomes.values().flatten().map(Value::to_string).collect();
        std::fs::write(folder.join("outcomes.ndjson"), outcomes.join("\n")).unwrap();
        std::fs::write(folder.join("faults.txt"), format!("{:#?}", self.diary.entries.lock().unwrap())).unwrap();
        folder
    }
}

/// Many words at once, by their first eight bytes: some ten thousand are looked for in some megabytes.
struct Scan<'a>(HashMap<&'a [u8], Vec<&'a [u8]>>);

impl<'a> Scan<'a> {
    fn new(words: &'a [String]) -> Self {
        let mut by_beginning: HashMap<&[u8], Vec<&[u8]>> = HashMap::new();
        for word in words.iter().map(String::as_bytes) {
            by_beginning.entry(&word[..8]).or_default().push(word);
        }
        Self(by_beginning)
    }

    fn finds(&self, text: &str) -> Option<String> {
        let text = text.as_bytes();
        (0..text.len().saturating_sub(7)).find_map(|at| {
            let words = self.0.get(&text[at..at + 8])?;
            let word = words.iter().find(|word| text[at..].starts_with(word))?;
            Some(String::from_utf8_lossy(word).into_owned())
        })
    }
}

#[test]
fn a_word_is_found_wherever_it_stands() {
    let words = ["0123456789".to_owned(), "01234567-x".to_owned()];
    let scan = Scan::new(&words);
    for text in ["0123456789", "…0123456789", "01234567 01234567-x"] {
        assert!(scan.finds(text).is_some(), "{text}");
    }
    assert_eq!(scan.finds("012345678 01234567-y"), None);
    assert_eq!(scan.finds("0"), None);
}
