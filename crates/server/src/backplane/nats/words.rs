//! A message of the log as bytes, and back: a head with the channel's numbers after it, and a batch of events. Offsets
//! are made here of where a message is in the stream. Must not know connections, nor decide anything.
//!
//! An offset is `(base + sequence) << 20 | index << 12 | check`: the base is the log's (`meta.rs`), the index that of
//! the event in its message, and the check tells whether it is the event that once had this place.

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use tidewire_core::log::receipts::Digest;
use tidewire_core::{ChannelName, Epoch, Event, EventId, NewEvent, Timestamp, record};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::wire::odd;
use crate::backplane::broker::{Arrival, BrokerError, Extent, Seam};

/// How many events a message has at the most: an index has 8 bits.
pub(super) const EVENTS_MAX: usize = 256;
/// What a message is larger than its events, at the most.
pub(super) const HEAD_BYTES: usize = 4_096;
/// What an event's record is larger than the event, with what stands before it.
pub(super) const RECORD_BYTES: usize = 64;

const VERSION: u8 = 1;
/// Marks an offset that is one of the message's own: its index, or the place before all of them.
const OWN: u64 = 1 << 63;
const BEFORE: u64 = OWN | 1 << 32;

/// The offset of an event of the message that is being made.
pub(super) fn own(index: usize) -> u64 {
    OWN | index as u64
}

/// The offset before the message that is being made, in a channel in which there was none.
pub(super) const fn before() -> u64 {
    BEFORE
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A channel begins, or goes on being known, without an event.
    Mark,
    /// It has events.
    Events,
    /// All that was before it is deleted.
    Deleted,
}

/// What stands before a message's events: where it belongs, and the channel's numbers after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    /// Which connection wrote it, and a random number.
    pub(super) node: u64,
    pub(super) nonce: u64,
    pub(super) base: u64,
    /// The newest offset before it; others between may be lost.
    pub(super) prev: u64,
    pub(super) lossy: bool,
    /// The time of its events.
    pub(super) time: u64,
    /// How long it is kept after that.
    pub(super) ttl_ms: u64,
    /// The newest offset.
    pub(super) head: u64,
    /// How many events of how many bytes there ever were.
    pub(super) count: u64,
    pub(super) total: u64,
    /// The newest offset that is not retained, and how many there were up to there.
    pub(super) floor: u64,
    pub(super) floor_count: u64,
    pub(super) floor_total: u64,
    /// The oldest that is, its time, and how long it stays. 0: there is none.
    pub(super) first: u64,
    pub(super) oldest: u64,
    pub(super) age_ms: u64,
    /// How long idempotency keys are remembered.
    pub(super) receipts_ms: u64,
    /// How large the keyed state is, and a sum of what is in it.
    pub(super) keys: u64,
    pub(super) bytes: u64,
    pub(super) sum: u64,
    /// Up to this offset everything is known to be in the index.
    pub(super) indexed: u64,
    /// What was before this is deleted.
    pub(super) born: u64,
    /// Where offsets leap.
    pub(super) seams: Vec<Seam>,
}

/// An event in a message.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Its idempotency key.
    pub(super) receipt: Option<(Box<str>, Digest)>,
    /// It changes the channel's state.
    pub(super) is_state: bool,
    pub(super) record: Bytes,
}

/// A message of the log.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) sequence: u64,
    pub(super) head: Head,
    pub(super) entries: Vec<Entry>,
}

impl Head {
    /// The offset of an event in the message that has this head and sequence.
    pub(super) fn offset(&self, sequence: u64, index: usize) -> u64 {
        let check = xxh3_64_with_seed(&(index as u64).to_le_bytes(), self.nonce) & 0xfff;
        (self.base + sequence) << 20 | (index as u64) << 12 | check
    }

    /// Puts offsets in the place of what stands for the message's own.
    pub(super) fn settle(&mut self, sequence: u64) {
        let place = |head: &Self, offset: u64| match offset {
            BEFORE => ((head.base + sequence) << 20) - 1,
            offset if offset & OWN != 0 => head.offset(sequence, (offset & 0xff) as usize),
            offset => offset,
        };
        self.prev = place(self, self.prev);
        self.head = place(self, self.head);
        self.floor = place(self, self.floor);
        self.first = place(self, self.first);
        self.indexed = place(self, self.indexed);
        self.born = place(self, self.born);
        // A leap ends before the event that comes after it.
        let first = self.offset(sequence, 0);
        self.seams.iter_mut().filter(|seam| seam.to & OWN != 0).for_each(|seam| seam.to = first - 1);
    }

