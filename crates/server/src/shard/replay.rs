//! Connections that get history: in their turn behind all others, and from disk where it is not in memory.
//! Must not know how a connection is served.

use std::sync::Arc;

use tidewire_core::Problem;
use tidewire_core::websocket::CloseCode;

use super::Shard;
use super::connection::{Goodbye, Protocol};
use super::raw::close_code;
use crate::hub::Channel;
use crate::store::load::{Amount, Load, Loaded, Outcome, What};

/// How many connections get a part of their history at a time.
const TURNS: usize = 16;
/// The same while new events wait to be fanned out.
const TURNS_WHILE_BUSY: usize = 1;

impl Shard {
    /// Queues a connection for its next part of history.
    pub(super) fn queue_replay(&mut self, id: u32) {
        let Some(connection) = self.connections.get_mut(id as usize) else { return };
        if !std::mem::replace(&mut connection.queued, true) {
            self.replaying.push_back(id);
        }
    }

    pub(super) fn replay(&mut self) {
        let turns = if self.dirty.is_empty() { TURNS } else { TURNS_WHILE_BUSY };
        for _ in 0..turns.min(self.replaying.len()) {
            let Some(id) = self.replaying.pop_front() else { return };
            if let Some(connection) = self.connections.get_mut(id as usize) {
                connection.queued = false;
                self.turn(id);
            }
        }
    }

    /// Has events read from disk, after which the connection gets a turn. It waits for one read at a time.
    pub(super) fn load(&mut self, id: u32, channel: Arc<Channel>, after: u64) {
        let connection = &mut self.connections[id as usize];
        let Some(keeper) = self.hub.keeper() else { return };
        if !std::mem::replace(&mut connection.loading, true) {
            let amount = match &connection.protocol {
                Protocol::LongPoll(poll) => {
                    Amount::Page { events: poll.limit(), bytes: self.settings.limits.page_bytes }
                }
                _ => Amount::Stream,
            };
            let (shard, serial) = (self.index, connection.serial);
            let what = What::Events { after, amount };
            keeper.load(Load { channel, what, shard, connection: id, serial });
        }
    }

    pub(super) fn handle_loaded(&mut self, loaded: Loaded) {
        let Loaded { connection: id, serial, channel, outcome } = loaded;
        let Some(connection) = self.connections.get_mut(id as usize) else { return };
        if connection.serial != serial {
            return;
        }
        match outcome {
            Outcome::Events(Ok(chunk)) => {
                connection.loading = false;
                connection.chunk = chunk;
                self.queue_replay(id);
            }
            Outcome::Events(Err(problem)) => {
                connection.loading = false;
                self.handle_unreadable(id, &problem);
            }
            Outcome::State(state, note) => self.handle_state(id, &channel, state, note.as_deref()),
        }
        self.discard_output();
    }

    /// The history that a connection wants cannot be read: it is told, or closed; never served less.
    fn handle_unreadable(&mut self, id: u32, problem: &Problem) {
        match &self.connections[id as usize].protocol {
            Protocol::LongPoll(poll) => {
                let exchange = poll.exchange();
                self.counters.note_refused(problem);
                self.finish_long_poll(id, exchange.keep_alive);
                exchange.problem(&mut self.out, problem, &[]);
                self.after_answer(id, exchange.keep_alive);
                if self.connections.contains(id as usize) {
                    self.finish_turn(id);
                }
            }
            Protocol::WebSocket(_) => {
                self.start_closing(id, Goodbye::frame(close_code(problem), problem.code.as_str()));
            }
            Protocol::EventStream { .. } => self.start_closing(id, Goodbye::quiet(CloseCode::INTERNAL)),
            Protocol::Http { .. }
            | Protocol::Upload(_)
            | Protocol::Snapshot(_)
            | Protocol::Http2(_)
            | Protocol::Closing { .. } => {}
        }
    }
}
