//! One commit in the making: gives events their offsets, finds retries, and collects what to write. Nothing
//! of it counts before it is written. Must not change a channel in memory.

use std::collections::HashMap;
use std::sync::Arc;

use tidewire_core::limits::{Limits, StateKind};
use tidewire_core::log::Appended;
use tidewire_core::log::receipts::{self, Receipt};
use tidewire_core::log::state::StateSize;
use tidewire_core::record;
use tidewire_core::{Event, EventId, NewEvent, Problem, Timestamp};

use super::commit::Erasure;
use super::remains::{self, Remains};
use super::{ChannelRecord, KEY_NEXT_CHANNEL, Store, StoreError, Totals, event_key, keyed, text_key};
use crate::hub::{Channel, OnDiskEvent};

/// What a commit makes of an order, once it is written.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A new event.
    Stored(OnDiskEvent),
    /// A retry of an earlier publish.
    Duplicate(Appended),
    /// Not done.
    Refused(Problem),
    /// Events are erased.
    Erased,
    /// The channel has nothing any more, and is this from now on.
    Deleted(ChannelRecord),
}

pub(super) struct Draft<'a> {
    store: &'a Store,
    limits: &'a Limits,
    batch: fjall::OwnedWriteBatch,
    totals: Totals,
    now: Timestamp,
    channels: HashMap<*const Channel, Standing>,
}

/// Where a channel stands with this commit so far.
#[derive(Debug)]
struct Standing {
    channel: Arc<Channel>,
    record: ChannelRecord,
    record_changed: bool,
    head: u64,
    total: u64,
    time: Timestamp,
    receipts: HashMap<Box<str>, Receipt>,
    /// The number that it had, if it is deleted.
    deleted: Option<u64>,
    /// The bytes that keys' events have in the state now.
    state: HashMap<Box<str>, Option<u64>>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(store: &'a Store, limits: &'a Limits, totals: Totals, now: Timestamp) -> Self {
        let batch = store.batch();
        Self { store, limits, batch, totals, now, channels: HashMap::new() }
    }

    /// Adds an event, unless its idempotency key was used before, or its channel's state has no room.
    pub(super) fn publish(&mut self, channel: &Arc<Channel>, new: &NewEvent) -> Result<Outcome, StoreError> {
        let digest = new.idempotency_key.as_ref().map(|_| receipts::digest(new));
        let (store, now, limits) = (self.store, self.now, self.limits);
        let standing = self.standing(channel);
        let head = standing.head;
        if let (Some(key), Some(digest)) = (&new.idempotency_key, &digest)
            && let Some(receipt) = standing.receipt(store, key)?
            && !receipt.is_expired(head, now, channel.retention())
        {
            let (id, time) = (channel.id(receipt.offset), receipt.time);
            return Ok(match receipt.check(digest) {
                Ok(()) => Outcome::Duplicate(Appended { id, time, duplicate: true }),
                Err(conflict) => Outcome::Refused(conflict),
            });
        }
        let key = new.key.as_ref().filter(|_| channel.state_kind() == StateKind::Keyed);
        if let Some(key) = key {
            let before = standing.state_bytes(store, key)?;
            let after = (!new.is_tombstone()).then(|| new.size_bytes() as u64);
            match standing.record.state.replace(before, after, limits) {
                Ok(size) => standing.record.state = size,
                Err(problem) => return Ok(Outcome::Refused(problem)),
            }
            standing.state.insert(key.clone(), after);
            standing.record_changed = true;
        }
        Ok(self.append(channel, new, digest))
    }

    fn append(
        &mut self,
        channel: &Arc<Channel>,
        new: &NewEvent,
        digest: Option<receipts::Digest>,
    ) -> Outcome {
        let (store, now) = (self.store, self.now);
        let number = self.number(channel);
        let standing = self.standing(channel);
        standing.head += 1;
        // The wall clock may step back; `time` must not, or a merge of channels by time would.
        standing.time = standing.time.max(now);
        let id = EventId { epoch: channel.epoch(), offset: standing.head };
        let event = Arc::new(Event::new(id, standing.time, channel.name().clone(), new.clone()));
        standing.total += event.size_bytes() as u64;
        let (total, state) = (standing.total, standing.record.state);
        let mut receipt = None;
        if let (Some(key), Some(digest)) = (&new.idempotency_key, digest) {
            let used = Receipt { offset: id.offset, time: event.time, digest };
            standing.receipts.insert(key.clone(), used);
            receipt = Some((text_key(number, key), used.encode()));
        }
        self.batch.insert(&store.events, event_key(number, id.offset), record::encode(&event, total));
        if let Some((key, receipt)) = receipt {
            self.batch.insert(&store.receipts, key, &receipt[..]);
        }
        if let Some(key) = event.key.as_ref().filter(|_| channel.state_kind() == StateKind::Keyed) {
            if event.is_tombstone() {
                self.batch.remove(&store.state, text_key(number, key));
            } else {
                self.batch.insert(&store.state, text_key(number, key), keyed::entry(&event));
            }
        }
        Outcome::Stored(OnDiskEvent { event, number, total, state })
    }

