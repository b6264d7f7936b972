//! The engine of a leader-elected consumer: it keeps the connections, stands by until it leads, takes deliveries in sessions, publishes
//! what follows from each until that is confirmed, and hands over. The workers of the orgs and the mailer are its two users.
//!
//! ```text
//! connect → elect → fence → open a session → take deliveries (normal, isolated, probing) → drain → release
//!    ↑_________ a connection, a channel or the leadership was lost __________________|
//! ```

mod context;
mod intake;
mod leadership;
mod process;
mod session;
mod settle;
mod supervisor;
mod term;
mod workload;

pub use process::{Consumer, Supervisor};
pub use settle::PUBLISH_AGAIN;
pub use workload::{Leave, LeavePolicy, PublishRight, RequeueTarget, SessionContext, WhenHeld, Workload};
