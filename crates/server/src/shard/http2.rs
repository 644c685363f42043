//! HTTP/2 connections of a shard, and the streams that they carry: each stream is a connection of its own, whose
//! socket happens to be a stream. Must not know HTTP/2's frames (`socket::carrier`) or what is asked on a stream.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{Response, StatusCode};
use tidewire_core::liveness::Liveness;
use tidewire_core::websocket::CloseCode;

use super::Shard;
use super::connection::{Connection, Goodbye, Protocol};
use crate::metrics::Transport;
use crate::socket::{Carrier, Opened, Socket, Stream};

/// How every HTTP/2 connection begins (RFC 9113 section 3.4), as far as no other request does.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// An HTTP/2 connection.
#[derive(Debug)]
pub(super) struct Http2 {
    carrier: Carrier,
    pub(super) liveness: Liveness,
    /// The connections that are its streams.
    streams: Vec<u32>,
    /// Since when there are none.
    idle_since_ms: u64,
    /// When it is cut, once it takes no new streams.
    pub(super) ends_ms: u64,
}

/// Connections that something happened to within the library that carries their streams.
#[derive(Debug, Default)]
pub(super) struct Woken(Mutex<Vec<(u32, u32)>>);

struct Task {
    connection: u32,
    serial: u32,
    woken: Arc<Woken>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.lock().push((self.connection, self.serial));
    }
}

impl Woken {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(u32, u32)>> {
        // Nothing in here panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    /// Whether a connection begins as HTTP/2 does, where that is spoken.
    pub(super) fn begins_http2(&self, id: u32, bytes: &[u8]) -> bool {
        let socket = &self.connections[id as usize].socket;
        let is_spoken = socket.agreed_on_http2() || (self.settings.h2c && socket.carrier().is_none());
        is_spoken && bytes.starts_with(PREFACE)
    }

    /// The connection speaks HTTP/2 from its first bytes on.
    pub(super) fn begin_http2(&mut self, id: u32, bytes: &[u8]) {
        let waker = self.waker(id);
        let limits = &self.settings.limits;
        let mut carrier = Carrier::new(limits, waker);
        carrier.feed(bytes);
        let http2 = Http2 {
            carrier,
            liveness: Liveness::new(self.now_ms, limits, u64::from(id)),
            streams: Vec::new(),
            idle_since_ms: self.now_ms,
            ends_ms: u64::MAX,
        };
        self.connections[id as usize].protocol = Protocol::Http2(Box::new(http2));
        self.arm_at(id, self.now_ms);
    }

    pub(super) fn handle_http2_bytes(&mut self, id: u32, bytes: &[u8]) {
        let now_ms = self.now_ms;
        if let Protocol::Http2(http2) = &mut self.connections[id as usize].protocol {
            http2.liveness.handle_heard(now_ms);
            http2.carrier.feed(bytes);
        }
    }

    /// Lets an HTTP/2 connection go on as far as it can; what it has to say is in `out` then.
    pub(super) fn drive_http2(&mut self, id: u32) {
        let ended = self.connections[id as usize].ended;
        let refused = self.refusal(id).is_some();
        let Protocol::Http2(http2) = &mut self.connections[id as usize].protocol else { return };
        if ended {
            http2.carrier.feed_end();
        }
        if refused {
            http2.carrier.wind_down();
        }
        let mut opened = Vec::new();
        let is_open = http2.carrier.poll(&mut opened, &mut self.out);
        opened.into_iter().for_each(|opened| self.open_stream(id, opened));
        if !is_open {
            self.close_streams(id);
            self.finish_turn(id);
            if self.connections.contains(id as usize) {
                self.start_closing(id, Goodbye::quiet(CloseCode::NORMAL));
            }
        }
    }

    fn open_stream(&mut self, carrier: u32, (request, mut respond): Opened) {
        let gauges = &self.gauges;
        if gauges.connections.fetch_add(1, Ordering::Relaxed) >= gauges.connections_max {
            gauges.connections.fetch_sub(1, Ordering::Relaxed);
            return respond.send_reset(h2::Reason::REFUSED_STREAM);
        }
        let (now_ms, deadline_ms) = (self.now_ms, self.now_ms + self.settings.limits.head_timeout_ms);
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        let id = self.connections.vacant_key() as u32;
        let waker = task(id, serial, &self.woken);
        let stream = match Stream::new(carrier, request, respond, waker) {
            Ok(stream) => stream,
            Err((respond, wrong)) => {
                gauges.connections.fetch_sub(1, Ordering::Relaxed);
                return refuse(respond, wrong);
            }
        };
        let below = &self.connections[carrier as usize];
        let (address, on_admin_port) = (below.address, below.on_admin_port);
        let socket = Socket::Stream(Box::new(stream));
        let mut connection = Connection::new(socket, address, serial, now_ms, deadline_ms);
        connection.on_admin_port = on_admin_port;
        connection.unread = true;
        self.connections.insert(connection);
        if let Protocol::Http2(http2) = &mut self.connections[carrier as usize].protocol {
            http2.streams.push(id);
        }
        self.counters.open(Transport::Http);
        self.arm_at(id, deadline_ms);
        self.queue(id);
    }

