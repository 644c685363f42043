//! A channel's numbers from one message to the next, and which events retention still covers. Pure: must not know
//! connections nor clocks.

use std::collections::VecDeque;

use smallvec::SmallVec;
use tidewire_core::limits::{BACKPLANE_SEAMS, Durability, Policy, Retention};

use super::words::{Head, Kind, Message, before, own};
use super::{EMPTY_MS, SPARE_MS};
use crate::backplane::broker::{BrokerError, Seam};

/// Of how many messages a server remembers what is in them, for each channel that it appends to.
const REMEMBERED_MOST: usize = 512;

/// The oldest messages of a channel that have retained events, without gaps.
#[derive(Debug, Default)]
pub(super) struct Oldest {
    messages: VecDeque<Summary>,
    /// They reach up to the newest.
    is_all: bool,
}

/// What is in a message.
#[derive(Debug)]
pub(super) struct Summary {
    pub(super) sequence: u64,
    time: u64,
    /// Of each event: its offset, and how many events of how many bytes there ever were up to it.
    events: SmallVec<[Mark; 1]>,
}

/// A place in a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) offset: u64,
    pub(super) count: u64,
    pub(super) total: u64,
}

impl Summary {
    pub(super) fn of(message: &Message) -> Result<Self, BrokerError> {
        let mark = |index| {
            let (count, total) = message.totals(index)?;
            Ok(Mark { offset: message.offset(index), count, total })
        };
        let events = (0..message.entries.len()).map(mark).collect::<Result<_, BrokerError>>()?;
        Ok(Self { sequence: message.sequence, time: message.head.time, events })
    }

    /// Of the message that is being made, whose events have these running totals.
    pub(super) fn own(head: &Head, totals: &[u64]) -> Self {
        let before = head.count - totals.len() as u64;
        let mark = |(index, total): (usize, &u64)| Mark {
            offset: own(index),
            count: before + index as u64 + 1,
            total: *total,
        };
        Self { sequence: 0, time: head.time, events: totals.iter().enumerate().map(mark).collect() }
    }
}

impl Oldest {
    /// Of a channel in which there is nothing.
    pub(super) fn none() -> Self {
        Self { messages: VecDeque::new(), is_all: true }
    }

    /// From which sequence on more are to be read; none if all are known.
    pub(super) fn unread_from(&self, first: u64) -> Option<u64> {
        (!self.is_all).then(|| self.messages.back().map_or(first, |last| last.sequence + 1))
    }

    /// These come next, up to the newest.
    pub(super) fn extend(&mut self, summaries: impl IntoIterator<Item = Summary>, newest: u64) {
        self.messages.extend(summaries);
        self.is_all = self.messages.back().is_some_and(|last| last.sequence >= newest);
    }

    /// A message is the newest now.
    pub(super) fn push(&mut self, summary: Summary, floor_count: u64) {
        if self.is_all && self.messages.len() < REMEMBERED_MOST {
            self.messages.push_back(summary);
        } else {
            self.is_all = false;
        }
        while self.messages.front().is_some_and(|first| first.is_dropped(floor_count)) {
            self.messages.pop_front();
        }
    }
}

impl Summary {
    fn is_dropped(&self, floor_count: u64) -> bool {
        self.events.last().is_none_or(|last| last.count <= floor_count)
    }
}

/// The head of the message that comes after `tail`, before it has events.
pub(super) fn next(tail: Option<&Head>, node: u64, base: u64, now: u64, policy: &Policy) -> Head {
    let Retention { age_ms, idempotency_ms: receipts_ms, .. } = policy.retention;
    let ttl_ms = age_ms.max(receipts_ms).saturating_add(SPARE_MS);
    let mut head = tail.cloned().unwrap_or_else(|| blank(base, now));
    let has_lost = head.base < base;
    head.kind = Kind::Events;
    (head.node, head.nonce, head.base) = (node, fastrand::u64(..), head.base.max(base));
    (head.prev, head.lossy) = (head.head, has_lost);
    (head.time, head.ttl_ms) = (head.time.max(now), ttl_ms);
    (head.age_ms, head.receipts_ms) = (age_ms, receipts_ms);
    head.seams.retain(|seam| seam.to >= head.floor);
    if has_lost && tail.is_some() {
        head.seams.push(Seam { from: head.prev, to: own(0), lossy: true });
    }
    head
}

