//! What one partition of the log says: its channels, tickets, announcements. Takes the records one after the other, and
//! says what each has done. Pure: all nodes that take the same records are of one mind, also those that begin later.
//! Must not know where records come from.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use tidewire_core::log::receipts::{Digest, Receipt};
use tidewire_core::{ChannelName, Epoch, Event, EventId, Problem, Timestamp, record};

use super::channel::{ChannelLog, GONE_MS, Held, New, Placed};
use super::words::{self, Body, Stamp, Terms, offset};
use crate::access::sealed::Secret;

/// How long a node's serial is remembered after its newest record: no record is under way for longer.
const SERIAL_MS: u64 = 86_400_000;
/// After how many records those of nodes that are gone are dropped, and tickets that have expired.
const RECORDS_PER_ROUND: u64 = 4_096;
/// Whoever hands an event on knows its epoch.
fn no_epoch() -> Epoch {
    Epoch::derive(0, "")
}

/// A record that was consumed last: if the log has another one there, it has lost some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Witness {
    pub(super) position: u64,
    pub(super) nonce: u64,
    pub(super) base: u64,
}

/// What all nodes know, and where it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shared {
    pub(super) number: u64,
    pub(super) secret: Secret,
    pub(super) partitions: u32,
    pub(super) position: u64,
}

/// What a record has done.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Nothing: its author knew less of the log than it needed, or it came twice.
    Void,
    /// It did what it says.
    Done,
    /// The channel has one more event.
    Stored(Box<Event>, Placed),
    /// Its idempotency key was used before, for this or another event.
    Known(Receipt),
    Refused(Problem),
    /// All that the channel had is gone, up to there.
    Deleted(u64),
    /// Whether it was said for the first time.
    First(bool),
    Announced(String, String),
}

/// A partition, up to a position.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Machine {
    /// The position of the record that comes next.
    pub(super) next: u64,
    pub(super) base: u64,
    /// Where the newest loss is.
    pub(super) lost: u64,
    pub(super) witness: Option<Witness>,
    /// Of each node: its newest serial, when and where.
    serials: HashMap<u64, (u64, u64, u64)>,
    /// Where the newest record is that is of this base.
    pub(super) newest: u64,
    pub(super) channels: HashMap<ChannelName, ChannelLog>,
    /// Until when they are remembered, and where they are.
    pub(super) once: HashMap<Bytes, (u64, u64)>,
    pub(super) board: BTreeMap<String, (String, u64)>,
    pub(super) shared: Option<Shared>,
    /// Channels that were deleted lately: where, and when.
    deleted: HashMap<ChannelName, (u64, u64)>,
    /// What must be read together: the later one has done something else than if the log began behind the earlier one.
    pub(super) bonds: Vec<(u64, u64)>,
}

impl Machine {
    /// One that begins at a position.
    pub(super) fn from(position: u64) -> Self {
        Self { next: position, ..Self::default() }
    }

    /// Takes the record at a position, or what somebody else has put there.
    pub(super) fn take(&mut self, position: u64, key: &Bytes, value: &Bytes) -> (Option<Stamp>, Outcome) {
        self.next = position + 1;
        let Some((stamp, body)) = words::decode(value) else { return (None, Outcome::Void) };
        let (nonce, time_ms) = (stamp.nonce, stamp.time_ms);
        if self.base == 0 && !matches!(body, Body::Leap { .. }) {
            // All that is known of the log begins here.
            self.base = stamp.base;
        }
        let outcome = self.judge(position, &stamp, key, body);
        self.witness = Some(Witness { position, nonce, base: self.base });
        if position.is_multiple_of(RECORDS_PER_ROUND) {
            self.serials.retain(|_, (_, newest_ms, _)| *newest_ms + SERIAL_MS > time_ms);
            self.once.retain(|_, (until_ms, _)| *until_ms > time_ms);
            self.deleted.retain(|_, (_, deleted_ms)| *deleted_ms + GONE_MS > time_ms);
            self.channels.retain(|_, channel| !channel.state.is_empty() || !channel.is_forgotten(time_ms));
        }
        (Some(stamp), outcome)
    }

