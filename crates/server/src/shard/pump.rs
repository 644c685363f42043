//! Serving subscribers that stand alone: replay, catching up, streams with bytes of their own; and
//! the one place where a connection's turn is written out. Must not know how requests are read.

use std::sync::Arc;

use bytes::Bytes;
use tidewire_core::EventId;
use tidewire_core::cursor::Start;
use tidewire_core::wire::message::server;
use tidewire_core::wire::{Form, poll, sse};

use super::Shard;
use super::channels::{Bytewise, Member};
use super::connection::{Protocol, Written};
use super::snapshots::WAITS;
use crate::http::read::{Missing, Reader, gather, joined_cursor};
use crate::hub::Unread;
use crate::metrics::Slow;

/// How much a laggard gets in one turn, so that others have theirs.
const TURN_BYTES: usize = 256 << 10;
/// Frames larger than this are kept by reference when they are cut, not copied.
const COPY_BYTES: usize = 4 << 10;

/// An event in the turn's output, so that a partial write can be followed to the event.
#[derive(Debug)]
pub(super) struct Mark {
    /// Where its bytes begin and end in the output.
    start: usize,
    end: usize,
    slot: u32,
    offset: u64,
    /// The frame, if it is large and shared.
    frame: Option<Bytes>,
    /// It is no event, but word of those that were left out.
    is_gap: bool,
}

impl Shard {
    /// Ends a connection's turn: adds the events that it has yet to get to the replies in `out`, and
    /// writes all of it at once.
    pub(super) fn finish_turn(&mut self, id: u32) {
        let replies = self.out.len();
        let more = match self.collect(id) {
            Ok(more) => more,
            Err(Evicted) => {
                // What it needs next is gone: it learns of the gap when it comes back.
                self.out.truncate(replies);
                self.marks.clear();
                self.write_out(id, replies);
                return self.close_slow(id, Slow::Evicted);
            }
        };
        self.write_out(id, replies);
        let Some(connection) = self.connections.get_mut(id as usize) else { return };
        connection.chunk = None;
        if !connection.is_free() {
            return;
        }
        if matches!(connection.protocol, Protocol::Closing { .. }) {
            return self.continue_closing(id);
        }
        self.join_groups(id);
        if more {
            self.queue_replay(id);
        }
    }

    /// As [`Self::finish_turn`] for a connection that is about to close: what was published before the
    /// message that closes it comes before its end, also where the fan-out has not got to it yet.
    pub(super) fn finish_last_turn(&mut self, id: u32) {
        for slot in 0..self.connections[id as usize].subscriptions.len() as u32 {
            let subscription = self.connections[id as usize].subscriptions[slot as usize];
            let local = &mut self.channels[subscription.channel as usize];
            let cursor = local.position(&subscription);
            local.part(&mut self.connections, Member { connection: id, slot }, cursor);
        }
        let replies = self.out.len();
        let Protocol::WebSocket(websocket) = &self.connections[id as usize].protocol else { return };
        // A position that is gone has nothing to give: the end of the connection says enough.
        if self.collect_each(id, websocket.form(), End::Head).is_err() {
            self.marks.clear();
            self.out.truncate(replies);
        }
        self.write_out(id, replies);
    }

    /// Appends events for the connection's lone subscriptions. True if there are more than fit a turn.
    fn collect(&mut self, id: u32) -> Result<bool, Evicted> {
        let connection = &self.connections[id as usize];
        if connection.subscriptions.is_empty() {
            return Ok(false);
        }
        match &connection.protocol {
            Protocol::EventStream { several: true, .. } => self.collect_merged(id),
            Protocol::EventStream { several: false, .. } => {
                self.collect_each(id, Form::EventStream, End::Group)
            }
            Protocol::WebSocket(websocket) => {
                let form = websocket.form();
                self.collect_each(id, form, End::Group)
            }
            _ => Ok(false),
        }
    }

