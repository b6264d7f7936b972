//! What a run does: which job when, which fault when, all of it decided from the seed before it begins.

use std::time::Duration;

use jiff::Timestamp;
use lapin::BasicProperties;
use resetd::wire;
use serde_json::{Value, json};
use testkit::dice::Dice;
use testkit::raw;

use crate::world::{named, text, with_header};

/// Stands in every job where a producer might put a real password.
pub const JOB_SECRET: &str = "JOBSECRETVALUE";

/// What the environment says of a run.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub seed: u64,
    pub jobs: usize,
    /// How long faults come.
    pub seconds: u64,
    pub workers: usize,
}

impl Setup {
    pub fn from_environment() -> Self {
        let number = |name: &str, default: u64| match std::env::var(name) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}; it must be a whole number")),
            Err(_) => default,
        };
        let count = |name, default| usize::try_from(number(name, default)).unwrap();
        Self {
            seed: number("CHAOS_SEED", u64::from(rand::random::<u32>())),
            jobs: count("CHAOS_JOBS", 2000),
            seconds: number("CHAOS_SECONDS", 240),
            workers: count("CHAOS_WORKERS", 3).max(1),
        }
    }

    /// The command that does the same again.
    pub fn command(&self) -> String {
        let Self { seed, jobs, seconds, workers } = self;
        format!("CHAOS_SEED={seed} CHAOS_JOBS={jobs} CHAOS_SECONDS={seconds} CHAOS_WORKERS={workers} make chaos")
    }

    /// So slow that the line is busy all the time: there are more calls than one minute's quota.
    pub fn rate_per_minute(&self) -> u64 {
        (self.jobs as u64 * 50 / self.seconds.max(1)).max(60)
    }

    /// Three quarters of what the rate allows, as searches take some of it: the bulk lane closes where nothing else holds
    /// the line up, and opens again soon.
    pub fn guard_per_hour(&self) -> u64 {
        self.rate_per_minute() * GUARD_HOUR * 3 / 240
    }
}

/// What the guard of the bulk lane takes for an hour, in seconds.
pub const GUARD_HOUR: u64 = 20;

/// What is peculiar about a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Plain,
    /// The same message is published twice.
    Twice,
    /// The earlier asked for of two for one user; it may come after the other.
    Older,
    Newer,
    Invalid,
    /// Bytes that are not UTF-8, in a property, in a header's name or in the body.
    NotUtf8,
    NoAddress,
    NotAllowed,
    UnknownUser,
    NoIntent,
    /// Not before some seconds from now.
    Soon,
    /// Its `not-after` is past.
    Late,
}

impl Kind {
    /// The reason of the dead letter in which every such job ends.
    pub fn dead(self) -> Option<&'static str> {
        match self {
            Self::Invalid | Self::NotUtf8 => Some("invalid_job"),
            Self::NoAddress => Some("no_address"),
            Self::NotAllowed => Some("attribute_not_allowed"),
            Self::UnknownUser => Some("not_found"),
            Self::Late => Some("expired"),
            Self::Plain | Self::Twice | Self::Older | Self::Newer | Self::NoIntent | Self::Soon => None,
        }
    }
}

#[derive(Debug)]
pub struct Job {
    pub id: String,
    pub user: String,
    pub key: &'static str,
    pub kind: Kind,
    /// When it is published, from the beginning of the run.
    pub at: Duration,
    /// When its reset was asked for, in seconds before it is published; `None`: it does not say.
    asked: Option<u64>,
    variant: usize,
    /// Whether its user is told by name, which the worker must look up.
    pub by_name: bool,
}

impl Job {
    /// How often it is published.
    pub fn copies(&self) -> usize {
        if self.kind == Kind::Twice { 2 } else { 1 }
    }

    /// As it is published in a run that began then: the same whenever it is asked.
    pub fn message(&self, began: Timestamp) -> (Vec<u8>, BasicProperties) {
        let now = began + self.at;
        let mut properties = named(&self.id);
        if let Some(before) = self.asked {
            properties = properties.with_timestamp(u64::try_from(now.as_second()).unwrap() - before);
        }
        let moment = match self.kind {
            Kind::Soon => Some(("not-before", now + Duration::from_secs(1 + self.variant as u64))),
            Kind::Late => Some(("not-after", now - Duration::from_secs(60))),
            _ => None,
        };
        if let Some((name, moment)) = moment {
            properties = with_header(properties, name, text(&moment.to_string()));
        }
        (self.body(), properties)
    }

    /// As it is published where no library would: with bytes that are not UTF-8 where AMQP or JSON has text.
    pub fn raw(&self) -> Option<(Vec<u8>, raw::Properties)> {
        if self.kind != Kind::NotUtf8 {
            return None;
        }
        let named = || raw::Properties::default().text("message_id", self.id.as_bytes());
        let properties = match self.variant {
            0 => named().text("app_id", ZURICH),
            1 => named().header(ZURICH, b"v"),
            2 => raw::Properties::default().text("message_id", ZURICH),
            _ => named(),
        };
        Some((self.body(), properties))
    }