/// The head of a message that makes a channel known, or keeps it so: nothing comes or goes by it.
pub(super) fn mark(tail: Option<&Head>, node: u64, base: u64, now: u64) -> Head {
    let is_new = tail.is_none();
    let mut head = tail.cloned().unwrap_or_else(|| blank(base, now));
    (head.kind, head.node, head.nonce) = (Kind::Mark, node, fastrand::u64(..));
    (head.time, head.ttl_ms, head.lossy) = (head.time.max(now), EMPTY_MS, false);
    if is_new {
        (head.head, head.floor) = (own(0), own(0));
    } else {
        head.prev = head.head;
    }
    head
}

/// The head of a message that deletes all that was before it.
pub(super) fn deletion(tail: &Head, node: u64, base: u64, now: u64) -> Head {
    let mut head = tail.clone();
    (head.kind, head.node, head.nonce, head.base) =
        (Kind::Deleted, node, fastrand::u64(..), tail.base.max(base));
    (head.prev, head.time) = (tail.head, tail.time.max(now));
    (head.floor, head.born, head.indexed) = (head.head, head.head, head.head);
    (head.floor_count, head.floor_total, head.first, head.oldest) = (head.count, head.total, 0, 0);
    (head.keys, head.bytes, head.sum) = (0, 0, 0);
    head.lossy = false;
    head.seams.clear();
    head
}

fn blank(base: u64, now: u64) -> Head {
    Head {
        kind: Kind::Mark,
        node: 0,
        nonce: 0,
        base,
        prev: before(),
        lossy: false,
        time: now,
        ttl_ms: 0,
        head: before(),
        count: 0,
        total: 0,
        floor: before(),
        floor_count: 0,
        floor_total: 0,
        first: 0,
        oldest: 0,
        age_ms: 0,
        receipts_ms: 0,
        keys: 0,
        bytes: 0,
        sum: 0,
        indexed: before(),
        born: 0,
        seams: Vec::new(),
    }
}

/// Drops what retention does not cover any more, once a message's own events are counted. False if it takes more of
/// the oldest to know what that is.
pub(super) fn trim(head: &mut Head, oldest: &Oldest, own: &Summary, policy: &Policy, now: u64) -> bool {
    let retention = &policy.retention;
    if policy.durability == Durability::None {
        if let Some(last) = own.events.last() {
            drop_up_to(head, last);
        }
        (head.first, head.oldest) = (0, 0);
        return true;
    }
    let mut given_up = 0;
    while head.seams.len() > BACKPLANE_SEAMS {
        given_up = head.seams.remove(0).to;
    }
    if head.first != 0 && given_up == 0 && covers(retention, head, head.oldest, now) {
        return true;
    }
    let dropped = head.floor_count;
    let summaries = oldest.messages.iter().chain(oldest.is_all.then_some(own));
    for summary in summaries {
        for mark in summary.events.iter().filter(|mark| mark.count > dropped) {
            if mark.offset > given_up && covers(retention, head, summary.time, now) {
                (head.first, head.oldest) = (mark.offset, summary.time);
                return true;
            }
            drop_up_to(head, mark);
        }
    }
    (head.first, head.oldest) = (0, 0);
    oldest.is_all
}

fn drop_up_to(head: &mut Head, mark: &Mark) {
    (head.floor, head.floor_count, head.floor_total) = (mark.offset, mark.count, mark.total);
}