    fn collect_each(&mut self, id: u32, form: Form, until: End) -> Result<bool, Evicted> {
        let budget = self.out.len() + TURN_BYTES;
        for slot in 0..self.connections[id as usize].subscriptions.len() as u32 {
            if !self.is_alone(id, slot) {
                continue;
            }
            if self.out.len() >= budget {
                return Ok(true);
            }
            let subscription = self.connections[id as usize].subscriptions[slot as usize];
            let local = &self.channels[subscription.channel as usize];
            let end = match until {
                End::Group => local.joinable(),
                End::Head => local.channel.head(),
            };
            if local.channel.is_lost(subscription.cursor) && subscription.cursor != WAITS {
                if form.is_raw() {
                    return Err(Evicted); // it has no place for a gap
                }
                self.skip(id, slot, form, None);
                return Ok(true);
            }
            if subscription.cursor >= end {
                continue;
            }
            if local.channel.is_beyond_catching_up(subscription.cursor) {
                self.skip(id, slot, form, Some(end));
                continue;
            }
            self.events.clear();
            let room = budget - self.out.len();
            match local.channel.read(subscription.cursor, usize::MAX, room, &mut self.events) {
                Ok(_) => {}
                Err(Unread::Evicted) if local.channel.is_shared() && !form.is_raw() => {
                    self.skip(id, slot, form, None);
                    return Ok(true);
                }
                Err(Unread::Evicted) => return Err(Evicted),
                Err(Unread::OnDisk) => {
                    let channel = Arc::clone(&local.channel);
                    self.load(id, channel, subscription.cursor);
                    continue;
                }
            }
            let mut reached = subscription.cursor;
            for event in self.events.iter().take_while(|event| event.id.offset <= end) {
                let start = self.out.len();
                let frame = event.frame(form, &mut self.deflater);
                self.out.extend_from_slice(frame);
                reached = event.id.offset;
                let frame = (frame.len() > COPY_BYTES).then(|| frame.clone());
                let (end, is_gap) = (self.out.len(), false);
                self.marks.push(Mark { start, end, slot, offset: reached, frame, is_gap });
            }
            if reached < end {
                self.events.clear();
                return Ok(true);
            }
        }
        self.events.clear();
        Ok(false)
    }

    /// Moves a subscription to where the others are, of a channel that keeps nothing: what it missed has had its time;
    /// or, of one whose broker has lost what comes next, to where it goes on. It is told of the gap where its
    /// transport has a place for that.
    fn skip(&mut self, id: u32, slot: u32, form: Form, to: Option<u64>) {
        let subscription = &mut self.connections[id as usize].subscriptions[slot as usize];
        let channel = Arc::clone(&self.channels[subscription.channel as usize].channel);
        let (to, resumed_from) = match to {
            Some(to) => (to, channel.id(to)),
            None => {
                let located = channel.locate(Start::After(subscription.cursor));
                (located.position.after, located.resumed_from)
            }
        };
        if form.is_raw() {
            subscription.cursor = to;
            return;
        }
        let requested = channel.id(subscription.cursor).to_string();
        let gap = poll::gap(&[channel.name().as_str()], false, &requested, &resumed_from.to_string());
        let start = self.out.len();
        match form {
            Form::EventStream => sse::gap(&mut self.out, &gap, &channel.id(to).to_string()),
            _ => self.push_text(&server::gap(&gap)),
        }
        self.marks.push(Mark { start, end: self.out.len(), slot, offset: to, frame: None, is_gap: true });
        self.counters.gaps.add(1);
    }

    /// As [`Self::skip`] for a stream over several channels.
    fn skip_merged(&mut self, id: u32) {
        let mut positions: Vec<EventId> = Vec::new();
        let mut skipped = Vec::new();
        for (slot, subscription) in self.connections[id as usize].subscriptions.iter().enumerate() {
            let channel = &self.channels[subscription.channel as usize].channel;
            let mut position = channel.id(subscription.cursor);
            if channel.is_beyond_catching_up(subscription.cursor) {
                position = channel.id(channel.head());
                skipped.push((slot, Arc::clone(channel), subscription.cursor, position));
            } else if channel.is_lost(subscription.cursor) {
                let located = channel.locate(Start::After(subscription.cursor));
                position = channel.id(located.position.after);
                skipped.push((slot, Arc::clone(channel), subscription.cursor, located.resumed_from));
            }
            positions.push(position);
        }
        let cursor = joined_cursor(&positions);
        for (slot, channel, after, resumed_from) in skipped {
            let (to, requested) = (positions[slot], channel.id(after).to_string());
            let gap = poll::gap(&[channel.name().as_str()], true, &requested, &resumed_from.to_string());
            let (start, offset) = (self.out.len(), to.offset);
            sse::gap(&mut self.out, &gap, &cursor);
            let (end, slot) = (self.out.len(), slot as u32);
            self.marks.push(Mark { start, end, slot, offset, frame: None, is_gap: true });
            self.counters.gaps.add(1);
        }
    }

