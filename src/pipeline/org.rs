//! What all jobs of one org share, over every session: its gate, its token, its SCIM endpoint, and what the configuration says.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::memory::Memory;
use crate::amqp::names::Names;
use crate::board::Board;
use crate::config::{self, Config};
use crate::domain::attribute::AllowedAttributes;
use crate::domain::form::Form;
use crate::domain::password::PasswordKind;
use crate::domain::retry::{StopCause, retry_after_stop};
use crate::domain::token::TokenTrouble;
use crate::org::{forbidden::ForbiddenRun, gate::Gate, limiter::Limiter, turns::Turns};
use crate::scim::{
    client::Scim,
    token::{Token, Tokens},
};
use crate::wire::job::Rules;

/// How long jobs are held while the client is refused, before they go back to their queues.
const HELD: Duration = Duration::from_secs(300);

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
    pub(super) retry: config::Retry,
    pub(super) notification: config::Notification,
    pub(super) gate: Gate<Token>,
    pub(super) tokens: Arc<Tokens>,
    pub(super) scim: Scim,
    pub(super) turns: Turns,
    pub(super) forbidden: ForbiddenRun,
    pub(super) memory: Memory,
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
    ) -> Self {
        let after_max = config.retry.after_max;
        let tokens = Arc::new(Tokens::new(http.clone(), name, org.clone(), after_max));
        let source = Arc::clone(&tokens);
        let limiter = Limiter::new(org.rate_per_minute, org.burst);
        let gate = Gate::open(
            name,
            limiter,
            config.retry.policy,
            board.clone(),
            Box::new(move || {
                let tokens = Arc::clone(&source);
                Box::pin(async move { tokens.current().await })
            }),
        );
        gate.admit(Some(Box::new(|| true)));
        Self {
            name: name.to_owned(),
            names: Names::new(&config.amqp.prefix, name),
            form,
            rules: Rules {
                allowed: AllowedAttributes::new(config.allowed_attributes.clone()),
                fallback: config.notification.fallback.clone(),
            },
            password: config.password,
            retry: config.retry.clone(),
            notification: config.notification.clone(),
            gate,
            tokens,
            scim: Scim::new(http.clone(), name, org.scim_url.clone(), org.request_timeout, after_max),
            turns: Turns::default(),
            forbidden: ForbiddenRun::default(),
            memory: Memory::default(),
            admitted: AtomicU64::new(0),
            config: org,
        }
    }

    /// Waits until the token endpoint has refused the client for so long that its jobs should not be held any more: the broker
    /// takes back what is held for 30 minutes, and each time counts as a delivery.
    pub async fn refused_for_long(&self) {
        self.gate.stopped_for(StopCause::ClientRefused, HELD).await;
    }

    /// Where the client is refused, asks for a token after 15 s and ever later, without a job, until one is granted.
    pub async fn until_granted(&self) {
        let mut tries = 0;
        while self.gate.is_stopped(StopCause::ClientRefused) {
            match self.tokens.current().await {
                Ok(_granted) => return self.gate.mended(StopCause::ClientRefused),
                Err(TokenTrouble::Refused(why)) => self.gate.stop(StopCause::ClientRefused, &why),
                Err(TokenTrouble::Failed { .. }) => {}
            }
            tokio::time::sleep(retry_after_stop(tries)).await;
            tries += 1;
        }
    }

    /// No job is at work any more that waits for a queue to take what it owes.
    pub fn publishable(&self) {
        self.gate.mended(StopCause::Unpublishable);
    }
}
