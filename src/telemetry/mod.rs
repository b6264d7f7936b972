//! What the process says of itself: logs, metrics and traces. None ever holds a body, a password, a token or an address.

pub mod logs;
pub mod metrics;
#[cfg_attr(not(feature = "otel"), path = "no_otlp.rs")]
mod otlp;
pub mod traces;
