//! Publishes on their way to the disk, and those who are owed an answer; and publishers that are too fast.
//! Must not know what an order to the disk is made of.

use std::sync::Arc;

use bytes::Bytes;

use tidewire_core::limits::StateKind;
use tidewire_core::wire::message::server;
use tidewire_core::wire::poll;
use tidewire_core::{ChannelName, NewEvent, Problem};

use super::Shard;
use super::connection::{Goodbye, Protocol};
use super::raw::close_code;
use crate::access::identity::Identity;
use crate::clock::wall_clock;
use crate::http::answer::Exchange;
use crate::hub::{Channel, Published};
use crate::store::commit::{Completion, Done, Waiter};
use crate::traces::{Said, Trace};

/// While so many bytes wait to be written, those who publish more are not read.
const COMMIT_BACKLOG_BYTES: usize = 64 << 20;

/// A publisher that waits for the disk.
#[derive(Debug)]
pub(super) struct Awaited {
    connection: u32,
    /// Tells the connection from a later one of the same number.
    serial: u32,
    answer: Answer,
    trace: Option<Arc<Trace>>,
}

/// How a publisher is told what became of its event.
#[derive(Debug)]
pub(super) enum Answer {
    /// By an HTTP answer, in the order of the requests.
    Http(Exchange),
    /// By a WebSocket message that echoes the client's.
    Message(Option<Box<str>>),
    /// Only of a failure, by closing the raw WebSocket.
    Raw,
    /// The channel is deleted: by an HTTP answer.
    Deleted(Exchange),
}

/// What a publisher that is too fast waits for.
#[derive(Debug)]
pub(super) enum PausedBy {
    /// The fan-out of a channel.
    Fanout(Arc<Channel>),
    /// The disk.
    Disk,
}

impl Shard {
    /// Publishes for a connection. Where the event goes to disk, `None`: the answer comes when it is there.
    pub(super) fn publish(
        &mut self,
        id: u32,
        name: &ChannelName,
        event: NewEvent,
        answer: Answer,
        trace: Option<Arc<Trace>>,
    ) -> Result<Option<Published>, Problem> {
        let outcome = self.hand_over(id, name, event, answer, trace.as_ref());
        if let Some(trace) = &trace {
            match &outcome {
                Ok(None) => {} // it ends with the answer
                Ok(Some(published)) => end_trace(trace, name, Ok(published)),
                Err(problem) => end_trace(trace, name, Err(problem)),
            }
        }
        outcome
    }

    fn hand_over(
        &mut self,
        id: u32,
        name: &ChannelName,
        event: NewEvent,
        answer: Answer,
        trace: Option<&Arc<Trace>>,
    ) -> Result<Option<Published>, Problem> {
        self.check_data(name, &event)?;
        let (shard, awaited) = (self.index, &mut self.awaited);
        let connection = &self.connections[id as usize];
        let waiter = || Some(wait(awaited, shard, id, connection.serial, answer, trace.cloned()));
        let published = self.hub.publish(name, event, wall_clock(), trace, waiter)?;
        match &published {
            Some(published) => {
                self.counters.note_published(published.appended.duplicate);
                self.connections[id as usize].record.add_published();
                self.pause_if_ahead(id, published, name);
            }
            None => self.note_owed(id),
        }
        Ok(published)
    }

