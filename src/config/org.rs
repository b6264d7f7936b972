//! One org's section.

use std::num::NonZeroU32;
use std::time::Duration;

use reqwest::Url;
use secrecy::SecretString;

use super::value::PerHour;
use super::variables::CLIENT_SECRET;
use super::{ConfigError, Environment, raw, value};
use crate::domain::job::Lane;
use crate::domain::window::{NoWindow, Window};

/// What a call may take at most: with [`super::Config::hold`] before it, its delivery is held for less than 10 minutes.
const MAX_REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// An org, complete.
#[derive(Debug, Clone)]
pub struct Org {
    /// Where tokens are granted.
    pub token_url: Url,
    /// The base of `Users/{userId}`.
    pub scim_url: Url,
    /// The OAuth client.
    pub client_id: String,
    /// Its secret.
    pub client_secret: SecretString,
    /// Checked against the token answer's `scope`.
    pub required_scopes: Vec<String>,
    /// Calls in any 60 s.
    pub rate_per_minute: NonZeroU32,
    /// Calls at once after a lull.
    pub burst: NonZeroU32,
    /// How long one call may take.
    pub request_timeout: Duration,
    /// Past so many resets within an hour a lane is closed, by lane.
    pub guard_per_hour: [Option<NonZeroU32>; Lane::COUNT],
    /// The hours of each day in which the bulk lane works.
    pub bulk_window: Option<Window>,
}

/// Checks an org's name: it stands in queues' names and in environment variables.
///
/// # Errors
/// Where it is not `[a-z][a-z0-9]*(_[a-z0-9]+)*` of at most 32 characters, or is `outcomes` or `parked`.
pub fn check_name(name: &str) -> Result<(), ConfigError> {
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let fits = name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.split('_').all(word)
        && !["outcomes", "parked"].contains(&name);
    if fits {
        Ok(())
    } else {
        Err(ConfigError::wrong(
            "an org's name",
            format_args!("{name:?}"),
            "[a-z][a-z0-9]*(_[a-z0-9]+)*, at most 32 characters, not \"outcomes\" or \"parked\"",
        ))
    }
}

impl Org {
    pub(super) fn check(name: &str, raw: &raw::Org, environment: &Environment) -> Result<Self, ConfigError> {
        let key = |key: &str| format!("orgs.{name}.{key}");
        let rate = raw.rate_per_minute.unwrap_or(300);
        let burst = raw.burst.unwrap_or(1);
        let rate_per_minute =
            NonZeroU32::new(rate).ok_or_else(|| ConfigError::wrong(&key("rate_per_minute"), rate, "at least 1"))?;
        // One call a minute leaves no room below it: there a burst of 1 is the limit itself.
        let fits = burst < rate || (burst, rate) == (1, 1);
        let burst = NonZeroU32::new(burst).filter(|_| fits).ok_or_else(|| {
            ConfigError::wrong(&key("burst"), burst, &format!("at least 1 and less than rate_per_minute, {rate}"))
        })?;
        Ok(Self {
            token_url: url(name, "token_url", raw.token_url.as_ref(), raw.region.as_ref(), |region| {
                format!("https://login.{region}/oauth/token")
            })?,
            scim_url: url(name, "scim_url", raw.scim_url.as_ref(), raw.region.as_ref(), |region| {
                format!("https://api.{region}/api/v2/scim/v2")
            })?,
            client_id: client_id(name, raw, environment)?,
            client_secret: client_secret(name, raw, environment)?,
            required_scopes: raw.required_scopes.0.clone(),
            rate_per_minute,
            burst,
            request_timeout: request_timeout(&key("request_timeout"), raw.request_timeout.as_ref().map(|span| span.0))?,
            guard_per_hour: guard_per_hour(&key("guard_per_hour"), raw.guard_per_hour)?,
            bulk_window: bulk_window(&key("bulk_window"), raw.bulk_window.as_deref())?,
        })
    }
}

