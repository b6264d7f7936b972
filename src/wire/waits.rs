//! How long an answer over HTTP asks us to wait: `Retry-After` in every way it is written, and the platform's own header.

use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

/// The platform's own header: seconds until its window of the quota ends (Genesys Cloud's developer pages, "Rate limits").
const RESET: &str = "inin-ratelimit-reset";

/// How long an answer asks us to wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waits {
    /// `Retry-After`; `None` where it is absent, 0, in the past or no number or date.
    pub retry_after: Option<Duration>,
    /// `inin-ratelimit-reset`, likewise.
    pub reset: Option<Duration>,
    /// Whether one of them was longer than `retry.after_max`, and was cut to it.
    pub cut: bool,
}

impl Waits {
    /// Reads the headers. `now` stands in where the answer has no `Date`; `cap` is `retry.after_max`.
    pub fn of(headers: &HeaderMap, now: SystemTime, cap: Duration) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        let date = text(DATE.as_str()).and_then(|text| httpdate::parse_http_date(text).ok());
        let retry_after = text(RETRY_AFTER.as_str()).and_then(|text| retry_after(text, date.unwrap_or(now)));
        let reset = text(RESET).and_then(seconds);
        let cut = [retry_after, reset].into_iter().flatten().any(|wait| wait > cap);
        Self { retry_after: retry_after.map(|wait| wait.min(cap)), reset: reset.map(|wait| wait.min(cap)), cut }
    }
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
    fn the_platforms_own_header_is_read_likewise() {
        let reset = waits(&[("inin-ratelimit-reset", "12"), ("retry-after", "0")]);
        assert_eq!(reset, Waits { retry_after: None, reset: Some(Duration::from_secs(12)), cut: false });
    }
}
