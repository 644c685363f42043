//! A shard: one thread, one epoll, and the connections that live and die on it.
//!
//! A connection never moves and no lock is held while writing to sockets. Other threads speak to a shard
//! through its inbox only. Must not know what routes mean (`requests`) or what is in a log (`hub`).

mod admin;
mod application;
mod channels;
mod commits;
mod connection;
mod event_stream;
mod fanout;
mod follow;
mod http2;
mod inbox;
mod leases;
mod life;
mod listing;
mod long_poll;
mod look;
mod presence;
mod pump;
mod raw;
mod replay;
mod requests;
mod snapshots;
mod subscriptions;
mod survey;
mod timers;
mod turn;
mod upload;
mod visitors;
mod watch;
mod websocket;
mod wheel;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};
use slab::Slab;
use tidewire_core::websocket::{Deflater, Inflater};
use tidewire_core::{ChannelName, Event};

use crate::access::Access;
use crate::clock::{Clock, ms_of};
use crate::hub::Hub;
use crate::listener::{Accepted, EXHAUSTED_PAUSE_MS, Listener, Waiting};
use crate::metrics::{ShardCounters, Transport};
use crate::operators::{self, Operators};
use crate::presence::Presence;
use crate::server::Gauges;
use crate::settings::Settings;
pub(crate) use admin::heed;
use channels::LocalChannel;
use commits::{Awaited, PausedBy};
use connection::{Connection, Goodbye, Protocol};
use http2::Woken;
pub(crate) use inbox::{Inbox, Message};
pub(crate) use look::{Look, Talker};
use pump::Mark;
use watch::Rates;
use wheel::Wheel;

const WAKE: Token = Token(usize::MAX);
const LISTENER: Token = Token(usize::MAX - 1);
/// How long one that cannot stay may take to ask why.
const REFUSAL_MS: u64 = 2_000;
/// How often to accept some more of those who wait, before the port is closed: as many as its queue holds.
const ACCEPTS_AT_END: usize = 256;
/// How much is read from a socket at once.
const READ_BYTES: usize = 64 << 10;
/// The most readiness events handled before the fan-out has its turn.
const EVENTS: usize = 1024;
/// The buffer for a turn's output gives memory back beyond this.
const OUT_BYTES_KEPT: usize = 1 << 20;
/// While publishers are held back, how often to look whether the fan-out caught up.
const PAUSE: Duration = Duration::from_millis(1);
/// While only those who watch are left, how often to look whether they are the last.
const WATCHERS_PAUSE: Duration = Duration::from_millis(20);

/// What all shards share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) hub: Arc<Hub>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) access: Arc<Access>,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) operators: Arc<Operators>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) clock: Clock,
}

/// One shard. Made on its own thread by [`Shard::run`].
pub(crate) struct Shard {
    index: u16,
    poll: Poll,
    inbox: Arc<Inbox>,
    hub: Arc<Hub>,
    settings: Arc<Settings>,
    access: Arc<Access>,
    rates: Rates,
    gauges: Arc<Gauges>,
    operators: Arc<Operators>,
    presence: Arc<Presence>,
    counters: Arc<ShardCounters>,
    clock: Clock,
    now_ms: u64,
    /// Up to when the time that it had something to do is counted.
    busy_since_us: u64,
    /// One shard has them.
    listeners: Vec<Listener>,
    /// When to accept those who wait, if any do.
    accept_at_ms: Option<u64>,
    connections: Slab<Connection>,
    channels: Slab<LocalChannel>,
    by_name: HashMap<ChannelName, u32>,
    /// Channels with events to fan out.
    dirty: VecDeque<u32>,
    /// Connections with something to do.
    ready: VecDeque<u32>,
    /// Connections with history to get, which wait behind all others.
    replaying: VecDeque<u32>,
    /// Publishers that are too fast.
    paused: Vec<(u32, PausedBy)>,
    /// Publishers that wait for the disk.
    awaited: Slab<Awaited>,
    /// The serial number of the next connection.
    serial: u32,
    wheel: Wheel,
    scratch: Vec<u8>,
    /// The output of the connection whose turn it is.
    out: Vec<u8>,
    marks: Vec<Mark>,
    events: Vec<Arc<Event>>,
    deflater: Deflater,
    inflater: Inflater,
    stopping: bool,
    /// When whatever is still open is cut, once it is stopping.
    stops_ms: u64,
    /// How many clients were told to come back.
    goodbyes: u64,
    /// Streams of statistics that are told last, with their serial numbers.
    watchers: Vec<(u32, u32)>,
    woken: Arc<Woken>,
}

