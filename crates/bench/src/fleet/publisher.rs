//! Publishes on its own connections: by the clock (open loop) or as fast as a window allows.
//! Its acknowledgements are counted in order; it knows nothing of who receives the events.

use std::collections::VecDeque;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use mio::{Registry, Token};

use super::intake::latency_histogram;
use super::pipe::Pipe;
use crate::layout::Layout;
use crate::payload::{Payload, Stamp};
use crate::targets::{Dialect, Event, Heard, Seat, Transport, Via};
use crate::wire::{Framing, Unit, http, websocket};

/// Unsent bytes at which a window stops to fill a line.
const OUTBOX_BYTES_MAX: usize = 256 << 10;

pub(crate) struct Publisher {
    pub(crate) via: Via,
    pub(crate) lines: Vec<Line>,
    payload: Payload,
    /// Events published so far, by channel.
    pub(crate) sequences: Vec<u32>,
    next_channel: u32,
    pub(crate) published: u64,
    pub(crate) acknowledged: u64,
    /// From the intended time to the acknowledgement.
    pub(crate) latency_ns: Histogram<u64>,
}

/// One connection that publishes.
pub(crate) struct Line {
    pipe: Pipe,
    phase: Phase,
    /// When each publish not yet acknowledged was due.
    in_flight: VecDeque<u64>,
    dirty: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    Head,
    Open,
}

impl Publisher {
    pub(crate) fn new(via: Via, payload_bytes: usize, channels: u32) -> Result<Publisher> {
        Ok(Publisher {
            via,
            lines: Vec::new(),
            payload: Payload::new(payload_bytes)?,
            sequences: vec![0; channels as usize],
            next_channel: 0,
            published: 0,
            acknowledged: 0,
            latency_ns: latency_histogram()?,
        })
    }

    pub(crate) fn add_line(&mut self, address: SocketAddr, registry: &Registry, token: Token) -> Result<()> {
        let pipe = Pipe::connect(address, registry, token, false)?;
        self.lines.push(Line { pipe, phase: Phase::Connecting, in_flight: VecDeque::new(), dirty: false });
        Ok(())
    }

    pub(crate) fn is_open(&self) -> bool {
        self.lines.iter().all(|line| line.phase == Phase::Open)
    }

    /// Publishes not yet acknowledged.
    pub(crate) fn in_flight(&self) -> usize {
        self.lines.iter().map(|line| line.in_flight.len()).sum()
    }

    /// The channel that is next in turn, and its event's stamped data.
    pub(crate) fn next_event(&mut self, due_ns: u64) -> (u32, &[u8]) {
        let channel = self.next_channel;
        self.next_channel = (channel + 1) % self.sequences.len().max(1) as u32;
        let sequence = self.sequences[channel as usize];
        self.sequences[channel as usize] += 1;
        self.published += 1;
        (channel, self.payload.stamped(Stamp { channel, sequence, due_ns }))
    }

    /// Queues one event on the line of its channel; [`Publisher::flush`] sends it.
    ///
    /// A channel keeps to one line, as events on two connections have no order.
    pub(crate) fn publish(&mut self, dialect: &dyn Dialect, layout: Layout, due_ns: u64) {
        let via = self.via;
        let line = self.next_channel as usize % self.lines.len();
        // Taken out while the payload is borrowed, and put back with what was added.
        let mut out = std::mem::take(self.lines[line].pipe.outbox());
        let (channel, data) = self.next_event(due_ns);
        dialect.write_publish(via, &Event { channel, audience: layout.audience(channel), data }, &mut out);
        let line = &mut self.lines[line];
        *line.pipe.outbox() = out;
        line.in_flight.push_back(due_ns);
        line.dirty = true;
    }

    /// True if the line of the next channel may have another publish under way.
    pub(crate) fn has_room(&mut self, unacknowledged_max: usize) -> bool {
        let line = self.next_channel as usize % self.lines.len();
        let line = &mut self.lines[line];
        line.in_flight.len() < unacknowledged_max && line.pipe.outbox().len() < OUTBOX_BYTES_MAX
    }

    /// Moves on to the next channel without publishing, so that one slow line does not hold up the others.
    pub(crate) fn skip(&mut self) {
        self.next_channel = (self.next_channel + 1) % self.sequences.len().max(1) as u32;
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        for line in self.lines.iter_mut().filter(|line| line.dirty) {
            line.dirty = false;
            line.pipe.flush().context("the publisher's connection")?;
        }
        Ok(())
    }

    /// Handles readiness of one line.
    pub(crate) fn handle(
        &mut self,
        line: usize,
        dialect: &dyn Dialect,
        scratch: &mut [u8],
        now_ns: u64,
    ) -> Result<()> {
        let Publisher { via, lines, latency_ns, acknowledged, .. } = self;
        let line = &mut lines[line];
        if line.phase == Phase::Connecting {
            if !line.pipe.is_connected().context("cannot connect to publish")? {
                return Ok(());
            }
            line.pipe.outbox().extend(dialect.publish_opening(*via)?);
            let shakes_hands = *via == Via::Ws && !dialect.acknowledges_by_byte();
            line.phase = if shakes_hands { Phase::Head } else { Phase::Open };
        }
        line.pipe.flush().context("the publisher's connection")?;
        // A publisher's answers are small; two buffers full at one readiness are already many.
        for _ in 0..64 {
            let received = line.pipe.receive(scratch)?;
            let input = &scratch[..received.length];
            let (used, answers) = line.answers(input, *via, dialect)?;
            line.pipe.keep(&input[used..])?;
            for _ in 0..answers {
                let due_ns = line.in_flight.pop_front().context("more acknowledgements than publishes")?;
                latency_ns.saturating_record(now_ns.saturating_sub(due_ns));
            }
            *acknowledged += answers;
            ensure!(!received.ended, "the server closed a publisher's connection");
            if !received.more {
                break;
            }
        }
        Ok(())
    }
}

impl Line {
    /// How many bytes of `input` were used, and how many publishes they acknowledge.
    fn answers(&mut self, input: &[u8], via: Via, dialect: &dyn Dialect) -> Result<(usize, u64)> {
        if dialect.acknowledges_by_byte() {
            return Ok((input.len(), input.len() as u64));
        }
        let mut used = 0;
        let mut answers = 0;
        if via == Via::Http {
            while let Some((response, length)) = http::cut_response(&input[used..])? {
                used += length;
                answers += 1;
                if !(200..300).contains(&response.status) {
                    bail!("a publish got {}: {}", response.status, String::from_utf8_lossy(response.body));
                }
            }
            return Ok((used, answers));
        }
        if self.phase == Phase::Head {
            let Some(head) = http::head(input)? else { return Ok((0, 0)) };
            ensure!(head.status == 101, "status {} in place of 101 for a publisher", head.status);
            used = head.length;
            self.phase = Phase::Open;
        }
        let seat = Seat { index: 0, channels: 0..0, transport: Transport::Ws, deflate: false, since: None };
        while let Some((unit, length)) = Framing::WebSocket.cut(&input[used..])? {
            used += length;
            match unit {
                Unit::Message { data, .. } => {
                    answers += u64::from(dialect.hear(&seat, data, self.pipe.outbox())? == Heard::Published);
                }
                Unit::Ping(data) => websocket::write_pong(self.pipe.outbox(), data),
                Unit::Close(code) => bail!("the server closed a publisher's connection with {code}"),
                Unit::Nothing => {}
            }
        }
        self.pipe.flush()?;
        Ok((used, answers))
    }
}
