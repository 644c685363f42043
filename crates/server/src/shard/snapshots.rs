//! Snapshots: a channel's state with the position from which to go on, as an answer of its own or at the
//! beginning of a stream. Must not know where a state is kept.

use std::sync::Arc;

use tidewire_core::http1::{Query, Request, if_none_match};
use tidewire_core::websocket::CloseCode;
use tidewire_core::wire::message::{MessageId, server};
use tidewire_core::wire::{poll, sse};
use tidewire_core::{ChannelName, EventId, Problem};

use super::Shard;
use super::connection::{Goodbye, Protocol};
use super::raw::close_code;
use crate::http::answer::Exchange;
use crate::hub::{Channel, Snapshot};
use crate::store::load::{Load, What};

/// The cursor of a subscription that waits for its snapshot: it is beyond all events, so none is delivered.
pub(super) const WAITS: u64 = u64::MAX;

/// A request whose answer is being read from disk.
#[derive(Debug)]
pub(super) struct SnapshotRequest {
    exchange: Exchange,
    if_none_match: Option<String>,
    /// When to answer without it.
    pub(super) deadline_ms: u64,
}

impl Shard {
    /// `GET /v1/channels/{channel}`.
    pub(super) fn answer_snapshot(
        &mut self,
        id: u32,
        request: &Request<'_, '_>,
        mut exchange: Exchange,
        name: ChannelName,
    ) -> Result<(), Problem> {
        Query::parse(request.query, &["ticket"])?;
        exchange.private = self.is_private(std::slice::from_ref(&name));
        let if_none_match = request.header("if-none-match")?.map(str::to_owned);
        let deadline_ms = self.now_ms + self.settings.limits.body_timeout_ms;
        let request = SnapshotRequest { exchange, if_none_match, deadline_ms };
        let (channel, snapshot) = match self.hub.find(&name)? {
            Some(channel) => {
                let snapshot = channel.snapshot();
                (Some(channel), snapshot)
            }
            None => (None, Some(self.hub.empty_snapshot(name.as_str()))),
        };
        match (channel, snapshot) {
            (_, Some(snapshot)) => self.push_snapshot(id, &request, name.as_str(), &snapshot),
            (None, None) => {}
            (Some(channel), None) => {
                self.connections[id as usize].protocol = Protocol::Snapshot(Box::new(request));
                self.arm_at(id, deadline_ms);
                self.load_state(id, channel, None);
            }
        }
        Ok(())
    }

    fn push_snapshot(&mut self, id: u32, request: &SnapshotRequest, name: &str, snapshot: &Snapshot) {
        let (events, bytes) = snapshot.retained;
        let etag = format!("\"s{}-{events}-{bytes}\"", snapshot.cursor);
        let exchange = &request.exchange;
        let cache_control = if exchange.private { "private, no-cache" } else { "public, no-cache" };
        if request.if_none_match.as_deref().is_some_and(|header| if_none_match(header, &etag)) {
            exchange.not_modified(&mut self.out, &etag, cache_control);
        } else {
            let fields = [("ETag", etag.as_str()), ("Cache-Control", cache_control)];
            exchange.json(&mut self.out, 200, &fields, &to_json(name, snapshot));
        }
        self.after_answer(id, exchange.keep_alive);
    }

    /// Subscribes with the state first; the subscription is there already, and begins where the state ends.
    pub(super) fn begin_with_snapshot(&mut self, id: u32, slot: u32, message_id: MessageId<'_>) {
        let subscription = &mut self.connections[id as usize].subscriptions[slot as usize];
        subscription.cursor = WAITS;
        let channel = Arc::clone(&self.channels[subscription.channel as usize].channel);
        match channel.snapshot() {
            Some(snapshot) => self.push_state(id, slot, &channel, &snapshot, message_id),
            None => self.load_state(id, channel, message_id),
        }
    }

    fn load_state(&mut self, id: u32, channel: Arc<Channel>, message_id: MessageId<'_>) {
        let Some(keeper) = self.hub.keeper() else { return };
        let (shard, serial) = (self.index, self.connections[id as usize].serial);
        let may_wait = !matches!(self.connections[id as usize].protocol, Protocol::Snapshot(_));
        let what = What::State { note: message_id.map(Into::into), may_wait };
        keeper.load(Load { channel, what, shard, connection: id, serial });
    }

    /// A state is read from disk.
    pub(super) fn handle_state(
        &mut self,
        id: u32,
        channel: &Arc<Channel>,
        outcome: Result<Snapshot, Problem>,
        message_id: MessageId<'_>,
    ) {
        match (&self.connections[id as usize].protocol, outcome) {
            (Protocol::Snapshot(_), outcome) => {
                let outcome = outcome.map(|snapshot| (channel.name().clone(), snapshot));
                self.finish_snapshot(id, outcome);
            }
            (Protocol::WebSocket(_) | Protocol::EventStream { .. }, Ok(snapshot)) => {
                // It may have unsubscribed meanwhile, or subscribed anew.
                let Some(slot) = self.subscription(id, channel.name().as_str()) else { return };
                if self.connections[id as usize].subscriptions[slot as usize].cursor == WAITS {
                    self.push_state(id, slot, channel, &snapshot, message_id);
                    self.send_answers(Some(id));
                }
            }
            (Protocol::WebSocket(_), Err(problem)) => {
                self.start_closing(id, Goodbye::frame(close_code(&problem), problem.code.as_str()));
            }
            (Protocol::EventStream { .. }, Err(_)) => {
                self.start_closing(id, Goodbye::quiet(CloseCode::INTERNAL))
            }
            _ => {}
        }
    }

    /// Answers the request that waits for a snapshot.
    pub(super) fn finish_snapshot(&mut self, id: u32, outcome: Result<(ChannelName, Snapshot), Problem>) {
        let next = self.between_requests();
        let connection = &mut self.connections[id as usize];
        let Protocol::Snapshot(request) = std::mem::replace(&mut connection.protocol, next) else { return };
        match outcome {
            Ok((name, snapshot)) => self.push_snapshot(id, &request, name.as_str(), &snapshot),
            Err(problem) => {
                self.counters.note_refused(&problem);
                request.exchange.problem(&mut self.out, &problem, &[]);
                self.after_answer(id, request.exchange.keep_alive);
            }
        }
        self.send_answers(Some(id));
    }

    fn push_state(
        &mut self,
        id: u32,
        slot: u32,
        channel: &Channel,
        snapshot: &Snapshot,
        message_id: MessageId<'_>,
    ) {
        let connection = &mut self.connections[id as usize];
        connection.subscriptions[slot as usize].cursor = snapshot.cursor.offset;
        let (name, json) = (channel.name().as_str(), to_json(channel.name().as_str(), snapshot));
        if let Protocol::WebSocket(_) = connection.protocol {
            self.push_text(&server::subscribed(name, snapshot.cursor, message_id));
            self.push_text(&server::snapshot(&json));
        } else {
            sse::snapshot(&mut self.out, &json, &snapshot.cursor.to_string());
        }
    }
}

fn to_json(name: &str, snapshot: &Snapshot) -> Vec<u8> {
    let cursor: EventId = snapshot.cursor;
    poll::snapshot(name, cursor, &snapshot.state, snapshot.retained)
}
