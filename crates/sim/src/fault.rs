//! A scripted fault: which calls it takes, and what happens to them.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

/// A scripted fault. It is made from JSON or TOML by `serde`, or from the compact text of a flag by `str::parse`:
/// `status=500,next=3,user=u1`. Either way a combination that makes no sense is an error that names the field.
///
/// Which calls: `target` (`scim`, the default, or `token`), `user`, and exactly one of `next`, `share` (with `seed`),
/// `from`/`to` (since the start of the org) and `always`. What: exactly one of `status` (with `retry_after`, `body`,
/// `code`, `scim_type`, `location`, `content_type`), `hang` (with `apply_after`), `cut` and `revoke`. With `apply` the change is carried out, if it is
/// valid, before the fault shows. Of several faults that take a call, the one added first has it.
#[derive(Debug, Clone)]
pub struct Fault {
    pub(super) target: Target,
    pub(super) user: Option<String>,
    pub(super) when: When,
    pub(super) what: What,
}

/// The endpoint a fault sits at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Target {
    /// Every call to SCIM Users.
    #[default]
    Scim,
    /// The OAuth token endpoint.
    Token,
}

/// Which of the matching calls a fault takes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum When {
    Next(u64),
    Share { share: f64, seed: Option<u64> },
    Between { from: Duration, to: Option<Duration> },
    Always,
}

/// What happens to a call that a fault takes.
#[derive(Debug, Clone)]
pub(super) enum What {
    Status { reply: Reply, apply: bool },
    Hang { hold: Duration, apply_after: Option<Duration> },
    Cut { apply: bool },
    Revoke,
}

/// A scripted answer.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<HeaderValue>,
    pub(super) location: Option<HeaderValue>,
    /// In place of the one that the body has.
    pub(super) content_type: Option<HeaderValue>,
    pub(super) body: ReplyBody,
}

/// The body of a scripted answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ReplyBody {
    Scim {
        scim_type: Option<String>,
    },
    Genesys {
        code: Option<String>,
    },
    Oauth {
        code: Option<String>,
    },
    Json(Value),
    /// A page for people, as a portal or a proxy sends it in the org's place.
    Html,
    None,
}

/// A fault that cannot be, with the field that makes it so.
#[derive(Debug, Error)]
pub enum FaultError {
    /// Not exactly one of the fields that say which calls.
    #[error("fault: give exactly one of `next`, `share`, `from`/`to` and `always`; it has {0}")]
    When(String),
    /// Not exactly one of the fields that say what happens.
    #[error("fault: give exactly one of `status`, `hang`, `cut` and `revoke`; it has {0}")]
    What(String),
    /// A field that cannot have this value, or cannot stand here.
    #[error("fault: `{field}` {wrong}")]
    Field {
        /// The name of the field.
        field: &'static str,
        /// What is wrong with it, as the rest of the sentence.
        wrong: String,
    },
    /// Not a fault at all: an unknown field, or a value of the wrong kind.
    #[error("fault: {0}")]
    Text(String),
}
