//! An HTTP/2 connection as bytes in, bytes out and streams: the library's state machine, polled by hand. What goes
//! out is bounded; while it is not taken, nothing more is made. Must not know who serves the streams.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::server::{Builder, Connection, Handshake, SendResponse};
use h2::{PingPong, RecvStream};
use http::Request;
use tidewire_core::limits::Limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most that waits to be written.
const OUTGOING_BYTES_MAX: usize = 64 << 10;
/// The most that was read and not looked at.
const INCOMING_BYTES_MAX: usize = 128 << 10;
/// The most of one stream that waits to be written, and the largest piece of an event that is handed over.
const STREAM_BYTES_MAX: usize = 16 << 10;
/// What all uploads of a connection may have on their way.
const WINDOW_BYTES: u32 = 1 << 20;

/// How many streams may be reset before they were looked at, and a client does nothing else (CVE-2023-44487).
const RESETS_MAX: usize = 100;

/// A request, and where its answer goes.
pub(crate) type Opened = (Request<RecvStream>, SendResponse<Bytes>);

/// A connection that carries streams.
pub(crate) struct Carrier {
    pipe: Arc<Mutex<Pipe>>,
    state: State,
    pings: Option<PingPong>,
    waker: Waker,
}

enum State {
    Opening(Pin<Box<Handshake<End, Bytes>>>),
    Open(Box<Connection<End, Bytes>>),
    Over,
}

#[derive(Default)]
struct Pipe {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// There was more than fits `outgoing`.
    is_full: bool,
    /// The peer sends nothing more.
    ended: bool,
}

/// The library's end of the pipe.
struct End(Arc<Mutex<Pipe>>);

impl Carrier {
    /// `waker` wakes whoever polls it.
    pub(crate) fn new(limits: &Limits, waker: Waker) -> Self {
        let pipe = Arc::<Mutex<Pipe>>::default();
        let bounded = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let handshake = Builder::new()
            .max_concurrent_streams(bounded(limits.streams_per_connection))
            .max_header_list_size(bounded(limits.head_bytes))
            .max_send_buffer_size(STREAM_BYTES_MAX)
            .max_pending_accept_reset_streams(RESETS_MAX)
            .initial_connection_window_size(WINDOW_BYTES)
            .enable_connect_protocol()
            .handshake(End(Arc::clone(&pipe)));
        Self { pipe, state: State::Opening(Box::pin(handshake)), pings: None, waker }
    }

    /// Bytes have come from the peer.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        lock(&self.pipe).incoming.extend_from_slice(bytes);
    }

    /// The peer sends nothing more.
    pub(crate) fn feed_end(&mut self) {
        lock(&self.pipe).ended = true;
    }

    /// Whether more may be fed before it is polled again.
    pub(crate) fn takes_input(&self) -> bool {
        lock(&self.pipe).incoming.len() < INCOMING_BYTES_MAX
    }

    /// Goes on as far as it can. New streams come in `opened`, bytes for the peer in `out`. False once the
    /// connection is over.
    pub(crate) fn poll(&mut self, opened: &mut Vec<Opened>, out: &mut Vec<u8>) -> bool {
        lock(&self.pipe).is_full = false;
        let is_open = self.advance(opened);
        let mut pipe = lock(&self.pipe);
        out.append(&mut pipe.outgoing);
        pipe.outgoing.shrink_to(0);
        pipe.incoming.shrink_to(0);
        is_open
    }

    fn advance(&mut self, opened: &mut Vec<Opened>) -> bool {
        let mut context = Context::from_waker(&self.waker);
        loop {
            match &mut self.state {
                State::Opening(handshake) => match handshake.as_mut().poll(&mut context) {
                    Poll::Pending => return true,
                    Poll::Ready(Ok(mut connection)) => {
                        self.pings = connection.ping_pong();
                        self.state = State::Open(Box::new(connection));
                    }
                    Poll::Ready(Err(_)) => self.state = State::Over,
                },
                State::Open(connection) => match connection.poll_accept(&mut context) {
                    Poll::Pending => return true,
                    Poll::Ready(Some(Ok(stream))) => opened.push(stream),
                    // It has said to the peer what was wrong.
                    Poll::Ready(Some(Err(_)) | None) => self.state = State::Over,
                },
                State::Over => return false,
            }
        }
    }

    /// Whether more is to be written than the last poll gave.
    pub(crate) fn has_more(&self) -> bool {
        lock(&self.pipe).is_full
    }

    /// Asks the peer for a sign of life.
    pub(crate) fn ping(&mut self) {
        let Some(pings) = &mut self.pings else { return };
        // The answer to the last one has been heard as bytes; here it only makes room for the next. One that is still
        // unanswered will do.
        let _ = pings.poll_pong(&mut Context::from_waker(&self.waker));
        let _ = pings.send_ping(h2::Ping::opaque());
    }

    /// Ends a connection that carries nothing.
    pub(crate) fn end(&mut self) {
        match &mut self.state {
            State::Open(connection) => connection.abrupt_shutdown(h2::Reason::NO_ERROR),
            _ => self.state = State::Over,
        }
    }

    /// Takes no new streams; the connection is over once those that are there are.
    pub(crate) fn wind_down(&mut self) {
        match &mut self.state {
            State::Open(connection) => connection.graceful_shutdown(),
            _ => self.state = State::Over,
        }
    }
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut pipe = lock(&self.0);
        if pipe.incoming.is_empty() {
            // Whoever feeds it polls it afterwards.
            return if pipe.ended { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        let taken = pipe.incoming.len().min(buffer.remaining());
        buffer.put_slice(&pipe.incoming[..taken]);
        pipe.incoming.drain(..taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut pipe = lock(&self.0);
        let room = OUTGOING_BYTES_MAX.saturating_sub(pipe.outgoing.len());
        if room == 0 {
            // Whoever takes what is there polls it afterwards.
            pipe.is_full = true;
            return Poll::Pending;
        }
        let taken = bytes.len().min(room);
        pipe.outgoing.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    // Nothing in here panics half-way.
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Carrier {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Carrier")
    }
}
