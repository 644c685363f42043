//! Every bound of the server in one place, with its unit, its default and what happens beyond it.
//! Must not know where the numbers come from (flags, file) or who enforces them.

/// Bounds on what peers may do and what the server keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The largest event and the largest WebSocket message, inflated. Beyond: 413, or close 1009.
    pub event_bytes: usize,
    /// The largest request head. Beyond: 431.
    pub head_bytes: usize,
    /// The most header fields of a request. Beyond: 431.
    pub head_fields: usize,
    /// How long a request head may take from its first byte. Beyond: 408.
    pub head_timeout_ms: u64,
    /// How long a request body may take. Beyond: 408.
    pub body_timeout_ms: u64,
    /// How long a connection without a request is kept. Beyond: it is closed.
    pub idle_timeout_ms: u64,
    /// How often a WebSocket is pinged and an SSE stream gets a comment. A WebSocket from which nothing
    /// comes for two intervals is closed with 4002.
    pub heartbeat_ms: u64,
    /// How long a socket may take nothing while there is something to send. Beyond: it is closed.
    pub stall_timeout_ms: u64,
    /// How many events a subscriber may lag behind. Beyond: it is closed with 4001 (resumable).
    pub lag_events: u64,
    /// How long a closing connection may take to say goodbye. Beyond: it is cut.
    pub close_timeout_ms: u64,
    /// How long a long poll may ask to be held.
    pub wait_ms: u64,
    /// How many connections are served at a time. Beyond: 503 and closed.
    pub connections: usize,
    /// How many subscriptions a WebSocket may hold. Beyond: `too_many_channels`.
    pub channels_per_connection: usize,
    /// How many channels a request may name. Beyond: `too_many_channels`.
    pub channels_per_request: usize,
    /// How many events a poll may ask for at a time.
    pub page_events: usize,
    /// After how many bytes of data a poll's answer ends, and how much a laggard gets in one write.
    pub page_bytes: usize,
    /// How many channels hold history or subscribers at a time. Beyond: 507.
    pub channels: usize,
    /// How many bytes of history all channels hold together. Beyond: each keeps its equal share, and who has
    /// more drops its oldest events; an event larger than all of it is refused with 507.
    pub history_bytes: usize,
    /// How many events may wait for the fan-out of a shard before their publisher's connection is
    /// not read for a while.
    pub backlog_events: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            event_bytes: 1 << 20,
            head_bytes: 16 << 10,
            head_fields: 64,
            head_timeout_ms: 10_000,
            body_timeout_ms: 30_000,
            idle_timeout_ms: 75_000,
            heartbeat_ms: 25_000,
            stall_timeout_ms: 30_000,
            lag_events: 10_000,
            close_timeout_ms: 5_000,
            wait_ms: 60_000,
            connections: 100_000,
            channels_per_connection: 1_000,
            channels_per_request: crate::cursor::Cursor::IDS_MAX,
            page_events: 1_000,
            page_bytes: 1 << 20,
            channels: 500_000,
            history_bytes: 1 << 30,
            backlog_events: 1_000,
        }
    }
}

/// How much of a channel's past is kept. An event is dropped when any bound is passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// The most events.
    pub events: usize,
    /// The most bytes of data, names and keys.
    pub bytes: usize,
    /// The oldest age.
    pub age_ms: u64,
    /// How long an idempotency key is remembered.
    pub idempotency_ms: u64,
    /// How many idempotency keys are remembered; beyond, the oldest is forgotten.
    pub idempotency_keys: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            events: 10_000,
            bytes: 8 << 20,
            age_ms: 3_600_000,
            idempotency_ms: 24 * 3_600_000,
            idempotency_keys: 10_000,
        }
    }
}

/// Where a channel's events are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// On disk: acknowledged, and delivered, once they are there.
    #[default]
    Disk,
    /// In memory: gone with the process.
    Memory,
    /// Nowhere: delivered to those who are there, and never replayed.
    None,
}

/// What is kept of a channel, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Where.
    pub durability: Durability,
    /// How much.
    pub retention: Retention,
    /// How much of a log that is not kept in memory is there too, for those who read its newest events.
    pub window: Retention,
}

impl Policy {
    /// The most events of the window.
    pub const WINDOW_EVENTS: usize = 1000;
    /// The most bytes of the window.
    pub const WINDOW_BYTES: usize = 1 << 20;

    /// A policy with the window that goes with the retention.
    pub fn new(durability: Durability, retention: Retention) -> Self {
        let window = Retention {
            events: retention.events.min(Self::WINDOW_EVENTS),
            bytes: retention.bytes.min(Self::WINDOW_BYTES),
            ..retention.clone()
        };
        Self { durability, retention, window }
    }
}
