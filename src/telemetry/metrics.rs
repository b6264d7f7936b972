//! Metrics in Prometheus text. One place for their names; `docs/metrics.md` is their table.

use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::domain::breaker::{BreakerState, BreakerView};
use crate::domain::{job::Lane, outcome::Outcome};

const JOBS: &str = "resetd_jobs_total";
const IN_FLIGHT: &str = "resetd_jobs_in_flight";
const PATCHES: &str = "resetd_patches_total";
const SEARCHES: &str = "resetd_searches_total";
const PATCH_SECONDS: &str = "resetd_patch_duration_seconds";
const PERMIT_SECONDS: &str = "resetd_permit_wait_seconds";
const PAUSES: &str = "resetd_pauses_total";
const TOKENS: &str = "resetd_token_refreshes_total";
const BROKER: &str = "resetd_broker_connected";
const ACTIVE: &str = "resetd_active";
const STOPPED: &str = "resetd_halted";
const TASKS: &str = "resetd_tasks";
const BREAKER: &str = "resetd_breaker_state";
const BREAKER_OPENED: &str = "resetd_breaker_opened_total";
const BREAKER_PROBE: &str = "resetd_breaker_next_probe_timestamp_seconds";
/// With the name of a lane in its place.
const LANE_CLOSED: &str = "resetd_LANE_closed";
const RATE: &str = "resetd_rate_per_minute";
const MAILS: &str = "resetd_mails_total";
const MAIL_TRIES: &str = "resetd_mail_tries_total";
const MAIL_SECONDS: &str = "resetd_mail_duration_seconds";
const MAILS_IN_FLIGHT: &str = "resetd_mails_in_flight";
const SIGN_INS: &str = "resetd_sign_ins_total";

/// The org of a mail whose message names one that is not configured here. No org can have this name.
pub const OTHER_ORG: &str = "_other";

/// Upper bounds in seconds; a call takes some 100 ms, a permit up to minutes.
const BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// The process's metrics, recorded from the first call on.
///
/// # Errors
/// Where another recorder was installed before.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    static INSTALL: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = INSTALL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BUCKETS)?;
    let handle = builder.install_recorder()?;
    describe();
    Ok(HANDLE.get_or_init(|| handle).clone())
}

fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_counter!(JOBS, "Jobs that ended, by org, lane, outcome and reason");
    describe_gauge!(IN_FLIGHT, "Jobs taken from the broker and not settled, by org and lane");
    describe_counter!(PATCHES, "PATCH calls, by org and status (or timeout, cut, unreachable)");
    describe_counter!(SEARCHES, "Searches for a user by name, by org and status (or timeout, cut, unreachable)");
    describe_histogram!(PATCH_SECONDS, "How long a PATCH took until its answer was read");
    describe_histogram!(
        PERMIT_SECONDS,
        "How long a try waited for its permit: limiter, pauses and stopped line together"
    );
    describe_counter!(PAUSES, "Pauses of all the org's calls, after a 429 or a 503 with Retry-After");
    describe_counter!(TOKENS, "Token requests, by org and result");
    describe_gauge!(TASKS, "Tasks alive in the process: one for each job in flight, and some for each org");
    describe_gauge!(BROKER, "1 while both connections to the broker stand");
    describe_gauge!(
        ACTIVE,
        "1 while this worker works the org, 0 while it stands by, starts or is stopped by its broker"
    );
    describe_gauge!(STOPPED, "1 while processing is halted and operator action is required; /readyz has the reason");
    describe_gauge!(BREAKER, "The org's breaker: 0 closed, 1 half-open, 2 open");
    describe_counter!(BREAKER_OPENED, "How often the breaker opened, by org and cause; failed probes are not counted");
    describe_gauge!(
        BREAKER_PROBE,
        "From when on the breaker lets a probe through, in Unix seconds; 0 while it is closed"
    );
    for lane in Lane::ALL {
        let causes = if lane == Lane::Bulk { "guard_per_hour or bulk_window" } else { "guard_per_hour" };
        let what = format!("1 while the org's {} lane is closed, by cause: {causes}", lane.as_str());
        describe_gauge!(of_lane(LANE_CLOSED, lane), what);
    }
    describe_counter!(MAILS, "Mails that ended, by org, outcome and reason");
    describe_counter!(
        SIGN_INS,
        "Sign-ins to the page by result: granted, failed (a wrong token or cookie) or limited (refused unseen)"
    );
    describe_counter!(MAIL_TRIES, "Tries to deliver a mail, by the next hop's code (or none)");
    describe_histogram!(MAIL_SECONDS, "How long a try to deliver a mail took");
    describe_gauge!(MAILS_IN_FLIGHT, "Mails taken from the email queue and not settled");
    describe_gauge!(RATE, "The rate at work now: the configured one, or less where others share the org's quota");
}

/// A job ended.
pub fn job_ended(outcome: &Outcome) {
    let reason = outcome.reason.map_or("", |reason| reason.as_str());
    metrics::counter!(JOBS, "org" => outcome.org.clone(), "lane" => outcome.lane.as_str(), "outcome" => outcome.kind.as_str(), "reason" => reason).increment(1);
}

