//! Carries the faults out, four kinds beside each other and each kind one after the other, and keeps a diary of them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;

use tokio::time::{Instant, sleep};

use super::mails::Post;
use super::plan::{GUARD_HOUR, Network, Node, Process as ProcessFault, Step};
use crate::broker::Broker;
use crate::operator::process::{Process, Run, role};
use crate::relay::Relay;
use crate::world::{World, fault};

#[derive(Debug)]
pub struct Entry {
    pub from: Timestamp,
    pub to: Timestamp,
    pub what: String,
    /// Whether it was one of the org: a job's tries may be used up by it.
    pub of_org: bool,
}

/// What the diary says of a mail server that refuses everybody.
const REFUSAL: &str = "mail server: refuses everybody";

/// What was done to the world, and what went wrong meanwhile.
pub struct Diary {
    start: Instant,
    until: Instant,
    pub entries: Mutex<Vec<Entry>>,
    pub wrong: Mutex<Vec<String>>,
}

impl Diary {
    pub fn new(start: Instant, seconds: u64) -> Self {
        let until = start + Duration::from_secs(seconds);
        Self { start, until, entries: Mutex::default(), wrong: Mutex::default() }
    }

    fn say(&self, what: &str) {
        eprintln!("{:6.1} s  {what}", self.start.elapsed().as_secs_f64());
    }

    fn note(&self, from: Timestamp, of_org: bool, what: String) {
        self.entries.lock().unwrap().push(Entry { from, to: Timestamp::now(), what, of_org });
    }

    fn wrong(&self, what: String) {
        self.say(&what);
        self.wrong.lock().unwrap().push(what);
    }

    /// Waits for a step's moment; false where the time for faults is over.
    async fn comes<A>(&self, step: &Step<A>) -> bool {
        let moment = Instant::now() + step.gap;
        tokio::time::sleep_until(moment.min(self.until)).await;
        moment < self.until
    }

    /// How often the mail server refused everybody.
    pub fn refusals(&self) -> usize {
        self.entries.lock().unwrap().iter().filter(|entry| entry.what.starts_with(REFUSAL)).count()
    }

    /// Whether the org failed at `moment`, or not longer than `margin` before.
    pub fn org_failed(&self, moment: Timestamp, margin: Duration) -> bool {
        let entries = self.entries.lock().unwrap();
        entries.iter().any(|entry| entry.of_org && entry.from <= moment && moment <= entry.to + margin)
    }
}

/// A worker with a network of its own and a short hour of the guard.
fn worker(world: &World, relay: &Relay) -> Process {
    let own = format!("[amqp]\nurl = {:?}\n", relay.url());
    let run = Run::of(world, &["--log", "json", "worker"]).config(&own);
    run.env("RESETD_FAILPOINT_GUARD_HOUR", &GUARD_HOUR.to_string()).start()
}

/// One of the workers, and what those before it in its place have written.
pub struct Member {
    n: usize,
    pub process: Process,
    pub logs: Vec<String>,
}

impl Member {
    pub fn start(n: usize, world: &World, relay: &Relay) -> Self {
        Self { n, process: worker(world, relay), logs: Vec::new() }
    }

    fn restart(&mut self, world: &World, relay: &Relay) {
        let process = worker(world, relay);
        self.logs.push(std::mem::replace(&mut self.process, process).stderr());
    }

    /// Ends it by SIGTERM. What is wrong about how it ended.
    pub async fn terminate(&mut self, grace: Duration) -> Option<String> {
        let (code, took) = self.process.terminated().await;
        let wrong = code != 0 || took > grace + Duration::from_secs(1);
        wrong.then(|| format!("worker {} ended {took:.1?} after SIGTERM with exit code {code}", self.n))
    }

    /// Says so where it has ended by itself.
    pub fn alive(&mut self, diary: &Diary) {
        if let Some(code) = self.process.has_ended() {
            diary.wrong(format!("worker {} ended by itself with exit code {code}", self.n));
        }
    }
}

pub async fn processes(
    steps: &[Step<ProcessFault>],
    world: &World,
    relays: &[Relay],
    several: &mut [Member],
    diary: &Diary,
) {
    for step in steps {
        if !diary.comes(step).await {
            return;
        }
        let (member, relay, from) = (&mut several[step.worker], &relays[step.worker], Timestamp::now());
        member.alive(diary);
        let role = role(&member.process.http().await).await.unwrap_or_else(|| "silent".to_owned());
        let what = format!("worker {} ({role}): {:?} for {:.1?}", step.worker, step.act, step.lasts);
        diary.say(&what);
        match step.act {
            ProcessFault::Kill => {
                member.process.kill().await;
                sleep(step.lasts).await;
                member.restart(world, relay);
            }
            ProcessFault::Terminate => {
                if let Some(wrong) = member.terminate(super::GRACE).await {
                    diary.wrong(wrong);
                }
                member.restart(world, relay);
            }
            ProcessFault::Suspend => {
                member.process.signal("STOP");
                sleep(step.lasts).await;
                member.process.signal("CONT");
            }
        }
        diary.note(from, false, what);
    }
}

pub async fn network(steps: &[Step<Network>], relays: &[Relay], diary: &Diary) {
    for step in steps {
        if !diary.comes(step).await {
            return;
        }
        let (relay, from) = (&relays[step.worker], Timestamp::now());
        let open = relay.connections();
        let what =
            format!("network of worker {}: {:?} for {:.1?} ({open} connections)", step.worker, step.act, step.lasts);
        diary.say(&what);
        match step.act {
            Network::Cut => relay.cut(),
            Network::CutAndRefuse => {
                relay.refuse();
                relay.cut();
            }
            Network::Stall => relay.stall(),
            Network::HoldThere => relay.hold_there(),
            Network::HoldBack => relay.hold_back(),
        }
        sleep(step.lasts).await;
        relay.heal();
        diary.note(from, false, what);
    }
}

pub async fn node(steps: &[Step<Node>], broker: &Arc<Broker>, diary: &Diary) {
    for step in steps {
        if !diary.comes(step).await {
            return;
        }
        let from = Timestamp::now();
        let what = format!("broker: {:?} for {:.1?}", step.act, step.lasts);
        diary.say(&what);
        let (hurt, fix) = match step.act {
            Node::Kill => ("kill", "start"),
            Node::Stop => ("stop", "start"),
            Node::Alarm => ("ctl set_vm_memory_high_watermark 0", "ctl set_vm_memory_high_watermark absolute 1GB"),
        };
        broker.told(hurt).await;
        sleep(step.lasts).await;
        broker.told(fix).await;
        diary.say("broker: well again");
        diary.note(from, false, what);
    }
}

pub async fn org(steps: &[Step<String>], org: &sim::Org, diary: &Diary) {
    for step in steps {
        if !diary.comes(step).await {
            return;
        }
        let from = Timestamp::now();
        let what = format!("org: {} for {:.1?}", step.act, step.lasts);
        diary.say(&what);
        org.add_fault(fault(&step.act));
        sleep(step.lasts).await;
        org.clear_faults();
        diary.note(from, true, what);
    }
}

pub async fn mail(steps: &[Step<()>], post: &Post, diary: &Diary) {
    for step in steps {
        if !diary.comes(step).await {
            return;
        }
        let from = Timestamp::now();
        let what = format!("{REFUSAL} for {:.1?}", step.lasts);
        diary.say(&what);
        post.refuses(true);
        sleep(step.lasts).await;
        post.refuses(false);
        diary.note(from, false, what);
    }
}
