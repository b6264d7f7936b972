//! The roles: one for each subcommand, which puts the parts together. A role is `run(config, …, shutdown)`: the caller owns
//! sockets and signals, so that a test binds port 0 and says when to stop.

pub mod check;
pub mod completions;
pub mod dead;
pub mod demo;
pub mod enqueue;
pub mod keygen;
pub mod mailer;
pub mod man;
pub mod schema;
pub mod sim;
pub mod worker;

mod linked;
mod stdout;