    /// As [`Self::collect_each`] for a stream over several channels, where each event's id is the cursor
    /// over all of them.
    fn collect_merged(&mut self, id: u32) -> Result<bool, Evicted> {
        self.skip_merged(id);
        let subscriptions = &self.connections[id as usize].subscriptions;
        let mut begins: Vec<u64> = subscriptions.iter().map(|subscription| subscription.cursor).collect();
        self.marks.iter().for_each(|mark| begins[mark.slot as usize] = mark.offset);
        let mut positions: Vec<EventId> = Vec::with_capacity(begins.len());
        let mut readers: Vec<Reader> = Vec::with_capacity(begins.len());
        for (subscription, begin) in subscriptions.iter().zip(begins) {
            let channel = &self.channels[subscription.channel as usize].channel;
            positions.push(channel.id(begin));
            readers.push(Reader::new(channel.id(begin), Some(channel.clone())));
        }
        let mut picked = Vec::new();
        let more = match gather(&mut readers, usize::MAX, TURN_BYTES, &mut picked) {
            Ok(more) => more,
            Err(Missing::Evicted) => return Err(Evicted),
            Err(Missing::OnDisk(channel, after)) => {
                self.load(id, channel, after);
                return Ok(false);
            }
        };
        for (slot, event) in picked {
            positions[slot] = event.id;
            let start = self.out.len();
            sse::event_of_many(&mut self.out, &event, &joined_cursor(&positions));
            let (end, slot, offset) = (self.out.len(), slot as u32, event.id.offset);
            self.marks.push(Mark { start, end, slot, offset, frame: None, is_gap: false });
        }
        Ok(more)
    }

    /// Writes `out`, of which the first `replies` bytes are replies and the rest events by `marks`. What the
    /// socket does not take of the replies and of the event under way is kept; events after it are
    /// not, as the log has them.
    fn write_out(&mut self, id: u32, replies: usize) {
        if self.out.is_empty() {
            return;
        }
        let mut out = std::mem::take(&mut self.out);
        let connection = &mut self.connections[id as usize];
        let taken = match connection.write(&out) {
            Written::All => out.len(),
            Written::Part(taken) => taken,
            Written::Broken => {
                self.marks.clear();
                out.clear();
                self.out = out;
                return self.close(id);
            }
        };
        let mut kept = replies;
        let mut frame = None;
        let mut delivered = 0;
        for mark in self.marks.drain(..) {
            if mark.start >= taken && taken < out.len() {
                break;
            }
            connection.subscriptions[mark.slot as usize].cursor = mark.offset;
            kept = mark.end;
            delivered += usize::from(!mark.is_gap);
            frame = mark.frame.map(|frame| frame.slice(taken.saturating_sub(mark.start).min(frame.len())..));
        }
        if taken < kept {
            connection.pending = match frame {
                Some(frame) => frame,
                None => Bytes::copy_from_slice(&out[taken..kept]),
            };
        }
        connection.record.add_delivered(delivered);
        self.counters.add_delivered(connection.protocol.transport(), delivered);
        if !connection.carries_streams() {
            self.counters.add_written(taken);
        }
        if connection.blocked {
            let now_ms = self.now_ms;
            if let Some(liveness) = connection.protocol.liveness_mut() {
                if taken > 0 {
                    liveness.handle_progress(now_ms, true)
                } else {
                    liveness.handle_blocked(now_ms)
                }
            }
            self.arm_stall(id);
        }
        out.clear();
        out.shrink_to(super::OUT_BYTES_KEPT);
        self.out = out;
    }

    /// Moves lone subscriptions that have caught up to where they are served with others.
    fn join_groups(&mut self, id: u32) {
        let connection = &self.connections[id as usize];
        let bytewise = match &connection.protocol {
            Protocol::EventStream { several: false, .. } => Bytewise::Frames(Form::EventStream),
            Protocol::WebSocket(websocket) => Bytewise::Frames(websocket.form()),
            Protocol::LongPoll(poll) => match poll.reply() {
                Some(reply) => Bytewise::Poll(reply),
                None => return,
            },
            _ => return,
        };
        for slot in 0..connection.subscriptions.len() as u32 {
            if self.is_alone(id, slot) {
                let subscription = self.connections[id as usize].subscriptions[slot as usize];
                let local = &mut self.channels[subscription.channel as usize];
                let member = Member { connection: id, slot };
                local.join(&mut self.connections, member, subscription.cursor, &bytewise);
            }
        }
    }
}

/// How far a lone subscription is served.
#[derive(Debug, Clone, Copy)]
enum End {
    /// To where it can join a group.
    Group,
    /// To the newest event.
    Head,
}

/// A subscriber's position is no longer retained.
#[derive(Debug)]
struct Evicted;
