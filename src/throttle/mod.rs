//! What all calls of one org share: the limiter and its adaptive rate, the breaker, the lanes' queue, the pause, the halt,
//! whose turn it is, and who is who.

pub mod adaptive_rate;
pub mod breaker;
pub mod doubts;
pub mod forbidden;
pub mod gate;
pub mod guard;
pub mod jobs_in_flight;
pub mod lanes;
pub mod limiter;
pub mod spent;
pub mod status;
pub mod user_ids;
pub mod user_order;
