//! Setting the password, and finding out whose: through the gate, one call, and what follows it, until it is done or given up.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret;
use uuid::Uuid;

use super::job::Job;
use super::org::OrgContext;
use super::state::Interrupted;
use crate::consumer::{Leave, RequeueTarget};
use crate::domain::failure::Failure;
use crate::domain::form::PasswordForm;
use crate::domain::job::{Lane, Reset};
use crate::domain::notification::Issued;
use crate::domain::outcome::{PasswordSet, Reason};
use crate::domain::password::Password;
use crate::domain::retry::{HaltCause, Next, decide, in_time, proves_set};
use crate::domain::user::{UserId, UserName};
use crate::failpoint::{self, Stage};
use crate::scim::client::{Answered, Body};
use crate::scim::token::Token;
use crate::telemetry::logs::millis;
use crate::throttle::gate::{Caller, Permit, Verdict};
use crate::wire::redact::Scrubber;
use crate::wire::scim;

/// A call that is made until it is answered well, or given up.
pub(super) enum Call<'a> {
    /// Finds out whose id a name stands for; it sets nothing.
    Search(&'a UserName),
    /// Sets the password.
    Patch(&'a UserId, Body),
}

impl Call<'_> {
    /// Whom it is about, for the breaker and for the run of the forbidden.
    fn user(&self) -> UserId {
        match self {
            Call::Search(name) => name.key(),
            Call::Patch(user, _) => (*user).clone(),
        }
    }

    /// What it is called in traces: method and path, without whom it is about.
    fn as_traced(&self) -> (&'static str, &'static str) {
        match self {
            Call::Search(_) => ("GET", "/Users?filter"),
            Call::Patch(..) => ("PATCH", "/Users/{userId}"),
        }
    }

    /// What its end says of the org.
    fn verdict(&self, failure: Option<&Failure>) -> Verdict {
        match self {
            Call::Search(_) => Verdict::of_search(failure),
            Call::Patch(..) => Verdict::of(failure),
        }
    }

    fn is_patch(&self) -> bool {
        matches!(self, Call::Patch(..))
    }

    async fn make(&self, org: &OrgContext, token: &Token) -> Answered {
        match self {
            Call::Search(name) => org.scim.search(token, name).await,
            Call::Patch(user, body) => org.scim.patch(token, user, body).await,
        }
    }
}

/// Tries until the password is set; the job's state then knows that it is.
pub(super) async fn set_password(
    job: &mut Job<'_>,
    user: &UserId,
    reset: &Reset,
    not_after: Option<Timestamp>,
    password: &Password,
) -> Result<(), Interrupted> {
    let hashed = password.sha256_hex();
    let value = match job.org.form.password {
        PasswordForm::Sha256 => hashed.as_str(),
        PasswordForm::Plaintext => password.expose(),
    };
    let call = Call::Patch(user, body(job.org, reset, value)?);
    until_done(job, &call, not_after, &[password.expose(), &hashed]).await?;
    succeeded(job);
    failpoint::reach(Stage::Patched, job.info.id.as_str());
    Ok(())
}

/// Tries until the call is answered well, and returns the answer's body. Every try passes the gate and sends the same bytes.
/// `secrets`: what must not be in anything that the org's answer brings, beside the client's own.
pub(super) async fn until_done(
    job: &mut Job<'_>,
    call: &Call<'_>,
    not_after: Option<Timestamp>,
    secrets: &[&str],
) -> Result<Vec<u8>, Interrupted> {
    let user = call.user();
    let mut goes_on = call.is_patch() && std::mem::take(&mut job.state.is_just_found);
    let mut admitted_at_throttle = None;
    loop {
        let permit = pass_gate(job, &user, std::mem::take(&mut goes_on), not_after).await?;
        if !job.session.proof.is_fresh() {
            // The process was held up between the permit and here, and another worker may lead.
            continue;
        }
        let (answered, token, is_probe) = make(job, call, &user, permit).await;
        if job.info.reply_to.is_some() {
            let response = serde_json::from_slice(&answered.body).ok();
            job.state.response = response.map(|response| scrubber(job.org, secrets, &token).json(response));
        }
        let failure = match answered.failure {
            None => return Ok(answered.body),
            Some(Failure::Foreign { may_have_set, .. }) => {
                let odd = match call {
                    Call::Search(_) => job.org.gate.search_answered_by_another(&user),
                    Call::Patch(..) => job.org.gate.answered_by_another(&user),
                };
                Failure::Foreign { odd, may_have_set }
            }
            Some(failure) => failure,
        };
        let failure = in_time(failure, Timestamp::now(), not_after);
        note_status(job, call, &failure, answered.status, &mut admitted_at_throttle);
        let detail = scrubber(job.org, secrets, &token).text(&answered.detail.unwrap_or_default());
        if Verdict::of(Some(&failure)) == Verdict::Faulted {
            let status =
                answered.status.filter(|_| !detail.starts_with("HTTP ")).map(|status| format!("HTTP {status}, "));
            job.org.gate.faulted(&format!("{}{}", status.unwrap_or_default(), job.state.loggable(&detail)));
        }
        follow(job, call, &token, (failure, is_probe), detail).await?;
    }
}

