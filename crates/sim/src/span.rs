//! Durations as people write them: `250ms`, `60s`, `1h 30m`.

use std::time::Duration;

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, de::Error};

/// Reads a duration in jiff's friendly format.
///
/// # Errors
/// An `Err` says what was wrong with which text.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wanted = "a duration such as 250ms, 60s or 1h 30m";
    let signed: SignedDuration = text.trim().parse().map_err(|error| format!("`{text}` is not {wanted}: {error}"))?;
    Duration::try_from(signed).map_err(|_| format!("`{text}` is negative; write {wanted}"))
}

/// For `#[serde(deserialize_with)]` on a duration that is always there.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// Seconds, rounded up: what a header in whole seconds must say so that waiting it out is enough.
pub(super) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn friendly_durations_are_read_and_negative_ones_refused() {
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse("86400s"), Ok(Duration::from_secs(86_400)));
        assert!(parse("-1s").is_err_and(|error| error.contains("negative")));
        assert!(parse("soon").is_err_and(|error| error.contains("`soon`")));
    }

    #[test]
    fn seconds_are_rounded_up() {
        assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
        assert_eq!(whole_seconds(Duration::from_secs(2)), 2);
    }
}
