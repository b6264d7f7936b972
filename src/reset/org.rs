//! What all jobs of one org share, over every session: its gate, its token, its SCIM endpoint, and what the configuration says.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::memory::Memory;
use crate::amqp::{ledger::Ledger, names::Names};
use crate::board::Board;
use crate::config::{self, Config};
use crate::domain::attribute::AllowedAttributes;
use crate::domain::form::Form;
use crate::domain::password::PasswordKind;
use crate::domain::retry::HaltCause;
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

/// One org at work.
#[derive(Debug)]
pub struct Org {
    /// Its name in the configuration.
    pub name: String,
    /// What its things are called at the broker.
    pub names: Names,
    /// Its part of the configuration.
    pub config: config::org::Org,
    pub(super) form: Form,
    pub(super) rules: Rules,
    pub(super) password: PasswordKind,
    /// How failures are waited out.
    pub retry: config::Retry,
    pub(super) notification: config::Notification,
    /// How long the broker keeps one.
    pub(super) expires: Duration,
    /// What seals notifications, where they are sealed.
    pub(super) seal: Option<Arc<Seal>>,
    /// What every call of the org passes.
    pub gate: Gate<Token>,
    /// How many jobs are in flight.
    pub jobs_in_flight: JobsInFlight,
    pub(super) tokens: Arc<Tokens>,
    pub(super) scim: Scim,
    pub(super) user_order: UserOrder,
    pub(super) user_ids: UserIdCache,
    pub(super) forbidden: ForbiddenRun,
    pub(super) memory: Memory,
    pub(super) ledger: Ledger,
    /// How long a delivery is held at most before it is given back.
    pub hold: Duration,
    /// From which wait on, of all its calls, the deliveries are given back.
    pub long: Duration,
    /// Calls answered otherwise than 429.
    pub(super) admitted: AtomicU64,
}

impl Org {
    /// Puts an org together and opens its gate.
    pub fn open(
        name: &str,
        config: &Config,
        org: config::org::Org,
        form: Form,
        http: &reqwest::Client,
        board: &Board,
        ledger: &Ledger,
    ) -> Self {
        let after_max = config.retry.after_max;
        let tokens = Arc::new(Tokens::new(http.clone(), name, org.clone(), after_max));
        let source = Arc::clone(&tokens);
        let limiter = Limiter::new(org.rate_per_minute, org.burst);
        let hour = failpoint::guard_hour().unwrap_or(config.guard_hour);
        let gate = Gate::open(
            name,
            limiter,
            Guard::new(org.guard_per_hour, org.bulk_window.clone()).with_hour(hour),
            config.retry.policy,
            board.clone(),
            Box::new(move || {
                let tokens = Arc::clone(&source);
                Box::pin(async move { tokens.current().await })
            }),
        );
        Self {
            name: name.to_owned(),
            names: Names::new(&config.amqp.prefix, name),
            form,
            rules: Rules {
                allowed: AllowedAttributes::new(config.allowed_attributes.clone()),
                fallback: config.notification.fallback.clone(),
                domains: config.notification.domains.clone(),
            },
            password: config.password,
            retry: config.retry.clone(),
            notification: config.notification.clone(),
            expires: config.notification_expires(),
            seal: None,
            gate,
            jobs_in_flight: JobsInFlight::new(name),
            tokens,
            scim: Scim::new(http.clone(), name, org.scim_url.clone(), org.request_timeout, after_max),
            user_order: UserOrder::default(),
            user_ids: UserIdCache::default(),
            forbidden: ForbiddenRun::default(),
            memory: Memory::default(),
            ledger: ledger.clone(),
            hold: config.hold,
            long: config.long,
            admitted: AtomicU64::new(0),
            config: org,
        }
    }

    /// The same, with its notifications sealed where there is something to seal them with.
    pub fn sealing(self, seal: Option<Arc<Seal>>) -> Self {
        Self { seal, ..self }
    }

    /// Asks for a token, without a job, until one is granted; each time later, as the gate says.
    pub async fn until_granted(&self) {
        let mut failures = 0;
        while let Err(trouble) = self.tokens.current().await {
            self.gate.no_token(trouble, &mut failures);
            while let Some(until) = self.gate.shut(Instant::now()) {
                sleep_until(until).await;
            }
        }
        self.gate.resolved(HaltCause::ClientRefused);
    }

    /// Whether the line is stopped since a queue did not take what is owed.
    pub fn is_unpublishable(&self) -> bool {
        self.gate.is_stopped(HaltCause::Unpublishable)
    }

    /// No job is at work any more that waits for a queue to take what it owes.
    pub fn publishable(&self) {
        self.gate.resolved(HaltCause::Unpublishable);
    }

    /// With the process ending: says how many people cannot log in until their job is done once more.
    pub fn warn_of_untold(&self) {
        let people = self.memory.not_notified();
        if people > 0 {
            tracing::warn!(
                org = self.name,
                people,
                "passwords are set of which nobody is known to be told, and end with this process: their jobs go back, and set new ones"
            );
        }
    }

    /// A session begins, after one whose acks may not all have reached the broker.
    pub fn begins_again(&self) {
        self.memory.acks_may_be_lost();
    }

    /// Another worker may have held the lease since this process worked last: what it remembers of jobs in the middle is void,
    /// and what was spent of the quota is not known.
    pub fn forget(&self) {
        self.memory.forget();
        self.gate.start_empty();
    }
}
