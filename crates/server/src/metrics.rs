//! Counters and their Prometheus text. Each shard counts for itself, so counting costs no contention.
//! Must never be labelled by channel or user.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::hub::Hub;
use crate::server::Gauges;

/// The content type of the exposition.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

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

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one shard counts.
#[derive(Debug, Default)]
pub(crate) struct ShardCounters {
    connections: [Counter; 4],
    opened: Counter,
    pub(crate) requests: Counter,
    pub(crate) published: Counter,
    delivered: Counter,
    written_bytes: Counter,
    pub(crate) gaps: Counter,
    pub(crate) slow: Counter,
    pub(crate) silent: Counter,
    pub(crate) refused: Counter,
}

impl ShardCounters {
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

    pub(crate) fn add_delivered(&self, events: usize, bytes: usize) {
        self.delivered.add(events as u64);
        self.written_bytes.add(bytes as u64);
    }
}

/// All metrics in the Prometheus text format.
pub(crate) fn exposition(gauges: &Gauges, hub: &Hub) -> String {
    let mut out = String::with_capacity(4096);
    let sum =
        |of: fn(&ShardCounters) -> &Counter| gauges.shards.iter().map(|shard| of(shard).get()).sum::<u64>();
    head(&mut out, "tidewire_connections", "gauge", "Open connections by what they are at the moment.");
    for (transport, name) in TRANSPORTS {
        let count: u64 = gauges.shards.iter().map(|shard| shard.connections[transport as usize].get()).sum();
        let _ = writeln!(out, "tidewire_connections{{transport=\"{name}\"}} {count}");
    }
    let (channels, history_bytes) = hub.usage();
    for (name, kind, help, value) in [
        ("tidewire_connections_opened_total", "counter", "Connections accepted.", sum(|c| &c.opened)),
        (
            "tidewire_connections_refused_total",
            "counter",
            "Connections refused for want of room.",
            gauges.refused(),
        ),
        ("tidewire_requests_total", "counter", "HTTP requests, upgrades included.", sum(|c| &c.requests)),
        (
            "tidewire_events_published_total",
            "counter",
            "Events accepted from clients.",
            sum(|c| &c.published),
        ),
        (
            "tidewire_events_delivered_total",
            "counter",
            "Events handed to sockets of streams.",
            sum(|c| &c.delivered),
        ),
        ("tidewire_written_bytes_total", "counter", "Bytes handed to sockets.", sum(|c| &c.written_bytes)),
        ("tidewire_gaps_total", "counter", "Gaps that clients were told of.", sum(|c| &c.gaps)),
        ("tidewire_slow_consumers_total", "counter", "Subscribers closed for lagging.", sum(|c| &c.slow)),
        (
            "tidewire_silent_peers_total",
            "counter",
            "WebSockets closed without a sign of life.",
            sum(|c| &c.silent),
        ),
        (
            "tidewire_refused_total",
            "counter",
            "Requests and messages refused with an error.",
            sum(|c| &c.refused),
        ),
        ("tidewire_channels", "gauge", "Channels that the server knows.", channels as u64),
        ("tidewire_history_bytes", "gauge", "Data held in channels' history.", history_bytes as u64),
    ] {
        head(&mut out, name, kind, help);
        let _ = writeln!(out, "{name} {value}");
    }
    out
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}
