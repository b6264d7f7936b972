//! Why a PATCH did not set the password, named by what is done next.

use std::time::Duration;

use jiff::Timestamp;

/// A try that did not succeed. Matched without a wildcard: whoever adds one decides what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// 429: the org's quota is spent; every call of the org waits.
    Throttled {
        /// How long the org asked for, where it said.
        wait: Option<Duration>,
    },
    /// 503 with `Retry-After`: every call of the org waits, and the try counts.
    Unavailable {
        /// How long the org asked for.
        wait: Duration,
    },
    /// 401: the token is dropped and fetched once more.
    TokenRefused,
    /// 403: this user is not ours to change, or the client may change none.
    Forbidden {
        /// The answer's code says that the client lacks a permission: an operator must fix it.
        client: bool,
    },
    /// 404: there is no such user.
    NotFound,
    /// 409, 412, or a version mismatch: somebody else wrote at the same time; tried again as a fault is.
    Conflict,
    /// 400 with a moment: the org's minimum age of a password admits no change before it.
    TooSoon {
        /// That moment, by our clock.
        until: Timestamp,
    },
    /// The same, where the job cannot wait for it.
    NotInTime,
    /// 400 that names the org's history of passwords and no other rule: this very password was set before.
    UsedBefore,
    /// Any other refusal: trying again cannot help.
    Rejected,
    /// Somebody else than the org answered: a portal, a proxy, another server. It says nothing of the job.
    Foreign {
        /// The org has answered another user's call since this one's was answered so for the first time: it is about this user alone.
        odd: bool,
        /// Whether it said that all went well: then the call may have reached the org all the same.
        may_have_set: bool,
    },
    /// No fault of the job's: tried again after a backoff.
    Fault {
        /// Whether the org may have carried the call out all the same: after a time-out, a cut connection and a 5xx.
        may_have_set: bool,
        /// A `Retry-After` that came with it: the backoff is not shorter.
        wait: Option<Duration>,
    },
}

/// The cause at the end of an error's chain: "connection refused" and not "error sending request".
pub fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
