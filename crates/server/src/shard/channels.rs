//! A shard's view of a channel: which of its connections read it and how far they are together.
//! Must not write to sockets or encode anything.

use std::sync::Arc;

use bytes::Bytes;
use slab::Slab;
use tidewire_core::Event;
use tidewire_core::wire::Form;

use super::connection::Connection;
use super::long_poll::Reply;
use crate::hub::Channel;
use crate::metrics::Transport;
use crate::traces::{Trace, Value};

/// A connection's place in a channel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subscription {
    /// The channel's slot in the shard.
    pub(super) channel: u32,
    pub(super) place: Place,
    /// How far the reader is. Valid only while it stands alone: a group's members share a position.
    pub(super) cursor: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Caught up, and served with all others that want the same bytes.
    Group { group: u32, index: u32 },
    /// Behind, blocked, ahead of the group, or wanting bytes of its own.
    Alone { index: u32 },
}

/// A subscription, by its connection and its slot there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) connection: u32,
    pub(super) slot: u32,
}

/// What the members of a group have in common: the bytes that an event is to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bytewise {
    /// Frames of one form, one event after the other.
    Frames(Form),
    /// One answer with the events, after which the poll is over.
    Poll(Reply),
}

impl Bytewise {
    /// What those are who get such bytes.
    pub(super) fn transport(&self) -> Transport {
        match self {
            Self::Frames(Form::EventStream) => Transport::EventStream,
            Self::Frames(_) => Transport::WebSocket,
            Self::Poll(_) => Transport::LongPoll,
        }
    }
}

/// Caught-up subscribers that get the same bytes. While a batch is fanned out, those before `sent` have it.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) bytewise: Bytewise,
    pub(super) members: Vec<Member>,
    pub(super) sent: usize,
}

/// Events on their way to all groups of a channel.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) events: Vec<Arc<Event>>,
    /// Where its receivers are afterwards.
    pub(super) to: u64,
    /// The group that gets it now, and its bytes if they are made.
    pub(super) group: usize,
    pub(super) encoded: Option<Encoded>,
    /// When its oldest event was accepted.
    pub(super) accepted_us: u64,
    /// There was more in the log than fits.
    pub(super) more: bool,
    /// Which of its events are traced, when it was taken if any are, and how many subscribers have it.
    pub(super) traces: Vec<Arc<Trace>>,
    pub(super) taken_us: u64,
    pub(super) delivered: usize,
}

impl Batch {
    /// It is handed to all who were caught up: what is traced of it has that part.
    pub(super) fn end_traces(&self, shard: u16) {
        for trace in &self.traces {
            let attributes = vec![
                ("tidewire.shard", Value::Number(u64::from(shard))),
                ("tidewire.subscribers", Value::Number(self.delivered as u64)),
                ("messaging.batch.message_count", Value::Number(self.events.len() as u64)),
            ];
            trace.add_part("fan-out", self.taken_us, attributes);
        }
    }
}

/// A batch in the bytes of one group.
#[derive(Debug, Clone)]
pub(super) struct Encoded {
    pub(super) bytes: Bytes,
    /// Where each event's frame ends. Empty if the bytes are one whole.
    pub(super) ends: Vec<usize>,
    /// How many events they are.
    pub(super) events: usize,
}

/// A channel that connections of this shard subscribe to.
#[derive(Debug)]
pub(super) struct LocalChannel {
    pub(super) channel: Arc<Channel>,
    /// Where the members of the groups are; while there is a batch, where they were before it.
    pub(super) reached: u64,
    pub(super) batch: Option<Batch>,
    pub(super) groups: Vec<Group>,
    pub(super) alone: Vec<Member>,
    /// In the shard's queue of channels to fan out.
    pub(super) queued: bool,
    /// New events were announced since the batch was taken.
    pub(super) again: bool,
}

