//! What one channel has, as the log's records say: where its events are, which idempotency keys were used, and its
//! state. Must not know the records of other channels, nor the events' data but for those of the state.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use tidewire_core::Timestamp;
use tidewire_core::limits::BACKPLANE_SEAMS;
use tidewire_core::log::receipts::{Digest, Receipt};
use tidewire_core::log::state::StateSize;

use super::words::Terms;
use crate::backplane::broker::{Extent, Seam};

/// How long a channel is known to which nobody has published. Whoever follows it says it again.
pub(super) const EMPTY_MS: u64 = 3_600_000;
/// How much longer than its last event and idempotency key a channel is known.
const KNOWN_MS: u64 = 86_400_000;
/// How much later than it may be forgotten its records go: clocks differ.
const CLOCKS_MS: u64 = 3_600_000;
/// How long it is known that a key has left the state; who says it again after half of that comes too late.
pub(super) const GONE_MS: u64 = 600_000;
/// When to look again at a channel in which nothing can expire.
const LOOK_MS: u64 = 900_000;

/// An event that is retained: where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) offset: u64,
    pub(super) position: u64,
    pub(super) time_ms: u64,
    pub(super) bytes: u32,
    /// What was before it may be lost.
    pub(super) is_lossy: bool,
}

/// An event of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) offset: u64,
    pub(super) time_ms: u64,
    pub(super) record: Bytes,
    pub(super) bytes: u64,
    /// Of the newest record that says it.
    pub(super) position: u64,
}

/// A channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ChannelLog {
    /// The newest offset, and the newest that is not retained.
    pub(super) head: u64,
    pub(super) floor: u64,
    /// From which position on the log says where head and floor are.
    anchor: u64,
    /// When it had its newest event, and when it was looked at.
    time_ms: u64,
    touched_ms: u64,
    /// Until when some event or idempotency key of it is there, and until when it is known, as its newest event says.
    until_ms: u64,
    known_ms: u64,
    /// The newest loss that it has told of.
    told_of: u64,
    /// Nothing is known but its state; where it is is said later.
    is_unsettled: bool,
    /// It has one to tell of that was before all that is known of the log.
    owes: bool,
    pub(super) kept: VecDeque<Kept>,
    bytes: u64,
    pub(super) seams: VecDeque<Seam>,
    receipts: HashMap<Box<str>, (Receipt, u64, u64)>,
    /// Oldest first, by the number of the event.
    order: VecDeque<(u64, Box<str>)>,
    count: u64,
    pub(super) state: HashMap<Box<str>, Held>,
    pub(super) state_bytes: u64,
    /// Keys that have left the state lately: where, when and which. Oldest first.
    gone: VecDeque<(u64, u64, Box<str>)>,
}

/// An event that is about to be appended.
#[derive(Debug)]
pub(super) struct New<'n> {
    pub(super) offset: u64,
    pub(super) position: u64,
    pub(super) time_ms: u64,
    pub(super) bytes: u64,
    pub(super) terms: &'n Terms,
    pub(super) receipt: Option<&'n (Box<str>, Digest)>,
    /// Its key in the state and its record, if it has one; an event that takes its key out has no record.
    pub(super) keyed: Option<(&'n str, Option<Bytes>)>,
}

/// What is said again of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stay {
    pub(super) time_ms: u64,
    pub(super) known_ms: u64,
    /// Of which loss it knew who said it, and whether the channel had yet to tell of one.
    pub(super) lost: u64,
    pub(super) may_lack: bool,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) prev: u64,
    pub(super) is_lossy: bool,
    pub(super) time_ms: u64,
    pub(super) extent: Extent,
}

impl ChannelLog {
    /// One that begins, or is said again, with this offset.
    pub(super) fn at(head: u64, position: u64, now_ms: u64, told_of: u64) -> Self {
        Self { head, floor: head, anchor: position, touched_ms: now_ms, told_of, ..Self::default() }
    }

    /// One of which nothing is known but what [`super::words::Body::Stay`] says.
    pub(super) fn said_again(head: u64, position: u64, now_ms: u64, stay: Stay) -> Self {
        let Stay { time_ms, known_ms, lost, may_lack } = stay;
        Self { time_ms, known_ms, owes: may_lack, ..Self::at(head, position, now_ms, lost) }
    }

    /// One of which nothing is known but that there is an event in its state.
    pub(super) fn known_by_state(offset: u64, position: u64, now_ms: u64, told_of: u64) -> Self {
        Self { is_unsettled: true, ..Self::at(offset, position, now_ms, told_of) }
    }

    /// Where a channel is that is known by its state only.
    pub(super) fn settle(&mut self, head: u64, stay: Stay) {
        if std::mem::take(&mut self.is_unsettled) {
            (self.head, self.floor, self.told_of) = (head, head, stay.lost);
            (self.time_ms, self.known_ms, self.owes) = (stay.time_ms, stay.known_ms, stay.may_lack);
        }
    }

