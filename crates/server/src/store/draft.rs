//! One commit in the making: gives events their offsets, finds retries, and collects what to write. Nothing
//! of it counts before it is written. Must not change a channel in memory.

use std::collections::HashMap;
use std::sync::Arc;

use tidewire_core::log::Appended;
use tidewire_core::log::receipts::{self, Receipt};
use tidewire_core::record;
use tidewire_core::{Event, EventId, NewEvent, Problem, Timestamp};

use super::commit::Erasure;
use super::{ChannelRecord, KEY_NEXT_CHANNEL, Store, StoreError, Totals, event_key, text_key};
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
}

pub(super) struct Draft<'a> {
    store: &'a Store,
    batch: fjall::OwnedWriteBatch,
    totals: Totals,
    now: Timestamp,
    channels: HashMap<*const Channel, Standing>,
    is_empty: bool,
}

/// Where a channel stands with this commit so far.
#[derive(Debug)]
struct Standing {
    number: u64,
    head: u64,
    total: u64,
    time: Timestamp,
    receipts: HashMap<Box<str>, Receipt>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(store: &'a Store, totals: Totals, now: Timestamp) -> Self {
        let batch = store.batch();
        Self { store, batch, totals, now, channels: HashMap::new(), is_empty: true }
    }

    /// Adds an event, unless its idempotency key was used before.
    pub(super) fn publish(&mut self, channel: &Arc<Channel>, new: &NewEvent) -> Result<Outcome, StoreError> {
        let digest = new.idempotency_key.as_ref().map(|_| receipts::digest(new));
        let (store, now) = (self.store, self.now);
        let standing = self.standing(channel);
        if let (Some(key), Some(digest)) = (&new.idempotency_key, &digest) {
            let receipt = match standing.receipts.get(key) {
                Some(receipt) => Some(*receipt),
                None if standing.number == 0 => None,
                None => store.receipt(standing.number, key)?,
            };
            if let Some(receipt) = receipt.filter(|receipt| !receipt.is_expired(now, channel.retention())) {
                return Ok(match receipt.check(digest) {
                    Ok(()) => Outcome::Duplicate(Appended {
                        id: channel.id(receipt.offset),
                        time: receipt.time,
                        duplicate: true,
                    }),
                    Err(conflict) => Outcome::Refused(conflict),
                });
            }
        }
        Ok(self.append(channel, new, digest))
    }

    fn append(
        &mut self,
        channel: &Arc<Channel>,
        new: &NewEvent,
        digest: Option<receipts::Digest>,
    ) -> Outcome {
        let now = self.now;
        let number = self.number(channel);
        let standing = self.standing(channel);
        standing.head += 1;
        // The wall clock may step back; `time` must not, or a merge of channels by time would.
        standing.time = standing.time.max(now);
        let id = EventId { epoch: channel.epoch(), offset: standing.head };
        let mut receipt = None;
        if let (Some(key), Some(digest)) = (&new.idempotency_key, digest) {
            let used = Receipt { offset: id.offset, time: standing.time, digest };
            standing.receipts.insert(key.clone(), used);
            receipt = Some((text_key(number, key), used.encode()));
        }
        let event = Event::new(id, standing.time, channel.name().clone(), new.clone());
        standing.total += event.size_bytes() as u64;
        let total = standing.total;
        self.is_empty = false;
        self.batch.insert(&self.store.events, event_key(number, id.offset), record::encode(&event, total));
        if let Some((key, receipt)) = receipt {
            self.batch.insert(&self.store.receipts, key, &receipt[..]);
        }
        Outcome::Stored(OnDiskEvent { event: Arc::new(event), number, total })
    }

    /// Erases events that retention no longer covers.
    pub(super) fn erase(&mut self, channel: &Arc<Channel>, erasure: Erasure) -> Outcome {
        let Erasure { erased, floor, floor_total } = erasure;
        let number = self.number(channel);
        for offset in erased + 1..=floor {
            self.batch.remove(&self.store.events, event_key(number, offset));
        }
        let record = ChannelRecord { number, floor, floor_total };
        self.batch.insert(&self.store.channels, channel.name().as_str(), record.encode());
        self.is_empty = false;
        Outcome::Erased
    }

    /// The channel's number, given now if this is its first event.
    fn number(&mut self, channel: &Arc<Channel>) -> u64 {
        let next = self.totals.next_channel;
        let standing = self.standing(channel);
        if standing.number != 0 {
            return standing.number;
        }
        standing.number = next;
        let record = ChannelRecord { number: next, floor: standing.head, floor_total: standing.total };
        self.totals.next_channel = next + 1;
        self.batch.insert(&self.store.channels, channel.name().as_str(), record.encode());
        self.batch.insert(&self.store.meta, KEY_NEXT_CHANNEL, (next + 1).to_le_bytes());
        next
    }

    fn standing(&mut self, channel: &Arc<Channel>) -> &mut Standing {
        self.channels.entry(Arc::as_ptr(channel)).or_insert_with(|| {
            let (number, head, newest) = channel.standing();
            Standing { number, head, total: newest.total, time: newest.time, receipts: HashMap::new() }
        })
    }

    /// Writes it: all of it is on disk when this returns, or none of it counts.
    pub(super) fn write(mut self) -> Result<Totals, StoreError> {
        if !self.is_empty {
            self.totals.commits += 1;
            self.store.write(self.batch, self.totals.commits)?;
        }
        Ok(self.totals)
    }
}
