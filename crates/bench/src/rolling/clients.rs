//! The clients of the show: each resumes on its own, from the last id it saw, when it was told to or a little later.
//! One thread and one event loop for all. Knows no server but an address.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use memchr::memmem;
use mio::{Events, Poll, Token};

use crate::clock::Clock;
use crate::fleet::intake::Intake;
use crate::fleet::pipe::Pipe;
use crate::layout::Layout;
use crate::ledger::Faults;
use crate::targets::channel_name;
use crate::wire::{Unit, http, websocket};

const SCRATCH_BYTES: usize = 256 << 10;
/// Buffers read from one connection before others have their turn.
const READS_MAX: usize = 16;
/// Connections begun per turn, so that those that are open are read in between.
const CONNECTS_PER_TURN: usize = 64;
/// A client that was not told when comes back within this; one that was refused, too.
const UNTOLD_MS: u64 = 1_000;
const TURN: Duration = Duration::from_millis(5);

enum Phase {
    /// Away until its time in the heap.
    Away,
    Connecting,
    Head,
    Subscribing,
    Here,
}

struct Client {
    pipe: Option<Pipe>,
    phase: Phase,
    /// The last id that it saw.
    cursor: Option<String>,
    /// When it was told to come back.
    told_ns: Option<u64>,
    /// When it was subscribed again, since [`Clients::begin_returns`].
    back_ns: Option<u64>,
}

pub(super) struct Clients {
    layout: Layout,
    address: SocketAddr,
    poll: Poll,
    events: Events,
    clock: Clock,
    scratch: Vec<u8>,
    intake: Intake,
    clients: Vec<Client>,
    /// Who comes back when, soonest first.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    /// Clients with input left after their turn.
    again: Vec<usize>,
    here: u32,
    back: u32,
    untold: u32,
    retries: u32,
    gaps: u32,
    random: u64,
}

impl Clients {
    pub(super) fn new(layout: Layout, address: SocketAddr) -> Result<Clients> {
        let away = || Client { pipe: None, phase: Phase::Away, cursor: None, told_ns: None, back_ns: None };
        Ok(Clients {
            clients: std::iter::repeat_with(away).take(layout.connections as usize).collect(),
            due: (0..layout.connections as usize).map(|index| Reverse((0, index))).collect(),
            intake: Intake::new(layout, 0)?,
            layout,
            address,
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            clock: Clock::start(),
            scratch: vec![0; SCRATCH_BYTES],
            again: Vec::new(),
            here: 0,
            back: 0,
            untold: 0,
            retries: 0,
            gaps: 0,
            random: 0x9e37_79b9_7f4a_7c15,
        })
    }

    /// The clock that events are stamped by.
    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    pub(super) fn all_here(&self) -> bool {
        self.here == self.layout.connections
    }

    /// Begins to note when each client is subscribed again; the time by the clock.
    pub(super) fn begin_returns(&mut self) -> u64 {
        for client in &mut self.clients {
            client.back_ns = None;
        }
        (self.back, self.untold, self.retries) = (0, 0, 0);
        self.clock.now_ns()
    }

    /// Whether every client went and is back.
    pub(super) fn all_back(&self) -> bool {
        self.back == self.layout.connections && self.all_here()
    }

    pub(super) fn returns(&self) -> Vec<u64> {
        self.clients.iter().filter_map(|client| client.back_ns).collect()
    }

    /// Clients whose connection ended though nobody had told them when to come back.
    pub(super) fn untold(&self) -> u32 {
        self.untold
    }

    /// Attempts to connect that came to nothing.
    pub(super) fn retries(&self) -> u32 {
        self.retries
    }

    /// Gaps that clients were told of.
    pub(super) fn gaps(&self) -> u32 {
        self.gaps
    }

    pub(super) fn deliveries(&self) -> u64 {
        self.intake.tally.deliveries
    }

