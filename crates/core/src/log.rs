//! The ordered log of one channel: offsets, retention, idempotent append, reading after a position.
//! Must not know its readers, nor which wire an event goes to.

pub mod receipts;
pub mod state;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::channel::ChannelName;
use crate::cursor::Start;
use crate::error::Problem;
use crate::event::{Event, NewEvent};
use crate::id::{Epoch, EventId};
use crate::limits::{Limits, Retention};
use crate::time::Timestamp;
use receipts::{Receipt, Receipts};
use state::KeyedState;

/// One channel's log, in memory. Time is passed in; nothing happens by itself.
#[derive(Debug)]
pub struct ChannelLog {
    channel: ChannelName,
    epoch: Epoch,
    /// Retained events; offsets rise.
    events: VecDeque<Arc<Event>>,
    /// The newest offset ever given, or the one before the first.
    head: u64,
    /// The newest offset that is no longer retained, or the one before the first.
    dropped: u64,
    bytes: usize,
    receipts: Receipts,
    /// What the events add up to, where the channel has a keyed state and it is kept here.
    state: KeyedState,
}

/// The outcome of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The id of the event, or of the first one with the same idempotency key.
    pub id: EventId,
    /// The time of that event.
    pub time: Timestamp,
    /// Whether this was a retry, and nothing was appended.
    pub duplicate: bool,
}

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// It has everything up to and including this offset.
    pub after: u64,
    /// Whether the position asked for cannot be served, so that events may be missing before it.
    pub gap: bool,
}

/// The reader's position is no longer retained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the position is older than the retained history")]
pub struct Evicted;

impl ChannelLog {
    /// An empty log whose first offset is `floor + 1`.
    pub fn new(channel: ChannelName, epoch: Epoch, floor: u64) -> Self {
        Self {
            channel,
            epoch,
            events: VecDeque::new(),
            head: floor,
            dropped: floor,
            bytes: 0,
            receipts: Receipts::default(),
            state: KeyedState::default(),
        }
    }

    /// The channel.
    pub fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// The epoch of this log's ids.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The newest offset: a reader there has everything.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// The newest retained event.
    pub fn latest(&self) -> Option<&Arc<Event>> {
        self.events.back()
    }

    /// How many events are retained.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether nothing is retained.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// How many bytes of data, names and keys are retained.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many bytes are held: of what is retained, and of the state.
    pub fn held_bytes(&self) -> usize {
        self.bytes + self.state.bytes()
    }

    /// The state that is kept here.
    pub fn state(&self) -> &KeyedState {
        &self.state
    }

    /// Whether forgetting this log would lose neither events nor state nor remembered idempotency keys.
    pub fn is_forgettable(&self) -> bool {
        self.events.is_empty() && self.receipts.is_empty() && self.state.is_empty()
    }

    /// The id, which is the cursor, at `offset`.
    pub fn id(&self, offset: u64) -> EventId {
        EventId { epoch: self.epoch, offset }
    }

    /// Appends an event, unless its idempotency key was used before. `keyed` is set where the channel has a
    /// keyed state, and bounds that.
    ///
    /// # Errors
    /// `idempotency_conflict` if the key was used with another event; `state_full` if there is a keyed state and
    /// it has no room.
    pub fn append(
        &mut self,
        new: NewEvent,
        now: Timestamp,
        retention: &Retention,
        keyed: Option<&Limits>,
    ) -> Result<Appended, Problem> {
        self.receipts.expire(self.head, now, retention);
        let digest = new.idempotency_key.as_ref().map(|_| receipts::digest(&new));
        if let (Some(key), Some(digest)) = (&new.idempotency_key, &digest)
            && let Some(receipt) = self.receipts.find(key)
        {
            receipt.check(digest)?;
            return Ok(Appended { id: self.id(receipt.offset), time: receipt.time, duplicate: true });
        }
        if let Some(limits) = keyed {
            self.state.check(&new, limits)?;
        }
        // The wall clock may step back; `time` must not, or a merge of channels by time would.
        let time = self.events.back().map_or(now, |latest| latest.time.max(now));
        self.head += 1;
        let id = self.id(self.head);
        if let (Some(key), Some(digest)) = (&new.idempotency_key, digest) {
            self.receipts.remember(key.clone(), Receipt { offset: id.offset, time, digest }, retention);
        }
        let event = Event::new(id, time, self.channel.clone(), new);
        let event = Arc::new(event);
        if keyed.is_some() {
            self.state.apply(&event);
        }
        self.bytes += event.size_bytes();
        self.events.push_back(event);
        self.trim(now, retention);
        Ok(Appended { id, time, duplicate: false })
    }

