//! A fault as its fields are written, and what becomes of them: the only way to make a [`Fault`].

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use super::{
    fault::{Fault, FaultError, Target, What, When},
    span,
};

/// The fields of a fault, each of them optional.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fields {
    #[serde(default)]
    pub(super) target: Target,
    user: Option<String>,
    next: Option<u64>,
    share: Option<f64>,
    seed: Option<u64>,
    from: Option<String>,
    to: Option<String>,
    #[serde(default)]
    always: bool,
    status: Option<u16>,
    pub(super) retry_after: Option<Value>,
    pub(super) body: Option<Value>,
    pub(super) code: Option<String>,
    pub(super) scim_type: Option<String>,
    pub(super) location: Option<String>,
    pub(super) content_type: Option<String>,
    hang: Option<String>,
    #[serde(default)]
    cut: bool,
    #[serde(default)]
    revoke: bool,
    #[serde(default)]
    apply: bool,
    apply_after: Option<String>,
}

impl<'de> Deserialize<'de> for Fault {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Fields::deserialize(deserializer)?.try_into().map_err(de::Error::custom)
    }
}

impl TryFrom<Fields> for Fault {
    type Error = FaultError;

    fn try_from(fields: Fields) -> Result<Self, FaultError> {
        fields.check_company()?;
        Ok(Self { when: fields.when()?, what: fields.what()?, target: fields.target, user: fields.user })
    }
}

impl Fields {
    /// Refuses a field beside which another is missing or must not be.
    fn check_company(&self) -> Result<(), FaultError> {
        let of_status = [
            ("retry_after", self.retry_after.is_some()),
            ("body", self.body.is_some()),
            ("code", self.code.is_some()),
            ("scim_type", self.scim_type.is_some()),
            ("location", self.location.is_some()),
            ("content_type", self.content_type.is_some()),
        ];
        let stray = of_status.iter().find(|(_, there)| *there && self.status.is_none());
        if let Some((field, _)) = stray {
            return Err(refuse(field, "needs `status`"));
        }
        if self.scim_type.is_some() && self.code.is_some() {
            return Err(refuse("scim_type", "cannot be with `code`"));
        }
        if self.seed.is_some() && self.share.is_none() {
            return Err(refuse("seed", "needs `share`"));
        }
        if self.apply && self.revoke {
            return Err(refuse("apply", "cannot be with `revoke`"));
        }
        if self.apply_after.is_some() && !(self.apply && self.hang.is_some()) {
            return Err(refuse("apply_after", "needs `hang` and `apply`"));
        }
        self.check_target()
    }

    /// Refuses what the token endpoint knows nothing of.
    fn check_target(&self) -> Result<(), FaultError> {
        let of_scim = [
            ("user", self.user.is_some()),
            ("apply", self.apply),
            ("scim_type", self.scim_type.is_some()),
            ("location", self.location.is_some()),
            ("content_type", self.content_type.is_some()),
        ];
        match of_scim.iter().find(|(_, there)| *there) {
            Some((field, _)) if self.target == Target::Token => Err(refuse(field, "cannot be with `target` token")),
            Some(_) | None => Ok(()),
        }
    }

    fn when(&self) -> Result<When, FaultError> {
        let window = self.from.is_some() || self.to.is_some();
        match (self.next, self.share, window, self.always) {
            (Some(0), None, false, false) => Err(refuse("next", "is 0; it must be at least 1")),
            (Some(count), None, false, false) => Ok(When::Next(count)),
            (None, Some(share), false, false) if (0.0..=1.0).contains(&share) => {
                Ok(When::Share { share, seed: self.seed })
            }
            (None, Some(share), false, false) => Err(refuse("share", &format!("is {share}; it must be from 0 to 1"))),
            (None, None, true, false) => self.between(),
            (None, None, false, true) => Ok(When::Always),
            (next, share, window, always) => Err(FaultError::When(named([
                ("next", next.is_some()),
                ("share", share.is_some()),
                ("from/to", window),
                ("always", always),
            ]))),
        }
    }

    fn between(&self) -> Result<When, FaultError> {
        let from = duration("from", self.from.as_deref())?.unwrap_or_default();
        let to = duration("to", self.to.as_deref())?;
        if to.is_some_and(|to| to <= from) {
            return Err(refuse("to", "must be later than `from`"));
        }
        Ok(When::Between { from, to })
    }

    fn what(&self) -> Result<What, FaultError> {
        match (self.status, &self.hang, self.cut, self.revoke) {
            (Some(status), None, false, false) => Ok(What::Status { reply: self.reply(status)?, apply: self.apply }),
            (None, Some(hold), false, false) => self.hang(hold),
            (None, None, true, false) => Ok(What::Cut { apply: self.apply }),
            (None, None, false, true) => Ok(What::Revoke),
            (status, hang, cut, revoke) => Err(FaultError::What(named([
                ("status", status.is_some()),
                ("hang", hang.is_some()),
                ("cut", cut),
                ("revoke", revoke),
            ]))),
        }
    }

    fn hang(&self, hold: &str) -> Result<What, FaultError> {
        let hold = duration("hang", Some(hold))?.unwrap_or_default();
        let apply_after = duration("apply_after", self.apply_after.as_deref())?;
        Ok(What::Hang { hold, apply_after: self.apply.then(|| apply_after.unwrap_or_default()) })
    }
}

fn duration(field: &'static str, text: Option<&str>) -> Result<Option<Duration>, FaultError> {
    text.map(span::parse)
        .transpose()
        .map_err(|wrong| FaultError::Field { field, wrong: format!("cannot be read: {wrong}") })
}

pub(super) fn refuse(field: &'static str, wrong: &str) -> FaultError {
    FaultError::Field { field, wrong: wrong.to_owned() }
}

/// The names of those that are there, for a sentence that ends with them.
fn named(fields: [(&str, bool); 4]) -> String {
    let there: Vec<&str> = fields.iter().filter(|(_, there)| *there).map(|(name, _)| *name).collect();
    if there.is_empty() { "none of them".to_owned() } else { there.join(" and ") }
}
