//! The values that are more than text or a number: durations, lists, secrets in files.

use std::fmt;
use std::time::Duration;

use jiff::SignedDuration;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};
use zeroize::Zeroizing;

use super::ConfigError;
use crate::domain::job::Lane;

/// The longest duration: 2^32 ms, which is what AMQP can express.
pub(super) const LONGEST: Duration = Duration::from_hours(1193);

/// A duration above zero, as text with a unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span(pub(super) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed = text.parse::<SignedDuration>().ok().and_then(|span| Duration::try_from(span).ok());
        match parsed {
            Some(span) if span > Duration::ZERO && span <= LONGEST => Ok(Span(span)),
            _ => Err(D::Error::custom(format_args!(
                "{text:?} is not a duration above zero and up to 1193h with a unit, such as \"500ms\", \"10s\" or \"15m\""
            ))),
        }
    }
}

/// A duration as an operator writes it.
pub(super) fn show(span: Duration) -> String {
    SignedDuration::try_from(span).map_or_else(|_| format!("{span:?}"), |span| format!("{span:#}"))
}

/// An `http://` or `https://` URL of a place alone. One that may hold a password is not repeated.
pub(super) fn url(key: &str, text: &str, wants: &str) -> Result<Url, ConfigError> {
    let parsed = Url::parse(text.trim_end_matches('/')).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    let shown = if text.contains('@') { "one with a user or password in it".to_owned() } else { format!("{text:?}") };
    parsed.ok_or_else(|| ConfigError::wrong(key, shown, wants))
}

/// A list, or comma-separated text, as environment variables have it.
#[derive(Debug, Clone, Default)]
pub(super) struct List(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = List;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of texts, or one comma-separated text")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<List, E> {
                Ok(List(text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()))
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<List, S::Error> {
                let mut parts = Vec::new();
                while let Some(part) = list.next_element()? {
                    parts.push(part);
                }
                Ok(List(parts))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Limits to the resets within an hour: one for the bulk lane, or one for each lane.
#[derive(Debug, Clone, Copy)]
pub(super) enum PerHour {
    Bulk(u32),
    Each([Option<u32>; Lane::COUNT]),
}

impl<'de> Deserialize<'de> for PerHour {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = PerHour;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a number, or {{ {} }}", Lane::NAMES.map(|name| format!("{name} = a number")).join(", "))
            }

            fn visit_u64<E: Error>(self, most: u64) -> Result<PerHour, E> {
                let most = u32::try_from(most).map_err(|_| E::invalid_value(Unexpected::Unsigned(most), &self))?;
                Ok(PerHour::Bulk(most))
            }

            fn visit_i64<E: Error>(self, most: i64) -> Result<PerHour, E> {
                let most = u32::try_from(most).map_err(|_| E::invalid_value(Unexpected::Signed(most), &self))?;
                Ok(PerHour::Bulk(most))
            }

            // As environment variables have it.
            fn visit_str<E: Error>(self, text: &str) -> Result<PerHour, E> {
                text.trim().parse().map(PerHour::Bulk).map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<PerHour, M::Error> {
                let mut each = [None; Lane::COUNT];
                while let Some(name) = map.next_key::<String>()? {
                    let lane = Lane::named(&name).map_err(|_| M::Error::unknown_field(&name, &Lane::NAMES))?;
                    each[lane.index()] = map.next_value()?;
                }
                Ok(PerHour::Each(each))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// What a line break at the end of a value's text leaves: editors, shells and Kubernetes put one there, and no value has one.
pub(super) fn unbroken(text: &str) -> &str {
    text.trim_end_matches(['\r', '\n'])
}

/// A text without the byte order mark that an editor may put before it.
pub(super) fn unmarked(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// A secret as it stands, or of its file. An empty one is what an unset variable of a compose file leaves behind.
pub(super) fn secret(
    key: &str,
    given: Option<&SecretString>,
    file: Option<&str>,
) -> Result<Option<SecretString>, ConfigError> {
    match (given.filter(|secret| !secret.expose_secret().is_empty()), file.filter(|path| !path.is_empty())) {
        (Some(_), Some(_)) => Err(ConfigError::new(format!("{key} and {key}_file are both set; set one of them"))),
        (Some(secret), None) => Ok(Some(secret.clone())),
        (None, Some(path)) => secret_file(&format!("{key}_file"), path).map(Some),
        (None, None) => Ok(None),
    }
}

/// The content of a file that holds a secret, without the line break at its end and a byte order mark before it.
pub(super) fn secret_file(key: &str, path: &str) -> Result<SecretString, ConfigError> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| {
        ConfigError::wrong(
            key,
            format_args!("{path:?}, which cannot be read ({error})"),
            "the path of a readable file that holds the secret",
        )
    })?;
    let secret = unbroken(unmarked(&text));
    if secret.is_empty() {
        return Err(ConfigError::wrong(
            key,
            format_args!("{path:?}, which is empty"),
            "the path of a file that holds the secret",
        ));
    }
    Ok(SecretString::from(secret.to_owned()))
}
