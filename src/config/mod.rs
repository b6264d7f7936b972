//! The configuration: plain data, one struct for each concern. What it configures is built elsewhere, from its own section.
//!
//! `source` lays default, files and environment over one another, `raw` is their shape as written, and the sections here are
//! what came of it, every value checked.

pub mod amqp;
mod env_file;
mod environment;
mod error;
pub mod http;
mod inline;
pub mod mailer;
pub mod org;
pub mod proxy;
mod raw;
mod root;
mod source;
mod strength;
pub mod telemetry;
mod value;
mod variables;
mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::domain::{
    delay_tier::Delays,
    form::Form,
    notification::{Template, Unfit},
    password::PasswordKind,
    recipient::{AllowedDomains, Recipient},
    retry::{HALTED, RetryPolicy},
};
pub use env_file::EnvFile;
pub use environment::Environment;
pub use error::ConfigError;

/// How long a delivery is held at most: with the time of a last call and of giving it back it stays below 10 minutes.
const HOLD: Duration = Duration::from_mins(8);
/// At least so long until a connection or a session that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// An hour, for `guard_per_hour`.
const GUARD_HOUR: Duration = Duration::from_hours(1);

/// Whether this build can send traces.
const HAS_OTEL: bool = cfg!(feature = "otel");

/// How failures are waited out.
#[derive(Debug, Clone)]
pub struct Retry {
    /// How often, and how long between.
    pub policy: RetryPolicy,
    /// A longer `Retry-After` is cut to this.
    pub after_max: Duration,
    /// A job's own wait up to this is spent in memory.
    pub inline_max: Duration,
    /// How long the parked queues hold a job. Not keys: all workers of a broker must declare the same; tests make them shorter.
    pub delays: Delays,
}

/// What the person gets.
#[derive(Debug, Clone)]
pub struct Notification {
    /// Who is told where a job has no address.
    pub fallback: Option<Recipient>,
    /// Who may be told at all.
    pub domains: AllowedDomains,
    /// Subject and body.
    pub template: Template,
    /// How long the message may wait in its queue.
    pub ttl: Duration,
    /// Files of public keys; where there are any, passwords are sealed to the first.
    pub seal_to: Vec<PathBuf>,
}

impl Notification {
    /// How much longer the broker keeps a message where a mailer takes part, which says of each that came too late that it did.
    pub const GRACE: Duration = Duration::from_secs(3600);
    /// The longest that a message may wait: with the hour more it still is what a broker takes, 32 bits of milliseconds.
    const LONGEST: Duration = value::LONGEST.saturating_sub(Self::GRACE);
}

/// Everything, as far as every role needs it; what only a worker needs is demanded by [`Config::worker`].
#[derive(Debug, Clone)]
pub struct Config {
    /// The broker.
    pub amqp: amqp::Amqp,
    /// Which attributes a job may set.
    pub allowed_attributes: Vec<String>,
    /// How a password is made.
    pub password: PasswordKind,
    /// How failures are waited out.
    pub retry: Retry,
    /// What the person gets.
    pub notification: Notification,
    /// What the mailer does, as far as every role may want to know it; what it needs is demanded by [`Config::mailer`].
    pub mailer: mailer::Settings,
    /// Where health, metrics and the page are served, and to whom.
    pub http: http::Http,
    /// How long jobs in flight may finish.
    pub grace: Duration,
    /// Where traces go.
    pub telemetry: telemetry::Telemetry,
    /// How long a delivery is held at most. Not a key: the broker's own limit is 30 minutes, and no setting of ours changes it.
    pub hold: Duration,
    /// From which wait on, of all the org's calls, the deliveries are given back and not held meanwhile. Not a key either.
    pub long: Duration,
    /// How long at least until a connection or a session that failed is tried again; after more failures it is longer. Not a key either.
    pub again: Duration,
    /// What `guard_per_hour` takes for an hour. Not a key either; tests make it shorter.
    pub guard_hour: Duration,
    /// The files that hold secrets, with the keys that name them; of a `--config` file or an env file with the keys that it gives itself.
    /// Those of sealing are looked at where they are read.
    pub secret_files: Vec<(String, PathBuf)>,
    /// The `--config` files that others than this user and root may change, and why.
    pub changeable_files: Vec<(PathBuf, String)>,
    orgs: BTreeMap<String, raw::Org>,
    wire: raw::Wire,
    mailing: mailer::Section,
    environment: Environment,
}