    fn judge(&mut self, position: u64, stamp: &Stamp, key: &Bytes, body: Body) -> Outcome {
        let newer = self.serials.get(&stamp.node).filter(|(serial, ..)| *serial >= stamp.serial);
        if let Some((_, _, at)) = newer {
            self.bonds.push((*at, position));
            return Outcome::Void;
        }
        if stamp.base != self.base && !matches!(body, Body::Leap { .. }) {
            // The log cannot begin with it.
            self.bonds.push((position.saturating_sub(1), position));
            return Outcome::Void;
        }
        self.newest = position;
        self.serials.insert(stamp.node, (stamp.serial, stamp.time_ms, position));
        self.act(position, stamp, key, body)
    }

    fn act(&mut self, position: u64, stamp: &Stamp, key: &Bytes, body: Body) -> Outcome {
        match body {
            Body::Leap { before, base, is_lossy } => self.leap(position, before, base, is_lossy),
            Body::Known { number, secret, partitions } => {
                let said = Shared { number, secret, partitions, position };
                let known = self.shared.get_or_insert(said);
                if known.number == number {
                    known.position = position;
                }
                Outcome::Done
            }
            Body::Once { keep_ms } => self.once(position, stamp, key, keep_ms),
            Body::Announce { is_kept, is_again, subject, what } => {
                if is_again {
                    // Should somebody have forgotten it meanwhile, somebody does again.
                    match self.board.get(&subject).filter(|(known, _)| *known != what) {
                        Some((_, at)) => self.bonds.push((*at, position)),
                        None => drop(self.board.insert(subject, (what, position))),
                    }
                    return Outcome::Done;
                }
                if is_kept {
                    self.board.insert(subject.clone(), (what.clone(), position));
                }
                Outcome::Announced(subject, what)
            }
            Body::Forget { subject, what } => {
                if self.board.get(&subject).is_some_and(|(known, _)| *known == what) {
                    self.board.remove(&subject);
                }
                Outcome::Done
            }
            body => {
                let name = std::str::from_utf8(key).ok().and_then(|name| ChannelName::new(name).ok());
                name.map_or(Outcome::Void, |name| self.act_on(name, position, stamp, body))
            }
        }
    }

