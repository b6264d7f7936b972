//! Setting the password: through the gate, one PATCH, and what follows it, until it is set or given up.

use std::sync::atomic::Ordering;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Halt;
use super::desk::{Desk, loggable};
use super::memory::Trip;
use super::ticket::Ticket;
use crate::domain::failure::Failure;
use crate::domain::form::PasswordForm;
use crate::domain::job::Reset;
use crate::domain::notification::Issued;
use crate::domain::outcome::{PasswordSet, Reason};
use crate::domain::password::Password;
use crate::domain::retry::{Next, StopCause, decide};
use crate::failpoint::{self, Stage};
use crate::org::gate::Verdict;
use crate::scim::client::Body;
use crate::scim::token::Token;
use crate::wire::redact::Scrubber;
use crate::wire::scim;

/// Tries until the password is set; the trip then knows that it is. Every try passes the gate and sends the same bytes.
pub(super) async fn set_password(
    desk: &Desk,
    ticket: &Ticket,
    reset: &Reset,
    not_after: Option<Timestamp>,
    password: &Password,
    trip: &mut Trip,
) -> Result<(), Halt> {
    let secrets = Secrets { password, hashed: password.sha256_hex(), client: &desk.org.config.client_secret };
    let body = body(desk, reset, &secrets)?;
    let mut admitted_at_throttle = None;
    loop {
        let permit =
            desk.unless_left(desk.org.gate.pass(ticket.lane, not_after, trip.may_be_set()), ticket, trip).await?;
        let permit = permit.map_err(|_expired| Halt::Dead {
            reason: Reason::Expired,
            detail: Some("not-after had passed before the PATCH".into()),
        })?;
        failpoint::reach(Stage::Permitted, ticket.id.as_str());
        if !desk.lease.is_fresh() {
            // The process was held up between the permit and here, and another worker may have the lease.
            continue;
        }
        let answered = desk.org.scim.patch(permit.token(), &reset.user, &body).await;
        trip.called = Some(Instant::now());
        let probe = permit.is_probe();
        if answered.failure.is_none() {
            // Before the permit is given back, so that no other call slips in between.
            desk.org.gate.reset();
        }
        let token = permit.answered(&reset.user, Verdict::of(answered.failure.as_ref()));
        trip.progress.status = answered.status.or(trip.progress.status);
        if ticket.reply_to.is_some() {
            let response = serde_json::from_slice(&answered.body).ok();
            trip.response = response.map(|response| secrets.scrubber(&token).json(response));
        }
        let Some(failure) = answered.failure else {
            succeeded(desk, trip);
            failpoint::reach(Stage::Patched, ticket.id.as_str());
            return Ok(());
        };
        if matches!(failure, Failure::Throttled { .. }) {
            count_throttle(desk, &mut admitted_at_throttle, trip);
        } else if answered.status.is_some() {
            desk.org.admitted.fetch_add(1, Ordering::Relaxed);
        }
        if answered.status.is_some_and(|status| status != 401) {
            trip.progress.token_refused = false;
            desk.org.gate.mended(StopCause::TokenRefused);
        }
        let detail = secrets.scrubber(&token).text(&answered.detail.unwrap_or_default());
        follow(desk, ticket, reset, &token, (failure, probe), detail, trip).await?;
    }
}

/// What must not be in anything that the org's answer brings.
struct Secrets<'a> {
    password: &'a Password,
    hashed: Zeroizing<String>,
    client: &'a SecretString,
}

impl Secrets<'_> {
    fn scrubber(&self, token: &Token) -> Scrubber {
        let mut scrubber = Scrubber::default();
        for secret in [self.password.expose(), &self.hashed, token.expose(), self.client.expose_secret()] {
            scrubber.add(secret);
        }
        scrubber
    }
}

fn body(desk: &Desk, reset: &Reset, secrets: &Secrets<'_>) -> Result<Body, Halt> {
    let value = match desk.org.form.password {
        PasswordForm::Sha256 => secrets.hashed.as_str(),
        PasswordForm::Plaintext => secrets.password.expose(),
    };
    let bytes = scim::patch(value, &reset.attributes, desk.org.form.extensions);
    bytes
        .map(Body::new)
        .map_err(|_| Halt::Dead { reason: Reason::InvalidJob, detail: Some("attributes: a value is not JSON".into()) })
}

fn succeeded(desk: &Desk, trip: &mut Trip) {
    trip.progress.attempts += 1;
    trip.progress.password_set = PasswordSet::Yes;
    trip.issued = Some(Issued { notification_id: Uuid::new_v4().to_string(), at: Timestamp::now() });
    desk.org.admitted.fetch_add(1, Ordering::Relaxed);
    desk.org.forbidden.succeeded();
    desk.org.gate.mended(StopCause::TokenRefused);
    desk.org.gate.mended(StopCause::Forbidden);
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
    reset: &Reset,
    token: &Token,
    (failure, probe): (Failure, bool),
    detail: String,
    trip: &mut Trip,
) -> Result<(), Halt> {
    let org = &desk.org;
    let forbidden = if matches!(failure, Failure::Forbidden { .. }) { org.forbidden.forbidden(&reset.user) } else { 0 };
    trip.progress.note(&failure, forbidden, probe);
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
    let delay_ms = if let Next::After(delay) = decision.next {
        Some(delay.as_millis())
    } else {
        decision.pause.map(|wait| wait.as_millis())
    };
    tracing::info!(job.id = %ticket.id, org = org.name, lane = ticket.lane.as_str(), attempt = trip.progress.attempts, status = trip.progress.status, delay_ms, next = ?decision.next, detail = loggable(&detail, &reset.email), "a try failed");
    match decision.next {
        Next::Again | Next::FreshToken => {}
        Next::Hold(cause) => org.gate.stop(cause, &why(cause, &detail)),
        Next::After(delay) => {
            trip.until =
                SignedDuration::try_from(delay).ok().and_then(|delay| Timestamp::now().checked_add(delay).ok());
            desk.wait_its_time(ticket, trip).await?;
            trip.until = None;
        }
        Next::DeadLetter(reason) => {
            return Err(Halt::Dead { reason, detail: Some(detail) });
        }
    }
    Ok(())
}

/// What stopped the line, and what to mend.
fn why(cause: StopCause, detail: &str) -> String {
    match cause {
        StopCause::TokenRefused => format!(
            "the org refuses a fresh token: {detail}; check that scim_url and token_url are of one region, and that the client is not disabled"
        ),
        StopCause::Forbidden => format!(
            "the org forbids the client to change users: {detail}; give its role the permission directory:user:setPassword and what the attributes need"
        ),
        StopCause::ClientRefused | StopCause::Unpublishable => detail.to_owned(),
    }
}
