//! Tidewire's server as a library: settings in, a running server out.
//!
//! The data path: `listener` accepts, a `shard` owns the connection, `http` understands requests, the
//! `hub` holds the logs, and the shard's `fanout` writes events to sockets. See ARCHITECTURE.md.

mod access;
mod backplane;
mod certificates;
pub mod client;
mod clock;
mod drain;
mod http;
mod hub;
mod listener;
mod log;
mod metrics;
mod operators;
mod peers;
mod presence;
mod schema;
mod server;
mod settings;
mod shard;
mod socket;
mod sources;
mod store;
mod traces;
mod trust;

pub use access::token::check_token;
pub use drain::Drain;
pub use hub::{Channel, Hub, Located, Published, Snapshot, Unread};
pub use log::LogGuard;
pub use server::Server;
pub use settings::{Flags, Settings};
pub use store::{Checked, check};
