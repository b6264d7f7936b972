//! What resetting a password means, with no network, no clock and no wire in it.
//!
//! Everything here is a value or a function of its arguments; time and chance are arguments too.

pub mod attribute;
pub mod batch;
pub mod blocked;
pub mod breaker;
pub mod delay_tier;
pub mod ended;
pub mod escape;
pub mod failure;
pub mod form;
pub mod job;
pub mod language;
pub mod leader_proof;
pub mod ledger;
pub mod mailing;
pub mod note;
pub mod notification;
pub mod outcome;
pub mod password;
pub mod rate;
pub mod recipient;
pub mod refusal;
pub mod retry;
pub mod statistics;
pub mod subject;
pub mod token;
pub mod trace;
pub mod user;
pub mod window;
