//! What became of a job.

use jiff::{SignedDuration, Timestamp};

use super::job::{JobId, Lane};
use super::user::UserId;

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OutcomeKind {
    /// The password is set and the notification lies in its queue.
    Succeeded,
    /// It was given up: there is a dead letter.
    Failed,
    /// It carried no intent to reset.
    PassedThrough,
    /// A newer reset of the same user had succeeded.
    Superseded,
    /// Its `not-after` had passed: there is a dead letter.
    Expired,
    /// Its id had succeeded before.
    Duplicate,
}

impl OutcomeKind {
    /// All of them.
    pub const ALL: [OutcomeKind; 6] =
        [Self::Succeeded, Self::Failed, Self::PassedThrough, Self::Superseded, Self::Expired, Self::Duplicate];

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// The name in messages, routing keys and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::PassedThrough => "passed_through",
            Self::Superseded => "superseded",
            Self::Expired => "expired",
            Self::Duplicate => "duplicate",
        }
    }

    /// Whether the producer may be content.
    pub const fn is_success(self) -> bool {
        match self {
            Self::Succeeded | Self::PassedThrough | Self::Duplicate => true,
            Self::Failed | Self::Superseded | Self::Expired => false,
        }
    }
}

/// Why a job was dead-lettered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The body is no job.
    InvalidJob,
    /// Nobody can be told, and there is no fallback.
    NoAddress,
    /// Who is to be told is at a domain that the configuration does not allow.
    AddressNotAllowed,
    /// It would set an attribute that the configuration does not allow.
    AttributeNotAllowed,
    /// 403: this user is not ours to change.
    Forbidden,
    /// 404, or nobody has that name.
    NotFound,
    /// Several users have that name.
    AmbiguousUser,
    /// The org's minimum age of a password admits no change in time.
    TooSoon,
    /// Another 4xx.
    Rejected,
    /// Every try failed, or it was throttled again and again while others passed.
    RetriesExhausted,
    /// Its `not-after` had passed before the PATCH.
    Expired,
    /// It was delivered too often.
    DeliveryLimit,
    /// The worker's own code failed on it.
    WorkerFault,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::InvalidJob,
        Self::NoAddress,
        Self::AddressNotAllowed,
        Self::AttributeNotAllowed,
        Self::Forbidden,
        Self::NotFound,
        Self::AmbiguousUser,
        Self::TooSoon,
        Self::Rejected,
        Self::RetriesExhausted,
        Self::Expired,
        Self::DeliveryLimit,
        Self::WorkerFault,
    ];

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// The name in `resetd-reason`, outcomes and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJob => "invalid_job",
            Self::NoAddress => "no_address",
            Self::AddressNotAllowed => "address_not_allowed",
            Self::AttributeNotAllowed => "attribute_not_allowed",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::AmbiguousUser => "ambiguous_user",
            Self::TooSoon => "too_soon",
            Self::Rejected => "rejected",
            Self::RetriesExhausted => "retries_exhausted",
            Self::Expired => "expired",
            Self::DeliveryLimit => "delivery_limit",
            Self::WorkerFault => "worker_fault",
        }
    }

    /// One sentence for a person.
    pub const fn message(self) -> &'static str {
        match self {
            Self::InvalidJob => "The job is not valid; fix it and send it again",
            Self::NoAddress => "The job names nobody to notify and no fallback address is configured",
            Self::AddressNotAllowed => "The address is at a domain that notification.allowed_domains does not list",
            Self::AttributeNotAllowed => "The job sets an attribute that wire.allowed_attributes does not list",
            Self::Forbidden => "The org does not let this client change this user",
            Self::NotFound => "The org knows no such user",
            Self::AmbiguousUser => "The org knows more than one user of this name; send the job with a userId",
            Self::TooSoon => {
                "The org does not let this password be changed again in time; the detail says from when on"
            }
            Self::Rejected => "The org rejected the change",
            Self::RetriesExhausted => "The org did not carry the change out in any of the tries",
            Self::Expired => "The job's not-after had passed before its password could be set",
            Self::DeliveryLimit => "The job was delivered too often without being settled",
            Self::WorkerFault => "The worker failed on this job; its log has the place",
        }
    }
}

