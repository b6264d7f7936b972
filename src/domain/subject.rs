//! Whom a consumer works for: an org, or the mailer.

/// An org by its name in the configuration, or the mailer, of which there is one and which is no org: an org may be called `mailer` too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// Its jobs.
    Org(String),
    /// The mails of all orgs.
    Mailer,
}

impl Subject {
    /// What it is called in the ledger. No org can have the mailer's name there.
    pub fn in_ledger(&self) -> &str {
        self.org().unwrap_or("emails.lease")
    }

    /// The org's name, for the field `org` of the log: the mailer has none.
    pub fn org(&self) -> Option<&str> {
        match self {
            Self::Org(name) => Some(name),
            Self::Mailer => None,
        }
    }
}

impl From<&str> for Subject {
    fn from(org: &str) -> Self {
        Self::Org(org.to_owned())
    }
}