/// Waits for a permit, unless the job has to leave first, or is too late.
async fn pass_gate(
    job: &Job<'_>,
    user: &UserId,
    goes_on: bool,
    not_after: Option<Timestamp>,
) -> Result<Permit<Token>, Interrupted> {
    let at_gate = job.info.span.gate();
    let caller = Caller { user: user.clone(), goes_on };
    let passed = job.org.gate.pass_for(Some(caller), job.info.lane, not_after, job.state.may_be_set());
    let permit = job.unless_left(passed).await?;
    drop(at_gate);
    let permit = permit.map_err(|_expired| {
        job.org.gate.ended(user);
        Interrupted::dead(Reason::Expired, "not-after had passed before the PATCH")
    })?;
    failpoint::reach(Stage::Permitted, job.info.id.as_str());
    Ok(permit)
}

/// Makes the call and gives the permit back. Says too whether its failure brings no job nearer to its end: a probe's is the org's, unless
/// its user is a suspect.
async fn make(job: &mut Job<'_>, call: &Call<'_>, user: &UserId, permit: Permit<Token>) -> (Answered, Token, bool) {
    let (method, path) = call.as_traced();
    let span = job.info.span.call(method, path, job.state.progress.attempts + 1);
    let mut answered = call.make(job.org, permit.token()).await;
    if answered.failure.as_ref().is_some_and(|failure| proves_set(failure, &job.state.progress)) {
        tracing::info!(job.id = %job.info.id, org = job.org.name, "the org knows this password as one that was used: a try before, of which nothing was known, has set it");
        answered.failure = None;
    }
    span.answered(answered.status, answered.failure.is_some());
    job.state.called = Some(Instant::now());
    let is_probe = permit.is_probe() && !job.org.gate.is_suspect(user);
    // Before the permit is given back, so that no other call slips in between.
    match call {
        Call::Patch(..) => patched(job.org, job.info.lane, user, answered.failure.as_ref()),
        Call::Search(_) => searched(job.org, user, answered.failure.as_ref()),
    }
    let token = permit.answered(user, call.verdict(answered.failure.as_ref()));
    job.state.progress.status = answered.status.or(job.state.progress.status);
    (answered, token, is_probe)
}

/// What the answer's status says beside the failure.
fn note_status(
    job: &mut Job<'_>,
    call: &Call<'_>,
    failure: &Failure,
    status: Option<u16>,
    admitted_at_throttle: &mut Option<u64>,
) {
    if matches!(failure, Failure::Throttled { .. }) {
        count_throttle(job, admitted_at_throttle);
    } else if status.is_some() {
        job.org.admitted.fetch_add(1, Ordering::Relaxed);
    }
    if status.is_some_and(|status| status != 401) {
        job.state.progress.token_refused = false;
        if call.is_patch() && !matches!(failure, Failure::Foreign { .. }) {
            job.org.gate.resolved(HaltCause::TokenRefused);
        }
    }
}

fn scrubber(org: &OrgContext, secrets: &[&str], token: &Token) -> Scrubber {
    let mut scrubber = Scrubber::default();
    for secret in secrets.iter().chain(&[token.expose(), org.config.client_secret.expose_secret()]) {
        scrubber.add(secret);
    }
    scrubber
}

fn body(org: &OrgContext, reset: &Reset, value: &str) -> Result<Body, Interrupted> {
    let bytes = scim::patch(value, &reset.attributes, org.form.extensions);
    bytes.map(Body::new).map_err(|_| Interrupted::dead(Reason::InvalidJob, "attributes: a value is not JSON"))
}

/// What the end of a PATCH says of its user, and of who answers.
fn patched(org: &OrgContext, lane: Lane, user: &UserId, failure: Option<&Failure>) {
    let gate = &org.gate;
    match Verdict::of(failure) {
        Verdict::Worked if failure.is_none() => {
            gate.reset(lane);
            gate.succeeded(user);
        }
        Verdict::Worked => gate.answered_by_org(user),
        Verdict::Faulted | Verdict::Throttled | Verdict::Neutral => {}
    }
}

/// The same of a search. What it says beside who answers is in `Verdict::of_search`.
fn searched(org: &OrgContext, name: &UserId, failure: Option<&Failure>) {
    match Verdict::of(failure) {
        Verdict::Worked => {
            org.gate.search_answered_by_org(name);
            if failure.is_some() {
                org.gate.search_led_nowhere();
            }
        }
        Verdict::Faulted | Verdict::Throttled | Verdict::Neutral => {}
    }
}

