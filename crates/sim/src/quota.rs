//! The quota: so many calls in each fixed window, counted from the start of the org.

use std::time::{Duration, SystemTime};

use axum::http::HeaderValue;

use super::{
    settings::{RetryAfterForm, Settings},
    span::whole_seconds,
};

/// The count of the current window.
pub(super) struct Quota {
    allowed: u32,
    length: Duration,
    form: RetryAfterForm,
    window: u128,
    count: u32,
}

/// What the `inin-ratelimit-*` headers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// Calls admitted in this window.
    pub(super) count: u32,
    /// Calls that a window admits.
    pub(super) allowed: u32,
    /// Seconds to the end of the window, rounded up.
    pub(super) reset: u64,
}

/// A call over the quota.
pub(super) struct Throttled {
    pub(super) retry_after: Option<HeaderValue>,
}

impl Quota {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { allowed: settings.quota, length: settings.window, form: settings.retry_after, window: 0, count: 0 }
    }

    /// Takes one call out of the window of `now` (since the start of the org). A refused call takes nothing.
    pub(super) fn take(&mut self, now: Duration) -> Result<(), Throttled> {
        if self.allowed == 0 {
            return Ok(());
        }
        self.turn(now);
        if self.count < self.allowed {
            self.count += 1;
            return Ok(());
        }
        Err(Throttled { retry_after: self.retry_after(self.left(now), SystemTime::now()) })
    }

    /// Where the quota stands; `None` where there is none.
    pub(super) fn standing(&mut self, now: Duration) -> Option<Standing> {
        if self.allowed == 0 {
            return None;
        }
        self.turn(now);
        Some(Standing { count: self.count, allowed: self.allowed, reset: whole_seconds(self.left(now)) })
    }

    fn turn(&mut self, now: Duration) {
        let window = now.as_nanos() / self.length.as_nanos();
        if window > self.window {
            self.window = window;
            self.count = 0;
        }
    }

    /// From `now` to the end of its window.
    fn left(&self, now: Duration) -> Duration {
        let into = now.as_nanos() % self.length.as_nanos();
        let nanos = self.length.as_nanos() - into;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn retry_after(&self, left: Duration, clock: SystemTime) -> Option<HeaderValue> {
        let text = match self.form {
            RetryAfterForm::Seconds => whole_seconds(left).to_string(),
            RetryAfterForm::Zero => "0".to_owned(),
            RetryAfterForm::Absent => return None,
            RetryAfterForm::Date => {
                let end = clock.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + left;
                httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(whole_seconds(end)))
            }
        };
        HeaderValue::from_str(&text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(form: RetryAfterForm) -> Quota {
        let window = Duration::from_secs(10);
        Quota::new(&Settings { quota: 2, window, retry_after: form, ..Settings::default() })
    }

    #[test]
    fn a_window_admits_its_quota_and_the_next_one_begins_afresh() {
        let mut quota = quota(RetryAfterForm::Seconds);
        let at = Duration::from_millis;
        let admitted: Vec<bool> = [0, 5_000, 6_000, 9_999, 10_000].map(|now| quota.take(at(now)).is_ok()).to_vec();
        assert_eq!(admitted, [true, true, false, false, true]);
        let standing = quota.standing(at(18_500));
        assert_eq!(standing, Some(Standing { count: 1, allowed: 2, reset: 2 }));
    }

    #[test]
    fn retry_after_is_rounded_up_in_every_form() {
        let clock = SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_775_250);
        let text = |form| quota(form).retry_after(Duration::from_millis(1_250), clock);
        assert_eq!(text(RetryAfterForm::Seconds), Some(HeaderValue::from_static("2")));
        assert_eq!(text(RetryAfterForm::Zero), Some(HeaderValue::from_static("0")));
        assert_eq!(text(RetryAfterForm::Absent), None);
        let date = HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(text(RetryAfterForm::Date), Some(date));
    }
}
