//! NATS JetStream as a broker. Must not know who follows, or what becomes of what is read.
//!
//! Two streams, of which `tidewire` is the prefix. `tidewire-log` has a subject for each channel, `tidewire.log.CHANNEL`,
//! and each of its messages has a batch of the channel's events and its numbers after them (`words.rs`); it is appended
//! only by who knows the one before it (`desk.rs`), and told to those who follow as `tidewire.feed.CHANNEL`.
//! `tidewire-index` has what is found by a name: used idempotency keys, states, what was announced or said once, and
//! what the log is (`meta.rs`). What belongs to an event is there a moment later (`index.rs`).

mod address;
mod broker;
mod connect;
mod desk;
mod draft;
mod feed;
mod index;
mod ledger;
mod library;
mod look;
mod meta;
mod office;
mod streams;
mod tail;
mod wire;
mod words;

pub(crate) use connect::Target;

/// How long a channel is known to which nobody has published; whoever follows it looks more often.
const EMPTY_MS: u64 = 3_600_000;
/// How much longer than what is in it a message of the log is kept.
const SPARE_MS: u64 = 86_400_000;

/// Of how many steps, each within the timeout, a connection consists: the socket, two streams that may have to be made,
/// what the log is, and whether it has lost anything.
pub(super) const STEPS_TO_CONNECT: u32 = 4;
