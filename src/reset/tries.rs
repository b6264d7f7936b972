//! Setting the password, and finding out whose: through the gate, one call, and what follows it, until it is done or given up.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret;
use uuid::Uuid;

use super::desk::Desk;
use super::memory::Trip;
use super::ticket::Ticket;
use super::{Berth, Halt, Leave};
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
use crate::throttle::gate::{Caller, Verdict};
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

    async fn make(&self, desk: &Desk, token: &Token) -> Answered {
        match self {
            Call::Search(name) => desk.org.scim.search(token, name).await,
            Call::Patch(user, body) => desk.org.scim.patch(token, user, body).await,
        }
    }
}

/// Tries until the password is set; the trip then knows that it is.
pub(super) async fn set_password(
    desk: &Desk,
    ticket: &Ticket,
    user: &UserId,
    reset: &Reset,
    not_after: Option<Timestamp>,
    password: &Password,
    trip: &mut Trip,
) -> Result<(), Halt> {
    let hashed = password.sha256_hex();
    let value = match desk.org.form.password {
        PasswordForm::Sha256 => hashed.as_str(),
        PasswordForm::Plaintext => password.expose(),
    };
    let call = Call::Patch(user, body(desk, reset, value)?);
    until_done(desk, ticket, &call, not_after, &[password.expose(), &hashed], trip).await?;
    succeeded(desk, trip);
    failpoint::reach(Stage::Patched, ticket.id.as_str());
    Ok(())
}

/// Tries until the call is answered well, and returns the answer's body. Every try passes the gate and sends the same bytes.
/// `secrets`: what must not be in anything that the org's answer brings, beside the client's own.
pub(super) async fn until_done(
    desk: &Desk,
    ticket: &Ticket,
    call: &Call<'_>,
    not_after: Option<Timestamp>,
    secrets: &[&str],
    trip: &mut Trip,
) -> Result<Vec<u8>, Halt> {
    let user = call.user();
    let is_patch = matches!(call, Call::Patch(..));
    let mut goes_on = is_patch && std::mem::take(&mut trip.is_just_found);
    let mut admitted_at_throttle = None;
    loop {
        let at_gate = ticket.span.gate();
        let caller = Caller { user: user.clone(), goes_on: std::mem::take(&mut goes_on) };
        let passed = desk.org.gate.pass_for(Some(caller), ticket.lane, not_after, trip.may_be_set());
        let permit = desk.unless_left(passed, ticket, trip).await?;
        drop(at_gate);
        let permit = permit.map_err(|_expired| {
            desk.org.gate.ended(&user);
            Halt::Dead { reason: Reason::Expired, detail: Some("not-after had passed before the PATCH".into()) }
        })?;
        failpoint::reach(Stage::Permitted, ticket.id.as_str());
        if !desk.lease.is_fresh() {
            // The process was held up between the permit and here, and another worker may have the lease.
            continue;
        }
        let (method, path) = call.as_traced();
        let span = ticket.span.call(method, path, trip.progress.attempts + 1);
        let mut answered = call.make(desk, permit.token()).await;
        if answered.failure.as_ref().is_some_and(|failure| proves_set(failure, &trip.progress)) {
            tracing::info!(job.id = %ticket.id, org = desk.org.name, "the org knows this password as one that was used: a try before, of which nothing was known, has set it");
            answered.failure = None;
        }
        span.answered(answered.status, answered.failure.is_some());
        trip.called = Some(Instant::now());
        // A probe's failure brings no job nearer to its end, since it is the org's; a suspect's is its own.
        let probe = permit.is_probe() && !desk.org.gate.is_suspect(&user);
        if is_patch {
            // Before the permit is given back, so that no other call slips in between.
            patched(desk, ticket.lane, &user, answered.failure.as_ref());
        }
        let token = permit.answered(&user, call.verdict(answered.failure.as_ref()));
        trip.progress.status = answered.status.or(trip.progress.status);
        if ticket.reply_to.is_some() {
            let response = serde_json::from_slice(&answered.body).ok();
            trip.response = response.map(|response| scrubber(desk, secrets, &token).json(response));
        }
        let failure = match answered.failure {
            None => return Ok(answered.body),
            Some(Failure::Foreign { may_have_set, .. }) => {
                Failure::Foreign { odd: desk.org.gate.answered_by_another(&user), may_have_set }
            }
            Some(failure) => failure,
        };
        let failure = in_time(failure, Timestamp::now(), not_after);
        if matches!(failure, Failure::Throttled { .. }) {
            count_throttle(desk, &mut admitted_at_throttle, trip);
        } else if answered.status.is_some() {
            desk.org.admitted.fetch_add(1, Ordering::Relaxed);
        }
        if answered.status.is_some_and(|status| status != 401) {
            trip.progress.token_refused = false;
            if is_patch && !matches!(failure, Failure::Foreign { .. }) {
                desk.org.gate.resolved(HaltCause::TokenRefused);
            }
        }
        let detail = scrubber(desk, secrets, &token).text(&answered.detail.unwrap_or_default());
        if Verdict::of(Some(&failure)) == Verdict::Faulted {
            let status =
                answered.status.filter(|_| !detail.starts_with("HTTP ")).map(|status| format!("HTTP {status}, "));
            desk.org.gate.faulted(&format!("{}{}", status.unwrap_or_default(), trip.loggable(&detail)));
        }
        follow(desk, ticket, call, &token, (failure, probe), detail, trip).await?;
    }
}

