//! One connection: its socket, what it is doing, and what could not be written yet.
//! Must not know other connections, channels' logs, or how anything is encoded.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use tidewire_core::Problem;
use tidewire_core::liveness::Liveness;
use tidewire_core::websocket::{CloseCode, encode_close};

use super::channels::Subscription;
use super::http2::Http2;
use super::leases::Lease;
use super::life::Record;
use super::long_poll::LongPoll;
use super::snapshots::SnapshotRequest;
use super::upload::Upload;
use super::watch::Watch;
use super::websocket::WebSocket;
use crate::access::Identified;
use crate::access::callback::{Key, Verdict};
use crate::hub::Listed;
use crate::metrics::Transport;
use crate::socket::Socket;
use crate::store::load::Chunk;

/// How many publishes of a connection may be on their way to the disk before it is not read on.
pub(super) const OWED_MAX: u32 = 1024;

/// A connection of a shard. What is rare is boxed, so that an idle one stays small.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: Socket,
    pub(super) protocol: Protocol,
    pub(super) subscriptions: Vec<Subscription>,
    /// What the socket did not take: at most one turn's replies and the rest of one frame.
    pub(super) pending: Bytes,
    /// The beginning of a request that has not arrived whole.
    pub(super) input: Vec<u8>,
    /// The wheel's tick at which this connection is looked at next.
    pub(super) timer_tick: Option<u32>,
    /// The socket takes nothing; a writable event will come.
    pub(super) blocked: bool,
    /// There may be unread bytes in the kernel that no event will announce again.
    pub(super) unread: bool,
    /// The peer's end was announced together with bytes before it: read until it comes.
    pub(super) end_announced: bool,
    /// In the shard's queue of connections with work left.
    pub(super) queued: bool,
    /// Who is at its other end.
    pub(super) address: IpAddr,
    /// It came to the port of the admin API.
    pub(super) on_admin_port: bool,
    /// It begins with what a proxy says of its client.
    pub(super) expects_proxy: bool,
    /// What is watched of it, if anything.
    pub(super) watch: Option<Box<Watch>>,
    /// Who its stream belongs to, if somebody.
    pub(super) lease: Option<Box<Lease>>,
    /// What others decide about its next request or message, if they must.
    pub(super) decisions: Option<Box<Decisions>>,
    /// It publishes faster than the fan-out or the disk goes, and is not read until that caught up.
    pub(super) paused: bool,
    /// Its last request has come: it closes once it has its answers.
    pub(super) finishing: bool,
    /// It waits for events from disk.
    pub(super) loading: bool,
    /// Tells it from others of the same number, before and after.
    pub(super) serial: u32,
    /// How many of its publishes are on their way to the disk.
    pub(super) owed: u32,
    /// Events from disk that it has not looked at yet.
    pub(super) chunk: Option<Arc<Chunk>>,
    /// Nothing more will come from the peer.
    pub(super) ended: bool,
    /// What is told of it in the log.
    pub(super) record: Record,
}

/// What others decide about a connection's request or message, which the shard cannot know by itself.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    /// How many are being made; until then nothing is read.
    pub(super) outstanding: u32,
    /// Who sent the request, where that is known: a ticket is good once, and must not be asked for again.
    pub(super) identified: Option<Identified>,
    /// What the application said.
    pub(super) verdicts: Vec<(Key, Verdict)>,
    /// What became of what it announces.
    pub(super) announced: Option<Result<(), Problem>>,
    /// Whether its ticket was good, once that is known.
    pub(super) spent: Option<Result<bool, Problem>>,
    /// Why a channel cannot be read here.
    pub(super) unreachable: Option<Problem>,
    /// The backplane was asked for what the connection knows and this node does not.
    pub(super) asked_again: bool,
    /// The page of the channels that it asked for.
    pub(super) listed: Option<Result<Listed, Problem>>,
}

/// What a connection is doing.
#[derive(Debug)]
pub(super) enum Protocol {
    /// Between requests, or within a request head.
    Http {
        /// When the next head must be complete, or the connection be closed for idleness.
        deadline_ms: u64,
        /// Whether a first byte of that head has come.
        begun: bool,
    },
    /// Within a request body.
    Upload(Box<Upload>),
    /// A held long poll.
    LongPoll(Box<LongPoll>),
    /// A request for a snapshot that is being read from disk.
    Snapshot(Box<SnapshotRequest>),
    /// A stream of server-sent events.
    EventStream {
        /// Heartbeats and stalls.
        liveness: Liveness,
        /// Over `/v1/events`, where every event has the cursor of all channels.
        several: bool,
    },
    /// A WebSocket.
    WebSocket(Box<WebSocket>),
    /// Streams, each a connection of its own.
    Http2(Box<Http2>),
    /// Writing the last bytes, then waiting for the peer to close.
    Closing {
        /// When to cut it.
        deadline_ms: u64,
        /// The last bytes are out and our side is shut down.
        shut: bool,
    },
}

/// How a connection ends: the last bytes that it sends, and the code that says why, as WebSockets have it.
#[derive(Debug)]
pub(super) struct Goodbye {
    pub(super) last: Bytes,
    pub(super) code: CloseCode,
}