fn succeeded(job: &mut Job<'_>) {
    job.state.progress.attempts += 1;
    job.state.progress.password_set = PasswordSet::Yes;
    let issued = Issued { notification_id: Uuid::new_v4().to_string(), at: Timestamp::now() };
    job.state.is_now_set(issued, job.org.checkpoints.one_unnotified());
    job.org.admitted.fetch_add(1, Ordering::Relaxed);
    job.org.forbidden.succeeded();
    job.org.gate.resolved(HaltCause::TokenRefused);
    job.org.gate.resolved(HaltCause::Forbidden);
    job.org.gate.resolved(HaltCause::ForeignAnswer);
}

/// A job is throttled "while others pass" where calls of the org were admitted since it was throttled last.
fn count_throttle(job: &mut Job<'_>, at_last: &mut Option<u64>) {
    let admitted = job.org.admitted.load(Ordering::Relaxed);
    job.state.progress.throttles += u32::from(at_last.replace(admitted) != Some(admitted));
}

/// Does what the table decides.
async fn follow(
    job: &mut Job<'_>,
    call: &Call<'_>,
    token: &Token,
    (failure, probe): (Failure, bool),
    detail: String,
) -> Result<(), Interrupted> {
    let (org, user) = (job.org, call.user());
    let forbidden = if matches!(failure, Failure::Forbidden { .. }) { org.forbidden.forbidden(&user) } else { 0 };
    let before = (job.state.progress.password_set, job.state.progress.may_be_this_one);
    job.state.progress.note(&failure, forbidden, probe);
    match call {
        Call::Search(_) => (job.state.progress.password_set, job.state.progress.may_be_this_one) = before,
        Call::Patch(..) => {}
    }
    let decision = decide(&failure, &job.state.progress, forbidden, &org.retry.policy, rand::random());
    if matches!(failure, Failure::TokenRefused) {
        job.state.progress.token_refused = true;
        org.tokens.refused(token).await;
    }
    match decision.pause {
        Some(wait) if matches!(failure, Failure::Throttled { .. }) => org.gate.throttled(wait),
        Some(wait) => org.gate.pause(wait),
        None => {}
    }
    let delay_ms = match decision.next {
        Next::After(delay) => Some(millis(delay)),
        Next::At(moment) => Duration::try_from(moment.duration_since(Timestamp::now())).ok().map(millis),
        Next::Again | Next::FreshToken | Next::Hold(_) | Next::DeadLetter(_) => decision.pause.map(millis),
    };
    tracing::info!(job.id = %job.info.id, org = org.name, lane = job.info.lane.as_str(), attempt = job.state.progress.attempts, status = job.state.progress.status, delay_ms, next = %decision.next, detail = job.state.loggable(&detail), "a try failed");
    match decision.next {
        Next::Again | Next::FreshToken => {}
        Next::Hold(cause) => org.gate.stop(cause, &why(cause, &detail)),
        Next::After(delay) => {
            job.state.until =
                SignedDuration::try_from(delay).ok().and_then(|delay| Timestamp::now().checked_add(delay).ok());
            if job.info.runs_alone() {
                // It would hold up everybody, and the breaker must hear of other users before this one has used up its tries.
                return Err(Leave::Again(RequeueTarget::Queue).into());
            }
            let may_be_early = matches!(failure, Failure::Fault { wait: None, .. });
            backoff(job, &user, may_be_early).await?;
            job.state.until = None;
        }
        Next::At(moment) => {
            job.state.until = Some(moment);
            if job.state.gives_password_up() || job.info.runs_alone() {
                return Err(Leave::Again(job.waiting_place(moment)).into());
            }
            job.wait_its_time().await?;
            job.state.until = None;
        }
        Next::DeadLetter(reason) => {
            org.gate.ended(&user);
            return Err(Interrupted::dead(reason, detail));
        }
    }
    Ok(())
}

/// Waits out its own backoff. What fails although others pass is called again at once, and only once: so it is soon known whose fault it
/// is.
async fn backoff(job: &Job<'_>, user: &UserId, may_be_early: bool) -> Result<(), Leave> {
    tokio::select! {
        biased;
        () = job.org.gate.is_to_be_confirmed(user), if may_be_early => {
            // It is at work again, as it would be after its wait: who must run alone waits for it.
            job.unless_left(job.info.in_flight.goes_on()).await
        }
        waited = job.wait_its_time() => waited,
    }
}

/// What halted processing, and what to do.
fn why(cause: HaltCause, detail: &str) -> String {
    match cause {
        HaltCause::TokenRefused => format!(
            "the org refuses a fresh token: {detail}; check that scim_url and token_url are of one region, and that the client is not disabled"
        ),
        HaltCause::Forbidden => format!(
            "the org forbids the client to change users: {detail}; give its role the permission directory:user:setPassword and what the attributes need"
        ),
        HaltCause::ForeignAnswer => format!(
            "foreign_answer: {detail}; check scim_url, and what stands between this worker and the org, such as a proxy or a portal"
        ),
        // None of these is what a try of a PATCH decides.
        HaltCause::ClientRefused | HaltCause::Unpublishable | HaltCause::MailRefused => detail.to_owned(),
    }
}
