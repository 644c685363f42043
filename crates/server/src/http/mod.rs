//! What HTTP requests mean and how they are answered, apart from sockets: given a request and the hub,
//! bytes. Must not know shards, connections or timers.

pub(crate) mod answer;
pub(crate) mod pages;
pub(crate) mod read;
pub(crate) mod route;