/// What a worker needs beside [`Config`]: how to write, and to whom.
#[derive(Debug, Clone)]
pub struct Worker {
    /// How a reset is written on the wire.
    pub form: Form,
    /// The orgs, by name.
    pub orgs: BTreeMap<String, org::Org>,
}

impl Config {
    /// Reads the default, the files and the environment.
    ///
    /// # Errors
    /// Where a file cannot be read, a key is unknown or a value does not do.
    pub fn load(files: &[PathBuf], environment: Environment) -> Result<Self, ConfigError> {
        Self::check(source::read(files, &[], &environment)?, environment)
    }

    /// Reads the default, a text that is compiled in, and the environment.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn compiled_in(text: &'static str, files: &[PathBuf], environment: Environment) -> Result<Self, ConfigError> {
        Self::check(source::read(files, &[text], &environment)?, environment)
    }

    /// All that is wrong, as far as one thing does not hide another; empty where a worker could start with it.
    pub fn problems(files: &[PathBuf], environment: &Environment) -> Vec<ConfigError> {
        let raw = match source::read(files, &[], environment) {
            Ok(read) => read.raw,
            Err(error) => return vec![error],
        };
        let mut problems: Vec<ConfigError> = [
            amqp::Amqp::check(raw.amqp).err(),
            wire::password(&raw.wire).err(),
            wire::extensions(&raw.wire).err(),
            password(&raw.password).err(),
            retry(&raw.retry).err(),
            notification(raw.notification).err(),
            mailer::Settings::check(&raw.mailer).err(),
            http::Http::check(raw.http, environment).and_then(|http| http.check_served()).err(),
            telemetry::Telemetry::check(&raw.telemetry).and_then(|telemetry| telemetry.check_built(HAS_OTEL)).err(),
            some_org(&raw.orgs).err(),
        ]
        .into_iter()
        .flatten()
        .collect();
        for (name, org) in &raw.orgs {
            let complete = org::check_name(name).and_then(|()| org::Org::check(name, org, environment));
            let fits = complete.and_then(|org| outlasts(raw.shutdown.grace.0, name, &org));
            problems.extend(fits.err());
        }
        problems
    }

    fn check(read: source::Read, environment: Environment) -> Result<Self, ConfigError> {
        let source::Read { raw, with_secrets, changeable } = read;
        for name in raw.orgs.keys() {
            org::check_name(name)?;
        }
        let secret_files = raw.secret_files().into_iter().chain(with_secrets).collect();
        Ok(Self {
            secret_files,
            changeable_files: changeable,
            amqp: amqp::Amqp::check(raw.amqp)?,
            allowed_attributes: raw.wire.allowed_attributes.0.clone(),
            password: password(&raw.password)?,
            retry: retry(&raw.retry)?,
            notification: notification(raw.notification)?,
            mailer: mailer::Settings::check(&raw.mailer)?,
            http: http::Http::check(raw.http, &environment)?,
            grace: raw.shutdown.grace.0,
            telemetry: telemetry::Telemetry::check(&raw.telemetry)?,
            hold: HOLD,
            long: HOLD / 2,
            again: AGAIN,
            guard_hour: GUARD_HOUR,
            orgs: raw.orgs,
            wire: raw.wire,
            mailing: raw.mailer,
            environment,
        })
    }

    /// The names of the orgs.
    pub fn org_names(&self) -> impl Iterator<Item = &str> {
        self.orgs.keys().map(String::as_str)
    }

    /// The orgs that somebody at the command line means: the one that was named, which need not be configured where none is, or all
    /// that are. None needs to be complete.
    ///
    /// # Errors
    /// Where the one that was named is not among those that are configured, or none is named and none configured.
    pub fn orgs_meant(&self, named: Option<&str>) -> Result<Vec<String>, ConfigError> {
        let names: Vec<&str> = self.org_names().collect();
        match (named, names.as_slice()) {
            (Some(name), []) => org::check_name(name).map(|()| vec![name.to_owned()]),
            (Some(name), names) if names.contains(&name) => Ok(vec![name.to_owned()]),
            (Some(name), names) => {
                Err(ConfigError::wrong("--org", format_args!("{name:?}"), &format!("one of {}", names.join(", "))))
            }
            (None, []) => {
                Err(ConfigError::missing("--org", "the name of the org, as the worker's configuration has it"))
            }
            (None, names) => Ok(names.iter().map(|name| (*name).to_owned()).collect()),
        }
    }

    /// What a worker needs.
    ///
    /// # Errors
    /// Where there is no org, one is not complete, the wire form is not chosen, the grace is too short, the page would be shown
    /// to anybody, or traces are asked of a build that has none.
    pub fn worker(&self) -> Result<Worker, ConfigError> {
        let form = self.form()?;
        some_org(&self.orgs)?;
        let mut orgs = BTreeMap::new();
        for name in self.orgs.keys() {
            let org = self.org(name)?;
            outlasts(self.grace, name, &org)?;
            orgs.insert(name.clone(), org);
        }
        self.http.check_served()?;
        self.telemetry.check_built(HAS_OTEL)?;
        Ok(Worker { form, orgs })
    }

    /// How long the broker keeps a notification: as long as it may wait, and longer where a mailer takes part, which says of each that
    /// came too late that it did.
    pub fn notification_expires(&self) -> Duration {
        let grace = if self.mailer.enabled { Notification::GRACE } else { Duration::ZERO };
        self.notification.ttl + grace
    }

    /// What a mailer needs.
    ///
    /// # Errors
    /// Where [`Config::delivery`] is not complete, its backoff ends before it begins, no notification could be opened, or the page would be
    /// shown to anybody.
    pub fn mailer(&self) -> Result<mailer::Mailer, ConfigError> {
        let mailer = self.delivery()?;
        let (base, longest) = (self.retry.policy.base, self.mailer.retry_max);
        if longest < base {
            let wants = format!("at least retry.base, {}", value::show(base));
            return Err(ConfigError::wrong("mailer.retry_max", value::show(longest), &wants));
        }
        if self.mailer.require_sealed && self.mailer.open_with.is_empty() {
            let wants = "false where mailer.open_with names no key: no notification could be opened";
            return Err(ConfigError::wrong("mailer.require_sealed", true, wants));
        }
        self.http.check_served()?;
        Ok(mailer)
    }

    /// How mails are delivered, and what they say.
    ///
    /// # Errors
    /// Where neither way to deliver is set, or both are, or the one that is is not complete.
    pub fn delivery(&self) -> Result<mailer::Mailer, ConfigError> {
        mailer::Mailer::check(&self.mailer, &self.mailing, &self.environment, &self.http.proxy)
    }

    /// One org, complete.
    ///
    /// # Errors
    /// Where it is not configured, or not complete.
    pub fn org(&self, name: &str) -> Result<org::Org, ConfigError> {
        let raw = self.orgs.get(name).ok_or_else(|| ConfigError::missing(&format!("orgs.{name}"), "a section"))?;
        org::Org::check(name, raw, &self.environment)
    }

    /// How a reset is written on the wire.
    ///
    /// # Errors
    /// Where that is not chosen.
    pub fn form(&self) -> Result<Form, ConfigError> {
        wire::chosen(&self.wire)
    }
}

