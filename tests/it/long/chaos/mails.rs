//! The mails: a mailer as one more process, its mail server, which refuses everybody for a while, and what must be true of what it took.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use resetd::commands::demo::postbox::{Postbox, ReceivedMail};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::DropGuard;

use crate::mails::mailer::{section, serve};
use crate::operator::process::{Process, Run};
use crate::world::{Taken, World};

/// A queue of the run's own that gets each notification too: what the workers said is checked by it, and what the mailer made of it at
/// the mail server.
pub const COPIES: &str = "chaos.copies";
/// Mails that a refusal of everybody may cost: the fifth in a row halts the mailer.
const COST: usize = 4;

/// The mail server.
pub struct Post {
    postbox: Postbox,
    refusing: Arc<AtomicBool>,
    pub port: u16,
    _serving: DropGuard,
}

impl Post {
    pub async fn open() -> Self {
        let refusing = Arc::new(AtomicBool::new(false));
        let refuses = Arc::clone(&refusing);
        let postbox = Postbox::answering(move |_, _| {
            let says = if refuses.load(Ordering::Relaxed) { "554 5.7.1 Relay access denied" } else { "250 taken" };
            (Duration::from_millis(5), says.to_owned())
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = serve(&postbox, listener).await;
        Self { postbox, refusing, port, _serving: serving }
    }

    /// Whether it refuses everybody from now on.
    pub fn refuses(&self, everybody: bool) {
        self.refusing.store(everybody, Ordering::Relaxed);
    }

    pub fn letters(&self) -> Vec<ReceivedMail> {
        self.postbox.letters()
    }
}

/// The mailer's part of the configuration.
pub fn config(post: &Post) -> String {
    section(post.port)
}

/// Starts the mailer, with a queue of copies of what it gets.
pub async fn start(world: &World) -> Process {
    super::copied(world, COPIES, "notifications", &["email"]).await;
    Run::of(world, &["--log", "json", "mailer"]).start()
}

/// What became of the mails.
pub struct Mails<'a> {
    /// Each notification once, by its id.
    notes: BTreeMap<&'a str, &'a Value>,
    /// What the mailer's records say of each.
    ends: BTreeMap<String, BTreeSet<(String, String)>>,
    letters: &'a [ReceivedMail],
    dead: BTreeSet<String>,
    /// How often the mail server refused everybody.
    refusals: usize,
}

impl<'a> Mails<'a> {
    pub fn new(
        copies: &'a [Value],
        records: &[&Taken],
        letters: &'a [ReceivedMail],
        dead: &[Taken],
        refusals: usize,
    ) -> Self {
        let mut ends: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
        for record in records {
            let record = record.json();
            let said = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
            ends.entry(said("notificationId")).or_default().insert((said("outcome"), said("reason")));
        }
        let id = |note: &Value| note["notificationId"].as_str().unwrap_or_default().to_owned();
        Self {
            notes: copies.iter().map(|note| (note["notificationId"].as_str().unwrap(), note)).collect(),
            ends,
            letters,
            dead: dead.iter().map(|dead| id(&dead.json())).collect(),
            refusals,
        }
    }

    fn has(&self, id: &str, outcome: &str, reason: &str) -> bool {
        self.ends.get(id).is_some_and(|ends| ends.contains(&(outcome.to_owned(), reason.to_owned())))
    }

    fn given_up(&self) -> usize {
        self.notes.keys().filter(|id| self.has(id, "notification_failed", "undeliverable")).count()
    }

    /// The number of the last mail with this notification.
    fn last(&self, id: &str) -> Option<usize> {
        self.letters.iter().rposition(|letter| letter.message_id.trim_start_matches('<').starts_with(id))
    }

    /// Each notification has an end, each that counts as sent was taken with its password, the newest of everybody is the last that came,
    /// and none is given up but those that a refusal of everybody costs.
    pub fn wrong(&self, newest: &BTreeMap<String, &Value>) -> Vec<String> {
        let mut wrong = Vec::new();
        let newest: BTreeMap<&str, &str> =
            newest.iter().map(|(user, note)| (note["notificationId"].as_str().unwrap(), user.as_str())).collect();
        for (id, note) in &self.notes {
            let Some(ends) = self.ends.get(*id) else {
                wrong.push(format!("the notification {id} has no end"));
                continue;
            };
            let sent = self.has(id, "notified", "");
            let refused = self.has(id, "notification_failed", "undeliverable");
            let superseded = self.has(id, "notification_failed", "superseded") && !newest.contains_key(id);
            if !(sent || refused || superseded) {
                wrong.push(format!("the notification {id} of {} ended as none may: {ends:?}", note["userId"]));
            }
            let last = self.last(id);
            if sent && last.is_none_or(|n| !self.letters[n].text.contains(note["temporaryPassword"].as_str().unwrap()))
            {
                wrong.push(format!("the mail {id} counts as sent, and no mail with its password came"));
            }
            if refused && !sent && !self.dead.contains(*id) {
                wrong.push(format!("the mail {id} was given up and is no dead mail"));
            }
            if let Some(last) = last.filter(|_| newest.contains_key(id)) {
                let to = &self.letters[last].to;
                let after = self.letters[last..]
                    .iter()
                    .find(|letter| &letter.to == to && !letter.message_id.trim_start_matches('<').starts_with(id));
                if let Some(after) = after {
                    wrong.push(format!("after the newest mail {id} there came {} for the same user", after.message_id));
                }
            }
        }
        let most = COST * self.refusals;
        if self.given_up() > most {
            wrong.push(format!(
                "{} mails were given up, where {} refusals cost {most}",
                self.given_up(),
                self.refusals
            ));
        }
        wrong
    }

    /// Rows of the table.
    pub fn rows(&self) -> [(&'static str, usize); 5] {
        let ids: BTreeSet<&str> = self.letters.iter().map(|letter| letter.message_id.as_str()).collect();
        let superseded = self.notes.keys().filter(|id| self.has(id, "notification_failed", "superseded")).count();
        [
            ("mails that the mail server took", self.letters.len()),
            ("of them twice", self.letters.len() - ids.len()),
            ("superseded", superseded),
            ("given up", self.given_up()),
            ("refusals of everybody", self.refusals),
        ]
    }
}
