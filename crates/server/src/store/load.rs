//! Reading history from disk for readers that are behind what is in memory: threads of their own do it, and
//! what they read is shared by all readers near the same place. Must not know connections but by number.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};

use tidewire_core::{Event, Problem};

use super::{Disk, StoreError, lock};
use crate::hub::{Channel, Hub};
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

/// A connection wants the events after `after`.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) channel: Arc<Channel>,
    pub(crate) after: u64,
    pub(crate) amount: Amount,
    pub(crate) shard: u16,
    pub(crate) connection: u32,
    /// Tells a connection from a later one of the same number.
    pub(crate) serial: u32,
}

/// What became of a load. Nothing, if the events have been dropped meanwhile.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) connection: u32,
    pub(crate) serial: u32,
    pub(crate) outcome: Result<Option<Arc<Chunk>>, Problem>,
}

/// Loads that wait. Bounded: a connection waits for one at a time.
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

impl Chunks {
    /// The chunk that has the event after `after`.
    pub(crate) fn find(&self, number: u64, after: u64) -> Option<Arc<Chunk>> {
        let cached = lock(&self.0);
        let (_, chunk) = cached.chunks.range((number, 0)..=(number, after + 1)).next_back()?;
        chunk.events.last().is_some_and(|last| last.id.offset > after).then(|| Arc::clone(chunk))
    }

    fn insert(&self, number: u64, chunk: &Arc<Chunk>) {
        let Some(first) = chunk.events.first() else { return };
        let mut cached = lock(&self.0);
        let position = (number, first.id.offset);
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
        // The store's own code may panic over files that it cannot make sense of.
        let outcome = catch_unwind(AssertUnwindSafe(|| chunk(disk, &load)))
            .unwrap_or_else(|_| Err(StoreError::Damaged("the files make no sense".to_owned())))
            .map_err(|error| {
                eprintln!("tidewire: history of {} cannot be read: {error}", load.channel.name());
                error.problem()
            });
        let Load { shard, connection, serial, .. } = load;
        hub.inboxes()[usize::from(shard)].push(Message::Loaded(Loaded { connection, serial, outcome }));
    }
}

fn chunk(disk: &Disk, load: &Load) -> Result<Option<Arc<Chunk>>, StoreError> {
    let Some((number, head)) = load.channel.stored_head() else { return Ok(None) };
    if let Some(chunk) = disk.chunks.find(number, load.after) {
        return Ok(Some(chunk));
    }
    let first = load.after + 1;
    let (last, bytes_max) = match load.amount {
        Amount::Stream => (first.div_ceil(CHUNK_EVENTS) * CHUNK_EVENTS, CHUNK_BYTES),
        Amount::Page { events, bytes } => (load.after + events as u64, bytes),
    };
    let last = last.min(head);
    let store = disk.store()?;
    let events = match store.read(load.channel.name(), number, load.channel.epoch(), first..=last, bytes_max)
    {
        // Retention was faster.
        _ if load.channel.floor() > load.after => return Ok(None),
        events => events?,
    };
    if events.is_empty() {
        return Err(StoreError::Damaged(format!("the event {first} of {} is missing", load.channel.name())));
    }
    let cost = events.iter().map(|event| 2 * event.size_bytes() + EVENT_BYTES).sum();
    let chunk = Arc::new(Chunk { events, cost });
    disk.chunks.insert(number, &chunk);
    Ok(Some(chunk))
}