fn some_org(orgs: &BTreeMap<String, raw::Org>) -> Result<(), ConfigError> {
    if !orgs.is_empty() {
        return Ok(());
    }
    Err(ConfigError::missing(
        "orgs",
        "at least one section [orgs.NAME] with a region, a client_id and a client_secret (config/default.toml shows one)",
    ))
}

/// Whether the grace is longer than an org's calls.
fn outlasts(grace: Duration, name: &str, org: &org::Org) -> Result<(), ConfigError> {
    let least = org.request_timeout + Duration::from_secs(5);
    if grace >= least {
        return Ok(());
    }
    Err(ConfigError::wrong(
        "shutdown.grace",
        value::show(grace),
        &format!("at least orgs.{name}.request_timeout and 5 s more, {}", value::show(least)),
    ))
}

fn password(raw: &raw::Password) -> Result<PasswordKind, ConfigError> {
    match raw.kind.as_str() {
        "hex" => Ok(PasswordKind::Hex),
        "policy" if PasswordKind::LENGTHS.contains(&raw.length) => Ok(PasswordKind::Policy { length: raw.length }),
        "policy" => Err(ConfigError::wrong("password.length", raw.length, "12 to 128 characters")),
        other => Err(ConfigError::wrong("password.kind", format_args!("{other:?}"), "\"hex\" or \"policy\"")),
    }
}