    /// It begins anew if it is forgotten, but for its state.
    pub(super) fn refresh(&mut self, now_ms: u64, begin: impl FnOnce() -> Self) {
        if self.is_forgotten(now_ms) {
            let (state, gone) = (std::mem::take(&mut self.state), std::mem::take(&mut self.gone));
            *self = Self { state, gone, state_bytes: self.state_bytes, ..begin() };
        }
    }

    /// Whether it is as if nobody had ever published to it, but for its state.
    pub(super) fn is_forgotten(&self, now_ms: u64) -> bool {
        if self.is_unsettled {
            return true;
        }
        self.known_ms.max(self.touched_ms + EMPTY_MS) <= now_ms
    }

    /// Somebody looks at it, or says it again there.
    pub(super) fn touch(&mut self, now_ms: u64) {
        self.touched_ms = self.touched_ms.max(now_ms);
    }

    /// Whether it would be forgotten soon, while somebody looks at it.
    pub(super) fn fades(&self, now_ms: u64) -> bool {
        self.is_forgotten(now_ms + EMPTY_MS / 4 * 3)
    }

    /// Its head is said again at a position. If all that it had has expired, that is where it is known from.
    pub(super) fn stay(&mut self, position: u64, now_ms: u64) {
        self.touch(now_ms);
        if self.kept.is_empty() || self.has_expired(now_ms) {
            self.drop_all(position);
        }
    }

    /// What [`super::words::Body::Stay`] says of it.
    pub(super) fn standing(&self, lost: u64) -> Stay {
        Stay { time_ms: self.time_ms, known_ms: self.known_ms, lost, may_lack: self.lacks(lost) }
    }

    fn lacks(&self, lost: u64) -> bool {
        self.owes || lost > self.told_of
    }

    fn has_expired(&self, now_ms: u64) -> bool {
        self.until_ms <= now_ms
    }

    /// The event for which a key was used, and where it is.
    pub(super) fn receipt(&self, key: &str, time_ms: u64, terms: &Terms) -> Option<(Receipt, u64)> {
        let now_ms = time_ms.max(self.time_ms);
        let (receipt, number, position) = self.receipts.get(key)?;
        let is_there =
            receipt.time.0.saturating_add(terms.receipt_ms) > now_ms && self.count - number < terms.receipts;
        is_there.then_some((*receipt, *position))
    }

    /// Appends an event. `lost` is where the newest loss is.
    pub(super) fn append(&mut self, new: New<'_>, lost: u64) -> Placed {
        let time_ms = new.time_ms.max(self.time_ms);
        let (prev, is_lossy) = (self.head, self.lacks(lost));
        if is_lossy {
            (self.told_of, self.owes) = (lost, false);
            self.leap(Seam { from: prev, to: new.offset - 1, lossy: true });
        }
        (self.head, self.time_ms) = (new.offset, time_ms);
        self.count += 1;
        let lasts_ms = new.terms.age_ms.max(new.terms.receipt_ms);
        self.until_ms = self.until_ms.max(time_ms.saturating_add(lasts_ms));
        self.known_ms = time_ms.saturating_add(lasts_ms).saturating_add(KNOWN_MS);
        if new.terms.keeps {
            // Events are far below 4 GiB (`limits.event_bytes`).
            let bytes = u32::try_from(new.bytes).unwrap_or(u32::MAX);
            let (offset, position) = (new.offset, new.position);
            self.kept.push_back(Kept { offset, position, time_ms, bytes, is_lossy });
            self.bytes += u64::from(bytes);
            self.trim(new.terms, time_ms);
        } else {
            self.drop_all(new.position);
        }
        if let Some((key, record)) = new.keyed {
            self.hold(key, record, new.offset, new.position, time_ms, new.bytes);
        }
        if let Some((key, digest)) = new.receipt.filter(|_| new.terms.receipts > 0) {
            let receipt = Receipt { offset: new.offset, time: Timestamp(time_ms), digest: *digest };
            self.receipts.insert(key.clone(), (receipt, self.count, new.position));
            self.order.push_back((self.count, key.clone()));
        }
        self.expire_receipts(time_ms, new.terms);
        Placed { prev, is_lossy, time_ms, extent: self.extent(time_ms, new.terms.age_ms) }
    }

    fn hold(
        &mut self,
        key: &str,
        record: Option<Bytes>,
        offset: u64,
        position: u64,
        time_ms: u64,
        bytes: u64,
    ) {
        let before = match record {
            Some(record) => {
                self.state_bytes += bytes;
                self.state.insert(key.into(), Held { offset, time_ms, record, bytes, position })
            }
            None => {
                self.gone.push_back((position, time_ms, key.into()));
                self.state.remove(key)
            }
        };
        self.state_bytes -= before.map_or(0, |held| held.bytes);
        while self.gone.front().is_some_and(|(_, gone_ms, _)| gone_ms + GONE_MS < time_ms) {
            self.gone.pop_front();
        }
    }

