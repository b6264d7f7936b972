//! The two kinds of letters: jobs that were given up, and mails. The verbs are the same; what a letter says, and what a replay makes of
//! it, is not.

use std::hash::Hash;

use anyhow::Result;
use comfy_table::Table;
use jiff::Timestamp;

use super::action::Action;
use super::filter::Filter;
use super::table;
use crate::amqp::letters::Held;
use crate::amqp::names::Names;
use crate::amqp::publisher::{Message, Publisher, Unpublished};
use crate::config::Config;
use crate::domain::attribute::AllowedAttributes;
use crate::domain::job::Lane;
use crate::domain::user::UserId;
use crate::wire::dead_mail::{self, DeadMail};
use crate::wire::letter::{self, DeadLetter};

/// What the verbs ask of a letter.
pub(super) trait Kind {
    /// A letter as it is read.
    type DeadLetter: Clone + Eq + Hash;
    /// What a round of jobs is: where nothing is said, letters of these orgs alone.
    const BY_ORG: bool;

    /// The queue of an org's letters, or of all orgs'.
    fn queue(names: &Names) -> String;
    /// What the letters are called together.
    fn title(org: &str) -> String;
    /// Reads one.
    fn read(held: &Held) -> Self::DeadLetter;
    /// What it is called.
    fn id(letter: &Self::DeadLetter) -> &str;
    /// Whether it passes.
    fn passes(filter: &Filter, org: Option<&str>, letter: &Self::DeadLetter) -> bool;
    /// Why that cannot be done with it.
    fn hindrance(action: Action, letter: &Self::DeadLetter) -> Option<String>;
    /// How many there are for each reason.
    fn by_reason(letters: &[Self::DeadLetter]) -> Table;
    /// All of them, and the newest one by one.
    fn list(org: &str, letters: &[Self::DeadLetter], there: usize, limit: usize) -> String;
    /// One in full, with what may be shown of its body.
    fn one(org: &str, letter: &Self::DeadLetter, held: &Held, allowed: &AllowedAttributes) -> String;
    /// One as JSON, with what may be shown of its body where it is given.
    fn json(org: &str, letter: &Self::DeadLetter, held: Option<&Held>, allowed: &AllowedAttributes) -> String;
    /// Publishes the fresh job that it becomes.
    async fn replay(
        names: &Names,
        publisher: &Publisher,
        letter: &Self::DeadLetter,
        held: &Held,
    ) -> Result<(), Unpublished>;
    /// Publishes the record that it was dropped.
    async fn drop(
        names: &Names,
        org: &str,
        publisher: &Publisher,
        letter: &Self::DeadLetter,
    ) -> Result<(), Unpublished>;
}

/// The orgs whose queues are looked through: one name that is no org's, where all share a queue.
pub(super) fn orgs<K: Kind>(config: &Config, named: Option<&str>) -> Result<Vec<String>> {
    Ok(if K::BY_ORG { config.orgs_meant(named)? } else { vec![String::new()] })
}

/// Jobs that were given up.
pub(super) struct Jobs;

impl Kind for Jobs {
    type DeadLetter = DeadLetter;
    const BY_ORG: bool = true;

    fn queue(names: &Names) -> String {
        names.dead()
    }

    fn title(org: &str) -> String {
        format!("org {org}")
    }

    fn read(held: &Held) -> DeadLetter {
        DeadLetter::read(&held.body, &held.properties)
    }

    fn id(letter: &DeadLetter) -> &str {
        letter.job.as_str()
    }

    fn passes(filter: &Filter, _org: Option<&str>, letter: &DeadLetter) -> bool {
        filter.takes(letter)
    }

    fn hindrance(action: Action, letter: &DeadLetter) -> Option<String> {
        match action {
            Action::Replay => letter.hindrance().map(|why| table::plain(&why)),
            Action::Drop => None,
        }
    }

    fn by_reason(letters: &[DeadLetter]) -> Table {
        table::by_reason(letters)
    }

    fn list(org: &str, letters: &[DeadLetter], there: usize, limit: usize) -> String {
        table::list(org, letters, there, limit)
    }

