//! What the process says of itself: logs and metrics. Neither ever holds a body, a password, a token or an address.

pub mod logs;
pub mod metrics;
