//! Conformance cases as data: what is published, how a client connects, what it must see.
//! Speaks to a server only over the wire, through public client libraries; knows nothing of its insides.
//!
//! A case is a table in a file of `cases/`; see [`case`] for its words. [`runner`] plays it over each
//! transport that it names, and [`client`] has one implementation of [`client::Client`] per transport.

pub mod broker;
pub mod case;
pub mod client;
pub mod crowd;
pub mod durable;
pub mod event;
pub mod http;
pub mod kafka;
pub mod launch;
pub mod model;
pub mod nats;
pub mod pattern;
pub mod proxy;
pub mod random;
pub mod redis;
pub mod redis_replicas;
pub mod relay;
pub mod runner;
pub mod scratch;
pub mod server;
pub mod sse;
pub mod wire;
pub mod words;

/// What can go wrong while a case runs: a sentence that says what was expected and what came.
pub type Result<T> = std::result::Result<T, String>;