fn retry(raw: &raw::Retry) -> Result<Retry, ConfigError> {
    if raw.max_attempts == 0 {
        return Err(ConfigError::wrong("retry.max_attempts", 0, "at least 1"));
    }
    if raw.max.0 < raw.base.0 {
        return Err(ConfigError::wrong(
            "retry.max",
            value::show(raw.max.0),
            &format!("at least retry.base, {}", value::show(raw.base.0)),
        ));
    }
    let policy = RetryPolicy { max_attempts: raw.max_attempts, base: raw.base.0, max: raw.max.0, halted: HALTED };
    Ok(Retry { policy, after_max: raw.after_max.0, inline_max: raw.inline_max.0, delays: Delays::default() })
}

fn notification(raw: raw::Notification) -> Result<Notification, ConfigError> {
    let address = |text: String| {
        Recipient::parse("notification.fallback_address", &text).map_err(|refusal| ConfigError::new(refusal.0))
    };
    let fallback = raw.fallback_address.filter(|text| !text.is_empty()).map(address).transpose()?;
    let domains = AllowedDomains::new(&raw.allowed_domains.0).map_err(|pattern| {
        let wants = "domains, such as example.com, or *.example.com for those below one";
        ConfigError::wrong("notification.allowed_domains", format_args!("{pattern:?}"), wants)
    })?;
    if fallback.as_ref().is_some_and(|fallback| !domains.allow(fallback)) {
        let got = "an address at another domain";
        return Err(ConfigError::wrong("notification.fallback_address", got, "at one of notification.allowed_domains"));
    }
    let template = Template::new(raw.subject, raw.body).map_err(|unfit| match unfit {
        Unfit::Subject(text) => {
            ConfigError::wrong("notification.subject", format_args!("{text:?}"), "one line without {password}")
        }
        Unfit::Body(text) => {
            let wants = "a text that holds {password}, where the password goes";
            ConfigError::wrong("notification.body", format_args!("{text:?}"), wants)
        }
    })?;
    if !(Duration::from_secs(1)..=Notification::LONGEST).contains(&raw.ttl.0) {
        return Err(ConfigError::wrong("notification.ttl", value::show(raw.ttl.0), "1s to 1192h"));
    }
    let seal_to = raw.seal_to.0.into_iter().map(PathBuf::from).collect();
    Ok(Notification { fallback, domains, template, ttl: raw.ttl.0, seal_to })
}

#[cfg(test)]
mod tests;
