//! Metrics in Prometheus text. One place for their names; `docs/metrics.md` is their table.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::Label;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::domain::breaker::{BreakerState, BreakerView};
use crate::domain::{job::Lane, outcome::Outcome, subject::Subject};

const JOBS: &str = "resetd_jobs_total";
const IN_FLIGHT: &str = "resetd_jobs_in_flight";
const PATCHES: &str = "resetd_patches_total";
const SEARCHES: &str = "resetd_searches_total";
const PATCH_SECONDS: &str = "resetd_patch_duration_seconds";
const PERMIT_SECONDS: Of = Of { org: "resetd_permit_wait_seconds", mailer: "resetd_mailer_permit_wait_seconds" };
const PAUSES: Of = Of { org: "resetd_pauses_total", mailer: "resetd_mailer_pauses_total" };
const TOKENS: &str = "resetd_token_refreshes_total";
const BROKER: &str = "resetd_broker_connected";
const ACTIVE: Of = Of { org: "resetd_active", mailer: "resetd_mailer_active" };
const PROOF_AGE: Of = Of { org: "resetd_leader_proof_age_seconds", mailer: "resetd_mailer_leader_proof_age_seconds" };
const NO_LEADER: Of = Of { org: "resetd_no_leader", mailer: "resetd_mailer_no_leader" };
const HALTED: Of = Of { org: "resetd_halted", mailer: "resetd_mailer_halted" };
const TASKS: &str = "resetd_tasks";
const BREAKER: Of = Of { org: "resetd_breaker_state", mailer: "resetd_mailer_breaker_state" };
const BREAKER_OPENED: Of = Of { org: "resetd_breaker_opened_total", mailer: "resetd_mailer_breaker_opened_total" };
const BREAKER_PROBE: Of = Of {
    org: "resetd_breaker_next_probe_timestamp_seconds",
    mailer: "resetd_mailer_breaker_next_probe_timestamp_seconds",
};
/// With the name of a lane in its place.
const LANE_CLOSED: &str = "resetd_LANE_closed";
const RATE: Of = Of { org: "resetd_rate_per_minute", mailer: "resetd_mailer_rate_per_minute" };
const MAILS: &str = "resetd_mails_total";
const MAIL_TRIES: &str = "resetd_mail_tries_total";
const MAIL_SECONDS: &str = "resetd_mail_duration_seconds";
const MAILS_IN_FLIGHT: &str = "resetd_mails_in_flight";
const SIGN_INS: &str = "resetd_sign_ins_total";

/// What is measured of an org, whose name is a label, and of the mailer, which is no org.
#[derive(Clone, Copy)]
struct Of {
    org: &'static str,
    mailer: &'static str,
}

impl Of {
    /// Its name and its labels, these among them.
    fn labelled(self, subject: &Subject, more: &[(&'static str, &'static str)]) -> (&'static str, Vec<Label>) {
        let org = subject.org().map(|org| Label::new("org", org.to_owned()));
        let name = if org.is_some() { self.org } else { self.mailer };
        (name, org.into_iter().chain(more.iter().map(Label::from)).collect())
    }

