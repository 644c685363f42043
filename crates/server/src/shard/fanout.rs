//! From a channel's log to the sockets of this shard: the hot path.
//!
//! Caught-up subscribers that want the same bytes form a group; a batch of new events is encoded once and
//! written to each member directly. Whoever's socket is full leaves the group and stands alone until
//! it has caught up (`pump`). Must not know what the bytes mean.

use bytes::{Bytes, BytesMut};
use tidewire_core::Event;
use tidewire_core::wire::Form;

use super::Shard;
use super::channels::{Batch, Bytewise, Encoded, Member};
use super::connection::{Protocol, Written};
use crate::hub::Taken;
use crate::metrics::Slow;

/// How many writes a channel may do before others have their turn.
const SLICE_WRITES: usize = 256;
/// How many bytes of data one batch carries at the most.
const BATCH_BYTES: usize = 256 << 10;

impl Shard {
    /// A channel has new events: queue it for fan-out.
    pub(super) fn handle_dirty(&mut self, number: u32) {
        let Some(local) = self.channels.get_mut(number as usize) else {
            return; // its last subscriber left while the message was under way
        };
        local.again = true;
        if !std::mem::replace(&mut local.queued, true) {
            self.dirty.push_back(number);
        }
    }

    /// Gives each queued channel one slice. Small channels are done within theirs, so that
    /// a huge one delays them by one slice at most.
    pub(super) fn fan_out_dirty(&mut self) {
        for _ in 0..self.dirty.len() {
            let Some(number) = self.dirty.pop_front() else { return };
            if self.fan_out(number) {
                self.dirty.push_back(number);
            }
        }
    }

    /// One slice of a channel's fan-out. True if there is more to do.
    fn fan_out(&mut self, number: u32) -> bool {
        if !self.channels.contains(number as usize) {
            return false;
        }
        let mut writes = SLICE_WRITES;
        if self.channels[number as usize].batch.is_none() {
            self.take_batch(number);
        }
        while let Some(group) = self.next_group(number) {
            if writes == 0 {
                return true;
            }
            self.write_to_group(number, group, &mut writes);
        }
        self.finish_batch(number)
    }

    fn take_batch(&mut self, number: u32) {
        let local = &mut self.channels[number as usize];
        local.again = false;
        if local.groups.iter().all(|group| group.members.is_empty()) {
            local.reached = local.channel.take_none(self.index);
            return;
        }
        let mut events = Vec::new();
        match local.channel.take(self.index, local.reached, BATCH_BYTES, &mut events) {
            Ok(Taken { head, waiting_since_us, traces }) => {
                let Some(to) = events.last().map(|event| event.id.offset) else { return };
                local.groups.iter_mut().for_each(|group| group.sent = 0);
                let (more, accepted_us) = (to < head, waiting_since_us);
                let taken_us = if traces.is_empty() { 0 } else { self.clock.now_us() };
                local.batch = Some(Batch {
                    events,
                    to,
                    group: 0,
                    encoded: None,
                    more,
                    accepted_us,
                    traces,
                    taken_us,
                    delivered: 0,
                });
            }
            Err(next) => {
                // This shard itself was too slow. Nobody is skipped silently: all stand alone where
                // they are, and `pump` tells each that its position is gone.
                let members: Vec<Member> =
                    local.groups.iter().flat_map(|group| group.members.clone()).collect();
                for member in members {
                    local.part(&mut self.connections, member, local.reached);
                }
                local.reached = next;
                local.again = true;
            }
        }
    }

    /// The group that the batch goes to now.
    fn next_group(&mut self, number: u32) -> Option<usize> {
        let local = &mut self.channels[number as usize];
        let batch = local.batch.as_mut()?;
        while let Some(group) = local.groups.get(batch.group) {
            if group.sent < group.members.len() {
                return Some(batch.group);
            }
            batch.group += 1;
            batch.encoded = None;
        }
        None
    }

    fn write_to_group(&mut self, number: u32, group: usize, writes: &mut usize) {
        let Some((bytewise, encoded)) = self.encoded(number, group) else { return };
        let mut whole = 0;
        while *writes > 0 {
            let local = &mut self.channels[number as usize];
            let members = &local.groups[group];
            let Some(&member) = members.members.get(members.sent) else { break };
            let connection = &mut self.connections[member.connection as usize];
            if !connection.is_free() {
                local.part(&mut self.connections, member, local.reached);
                continue;
            }
            *writes -= 1;
            match connection.write(&encoded.bytes) {
                Written::All => {
                    connection.record.add_delivered(encoded.events);
                    whole += 1;
                    local.groups[group].sent += 1;
                    if let Bytewise::Poll(reply) = &bytewise {
                        self.finish_long_poll(member.connection, reply.exchange.keep_alive);
                    }
                }
                Written::Part(taken) => self.leave_behind(number, member, &bytewise, &encoded, taken),
                Written::Broken => self.close(member.connection),
            }
        }
        // Once for all of them: what is counted costs a delivery nothing.
        if let Some(batch) = self.channels.get_mut(number as usize).and_then(|local| local.batch.as_mut()) {
            batch.delivered += whole;
        }
        self.counters.add_delivered(bytewise.transport(), whole * encoded.events);
        self.counters.add_written(whole * encoded.bytes.len());
        if let Some(local) = self.channels.get(number as usize) {
            local.channel.note_delivered(whole * encoded.events);
        }
    }

