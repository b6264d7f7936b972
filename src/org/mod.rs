//! What all calls of one org share: the limiter, the lanes' queue, the pause, the stopped line, and whose turn it is.

pub mod forbidden;
pub mod gate;
pub mod lanes;
pub mod limiter;
pub mod turns;