    /// How much is retained with it.
    pub(super) fn extent(&self) -> Extent {
        let retained = (self.count - self.floor_count) as usize;
        let bytes = (self.total - self.floor_total) as usize;
        let expires_ms = if self.first == 0 { 0 } else { self.oldest.saturating_add(self.age_ms) };
        Extent { floor: self.floor, retained: (retained, bytes), expires_ms, first: self.first }
    }

    pub(super) fn encode(&self, entries: &[Entry]) -> Bytes {
        let size: usize = entries.iter().map(|entry| entry.record.len() + RECORD_BYTES).sum();
        let mut out = Vec::with_capacity(HEAD_BYTES / 8 + size);
        out.put_u8(VERSION);
        out.put_u8(match self.kind {
            Kind::Mark => 0,
            Kind::Events => 1,
            Kind::Deleted => 2,
        });
        out.put_u8(u8::from(self.lossy));
        self.numbers().iter().for_each(|number| out.put_u64_le(*number));
        out.put_u16_le(self.seams.len() as u16);
        for seam in &self.seams {
            out.put_u64_le(seam.from);
            out.put_u64_le(seam.to);
        }
        out.put_u16_le(entries.len() as u16);
        for Entry { receipt, is_state, record } in entries {
            out.put_u8(u8::from(*is_state));
            let (key, digest) = receipt.as_ref().map_or(("", &[][..]), |(key, digest)| (key, &digest[..]));
            out.put_u16_le(key.len() as u16);
            out.put_slice(key.as_bytes());
            out.put_slice(digest);
            out.put_u32_le(record.len() as u32);
            out.put_slice(record);
        }
        out.into()
    }

    fn numbers(&self) -> [u64; 21] {
        let Self { node, nonce, base, prev, time, ttl_ms, head, count, total, .. } = *self;
        let Self {
            floor,
            floor_count,
            floor_total,
            first,
            oldest,
            age_ms,
            keys,
            bytes,
            sum,
            indexed,
            born,
            receipts_ms,
            ..
        } = *self;
        [
            node,
            nonce,
            base,
            prev,
            time,
            ttl_ms,
            head,
            count,
            total,
            floor,
            floor_count,
            floor_total,
            first,
            oldest,
            age_ms,
            keys,
            bytes,
            sum,
            indexed,
            born,
            receipts_ms,
        ]
    }
}

impl Message {
    /// What [`Head::encode`] made, at its place in the stream.
    pub(super) fn decode(sequence: u64, data: Bytes) -> Result<Self, BrokerError> {
        let mut reader = Reader { rest: data };
        if reader.byte()? != VERSION {
            return Err(odd("a message of another version of Tidewire in its log"));
        }
        let kind = match reader.byte()? {
            0 => Kind::Mark,
            1 => Kind::Events,
            2 => Kind::Deleted,
            _ => return Err(odd("a message of no kind")),
        };
        let lossy = reader.byte()? != 0;
        let mut numbers = [0; 21];
        for number in &mut numbers {
            *number = reader.long()?;
        }
        let [
            node,
            nonce,
            base,
            prev,
            time,
            ttl_ms,
            head,
            count,
            total,
            floor,
            floor_count,
            floor_total,
            first,
            oldest,
            age_ms,
            keys,
            bytes,
            sum,
            indexed,
            born,
            receipts_ms,
        ] = numbers;
        if base >> 44 != 0 || floor_count > count || floor_total > total {
            return Err(odd("a message whose numbers cannot be"));
        }
        let mut seams = Vec::new();
        for _ in 0..reader.short()? {
            seams.push(Seam { from: reader.long()?, to: reader.long()?, lossy: true });
        }
        let mut entries = Vec::new();
        for _ in 0..reader.short()? {
            entries.push(reader.entry()?);
        }
        let mut head = Head {
            kind,
            node,
            nonce,
            base,
            prev,
            lossy,
            time,
            ttl_ms,
            head,
            count,
            total,
            floor,
            floor_count,
            floor_total,
            first,
            oldest,
            age_ms,
            keys,
            bytes,
            sum,
            indexed,
            born,
            receipts_ms,
            seams,
        };
        head.settle(sequence);
        Ok(Self { sequence, head, entries })
    }

