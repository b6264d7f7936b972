//! A reset job: who, under which name, with which attributes, and how long it may wait.

use std::fmt;

use jiff::Timestamp;

use super::attribute::Attribute;
use super::language::Language;
use super::recipient::Recipient;
use super::user::{UserId, UserName};

/// The id a job goes by, in logs, outcomes and dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId {
    text: String,
    derived: bool,
}

impl JobId {
    /// Takes the producer's `message_id`.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), derived: false }
    }

    /// Takes the name made from what a job says that has none of its own: two equal jobs share it.
    pub fn derived(text: impl Into<String>) -> Self {
        Self { text: text.into(), derived: true }
    }

    /// Whether it is made from what the job says. Its text does not tell: a producer's own ids may look the same.
    pub fn is_derived(&self) -> bool {
        self.derived
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// For logs, traces and the page: see [`without_addresses`].
impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_addresses(&self.text))
    }
}

/// An id as it may be shown. Jobs of a batch are named `NAME/USER`, and a user's name often is an address.
pub fn without_addresses(id: &str) -> String {
    let parts = id.split('/').map(|part| if part.contains('@') { "[address]" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

/// The lane a job came by. A lane gets the next permit before those that come after it in [`Lane::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Somebody waits for it: the help desk.
    Interactive,
    /// Thousands at once: an onboarding window.
    Bulk,
}

impl Lane {
    /// All lanes, in the order in which they get permits.
    pub const ALL: [Lane; Self::COUNT] = [Lane::Interactive, Lane::Bulk];
    /// How many there are.
    pub const COUNT: usize = 2;
    /// Their names, in the order of [`Lane::ALL`].
    pub const NAMES: [&'static str; Self::COUNT] = ["interactive", "bulk"];
    /// What their jobs are, of many and of one: the titles in the AsyncAPI document.
    pub const JOBS: [[&'static str; 2]; Self::COUNT] = [
        ["Jobs that somebody waits for", "a job that somebody waits for"],
        ["Jobs by the thousand", "a job out of thousands"],
    ];
    /// The one whose queue and routing key have no lane in their names.
    pub const FIRST: Lane = Self::ALL[0];
    /// The one that gets its permits last.
    pub const LAST: Lane = Self::ALL[Self::COUNT - 1];

    /// Its place in what is kept for each lane: that in [`Lane::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The lane's name in messages, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        Self::NAMES[self.index()]
    }

    /// The lane of this name.
    ///
    /// # Errors
    /// Where there is none: a later version may have more.
    pub fn named(name: &str) -> Result<Self, UnknownLane> {
        let named = Self::ALL.into_iter().find(|lane| lane.as_str() == name);
        named.ok_or_else(|| UnknownLane(name.to_owned()))
    }
}

/// A lane's name that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[error("the lane {0:?} is not known here; there are {known}", known = Lane::NAMES.join(" and "))]
pub struct UnknownLane(pub String);

/// What its producer said of a job beside its body; all of it optional.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// When the reset was asked for.
    pub asked_at: Option<Timestamp>,
    /// No PATCH before this moment.
    pub not_before: Option<Timestamp>,
    /// No PATCH after this moment.
    pub not_after: Option<Timestamp>,
    /// The batch it belongs to.
    pub batch: Option<String>,
}

/// What a well-formed body asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// It carries no intent to reset: it is acked and nothing is called.
    PassThrough,
    /// A password is to be set.
    Reset(Reset),
}

/// Whose password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// The org's own id of the user.
    Id(UserId),
    /// The name the user logs in with: the org is asked for the id.
    Name(UserName),
}

impl Who {
    /// The id, where the job tells it.
    pub fn id(&self) -> Option<&UserId> {
        match self {
            Who::Id(user) => Some(user),
            Who::Name(_) => None,
        }
    }

    /// What the user's line goes by: the id, or what stands in for it.
    pub fn key(&self) -> UserId {
        match self {
            Who::Id(user) => user.clone(),
            Who::Name(name) => name.key(),
        }
    }

    /// As the job says it.
    pub fn as_str(&self) -> &str {
        match self {
            Who::Id(user) => user.as_str(),
            Who::Name(name) => name.as_str(),
        }
    }
}

/// A reset that may be carried out: every field checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// Whose password.
    pub who: Who,
    /// Who is told.
    pub recipient: Recipient,
    /// What is set beside it, in the order it came.
    pub attributes: Vec<Attribute>,
}

impl Reset {
    /// The language the person prefers, where the attributes name one (RFC 7643, section 4.1.1; names ignore case).
    pub fn language(&self) -> Option<Language> {
        let is_it = |attribute: &&Attribute| attribute.name.as_str().eq_ignore_ascii_case("preferredLanguage");
        let json = self.attributes.iter().find(is_it)?.json.trim();
        Language::parse(json.strip_prefix('"')?.strip_suffix('"')?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::attribute::AttributeName;
    use super::*;

    #[test]
    fn each_lane_has_its_place_and_its_name_and_another_name_is_none() {
        assert_eq!(Lane::ALL.map(Lane::index), std::array::from_fn(|at| at));
        assert_eq!(Lane::ALL.map(|lane| Lane::named(lane.as_str())), Lane::ALL.map(Ok));
        let unknown = Lane::named("Bulk").unwrap_err();
        let said = format!("the lane \"Bulk\" is not known here; there are {}", Lane::NAMES.join(" and "));
        assert_eq!(unknown.to_string(), said);
    }

    #[test]
    fn an_id_keeps_everything_but_an_address() {
        assert_eq!(without_addresses("november/agent@example.com"), "november/[address]");
        assert_eq!(without_addresses("agent@example.com"), "[address]");
        assert_eq!(without_addresses("november/0f6e7c1a-5b7e"), "november/0f6e7c1a-5b7e");
    }

    fn language(name: &str, json: &str) -> Option<String> {
        let attribute = Attribute { name: AttributeName::parse(name).unwrap(), json: json.to_owned() };
        let who = Who::Id(UserId::parse("u").unwrap());
        let recipient = Recipient::parse("email", "a@example.com").unwrap();
        Reset { who, recipient, attributes: vec![attribute] }.language().map(|language| language.to_string())
    }

    #[test]
    fn a_job_names_a_language_by_an_attribute_that_is_a_tag() {
        assert_eq!(language("preferredLanguage", "\"de-AT\"").as_deref(), Some("de-AT"));
        assert_eq!(language("PREFERREDLANGUAGE", " \"de_AT\" ").as_deref(), Some("de-AT"));
        for other in ["null", "5", "\"\"", "\"de, en;q=0.5\"", "[\"de\"]", "\"d\\u0065\""] {
            assert_eq!(language("preferredLanguage", other), None, "{other}");
        }
        assert_eq!(language("title", "\"de\""), None);
    }
}