    /// The bytes of the batch for a group, made once.
    fn encoded(&mut self, number: u32, group: usize) -> Option<(Bytewise, Encoded)> {
        let local = &mut self.channels[number as usize];
        let bytewise = local.groups[group].bytewise.clone();
        let batch = local.batch.as_mut()?;
        if batch.encoded.is_none() {
            batch.encoded = Some(match &bytewise {
                Bytewise::Frames(form) => concatenated(&batch.events, *form, &mut self.deflater),
                Bytewise::Poll(reply) => {
                    let bytes = reply.answer(&local.channel, local.reached, &batch.events, batch.more);
                    Encoded { bytes, ends: Vec::new(), events: reply.events(batch.events.len()) }
                }
            });
        }
        batch.encoded.clone().map(|encoded| (bytewise, encoded))
    }

    /// A member's socket took only part of the batch: it stands alone from now on, at the end of the frame
    /// that is under way.
    fn leave_behind(
        &mut self,
        number: u32,
        member: Member,
        bytewise: &Bytewise,
        encoded: &Encoded,
        taken: usize,
    ) {
        let local = &mut self.channels[number as usize];
        let connection = &mut self.connections[member.connection as usize];
        let now_ms = self.now_ms;
        if let Some(liveness) = connection.protocol.liveness_mut() {
            liveness.handle_progress(now_ms, true);
        }
        let Some(batch) = &local.batch else { return };
        match bytewise {
            Bytewise::Poll(reply) => {
                connection.pending = encoded.bytes.slice(taken..);
                connection.record.add_delivered(encoded.events);
                self.counters.add_delivered(bytewise.transport(), encoded.events);
                self.counters.add_written(taken);
                self.finish_long_poll(member.connection, reply.exchange.keep_alive);
            }
            &Bytewise::Frames(form) => {
                // Frames before `under_way` are out whole.
                let under_way = encoded.ends.partition_point(|end| *end <= taken);
                let start = if under_way == 0 { 0 } else { encoded.ends[under_way - 1] };
                let begun = taken > start;
                if begun {
                    // The frame itself is kept, not the batch, so that a stalled socket pins little.
                    let frame = batch.events[under_way].frame(form, &mut self.deflater);
                    connection.pending = frame.slice(taken - start..);
                }
                let seen = under_way + usize::from(begun);
                let cursor = if seen == 0 { local.reached } else { batch.events[seen - 1].id.offset };
                connection.record.add_delivered(under_way);
                self.counters.add_delivered(bytewise.transport(), under_way);
                self.counters.add_written(taken);
                local.part(&mut self.connections, member, cursor);
            }
        }
        self.arm_stall(member.connection);
    }

    /// The batch is with all groups: wake those that stand alone. True if there is another batch.
    fn finish_batch(&mut self, number: u32) -> bool {
        let lag_max = self.settings.limits.lag_events;
        let local = &mut self.channels[number as usize];
        let mut more = local.again;
        if let Some(batch) = local.batch.take() {
            local.reached = batch.to;
            more |= batch.more;
            self.counters.delivery.observe_us(self.clock.now_us().saturating_sub(batch.accepted_us));
            batch.end_traces(self.index);
        }
        local.queued = more;
        let mut too_slow = Vec::new();
        for member in &local.alone {
            let connection = &mut self.connections[member.connection as usize];
            if connection.is_free() {
                if !std::mem::replace(&mut connection.queued, true) {
                    self.ready.push_back(member.connection);
                }
            } else if local.channel.keeps_in_memory()
                && local.reached.saturating_sub(connection.subscriptions[member.slot as usize].cursor)
                    > lag_max
                && !matches!(connection.protocol, Protocol::LongPoll(_))
            {
                too_slow.push(member.connection);
            }
        }
        for connection in too_slow {
            self.close_slow(connection, Slow::Lag);
        }
        // The last subscriber may have left, now or during the batch.
        let Some(local) = self.channels.get_mut(number as usize) else { return false };
        if local.is_empty() {
            self.release(number);
            return false;
        }
        more
    }
}

fn concatenated(
    events: &[std::sync::Arc<Event>],
    form: Form,
    deflater: &mut tidewire_core::websocket::Deflater,
) -> Encoded {
    if let [event] = events {
        let bytes = event.frame(form, deflater).clone();
        return Encoded { ends: vec![bytes.len()], bytes, events: 1 };
    }
    let mut bytes = BytesMut::new();
    let mut ends = Vec::with_capacity(events.len());
    for event in events {
        bytes.extend_from_slice(event.frame(form, deflater));
        ends.push(bytes.len());
    }
    Encoded { bytes: Bytes::from(bytes), ends, events: events.len() }
}
