//! Which letters are meant.

use jiff::{SignedDuration, Timestamp};

use crate::wire::letter::DeadLetter;
use crate::wire::read_moment;

/// Filters; a letter must pass all of them.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Filter {
    /// Only letters with this reason, such as not_found; repeatable.
    #[arg(long = "reason", value_name = "REASON")]
    pub(super) reasons: Vec<String>,
    /// Only what was given up since then: so long ago, such as 2h, or since a moment such as 2026-11-23T18:00:00Z.
    #[arg(long, value_name = "WHEN", value_parser = since)]
    pub(super) since: Option<Timestamp>,
    /// Only letters of this batch.
    #[arg(long, value_name = "NAME")]
    pub(super) batch: Option<String>,
    /// Only letters of this user, by the userId, or by the userName where the job has that.
    #[arg(long, value_name = "ID")]
    pub(super) user: Option<String>,
}

impl Filter {
    /// Whether a letter passes.
    pub(super) fn takes(&self, letter: &DeadLetter) -> bool {
        let user = |wanted: &String| {
            letter.user.as_ref().is_some_and(|user| user.as_str().eq_ignore_ascii_case(wanted))
                || letter.user_name.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(wanted))
        };
        self.passes(&letter.reason, letter.dead_at, letter.batch.as_deref(), user)
    }

    /// Whether a letter passes that says this of itself; `user` says whether it is of that user.
    pub(super) fn passes(
        &self,
        reason: &String,
        dead_at: Option<Timestamp>,
        batch: Option<&str>,
        user: impl Fn(&String) -> bool,
    ) -> bool {
        (self.reasons.is_empty() || self.reasons.contains(reason))
            && self.since.is_none_or(|since| dead_at.is_some_and(|at| at >= since))
            && self.batch.as_deref().is_none_or(|wanted| batch == Some(wanted))
            && self.user.as_ref().is_none_or(user)
    }
}

fn since(text: &str) -> Result<Timestamp, String> {
    ago(text, Timestamp::now())
}

fn ago(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Some(moment) = read_moment(text) {
        return Ok(moment);
    }
    let span = text.parse::<SignedDuration>().ok().filter(|span| span.is_positive());
    span.and_then(|span| now.checked_sub(span).ok()).ok_or_else(|| {
        "it must be how long ago, such as 30m or 2h, or a moment such as 2026-11-23T18:00:00Z (RFC 3339)".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::job::{JobId, Lane};
    use crate::domain::user::UserId;
    use crate::wire::letter::By;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn letter() -> DeadLetter {
        DeadLetter {
            job: JobId::new("j"),
            user: UserId::parse("u-1").ok(),
            user_name: Some("A@example.com".into()),
            batch: Some("monday".into()),
            reason: "not_found".into(),
            by: By::Worker,
            detail: None,
            status: None,
            attempts: None,
            password_set: None,
            lane: Ok(Lane::Bulk),
            dead_at: Some(at(0)),
            kept: true,
            missing: Vec::new(),
            left_out: Vec::new(),
        }
    }

    fn check(filter: Filter, takes: bool) {
        assert_eq!(filter.takes(&letter()), takes, "{filter:?}");
    }

    #[test]
    fn a_letter_must_pass_all_that_is_asked() {
        let none = Filter::default;
        check(none(), true);
        check(Filter { reasons: vec!["rejected".into(), "not_found".into()], ..none() }, true);
        check(Filter { reasons: vec!["rejected".into()], ..none() }, false);
        check(Filter { since: Some(at(0)), ..none() }, true);
        check(Filter { since: Some(at(1)), ..none() }, false);
        check(Filter { batch: Some("monday".into()), ..none() }, true);
        check(Filter { batch: Some("Monday".into()), ..none() }, false);
        check(Filter { user: Some("u-1".into()), ..none() }, true);
        check(Filter { user: Some("a@example.com".into()), ..none() }, true);
        check(Filter { user: Some("u-2".into()), ..none() }, false);
        check(Filter { batch: Some("monday".into()), user: Some("u-2".into()), ..none() }, false);
        let undated = DeadLetter { dead_at: None, ..letter() };
        assert!(!Filter { since: Some(at(-1)), ..none() }.takes(&undated));
    }

    #[test]
    fn since_is_a_span_or_a_moment() {
        assert_eq!(ago("2h", at(7200)), Ok(at(0)));
        assert_eq!(ago("1h 30m", at(5400)), Ok(at(0)));
        assert_eq!(ago("2027-01-15T08:00:00Z", at(9)), Ok(at(0)));
        assert_eq!(ago("2027-01-15T09:00:00+01:00", at(9)), Ok(at(0)));
        for bad in ["", "yesterday", "7", "-2h", "0s", "2027-01-15"] {
            assert!(ago(bad, at(0)).is_err(), "{bad:?}");
        }
    }
}