    pub(super) fn offset(&self, index: usize) -> u64 {
        self.head.offset(self.sequence, index)
    }

    /// The offset before an event of it.
    pub(super) fn prev(&self, index: usize) -> u64 {
        if index == 0 { self.head.prev } else { self.offset(index - 1) }
    }

    /// How many events of how many bytes there ever were up to an event of it.
    pub(super) fn totals(&self, index: usize) -> Result<(u64, u64), BrokerError> {
        let before = self.head.count - self.entries.len() as u64;
        let total = record::summary(&self.entries[index].record).map_err(|_| odd("no record"))?.total;
        Ok((before + index as u64 + 1, total))
    }

    /// An event of it, as whoever reads gets it.
    pub(super) fn arrival(
        &self,
        name: &ChannelName,
        epoch: Epoch,
        index: usize,
    ) -> Result<Arrival, BrokerError> {
        let event = self.event(name, epoch, index)?;
        let lossy = index == 0 && self.head.lossy;
        let extent = (index + 1 == self.entries.len()).then(|| self.head.extent());
        Ok(Arrival { event: Arc::new(event), prev: self.prev(index), lossy, extent })
    }

    /// An event of it, as its publisher gets it.
    pub(super) fn own_arrival(
        &self,
        name: &ChannelName,
        epoch: Epoch,
        index: usize,
        new: NewEvent,
    ) -> Arrival {
        let id = EventId { epoch, offset: self.offset(index) };
        let event = Arc::new(Event::new(id, Timestamp(self.head.time), name.clone(), new));
        let extent = (index + 1 == self.entries.len()).then(|| self.head.extent());
        Arrival { event, prev: self.prev(index), lossy: index == 0 && self.head.lossy, extent }
    }

    pub(super) fn event(&self, name: &ChannelName, epoch: Epoch, index: usize) -> Result<Event, BrokerError> {
        event(name, epoch, self.offset(index), self.head.time, &self.entries[index].record)
    }
}

/// An event from its record.
pub(super) fn event(
    name: &ChannelName,
    epoch: Epoch,
    offset: u64,
    time: u64,
    record: &[u8],
) -> Result<Event, BrokerError> {
    let event = record::decode(name, EventId { epoch, offset }, record).map_err(|_| odd("no record"))?;
    Ok(Event { time: Timestamp(time), ..event })
}

/// What is left of a message.
struct Reader {
    rest: Bytes,
}

impl Reader {
    fn take(&mut self, length: usize) -> Result<Bytes, BrokerError> {
        if length > self.rest.len() {
            return Err(odd("a message that ends too early"));
        }
        Ok(self.rest.split_to(length))
    }

    fn number(&mut self, bytes: usize) -> Result<u64, BrokerError> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    fn byte(&mut self) -> Result<u8, BrokerError> {
        Ok(self.number(1)? as u8)
    }

    fn short(&mut self) -> Result<usize, BrokerError> {
        Ok(self.number(2)? as usize)
    }

    fn long(&mut self) -> Result<u64, BrokerError> {
        self.number(8)
    }

    fn entry(&mut self) -> Result<Entry, BrokerError> {
        let is_state = self.byte()? != 0;
        let length = self.short()?;
        let key = self.take(length)?;
        let mut receipt = None;
        if length > 0 {
            let mut digest = Digest::default();
            digest.copy_from_slice(&self.take(20)?);
            let key = std::str::from_utf8(&key).map_err(|_| odd("no key"))?;
            receipt = Some((key.into(), digest));
        }
        let length = self.number(4)? as usize;
        Ok(Entry { receipt, is_state, record: self.take(length)? })
    }
}

/// The subject's token of a channel.
pub(super) fn token(name: &ChannelName) -> String {
    name.as_str().replace('.', "/")
}
