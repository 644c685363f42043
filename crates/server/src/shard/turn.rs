//! A connection's turn: write what is pending, read what has come, hand it to whoever understands it,
//! and write what that gave. Must not know what the bytes mean.

use tidewire_core::http1::{HeadLimits, Method, Parsed, Request, header_space, parse_request};

use crate::hub::Keeper;
use tidewire_core::websocket::CloseCode;

use super::connection::{Goodbye, Protocol};
use super::{READ_BYTES, Shard};
use crate::http::route::Route;

/// How often one connection may fill the read buffer before others have their turn.
const READS: usize = 4;
/// A turn that has this much to write does not read on, so that a client that pipelines requests and reads
/// no answers holds up nobody but itself.
const OUT_BYTES: usize = 256 << 10;

impl Shard {
    pub(super) fn turn(&mut self, id: u32) {
        self.act_and_answer(id);
        self.discard_output();
    }

    /// Whatever a connection leaves in the shared output when it breaks in the middle of its turn must
    /// not be the beginning of somebody else's.
    pub(super) fn discard_output(&mut self) {
        self.out.clear();
        self.marks.clear();
    }

    fn act_and_answer(&mut self, id: u32) {
        debug_assert!(self.out.is_empty() && self.marks.is_empty());
        let connection = &mut self.connections[id as usize];
        let Some(written) = connection.write_pending() else { return self.close(id) };
        if !connection.carries_streams() {
            self.counters.add_written(written);
        }
        if !connection.is_free() {
            let now_ms = self.now_ms;
            if let Some(liveness) = connection.protocol.liveness_mut() {
                liveness.handle_progress(now_ms, true);
            }
            return self.arm_stall(id);
        }
        if let Some(liveness) = connection.protocol.liveness_mut() {
            liveness.handle_progress(self.now_ms, false);
        }
        self.handle_leftover(id);
        let mut scratch = std::mem::take(&mut self.scratch);
        for _ in 0..READS {
            if !self.read(id, &mut scratch) {
                break;
            }
        }
        self.scratch = scratch;
        let Some(connection) = self.connections.get(id as usize) else { return };
        match connection.protocol {
            Protocol::LongPoll(_) => self.try_answer_long_poll(id),
            Protocol::Http2(_) => self.drive_http2(id),
            _ => {}
        }
        if self.connections.contains(id as usize) {
            self.finish_turn(id);
            self.end_turn(id);
        }
    }

    /// Looks again at what earlier turns left unread, now that the output has gone.
    fn handle_leftover(&mut self, id: u32) {
        let connection = &self.connections[id as usize];
        if !connection.takes_input() {
            return;
        }
        match connection.protocol {
            Protocol::Http { .. } | Protocol::Upload(_) if !connection.input.is_empty() => {
                self.handle_request_bytes(id, &[]);
            }
            Protocol::WebSocket(_) => self.resume_websocket(id),
            _ => {}
        }
    }

    /// Reads once. True if there may be more that can be handled now.
    fn read(&mut self, id: u32, scratch: &mut [u8]) -> bool {
        let Some(connection) = self.connections.get_mut(id as usize) else { return false };
        let full = self.out.len() >= OUT_BYTES || connection.input.len() >= READ_BYTES;
        if !connection.unread || !connection.takes_input() || full || connection.ended {
            return false;
        }
        if connection.expects_proxy
            && connection.socket.is_encrypted()
            && !self.take_proxy_header(id, scratch)
        {
            return false;
        }
        let connection = &mut self.connections[id as usize];
        match connection.read(scratch) {
            Ok(None) => {
                connection.unread = false;
                false
            }
            Ok(Some(0)) => {
                connection.unread = false;
                connection.ended = true;
                self.handle_end(id);
                false
            }
            Ok(Some(length)) => {
                if !connection.carries_streams() {
                    self.counters.read_bytes.add(length as u64);
                }
                // A short read has emptied the socket (epoll(7)); what comes later is announced anew. Only an
                // end that was announced already would not be.
                let is_emptied = connection.socket.is_emptied_by_short_reads() && !connection.end_announced;
                if length < scratch.len() && is_emptied {
                    connection.unread = false;
                }
                self.handle_bytes(id, &mut scratch[..length]);
                true
            }
            Err(_) => {
                self.close(id);
                false
            }
        }
    }

    fn handle_bytes(&mut self, id: u32, bytes: &mut [u8]) {
        match &self.connections[id as usize].protocol {
            Protocol::Http { .. } | Protocol::Upload(_) | Protocol::LongPoll(_) | Protocol::Snapshot(_) => {
                self.handle_request_bytes(id, bytes)
            }
            Protocol::WebSocket(_) => self.handle_websocket_bytes(id, bytes),
            Protocol::Http2(_) => self.handle_http2_bytes(id, bytes),
            // Nothing that comes on these means anything.
            Protocol::EventStream { .. } | Protocol::Closing { .. } => {}
        }
    }