/// Makes a shard's poll and inbox, before its thread exists, so that the hub can know all inboxes.
pub(crate) fn prepare() -> io::Result<(Poll, Arc<Inbox>)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKE)?;
    Ok((poll, Arc::new(Inbox::new(waker))))
}

impl Shard {
    pub(crate) fn new(index: u16, poll: Poll, inbox: Arc<Inbox>, shared: &Shared) -> Self {
        let now_us = shared.clock.now_us();
        let now_ms = ms_of(now_us);
        Self {
            index,
            poll,
            inbox,
            hub: Arc::clone(&shared.hub),
            settings: Arc::clone(&shared.settings),
            access: Arc::clone(&shared.access),
            rates: Rates::new(&shared.settings.limits),
            gauges: Arc::clone(&shared.gauges),
            operators: Arc::clone(&shared.operators),
            presence: Arc::clone(&shared.presence),
            counters: Arc::clone(&shared.gauges.shards[usize::from(index)]),
            clock: shared.clock,
            now_ms,
            busy_since_us: now_us,
            listeners: Vec::new(),
            accept_at_ms: None,
            connections: Slab::new(),
            channels: Slab::new(),
            by_name: HashMap::new(),
            dirty: VecDeque::new(),
            ready: VecDeque::new(),
            replaying: VecDeque::new(),
            paused: Vec::new(),
            awaited: Slab::new(),
            serial: 0,
            wheel: Wheel::new(now_ms),
            scratch: vec![0; READ_BYTES],
            out: Vec::new(),
            marks: Vec::new(),
            events: Vec::new(),
            deflater: Deflater::default(),
            inflater: Inflater::default(),
            stopping: false,
            stops_ms: u64::MAX,
            goodbyes: 0,
            watchers: Vec::new(),
            woken: Arc::default(),
        }
    }

    /// From now on this shard accepts connections for all.
    ///
    /// # Errors
    /// If the operating system's poll does not take the socket.
    pub(crate) fn listen(&mut self, mut listener: Listener) -> io::Result<()> {
        listener.register(self.poll.registry(), LISTENER)?;
        self.listeners.push(listener);
        Ok(())
    }

