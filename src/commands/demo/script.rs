//! What happens in the demo: who is reset, what the org does in the meantime, and which jobs are bad.

use std::time::Duration;

use serde_json::{Value, json};

use crate::domain::form::{ExtensionForm, Form, PasswordForm};
use crate::domain::job::Lane;
use sim::{Fault, FaultError, Settings, Stats};

/// Resets that must end in somebody who logs in.
pub(super) const GOOD: usize = 60;

/// The org: exactly the quota that the worker is configured for, and some trouble.
pub(super) fn settings(form: Form, rate_per_minute: u32) -> Result<Settings, FaultError> {
    // A server error now and then, and a connection cut in mid-call.
    let trouble = ["status=500,share=0.05,seed=7", "cut,next=1"];
    let faults = trouble.iter().map(|text| text.parse::<Fault>()).collect::<Result<Vec<_>, _>>()?;
    Ok(Settings {
        password: match form.password {
            PasswordForm::Sha256 => sim::PasswordForm::Sha256,
            PasswordForm::Plaintext => sim::PasswordForm::Plaintext,
        },
        extensions: match form.extensions {
            ExtensionForm::Envelope => sim::ExtensionForm::Envelope,
            ExtensionForm::Urn => sim::ExtensionForm::Urn,
        },
        quota: rate_per_minute.div_ceil(12),
        window: Duration::from_secs(5),
        latency: Duration::from_millis(40),
        users: Some((1..=GOOD).map(user).collect()),
        faults,
        ..Settings::default()
    })
}

/// What the org does halfway: somebody else has used up the quota, and its tokens are revoked.
pub(super) fn halfway() -> Result<[Fault; 2], FaultError> {
    Ok(["status=429,retry_after=1,next=2".parse()?, "revoke,next=1".parse()?])
}

/// Calls that were answered 429.
pub(super) fn throttled(stats: &Stats) -> u64 {
    stats.by_status.get("429").copied().unwrap_or(0)
}

fn user(n: usize) -> String {
    format!("agent-{n:02}")
}

/// The good jobs in two lanes, and among them some that no worker can carry out.
pub(super) fn jobs() -> Vec<(Lane, Value)> {
    let good = (1..=GOOD).map(|n| {
        let lane = if n % 2 == 0 { Lane::Bulk } else { Lane::Interactive };
        let attributes = json!({"title": "Agent", "genesys:routingLanguages": [{"value": "en", "proficiency": 4}]});
        let email = format!("{}@example.com", user(n));
        (lane, json!({"userId": user(n), "password": true, "email": email, "attributes": attributes}))
    });
    let bad = [
        json!({"userId": "nobody", "password": true, "email": "nobody@example.com"}),
        json!({"userId": "no/such/id", "password": true, "email": "x@example.com"}),
        json!({"userId": "agent-01", "password": true}),
        json!({"userId": "agent-02", "password": true, "email": "x@example.com", "attributes": {"manager": "boss"}}),
    ];
    good.chain(bad.map(|body| (Lane::Bulk, body))).collect()
}
