//! Whose id a `userName` stands for: from the directory, or by a search at the org, which passes the gate as every call does.

use std::sync::atomic::Ordering;

use jiff::Timestamp;

use super::Halt;
use super::desk::Desk;
use super::memory::Trip;
use super::ticket::Ticket;
use super::tries::{self, Call};
use crate::domain::outcome::Reason;
use crate::domain::user::{UserId, UserName};
use crate::wire::scim::{Found, found};

/// Finds the user; the trip then knows who it is.
pub(super) async fn find(
    desk: &Desk,
    ticket: &Ticket,
    name: &UserName,
    not_after: Option<Timestamp>,
    trip: &mut Trip,
) -> Result<UserId, Halt> {
    // A trip that goes on stays with the user it began with: their password may be set.
    if let Some(user) = trip.user.clone().filter(|_| trip.is_tried()) {
        return Ok(user);
    }
    let user = match desk.org.user_ids.user(name) {
        Some(user) => user,
        None => search(desk, ticket, name, not_after, trip).await?,
    };
    Ok(trip.user.insert(user).clone())
}

async fn search(
    desk: &Desk,
    ticket: &Ticket,
    name: &UserName,
    not_after: Option<Timestamp>,
    trip: &mut Trip,
) -> Result<UserId, Halt> {
    let org = &desk.org;
    let answered = tries::until_done(desk, ticket, &Call::Search(name), not_after, &[], trip).await?;
    org.admitted.fetch_add(1, Ordering::Relaxed);
    // It says nothing of a PATCH, and lifts no halt. The PATCH does, and it is the same try.
    trip.is_just_found = true;
    // Nor does what a search before it met.
    org.gate.ended(&name.key());
    let dead = |reason, detail: &str| Halt::Dead { reason, detail: Some(detail.into()) };
    match found(&answered, name) {
        Some(Found::One(user)) => {
            org.user_ids.found(name, user.clone());
            Ok(user)
        }
        Some(Found::Several) => Err(dead(
            Reason::AmbiguousUser,
            "userName: several users of the org have it; send the job with the userId of the one that is meant",
        )),
        Some(Found::Nobody) | None => {
            Err(dead(Reason::NotFound, "userName: the org knows no user of exactly this name"))
        }
    }
}