impl LocalChannel {
    pub(super) fn new(channel: Arc<Channel>, reached: u64) -> Self {
        Self {
            channel,
            reached,
            batch: None,
            groups: Vec::new(),
            alone: Vec::new(),
            queued: false,
            again: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.alone.is_empty() && self.groups.iter().all(|group| group.members.is_empty())
    }

    /// The furthest position at which a subscriber can join a group.
    pub(super) fn joinable(&self) -> u64 {
        self.batch.as_ref().map_or(self.reached, |batch| batch.to)
    }

    /// Adds a subscription that stands alone.
    pub(super) fn enter(&mut self, member: Member) -> Place {
        self.alone.push(member);
        Place::Alone { index: (self.alone.len() - 1) as u32 }
    }

    /// Moves a lone subscription that is at a group's position into that group. False if it is not.
    pub(super) fn join(
        &mut self,
        connections: &mut Slab<Connection>,
        member: Member,
        cursor: u64,
        bytewise: &Bytewise,
    ) -> bool {
        let has_batch = self.batch.as_ref().is_some_and(|batch| batch.to == cursor);
        if !has_batch && self.reached != cursor {
            return false;
        }
        self.leave(connections, member);
        let found = self.groups.iter().position(|group| group.bytewise == *bytewise);
        let number = found.unwrap_or_else(|| {
            self.groups.push(Group { bytewise: bytewise.clone(), members: Vec::new(), sent: 0 });
            self.groups.len() - 1
        });
        let group = &mut self.groups[number];
        group.members.push(member);
        let last = group.members.len() - 1;
        if has_batch {
            group.members.swap(last, group.sent);
            group.sent += 1;
            group.note_place(connections, number, group.sent - 1);
        }
        group.note_place(connections, number, last);
        true
    }

    /// Takes a subscription out of where it stands.
    pub(super) fn leave(&mut self, connections: &mut Slab<Connection>, member: Member) {
        match connections[member.connection as usize].subscriptions[member.slot as usize].place {
            Place::Alone { index } => {
                self.alone.swap_remove(index as usize);
                if let Some(moved) = self.alone.get(index as usize) {
                    set_place(connections, *moved, Place::Alone { index });
                }
                shrink(&mut self.alone);
            }
            Place::Group { group: number, index } => {
                let (number, mut index) = (number as usize, index as usize);
                let group = &mut self.groups[number];
                if index < group.sent {
                    // The last that has the batch fills the hole, and leaves one at the border.
                    group.sent -= 1;
                    group.members.swap(index, group.sent);
                    group.note_place(connections, number, index);
                    index = group.sent;
                }
                group.members.swap_remove(index);
                if index < group.members.len() {
                    group.note_place(connections, number, index);
                }
                shrink(&mut group.members);
            }
        }
    }

    /// Takes a member out of its group, to stand alone at `cursor`.
    pub(super) fn part(&mut self, connections: &mut Slab<Connection>, member: Member, cursor: u64) {
        self.leave(connections, member);
        let place = self.enter(member);
        let subscription = &mut connections[member.connection as usize].subscriptions[member.slot as usize];
        subscription.place = place;
        subscription.cursor = cursor;
    }

    /// The position of a subscription, wherever it stands.
    pub(super) fn position(&self, subscription: &Subscription) -> u64 {
        match (subscription.place, &self.batch) {
            (Place::Alone { .. }, _) => subscription.cursor,
            (Place::Group { group, index }, Some(batch))
                if (index as usize) < self.groups[group as usize].sent =>
            {
                batch.to
            }
            (Place::Group { .. }, _) => self.reached,
        }
    }

    /// Where the subscription's member entry is, to follow a change of its slot.
    pub(super) fn member_mut(&mut self, place: Place) -> &mut Member {
        match place {
            Place::Alone { index } => &mut self.alone[index as usize],
            Place::Group { group, index } => &mut self.groups[group as usize].members[index as usize],
        }
    }
}

impl Group {
    fn note_place(&self, connections: &mut Slab<Connection>, number: usize, index: usize) {
        set_place(
            connections,
            self.members[index],
            Place::Group { group: number as u32, index: index as u32 },
        );
    }
}

fn set_place(connections: &mut Slab<Connection>, member: Member, place: Place) {
    connections[member.connection as usize].subscriptions[member.slot as usize].place = place;
}

/// Gives memory back after a storm, without doing so at every departure.
fn shrink(members: &mut Vec<Member>) {
    if members.is_empty() {
        members.shrink_to_fit();
    } else if members.capacity() > 64 && members.len() < members.capacity() / 4 {
        members.shrink_to(members.len() * 2);
    }
}
