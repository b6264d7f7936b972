//! The integration tests: one binary, a real private RabbitMQ node for the run, a prefix of its own for each test, a strict
//! simulated org on port 0. No broker is a failure, not a skip.
#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test fails loudly, in its helpers too")]
#![expect(clippy::too_many_lines, reason = "what one test tells is one story")]
#![expect(unreachable_pub, reason = "the modules of a test binary have no one but each other")]

mod door;
mod world;

use testkit::{broker, browser, certificates, mail_server, relay};

/// Which jobs are taken, what the org is sent, and what becomes of each (`docs/contract.md`).
mod jobs {
    pub mod answers;
    pub mod equal_jobs;
    pub mod job;
    pub mod kept;
    pub mod letters;
    pub mod main_path;
    pub mod not_utf8;
    pub mod password;
}

/// The whole quota is spent, on those who can be reset, and nobody holds up the others.
mod quota {
    pub mod breaker;
    pub mod broken_users;
    pub mod guards;
    pub mod whom;
}

/// Nothing is lost and nothing is done twice, however long it waits and whatever ends.
mod delivery {
    pub mod crash;
    pub mod given_back;
    pub mod isolation;
    pub mod ledger;
    pub mod once;
    pub mod waiting;
}

/// The connection to the broker: where it is, what it allows, and how it fails.
mod connection {
    pub mod addresses;
    pub mod broker_faults;
    pub mod channels;
    pub mod dial;
    pub mod first_start;
    pub mod tls;
}

/// One of several workers works an org; a restart, a new secret or a new release is no gap.
mod leaders {
    pub mod leadership;
    pub mod rotation;
    pub mod standby;
    pub mod upgrade;
}

/// Each notification reaches its mail server once, sealed where that is asked for.
mod mails {
    pub mod mail;
    pub mod mailer;
    pub mod sealed;
}

/// What a person types and sees: the commands, the page, health, metrics and traces.
mod operator {
    pub mod check;
    pub mod dead;
    pub mod enqueue;
    pub mod examples;
    pub mod management;
    pub mod manners;
    pub mod ops;
    pub mod page;
    pub mod process;
    pub mod screens;
    pub mod terminal;
    #[cfg(feature = "otel")]
    pub mod traces;
}

/// Who is on the network, in a queue or in the folder stops nothing, reads nothing and forges nothing.
mod attacks {
    pub mod env_file;
    pub mod escape;
    pub mod http_limits;
    pub mod input;
    #[cfg(target_os = "linux")]
    pub mod memory;
    pub mod secret_files;
    pub mod sign_in;
}

/// All faults at once, and for hours. Not part of `make test`.
mod long {
    pub mod chaos;
    pub mod soak;
}
