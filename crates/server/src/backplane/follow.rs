//! The order of a channel's events that come from several places: this node's own publishes are known by their answers,
//! those of others by the feed, and what was missed by reading. Must not know how any of them come.

use std::collections::BTreeMap;

use tidewire_core::limits::BACKPLANE_EARLY;

use super::broker::Arrival;

/// What one channel waits for.
#[derive(Debug, Default)]
pub(super) struct Follow {
    /// This node's events that have yet to be answered.
    own: usize,
    /// Events that came before those that come before them, by offset.
    early: BTreeMap<u64, Arrival>,
    /// Events are being read.
    pub(super) reading: bool,
    /// There are more to read.
    wanting: bool,
}

impl Follow {
    pub(super) fn note_sent(&mut self) {
        self.own += 1;
    }

    /// True if something may be missing that was waited with.
    pub(super) fn note_answered(&mut self) -> bool {
        self.own = self.own.saturating_sub(1);
        self.own == 0 && (self.wanting || !self.early.is_empty())
    }

    /// An event has come before those before it.
    pub(super) fn keep(&mut self, arrival: Arrival) {
        if self.early.len() < BACKPLANE_EARLY {
            self.early.insert(arrival.event.id.offset, arrival);
        } else {
            // It is read with those that it waits for.
            self.wanting = true;
        }
    }

    /// The event that comes next after `head`, if it is here; what came twice is dropped.
    pub(super) fn next(&mut self, head: u64) -> Option<Arrival> {
        while let Some(first) = self.early.first_entry() {
            if first.get().prev > head {
                return None;
            }
            let arrival = first.remove();
            if arrival.event.id.offset > head {
                return Some(arrival);
            }
        }
        None
    }

    /// Where the oldest event that is here begins, if there is a hole before it.
    pub(super) fn oldest_gap(&self, head: u64) -> Option<u64> {
        self.early.values().next().map(|arrival| arrival.prev).filter(|prev| *prev > head)
    }

    /// There is something to read.
    pub(super) fn want(&mut self) {
        self.wanting = true;
    }

    /// Whether to read what is missing now. What this node published itself is not read before it is answered, or the
    /// publisher would hear of its event before its answer.
    pub(super) fn begin_reading(&mut self) -> bool {
        let wants = self.wanting || (!self.early.is_empty() && self.own == 0);
        if !wants || self.reading {
            return false;
        }
        self.wanting = false;
        self.reading = true;
        true
    }

    /// Starts anew, with a new connection.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}