/// A call was answered, or not.
pub fn patched(org: &str, status: String, took: Duration) {
    metrics::counter!(PATCHES, "org" => org.to_owned(), "status" => status).increment(1);
    metrics::histogram!(PATCH_SECONDS, "org" => org.to_owned()).record(took);
}

/// A search for a user was answered, or not.
pub fn searched(org: &str, status: String) {
    metrics::counter!(SEARCHES, "org" => org.to_owned(), "status" => status).increment(1);
}

/// A try got its permit.
pub fn permitted(org: &str, lane: Lane, waited: Duration) {
    metrics::histogram!(PERMIT_SECONDS, "org" => org.to_owned(), "lane" => lane.as_str()).record(waited);
}

/// All calls of the org pause.
pub fn paused(org: &str) {
    metrics::counter!(PAUSES, "org" => org.to_owned()).increment(1);
}

/// A token was asked for.
pub fn token_asked(org: &str, result: &'static str) {
    metrics::counter!(TOKENS, "org" => org.to_owned(), "result" => result).increment(1);
}

/// So many tasks are alive.
pub fn tasks(alive: usize) {
    metrics::gauge!(TASKS).set(alive as f64);
}

/// Both connections to the broker stand, or not.
pub fn broker_connected(connected: bool) {
    metrics::gauge!(BROKER).set(if connected { 1.0 } else { 0.0 });
}

/// The org's line is stopped, or runs.
pub fn halted(org: &str, stopped: bool) {
    metrics::gauge!(STOPPED, "org" => org.to_owned()).set(if stopped { 1.0 } else { 0.0 });
}

/// This worker works the org, or does not.
pub fn active(org: &str, active: bool) {
    metrics::gauge!(ACTIVE, "org" => org.to_owned()).set(if active { 1.0 } else { 0.0 });
}

/// How the org's breaker stands; `None`: it is closed.
pub fn breaker(org: &str, breaker: Option<&BreakerView>) {
    let state = match breaker.map(|breaker| breaker.state) {
        None => 0.0,
        Some(BreakerState::HalfOpen) => 1.0,
        Some(BreakerState::Open) => 2.0,
    };
    let next_probe = breaker.map_or(0.0, |breaker| breaker.next_probe.as_millisecond() as f64 / 1e3);
    metrics::gauge!(BREAKER, "org" => org.to_owned()).set(state);
    metrics::gauge!(BREAKER_PROBE, "org" => org.to_owned()).set(next_probe);
}

/// The org's breaker opened.
pub fn breaker_opened(org: &str, cause: &'static str) {
    metrics::counter!(BREAKER_OPENED, "org" => org.to_owned(), "cause" => cause).increment(1);
}

/// The metric of one lane.
fn of_lane(name: &str, lane: Lane) -> String {
    name.replace("LANE", lane.as_str())
}

/// A lane of the org is closed for this cause, or is not.
pub fn lane_closed(org: &str, lane: Lane, cause: &'static str, closed: bool) {
    metrics::gauge!(of_lane(LANE_CLOSED, lane), "org" => org.to_owned(), "cause" => cause).set(if closed {
        1.0
    } else {
        0.0
    });
}

/// The rate at work.
pub fn rate(org: &str, per_minute: u32) {
    metrics::gauge!(RATE, "org" => org.to_owned()).set(f64::from(per_minute));
}

/// Counts a job as in flight for as long as it lives, however it ends.
pub struct InFlight(metrics::Gauge);

impl InFlight {
    /// One more.
    pub fn enter(org: &str, lane: Lane) -> Self {
        let gauge = metrics::gauge!(IN_FLIGHT, "org" => org.to_owned(), "lane" => lane.as_str());
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// A mail ended. `org`: one that is configured, or [`OTHER_ORG`]: whoever may publish notifications must not make series.
pub fn mail_ended(org: &str, outcome: &'static str, reason: &'static str) {
    metrics::counter!(MAILS, "org" => org.to_owned(), "outcome" => outcome, "reason" => reason).increment(1);
}

/// A mail was tried, with this answer.
pub fn mail_tried(status: Option<u16>, took: Duration) {
    let status = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
    metrics::counter!(MAIL_TRIES, "status" => status).increment(1);
    metrics::histogram!(MAIL_SECONDS).record(took);
}

/// What came of a sign-in to the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignIn {
    /// The form was filled in with the token.
    Granted,
    /// A token or a cookie was wrong.
    Failed,
    /// One was not looked at.
    Limited,
}

/// Somebody has signed in, or has not.
pub fn signed_in(result: SignIn) {
    let result = match result {
        SignIn::Granted => "granted",
        SignIn::Failed => "failed",
        SignIn::Limited => "limited",
    };
    metrics::counter!(SIGN_INS, "result" => result).increment(1);
}

/// Counts a mail as in flight for as long as it lives, however it ends.
pub struct MailInFlight(metrics::Gauge);

impl MailInFlight {
    /// One more.
    pub fn enter() -> Self {
        let gauge = metrics::gauge!(MAILS_IN_FLIGHT);
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for MailInFlight {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