    /// Bytes of requests: those of one that is begun, then whole ones, one after the other.
    pub(super) fn handle_request_bytes(&mut self, id: u32, bytes: &[u8]) {
        let mut held = std::mem::take(&mut self.connections[id as usize].input);
        let mut rest: &[u8] = if held.is_empty() {
            bytes
        } else {
            held.extend_from_slice(bytes);
            &held
        };
        while !rest.is_empty() {
            let Some(connection) = self.connections.get(id as usize) else { return };
            let (takes_input, full) = (connection.takes_input(), self.out.len() >= OUT_BYTES);
            match &connection.protocol {
                Protocol::Http { .. } if takes_input && !full => {
                    if !self.handle_head(id, &mut rest) {
                        break;
                    }
                }
                Protocol::Upload(_) if !full => self.handle_upload(id, &mut rest),
                Protocol::WebSocket(_) => {
                    // Sent before the handshake was answered, but legal once it is. Nobody keeps them for
                    // later, so they are taken even where the output is full.
                    return self.handle_websocket_bytes(id, &mut rest.to_vec());
                }
                _ => break,
            }
        }
        if let Some(connection) = self.connections.get_mut(id as usize)
            && matches!(
                connection.protocol,
                Protocol::Http { .. } | Protocol::Upload(_) | Protocol::LongPoll(_) | Protocol::Snapshot(_)
            )
        {
            connection.input = rest.to_vec();
        }
    }

    /// Takes a request head off the front of `rest` and acts on it. False if it is not there as a whole.
    fn handle_head(&mut self, id: u32, rest: &mut &[u8]) -> bool {
        match self.handle_proxy_header(id, rest) {
            Ok(true) if rest.is_empty() => return false,
            Ok(true) => {}
            Ok(false) => {
                self.expect_head(id);
                return false;
            }
            Err(problem) => {
                *rest = &[];
                self.refuse(id, &problem);
                return false;
            }
        }
        if self.begins_http2(id, rest) {
            self.begin_http2(id, rest);
            *rest = &[];
            return false;
        }
        let limits = &self.settings.limits;
        let head_limits = HeadLimits { head_bytes: limits.head_bytes, fields: limits.head_fields };
        let mut space = header_space();
        match parse_request(rest, head_limits, &mut space) {
            Ok(Parsed::Partial) => {
                self.expect_head(id);
                false
            }
            Ok(Parsed::Complete(request, _)) if !self.may_follow(id, &request) => false,
            Ok(Parsed::Complete(request, length)) => {
                let mut after = &rest[length..];
                let is_handled = self.handle_request(id, &request, &mut after);
                if is_handled {
                    *rest = after;
                }
                is_handled
            }
            Err(problem) => {
                *rest = &[];
                self.refuse(id, &problem);
                false
            }
        }
    }

    /// Answers come in the order of the requests. While the connection is owed some by the disk, only requests
    /// that the disk answers as well, and after those, are acted on.
    fn may_follow(&self, id: u32, request: &Request<'_, '_>) -> bool {
        if self.connections[id as usize].owed == 0 {
            return true;
        }
        let is_publish = request.method == Method::Post && !request.expects_continue;
        match Route::of(request.path) {
            Ok(Route::ChannelEvents(channel)) if is_publish => {
                let keeper = self.hub.keeper_of(self.hub.policy_of(channel.as_str()));
                keeper.is_some_and(Keeper::answers_in_order)
            }
            _ => false,
        }
    }

    /// A head has begun: it must be complete in time, however slowly its bytes come.
    fn expect_head(&mut self, id: u32) {
        let due_ms = self.now_ms + self.settings.limits.head_timeout_ms;
        if let Protocol::Http { deadline_ms, begun } = &mut self.connections[id as usize].protocol
            && !std::mem::replace(begun, true)
        {
            *deadline_ms = due_ms;
            self.arm_at(id, due_ms);
        }
    }

    /// The peer will send nothing more.
    fn handle_end(&mut self, id: u32) {
        self.connections[id as usize].record.note_end();
        match &self.connections[id as usize].protocol {
            // A stream's reader that stops sending has gone; one that only shut down its side is
            // rare, and reconnects.
            Protocol::LongPoll(_)
            | Protocol::Snapshot(_)
            | Protocol::EventStream { .. }
            | Protocol::WebSocket(_) => {
                self.close(id);
            }
            // Requests before may still be owed their answers.
            Protocol::Http { .. } | Protocol::Upload(_) | Protocol::Closing { .. } => {}
            // It says itself what it has yet to say.
            Protocol::Http2(_) => {}
        }
    }

    /// What is left to do after a turn's output is written, as far as it went.
    pub(super) fn end_turn(&mut self, id: u32) {
        let Some(connection) = self.connections.get(id as usize) else { return };
        if !connection.is_free() {
            return;
        }
        let http = matches!(connection.protocol, Protocol::Http { .. });
        let closing = matches!(connection.protocol, Protocol::Closing { .. });
        if http && connection.finishing && connection.owed == 0 {
            return self.start_closing(id, Goodbye::quiet(CloseCode::NORMAL));
        }
        let requests = http || matches!(connection.protocol, Protocol::Upload(_));
        if connection.ended && (requests || closing) && connection.owed == 0 && !connection.awaits_decision()
        {
            if requests && !connection.input.is_empty() && self.out_was_full(id) {
                return self.queue(id);
            }
            return self.close(id);
        }
        let goes_on = connection.unread && connection.takes_input() && !connection.ended;
        if goes_on || self.out_was_full(id) || self.has_more_http2(id) {
            self.queue(id);
        }
    }

    /// Whether whole requests may lie in the connection's input, unread only because the output was full.
    fn out_was_full(&self, id: u32) -> bool {
        let connection = &self.connections[id as usize];
        let begun = matches!(connection.protocol, Protocol::Http { begun: true, .. });
        let waits = matches!(connection.protocol, Protocol::Http { .. } | Protocol::Upload(_));
        waits && !begun && !connection.input.is_empty() && connection.takes_input() && connection.owed == 0
    }
}