    pub(super) fn faults(&self, published: &[u32]) -> Faults {
        self.intake.faults(published, |_| true)
    }

    /// Serves all clients until `done` says so.
    pub(super) fn run_until(
        &mut self,
        within: Duration,
        what: &str,
        mut done: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + within;
        while !done(self)? {
            ensure!(
                Instant::now() < deadline,
                "not before {within:?} that {what}: {} of {} clients are here",
                self.here,
                self.layout.connections
            );
            self.turn()?;
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<()> {
        self.connect_due()?;
        let timeout = if self.again.is_empty() { TURN } else { Duration::ZERO };
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        let mut ready = std::mem::take(&mut self.again);
        ready.extend(self.events.iter().map(|event| event.token().0));
        for index in ready {
            self.handle(index)?;
        }
        Ok(())
    }

    fn connect_due(&mut self) -> Result<()> {
        for _ in 0..CONNECTS_PER_TURN {
            let Some(&Reverse((due_ns, index))) = self.due.peek() else { return Ok(()) };
            if due_ns > self.clock.now_ns() {
                return Ok(());
            }
            self.due.pop();
            let pipe = Pipe::connect(self.address, self.poll.registry(), Token(index), false)
                .with_context(|| format!("client {index}"))?;
            let client = &mut self.clients[index];
            client.pipe = Some(pipe);
            client.phase = Phase::Connecting;
        }
        Ok(())
    }

    fn handle(&mut self, index: usize) -> Result<()> {
        // The pipe is out of its client for as long as the client's state changes.
        let Some(mut pipe) = self.clients[index].pipe.take() else { return Ok(()) };
        match self.converse(index, &mut pipe) {
            Ok(Turn::Later) => self.clients[index].pipe = Some(pipe),
            Ok(Turn::More) => {
                self.clients[index].pipe = Some(pipe);
                self.again.push(index);
            }
            Ok(Turn::Ended) => self.leave(index),
            Err(error) if error.is::<std::io::Error>() => self.leave(index),
            Err(error) => return Err(error.context(format!("client {index}"))),
        }
        Ok(())
    }

    /// The connection is over: comes back when it was told to, or a little later.
    fn leave(&mut self, index: usize) {
        let now_ns = self.clock.now_ns();
        let after_ns = self.random() % (UNTOLD_MS * 1_000_000);
        let client = &mut self.clients[index];
        match std::mem::replace(&mut client.phase, Phase::Away) {
            Phase::Here => {
                self.here -= 1;
                self.untold += u32::from(client.told_ns.is_none());
            }
            _ => self.retries += 1,
        }
        let due_ns = client.told_ns.take().unwrap_or(now_ns + after_ns);
        self.due.push(Reverse((due_ns, index)));
    }

    fn converse(&mut self, index: usize, pipe: &mut Pipe) -> Result<Turn> {
        if matches!(self.clients[index].phase, Phase::Connecting) {
            if !pipe.is_connected()? {
                return Ok(Turn::Later);
            }
            pipe.outbox().extend(http::upgrade("bench", "/v1/ws", false));
            self.clients[index].phase = Phase::Head;
        }
        pipe.flush()?;
        for _ in 0..READS_MAX {
            let received = pipe.receive(&mut self.scratch)?;
            // Moved out while it is read, so that the rest can change.
            let scratch = std::mem::take(&mut self.scratch);
            let used = self.consume(index, &scratch[..received.length], pipe);
            self.scratch = scratch;
            let Some(used) = used? else { return Ok(Turn::Ended) };
            pipe.keep(&self.scratch[used..received.length])?;
            pipe.flush()?;
            if received.ended {
                return Ok(Turn::Ended);
            }
            if !received.more {
                return Ok(Turn::Later);
            }
        }
        Ok(Turn::More)
    }

    /// Takes what is whole off `input`: how many bytes, or nothing if the other side refuses.
    fn consume(&mut self, index: usize, input: &[u8], pipe: &mut Pipe) -> Result<Option<usize>> {
        let mut used = 0;
        if matches!(self.clients[index].phase, Phase::Head) {
            let Some(head) = http::head(input)? else { return Ok(Some(0)) };
            match head.status {
                101 => {}
                // The proxy has no server, or a server goes.
                502..=504 => return Ok(None),
                status => bail!("status {status}: {}", String::from_utf8_lossy(&input[head.length..])),
            }
            used = head.length;
            self.subscribe(index, pipe);
        }
        while let Some((unit, length)) = websocket::cut(&input[used..])? {
            used += length;
            match unit {
                Unit::Message { data, .. } => self.hear(index, data, length)?,
                Unit::Ping(data) => websocket::write_pong(pipe.outbox(), data),
                Unit::Close(_) => return Ok(None),
                Unit::Nothing => {}
            }
        }
        Ok(Some(used))
    }

    fn subscribe(&mut self, index: usize, pipe: &mut Pipe) {
        let client = &mut self.clients[index];
        client.phase = Phase::Subscribing;
        let since =
            client.cursor.as_ref().map(|cursor| format!(",\"since\":\"{cursor}\"")).unwrap_or_default();
        let name = channel_name(self.layout.channels_of(index as u32).start);
        let message = format!("{{\"type\":\"subscribe\",\"channel\":\"{name}\"{since}}}");
        websocket::write_text(pipe.outbox(), message.as_bytes());
    }

    fn hear(&mut self, index: usize, message: &[u8], wire_bytes: usize) -> Result<()> {
        let now_ns = self.clock.now_ns();
        let client = &mut self.clients[index];
        if self.intake.enter(index as u32, message, wire_bytes, now_ns) {
            let id = field(message, b"\"id\":\"").context("an event without an id")?;
            let cursor = client.cursor.get_or_insert_default();
            cursor.clear();
            cursor.push_str(id);
        } else if message.starts_with(b"{\"type\":\"subscribed\"") {
            if client.cursor.is_none() {
                client.cursor = field(message, b"\"cursor\":\"").map(str::to_owned);
            }
            client.phase = Phase::Here;
            self.here += 1;
            self.back += u32::from(client.back_ns.replace(now_ns).is_none());
        } else if message.starts_with(b"{\"type\":\"reconnect\"") {
            let after_ms = delay_ms(message).context("a reconnect message without a delay")?;
            client.told_ns = Some(now_ns + after_ms * 1_000_000);
        } else if message.starts_with(b"{\"type\":\"gap\"") {
            self.gaps += 1;
        } else if message.starts_with(b"{\"type\":\"error\"") {
            bail!("the server said {}", String::from_utf8_lossy(message));
        }
        Ok(())
    }

    /// xorshift64: delays need not be unpredictable.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

enum Turn {
    /// All that was there is read.
    Later,
    More,
    Ended,
}

/// The text of the first field of that name; ids and cursors have nothing in them to unescape.
fn field<'a>(message: &'a [u8], name: &[u8]) -> Option<&'a str> {
    let start = memmem::find(message, name)? + name.len();
    let length = memchr::memchr(b'"', &message[start..])?;
    std::str::from_utf8(&message[start..start + length]).ok()
}

/// The first number of `"after_ms":[a,b]`; a drain gives each client one of its own, so both are the same.
fn delay_ms(message: &[u8]) -> Option<u64> {
    let message: serde_json::Value = serde_json::from_slice(message).ok()?;
    message["after_ms"][0].as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_delays_are_found() {
        let event = br#"{"type":"event","channel":"a","id":"0123-7","data":{"id":"no"}}"#;
        assert_eq!(field(event, b"\"id\":\""), Some("0123-7"));
        assert_eq!(delay_ms(br#"{"type":"reconnect","after_ms":[2500,2500],"reason":"drain"}"#), Some(2500));
        assert_eq!(delay_ms(b"{}"), None);
    }
}
