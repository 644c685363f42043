//! Who may do what: tokens, tickets, rights, origins. Must not know sockets, shards or transports.
#![allow(dead_code)]

pub(crate) mod identity;
pub(crate) mod origin;
pub(crate) mod pattern;
pub(crate) mod settings;
pub(crate) mod tickets;
