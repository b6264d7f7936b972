//! What outlives the sessions: the gate that every delivery passes, the way to the next hop, the ledger, and which mails were sent
//! though no record says so yet.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;

use super::in_flight::InFlight;
use crate::amqp::depths::Depths;
use crate::amqp::ledger::{Ledger, Reading};
use crate::amqp::names::Names;
use crate::board::Board;
use crate::config::{Config, Retry};
use crate::domain::job::Lane;
use crate::domain::mailing::Unsent;
use crate::domain::note::{Content, Note};
use crate::domain::recipient::AllowedDomains;
use crate::domain::retry::{FORBIDDEN_USERS, RetryPolicy};
use crate::domain::subject::Subject;
use crate::domain::user::UserId;
use crate::telemetry::metrics::OTHER_ORG;
use crate::throttle::forbidden::ForbiddenRun;
use crate::throttle::gate::Gate;
use crate::throttle::guard::Guard;
use crate::throttle::jobs_in_flight::JobsInFlight;
use crate::throttle::limiter::Limiter;
use crate::throttle::user_order::UserOrder;
use crate::transport::seal::Keys;
use crate::transport::{Courier, Delivered, Templates, Undelivered};

/// Mails that were sent while their record could not be confirmed: more than are in flight at once by far, and forgotten beyond that.
const MAX_SENT: usize = 10_000;

/// What is recorded of a mail that the next hop took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    /// The code of its answer.
    pub(super) status: u16,
    /// Tries that counted.
    pub(super) attempts: u32,
}

/// What all mails share, over every session.
#[derive(Debug)]
pub struct MailerContext {
    board: Board,
    /// What its things are called at the broker.
    pub names: Names,
    pub(super) gate: Gate<()>,
    pub(super) jobs_in_flight: JobsInFlight,
    /// The way to the next hop.
    pub courier: Courier,
    pub(super) templates: Templates,
    pub(super) keys: Keys,
    /// What was read of the stream.
    pub ledger: Ledger,
    /// How much is queued.
    pub depths: Depths,
    /// Also while it works: whose password was set last is in the workers' outcomes.
    _reading: Reading,
    pub(super) user_order: UserOrder,
    pub(super) in_flight: InFlight,
    /// The recipients in a row who were refused, and none of them named.
    refused: ForbiddenRun<String>,
    pub(super) retry: Retry,
    /// How often a mail is tried.
    pub(super) policy: RetryPolicy,
    /// How old a notification may be.
    pub(super) ttl: Duration,
    /// How long one delivery takes at most.
    pub(super) longest: Duration,
    /// How long a mail is held at most.
    pub(super) hold: Duration,
    /// Whether a notification that is not sealed is sent to nobody.
    require_sealed: bool,
    /// Who may be notified at all.
    domains: AllowedDomains,
    /// The orgs that are configured here: of all others the metrics know no name.
    orgs: BTreeSet<String>,
    sent: Mutex<HashMap<String, Sent>>,
}

impl MailerContext {
    /// Puts it together and opens the gate.
    ///
    /// # Errors
    /// Where the configuration, a template or a key does not do.
    pub fn open(config: &Config, board: &Board) -> Result<Self> {
        let mailer = config.mailer()?;
        let courier = Courier::new(&mailer, config.retry.after_max)?;
        let templates = Templates::load(&mailer.settings)?;
        let keys = Keys::load(&mailer.settings.open_with)?;
        let names = Names::new(&config.amqp.prefix, "");
        let ledger = Ledger::of_mails(names.ledger());
        let policy = RetryPolicy {
            max_attempts: mailer.settings.max_attempts.get(),
            max: mailer.settings.retry_max,
            ..config.retry.policy
        };
        let gate = Gate::open(
            Subject::Mailer,
            Limiter::new(mailer.settings.rate_per_minute, std::num::NonZeroU32::MIN),
            Guard::new([None; Lane::COUNT], None),
            policy,
            board.clone(),
            Box::new(|| Box::pin(std::future::ready(Ok(())))),
        );
        let longest = courier.longest();
        Ok(Self {
            board: board.clone(),
            require_sealed: config.mailer.require_sealed,
            domains: config.notification.domains.clone(),
            orgs: config.org_names().map(str::to_owned).collect(),
            _reading: ledger.reading(),
            jobs_in_flight: JobsInFlight::new(Subject::Mailer),
            depths: Depths::of_mails(names.clone()),
            gate,
            courier,
            templates,
            keys,
            ledger,
            user_order: UserOrder::default(),
            in_flight: InFlight::default(),
            refused: ForbiddenRun::default(),
            retry: config.retry.clone(),
            policy,
            ttl: config.notification.ttl,
            longest,
            hold: config.hold,
            sent: Mutex::default(),
            names,
        })
    }

