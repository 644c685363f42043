//! Reading history from disk for readers that are behind what is in memory: threads of their own do it, and
//! what they read is shared by all readers near the same place. Must not know connections but by number.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};

use tidewire_core::limits::StateKind;
use tidewire_core::wire::poll::State;
use tidewire_core::{Event, Problem};

use super::{Disk, StoreError, lock};
use crate::hub::{Channel, Hub, Snapshot};
use crate::shard::Message;

/// A stream's chunk ends at an offset divisible by this, so that readers who began apart soon share chunks.
const CHUNK_EVENTS: u64 = 256;
/// A stream's chunk ends once its events have so many bytes.
const CHUNK_BYTES: usize = 256 << 10;
/// What all chunks together may cost; those being read are not counted out.
const CACHE_BYTES: usize = 64 << 20;
/// What an event costs besides its data, once it has been framed.
const EVENT_BYTES: usize = 600;

/// Events of a channel, one after the other, as read from disk.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) events: Vec<Arc<Event>>,
    cost: usize,
}

/// How much of a channel to read at once.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Amount {
    /// As is best for a stream, which reads on.
    Stream,
    /// Up to so many events, until they have so many bytes: a page.
    Page { events: usize, bytes: usize },
}

/// A connection wants something of a channel.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) channel: Arc<Channel>,
    pub(crate) what: What,
    pub(crate) shard: u16,
    pub(crate) connection: u32,
    /// Tells a connection from a later one of the same number.
    pub(crate) serial: u32,
}

/// What a connection wants.
#[derive(Debug)]
pub(crate) enum What {
    /// The events after an offset.
    Events { after: u64, amount: Amount },
    /// The state. The text comes back with it. A stream may wait while it cannot be had.
    State { note: Option<Box<str>>, may_wait: bool },
}

/// What became of a load.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) connection: u32,
    pub(crate) serial: u32,
    pub(crate) channel: Arc<Channel>,
    pub(crate) outcome: Outcome,
}

/// What was loaded.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Events; none, if they have been dropped meanwhile.
    Events(Result<Option<Arc<Chunk>>, Problem>),
    /// The state and the note that went with the wish.
    State(Result<Snapshot, Problem>, Option<Box<str>>),
}

/// Loads that wait. Bounded: a connection waits for one read of events at a time, and for a state per
/// channel that it asks for.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    waiting: Mutex<(VecDeque<Load>, bool)>,
    arrived: Condvar,
}

impl Loads {
    pub(crate) fn push(&self, load: Load) {
        lock(&self.waiting).0.push_back(load);
        self.arrived.notify_one();
    }