fn scrubber(desk: &Desk, secrets: &[&str], token: &Token) -> Scrubber {
    let mut scrubber = Scrubber::default();
    for secret in secrets.iter().chain(&[token.expose(), desk.org.config.client_secret.expose_secret()]) {
        scrubber.add(secret);
    }
    scrubber
}

fn body(desk: &Desk, reset: &Reset, value: &str) -> Result<Body, Halt> {
    let bytes = scim::patch(value, &reset.attributes, desk.org.form.extensions);
    bytes
        .map(Body::new)
        .map_err(|_| Halt::Dead { reason: Reason::InvalidJob, detail: Some("attributes: a value is not JSON".into()) })
}

/// What the end of a PATCH says of its user, and of who answers.
fn patched(desk: &Desk, lane: Lane, user: &UserId, failure: Option<&Failure>) {
    let gate = &desk.org.gate;
    match Verdict::of(failure) {
        Verdict::Worked if failure.is_none() => {
            gate.reset(lane);
            gate.succeeded(user);
        }
        Verdict::Worked => gate.answered_by_org(user),
        Verdict::Faulted | Verdict::Throttled | Verdict::Neutral => {}
    }
}

fn succeeded(desk: &Desk, trip: &mut Trip) {
    trip.progress.attempts += 1;
    trip.progress.password_set = PasswordSet::Yes;
    let issued = Issued { notification_id: Uuid::new_v4().to_string(), at: Timestamp::now() };
    trip.is_now_set(issued, desk.org.memory.one_untold());
    desk.org.admitted.fetch_add(1, Ordering::Relaxed);
    desk.org.forbidden.succeeded();
    desk.org.gate.resolved(HaltCause::TokenRefused);
    desk.org.gate.resolved(HaltCause::Forbidden);
    desk.org.gate.resolved(HaltCause::ForeignAnswer);
}

/// A job is throttled "while others pass" where calls of the org were admitted since it was throttled last.
fn count_throttle(desk: &Desk, at_last: &mut Option<u64>, trip: &mut Trip) {
    let admitted = desk.org.admitted.load(Ordering::Relaxed);
    trip.progress.throttles += u32::from(at_last.replace(admitted) != Some(admitted));
}

/// Does what the table decides.
async fn follow(
    desk: &Desk,
    ticket: &Ticket,
    call: &Call<'_>,
    token: &Token,
    (failure, probe): (Failure, bool),
    detail: String,
    trip: &mut Trip,
) -> Result<(), Halt> {
    let (org, user) = (&desk.org, call.user());
    let forbidden = if matches!(failure, Failure::Forbidden { .. }) { org.forbidden.forbidden(&user) } else { 0 };
    let before = (trip.progress.password_set, trip.progress.may_be_this_one);
    trip.progress.note(&failure, forbidden, probe);
    match call {
        Call::Search(_) => (trip.progress.password_set, trip.progress.may_be_this_one) = before,
        Call::Patch(..) => {}
    }
    let decision = decide(&failure, &trip.progress, forbidden, &org.retry.policy, rand::random());
    if matches!(failure, Failure::TokenRefused) {
        trip.progress.token_refused = true;
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
    tracing::info!(job.id = %ticket.id, org = org.name, lane = ticket.lane.as_str(), attempt = trip.progress.attempts, status = trip.progress.status, delay_ms, next = %decision.next, detail = trip.loggable(&detail), "a try failed");
    match decision.next {
        Next::Again | Next::FreshToken => {}
        Next::Hold(cause) => org.gate.stop(cause, &why(cause, &detail)),
        Next::After(delay) => {
            trip.until =
                SignedDuration::try_from(delay).ok().and_then(|delay| Timestamp::now().checked_add(delay).ok());
            if ticket.runs_alone() {
                // It would hold up everybody, and the breaker must hear of other users before this one has used up its tries.
                return Err(Leave::Again(Berth::Lane).into());
            }
            // What fails although others pass is called again at once, and only once: so it is soon known whose fault it is.
            let may_be_early = matches!(failure, Failure::Fault { wait: None, .. });
            tokio::select! {
                biased;
                () = org.gate.is_to_be_confirmed(&user), if may_be_early => {
                    // It is at work again, as it would be after its wait: who must run alone waits for it.
                    desk.unless_left(ticket.in_flight.goes_on(), ticket, trip).await?;
                }
                waited = desk.wait_its_time(ticket, trip) => waited?,
            }
            trip.until = None;
        }
        Next::At(moment) => {
            trip.until = Some(moment);
            if trip.gives_password_up() || ticket.runs_alone() {
                return Err(Leave::Again(desk.waiting_place(moment)).into());
            }
            desk.wait_its_time(ticket, trip).await?;
            trip.until = None;
        }
        Next::DeadLetter(reason) => {
            org.gate.ended(&user);
            return Err(Halt::Dead { reason, detail: Some(detail) });
        }
    }
    Ok(())
}

/// What stopped the line, and what to fix.
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
