//! One subscriber: connect, handshake, greeting, then events. A small state machine over a pipe.
//! What messages mean is the dialect's affair, what events mean the intake's.

use anyhow::{Context, Result, bail, ensure};

use super::intake::Intake;
use super::pipe::Pipe;
use crate::clock::Clock;
use crate::targets::{Dialect, Heard, Seat};
use crate::wire::deflate::Inflater;
use crate::wire::{Framing, Unit, http, websocket};

/// Full buffers read at one readiness before others get their turn.
const READS_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// TCP is being set up.
    Connecting,
    /// The response head is awaited.
    Head,
    /// Replies to the greeting are awaited.
    Greeting,
    /// Events come.
    Ready,
    /// It is over, with the close code if one was sent.
    Closed(Option<u16>),
}

pub(crate) struct Subscriber {
    pub(crate) pipe: Pipe,
    pub(crate) phase: Phase,
    replies_awaited: u32,
    close_code: Option<u16>,
}

/// What all subscribers use in turn.
pub(crate) struct Shared {
    pub(crate) scratch: Vec<u8>,
    pub(crate) intake: Intake,
    pub(crate) inflater: Inflater,
    pub(crate) clock: Clock,
    /// Publishes acknowledged on subscribers' own connections.
    pub(crate) acknowledged: u64,
}

impl Subscriber {
    pub(crate) fn new(pipe: Pipe) -> Subscriber {
        Subscriber { pipe, phase: Phase::Connecting, replies_awaited: 0, close_code: None }
    }

    /// Handles readiness; true if there may be more to read.
    pub(crate) fn handle(
        &mut self,
        seat: &Seat<'_>,
        dialect: &dyn Dialect,
        shared: &mut Shared,
        read_closed: bool,
    ) -> Result<bool> {
        if self.phase == Phase::Connecting && !self.open(seat, dialect)? {
            return Ok(false);
        }
        self.pipe.flush().or_else(ignore_reset)?;
        for _ in 0..READS_MAX {
            let received = self.pipe.receive(&mut shared.scratch)?;
            let now_ns = shared.clock.now_ns();
            // Moved out while it is read, so that the rest of what is shared can change.
            let scratch = std::mem::take(&mut shared.scratch);
            let used = self.consume(&scratch[..received.length], seat, dialect, shared, now_ns);
            shared.scratch = scratch;
            self.pipe.keep(&shared.scratch[used?..received.length])?;
            if received.ended {
                self.phase = Phase::Closed(self.close_code);
                return Ok(false);
            }
            if !received.more && !read_closed {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn open(&mut self, seat: &Seat<'_>, dialect: &dyn Dialect) -> Result<bool> {
        if !self.pipe.is_connected().context("cannot connect")? {
            return Ok(false);
        }
        let opening = dialect.opening(seat);
        self.pipe.outbox().extend(opening);
        self.phase = match dialect.framing(seat) {
            Framing::WebSocket | Framing::Sse => Phase::Head,
            Framing::BareWebSocket | Framing::Poll => {
                self.replies_awaited = 1;
                Phase::Greeting
            }
        };
        Ok(true)
    }

    /// Takes whole messages off `input`; returns how many bytes they had.
    fn consume(
        &mut self,
        input: &[u8],
        seat: &Seat<'_>,
        dialect: &dyn Dialect,
        shared: &mut Shared,
        now_ns: u64,
    ) -> Result<usize> {
        let framing = dialect.framing(seat);
        let mut used = 0;
        if self.phase == Phase::Head {
            let Some(head) = http::head(input)? else { return Ok(0) };
            check_head(&head, framing, seat.deflate, &input[head.length..])?;
            used = head.length;
            self.replies_awaited = dialect.greet(seat, self.pipe.outbox());
            self.phase = Phase::Greeting;
        }
        while let Some((unit, length)) = framing.cut(&input[used..])? {
            used += length;
            match unit {
                Unit::Message { data, compressed } => {
                    let Shared { intake, inflater, .. } = shared;
                    let data = if compressed { inflater.inflate(data)? } else { data };
                    let has_events = intake.enter(seat.index, data, length, now_ns);
                    if !has_events || framing == Framing::Poll {
                        match dialect.hear(seat, data, self.pipe.outbox())? {
                            Heard::Reply => self.replies_awaited = self.replies_awaited.saturating_sub(1),
                            Heard::Published => shared.acknowledged += 1,
                            Heard::Nothing => {}
                        }
                    }
                }
                Unit::Ping(data) => websocket::write_pong(self.pipe.outbox(), data),
                Unit::Close(code) => self.close_code = Some(code),
                Unit::Nothing => {}
            }
        }
        if self.phase == Phase::Greeting && self.replies_awaited == 0 {
            self.phase = Phase::Ready;
        }
        self.pipe.flush().or_else(ignore_reset)?;
        Ok(used)
    }
}

/// A write to a connection that is gone: the read that follows says so in its own way.
fn ignore_reset(error: std::io::Error) -> std::io::Result<()> {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset => Ok(()),
        _ => Err(error),
    }
}

fn check_head(head: &http::Head, framing: Framing, deflate: bool, body: &[u8]) -> Result<()> {
    let expected = if framing == Framing::WebSocket { 101 } else { 200 };
    if head.status != expected {
        bail!("status {} in place of {expected}: {}", head.status, String::from_utf8_lossy(body));
    }
    ensure!(!head.chunked, "the stream is chunked, which this generator does not read");
    if framing == Framing::WebSocket {
        let accept = head.accept.as_deref().unwrap_or("");
        ensure!(accept == websocket::ACCEPT, "Sec-WebSocket-Accept is {accept:?}");
        let extensions = head.extensions.as_deref().unwrap_or("");
        ensure!(deflate == extensions.contains("permessage-deflate"), "extensions are {extensions:?}");
        let bound = !deflate || extensions.contains("server_no_context_takeover");
        ensure!(bound, "the server keeps its compression context: {extensions:?}");
    }
    Ok(())
}
