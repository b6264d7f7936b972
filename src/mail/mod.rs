//! Mails for people: what seals a notification for those who may read it, and what opens it again.

pub mod keys;
pub mod seal;