    /// A connection has gone: if it was a stream, what carried it has one less; if it carried some, they go too.
    pub(super) fn note_gone(&mut self, id: u32, connection: &Connection) {
        if let Some(carrier) = connection.socket.carrier()
            && let Some(below) = self.connections.get_mut(carrier as usize)
            && let Protocol::Http2(http2) = &mut below.protocol
        {
            http2.streams.retain(|stream| *stream != id);
            http2.idle_since_ms = self.now_ms;
            self.queue(carrier);
        }
        if let Protocol::Http2(http2) = &connection.protocol {
            http2.streams.iter().for_each(|stream| self.close(*stream));
        }
    }

    fn close_streams(&mut self, id: u32) {
        let Protocol::Http2(http2) = &mut self.connections[id as usize].protocol else { return };
        std::mem::take(&mut http2.streams).into_iter().for_each(|stream| self.close(stream));
    }

    /// A heartbeat is due: asks for a sign of life, or lets a connection go that has carried nothing for long.
    pub(super) fn beat_http2(&mut self, id: u32) {
        let (now_ms, idle_timeout_ms) = (self.now_ms, self.settings.limits.idle_timeout_ms);
        let Protocol::Http2(http2) = &mut self.connections[id as usize].protocol else { return };
        if http2.streams.is_empty() && now_ms >= http2.idle_since_ms + idle_timeout_ms {
            http2.carrier.end();
        } else {
            http2.carrier.ping();
        }
        self.queue(id);
    }

    /// No new streams; those that are there say their own goodbyes.
    pub(super) fn wind_down_http2(&mut self, id: u32) {
        // What its streams say at the end of their own time must still go out.
        let close_timeout_ms = self.settings.limits.close_timeout_ms;
        let ends_ms = self.now_ms + close_timeout_ms + close_timeout_ms / 4;
        if let Protocol::Http2(http2) = &mut self.connections[id as usize].protocol {
            http2.carrier.wind_down();
            http2.ends_ms = ends_ms;
            self.arm_at(id, ends_ms);
            self.queue(id);
        }
    }

    /// Whether an HTTP/2 connection has more to write than fitted its last turn.
    pub(super) fn has_more_http2(&self, id: u32) -> bool {
        matches!(&self.connections[id as usize].protocol, Protocol::Http2(http2) if http2.carrier.has_more())
    }

    /// Whatever happened within the library makes its connections have a turn.
    pub(super) fn queue_woken(&mut self) {
        let woken = std::mem::take(&mut *self.woken.lock());
        for (id, serial) in woken {
            let Some(connection) = self.connections.get_mut(id as usize) else { continue };
            if connection.serial != serial {
                continue;
            }
            if connection.socket.carrier().is_some() {
                (connection.unread, connection.blocked) = (true, false);
            }
            self.queue(id);
        }
    }

    fn waker(&self, id: u32) -> Waker {
        task(id, self.connections[id as usize].serial, &self.woken)
    }
}

impl Http2 {
    pub(super) fn takes_input(&self) -> bool {
        self.carrier.takes_input()
    }
}

fn task(connection: u32, serial: u32, woken: &Arc<Woken>) -> Waker {
    Arc::new(Task { connection, serial, woken: Arc::clone(woken) }).into()
}

/// A request that cannot be said in the words of HTTP/1.1 is wrong in itself.
fn refuse(mut respond: SendResponse<Bytes>, wrong: &'static str) {
    let mut answer = Response::new(());
    *answer.status_mut() = StatusCode::BAD_REQUEST;
    let type_ = http::HeaderValue::from_static("application/problem+json");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, type_);
    // The peer may have reset the stream meanwhile.
    if let Ok(mut stream) = respond.send_response(answer, false) {
        let problem = tidewire_core::Problem::new(tidewire_core::Code::InvalidRequest, wrong);
        let _ = stream.send_data(problem.to_json().into(), true);
    }
}
