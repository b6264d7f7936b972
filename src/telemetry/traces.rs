//! Traces: one span for each time a job is in flight, continued from its producer's, and within it one for each thing that takes time.
//!
//! They are spans of `tracing` under this file's own target, which the log never shows and only the layer of `otlp` hears. Where that is
//! not there, by build or by configuration, they are not made. No attribute holds a body, a password, a token or a mail address.

use tracing::{Span, field, info_span};

use crate::domain::job::{JobId, Lane};
use crate::domain::outcome::Outcome;
use crate::domain::trace::TraceParent;

pub use super::otlp::{Exporting, start};
use super::otlp::{follow, place};

/// A job in flight, from when it was taken until it is settled or left.
#[derive(Debug, Clone)]
pub struct JobSpan(Span);

impl JobSpan {
    /// Begins it, as a part of the producer's trace where there is one.
    pub fn begin(job: &JobId, org: &str, lane: Lane, producer: Option<&TraceParent>) -> Self {
        let span = info_span!(
            parent: None,
            "reset",
            otel.kind = "consumer",
            otel.status_code = field::Empty,
            otel.status_description = field::Empty,
            messaging.system = "rabbitmq",
            messaging.operation.type = "process",
            job.id = %job,
            org,
            lane = lane.as_str(),
            outcome = field::Empty,
            reason = field::Empty,
            status = field::Empty,
            attempts = field::Empty,
            password_set = field::Empty,
        );
        if let Some(producer) = producer {
            follow(&span, producer);
        }
        Self(span)
    }

    /// Where whoever goes on from here stands in the trace; `None` where no traces are made.
    pub fn place(&self) -> Option<TraceParent> {
        place(&self.0)
    }

    /// The job is settled.
    pub fn settled(&self, outcome: &Outcome) {
        self.0.record("outcome", outcome.kind.as_str());
        self.0.record("attempts", outcome.attempts);
        self.0.record("password_set", outcome.password_set.as_str());
        if let Some(status) = outcome.status {
            self.0.record("status", status);
        }
        if let Some(reason) = outcome.reason {
            self.0.record("reason", reason.as_str());
            self.failed(reason.as_str());
        }
    }

    /// The job is not settled yet: it comes again.
    pub fn left(&self, how: &'static str) {
        self.0.record("outcome", how);
    }

    fn failed(&self, why: &str) {
        self.0.record("otel.status_code", "ERROR");
        self.0.record("otel.status_description", why);
    }

    /// It waits: for its user's turn, or until it may be tried. The span ends when it is dropped.
    pub fn wait(&self, what: &'static str) -> Span {
        info_span!(parent: &self.0, "wait", otel.name = what)
    }

    /// It waits for its permit: limiter, pauses, breaker, halt and token together.
    pub fn gate(&self) -> Span {
        info_span!(parent: &self.0, "gate")
    }

    /// A call of the org.
    pub fn call(&self, method: &'static str, path: &'static str, attempt: u32) -> CallSpan {
        CallSpan(info_span!(
            parent: &self.0,
            "call",
            otel.name = format_args!("{method} {path}"),
            otel.kind = "client",
            otel.status_code = field::Empty,
            http.request.method = method,
            url.template = path,
            http.response.status_code = field::Empty,
            error.type = field::Empty,
            attempt,
        ))
    }

    /// A message goes to the broker, until it is confirmed.
    pub fn publish(&self, destination: &str) -> Span {
        info_span!(
            parent: &self.0,
            "publish",
            otel.name = format_args!("publish {destination}"),
            otel.kind = "producer",
            messaging.system = "rabbitmq",
            messaging.operation.type = "send",
            messaging.destination.name = destination,
        )
    }
}

/// A call of the org, until its answer is read.
#[derive(Debug)]
pub struct CallSpan(Span);

impl CallSpan {
    /// It was answered with this status, or not at all, and did what it was for, or not.
    pub fn answered(self, status: Option<u16>, failed: bool) {
        match status {
            Some(status) => self.0.record("http.response.status_code", status),
            None => self.0.record("error.type", "no answer"),
        };
        if failed {
            self.0.record("otel.status_code", "ERROR");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_no_traces_are_made_a_job_has_no_place_in_any() {
        let producer = TraceParent::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
        let span = JobSpan::begin(&JobId::new("j"), "main", Lane::Bulk, Some(&producer));
        assert_eq!(span.place(), None);
    }
}