impl Goodbye {
    /// A WebSocket's close frame.
    pub(super) fn frame(code: CloseCode, reason: &str) -> Self {
        Self { last: encode_close(code, reason), code }
    }

    /// The end of what has no close frame.
    pub(super) fn quiet(code: CloseCode) -> Self {
        Self { last: Bytes::new(), code }
    }
}

/// What became of an attempt to write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// All of it is with the kernel.
    All,
    /// The first so many bytes are, or all but encrypted ones; the socket takes no more now.
    Part(usize),
    /// The connection is broken.
    Broken,
}

impl Connection {
    pub(super) fn new(socket: Socket, address: IpAddr, serial: u32, now_ms: u64, deadline_ms: u64) -> Self {
        Self {
            socket,
            protocol: Protocol::Http { deadline_ms, begun: false },
            subscriptions: Vec::new(),
            pending: Bytes::new(),
            input: Vec::new(),
            timer_tick: None,
            blocked: false,
            unread: false,
            end_announced: false,
            queued: false,
            address,
            on_admin_port: false,
            expects_proxy: false,
            watch: None,
            lease: None,
            decisions: None,
            paused: false,
            finishing: false,
            loading: false,
            serial,
            owed: 0,
            chunk: None,
            ended: false,
            record: Record::new(now_ms),
        }
    }

    /// Writes as much as the socket takes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Written {
        let mut done = 0;
        while done < bytes.len() {
            match self.socket.write(&bytes[done..]) {
                Ok(0) => return Written::Broken,
                Ok(taken) => done += taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return Written::Part(done);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Written::Broken,
            }
        }
        if self.socket.has_some() {
            self.blocked = true;
            return Written::Part(done);
        }
        Written::All
    }

    /// Writes what is pending, as far as it goes; gives how many bytes went. `None` if the connection is broken.
    pub(super) fn write_pending(&mut self) -> Option<usize> {
        if self.blocked {
            return Some(0);
        }
        match self.socket.flush() {
            Ok(all) => self.blocked = !all,
            Err(_) => return None,
        }
        if self.pending.is_empty() || self.blocked {
            return Some(0);
        }
        let pending = std::mem::take(&mut self.pending);
        match self.write(&pending) {
            Written::All => Some(pending.len()),
            Written::Part(taken) => {
                self.pending = pending.slice(taken..);
                Some(taken)
            }
            Written::Broken => None,
        }
    }

    /// Reads what has come. `None` if nothing has; `Some(0)` at the end of the peer's bytes.
    pub(super) fn read(&mut self, scratch: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.socket.read(scratch) {
                Ok(taken) => return Ok(Some(taken)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether its bytes are those of its streams, which are counted there.
    pub(super) fn carries_streams(&self) -> bool {
        matches!(self.protocol, Protocol::Http2(_))
    }

    /// Whether what comes from the peer may be acted on now.
    pub(super) fn takes_input(&self) -> bool {
        let has_room = match &self.protocol {
            // Nothing that comes means anything any more, but its end does.
            Protocol::Closing { .. } => return true,
            Protocol::Http2(http2) => http2.takes_input(),
            _ => !self.finishing && self.owed < OWED_MAX,
        };
        has_room && !self.paused && !self.awaits_decision()
    }

    /// Whether somebody else is deciding about its request.
    pub(super) fn awaits_decision(&self) -> bool {
        self.decisions.as_ref().is_some_and(|decisions| decisions.outstanding > 0)
    }

    /// Whether the connection can take a new message now: it is neither blocked nor in the middle of one.
    pub(super) fn is_free(&self) -> bool {
        !self.blocked && self.pending.is_empty()
    }
}

impl Protocol {
    /// The liveness of a stream.
    pub(super) fn liveness_mut(&mut self) -> Option<&mut Liveness> {
        match self {
            Self::EventStream { liveness, .. } => Some(liveness),
            Self::WebSocket(websocket) => Some(&mut websocket.liveness),
            Self::Http2(http2) => Some(&mut http2.liveness),
            _ => None,
        }
    }

    /// What the connection counts as.
    pub(super) fn transport(&self) -> Transport {
        match self {
            Self::Http { .. }
            | Self::Upload(_)
            | Self::Snapshot(_)
            | Self::Http2(_)
            | Self::Closing { .. } => Transport::Http,
            Self::LongPoll(_) => Transport::LongPoll,
            Self::EventStream { .. } => Transport::EventStream,
            Self::WebSocket(_) => Transport::WebSocket,
        }
    }
}
#[cfg(test)]
#[test]
fn sizes() {
    use crate::access::{identity::*, users::*};
    macro_rules! s { ($($t:ty),*) => { $(eprintln!("{} {}", stringify!($t), size_of::<$t>());)* } }
    s!(
        Connection,
        Protocol,
        Lease,
        Watch,
        Identity,
        Grants,
        Membership,
        Place,
        Record,
        super::websocket::WebSocket,
        Liveness,
        Subscription,
        Decisions
    );
}