    fn one(org: &str, letter: &DeadLetter, held: &Held, allowed: &AllowedAttributes) -> String {
        table::one(letter, org, &letter::shown(&held.body, allowed))
    }

    fn json(org: &str, letter: &DeadLetter, held: Option<&Held>, allowed: &AllowedAttributes) -> String {
        letter::line(letter, org, held.map(|held| letter::shown(&held.body, allowed)))
    }

    async fn replay(names: &Names, publisher: &Publisher, letter: &DeadLetter, held: &Held) -> Result<(), Unpublished> {
        // One whose lane is not known is not meant.
        let Ok(lane) = letter.lane else { return Ok(()) };
        let properties = letter::replayed(&held.body, &held.properties);
        let (exchange, key) = (names.resets(), names.lane_key(lane));
        publisher.publish(&Message { exchange: &exchange, key: &key, body: &held.body, properties }).await
    }

    async fn drop(names: &Names, org: &str, publisher: &Publisher, letter: &DeadLetter) -> Result<(), Unpublished> {
        let (body, properties) = letter::dropped(letter, org, Timestamp::now());
        let (exchange, key) = (names.outcomes(), format!("{org}.dropped"));
        publisher.publish(&Message { exchange: &exchange, key: &key, body: &body, properties }).await
    }
}

/// Mails that were given up. Their passwords are gone: a replay makes new ones.
pub(super) struct Mails;

impl Kind for Mails {
    type DeadLetter = DeadMail;
    const BY_ORG: bool = false;

    fn queue(names: &Names) -> String {
        names.emails_dead()
    }

    fn title(_org: &str) -> String {
        "emails".into()
    }

    fn read(held: &Held) -> DeadMail {
        DeadMail::read(&held.body, &held.properties)
    }

    fn id(letter: &DeadMail) -> &str {
        &letter.id
    }

    fn passes(filter: &Filter, org: Option<&str>, letter: &DeadMail) -> bool {
        let DeadMail { remains, reason, batch, dead_at, .. } = letter;
        let user = |wanted: &String| remains.user_id.as_ref() == Some(wanted);
        org.is_none_or(|org| remains.org.as_deref() == Some(org))
            && filter.passes(reason, *dead_at, batch.as_deref(), user)
    }

    fn hindrance(action: Action, letter: &DeadMail) -> Option<String> {
        let unknown =
            "it does not say whose it was (org, user and address); send a job for that person from where it came";
        match action {
            Action::Replay => letter.whom().is_none().then(|| unknown.to_owned()),
            Action::Drop => None,
        }
    }

    fn by_reason(letters: &[DeadMail]) -> Table {
        table::reasons(letters.iter().map(|letter| (table::plain(&letter.reason), letter.dead_at)))
    }

    fn list(_org: &str, letters: &[DeadMail], there: usize, limit: usize) -> String {
        table::mails(letters, there, limit)
    }

    fn one(_org: &str, letter: &DeadMail, _held: &Held, _allowed: &AllowedAttributes) -> String {
        table::one_mail(letter)
    }

    fn json(_org: &str, letter: &DeadMail, held: Option<&Held>, _allowed: &AllowedAttributes) -> String {
        dead_mail::line(letter, held.is_some())
    }

    async fn replay(names: &Names, publisher: &Publisher, letter: &DeadMail, _held: &Held) -> Result<(), Unpublished> {
        // One that does not say whose it was is not meant.
        let Some((org, user, to)) = letter.whom() else { return Ok(()) };
        let (body, properties) = dead_mail::again(letter, &user, &to, Timestamp::now());
        let (exchange, key) = (names.resets(), names.of(org).lane_key(Lane::Interactive));
        publisher.publish(&Message { exchange: &exchange, key: &key, body: &body, properties }).await
    }

    async fn drop(names: &Names, _org: &str, publisher: &Publisher, letter: &DeadMail) -> Result<(), Unpublished> {
        let (body, properties) = dead_mail::dropped(letter, Timestamp::now());
        let org = letter.remains.org.as_deref().filter(|org| UserId::parse(org).is_ok()).unwrap_or("unknown");
        let (exchange, key) = (names.outcomes(), format!("{org}.dropped"));
        publisher.publish(&Message { exchange: &exchange, key: &key, body: &body, properties }).await
    }
}