    /// Erases events that retention no longer covers.
    pub(super) fn erase(&mut self, channel: &Arc<Channel>, erasure: Erasure) -> Outcome {
        let Erasure { erased, floor, floor_total } = erasure;
        if floor <= self.standing(channel).record.floor {
            return Outcome::Erased; // the channel was deleted meanwhile
        }
        let number = self.number(channel);
        for offset in erased + 1..=floor {
            self.batch.remove(&self.store.events, event_key(number, offset));
        }
        let standing = self.standing(channel);
        standing.record.floor = floor;
        standing.record.floor_total = floor_total;
        standing.record_changed = true;
        Outcome::Erased
    }

    /// Deletes all that a channel has, by giving it another number: what is under the old one nobody finds any
    /// more, and it is swept away piece by piece.
    pub(super) fn delete(&mut self, channel: &Arc<Channel>) -> Outcome {
        let next = self.totals.next_channel;
        let standing = self.standing(channel);
        let old = standing.record.number;
        if old == 0 {
            return Outcome::Erased;
        }
        standing.record = ChannelRecord {
            number: next,
            floor: standing.head,
            floor_total: standing.total,
            state: StateSize::default(),
        };
        standing.record_changed = true;
        standing.deleted = Some(old);
        standing.receipts.clear();
        standing.state.clear();
        let record = standing.record;
        self.totals.next_channel = next + 1;
        self.batch.insert(&self.store.meta, KEY_NEXT_CHANNEL, (next + 1).to_le_bytes());
        self.batch.insert(&self.store.meta, remains::key(old), []);
        Outcome::Deleted(record)
    }

    /// Sweeps away some of what deleted channels have left.
    pub(super) fn sweep(&mut self, number: u64, keys: &Remains, is_all: bool) -> Outcome {
        keys.remove(self.store, &mut self.batch);
        if is_all {
            self.batch.remove(&self.store.meta, remains::key(number));
        }
        Outcome::Erased
    }

    /// The channel's number, given now if this is its first event.
    fn number(&mut self, channel: &Arc<Channel>) -> u64 {
        let next = self.totals.next_channel;
        let standing = self.standing(channel);
        if standing.record.number == 0 {
            standing.record.number = next;
            standing.record_changed = true;
            self.totals.next_channel = next + 1;
            self.batch.insert(&self.store.meta, KEY_NEXT_CHANNEL, (next + 1).to_le_bytes());
            return next;
        }
        standing.record.number
    }

    fn standing(&mut self, channel: &Arc<Channel>) -> &mut Standing {
        self.channels.entry(Arc::as_ptr(channel)).or_insert_with(|| {
            let (record, head, newest) = channel.standing();
            Standing {
                channel: Arc::clone(channel),
                record,
                record_changed: false,
                head,
                total: newest.total,
                time: newest.time,
                receipts: HashMap::new(),
                deleted: None,
                state: HashMap::new(),
            }
        })
    }

    /// Writes it: all of it is on disk when this returns, or none of it counts.
    pub(super) fn write(mut self) -> Result<Totals, StoreError> {
        for standing in self.channels.values().filter(|standing| standing.record_changed) {
            let name = standing.channel.name().as_str();
            self.batch.insert(&self.store.channels, name, standing.record.encode());
        }
        if !self.batch.is_empty() {
            self.totals.commits += 1;
            self.store.write(self.batch, self.totals.commits)?;
            self.channels.values().for_each(|standing| standing.note_forgotten(self.store));
        }
        Ok(self.totals)
    }
}

impl Standing {
    fn note_forgotten(&self, store: &Store) {
        let keys = self.channel.retention().idempotency_keys as u64;
        if !self.receipts.is_empty() && self.head > keys {
            store.forgotten.note(self.record.number, self.head - keys);
        }
        if let Some(deleted) = self.deleted {
            store.forgotten.note_deleted(deleted);
        }
    }

    fn receipt(&self, store: &Store, key: &str) -> Result<Option<Receipt>, StoreError> {
        match self.receipts.get(key) {
            Some(receipt) => Ok(Some(*receipt)),
            None if self.record.number == 0 => Ok(None),
            None => store.receipt(self.record.number, key),
        }
    }

    fn state_bytes(&self, store: &Store, key: &str) -> Result<Option<u64>, StoreError> {
        match self.state.get(key) {
            Some(bytes) => Ok(*bytes),
            None if self.record.number == 0 => Ok(None),
            None => store.state_bytes(self.record.number, key),
        }
    }
}
