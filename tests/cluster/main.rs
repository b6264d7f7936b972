//! The tests on a cluster: three real nodes and the workers, each on a host of its own, in networks that part. `make test-cluster`
//! runs them. They need root on Linux; where namespaces cannot be made, each says that it is skipped, and fails in CI.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test fails loudly, in its helpers too")]
#![expect(unreachable_pub, reason = "the modules of a test binary have no one but each other")]

// What they share with the integration tests.
#[path = "../it/door.rs"]
mod door;
#[path = "../it/world.rs"]
#[expect(dead_code, reason = "it serves the integration tests too")]
mod world;

use testkit::broker;

mod workers;

mod chaos;
mod faults;
mod harness;
mod long;