    fn body(&self) -> Vec<u8> {
        // The simulated org names its users so.
        let address = format!("{}@example.com", self.user);
        let mut body = json!({"password": JOB_SECRET, "email": address});
        if self.by_name {
            body["userName"] = json!(address);
        } else {
            body["userId"] = json!(self.user);
        }
        match self.kind {
            Kind::Invalid => return self.no_job(body),
            Kind::NotUtf8 if self.variant == 3 => return no_text(&body.to_string()),
            Kind::NoAddress => drop(body.as_object_mut().unwrap().remove("email")),
            Kind::NotAllowed => body["attributes"] = json!({"manager": "nobody"}),
            Kind::NoIntent => body["password"] = [Value::Null, json!(false), json!("")][self.variant % 3].clone(),
            _ if self.variant == 0 => body["attributes"] = json!({"title": "Agent", "genesys:routingLanguages": []}),
            _ => {}
        }
        body.to_string().into_bytes()
    }

    fn no_job(&self, mut body: Value) -> Vec<u8> {
        match self.variant {
            0 => body["title"] = json!("Agent"),
            1 => body["userId"] = json!(7),
            2 => body["userId"] = json!("a/b"),
            _ => return format!("{{\"userId\": \"u\", \"password\": \"{JOB_SECRET}\"").into_bytes(),
        }
        body.to_string().into_bytes()
    }
}

/// `Zürich` in Latin-1.
const ZURICH: &[u8] = b"Z\xfcrich";

/// The same body with an address that is not UTF-8.
fn no_text(body: &str) -> Vec<u8> {
    let (before, after) = body.split_once("@example.com").unwrap();
    [before.as_bytes(), b"\xfc@example.com", after.as_bytes()].concat()
}

/// One fault: after this pause, this, to one of the workers where it is about one, for so long.
#[derive(Debug)]
pub struct Step<A> {
    pub gap: Duration,
    pub act: A,
    pub worker: usize,
    pub lasts: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    Kill,
    Terminate,
    Suspend,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    Cut,
    CutAndRefuse,
    Stall,
    HoldThere,
    HoldBack,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    Kill,
    Stop,
    Alarm,
}

/// Faults of the org, as `crates/sim/src/` reads them. A late one is carried out while its caller still waits, or could: what an org
/// does after that is outside of what is promised.
const ORG: [&str; 11] = [
    "status=500,share=0.4",
    "status=503,share=0.4",
    "status=503,retry_after=1,next=3",
    "status=429,retry_after=1,next=5",
    "status=429,next=3",
    "hang=3s,share=0.2",
    "hang=3s,share=0.2,apply,apply_after=700ms",
    "cut,share=0.3",
    "cut,share=0.3,apply",
    "revoke,next=1",
    "target=token,status=500,next=2",
];

/// What answers in the org's place for some seconds, and for everybody: a login page, or the way to one. None of it is the org's.
const GATEWAY: [&str; 4] = [
    "status=200,body=html,always",
    "status=200,body=html,content_type=text/plain,always",
    "status=302,body=html,location=https://portal.example.com/login,always",
    "status=302,body=none,location=/login,always",
];
/// One of so many faults of the org is such a gateway.
const GATEWAY_EVERY: usize = 5;

#[derive(Debug)]
pub struct Plan {
    /// In the order in which they are published.
    pub jobs: Vec<Job>,
    pub processes: Vec<Step<Process>>,
    pub network: Vec<Step<Network>>,
    pub node: Vec<Step<Node>>,
    pub org: Vec<Step<String>>,
    /// When the mail server refuses everybody.
    pub mail: Vec<Step<()>>,
}

impl Plan {
    pub fn new(setup: &Setup) -> Self {
        let Setup { seed, seconds, workers, .. } = *setup;
        let limit = Duration::from_secs(seconds);
        let steps = |gap, lasts| Pacing { limit, workers, gap, lasts };
        Self {
            jobs: jobs(setup),
            processes: steps((2000, 6000), (500, 3000)).steps(Dice::new(seed, 2), |dice| {
                dice.pick(&[Process::Kill, Process::Kill, Process::Terminate, Process::Suspend])
            }),
            network: steps((2000, 6000), (1000, 3000)).steps(Dice::new(seed, 3), |dice| {
                dice.pick(&[Network::Cut, Network::CutAndRefuse, Network::Stall, Network::HoldThere, Network::HoldBack])
            }),
            // A node that ends within seconds of a declare may lose what was declared (`docs/development/facts.md#a-broker-that-was-killed`), hence the long gaps.
            node: steps((15_000, 20_000), (1000, 3000))
                .steps(Dice::new(seed, 4), |dice| dice.pick(&[Node::Kill, Node::Stop, Node::Alarm])),
            org: with_gateways(
                steps((1500, 5000), (1000, 4000)).steps(Dice::new(seed, 5), |dice| {
                    let fault = dice.pick(&ORG);
                    if fault.contains("share") {
                        format!("{fault},seed={}", dice.below(1000))
                    } else {
                        fault.to_owned()
                    }
                }),
                Dice::new(seed, 7),
            ),
            mail: steps((12_000, 20_000), (3000, 6000)).steps(Dice::new(seed, 8), |_| ()),
        }
    }
}

