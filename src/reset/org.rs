//! What all jobs of one org share, over every session: its gate, its token, its SCIM endpoint, and what the configuration says.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::checkpoints::Checkpoints;
use crate::amqp::{ledger::Ledger, names::Names};
use crate::board::{self, Board};
use crate::config::{self, Config};
use crate::consumer::SessionContext;
use crate::domain::attribute::AllowedAttributes;
use crate::domain::form::Form;
use crate::domain::ledger::WorkerName;
use crate::domain::password::PasswordKind;
use crate::domain::retry::HaltCause;
use crate::domain::subject::Subject;
use crate::failpoint;
use crate::scim::{
    client::Scim,
    token::{Token, Tokens},
};
use crate::throttle::{
    forbidden::ForbiddenRun, gate::Gate, guard::Guard, jobs_in_flight::JobsInFlight, limiter::Limiter,
    user_ids::UserIdCache, user_order::UserOrder,
};
use crate::transport::seal::Seal;
use crate::wire::job::Rules;

/// One session, as a job in flight sees it.
pub(super) type Session = SessionContext<OrgContext>;

/// What all orgs of a process are opened with.
pub struct Process<'a> {
    /// All of it.
    pub config: &'a Config,
    /// How a reset is written.
    pub form: Form,
    /// By which the orgs are called.
    pub client: &'a reqwest::Client,
    /// Where it is said how each stands.
    pub board: &'a Board,
    /// What was read of the stream.
    pub ledger: &'a Ledger,
    /// What seals notifications, where they are sealed.
    pub seal: Option<Arc<Seal>>,
    /// What this process is called in the ledger.
    pub worker: WorkerName,
}

/// What all jobs of one org share, over every session.
#[derive(Debug)]
pub struct OrgContext {
    pub(super) subject: Subject,
    pub(super) worker: WorkerName,
    pub(super) board: watch::Receiver<board::State>,
    /// Its name in the configuration.
    pub name: String,
    /// What its things are called at the broker.
    pub names: Names,
    /// Its part of the configuration.
    pub(super) config: config::org::Org,
    pub(super) form: Form,
    pub(super) rules: Rules,
    pub(super) password: PasswordKind,
    /// How failures are waited out.
    pub(super) retry: config::Retry,
    pub(super) notification: config::Notification,
    /// How long the broker keeps one.
    pub(super) expires: Duration,
    /// What seals notifications, where they are sealed.
    pub(super) seal: Option<Arc<Seal>>,
    /// What every call of the org passes.
    pub(super) gate: Gate<Token>,
    /// How many jobs are in flight.
    pub(super) jobs_in_flight: JobsInFlight,
    pub(super) tokens: Arc<Tokens>,
    pub(super) scim: Scim,
    pub(super) user_order: UserOrder,
    pub(super) user_ids: UserIdCache,
    pub(super) forbidden: ForbiddenRun,
    pub(super) checkpoints: Checkpoints,
    pub(super) ledger: Ledger,
    /// How long a delivery is held at most before it is given back.
    pub(super) hold: Duration,
    /// Calls answered otherwise than 429.
    pub(super) admitted: AtomicU64,
}

impl OrgContext {
    /// Puts an org together and opens its gate.
    pub fn open(name: &str, org: config::org::Org, process: &Process<'_>) -> Self {
        let Process { config, form, client: http, board, ledger, seal, worker } = process;
        let after_max = config.retry.after_max;
        let tokens = Arc::new(Tokens::new((*http).clone(), name, org.clone(), after_max));
        let source = Arc::clone(&tokens);
        let limiter = Limiter::new(org.rate_per_minute, org.burst);
        let hour = failpoint::guard_hour().unwrap_or(config.guard_hour);
        let subject = Subject::from(name);
        let gate = Gate::open(
            subject.clone(),
            limiter,
            Guard::new(org.guard_per_hour, org.bulk_window.clone()).with_hour(hour),
            config.retry.policy,
            (*board).clone(),
            Box::new(move || {
                let tokens = Arc::clone(&source);
                Box::pin(async move { tokens.current().await })
            }),
        );
        Self {
            subject,
            name: name.to_owned(),
            worker: worker.clone(),
            board: board.watch(),
            names: Names::new(&config.amqp.prefix, name),
            form: *form,
            rules: Rules {
                allowed: AllowedAttributes::new(config.allowed_attributes.clone()),
                fallback: config.notification.fallback.clone(),
                domains: config.notification.domains.clone(),
            },
            password: config.password,
            retry: config.retry.clone(),
            notification: config.notification.clone(),
            expires: config.notification_expires(),
            seal: seal.clone(),
            gate,
            jobs_in_flight: JobsInFlight::new(name),
            tokens,
            scim: Scim::new((*http).clone(), name, org.scim_url.clone(), org.request_timeout, after_max),
            user_order: UserOrder::default(),
            user_ids: UserIdCache::default(),
            forbidden: ForbiddenRun::default(),
            checkpoints: Checkpoints::default(),
            ledger: (*ledger).clone(),
            hold: config.hold,
            admitted: AtomicU64::new(0),
            config: org,
        }
    }

    /// Asks for a token, without a job, until one is granted; each time later, as the gate says.
    pub(super) async fn until_granted(&self) {
        let mut failures = 0;
        while let Err(trouble) = self.tokens.current().await {
            self.gate.no_token(trouble, &mut failures);
            while let Some(until) = self.gate.shut(Instant::now()) {
                sleep_until(until).await;
            }
        }
        self.gate.resolved(HaltCause::ClientRefused);
    }

    /// With the process ending: says how many people cannot log in until their job is done once more.
    pub fn warn_of_unnotified(&self) {
        let people = self.checkpoints.unnotified();
        if people > 0 {
            tracing::warn!(
                org = self.name,
                people,
                "passwords are set of which nobody is known to be told, and end with this process: their jobs go back, and set new ones"
            );
        }
    }
}