    /// Whether a publish is traced. `said` is asked only where anything may be.
    pub(super) fn begin_trace<'t>(
        &self,
        who: Option<&Identity>,
        transport: &'static str,
        said: impl FnOnce() -> Said<'t>,
    ) -> Option<Arc<Trace>> {
        self.gauges.tracer.as_ref()?.begin(said(), who.is_some(), transport)
    }

    /// Whether an event fits its channel's schema. One that takes a key out of a state has no data to fit.
    fn check_data(&self, name: &ChannelName, event: &NewEvent) -> Result<(), Problem> {
        if !self.access.checks_data {
            return Ok(());
        }
        let (rule, _) = self.settings.rule_of(name.as_str());
        match &rule.schema {
            Some(schema) if !(event.is_tombstone() && rule.policy.state == StateKind::Keyed) => {
                schema.check(&event.payload)
            }
            _ => Ok(()),
        }
    }

    /// Owes the connection an answer that is known already, but must come after those it is owed.
    pub(super) fn owe_problem(&mut self, id: u32, exchange: Exchange, problem: Problem) {
        let serial = self.connections[id as usize].serial;
        self.connections[id as usize].finishing |= !exchange.keep_alive;
        let waiter = wait(&mut self.awaited, self.index, id, serial, Answer::Http(exchange), None);
        if let Some(keeper) = self.hub.keeper() {
            keeper.refuse(waiter, problem);
        }
        self.note_owed(id);
    }

    /// Deletes all that a channel has, for a request.
    pub(super) fn delete(&mut self, id: u32, name: &ChannelName, exchange: Exchange) -> Result<(), Problem> {
        let (shard, awaited) = (self.index, &mut self.awaited);
        let serial = self.connections[id as usize].serial;
        let waiter = || wait(awaited, shard, id, serial, Answer::Deleted(exchange.clone()), None);
        if self.hub.delete(name, waiter)? {
            exchange.answer(&mut self.out, 204, &[], b"");
            self.after_answer(id, exchange.keep_alive);
        } else {
            self.connections[id as usize].finishing |= !exchange.keep_alive;
            self.note_owed(id);
        }
        Ok(())
    }

    fn note_owed(&mut self, id: u32) {
        let connection = &mut self.connections[id as usize];
        connection.owed += 1;
        let is_behind = self.hub.keeper().is_some_and(|keeper| keeper.waiting_bytes() > COMMIT_BACKLOG_BYTES);
        if is_behind && !std::mem::replace(&mut connection.paused, true) {
            self.paused.push((id, PausedBy::Disk));
        }
    }

    /// One that outruns the fan-out is not read for a while.
    fn pause_if_ahead(&mut self, id: u32, published: &Published, name: &ChannelName) {
        let connection = &mut self.connections[id as usize];
        if published.backlog > self.settings.limits.backlog_events
            && !connection.paused
            && let Ok(Some(channel)) = self.hub.find(name)
        {
            connection.paused = true;
            self.paused.push((id, PausedBy::Fanout(channel)));
        }
    }

    /// Publishers that waited for what has caught up may go on.
    pub(super) fn resume_paused(&mut self) {
        let low = self.settings.limits.backlog_events / 2;
        let mut index = 0;
        while index < self.paused.len() {
            let waits = match &self.paused[index].1 {
                PausedBy::Fanout(channel) => channel.backlog() > low,
                PausedBy::Disk => {
                    self.hub.keeper().is_some_and(|keeper| keeper.waiting_bytes() > COMMIT_BACKLOG_BYTES / 2)
                }
            };
            if waits {
                index += 1;
                continue;
            }
            let (id, _) = self.paused.swap_remove(index);
            if let Some(connection) = self.connections.get_mut(id as usize) {
                connection.paused = false;
                self.queue(id);
            }
        }
    }

    /// Orders are done, in the order in which they were given: answers those who wait.
    pub(super) fn handle_committed(&mut self, completions: Vec<Completion>) {
        let mut answering = None;
        for Completion { ticket, channel, outcome } in completions {
            let Awaited { connection: id, serial, answer, trace } = self.awaited.remove(ticket as usize);
            if let (Some(trace), Some(channel)) = (&trace, &channel) {
                match &outcome {
                    Ok(Done::Published(published)) => end_trace(trace, channel, Ok(published)),
                    Ok(Done::Deleted) => {}
                    Err(problem) => end_trace(trace, channel, Err(problem)),
                }
            }
            match &outcome {
                Ok(Done::Published(published)) => self.counters.note_published(published.appended.duplicate),
                Ok(Done::Deleted) => {}
                Err(problem) => self.counters.note_refused(problem),
            }
            if answering.is_some_and(|answering| answering != id) {
                self.send_answers(answering.take());
            }
            let Some(connection) = self.connections.get_mut(id as usize) else { continue };
            if connection.serial != serial {
                continue;
            }
            connection.owed -= 1;
            answering = Some(id);
            if let (Ok(Done::Published(published)), Some(channel)) = (&outcome, &channel) {
                connection.record.add_published();
                self.pause_if_ahead(id, published, channel);
            }
            self.push_published(id, answer, channel.as_ref(), outcome);
        }
        self.send_answers(answering);
    }

    fn push_published(
        &mut self,
        id: u32,
        answer: Answer,
        channel: Option<&ChannelName>,
        outcome: Result<Done, Problem>,
    ) {
        let channel = channel.map(ChannelName::as_str).unwrap_or_default();
        match (answer, outcome) {
            (Answer::Http(exchange), Ok(Done::Published(Published { appended, .. }))) => {
                let status = if appended.duplicate { 200 } else { 201 };
                let body = poll::published(channel, appended.id, appended.time, appended.duplicate);
                exchange.json(&mut self.out, status, &[], &body);
            }
            (Answer::Http(exchange) | Answer::Deleted(exchange), Err(problem)) => {
                exchange.problem(&mut self.out, &problem, &[]);
            }
            (Answer::Http(exchange) | Answer::Deleted(exchange), Ok(_)) => {
                exchange.answer(&mut self.out, 204, &[], b"");
            }
            (Answer::Message(message_id), Ok(Done::Published(Published { appended, .. })))
                if self.is_websocket(id) =>
            {
                let message_id = message_id.as_deref();
                self.push_text(&server::published(channel, appended.id, appended.duplicate, message_id));
            }
            (Answer::Message(message_id), Err(problem)) if self.is_websocket(id) => {
                self.push_text(&server::error(&problem, message_id.as_deref()));
            }
            (Answer::Raw, Err(problem)) if self.is_websocket(id) => {
                self.start_closing(id, Goodbye::frame(close_code(&problem), problem.code.as_str()));
            }
            (Answer::Raw | Answer::Message(_), _) => {}
        }
    }

    fn is_websocket(&self, id: u32) -> bool {
        matches!(self.connections[id as usize].protocol, Protocol::WebSocket(_))
    }

    /// Writes the answers in `out` to a connection, behind whatever its socket has yet to take.
    pub(super) fn send_answers(&mut self, id: Option<u32>) {
        let Some(id) = id else { return };
        if let Some(connection) = self.connections.get_mut(id as usize)
            && !matches!(connection.protocol, Protocol::Closing { .. })
        {
            if connection.is_free() {
                self.finish_turn(id);
            } else {
                connection.pending = Bytes::from([&connection.pending[..], &self.out[..]].concat());
            }
        }
        self.discard_output();
        self.close_if_due(id);
        self.discard_output();
        // It may have been waiting to read on.
        if self.connections.contains(id as usize) {
            self.end_turn(id);
            self.discard_output();
            self.queue(id);
        }
    }
}

fn end_trace(trace: &Trace, channel: &ChannelName, outcome: Result<&Published, &Problem>) {
    let said = |published: &Published| (published.appended.id.to_string(), published.appended.duplicate);
    trace.end_publish(channel.as_str(), outcome.map(said));
}

fn wait(
    awaited: &mut slab::Slab<Awaited>,
    shard: u16,
    connection: u32,
    serial: u32,
    answer: Answer,
    trace: Option<Arc<Trace>>,
) -> Waiter {
    let ticket = awaited.insert(Awaited { connection, serial, answer, trace });
    Waiter { shard, ticket: ticket as u32 }
}
