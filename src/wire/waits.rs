//! How long an answer over HTTP asks us to wait: `Retry-After` in every way it is written, and the platform's own header.

use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

/// The platform's own header: seconds until its window of the quota ends (Genesys Cloud's developer pages, "Rate limits").
const RESET: &str = "inin-ratelimit-reset";

/// An answer's clock is told from ours by its `Date`, which has whole seconds and was on its way: less than this is no difference.
const SKEW: SignedDuration = SignedDuration::from_secs(3);

/// How long an answer asks us to wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waits {
    /// `Retry-After`; `None` where it is absent, 0, in the past or no number or date.
    pub retry_after: Option<Duration>,
    /// `inin-ratelimit-reset`, likewise.
    pub reset: Option<Duration>,
    /// Whether one of them was longer than `retry.after_max`, and was cut to it.
    pub cut: bool,
    /// How far the answer's clock is behind ours; nothing where they agree, or it does not say.
    pub behind: SignedDuration,
}

impl Waits {
    /// Reads the headers. `now` stands in where the answer has no `Date`; `cap` is `retry.after_max`.
    pub fn of(headers: &HeaderMap, now: SystemTime, cap: Duration) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        let date = text(DATE.as_str()).and_then(|text| httpdate::parse_http_date(text).ok());
        let retry_after = text(RETRY_AFTER.as_str()).and_then(|text| retry_after(text, date.unwrap_or(now)));
        let reset = text(RESET).and_then(seconds);
        let cut = [retry_after, reset].into_iter().flatten().any(|wait| wait > cap);
        let behind = date.map(|date| difference(now, date)).filter(|behind| behind.abs() >= SKEW).unwrap_or_default();
        Self { retry_after: retry_after.map(|wait| wait.min(cap)), reset: reset.map(|wait| wait.min(cap)), cut, behind }
    }

    /// A moment that the answer names by its own clock, by ours.
    pub fn by_our_clock(&self, moment: Timestamp) -> Timestamp {
        moment.checked_add(self.behind).unwrap_or(moment)
    }
}

/// From `earlier` to `later`, which may be negative.
fn difference(later: SystemTime, earlier: SystemTime) -> SignedDuration {
    let signed = |span: Duration| SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
    later.duration_since(earlier).map_or_else(|error| -signed(error.duration()), signed)
}

/// RFC 9110, section 10.2.3: whole seconds, or an HTTP date, read against the answer's own clock.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let until = || httpdate::parse_http_date(text).ok()?.duration_since(now).ok();
    seconds(text).or_else(|| until().filter(|wait| !wait.is_zero()))
}

/// Whole seconds above 0; more than fit into 64 bits are as many as do.
fn seconds(text: &str) -> Option<Duration> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let seconds = digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderName, HeaderValue};

    const CAP: Duration = Duration::from_secs(900);

    fn waits(pairs: &[(&'static str, &str)]) -> Waits {
        let headers = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect();
        Waits::of(&headers, httpdate::parse_http_date("Mon, 23 Nov 2026 18:00:00 GMT").unwrap(), CAP)
    }

    fn asked(text: &str, expected: Option<u64>) {
        assert_eq!(waits(&[("retry-after", text)]).retry_after, expected.map(Duration::from_secs), "{text:?}");
    }

    #[test]
    fn retry_after_is_read_in_every_way_it_is_written() {
        asked("7", Some(7));
        asked(" 7 ", Some(7));
        asked("0", None);
        asked("-5", None);
        asked("", None);
        asked("soon", None);
        asked("1.5", None);
        asked("900", Some(900));
        asked("901", Some(900));
        asked("99999999999999999999999", Some(900));
        asked("Mon, 23 Nov 2026 18:00:30 GMT", Some(30));
        asked("Mon, 23 Nov 2026 18:00:00 GMT", None);
        asked("Mon, 23 Nov 2026 17:00:00 GMT", None);
        asked("Sun, 23 Nov 2036 18:00:00 GMT", Some(900));
        assert!(waits(&[("retry-after", "901")]).cut && !waits(&[("retry-after", "900")]).cut);
        assert_eq!(waits(&[]), Waits::default());
    }

    #[test]
    fn a_date_is_read_against_the_answers_own_clock() {
        let skewed = [("date", "Mon, 23 Nov 2026 20:00:00 GMT"), ("retry-after", "Mon, 23 Nov 2026 20:00:05 GMT")];
        assert_eq!(waits(&skewed).retry_after, Some(Duration::from_secs(5)));
    }

    #[test]
    fn a_moment_of_an_answer_whose_clock_is_another_is_as_far_away_by_ours() {
        // `waits` reads at 18:00:00.
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let until = at("2026-11-23T18:01:00Z");
        for (date, ours) in [
            ("Mon, 23 Nov 2026 17:59:58 GMT", until),
            ("Mon, 23 Nov 2026 18:00:02 GMT", until),
            ("Mon, 23 Nov 2026 17:00:00 GMT", at("2026-11-23T19:01:00Z")),
            ("Mon, 23 Nov 2026 19:00:00 GMT", at("2026-11-23T17:01:00Z")),
            ("yesterday", until),
        ] {
            assert_eq!(waits(&[("date", date)]).by_our_clock(until), ours, "{date}");
        }
    }

    #[test]
    fn the_platforms_own_header_is_read_likewise() {
        let reset = waits(&[("inin-ratelimit-reset", "12"), ("retry-after", "0")]);
        assert_eq!(reset, Waits { reset: Some(Duration::from_secs(12)), ..Waits::default() });
    }
}
