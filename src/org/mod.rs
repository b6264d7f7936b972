//! What all calls of one org share: the limiter and its pace, the breaker, the lanes' queue, the pause, the stopped line,
//! whose turn it is, and who is who.

pub mod breaker;
pub mod directory;
pub mod doubts;
pub mod forbidden;
pub mod gate;
pub mod guard;
pub mod hands;
pub mod lanes;
pub mod limiter;
pub mod pace;
pub mod spent;
pub mod status;
pub mod turns;
