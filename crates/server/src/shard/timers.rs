//! What happens when time passes: heartbeats, stalls, requests that do not arrive, polls that end.
//! The policy is `core::liveness` and `core::limits`; here it meets each transport's way to say it.

use bytes::Bytes;
use tidewire_core::liveness::Due;
use tidewire_core::websocket::{CloseCode, OpCode, encode_close, encode_frame};
use tidewire_core::wire::message::server;
use tidewire_core::wire::sse;
use tidewire_core::{Code, Problem};

use super::Shard;
use super::connection::{Goodbye, Protocol};
use crate::metrics::Slow;

/// The soonest that clients should come back to a server that goes away: the next one must be there.
const RECONNECT_LEAST_MS: u64 = 500;
/// How long a connection that has just come may take to ask, and be told to come back.
const ASKING_MS: u64 = 1_000;

impl Shard {
    pub(super) fn fire_timers(&mut self) {
        let mut fired = Vec::new();
        self.wheel.advance(self.now_ms, &mut fired);
        for entry in fired {
            let Some(connection) = self.connections.get_mut(entry.connection as usize) else { continue };
            if connection.timer_tick == Some(entry.tick) {
                connection.timer_tick = None;
                self.handle_timer(entry.connection);
                self.discard_output();
            }
        }
    }

    /// Makes sure that the connection is looked at by `due_ms`.
    pub(super) fn arm_at(&mut self, id: u32, due_ms: u64) {
        let tick = self.wheel.tick_for(due_ms);
        let connection = &mut self.connections[id as usize];
        if connection.timer_tick.is_none_or(|armed| tick < armed) {
            connection.timer_tick = Some(tick);
            self.wheel.arm(id, tick);
        }
    }

    /// The socket stopped taking bytes: see to it that this does not last.
    pub(super) fn arm_stall(&mut self, id: u32) {
        let due_ms = self.now_ms + self.settings.limits.stall_timeout_ms;
        let Some(connection) = self.connections.get_mut(id as usize) else { return };
        if let Protocol::Http { deadline_ms, .. } = &mut connection.protocol {
            *deadline_ms = due_ms;
        }
        self.arm_at(id, due_ms);
    }

    fn handle_timer(&mut self, id: u32) {
        let connection = &mut self.connections[id as usize];
        let (now_ms, limits) = (self.now_ms, &self.settings.limits);
        let lease_ends_ms = connection.lease.as_ref().and_then(|lease| lease.ends_ms).unwrap_or(u64::MAX);
        let carrier_ends_ms = match &connection.protocol {
            Protocol::Http2(http2) => http2.ends_ms,
            _ => u64::MAX,
        };
        if lease_ends_ms <= now_ms && !matches!(connection.protocol, Protocol::Closing { .. }) {
            return self.end_lease(id);
        }
        let due = match &mut connection.protocol {
            Protocol::Http { deadline_ms, .. } | Protocol::Closing { deadline_ms, .. } => {
                at(*deadline_ms, now_ms)
            }
            Protocol::Upload(upload) => at(upload.deadline_ms, now_ms),
            Protocol::LongPoll(poll) => at(poll.deadline_ms, now_ms),
            Protocol::Snapshot(request) => at(request.deadline_ms, now_ms),
            Protocol::EventStream { liveness, .. } => liveness.poll_due(now_ms, limits, false),
            Protocol::WebSocket(websocket) => websocket.liveness.poll_due(now_ms, limits, true),
            Protocol::Http2(http2) if now_ms >= http2.ends_ms => Due::Silent,
            Protocol::Http2(http2) => http2.liveness.poll_due(now_ms, limits, true),
        };
        match due {
            Due::Nothing { until_ms } => {
                let ends_ms = lease_ends_ms.min(carrier_ends_ms).max(now_ms + 1);
                self.arm_at(id, until_ms.min(ends_ms));
            }
            Due::Heartbeat => self.send_heartbeat(id),
            Due::Stalled => self.close_slow(id, Slow::Stall),
            Due::Silent => self.handle_expired(id),
        }
    }

    fn send_heartbeat(&mut self, id: u32) {
        if let Protocol::Http2(_) = self.connections[id as usize].protocol {
            self.beat_http2(id);
            return self.handle_timer(id); // the next one is planned
        }
        let heartbeat = match self.connections[id as usize].protocol {
            Protocol::WebSocket(_) => encode_frame(OpCode::Ping, b""),
            _ => Bytes::from_static(sse::HEARTBEAT),
        };
        if self.connections[id as usize].is_free() {
            self.out.extend_from_slice(&heartbeat);
            self.finish_turn(id);
        }
        if self.connections.contains(id as usize) {
            self.handle_timer(id); // the next one is planned
        }
    }

