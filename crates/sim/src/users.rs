//! The users of the org: which there are, their attributes, and the hashes of their passwords.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    aging::{Aging, Past},
    attribute::{URN_SCHEMA, extension_name},
    invalid::Invalid,
    operation::{Action, Change},
    password::Digest,
    tally::Stats,
};

const USER_SCHEMA: &str = "urn:ietf:params:scim:schemas:core:2.0:User";

/// What the sim tells of a user; never the password or its hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserView {
    /// The id in the path of the calls.
    pub id: String,
    /// How often the password was set.
    pub password_sets: u64,
    /// The attributes that were set, each under its path as it was sent.
    pub attributes: BTreeMap<String, Value>,
    /// When the password was last set (RFC 3339, UTC).
    pub last_set_at: Option<String>,
}

/// All users. No `Debug`: it holds hashes of passwords.
pub(super) struct Users {
    seeded: Option<HashSet<String>>,
    aging: Aging,
    records: HashMap<String, Record>,
    password_sets: u64,
    with_password: u64,
    sets_by_user_max: u64,
}

#[derive(Default)]
struct Record {
    digest: Option<Digest>,
    past: Past,
    password_sets: u64,
    last_set_at: Option<Timestamp>,
    attributes: BTreeMap<String, Value>,
    version: u64,
    last_modified: Option<Timestamp>,
}

impl Users {
    pub(super) fn new(seeded: Option<&[String]>, aging: Aging) -> Self {
        Self {
            seeded: seeded.map(|ids| ids.iter().cloned().collect()),
            aging,
            records: HashMap::new(),
            password_sets: 0,
            with_password: 0,
            sets_by_user_max: 0,
        }
    }

    pub(super) fn exists(&self, id: &str) -> bool {
        !id.is_empty() && self.seeded.as_ref().is_none_or(|seeded| seeded.contains(id))
    }

    /// Refuses a password that the rules about old ones do not admit now.
    pub(super) fn check(&self, id: &str, changes: &[Change], now: Timestamp) -> Result<(), Invalid> {
        self.records.get(id).map_or(Ok(()), |record| record.past.check(changes, self.aging, now))
    }

    /// Carries out all changes on a user, who must exist.
    pub(super) fn apply(&mut self, id: &str, changes: Vec<Change>, now: Timestamp) {
        let record = self.records.entry(id.to_owned()).or_default();
        for Change { path, action } in changes {
            match action {
                Action::Password(digest) => {
                    self.with_password += u64::from(record.digest.is_none());
                    record.past.add(digest.clone(), now, self.aging.history);
                    record.digest = Some(digest);
                    record.password_sets += 1;
                    record.last_set_at = Some(now);
                    self.password_sets += 1;
                    self.sets_by_user_max = self.sets_by_user_max.max(record.password_sets);
                }
                Action::Replace(value) => {
                    record.attributes.insert(path, value);
                }
                Action::Add(value) => add(record.attributes.entry(path).or_insert(Value::Null), value),
                Action::Remove => {
                    record.attributes.remove(&path);
                }
            }
        }
        record.version += 1;
        record.last_modified = Some(now);
    }

    pub(super) fn logs_in(&self, id: &str, password: &str) -> bool {
        let stored = self.records.get(id).and_then(|record| record.digest.as_ref());
        stored.is_some_and(|stored| *stored == Digest::of(password))
    }

    pub(super) fn view(&self, id: &str) -> Option<UserView> {
        if !self.exists(id) {
            return None;
        }
        let record = self.records.get(id);
        Some(UserView {
            id: id.to_owned(),
            password_sets: record.map_or(0, |record| record.password_sets),
            attributes: record.map(|record| record.attributes.clone()).unwrap_or_default(),
            last_set_at: record.and_then(|record| record.last_set_at).map(|at| at.to_string()),
        })
    }

    /// The SCIM resource of a user who exists (RFC 7643, section 4.1): without the password.
    pub(super) fn resource(&self, id: &str) -> Value {
        let mut resource = Map::new();
        let mut extension = Map::new();
        let record = self.records.get(id);
        for (path, value) in record.iter().flat_map(|record| &record.attributes) {
            match extension_name(path) {
                Some(name) => extension.insert(name.to_owned(), value.clone()),
                None => resource.insert(path.clone(), value.clone()),
            };
        }
        let mut schemas = vec![USER_SCHEMA];
        if !extension.is_empty() {
            schemas.push(URN_SCHEMA);
            resource.insert(URN_SCHEMA.to_owned(), Value::Object(extension));
        }
        resource.insert("schemas".to_owned(), json!(schemas));
        resource.insert("id".to_owned(), json!(id));
        resource.entry("userName").or_insert_with(|| json!(default_name(id)));
        resource.entry("active").or_insert(Value::Bool(true));
        let mut meta = json!({
            "resourceType": "User",
            "location": format!("/api/v2/scim/v2/users/{id}"),
            "version": format!("W/\"{}\"", record.map_or(0, |record| record.version)),
        });
        if let Some(modified) = record.and_then(|record| record.last_modified) {
            meta["lastModified"] = Value::String(modified.to_string());
        }
        resource.insert("meta".to_owned(), meta);
        Value::Object(resource)
    }

    /// The id of the user with this `userName`, in any case (RFC 7643, section 4.1.1).
    pub(super) fn find(&self, name: &str) -> Option<String> {
        let renamed = self
            .records
            .iter()
            .find(|(_, record)| record.user_name().is_some_and(|other| other.eq_ignore_ascii_case(name)));
        if let Some((id, _)) = renamed {
            return Some(id.clone());
        }
        let (id, domain) = name.rsplit_once('@')?;
        let renamed = self.records.get(id).is_some_and(|record| record.user_name().is_some());
        (domain.eq_ignore_ascii_case("example.com") && self.exists(id) && !renamed).then(|| id.to_owned())
    }

    /// The ids of all users that are seeded or were changed, sorted.
    pub(super) fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = match &self.seeded {
            Some(seeded) => seeded.iter().cloned().collect(),
            None => self.records.keys().cloned().collect(),
        };
        ids.sort_unstable();
        ids
    }

    /// Fills in what [`Stats`] says about users.
    pub(super) fn count(&self, stats: &mut Stats) {
        stats.password_sets = self.password_sets;
        stats.users = self.with_password;
        stats.sets_by_user_max = self.sets_by_user_max;
    }
}

impl Record {
    fn user_name(&self) -> Option<&str> {
        self.attributes.get("userName").and_then(Value::as_str)
    }
}

fn default_name(id: &str) -> String {
    format!("{id}@example.com")
}

/// `add` appends to an array what it does not have yet, and else replaces (RFC 7644, section 3.5.2.1).
fn add(old: &mut Value, new: Value) {
    match (old, new) {
        (Value::Array(old), Value::Array(new)) => {
            for item in new {
                if !old.contains(&item) {
                    old.push(item);
                }
            }
        }
        (Value::Array(old), item) if !item.is_null() => {
            if !old.contains(&item) {
                old.push(item);
            }
        }
        (old, new) => *old = new,
    }
}
