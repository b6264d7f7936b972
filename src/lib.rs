//! `resetd`: the worker behind a queue that resets passwords at Genesys Cloud, at scale and safely.
//!
//! The layers, top to bottom; imports point down only, and a test holds that (`tests/layers.rs`):
//!
//! | layer | modules |
//! |---|---|
//! | 8 | `main` |
//! | 7 | `cli` |
//! | 6 | `commands`: one file for each subcommand, which puts the parts together |
//! | 5 | `reset`: the lifecycle of a job; `mail`: the lifecycle of a mail; `http`: health, metrics and the page |
//! | 4 | `consumer`: the engine of both: elect, take deliveries, publish until confirmed, drain |
//! | 3 | `scim`: the org's endpoints; `amqp`: the broker; `throttle`: gate, limiter, order of each user's jobs; `transport`: from a notification to the next hop, and what seals and opens one |
//! | 2 | `config`, `wire`: the messages; `telemetry`, `board`, `failpoint` |
//! | 1 | `domain`: pure |
//!
//! The simulated org is a crate of its own, `crates/sim`, which knows nothing of this one.

pub mod amqp;
pub mod board;
pub mod cli;
pub mod commands;
pub mod config;
pub mod consumer;
mod dial;
pub mod domain;
pub mod failpoint;
pub mod http;
pub mod mail;
pub mod reset;
pub mod scim;
pub mod telemetry;
pub mod throttle;
pub mod transport;
pub mod wire;
