//! What an answer means: one pure table over every status, both error bodies and every way to write `Retry-After`.

use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

use crate::domain::failure::Failure;
use crate::wire::scim::ErrorBody;

/// The platform's own header: seconds until its window of the quota ends (Genesys Cloud's developer pages, "Rate limits").
const RESET: &str = "inin-ratelimit-reset";
/// Codes that say the client, and not this one call, lacks a right.
const CLIENT_LACKS: [&str; 3] = ["missing.permissions", "missing.any.permissions", "not.authorized"];

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

/// What a status means: `None` where the password is set.
pub fn classify(status: u16, body: &ErrorBody, waits: Waits) -> Option<Failure> {
    let fault = |may_have_set| Failure::Fault { may_have_set, wait: waits.retry_after };
    Some(match (status, waits.retry_after) {
        (200..=299, _) => return None,
        (429, wait) => Failure::Throttled { wait: wait.or(waits.reset) },
        (503, Some(wait)) => Failure::Unavailable { wait },
        (401, _) => Failure::TokenRefused,
        (403, _) => {
            Failure::Forbidden { client: body.code.as_deref().is_some_and(|code| CLIENT_LACKS.contains(&code)) }
        }
        (404, _) => Failure::NotFound,
        (408, _) => fault(false),
        (409 | 412, _) => Failure::Conflict,
        (400, _) if is_version_mismatch(body) => Failure::Conflict,
        // A redirect is not followed: it would lead the password elsewhere.
        (300..=499, _) => Failure::Rejected,
        (500..=599, _) => fault(true),
        // No status of HTTP; what was done is not known.
        (0..=199 | 600.., _) => fault(true),
    })
}

fn is_version_mismatch(body: &ErrorBody) -> bool {
    let says = |text: &Option<String>| {
        let text = text.as_deref().unwrap_or_default().to_lowercase();
        text.contains("version") && (text.contains("match") || text.contains("conflict"))
    };
    body.scim_type.as_deref() == Some("invalidVers") || says(&body.detail) || says(&body.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderName, HeaderValue};

    const CAP: Duration = Duration::from_secs(900);

    fn plain(status: u16) -> Option<Failure> {
        classify(status, &ErrorBody::default(), Waits::default())
    }

    /// Every status there can be, in runs of the same meaning.
    #[test]
    fn every_status_has_its_meaning() {
        let mut table = String::new();
        let mut start = 0;
        for status in 0..=999_u16 {
            if status == 999 || plain(status) != plain(status + 1) {
                table += &format!("{start}..={status}: {:?}\n", plain(status));
                start = status + 1;
            }
        }
        insta::assert_snapshot!(table, @r"
        0..=199: Some(Fault { may_have_set: true, wait: None })
        200..=299: None
        300..=400: Some(Rejected)
        401..=401: Some(TokenRefused)
        402..=402: Some(Rejected)
        403..=403: Some(Forbidden { client: false })
        404..=404: Some(NotFound)
        405..=407: Some(Rejected)
        408..=408: Some(Fault { may_have_set: false, wait: None })
        409..=409: Some(Conflict)
        410..=411: Some(Rejected)
        412..=412: Some(Conflict)
        413..=428: Some(Rejected)
        429..=429: Some(Throttled { wait: None })
        430..=499: Some(Rejected)
        500..=999: Some(Fault { may_have_set: true, wait: None })
        ");
    }

    fn body(json: &str) -> ErrorBody {
        ErrorBody::parse(json.as_bytes())
    }

    #[test]
    fn both_bodies_tell_a_version_mismatch_and_a_missing_permission() {
        let conflict =
            |json| assert_eq!(classify(400, &body(json), Waits::default()), Some(Failure::Conflict), "{json}");
        conflict(r#"{"scimType":"invalidVers"}"#);
        conflict(r#"{"detail":"Version mismatch: expected 3"}"#);
        conflict(r#"{"code":"bad.request","message":"The version does not match"}"#);
        for other in
            [r#"{"scimType":"invalidValue","detail":"bad password"}"#, "{}", r#"{"message":"unknown version"}"#]
        {
            assert_eq!(classify(400, &body(other), Waits::default()), Some(Failure::Rejected), "{other}");
        }
        for code in CLIENT_LACKS {
            assert_eq!(
                classify(403, &body(&format!(r#"{{"code":"{code}"}}"#)), Waits::default()),
                Some(Failure::Forbidden { client: true })
            );
        }
        assert_eq!(
            classify(403, &body(r#"{"code":"other"}"#), Waits::default()),
            Some(Failure::Forbidden { client: false })
        );
    }

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
    fn the_platforms_own_header_stands_in_for_a_429_alone() {
        let reset = waits(&[("inin-ratelimit-reset", "12"), ("retry-after", "0")]);
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(classify(429, &ErrorBody::default(), reset), Some(Failure::Throttled { wait: seconds(12) }));
        assert_eq!(
            classify(503, &ErrorBody::default(), reset),
            Some(Failure::Fault { may_have_set: true, wait: None })
        );
        let both = waits(&[("inin-ratelimit-reset", "12"), ("retry-after", "3")]);
        assert_eq!(classify(429, &ErrorBody::default(), both), Some(Failure::Throttled { wait: seconds(3) }));
        assert_eq!(
            classify(503, &ErrorBody::default(), both),
            Some(Failure::Unavailable { wait: Duration::from_secs(3) })
        );
        assert_eq!(
            classify(500, &ErrorBody::default(), both),
            Some(Failure::Fault { may_have_set: true, wait: seconds(3) })
        );
    }
}
