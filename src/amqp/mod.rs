//! The broker: names, topology, two connections, leader election, consuming and publishing, the ledger, and how much lies there. Every await on it has a limit.

mod addresses;
mod attach;
mod blocks;
pub mod channels;
mod connect;
pub mod consumer;
pub mod depths;
mod dial;
pub mod election;
pub mod error;
pub mod greeting;
pub mod heartbeat;
pub mod inspect;
pub mod ledger;
pub mod letters;
pub mod link;
pub mod management;
pub mod names;
mod pings;
pub mod publisher;
pub mod registration;
pub mod tail;
mod tls;
pub mod topology;