/// Whose clock says when a job was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Its producer's, by the job's `timestamp`.
    Producer,
    /// The worker's, at its arrival: its `timestamp` was far ahead of that.
    Worker,
}

/// Why a newer reset comes before this job, in words that say by whose clock: a clock that is behind looks the same as a job that is old.
pub fn superseded(asked_at: Timestamp, clock: Clock, newest: Timestamp) -> String {
    let whose = match clock {
        Clock::Producer => "its producer's clock",
        Clock::Worker => "this worker's clock",
    };
    let earlier = span(newest.duration_since(asked_at));
    format!(
        "it was asked for at {asked_at} by {whose}, {earlier} before the newest reset of this user that succeeded ({newest}); \
         if it is the newer one, that clock is behind"
    )
}

/// About how long, for a person.
pub fn span(span: SignedDuration) -> String {
    let rounded = |unit: i64| (span.as_secs() + unit / 2) / unit;
    match span.as_secs() {
        ..120 => format!("{} s", span.as_secs()),
        120..7_200 => format!("{} min", rounded(60)),
        7_200..172_800 => format!("{} h", rounded(3_600)),
        172_800.. => format!("{} days", rounded(86_400)),
    }
}

/// What is known of the password at the org.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PasswordSet {
    /// It was set.
    Yes,
    /// It was not.
    #[default]
    No,
    /// A call was not answered, or by a 5xx: it may have been carried out.
    Unknown,
}

impl PasswordSet {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Yes, Self::No, Self::Unknown];

    /// The name in messages and headers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unknown => "unknown",
        }
    }
}

/// The record of one job's end. It never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The job.
    pub job: JobId,
    /// The org's name in the configuration.
    pub org: String,
    /// The lane it came by.
    pub lane: Lane,
    /// Whose password; `None` where the body did not tell.
    pub user: Option<UserId>,
    /// The batch it belongs to.
    pub batch: Option<String>,
    /// When it was asked for, where its producer said.
    pub asked_at: Option<Timestamp>,
    /// How it ended.
    pub kind: OutcomeKind,
    /// Why, where it was dead-lettered.
    pub reason: Option<Reason>,
    /// The status of the last answer.
    pub status: Option<u16>,
    /// Calls that counted.
    pub attempts: u32,
    /// What is known of the password.
    pub password_set: PasswordSet,
    /// What exactly was wrong, scrubbed.
    pub detail: Option<String>,
    /// When.
    pub finished_at: Timestamp,
}

impl Outcome {
    /// One sentence for a person.
    pub fn message(&self) -> &'static str {
        match (self.kind, self.reason) {
            (OutcomeKind::Succeeded, _) => "Password reset completed and notification sent",
            (OutcomeKind::PassedThrough, _) => "The job carried no intent to reset; nothing was called",
            (OutcomeKind::Superseded, _) => "A newer reset of the same user had already succeeded",
            (OutcomeKind::Duplicate, _) => "This job had already succeeded; nothing was called",
            (OutcomeKind::Failed | OutcomeKind::Expired, Some(reason)) => reason.message(),
            (OutcomeKind::Failed | OutcomeKind::Expired, None) => "The job was given up",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_superseded_is_told_by_whose_clock_and_by_how_much() {
        let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        for (behind, words) in
            [(1, "1 s"), (119, "119 s"), (3_000, "50 min"), (3_629, "60 min"), (7_200, "2 h"), (200_000, "2 days")]
        {
            let said = superseded(at(-behind), Clock::Producer, at(0));
            assert!(said.contains(&format!("by its producer's clock, {words} before the newest reset")), "{said}");
            assert!(said.contains("(2027-01-15T08:00:00Z)") && said.ends_with("that clock is behind"), "{said}");
        }
        assert!(superseded(at(-1), Clock::Worker, at(0)).contains("by this worker's clock, 1 s before"));
    }
}
