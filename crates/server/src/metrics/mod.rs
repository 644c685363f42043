//! What is counted. Each shard counts for itself, so counting costs no contention; whoever scrapes adds it up
//! (`exposition`). Must never be told apart by channel or user.

mod brief;
mod exposition;
mod histogram;
mod page;
mod process;
mod statistics;

use std::sync::atomic::{AtomicU64, Ordering};

use tidewire_core::{Code, Problem};

pub(crate) use brief::{Brief, Glance, brief, together};
pub(crate) use exposition::{Sources, exposition};
pub(crate) use histogram::Histogram;
pub(crate) use statistics::{Seen, statistics};

/// The content type of the exposition.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The limits whose overruns are counted, by their names in the configuration.
const LIMITS: [&str; 9] = [
    "tickets",
    "connections_per_ip",
    "attempts_per_ip_per_minute",
    "connections_per_user",
    "subscriptions_per_user",
    "messages_per_second",
    "message_bytes_per_second",
    "user_messages_per_second",
    "user_message_bytes_per_second",
];

/// What a connection is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Http,
    LongPoll,
    EventStream,
    WebSocket,
}

const TRANSPORTS: [(Transport, &str); 4] = [
    (Transport::Http, "http"),
    (Transport::LongPoll, "long_poll"),
    (Transport::EventStream, "sse"),
    (Transport::WebSocket, "websocket"),
];

impl Transport {
    pub(crate) fn as_str(self) -> &'static str {
        TRANSPORTS[self as usize].1
    }
}

/// Why a subscriber is closed as a slow one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slow {
    /// It is `limits.lag_events` behind.
    Lag,
    /// Its socket took nothing for `limits.stall_timeout_ms`.
    Stall,
    /// What it needs next is no longer retained.
    Evicted,
}

const SLOW: [(Slow, &str); 3] = [(Slow::Lag, "lag"), (Slow::Stall, "stall"), (Slow::Evicted, "evicted")];

/// The queues of a shard.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Queue {
    /// Channels with events to fan out.
    Fanout,
    /// Connections with something to do.
    Turns,
    /// Connections with history to get.
    Replay,
    /// Publishers that are held back.
    Paused,
    /// Publishes that wait for the disk.
    Disk,
}

const QUEUES: [(Queue, &str); 5] = [
    (Queue::Fanout, "fanout"),
    (Queue::Turns, "turns"),
    (Queue::Replay, "replay"),
    (Queue::Paused, "paused"),
    (Queue::Disk, "disk"),
];

/// A number that only its shard changes.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds without a locked instruction: nobody else writes.
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.get().wrapping_add(more), Ordering::Relaxed);
    }

    fn subtract(&self, less: u64) {
        self.0.store(self.get().wrapping_sub(less), Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one shard counts. On cache lines of its own (two, as they are fetched in pairs): another shard's counting
/// must not take them away.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct ShardCounters {
    connections: [Counter; 4],
    opened: Counter,
    pub(crate) requests: Counter,
    published: Counter,
    repeated: Counter,
    delivered: [Counter; 4],
    pub(crate) read_bytes: Counter,
    written_bytes: Counter,
    /// From when the oldest event of a batch was accepted to when the batch was written to all groups.
    pub(crate) delivery: Histogram,
    pub(crate) gaps: Counter,
    slow: [Counter; 3],
    pub(crate) silent: Counter,
    refused: PerCode,
    limited: [Counter; LIMITS.len()],
    pub(crate) busy_us: Counter,
    pub(crate) survey: Survey,
}

/// A count for each code.
#[derive(Debug)]
struct PerCode([Counter; Code::ALL.len()]);

impl Default for PerCode {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

/// What a shard knows only by looking, as of its last look.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Until when it need not look again.
    pub(crate) fresh_until_ms: Counter,
    pub(crate) subscriptions: Counter,
    /// Subscriptions that have yet to get something.
    pub(crate) behind: Counter,
    /// By how many events the furthest of them is.
    pub(crate) lag_events: Counter,
    queues: [Counter; 5],
}

impl Survey {
    pub(crate) fn set_queue(&self, queue: Queue, length: usize) {
        self.queues[queue as usize].set(length as u64);
    }
}

impl ShardCounters {
    /// A request or message was refused.
    pub(crate) fn note_refused(&self, problem: &Problem) {
        self.note_code(problem.code);
        let limit = problem.limited.and_then(|limited| LIMITS.iter().position(|name| *name == limited.limit));
        if let Some(limit) = limit {
            self.limited[limit].add(1);
        }
    }

    /// As [`Self::note_refused`] for what has no more to say than its code.
    pub(crate) fn note_code(&self, code: Code) {
        self.refused.0[code as usize].add(1);
    }

    pub(crate) fn open(&self, transport: Transport) {
        self.opened.add(1);
        self.connections[transport as usize].add(1);
    }

    pub(crate) fn close(&self, transport: Transport) {
        self.connections[transport as usize].subtract(1);
    }

    pub(crate) fn change(&self, from: Transport, to: Transport) {
        self.close(from);
        self.connections[to as usize].add(1);
    }

    pub(crate) fn add_delivered(&self, transport: Transport, events: usize) {
        self.delivered[transport as usize].add(events as u64);
    }

    pub(crate) fn add_written(&self, bytes: usize) {
        self.written_bytes.add(bytes as u64);
    }

    /// An event was published; or again, with an idempotency key that is known.
    pub(crate) fn note_published(&self, is_repeated: bool) {
        if is_repeated { self.repeated.add(1) } else { self.published.add(1) }
    }

    pub(crate) fn note_slow(&self, why: Slow) {
        self.slow[why as usize].add(1);
    }
}
