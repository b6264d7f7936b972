//! The broker: names, topology, two connections, the lease and the claim on it, consuming and publishing, the ledger, and how much lies there. Every await on it has a limit.

mod addresses;
mod attach;
mod blocks;
pub mod channels;
pub mod claim;
mod connect;
pub mod consumer;
pub mod depths;
mod dial;
pub mod error;
pub mod greeting;
pub mod heartbeat;
pub mod inspect;
pub mod lease;
pub mod ledger;
pub mod letters;
pub mod link;
pub mod management;
pub mod names;
pub mod publisher;
pub mod tail;
mod tls;
pub mod topology;
