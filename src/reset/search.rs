//! Whose id a `userName` stands for: from the directory, or by a search at the org, which passes the gate as every call does.

use std::sync::atomic::Ordering;

use jiff::Timestamp;

use super::attempts::{self, Call};
use super::job::Job;
use super::state::Interrupted;
use crate::domain::outcome::Reason;
use crate::domain::user::{UserId, UserName};
use crate::wire::scim::{Found, found};

/// Finds the user; the job's state then knows who it is.
pub(super) async fn find(
    job: &mut Job<'_>,
    name: &UserName,
    not_after: Option<Timestamp>,
) -> Result<UserId, Interrupted> {
    // A job that goes on stays with the user it began with: their password may be set.
    if let Some(user) = job.state.user.clone().filter(|_| job.state.is_tried()) {
        return Ok(user);
    }
    let user = match job.org.user_ids.user(name) {
        Some(user) => user,
        None => search(job, name, not_after).await?,
    };
    Ok(job.state.user.insert(user).clone())
}

async fn search(job: &mut Job<'_>, name: &UserName, not_after: Option<Timestamp>) -> Result<UserId, Interrupted> {
    let org = &job.session.shared;
    let answered = attempts::until_done(job, &Call::Search(name), not_after, &[]).await?;
    org.admitted.fetch_add(1, Ordering::Relaxed);
    // It says nothing of a PATCH, and lifts no halt that is about one. The PATCH does, and it is the same try.
    job.state.is_just_found = true;
    // Nor does what a search before it met.
    org.gate.ended(&name.key());
    let found = found(&answered, name);
    if !matches!(found, Some(Found::One(_))) {
        org.gate.search_led_nowhere();
    }
    match found {
        Some(Found::One(user)) => {
            org.user_ids.found(name, user.clone());
            Ok(user)
        }
        Some(Found::Several) => Err(Interrupted::dead(
            Reason::AmbiguousUser,
            "userName: several users of the org have it; send the job with the userId of the one that is meant",
        )),
        Some(Found::Nobody) | None => {
            Err(Interrupted::dead(Reason::NotFound, "userName: the org knows no user of exactly this name"))
        }
    }
}