/// Whether the oldest event stays, if it is of this time.
fn covers(retention: &Retention, head: &Head, time: u64, now: u64) -> bool {
    head.count - head.floor_count <= retention.events as u64
        && head.total - head.floor_total <= retention.bytes as u64
        && time.saturating_add(retention.age_ms) > now
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bytes::Bytes;
    use tidewire_core::limits::StateKind;
    use tidewire_core::{ChannelName, Epoch, Event, EventId, NewEvent, Payload, Timestamp, record};

    use super::super::words::Entry;
    use super::*;

    /// A channel as it was written, message by message, with what a naive one would retain: offset, size, time.
    struct Channel {
        policy: Policy,
        messages: Vec<Message>,
        retained: VecDeque<(u64, u64, u64)>,
        /// What whoever appends remembers.
        oldest: Oldest,
        base: u64,
    }

    impl Channel {
        fn append(&mut self, sizes: &[usize], now: u64) {
            let tail = self.messages.last().map(|message| message.head.clone());
            let mut head = next(tail.as_ref(), 1, self.base, now, &self.policy);
            let (mut entries, mut totals) = (Vec::new(), Vec::new());
            for size in sizes {
                let new = NewEvent::new(Payload::sniffed(Bytes::from("x".repeat(*size))));
                head.count += 1;
                head.total += *size as u64;
                totals.push(head.total);
                let id = EventId { epoch: Epoch::derive(1, "a"), offset: 0 };
                let event = Event::new(id, Timestamp(now), ChannelName::new("a").expect("a name"), new);
                let record = record::encode(&event, head.total).into();
                entries.push(Entry { receipt: None, is_state: false, record });
            }
            head.head = own(sizes.len() - 1);
            let summary = Summary::own(&head, &totals);
            while !trim(&mut head, &self.oldest, &summary, &self.policy, now) {
                self.read_oldest(tail.as_ref().map_or(0, |tail| tail.first));
            }
            let sequence = self.messages.last().map_or(1, |message| message.sequence + 3);
            let message = Message::decode(sequence, head.encode(&entries)).expect("readable");
            for (index, size) in sizes.iter().enumerate() {
                self.retained.push_back((message.offset(index), *size as u64, message.head.time));
            }
            let Retention { events, bytes, age_ms, .. } = self.policy.retention;
            while self.retained.front().is_some_and(|(_, _, time)| {
                self.retained.len() > events || self.bytes() > bytes as u64 || time + age_ms <= now
            }) {
                self.retained.pop_front();
            }
            self.oldest.push(Summary::of(&message).expect("readable"), message.head.floor_count);
            self.messages.push(message);
        }

        /// As whoever comes anew reads them, two at a time.
        fn read_oldest(&mut self, first: u64) {
            let from = self.messages.iter().find(|message| message.head.head >= first);
            let from = from.map_or(0, |message| message.sequence);
            let Some(from) = self.oldest.unread_from(from) else { return };
            let newest = self.messages.last().map_or(0, |message| message.sequence);
            let found = self.messages.iter().filter(|message| message.sequence >= from).take(2);
            self.oldest.extend(found.map(|message| Summary::of(message).expect("readable")), newest);
        }

        fn bytes(&self) -> u64 {
            self.retained.iter().map(|(_, size, _)| size).sum()
        }

        fn check(&self) {
            let head = &self.messages[self.messages.len() - 1].head;
            assert_eq!(head.extent().retained, (self.retained.len(), self.bytes() as usize));
            assert_eq!(head.first, self.retained.front().map_or(0, |(offset, _, _)| *offset));
            let offsets = self
                .messages
                .iter()
                .flat_map(|message| (0..message.entries.len()).map(|i| message.offset(i)));
            let dropped = offsets.filter(|offset| head.first == 0 || *offset < head.first).max();
            assert_eq!(head.floor, dropped.unwrap_or(self.messages[0].head.prev));
        }
    }

    #[test]
    fn what_is_retained_is_exact_whatever_is_remembered() {
        fastrand::seed(7);
        for round in 0..200 {
            let retention = Retention {
                events: fastrand::usize(1..30),
                bytes: fastrand::usize(1..200),
                age_ms: fastrand::u64(1..50),
                ..Retention::default()
            };
            let policy = Policy::new(Durability::Backplane, StateKind::None, retention);
            let (messages, retained) = (Vec::new(), VecDeque::new());
            let mut channel = Channel { policy, messages, retained, oldest: Oldest::none(), base: 1 << 40 };
            let mut now = 1_000;
            for _ in 0..60 {
                now += fastrand::u64(0..8);
                let sizes: Vec<usize> = (0..fastrand::usize(1..6)).map(|_| fastrand::usize(1..20)).collect();
                if fastrand::u8(0..8) == 0 && !channel.retained.is_empty() {
                    channel.oldest = Oldest::default(); // another server goes on
                }
                channel.append(&sizes, now);
                channel.check();
            }
            assert!(channel.messages.len() == 60, "round {round}");
        }
    }

    #[test]
    fn after_a_loss_offsets_leap_and_say_so() {
        let policy = Policy::new(Durability::Backplane, StateKind::None, Retention::default());
        let (messages, retained) = (Vec::new(), VecDeque::new());
        let mut channel = Channel { policy, messages, retained, oldest: Oldest::none(), base: 1_000 };
        channel.append(&[1], 5);
        let before = channel.messages[0].head.head;
        channel.base = 9_000;
        channel.append(&[1, 1], 6);
        let message = &channel.messages[1];
        let seam = Seam { from: before, to: message.offset(0) - 1, lossy: true };
        assert_eq!(
            (message.head.prev, message.head.lossy, &message.head.seams[..]),
            (before, true, &[seam][..])
        );
        channel.append(&[1], 7);
        assert!(!channel.messages[2].head.lossy && channel.messages[2].head.seams == [seam]);
    }
}
