//! What an answer means: one pure table over every status and both error bodies.

use super::refusal::{names_history_alone, until};
use crate::domain::failure::Failure;
use crate::wire::scim::ErrorBody;
use crate::wire::waits::Waits;

/// Codes that say the client, and not this one call, lacks a right.
const CLIENT_LACKS: [&str; 3] = ["missing.permissions", "missing.any.permissions", "not.authorized"];

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
        (400, _) => match until(body) {
            Some(until) => Failure::TooSoon { until: waits.by_our_clock(until) },
            None if names_history_alone(body) => Failure::UsedBefore,
            None => Failure::Rejected,
        },
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
    use std::time::Duration;

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

    #[test]
    fn a_400_tells_the_minimum_age_and_the_history_and_no_other_status_does() {
        let until = Failure::TooSoon { until: "2026-11-23T18:00:00Z".parse().unwrap() };
        for (json, means) in [
            (r#"{"detail":"Password cannot be changed until 2026-11-23T18:00:00Z"}"#, until),
            (r#"{"scimType":"invalidValue","detail":"The password was used before"}"#, Failure::UsedBefore),
        ] {
            assert_eq!(classify(400, &body(json), Waits::default()), Some(means), "{json}");
            assert_eq!(classify(404, &body(json), Waits::default()), Some(Failure::NotFound), "{json}");
            assert_eq!(classify(422, &body(json), Waits::default()), Some(Failure::Rejected), "{json}");
        }
    }

    #[test]
    fn the_platforms_own_header_stands_in_for_a_429_alone() {
        let seconds = |n| Some(Duration::from_secs(n));
        let reset = Waits { reset: seconds(12), ..Waits::default() };
        assert_eq!(classify(429, &ErrorBody::default(), reset), Some(Failure::Throttled { wait: seconds(12) }));
        assert_eq!(
            classify(503, &ErrorBody::default(), reset),
            Some(Failure::Fault { may_have_set: true, wait: None })
        );
        let both = Waits { retry_after: seconds(3), ..reset };
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
