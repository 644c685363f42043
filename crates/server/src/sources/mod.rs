//! Sources: something real to stream. Each publishes through the hub like any other publisher.

pub(crate) mod host;