    /// Serves until told to stop and all connections are gone.
    ///
    /// # Errors
    /// Only if the operating system's poll fails, which no peer can cause.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        let mut messages = Vec::new();
        while !(self.stopping && (self.connections.is_empty() || self.now_ms >= self.stops_ms)) {
            self.queue_woken();
            let timeout = self.sleep_for();
            let sleeps = timeout != Some(Duration::ZERO);
            if sleeps {
                self.note_busy(self.clock.now_us());
            }
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => self.inbox.wake_up(),
            }
            let now_us = self.clock.now_us();
            if sleeps {
                self.busy_since_us = now_us
            } else {
                self.note_busy(now_us)
            }
            self.now_ms = ms_of(now_us);
            for event in &events {
                match event.token() {
                    WAKE => {}
                    LISTENER => self.accept_at_ms = Some(self.now_ms),
                    Token(id) => self.handle_readiness(id as u32, event),
                }
            }
            self.accept_waiting();
            self.resume_paused();
            self.take_turns();
            self.replay();
            self.inbox.drain_into(&mut messages);
            messages.drain(..).for_each(|message| self.handle_message(message));
            self.fan_out_dirty();
            self.fire_timers();
            self.dismiss_watchers();
        }
        Ok(())
    }

    fn sleep_for(&self) -> Option<Duration> {
        let idle = self.dirty.is_empty() && self.ready.is_empty() && self.replaying.is_empty();
        if !idle || !self.inbox.fall_asleep() {
            return Some(Duration::ZERO);
        }
        let stops_ms = Some(self.stops_ms).filter(|_| self.stopping);
        let due_ms = self.wheel.next_due_ms().into_iter().chain(self.accept_at_ms).chain(stops_ms).min();
        if !self.watchers.is_empty() {
            // Nobody tells a shard that another's connections are gone.
            return Some(WATCHERS_PAUSE);
        }
        let timer = due_ms.map(|due_ms| Duration::from_millis(due_ms.saturating_sub(self.clock.now_ms())));
        if self.paused.is_empty() { timer } else { Some(timer.map_or(PAUSE, |timer| timer.min(PAUSE))) }
    }

    /// The shard had something to do until now.
    fn note_busy(&mut self, now_us: u64) {
        self.counters.busy_us.add(now_us - self.busy_since_us);
        self.busy_since_us = now_us;
    }

    fn accept_waiting(&mut self) {
        if self.accept_at_ms.is_none_or(|at_ms| at_ms > self.now_ms) {
            return;
        }
        let mut own = Vec::new();
        self.accept_at_ms = None;
        for listener in &mut self.listeners {
            let again_ms = match listener.accept(&mut own) {
                Waiting::Nobody => None,
                Waiting::Others => Some(self.now_ms),
                Waiting::Exhausted => Some(self.now_ms + EXHAUSTED_PAUSE_MS),
            };
            self.accept_at_ms = self.accept_at_ms.max(again_ms);
        }
        own.into_iter().for_each(|accepted| self.accept(accepted));
    }

    fn handle_readiness(&mut self, id: u32, event: &mio::event::Event) {
        let Some(connection) = self.connections.get_mut(id as usize) else { return };
        // A broken connection is found out by writing to it.
        if event.is_writable() || event.is_write_closed() || event.is_error() {
            connection.blocked = false;
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            connection.unread = true;
            connection.end_announced |= event.is_read_closed() || event.is_error();
        }
        self.queue(id);
    }

    fn handle_message(&mut self, message: Message) {
        match message {
            Message::Connection(accepted) => self.accept(accepted),
            Message::Dirty(number) => self.handle_dirty(number),
            Message::Committed(completions) => self.handle_committed(completions),
            Message::Decided { connection, serial, verdict } => {
                self.handle_decided(connection, serial, verdict);
            }
            Message::Followed { connection, serial, outcome } => {
                self.handle_followed(connection, serial, outcome);
            }
            Message::Announced { connection, serial, outcome } => {
                self.handle_announced(connection, serial, outcome);
            }
            Message::Spent { connection, serial, outcome } => self.handle_spent(connection, serial, outcome),
            Message::Expel { connection, serial, why } => self.handle_expulsion(connection, serial, why),
            Message::Loaded(loaded) => self.handle_loaded(loaded),
            Message::Survey { shard, connection, serial } => self.handle_survey(shard, connection, serial),
            Message::Look(look) => self.handle_look(look),
            Message::Listed { connection, serial, listed } => self.handle_listed(connection, serial, listed),
            Message::Stop => self.stop(),
        }
    }

    fn accept(&mut self, accepted: Accepted) {
        let Accepted { socket, address, on_admin_port, admission, refused } = accepted;
        let client = address.ip().to_canonical();
        let head_timeout_ms = self.settings.limits.head_timeout_ms;
        // One that cannot stay must be quick to ask why.
        let patience_ms = if refused.is_some() { head_timeout_ms.min(REFUSAL_MS) } else { head_timeout_ms };
        let deadline_ms = self.now_ms + patience_ms;
        let entry = self.connections.vacant_entry();
        let id = entry.key();
        self.serial = self.serial.wrapping_add(1);
        let connection = entry.insert(Connection::new(socket, client, self.serial, self.now_ms, deadline_ms));
        if connection.socket.register(self.poll.registry(), Token(id)).is_err() {
            self.close(id as u32);
            return;
        }
        self.counters.open(Transport::Http);
        self.log_accepted(id as u32, address);
        self.watch(id as u32, admission, refused);
        let proxies = &self.settings.access.proxies;
        self.connections[id].expects_proxy =
            proxies.proxy_protocol && proxies.trusts(client) && !on_admin_port;
        self.connections[id].on_admin_port = on_admin_port;
        self.arm_at(id as u32, deadline_ms);
    }

    /// Queues a connection for a turn.
    fn queue(&mut self, id: u32) {
        let Some(connection) = self.connections.get_mut(id as usize) else { return };
        if !std::mem::replace(&mut connection.queued, true) {
            self.ready.push_back(id);
        }
    }

    /// Gives each queued connection a turn; those queued meanwhile come next time.
    fn take_turns(&mut self) {
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else { return };
            if let Some(connection) = self.connections.get_mut(id as usize) {
                connection.queued = false;
                self.turn(id);
            }
        }
    }

    /// Ends a connection orderly: the goodbye is sent after what is pending, then our side is shut down, and
    /// the peer has some time to do the same.
    fn start_closing(&mut self, id: u32, Goodbye { last, code }: Goodbye) {
        self.unsubscribe_all(id);
        let deadline_ms = self.now_ms + self.settings.limits.close_timeout_ms;
        let Some(connection) = self.connections.get_mut(id as usize) else { return };
        self.counters.change(connection.protocol.transport(), Transport::Http);
        connection.record.code = code.0;
        connection.protocol = Protocol::Closing { deadline_ms, shut: false };
        connection.input = Vec::new();
        if connection.pending.is_empty() {
            connection.pending = last;
        } else if !last.is_empty() {
            connection.pending = [&connection.pending[..], &last[..]].concat().into();
        }
        self.arm_at(id, deadline_ms);
        self.continue_closing(id);
    }

    fn continue_closing(&mut self, id: u32) {
        let connection = &mut self.connections[id as usize];
        let Some(written) = connection.write_pending() else { return self.close(id) };
        self.counters.add_written(written);
        let connection = &mut self.connections[id as usize];
        if !connection.is_free() {
            return;
        }
        let Protocol::Closing { shut, .. } = &mut connection.protocol else { return };
        let first = !std::mem::replace(shut, true);
        if first {
            connection.socket.shut_down();
        }
        if connection.ended {
            self.close(id);
        } else if first {
            // Whatever lies unread would turn the end into a reset, and the answer might be lost with it.
            connection.unread = true;
            self.queue(id);
        }
    }

    /// Ends a connection at once.
    fn close(&mut self, id: u32) {
        self.unsubscribe_all(id);
        // Dropping the socket takes it out of the poll.
        let Some(connection) = self.connections.try_remove(id as usize) else { return };
        self.paused.retain(|(paused, _)| *paused != id);
        self.counters.close(connection.protocol.transport());
        self.note_gone(id, &connection);
        self.log_closed(&connection);
        self.gauges.connections.fetch_sub(1, Relaxed);
        if self.connections.is_empty() {
            self.connections.shrink_to_fit();
        }
    }

    /// Tells all clients that the server goes away, and closes them.
    fn stop(&mut self) {
        self.stopping = true;
        self.stops_ms = self.now_ms + self.settings.limits.drain_timeout_ms;
        // Whoever waits to be accepted would be cut without a word when the port closes.
        self.accept_at_ms = Some(self.now_ms);
        for _ in 0..ACCEPTS_AT_END {
            self.accept_waiting();
        }
        for listener in std::mem::take(&mut self.listeners) {
            listener.close();
        }
        let ids: Vec<u32> = self.connections.iter().map(|(id, _)| id as u32).collect();
        for id in ids {
            if self.watches_server(id) {
                self.watchers.push((id, self.connections[id as usize].serial));
                self.gauges.watchers.fetch_add(1, Relaxed);
                continue;
            }
            self.say_goodbye(id);
            self.discard_output();
        }
    }

    /// Those who watch the server go away see it to the end: they are told last, when nobody else is left.
    fn dismiss_watchers(&mut self) {
        let left = self.gauges.connections.load(Relaxed);
        if self.watchers.is_empty() || left > self.gauges.watchers.load(Relaxed) {
            return;
        }
        for (id, serial) in std::mem::take(&mut self.watchers) {
            if self.connections.get(id as usize).is_some_and(|connection| connection.serial == serial) {
                self.say_goodbye(id);
                self.discard_output();
            }
        }
    }

    /// Whether a connection is a stream of the server's own statistics, and nothing else.
    fn watches_server(&self, id: u32) -> bool {
        let connection = &self.connections[id as usize];
        let [subscription] = connection.subscriptions.as_slice() else { return false };
        // One over HTTP/2 would keep the connection that carries it, and the two wait for each other.
        matches!(connection.protocol, Protocol::EventStream { .. })
            && connection.socket.carrier().is_none()
            && self.channels[subscription.channel as usize].channel.name().as_str() == operators::CHANNEL
    }
}