    fn sent(&self) -> MutexGuard<'_, HashMap<String, Sent>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next hop has taken a mail, and no record says so yet.
    pub(super) fn has_sent(&self, note: &Note, how: Sent) {
        let mut sent = self.sent();
        if sent.len() < MAX_SENT {
            sent.insert(note.id.as_str().to_owned(), how);
        }
    }

    /// Why a notification is sent to nobody, whatever else holds.
    pub(super) fn refuses(&self, note: &Note) -> Option<(Unsent, &'static str)> {
        if self.require_sealed && matches!(note.content, Content::Open(_)) {
            return Some((Unsent::NotSealed, "it is not sealed, and mailer.require_sealed wants it to be"));
        }
        let why = "to: its domain is none that notification.allowed_domains lists";
        (!self.domains.allow(&note.to)).then_some((Unsent::AddressNotAllowed, why))
    }

    /// The org as the metrics may call it: who may publish notifications must not make series.
    pub(super) fn org_label<'a>(&self, org: &'a str) -> &'a str {
        if self.orgs.contains(org) { org } else { OTHER_ORG }
    }

    /// What is to be recorded of this mail, where the next hop took it and no record says so.
    pub(super) fn was_sent(&self, note: &Note) -> Option<Sent> {
        self.sent().get(note.id.as_str()).copied()
    }

    /// Whether a record says so of all that the next hop has taken.
    pub(super) fn are_all_recorded(&self) -> bool {
        self.sent().is_empty()
    }

    /// A record says so.
    pub(super) fn is_recorded(&self, note: &str) {
        self.sent().remove(note);
    }

    /// What a delivery says among those before it. A refusal that does not name its recipient ends that mail alone; with the fifth
    /// different recipient in a row, and no mail taken between, it is the mailer who is refused. As with 403 at the org, a mail that the
    /// next hop takes alone ends the row.
    pub(super) fn in_its_row(
        &self,
        note: &Note,
        delivered: Result<Delivered, Undelivered>,
    ) -> Result<Delivered, Undelivered> {
        match delivered {
            Ok(delivered) => {
                self.refused.succeeded();
                Ok(delivered)
            }
            Err(Undelivered::Refused { detail, status }) => {
                let in_row = self.refused.forbidden(&note.to.key());
                if in_row < FORBIDDEN_USERS {
                    return Err(Undelivered::Refused { detail, status });
                }
                let detail = format!(
                    "{in_row} different recipients in a row were refused, and no answer was about its recipient: {detail}; such mails wait until one is taken"
                );
                Err(Undelivered::Stop { detail, status: Some(status) })
            }
            Err(
                undelivered @ (Undelivered::Again { .. }
                | Undelivered::Later { .. }
                | Undelivered::Never { .. }
                | Undelivered::Stop { .. }),
            ) => Err(undelivered),
        }
    }

    /// Whether the next hop refuses everybody, as far as it is known.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.count() >= FORBIDDEN_USERS
    }

    /// A mail waits for a key that is not here.
    pub(super) fn lacks_key(&self, why: &str) {
        self.board.locked(&Subject::Mailer, why);
    }

    /// A mail could be opened.
    pub(super) fn has_opened(&self) {
        self.board.opened(&Subject::Mailer);
    }
}

/// Whom a mail is for, where the order of the mails of a user wants one name for it: an org's name has no `~`.
pub(super) fn person(note: &Note) -> UserId {
    UserId::parse(&format!("{}~{}", note.org, note.user.as_str())).unwrap_or_else(|_| note.user.clone())
}
