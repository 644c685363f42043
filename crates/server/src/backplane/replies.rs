//! What shards are told of orders to a broker that are done, or cannot be. Must not know the broker.

use std::sync::Arc;

use tidewire_core::limits::StateKind;
use tidewire_core::wire::poll::State;
use tidewire_core::{ChannelName, Problem, log};

use super::Backplane;
use super::broker::{Appended, Arrival, StateAt};
use super::link::Publication;
use crate::hub::{Hub, Published, Snapshot};
use crate::shard::Message;
use crate::store::commit::{Completion, Done, Waiter};
use crate::store::load::{Chunk, Load, Loaded, Outcome, What};

/// Answers on their way to the shards.
pub(super) struct Completions(Vec<Vec<Completion>>);

impl Completions {
    pub(super) fn new(hub: &Hub) -> Self {
        Self(hub.inboxes().iter().map(|_| Vec::new()).collect())
    }

    pub(super) fn add_publish(
        &mut self,
        hub: &Hub,
        publication: Publication,
        answer: Appended,
        backlog: u64,
    ) {
        let Publication { name, waiter, trace, .. } = publication;
        if let Some((trace, since_us)) = &trace {
            trace.add_part("backplane", *since_us, Vec::new());
        }
        let Some(waiter) = waiter else { return };
        let appended = |offset, time, duplicate| {
            let id = tidewire_core::EventId { epoch: hub.epoch(name.as_str()), offset };
            Done::Published(Published { appended: log::Appended { id, time, duplicate }, backlog })
        };
        let outcome = match answer {
            Appended::Stored(arrival) => Ok(appended(arrival.event.id.offset, arrival.event.time, false)),
            Appended::Known(receipt) => Ok(appended(receipt.offset, receipt.time, true)),
            Appended::Refused(problem) => Err(problem),
        };
        self.add(waiter, Some(name), outcome);
    }

    pub(super) fn add_deleted(&mut self, name: ChannelName, waiter: Waiter) {
        self.add(waiter, Some(name), Ok(Done::Deleted));
    }

    fn add(&mut self, waiter: Waiter, channel: Option<ChannelName>, outcome: Result<Done, Problem>) {
        let Waiter { shard, ticket } = waiter;
        self.0[usize::from(shard)].push(Completion { ticket, channel, outcome });
    }

    pub(super) fn send(self, hub: &Hub) {
        for (inbox, completions) in hub.inboxes().iter().zip(self.0) {
            if !completions.is_empty() {
                inbox.push(Message::Committed(completions));
            }
        }
    }
}

/// Nothing was done, or nobody knows.
pub(super) fn refuse(hub: &Hub, refusals: Vec<(Waiter, Option<ChannelName>, Problem)>) {
    let mut completions = Completions::new(hub);
    for (waiter, channel, problem) in refusals {
        completions.add(waiter, channel, Err(problem));
    }
    completions.send(hub);
}

/// Events were read for somebody who is behind.
pub(super) fn loaded(hub: &Hub, backplane: &Backplane, load: Load, arrivals: Vec<Arrival>) {
    let What::Events { after, .. } = load.what else { return };
    let channel = Arc::clone(&load.channel);
    let first = arrivals.first().map(|arrival| (arrival.prev, arrival.event.id.offset));
    if !channel.note_read(after, first) {
        return events(hub, load, Ok(None));
    }
    let chunk = Arc::new(Chunk::new(arrivals.into_iter().map(|arrival| arrival.event).collect()));
    if let Some(number) = channel.chunk_number() {
        backplane.chunks.insert(number, after, &chunk);
    }
    events(hub, load, Ok(Some(chunk)));
}

/// Tells a connection of its events.
pub(super) fn events(hub: &Hub, load: Load, outcome: Result<Option<Arc<Chunk>>, Problem>) {
    answer(hub, load, Outcome::Events(outcome));
}

/// Tells a connection of its state.
pub(super) fn state(hub: &Hub, mut load: Load, outcome: Result<StateAt, Problem>) {
    let What::State { note, .. } = &mut load.what else { return };
    let (note, channel) = (note.take(), Arc::clone(&load.channel));
    let outcome = outcome.map(|StateAt { head, mut events, extent }| {
        let state = match channel.state_kind() {
            StateKind::Keyed => State::Keyed(events),
            StateKind::Last | StateKind::None => State::Last(events.pop()),
        };
        Snapshot { cursor: channel.id(head), state, retained: extent.retained }
    });
    answer(hub, load, Outcome::State(outcome, note));
}

fn answer(hub: &Hub, load: Load, outcome: Outcome) {
    let Load { channel, shard, connection, serial, .. } = load;
    let loaded = Loaded { connection, serial, channel, outcome };
    hub.inboxes()[usize::from(shard)].push(Message::Loaded(loaded));
}
