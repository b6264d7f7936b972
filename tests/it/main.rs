//! The integration tests: one binary, a real private RabbitMQ node for the run, a prefix of its own for each test, a strict
//! simulated org on port 0. No broker is a failure, not a skip.
#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test fails loudly, in its helpers too")]
#![expect(unreachable_pub, reason = "the modules of a test binary have no one but each other")]

mod broker;
mod relay;
mod world;

mod answers;
mod broker_faults;
mod chaos;
mod enqueue;
mod job;
mod ledger;
mod letters;
mod ops;
mod process;
mod soak;
mod trip;