    fn set(self, subject: &Subject, value: f64) {
        let (name, labels) = self.labelled(subject, &[]);
        metrics::gauge!(name, labels).set(value);
    }
}

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
    describe_histogram!(PERMIT_SECONDS.org, "How long a try waited for its permit: limiter, pauses and halt together");
    describe_counter!(PAUSES.org, "Pauses of all the org's calls, after a 429 or a 503 with Retry-After");
    describe_counter!(TOKENS, "Token requests, by org and result");
    describe_gauge!(TASKS, "Tasks alive in the process: one for each job in flight, and some for each org");
    describe_gauge!(BROKER, "1 while both connections to the broker stand");
    describe_gauge!(
        ACTIVE.org,
        "1 while this worker works the org, 0 while it stands by, starts or is stopped by its broker"
    );
    describe_gauge!(
        PROOF_AGE.org,
        "How old the newest proof is that this worker leads the org; no call begins at 1.5 and more"
    );
    describe_gauge!(PROOF_AGE.mailer, "How old the newest proof is that this mailer leads");
    describe_gauge!(NO_LEADER.org, "1 while this worker sees that nobody can lead the org; /readyz has the reason");
    describe_gauge!(NO_LEADER.mailer, "1 while this mailer sees that nobody can send; /readyz has the reason");
    describe_gauge!(HALTED.org, "1 while processing is halted and operator action is required; /readyz has the reason");
    describe_gauge!(BREAKER.org, "The org's breaker: 0 closed, 1 half-open, 2 open");
    describe_counter!(
        BREAKER_OPENED.org,
        "How often the breaker opened, by org and cause; failed probes are not counted"
    );
    describe_gauge!(
        BREAKER_PROBE.org,
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
    describe_gauge!(
        ACTIVE.mailer,
        "1 while this mailer sends, 0 while it stands by, starts or is stopped by its broker"
    );
    describe_gauge!(HALTED.mailer, "1 while the mailer is halted until an operator acts; /readyz has the reason");
    describe_gauge!(BREAKER.mailer, "The mailer's breaker: 0 closed, 1 half-open, 2 open");
    describe_counter!(BREAKER_OPENED.mailer, "How often the mailer's breaker opened, by cause");
    describe_gauge!(
        BREAKER_PROBE.mailer,
        "From when on it lets a probe through, in Unix seconds; 0 while it is closed"
    );
    describe_counter!(PAUSES.mailer, "Pauses of all deliveries, as the mail service asked");
    describe_histogram!(PERMIT_SECONDS.mailer, "How long a mail waited for its permit");
    describe_gauge!(RATE.mailer, "The mailer's rate, in mails a minute");
    describe_gauge!(MAILS_IN_FLIGHT, "Mails taken from the email queue and not settled");
    describe_gauge!(RATE.org, "The rate at work now: the configured one, or less where others share the org's quota");
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
pub fn permitted(subject: &Subject, lane: Lane, waited: Duration) {
    let lane = subject.org().map(|_| ("lane", lane.as_str()));
    let (name, labels) = PERMIT_SECONDS.labelled(subject, lane.as_slice());
    metrics::histogram!(name, labels).record(waited);
}

/// All calls of the org pause.
pub fn paused(subject: &Subject) {
    let (name, labels) = PAUSES.labelled(subject, &[]);
    metrics::counter!(name, labels).increment(1);
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

/// Processing of the org is halted, or runs.
pub fn halted(subject: &Subject, stopped: bool) {
    HALTED.set(subject, if stopped { 1.0 } else { 0.0 });
}

/// It is known that nobody can lead the org, or not.
pub fn no_leader(subject: &Subject, is_known: bool) {
    NO_LEADER.set(subject, if is_known { 1.0 } else { 0.0 });
}

/// This worker works the org, or does not.
pub fn active(subject: &Subject, active: bool) {
    ACTIVE.set(subject, if active { 1.0 } else { 0.0 });
}

/// How old the newest proof is that this process leads; `None`: it has none at this moment.
pub fn leader_proof_age(subject: &Subject, age: Option<Duration>) {
    PROOF_AGE.set(subject, age.map_or(f64::INFINITY, |age| age.as_secs_f64()));
}

/// While it lives this process leads, and says how old its proof is.
pub struct LeaderProof<'a>(&'a Subject);

impl<'a> LeaderProof<'a> {
    /// Of this one's.
    pub fn of(subject: &'a Subject) -> Self {
        Self(subject)
    }
}

impl Drop for LeaderProof<'_> {
    fn drop(&mut self) {
        PROOF_AGE.set(self.0, f64::NAN);
    }
}

/// How the org's breaker stands; `None`: it is closed.
pub fn breaker(subject: &Subject, breaker: Option<&BreakerView>) {
    let state = match breaker.map(|breaker| breaker.state) {
        None => 0.0,
        Some(BreakerState::HalfOpen) => 1.0,
        Some(BreakerState::Open) => 2.0,
    };
    let next_probe = breaker.map_or(0.0, |breaker| breaker.next_probe.as_millisecond() as f64 / 1e3);
    BREAKER.set(subject, state);
    BREAKER_PROBE.set(subject, next_probe);
}

/// The org's breaker opened.
pub fn breaker_opened(subject: &Subject, cause: &'static str) {
    let (name, labels) = BREAKER_OPENED.labelled(subject, &[("cause", cause)]);
    metrics::counter!(name, labels).increment(1);
}

/// The metric of one lane.
fn of_lane(name: &str, lane: Lane) -> String {
    name.replace("LANE", lane.as_str())
}

/// A lane of the org is closed for this cause, or is not.
pub fn lane_closed(subject: &Subject, lane: Lane, cause: &'static str, closed: bool) {
    // The mailer has no lanes to close.
    let Some(org) = subject.org() else { return };
    metrics::gauge!(of_lane(LANE_CLOSED, lane), "org" => org.to_owned(), "cause" => cause).set(if closed {
        1.0
    } else {
        0.0
    });
}

/// The rate at work.
pub fn rate(subject: &Subject, per_minute: u32) {
    RATE.set(subject, f64::from(per_minute));
}

/// Counts a job, or a mail, as in flight for as long as it lives, however it ends.
pub struct InFlight(metrics::Gauge);

impl InFlight {
    /// One more.
    pub fn enter(subject: &Subject, lane: Lane) -> Self {
        let gauge = match subject {
            Subject::Org(org) => metrics::gauge!(IN_FLIGHT, "org" => org.clone(), "lane" => lane.as_str()),
            Subject::Mailer => metrics::gauge!(MAILS_IN_FLIGHT),
        };
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