    fn act_on(&mut self, name: ChannelName, position: u64, stamp: &Stamp, body: Body) -> Outcome {
        let lost = self.lost;
        let new = offset(self.base, position, stamp.nonce);
        match body {
            Body::Event { terms, receipt, record } => {
                // One that nobody has looked at begins right before its first event.
                let begin = || ChannelLog::at(new - 1, position, stamp.time_ms, lost);
                let channel = self.channels.entry(name.clone()).or_insert_with(begin);
                channel.refresh(stamp.time_ms, begin);
                let receipt = receipt.as_ref();
                let known = receipt.and_then(|(key, _)| channel.receipt(key, stamp.time_ms, &terms));
                if let Some(((_, digest), (known, at))) = receipt.zip(known) {
                    self.bonds.push((at, position));
                    return known.check(digest).map_or_else(Outcome::Refused, |()| Outcome::Known(known));
                }
                append(channel, &name, Whole { new, position, stamp, lost }, &terms, receipt, record)
            }
            Body::Begin => {
                let begin = || ChannelLog::at(new, position, stamp.time_ms, lost);
                let channel = self.channels.entry(name).or_insert_with(begin);
                channel.refresh(stamp.time_ms, begin);
                if channel.head != new {
                    channel.touch(stamp.time_ms);
                    self.bonds.push((channel.anchor(), position));
                }
                Outcome::Done
            }
            Body::Delete => {
                self.deleted.insert(name.clone(), (position, stamp.time_ms));
                let Some(channel) = self.channels.get_mut(&name) else { return Outcome::Deleted(0) };
                channel.delete();
                Outcome::Deleted(if channel.is_forgotten(stamp.time_ms) { 0 } else { channel.head })
            }
            Body::Stay { head, stay } => {
                let begin = || ChannelLog::said_again(head, position, stamp.time_ms, stay);
                let channel = self.channels.entry(name).or_insert_with(begin);
                channel.settle(head, stay);
                if channel.head != head {
                    self.bonds.push((channel.anchor(), position));
                    return Outcome::Void;
                }
                if stay.lost < lost {
                    // Who said it did not know of the newest loss.
                    self.bonds.push((lost - 1, position));
                }
                channel.stay(position, stamp.time_ms);
                Outcome::Done
            }
            Body::Hold { seen, offset, time_ms, record } => {
                let id = EventId { epoch: no_epoch(), offset };
                let Ok(event) = record::decode(&name, id, &record) else { return Outcome::Void };
                let bytes = event.size_bytes() as u64;
                let record = Bytes::copy_from_slice(&record);
                let held = Held { offset, time_ms, record, bytes, position };
                let key = event.key.as_deref().unwrap_or_default();
                let is_deleted = self.deleted.get(&name).is_some_and(|(deleted, _)| *deleted >= seen);
                let begin = || ChannelLog::known_by_state(offset, position, stamp.time_ms, lost);
                let channel = self.channels.entry(name).or_insert_with(begin);
                if is_deleted || !channel.hold_again(key, held, seen, stamp.time_ms) {
                    self.bonds.push((seen, position));
                    return Outcome::Void;
                }
                Outcome::Done
            }
            _ => Outcome::Void,
        }
    }

    fn leap(&mut self, position: u64, before: u64, base: u64, is_lossy: bool) -> Outcome {
        if self.base != 0 && self.base != before {
            // Another node was faster. The log cannot begin with this one.
            self.bonds.push((position.saturating_sub(1), position));
            return Outcome::Void;
        }
        self.base = base;
        if is_lossy {
            self.lost = position + 1;
        }
        Outcome::Done
    }

    fn once(&mut self, position: u64, stamp: &Stamp, key: &Bytes, keep_ms: u64) -> Outcome {
        let now_ms = stamp.time_ms;
        let is_first = self.once.get(key).is_none_or(|(until_ms, _)| *until_ms <= now_ms);
        if is_first {
            self.once.insert(Bytes::copy_from_slice(key), (now_ms.saturating_add(keep_ms), position));
        }
        Outcome::First(is_first)
    }

    /// Base and position of what comes next.
    pub(super) fn sum(&self) -> u64 {
        self.base + self.next
    }

    /// Whether a base is above all that a witness has seen given.
    pub(super) fn is_above(&self, witness: &Witness) -> bool {
        self.base > witness.base && self.sum() > witness.base + witness.position
    }
}

/// Where and when an event is.
struct Whole<'s> {
    new: u64,
    position: u64,
    stamp: &'s Stamp,
    lost: u64,
}

fn append(
    channel: &mut ChannelLog,
    name: &ChannelName,
    Whole { new, position, stamp, lost }: Whole<'_>,
    terms: &Terms,
    receipt: Option<&(Box<str>, Digest)>,
    record: Bytes,
) -> Outcome {
    let id = EventId { epoch: no_epoch(), offset: new };
    let Ok(event) = record::decode(name, id, &record) else { return Outcome::Void };
    let keyed = event.key.as_deref().filter(|_| terms.is_keyed);
    let keyed = keyed.map(|key| (key, (!event.is_tombstone()).then(|| Bytes::copy_from_slice(&record))));
    let (time_ms, bytes) = (stamp.time_ms, event.size_bytes() as u64);
    let placed = channel.append(New { offset: new, position, time_ms, bytes, terms, receipt, keyed }, lost);
    let event = Event { time: Timestamp(placed.time_ms), ..event };
    Outcome::Stored(Box::new(event), placed)
}

#[cfg(test)]
mod tests;