    /// The next load; `None` once stopped.
    fn next(&self) -> Option<Load> {
        let mut waiting = lock(&self.waiting);
        loop {
            if waiting.1 {
                return None;
            }
            if let Some(load) = waiting.0.pop_front() {
                return Some(load);
            }
            waiting = self.arrived.wait(waiting).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    pub(super) fn stop(&self) {
        lock(&self.waiting).1 = true;
        self.arrived.notify_all();
    }
}

/// The chunks that readers may share.
#[derive(Debug, Default)]
pub(crate) struct Chunks(Mutex<Cached>);

#[derive(Debug, Default)]
struct Cached {
    /// By the channel's number and the first offset.
    chunks: BTreeMap<(u64, u64), Arc<Chunk>>,
    /// Oldest first.
    order: VecDeque<(u64, u64)>,
    cost: usize,
}

impl Chunk {
    /// What `amount` stands for: the last offset to read, and after how many bytes to stop.
    pub(crate) fn bounds(after: u64, amount: Amount) -> (u64, usize) {
        match amount {
            Amount::Stream => ((after + 1).div_ceil(CHUNK_EVENTS) * CHUNK_EVENTS, CHUNK_BYTES),
            Amount::Page { events, bytes } => (after + events as u64, bytes),
        }
    }

    /// As [`Self::bounds`] for whom offsets do not say how many events there are: how many to read, and after how many
    /// bytes to stop.
    pub(crate) fn room(after: u64, amount: Amount, is_sparse: bool) -> (usize, usize) {
        match amount {
            Amount::Stream if is_sparse => (CHUNK_EVENTS as usize, CHUNK_BYTES),
            Amount::Page { events, bytes } => (events, bytes),
            Amount::Stream => {
                let (last, bytes) = Self::bounds(after, amount);
                ((last - after) as usize, bytes)
            }
        }
    }

    pub(crate) fn new(events: Vec<Arc<Event>>) -> Self {
        let cost = events.iter().map(|event| 2 * event.size_bytes() + EVENT_BYTES).sum();
        Self { events, cost }
    }
}

impl Chunks {
    /// The chunk that has the event after `after`.
    pub(crate) fn find(&self, number: u64, after: u64) -> Option<Arc<Chunk>> {
        let cached = lock(&self.0);
        let (position, chunk) = cached.chunks.range((number, 0)..=(number, after + 1)).next_back()?;
        // A position within that is no event's has to be looked at by whoever knows the log.
        let is_of_it = position.1 == after + 1
            || chunk.events.binary_search_by_key(&after, |event| event.id.offset).is_ok();
        let has_more = chunk.events.last().is_some_and(|last| last.id.offset > after);
        (is_of_it && has_more).then(|| Arc::clone(chunk))
    }

    /// Shares a chunk with all who read on after `after`, where it begins.
    pub(crate) fn insert(&self, number: u64, after: u64, chunk: &Arc<Chunk>) {
        let mut cached = lock(&self.0);
        let position = (number, after + 1);
        if let Some(before) = cached.chunks.insert(position, Arc::clone(chunk)) {
            cached.cost -= before.cost;
        } else {
            cached.order.push_back(position);
        }
        cached.cost += chunk.cost;
        // One that is about to be read stays: whoever waits for it would wait again.
        for _ in 0..cached.order.len() {
            if cached.cost <= CACHE_BYTES {
                break;
            }
            let Some(oldest) = cached.order.pop_front() else { break };
            let is_wanted = cached.chunks.get(&oldest).is_some_and(|chunk| Arc::strong_count(chunk) > 1);
            if is_wanted {
                cached.order.push_back(oldest);
            } else if let Some(gone) = cached.chunks.remove(&oldest) {
                cached.cost -= gone.cost;
            }
        }
    }
}

/// Serves loads until the disk is stopped.
pub(crate) fn run(hub: &Hub, disk: &Disk) {
    while let Some(load) = disk.loads.next() {
        let Load { channel, what, shard, connection, serial } = load;
        let outcome = match what {
            What::Events { after, amount } => {
                Outcome::Events(read(&channel, || chunk(disk, &channel, after, amount)))
            }
            What::State { note, .. } => Outcome::State(read(&channel, || snapshot(disk, &channel)), note),
        };
        let loaded = Loaded { connection, serial, channel, outcome };
        hub.inboxes()[usize::from(shard)].push(Message::Loaded(loaded));
    }
}

/// Reads, and says what went wrong to those who run the server and to the peer.
fn read<T>(channel: &Channel, read: impl FnOnce() -> Result<T, StoreError>) -> Result<T, Problem> {
    // The store's own code may panic over files that it cannot make sense of.
    let outcome = catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(StoreError::Damaged("the files make no sense".to_owned())));
    outcome.map_err(|error| {
        eprintln!("tidewire: history of {} cannot be read: {error}", channel.name());
        error.problem()
    })
}

fn snapshot(disk: &Disk, channel: &Channel) -> Result<Snapshot, StoreError> {
    let found = disk.store()?.snapshot(channel.name(), channel.epoch(), channel.state_kind())?;
    let (cursor, state) = found.unwrap_or_else(|| {
        let state = match channel.state_kind() {
            StateKind::Keyed => State::Keyed(Vec::new()),
            StateKind::Last | StateKind::None => State::Last(None),
        };
        (channel.id(channel.head()), state)
    });
    Ok(Snapshot { cursor, state, retained: channel.retained() })
}

fn chunk(
    disk: &Disk,
    channel: &Channel,
    after: u64,
    amount: Amount,
) -> Result<Option<Arc<Chunk>>, StoreError> {
    let Some((number, head)) = channel.stored_head() else { return Ok(None) };
    if let Some(chunk) = disk.chunks.find(number, after) {
        return Ok(Some(chunk));
    }
    let first = after + 1;
    let (last, bytes_max) = Chunk::bounds(after, amount);
    let last = last.min(head);
    let store = disk.store()?;
    let events = match store.read(channel.name(), number, channel.epoch(), first..=last, bytes_max) {
        // Retention was faster.
        _ if channel.floor() > after => return Ok(None),
        events => events?,
    };
    if events.is_empty() {
        return Err(StoreError::Damaged(format!("the event {first} of {} is missing", channel.name())));
    }
    let chunk = Arc::new(Chunk::new(events));
    disk.chunks.insert(number, after, &chunk);
    Ok(Some(chunk))
}
