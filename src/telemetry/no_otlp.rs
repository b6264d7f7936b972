//! In place of `otlp` in a build without OpenTelemetry: no traces. A configuration that asks for them is refused (`config/telemetry.rs`).

use std::convert::Infallible;

use reqwest::Url;
use tracing::Span;

use super::logs::Traces;
use crate::domain::trace::TraceParent;

/// Nothing is on its way.
#[derive(Debug)]
pub struct Exporting(Infallible);

impl Exporting {
    /// Never needed.
    pub fn end(self) {
        match self.0 {}
    }
}

/// Starts nothing.
///
/// # Errors
/// None.
pub fn start(_: Option<&Url>) -> Result<Option<(Traces, Exporting)>, Infallible> {
    Ok(None)
}

pub(super) fn follow(_: &Span, _: &TraceParent) {}

pub(super) fn place(_: &Span) -> Option<TraceParent> {
    None
}
