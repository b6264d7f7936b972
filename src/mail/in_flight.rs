//! The mails in flight, by whom they are for: of several for one person only the one whose password was set last is sent. An older one
//! that waits, for whatever, learns that a newer one has come.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::domain::note::Note;
use crate::domain::user::canonical;

/// An org and a user of it.
type Whom = (String, String);

/// All of them; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct InFlight(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    by_whom: HashMap<Whom, Vec<Entry>>,
    entered: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    issued_at: Timestamp,
    overtaken: CancellationToken,
}

/// One mail's entry, taken out when dropped.
#[derive(Debug)]
pub(super) struct Place {
    all: InFlight,
    whom: Whom,
    number: u64,
    /// Cancelled when a newer one for the same person is in flight, or was.
    pub(super) overtaken: CancellationToken,
}

impl InFlight {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more.
    pub(super) fn enter(&self, note: &Note) -> Place {
        let whom = (note.org.clone(), canonical(note.user.as_str()).into_owned());
        let overtaken = CancellationToken::new();
        let mut all = self.lock();
        all.entered += 1;
        let number = all.entered;
        let entries = all.by_whom.entry(whom.clone()).or_default();
        for entry in entries.iter() {
            if entry.issued_at < note.issued_at {
                entry.overtaken.cancel();
            } else if entry.issued_at > note.issued_at {
                overtaken.cancel();
            }
        }
        entries.push(Entry { number, issued_at: note.issued_at, overtaken: overtaken.clone() });
        drop(all);
        Place { all: self.clone(), whom, number, overtaken }
    }

    /// How many there are.
    #[cfg(test)]
    fn count(&self) -> usize {
        self.lock().by_whom.values().map(Vec::len).sum()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(entries) = all.by_whom.get_mut(&self.whom) {
            entries.retain(|entry| entry.number != self.number);
            if entries.is_empty() {
                all.by_whom.remove(&self.whom);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::job::JobId;
    use crate::domain::note::{Content, NoteId};
    use crate::domain::recipient::Recipient;
    use crate::domain::user::UserId;

    fn note(org: &str, user: &str, issued: i64) -> Note {
        Note {
            id: NoteId::parse("n").unwrap(),
            job: JobId::new("j"),
            org: org.into(),
            user: UserId::parse(user).unwrap(),
            to: Recipient::parse("to", "a@example.com").unwrap(),
            subject: String::new(),
            issued_at: Timestamp::from_second(issued).unwrap(),
            language: None,
            batch: None,
            content: Content::Sealed(String::new()),
        }
    }

    #[test]
    fn the_one_that_was_issued_last_overtakes_the_others_of_its_person_whichever_comes_first() {
        let all = InFlight::default();
        let enter = |org, user, issued| all.enter(&note(org, user, issued));
        let [first, newest, late] = [1, 3, 2].map(|issued| enter("main", "u", issued));
        let [elsewhere, other, again] = [enter("eu", "u", 9), enter("main", "v", 9), enter("main", "u", 3)];
        let overtaken =
            [&first, &newest, &late, &elsewhere, &other, &again].map(|place| place.overtaken.is_cancelled());
        assert_eq!(overtaken, [true, false, true, false, false, false]);
        assert_eq!(all.count(), 6);
        drop((first, newest, late, elsewhere, other, again));
        assert_eq!(all.count(), 0);
        assert!(all.lock().by_whom.is_empty());
    }
}