fn request_timeout(key: &str, given: Option<Duration>) -> Result<Duration, ConfigError> {
    let timeout = given.unwrap_or(Duration::from_secs(10));
    let fits = timeout <= MAX_REQUEST_TIMEOUT;
    fits.then_some(timeout).ok_or_else(|| ConfigError::wrong(key, value::show(timeout), "at most 60s"))
}

fn guard_per_hour(key: &str, given: Option<PerHour>) -> Result<[Option<NonZeroU32>; Lane::COUNT], ConfigError> {
    let check = |key: &str, most: Option<u32>| {
        let wrong = |most| ConfigError::wrong(key, most, "at least 1; leave it out for no limit");
        most.map(|most| NonZeroU32::new(most).ok_or_else(|| wrong(most))).transpose()
    };
    let mut limits = [None; Lane::COUNT];
    match given {
        None => {}
        Some(PerHour::Bulk(most)) => limits[Lane::Bulk.index()] = check(key, Some(most))?,
        Some(PerHour::Each(each)) => {
            for lane in Lane::ALL {
                limits[lane.index()] = check(&format!("{key}.{}", lane.as_str()), each[lane.index()])?;
            }
        }
    }
    Ok(limits)
}

fn bulk_window(key: &str, text: Option<&str>) -> Result<Option<Window>, ConfigError> {
    let wants = "hours of the day and a time zone by its IANA name, such as \"20:00-06:00 Europe/Berlin\"; leave it out for the whole day";
    let parse = |text: &str| text.parse().map_err(|NoWindow| ConfigError::wrong(key, format_args!("{text:?}"), wants));
    text.filter(|text| !text.is_empty()).map(parse).transpose()
}

fn url(
    org: &str,
    key: &str,
    given: Option<&String>,
    region: Option<&String>,
    of_region: impl Fn(&str) -> String,
) -> Result<Url, ConfigError> {
    let name = format!("orgs.{org}.{key}");
    let (given, region) = (given.filter(|url| !url.is_empty()), region.filter(|region| !region.is_empty()));
    let text = match (given, region) {
        (Some(url), _) => url.clone(),
        (None, Some(region)) if region.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c)) => {
            of_region(region)
        }
        (None, Some(region)) => {
            return Err(ConfigError::wrong(
                &format!("orgs.{org}.region"),
                format_args!("{region:?}"),
                "a region's domain, such as mypurecloud.com or usw2.pure.cloud",
            ));
        }
        (None, None) => {
            return Err(ConfigError::missing(
                &format!("orgs.{org}.region"),
                &format!("the org's region, such as mypurecloud.com; or set {name}"),
            ));
        }
    };
    let wants = "an http:// or https:// URL without user, query and fragment";
    value::url(&name, &text, wants)
}

fn client_id(org: &str, raw: &raw::Org, environment: &Environment) -> Result<String, ConfigError> {
    let fallback = (org == "main").then(|| environment.get("GENESYS_CLIENT_ID")).flatten();
    let given = raw.client_id.as_deref().or(fallback).filter(|id| !id.is_empty());
    given.map(str::to_owned).ok_or_else(|| {
        ConfigError::missing(
            &format!("orgs.{org}.client_id"),
            &wants("the OAuth client's id", org, "GENESYS_CLIENT_ID"),
        )
    })
}

fn client_secret(org: &str, raw: &raw::Org, environment: &Environment) -> Result<SecretString, ConfigError> {
    let key = format!("orgs.{org}.client_secret");
    let fallback = (org == "main").then(|| environment.get(CLIENT_SECRET)).flatten();
    let given = value::secret(&key, raw.client_secret.as_ref(), raw.client_secret_file.as_deref())?;
    given.or_else(|| fallback.map(SecretString::from)).ok_or_else(|| {
        ConfigError::missing(&key, &wants("the OAuth client's secret; or set client_secret_file", org, CLIENT_SECRET))
    })
}

fn wants(what: &str, org: &str, variable: &str) -> String {
    if org == "main" { format!("{what}; or set the environment variable {variable}") } else { what.to_owned() }
}