    /// An event of the state is said again by who had seen the log up to `seen`, at a time. False if that is outdated.
    /// Whoever began to read the log later knows of the event only by that, so that a key is not there says nothing.
    pub(super) fn hold_again(&mut self, key: &str, held: Held, seen: u64, said_ms: u64) -> bool {
        if said_ms + GONE_MS / 2 < self.time_ms
            || self.gone.iter().any(|(position, _, gone)| *position >= seen && **gone == *key)
        {
            return false;
        }
        match self.state.get_mut(key) {
            Some(known) if known.offset == held.offset => known.position = held.position,
            Some(_) => return false,
            None => {
                self.state_bytes += held.bytes;
                self.state.insert(key.into(), held);
            }
        }
        true
    }

    /// How large the state is, and what a key has of it.
    pub(super) fn state_size(&self, key: &str) -> (StateSize, Option<u64>) {
        let size = StateSize { keys: self.state.len() as u64, bytes: self.state_bytes };
        (size, self.state.get(key).map(|held| held.bytes))
    }

    fn leap(&mut self, seam: Seam) {
        self.seams.push_back(seam);
        if self.seams.len() > BACKPLANE_SEAMS
            && let Some(oldest) = self.seams.pop_front()
        {
            while self.kept.front().is_some_and(|kept| kept.offset <= oldest.to) {
                self.drop_oldest();
            }
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.kept.pop_front() {
            (self.floor, self.anchor) = (oldest.offset, oldest.position);
            self.bytes -= u64::from(oldest.bytes);
            self.seams.retain(|seam| seam.to >= oldest.offset);
        }
    }

    fn drop_all(&mut self, position: u64) {
        self.kept.clear();
        self.seams.clear();
        (self.bytes, self.floor, self.anchor) = (0, self.head, position);
    }

    fn trim(&mut self, terms: &Terms, now_ms: u64) {
        while let Some(oldest) = self.kept.front()
            && (self.kept.len() as u64 > terms.events
                || self.bytes > terms.bytes
                || oldest.time_ms.saturating_add(terms.age_ms) <= now_ms)
        {
            self.drop_oldest();
        }
    }

    /// Drops what has expired.
    pub(super) fn expire(&mut self, now_ms: u64, age_ms: u64) {
        while self.kept.front().is_some_and(|oldest| oldest.time_ms.saturating_add(age_ms) <= now_ms) {
            self.drop_oldest();
        }
    }

    fn expire_receipts(&mut self, now_ms: u64, terms: &Terms) {
        while let Some((number, key)) = self.order.front() {
            // A key may have been used anew since.
            let is_newest = self.receipts.get(key).filter(|(_, newest, _)| newest == number);
            if let Some((receipt, ..)) = is_newest {
                if receipt.time.0.saturating_add(terms.receipt_ms) > now_ms
                    && self.count - number < terms.receipts
                {
                    break;
                }
                self.receipts.remove(key);
            }
            self.order.pop_front();
        }
    }

    /// All that it has is gone; its ids go on from where they were.
    pub(super) fn delete(&mut self) {
        let anchor = self.kept.back().map_or(self.anchor, |newest| newest.position);
        self.drop_all(anchor);
        self.state_bytes = 0;
        self.state.clear();
        self.gone.clear();
        self.receipts.clear();
        self.order.clear();
    }

    /// From which position on the log says where it is.
    pub(super) fn anchor(&self) -> u64 {
        self.anchor
    }

    /// How much is retained.
    pub(super) fn extent(&self, now_ms: u64, age_ms: u64) -> Extent {
        let first = self.kept.front();
        Extent {
            floor: self.floor,
            first: first.map_or(0, |first| first.offset),
            retained: (self.kept.len(), self.bytes as usize),
            expires_ms: first.map_or(now_ms + LOOK_MS, |first| first.time_ms.saturating_add(age_ms)),
        }
    }

    /// From which position on its records are needed, besides those that can be said again. None if it can be forgotten.
    pub(super) fn needs(&self, now_ms: u64) -> Option<u64> {
        if self.is_forgotten(now_ms.saturating_sub(CLOCKS_MS)) {
            return None;
        }
        if self.has_expired(now_ms.saturating_sub(CLOCKS_MS)) {
            return None;
        }
        let oldest = self.order.front().and_then(|(_, key)| self.receipts.get(key));
        Some(oldest.map_or(self.anchor, |(_, _, position)| self.anchor.min(*position)))
    }

    /// Whether its records before a position must be said again, or it would be forgotten.
    pub(super) fn fades_before(&self, position: u64, now_ms: u64) -> bool {
        self.anchor < position && !self.is_forgotten(now_ms.saturating_sub(CLOCKS_MS))
    }
}