/// Puts a wrong gateway in the place of some: the second, and then ever so many later.
fn with_gateways(mut steps: Vec<Step<String>>, mut dice: Dice) -> Vec<Step<String>> {
    for step in steps.iter_mut().skip(1).step_by(GATEWAY_EVERY) {
        dice.pick(&GATEWAY).clone_into(&mut step.act);
        step.lasts = dice.millis(3000, 7000);
    }
    steps
}

/// How fast faults of one kind follow each other, in milliseconds.
struct Pacing {
    limit: Duration,
    workers: usize,
    gap: (u64, u64),
    lasts: (u64, u64),
}

impl Pacing {
    fn steps<A>(&self, mut dice: Dice, mut act: impl FnMut(&mut Dice) -> A) -> Vec<Step<A>> {
        let (mut steps, mut at) = (Vec::new(), Duration::ZERO);
        while at < self.limit {
            let step = Step {
                gap: dice.millis(self.gap.0, self.gap.1),
                act: act(&mut dice),
                worker: dice.below(self.workers),
                lasts: dice.millis(self.lasts.0, self.lasts.1),
            };
            at += step.gap;
            steps.push(step);
        }
        steps
    }
}

/// How many of a hundred are what.
const MIX: [(Kind, usize); 11] = [
    (Kind::Plain, 54),
    (Kind::Twice, 7),
    (Kind::Older, 17), // and its newer one
    (Kind::Invalid, 3),
    (Kind::NotUtf8, 3),
    (Kind::NoAddress, 2),
    (Kind::NotAllowed, 2),
    (Kind::UnknownUser, 3),
    (Kind::NoIntent, 3),
    (Kind::Soon, 4),
    (Kind::Late, 2),
];

/// One job of so many names its user.
const BY_NAME: usize = 5;

fn jobs(setup: &Setup) -> Vec<Job> {
    let (mut dice, mut naming) = (Dice::new(setup.seed, 1), Dice::new(setup.seed, 6));
    // Published in the first 70 %, faster than the rate allows: there is something to lose all the time.
    let last = setup.seconds * 700;
    let mut jobs = Vec::new();
    while jobs.len() < setup.jobs {
        let kind = kind(&mut dice);
        let n = jobs.len();
        let user = if kind == Kind::UnknownUser { format!("nobody-{n}") } else { format!("u-{n}") };
        let at = dice.millis(0, last);
        let mut job = |id: String, kind, at, asked: Option<u64>| Job {
            id,
            user: user.clone(),
            key: dice.pick(&["main", "main.bulk"]),
            kind,
            at,
            asked,
            variant: dice.below(4),
            by_name: kind != Kind::Invalid && naming.below(BY_NAME) == 0,
        };
        if kind == Kind::Older {
            // 20 s between what they ask for, so that a late one is the older by its timestamp all the same.
            let older = job(format!("job-{n}-older"), Kind::Older, at, Some(30));
            let shift = Duration::from_millis(older.variant as u64 * 1500);
            let newer = at.checked_sub(shift).filter(|_| older.variant == 1).unwrap_or(at + shift);
            jobs.push(older);
            let newer = job(format!("job-{n}-newer"), Kind::Newer, newer, Some(10));
            jobs.push(newer);
        } else {
            let asked = (n % 3 > 0).then_some(5);
            let mut job = job(format!("job-{n}"), kind, at, asked);
            if kind == Kind::NotUtf8 && job.variant == 2 {
                // Its `message_id` counts as none.
                let derived = wire::properties::job_id(&job.body(), &BasicProperties::default());
                derived.as_str().clone_into(&mut job.id);
            }
            jobs.push(job);
        }
    }
    jobs.sort_by_key(|job| job.at);
    jobs
}

fn kind(dice: &mut Dice) -> Kind {
    let mut n = dice.below(MIX.iter().map(|(_, share)| share).sum());
    for (kind, share) in MIX {
        if n < share {
            return kind;
        }
        n -= share;
    }
    Kind::Plain
}

#[test]
fn the_same_seed_makes_the_same_plan_and_another_seed_another() {
    let plan = |seed| format!("{:?}", Plan::new(&Setup { seed, jobs: 300, seconds: 60, workers: 3 }));
    assert_eq!(plan(7), plan(7));
    assert_ne!(plan(7), plan(8));
}
