//! The rate at work: the configured one, or less where others share the org's quota. Pure: time is an argument.
//!
//! Calls that are throttled though the limiter was kept to say that less is left for us. Between the ends of two pauses the org
//! is seen to admit so many calls: that rate and 5 % more is the new one, if it is lower. It creeps up 5 % a minute again.
//! Blind cuts would cost more time than they save calls.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

/// More than was seen, so that an estimate that is a little low does not stay.
const MORE: f64 = 1.05;
/// How much it creeps up in a minute.
const CREEP: f64 = 1.05;
/// The steps in which it creeps: each is a new limiter.
const STEP: Duration = Duration::from_secs(5);
/// From how many answers on, or after how long, what was seen is an estimate; else it is looked at on to the end of the next pause.
const ANSWERS: u32 = 5;
const LONG: Duration = Duration::from_secs(60);
/// The part of the configured rate that it never falls below.
const FLOOR: f64 = 20.0;
/// The part of the time for which nobody may have waited, where an estimate is to be made of it.
const UNFILLED: u32 = 10;

/// One org's rate.
#[derive(Debug)]
pub struct AdaptiveRate {
    configured: NonZeroU32,
    rate: f64,
    crept: Instant,
    /// The end of a pause that has not ended, or whose end was not looked at yet.
    pause_end: Option<Instant>,
    span: Option<Span>,
    /// Since when nobody waits, or something else than a 429 keeps those who do.
    unfilled: Option<Instant>,
}

/// What was seen since the end of a pause.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: Instant,
    answers: u32,
    unfilled: Duration,
}

impl AdaptiveRate {
    /// One at the configured rate.
    pub fn new(configured: NonZeroU32, now: Instant) -> Self {
        let rate = f64::from(configured.get());
        Self { configured, rate, crept: now, pause_end: None, span: None, unfilled: None }
    }

    /// The rate at work, in whole calls a minute.
    pub fn per_minute(&self) -> NonZeroU32 {
        NonZeroU32::new(self.rate as u32).unwrap_or(NonZeroU32::MIN).min(self.configured)
    }

    /// Whether a call made now waits for a 429 no less than until `until`.
    pub fn pauses_until(&self, until: Instant) -> bool {
        self.pause_end.is_some_and(|end| until <= end)
    }

    /// A call was answered 429, and all wait until then. While they do, another 429 can only prolong it.
    pub fn throttled(&mut self, now: Instant, until: Instant) {
        self.settle(now);
        self.pause_end = self.pause_end.max(Some(until));
    }

    /// A call was answered otherwise.
    pub fn answered(&mut self, now: Instant) {
        self.settle(now);
        if let Some(span) = &mut self.span {
            span.answers = span.answers.saturating_add(1);
        }
    }

    /// Whether the time from now on is filled: somebody waits, and for nothing but the limiter or the end of a 429's pause.
    pub fn filled(&mut self, now: Instant, filled: bool) {
        self.settle(now);
        if filled {
            self.add_unfilled(now);
            self.unfilled = None;
        } else {
            self.unfilled.get_or_insert(now);
        }
    }

    /// At the end of a pause: the rate is lowered to what was seen since the end of the one before.
    pub fn settle(&mut self, now: Instant) {
        let Some(end) = self.pause_end.filter(|end| *end <= now) else { return };
        self.pause_end = None;
        self.crept = end;
        self.add_unfilled(end);
        let span = match self.span {
            Some(span) if span.answers < ANSWERS && end - span.from < LONG => span,
            Some(span) => {
                self.lower(span, end - span.from);
                Span { from: end, answers: 0, unfilled: Duration::ZERO }
            }
            None => Span { from: end, answers: 0, unfilled: Duration::ZERO },
        };
        self.span = Some(span);
    }

    fn lower(&mut self, span: Span, took: Duration) {
        if span.unfilled * UNFILLED > took {
            return;
        }
        let seen = f64::from(span.answers) / (took - span.unfilled).as_secs_f64() * 60.0;
        let floor = (f64::from(self.configured.get()) / FLOOR).max(1.0);
        self.rate = (seen * MORE).max(floor).min(self.rate);
    }

    /// What was unfilled up to then goes to the span.
    fn add_unfilled(&mut self, until: Instant) {
        if let (Some(since), Some(span)) = (self.unfilled, &mut self.span) {
            span.unfilled += until.saturating_duration_since(since.max(span.from));
            self.unfilled = Some(since.max(until));
        }
    }

    /// Creeps up for the time since it last did, or since the last pause ended.
    pub fn creep(&mut self, now: Instant) {
        let minutes = now.saturating_duration_since(self.crept).as_secs_f64() / 60.0;
        if self.pause_end.is_none() && minutes * 60.0 >= STEP.as_secs_f64() {
            self.rate = (self.rate * CREEP.powf(minutes)).min(self.configured.get().into());
            self.crept = now;
        }
    }
}

#[cfg(test)]
mod tests;
