//! Kafka as a broker: one topic is the log of all channels, and each node works out from it, record by record and all
//! alike, what channels there are and what they have. Must not know who follows, or what becomes of what is read.
//!
//! A channel is in the partition that its name's hash says. Whatever changes one is a record there (`words.rs`), and is
//! answered once this node has read it back: what Kafka shows, its replicas have. `machine.rs` and `channel.rs` say
//! what a record does; they are pure, so that all nodes agree. What must outlive its record (a state's keys, where an
//! empty channel is, what was announced) is written again before the log's front is deleted (`front.rs`).
//!
//! An event's offset says where it is: (base + position in the partition) << 20 | 20 bits of its record's nonce. The
//! base is in milliseconds, and rises when events were lost (`session.rs` finds that out), so no offset is ever given
//! twice.

mod address;
mod broker;
mod channel;
mod connection;
mod front;
mod machine;
mod partition;
mod requests;
mod sasl;
mod session;
mod topic;
mod words;

pub(crate) use broker::Target;
