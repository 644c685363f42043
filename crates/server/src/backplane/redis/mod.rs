//! Redis as a broker: a stream for each channel's events, beside it its numbers, state and receipts, all changed by one
//! script at one moment (the `.lua` files say how), and a publish to those who follow. Must not know who follows, or
//! what becomes of what is read.
//!
//! Keys, of which `tidewire` is the prefix: `tidewire:{CHANNEL}:n` (hash), `:log` (stream), `:state` (hash), `:r` and
//! `:ro` (receipts and their order), and `tidewire:log` with the log's number. The braces keep a channel's keys
//! together in a cluster (Redis Cluster specification, "hash tags").

mod address;
mod broker;
mod cluster;
mod connect;
mod words;

pub(crate) use connect::Target;
