//! What a broker must be able to do, so that channels can have their logs there: the seam that each kind of broker
//! implements. Must not know connections, shards or channels in memory.
//!
//! A log at a broker has what a log has anywhere: offsets that rise, and an event is acknowledged once the broker has
//! it. Beyond that, each event says which offset came before it, so whoever misses one knows that, and where a broker
//! may have lost its newest events (it was started anew, or another one took over), offsets leap: those that were lost
//! are never given again, and who asks for them is found out.
//!
//! Offsets are dense, each event's is the next number, or sparse: an offset says where the broker has the event, and a
//! number between two of them is nobody's.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tidewire_core::limits::{Limits, Policy};
use tidewire_core::log::receipts::{Digest, Receipt};
use tidewire_core::{ChannelName, Event, NewEvent, Problem};

use crate::access::sealed::Secret;

/// What a broker will say.
pub(super) type Answer<T> = Pin<Box<dyn Future<Output = Result<T, BrokerError>>>>;

/// The broker did not do what was asked, or nobody knows whether it did. The connection to it is of no use any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct BrokerError(pub(super) String);

/// How much of a channel is retained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Extent {
    /// The newest offset that is not retained.
    pub(crate) floor: u64,
    /// The oldest offset that is; 0 if none is, or where offsets are dense and it is the next one.
    pub(crate) first: u64,
    /// How many events of how many bytes are.
    pub(crate) retained: (usize, usize),
    /// When the oldest expires; 0: there is none.
    pub(crate) expires_ms: u64,
}

/// An event, and what is said with it.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) event: Arc<Event>,
    /// The offset before it.
    pub(crate) prev: u64,
    /// Others between may be lost.
    pub(crate) lossy: bool,
    /// How much is retained with it.
    pub(crate) extent: Option<Extent>,
}

/// A leap of a channel's offsets: those between are never given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seam {
    /// The newest offset before it.
    pub(crate) from: u64,
    /// The one before the oldest after it.
    pub(crate) to: u64,
    /// Events that were acknowledged may have been between; else there were none.
    pub(crate) lossy: bool,
}

/// How a channel stands.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    /// The newest offset.
    pub(crate) head: u64,
    pub(crate) extent: Extent,
    /// Where its offsets leap, oldest first.
    pub(crate) seams: Vec<Seam>,
    /// The newest event, if it is retained.
    pub(crate) latest: Option<Arrival>,
}

/// An event to append.
#[derive(Debug, Clone)]
pub(super) struct Append {
    pub(super) name: ChannelName,
    pub(super) policy: Arc<Policy>,
    pub(super) new: NewEvent,
    /// Set if it has an idempotency key.
    pub(super) digest: Option<Digest>,
}

/// What became of an append.
#[derive(Debug, Clone)]
pub(super) enum Appended {
    /// It is the channel's newest.
    Stored(Arrival),
    /// Its idempotency key was used before.
    Known(Receipt),
    /// It is not stored.
    Refused(Problem),
}

/// A state, and the newest offset that is in it.
#[derive(Debug, Clone)]
pub(super) struct StateAt {
    pub(super) head: u64,
    pub(super) events: Vec<Arc<Event>>,
    pub(super) extent: Extent,
}

/// What comes without being asked for.
#[derive(Debug, Clone)]
pub(super) enum Notice {
    /// An event of a channel that is followed.
    Event(ChannelName, Arrival),
    /// All that a channel had is deleted; nothing up to the offset is retained.
    Deleted(ChannelName, u64),
    /// Something was announced of a subject.
    Announced(String, String),
    /// Some are missing, of any channel: the connection is of no use any more.
    Lost(String),
}

/// What all who share a log know of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    /// A random number, from which epochs are made.
    pub(crate) number: u64,
    /// What nobody else knows.
    pub(crate) secret: Secret,
}

/// One broker, connected. The orders of one channel are done in the order of the calls. Each call ends in bounded
/// time, in an error at the latest.
pub(super) trait Broker {
    /// What is said of the log as a whole.
    fn known(&self) -> Known;

    /// Whether offsets are sparse. Seams are lossy ones only, then.
    fn is_sparse(&self) -> bool {
        false
    }

    /// Whether nobody has said this before; remembered for so long.
    fn say_once(&self, what: &str, keep_ms: u64) -> Answer<bool>;

    /// Tells all others something of a subject. Where it is kept, those hear of it too who come later, until it is
    /// forgotten or something else is said of the subject.
    fn announce(&self, subject: &str, what: &str, is_kept: bool) -> Answer<()>;

    /// All that is kept of what was announced: subjects, and what was said of each.
    fn announced(&self) -> Answer<Vec<(String, String)>>;

    /// What was announced of these subjects is not kept any more, unless something else was announced since.
    fn forget(&self, announced: &[(String, String)]) -> Answer<()>;

    /// Appends events; one answer for each.
    fn append(&self, appends: Vec<Append>, limits: &Limits) -> Answer<Vec<Appended>>;

    /// From when this is answered, events of these channels come as notices.
    fn follow(&self, names: &[ChannelName]) -> Answer<()>;

    /// They come no longer.
    fn unfollow(&self, names: &[ChannelName]) -> Answer<()>;

    /// How channels stand; what is expired is dropped first.
    fn look(&self, channels: &[(ChannelName, Arc<Policy>)]) -> Answer<Vec<Standing>>;

    /// Events after an offset up to another one; fewer if they have that many bytes, but at least one if there is any.
    fn read(
        &self,
        name: &ChannelName,
        after: u64,
        last: u64,
        events_max: usize,
        bytes_max: usize,
    ) -> Answer<Vec<Arrival>>;

    /// A channel's state, all of one moment.
    fn state(&self, name: &ChannelName, policy: &Arc<Policy>) -> Answer<StateAt>;

    /// Deletes all that a channel has. Gives the newest offset.
    fn delete(&self, name: &ChannelName) -> Answer<u64>;

    /// Whether it is there.
    fn ping(&self) -> Answer<()>;

    /// What comes without being asked for; none once the connection is gone.
    fn notice(&self) -> Pin<Box<dyn Future<Output = Option<Notice>> + '_>>;
}
