//! Counters and their Prometheus text. Each shard counts for itself, so counting costs no contention.
//! Must never be labelled by channel or user.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use tidewire_core::{Code, Problem};

use crate::access::Access;
use crate::access::callback::Callback;
use crate::hub::Hub;
use crate::server::Gauges;

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
    refused: [Counter; Code::ALL.len()],
    limited: [Counter; LIMITS.len()],
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
        self.refused[code as usize].add(1);
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

    pub(crate) fn add_delivered(&self, events: usize, bytes: usize) {
        self.delivered.add(events as u64);
        self.written_bytes.add(bytes as u64);
    }
}

/// All metrics in the Prometheus text format.
pub(crate) fn exposition(gauges: &Gauges, hub: &Hub, access: &Access) -> String {
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
        ("tidewire_channels", "gauge", "Channels that the server knows.", channels as u64),
        ("tidewire_history_bytes", "gauge", "Data held in channels' history.", history_bytes as u64),
    ] {
        head(&mut out, name, kind, help);
        let _ = writeln!(out, "{name} {value}");
    }
    head(
        &mut out,
        "tidewire_refused_total",
        "counter",
        "Requests and messages refused, by their error's code.",
    );
    for code in Code::ALL {
        let count: u64 = gauges.shards.iter().map(|shard| shard.refused[code as usize].get()).sum();
        let _ = writeln!(out, "tidewire_refused_total{{code=\"{}\"}} {count}", code.as_str());
    }
    head(
        &mut out,
        "tidewire_limited_total",
        "counter",
        "Requests and messages refused, by the limit they reached.",
    );
    for (place, name) in LIMITS.iter().enumerate() {
        let count: u64 = gauges.shards.iter().map(|shard| shard.limited[place].get()).sum();
        let _ = writeln!(out, "tidewire_limited_total{{limit=\"{name}\"}} {count}");
    }
    access_lines(&mut out, access);
    out
}

/// What those count who decide about access.
fn access_lines(out: &mut String, access: &Access) {
    let tokens = access.token_counters();
    let (asked, failed) = access.callback.as_ref().map(Callback::counts).unwrap_or_default();
    for (name, kind, help, value) in [
        (
            "tidewire_tokens_verified_total",
            "counter",
            "Tokens that were taken.",
            tokens.verified.load(Ordering::Relaxed),
        ),
        (
            "tidewire_tokens_refused_total",
            "counter",
            "Tokens that were refused.",
            tokens.refused.load(Ordering::Relaxed),
        ),
        (
            "tidewire_key_fetches_total",
            "counter",
            "Fetches of issuers' keys.",
            tokens.fetches.load(Ordering::Relaxed),
        ),
        (
            "tidewire_key_fetch_failures_total",
            "counter",
            "Those that failed.",
            tokens.fetch_failures.load(Ordering::Relaxed),
        ),
        ("tidewire_callbacks_total", "counter", "Questions to the application.", asked),
        ("tidewire_callback_failures_total", "counter", "Those without a proper answer.", failed),
        ("tidewire_users", "gauge", "Users with a stream.", access.users.count() as u64),
    ] {
        head(out, name, kind, help);
        let _ = writeln!(out, "{name} {value}");
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}