    /// Appends an event that a store has taken, with the next offset; this log is only the newest part of that
    /// store's, and keeps what `retention` says.
    pub fn adopt(&mut self, event: Arc<Event>, now: Timestamp, retention: &Retention) {
        debug_assert!(event.id.epoch == self.epoch && event.id.offset > self.head);
        self.head = event.id.offset;
        self.bytes += event.size_bytes();
        self.events.push_back(event);
        self.trim(now, retention);
    }

    /// Takes back events after `to`: the store that they came from has lost them.
    pub fn rewind(&mut self, to: u64) {
        while self.events.back().is_some_and(|newest| newest.id.offset > to) {
            if let Some(event) = self.events.pop_back() {
                self.bytes -= event.size_bytes();
            }
        }
        self.head = self.head.min(to);
        self.dropped = self.dropped.min(to);
    }

    /// Goes on after `to`, without what came before: the store that this log is the newest part of has it, or
    /// nobody has.
    pub fn jump(&mut self, to: u64) {
        debug_assert!(to >= self.head);
        while !self.events.is_empty() {
            self.drop_oldest();
        }
        (self.head, self.dropped) = (to, to);
    }

    /// The newest offset that this log no longer has.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Drops what retention no longer covers.
    pub fn expire(&mut self, now: Timestamp, retention: &Retention) {
        self.receipts.expire(self.head, now, retention);
        self.trim(now, retention);
        if self.events.is_empty() {
            self.events.shrink_to_fit();
        }
    }

    /// Drops everything: events, state and remembered idempotency keys. The next offset stays what it is.
    pub fn clear(&mut self) {
        while !self.events.is_empty() {
            self.drop_oldest();
        }
        self.dropped = self.head;
        self.events.shrink_to_fit();
        self.receipts = Receipts::default();
        self.state = KeyedState::default();
    }

    /// Drops the oldest events until the rest has at most `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        while self.bytes > bytes && !self.events.is_empty() {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(event) = self.events.pop_front() {
            self.bytes -= event.size_bytes();
            self.dropped = event.id.offset;
        }
    }

    fn trim(&mut self, now: Timestamp, retention: &Retention) {
        let expired = |event: &Event| event.time.0.saturating_add(retention.age_ms) <= now.0;
        while self.events.len() > retention.events
            || self.bytes > retention.bytes
            || self.events.front().is_some_and(|oldest| expired(oldest))
        {
            self.drop_oldest();
        }
    }

    /// Where a reader that asks for `start` begins. A gap leads to the oldest retained event.
    pub fn locate(&self, start: Start) -> Position {
        match start {
            Start::Latest => Position { after: self.head, gap: false },
            Start::Earliest => Position { after: self.dropped, gap: false },
            Start::After(offset) if (self.dropped..=self.head).contains(&offset) => {
                Position { after: offset, gap: false }
            }
            Start::After(_) | Start::Unknown => Position { after: self.dropped, gap: true },
        }
    }

    /// The id of the event that a reader after a gap gets next; where there is none, its position.
    pub fn resumed_from(&self) -> EventId {
        self.id(self.events.front().map_or(self.head, |oldest| oldest.id.offset))
    }

    /// Appends to `out` the events after the offset `after`, oldest first: up to `events_max`, ending
    /// early once they have `bytes_max` bytes of data. At least one, if there is any.
    ///
    /// # Errors
    /// [`Evicted`] if events between `after` and the oldest retained one are gone.
    pub fn read(
        &self,
        after: u64,
        events_max: usize,
        bytes_max: usize,
        out: &mut Vec<Arc<Event>>,
    ) -> Result<(), Evicted> {
        if after < self.dropped {
            return Err(Evicted);
        }
        let mut bytes = 0;
        for event in self.events.range(self.index_after(after)..).take(events_max) {
            bytes += event.size_bytes();
            out.push(Arc::clone(event));
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(())
    }

    /// The first event after an offset, of those that are retained.
    pub fn next_after(&self, after: u64) -> Option<&Arc<Event>> {
        self.events.get(self.index_after(after))
    }

    /// How many retained events come after an offset.
    pub fn count_after(&self, after: u64) -> usize {
        self.events.len() - self.index_after(after)
    }

    /// Whether there is a retained event with this offset.
    pub fn has(&self, offset: u64) -> bool {
        self.index_after(offset).checked_sub(1).is_some_and(|index| self.events[index].id.offset == offset)
    }

    /// The index of the first event after `after`. Offsets mostly rise by one, so look there first.
    fn index_after(&self, after: u64) -> usize {
        let Some(oldest) = self.events.front() else { return 0 };
        if after < oldest.id.offset {
            return 0;
        }
        let guess = usize::try_from(after - oldest.id.offset).map_or(self.events.len(), |steps| steps + 1);
        let is_right = guess <= self.events.len() && self.events[guess - 1].id.offset == after;
        if is_right { guess } else { self.events.partition_point(|event| event.id.offset <= after) }
    }
}
