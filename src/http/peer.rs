//! Where a connection comes from.

use std::net::IpAddr;

/// The address of its other end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);
