//! The integration tests: one binary, a real private RabbitMQ node for the run, a prefix of its own for each test, a strict
//! simulated org on port 0. No broker is a failure, not a skip.
#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test fails loudly, in its helpers too")]
#![expect(clippy::too_many_lines, reason = "what one test tells is one story")]
#![expect(unreachable_pub, reason = "the modules of a test binary have no one but each other")]

mod world;

use testkit::{broker, browser, certificates, mail_server, relay};

mod addresses;
mod answers;
mod breaker;
mod broken_users;
mod broker_faults;
mod channels;
mod chaos;
mod check;
mod crash;
mod dead;
mod dial;
mod door;
mod enqueue;
mod env_file;
mod equal_jobs;
mod escape;
mod examples;
mod first_start;
mod given_back;
mod guards;
mod http_limits;
mod input;
mod isolation;
mod job;
mod kept;
mod leadership;
mod ledger;
mod letters;
mod mail;
mod mailer;
mod main_path;
mod management;
mod manners;
#[cfg(target_os = "linux")]
mod memory;
mod not_utf8;
mod once;
mod ops;
mod page;
mod password;
mod process;
mod rotation;
mod screens;
mod sealed;
mod secret_files;
mod sign_in;
mod soak;
mod standby;
mod terminal;
mod tls;
#[cfg(feature = "otel")]
mod traces;
mod upgrade;
mod waiting;
mod whom;