    /// Whatever the connection waited for did not come in time.
    fn handle_expired(&mut self, id: u32) {
        let connection = &self.connections[id as usize];
        match &connection.protocol {
            Protocol::LongPoll(_) => self.end_long_poll(id),
            Protocol::Snapshot(_) => {
                self.finish_snapshot(id, Err(late()));
            }
            Protocol::WebSocket(_) => {
                self.counters.silent.add(1);
                self.start_closing(id, Goodbye::frame(CloseCode::NO_SIGN_OF_LIFE, "no_sign_of_life"));
            }
            Protocol::Upload(_) | Protocol::Http { begun: true, .. } if connection.is_free() => {
                let detail = "the request did not arrive in time";
                self.refuse(id, &Problem::new(Code::RequestTimeout, detail));
            }
            _ => self.close(id),
        }
    }

    /// Closes a subscriber that fell too far behind, in a way from which it can resume.
    pub(super) fn close_slow(&mut self, id: u32, why: Slow) {
        let Some(connection) = self.connections.get(id as usize) else { return };
        let goodbye = match connection.protocol {
            Protocol::WebSocket(_) => Goodbye::frame(CloseCode::SLOW_CONSUMER, "slow_consumer"),
            Protocol::EventStream { .. } => Goodbye::quiet(CloseCode::SLOW_CONSUMER),
            _ => return self.close(id),
        };
        self.counters.note_slow(why);
        self.start_closing(id, goodbye);
    }

    /// When the next client should come back: spread over the window, more evenly than by chance.
    fn next_delay_ms(&mut self) -> u64 {
        self.goodbyes += 1;
        let number = self.goodbyes * self.gauges.shards.len() as u64 + u64::from(self.index);
        // The golden ratio's multiples, modulo 1, fill any interval evenly, however many there are.
        let place = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let most_ms = self.settings.limits.drain_window_ms;
        let least_ms = RECONNECT_LEAST_MS.min(most_ms);
        least_ms + ((place * (most_ms - least_ms)) >> 32)
    }

    /// Tells a client that the server goes away, and closes.
    pub(super) fn say_goodbye(&mut self, id: u32) {
        let after_ms = self.next_delay_ms();
        let (after_ms, now_ms) = ([after_ms; 2], self.now_ms);
        let Some(connection) = self.connections.get(id as usize) else { return };
        match &connection.protocol {
            Protocol::WebSocket(websocket) => {
                let mut last = Vec::new();
                if websocket.raw.is_none() {
                    let message = server::reconnect(after_ms, "drain");
                    last.extend_from_slice(&encode_frame(OpCode::Text, &message));
                }
                last.extend_from_slice(&encode_close(CloseCode::GOING_AWAY, "drain"));
                self.start_closing(id, Goodbye { last: last.into(), code: CloseCode::GOING_AWAY });
            }
            Protocol::EventStream { .. } => {
                let mut last = Vec::new();
                sse::reconnect(&mut last, after_ms, "drain");
                self.start_closing(id, Goodbye { last: last.into(), code: CloseCode::GOING_AWAY });
            }
            Protocol::LongPoll(_) => {
                self.end_long_poll(id);
                if self.connections.contains(id as usize) {
                    self.start_closing(id, Goodbye::quiet(CloseCode::GOING_AWAY));
                }
            }
            // Its answers are on their way.
            Protocol::Http { .. } if connection.owed > 0 => {
                self.connections[id as usize].finishing = true;
            }
            // Whoever has nothing under way finds out when they come next; but one that has come just now may be about
            // to ask.
            Protocol::Http { begun: false, .. }
                if !connection.awaits_decision() && connection.input.is_empty() =>
            {
                if connection.unread || connection.record.is_younger_than(ASKING_MS, now_ms) {
                    self.arm_at(id, now_ms + ASKING_MS);
                    let deadline = now_ms + ASKING_MS;
                    if let Protocol::Http { deadline_ms, .. } = &mut self.connections[id as usize].protocol {
                        *deadline_ms = deadline;
                    }
                } else {
                    self.close(id);
                }
            }
            // They end with their answer, or at their own deadline.
            Protocol::Http { .. } | Protocol::Upload(_) | Protocol::Snapshot(_) => {}
            Protocol::Http2(_) => self.wind_down_http2(id),
            Protocol::Closing { .. } => {}
        }
    }
}

/// What was asked of the disk does not come.
pub(super) fn late() -> Problem {
    Problem::new(Code::Unavailable, "the disk does not answer in time; try again in a moment")
}

/// A plain deadline in the words of liveness.
fn at(deadline_ms: u64, now_ms: u64) -> Due {
    if now_ms >= deadline_ms { Due::Silent } else { Due::Nothing { until_ms: deadline_ms } }
}
