//! Every bound of the server in one place, with its unit, range, default and what happens beyond it.
//! Must not know where the numbers come from (flags, file) or who enforces them.

/// A bound as the configuration offers it.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Its name, with the unit at its end.
    pub name: &'static str,
    /// What it bounds and what happens beyond. Lines that begin with `Cost:` or `Danger:` say so.
    pub text: &'static str,
    /// The least that it can be.
    pub least: u64,
    /// The most that it can be.
    pub most: u64,
    /// What it is if nobody says otherwise.
    pub default: u64,
}

/// Makes the fields, their defaults and the options of one list, so that none can be left out of one.
macro_rules! limits {
    ($($(#[doc = $text:literal])+ $name:ident: $type:ty = $default:expr, $least:expr => $most:expr;)+) => {
        /// Bounds on what peers may do and what the server keeps.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Limits { $($(#[doc = $text])+ pub $name: $type,)+ }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        impl Limits {
            /// All of them, in the order of the reference.
            pub const ALL: &[Bound] = &[$(Bound {
                name: stringify!($name),
                text: concat!($($text, "\n"),+),
                least: $least as u64,
                most: $most as u64,
                default: $default as u64,
            }),+];

            /// The limits of which each is as `value` says by name, else the default.
            #[must_use]
            #[allow(clippy::useless_conversion)]
            pub fn by_name(value: impl Fn(&'static str) -> Option<u64>) -> Self {
                let defaults = Self::default();
                Self { $($name: value(stringify!($name))
                    .and_then(|value| <$type>::try_from(value).ok())
                    .unwrap_or(defaults.$name),)+ }
            }
        }
    };
}

const DAY_MS: u64 = 86_400_000;
/// For what only the format bounds (TOML has no larger integers).
const ANY: u64 = i64::MAX as u64;

limits! {
    /// The largest event and the largest WebSocket message, inflated. Beyond: 413, or close 1009.
    /// Cost: each connection that sends one holds it in memory until it is whole.
    event_bytes: usize = 1 << 20, 1 => 256 << 20;
    /// The largest request head. Beyond: 431.
    /// Cost: each connection whose head is on its way may hold that much.
    head_bytes: usize = 16 << 10, 512 => 64 << 10;
    /// The most header fields of a request. Beyond: 431.
    head_fields: usize = 64, 4 => 64;
    /// How long a request head may take from its first byte. Beyond: 408.
    /// Danger: long ones let slow senders hold connections that others need.
    head_timeout_ms: u64 = 10_000, 50 => DAY_MS;
    /// How long a request body may take. Beyond: 408.
    /// Danger: as `head_timeout_ms`, and a body in memory as well.
    body_timeout_ms: u64 = 30_000, 50 => DAY_MS;
    /// How long a connection without a request is kept. Beyond: it is closed.
    /// Cost: less than 1 KiB for each connection kept.
    idle_timeout_ms: u64 = 75_000, 50 => DAY_MS;
    /// How often a WebSocket is pinged and an event stream gets a comment. A WebSocket from which nothing
    /// comes for two intervals is closed (4002).
    /// Cost: one small packet for each connection and interval.
    /// Danger: longer than a proxy's or router's idle timeout, connections break without a word.
    heartbeat_ms: u64 = 25_000, 50 => DAY_MS;
    /// How long a socket may take nothing while there is something to send. Beyond: it is closed (4001,
    /// resumable). A peer that acknowledges nothing for this and `close_timeout_ms` is given up by the kernel.
    stall_timeout_ms: u64 = 30_000, 50 => DAY_MS;
    /// How many events a subscriber of a channel in memory whose socket is full may lag behind. Beyond: it is
    /// closed (4001, resumable). Of a channel on disk, or one that keeps nothing, only `stall_timeout_ms` ends a
    /// slow one. With less than `history.events`, long replays over slow lines take several connections.
    lag_events: u64 = 10_000, 1 => ANY;
    /// How long a closing connection may take to say goodbye. Beyond: it is cut.
    close_timeout_ms: u64 = 5_000, 50 => DAY_MS;
    /// How long `/readyz` says no before ports are closed, when the server is told to drain: as long as the load
    /// balancer needs to look.
    drain_notice_ms: u64 = 0, 0 => DAY_MS;
    /// Over how long clients are spread that are told to reconnect when the server drains: each gets its own delay.
    /// Danger: all that come within a short one come to the servers that stay at once.
    drain_window_ms: u64 = 3_000, 0 => DAY_MS;
    /// How long draining may take after ports are closed. Beyond: what is still open is cut, and the server ends.
    drain_timeout_ms: u64 = 30_000, 50 => DAY_MS;
    /// The longest that a long poll may ask to be held.
    wait_ms: u64 = 60_000, 0 => DAY_MS;
    /// How many connections are served at a time. Beyond: 503 and closed. Never more than the file descriptors
    /// allow, less 320.
    /// Cost: less than 1 KiB for each idle one, and the kernel's socket.
    connections: usize = 100_000, 1 => 10_000_000;
    /// How many connections a user may have at a time; 0: no bound. Beyond: 429, or a close that says so.
    connections_per_user: u32 = 0, 0 => u32::MAX;
    /// How many connections an address may have at a time; 0: no bound. Beyond: 429.
    /// Danger: behind a proxy that `[proxies]` does not name, all clients have the proxy's address.
    connections_per_ip: u32 = 0, 0 => u32::MAX;
    /// How many connections an address may open in a minute; 0: no bound. Beyond: 429.
    /// Danger: many users may share one address, and all of them reconnect at once after a failure.
    attempts_per_ip_per_minute: u32 = 0, 0 => u32::MAX;
    /// About how many addresses something is remembered. Beyond, older ones are forgotten.
    /// Cost: some 100 bytes each.
    tracked_ips: u32 = 100_000, 1 => u32::MAX;
    /// How many messages a connection may send in a second; 0: no bound. Beyond: 429, or a close that says so.
    messages_per_second: u32 = 0, 0 => u32::MAX;
    /// How many bytes of messages a connection may send in a second; 0: no bound. Beyond: as above.
    message_bytes_per_second: u32 = 0, 0 => u32::MAX;
    /// How many messages a user may send in a second over all connections; 0: no bound. Beyond: as above.
    user_messages_per_second: u32 = 0, 0 => u32::MAX;
    /// How many bytes of messages a user may send in a second over all connections; 0: no bound. Beyond: as
    /// above.
    user_message_bytes_per_second: u32 = 0, 0 => u32::MAX;
    /// How many subscriptions a user may hold over all connections; 0: no bound. Beyond: 429, or an error of
    /// the message that asked.
    subscriptions_per_user: u32 = 0, 0 => u32::MAX;
    /// How many subscriptions a WebSocket may hold. Beyond: `too_many_channels`.
    channels_per_connection: usize = 1_000, 1 => 100_000;
    /// How many streams an HTTP/2 connection may carry at a time. Beyond: they wait, as the client was told.
    /// Cost: each is a connection of `connections`, and takes some 1 KiB.
    streams_per_connection: usize = 256, 1 => 100_000;
    /// How many channels a request may name. Beyond: `too_many_channels`.
    channels_per_request: usize = crate::cursor::Cursor::IDS_MAX, 1 => crate::cursor::Cursor::IDS_MAX;
    /// The largest `limit` of a poll.
    page_events: usize = 1_000, 1 => 100_000;
    /// After how many bytes of data a poll's answer ends, and how much a laggard gets in one write.
    /// Cost: that much memory for each poll under way.
    page_bytes: usize = 1 << 20, 1024 => 256 << 20;
    /// How many channels hold history or subscribers at a time. Beyond: 507.
    /// Cost: up to 1 KiB each.
    channels: usize = 500_000, 1 => 100_000_000;
    /// How many bytes of history all channels in memory hold together. Beyond: each keeps its equal share, and
    /// who has more drops its oldest events; an event larger than all of it is refused with 507.
    /// Cost: this much memory, and some 600 bytes more for each event that was delivered in a form or two.
    history_bytes: usize = 1 << 30, 1024 => ANY;
    /// How many keys the state of a channel may have. Beyond: 507 (`state_full`) for new ones.
    state_keys: usize = 10_000, 1 => 10_000_000;
    /// How many bytes the events of such a state may have. Beyond: 507 for what makes it larger.
    state_bytes: usize = 8 << 20, 1024 => 256 << 20;
    /// How many bytes of JSON a member may show of itself (presence). Beyond: 413.
    /// Cost: each member's are in memory once, and in the history of `tidewire.presence:CHANNEL`.
    member_bytes: usize = 4096, 2 => 1 << 20;
    /// How long a member stays present whose connection is gone, so that a reconnect is no coming and going.
    presence_grace_ms: u64 = 5_000, 0 => DAY_MS;
    /// How long somebody is present who entered by `POST`, if they do not enter again.
    /// Danger: browsers wake a page in the background once a minute; with less than that, its user comes and goes.
    presence_ms: u64 = 90_000, 1_000 => DAY_MS;
    /// How long the backplane may take to answer. Beyond: it counts as away, publishers get 503, and what was under
    /// way is not known to be stored or not.
    /// Danger: with short ones a pause of the broker is an outage; with long ones publishers wait in vain.
    backplane_timeout_ms: u64 = 5_000, 50 => DAY_MS;
    /// How many events may wait for the fan-out of a shard before their publisher's connection is not read
    /// for a while.
    backlog_events: u64 = 1_000, 1 => ANY;
}

/// How many orders to the backplane are sent as one.
pub const BACKPLANE_BATCH: usize = 512;
/// How many such batches are under way at a time to each of its servers; what comes meanwhile waits.
pub const BACKPLANE_BATCHES: usize = 16;
/// How many bytes may wait to be sent to one of its servers. Beyond: 503 for who publishes.
pub const BACKPLANE_WAITING_BYTES: usize = 256 << 20;
/// How many events may wait for one that came before them, for each channel. Beyond, they are read again.
pub const BACKPLANE_EARLY: usize = 1_024;
/// How long a channel is followed that nobody reads any more, so that polls find it.
pub const BACKPLANE_IDLE_MS: u64 = 60_000;
/// The longest pause before a server of the backplane that is away is tried again.
pub const BACKPLANE_RETRY_MS: u64 = 2_000;
/// How often a server of the backplane is asked whether it is there.
pub const BACKPLANE_PING_MS: u64 = 1_000;
/// Of how many losses a channel remembers which offsets were lost. Beyond: older events are no longer retained.
pub const BACKPLANE_SEAMS: usize = 32;
/// How many positions that are no event's are known of a channel. Beyond: the oldest is forgotten, and found again.
pub const BACKPLANE_HOLES: usize = 1_024;

/// How often a server tells the others that share its backplane what has changed, at the most.
pub const PEERS_PACE_MS: u64 = 100;
/// How often it tells them that it is there, and how it stands.
pub const PEERS_BEAT_MS: u64 = 1_000;
/// How long a server may say nothing while the backplane answers. Beyond: it is gone, with all that it told of.
pub const PEERS_SILENCE_MS: u64 = 5_000;
/// How long it may say nothing whatever the backplane does. Beyond: as above.
pub const PEERS_FORGOTTEN_MS: u64 = 60_000;
/// How many servers one knows beside itself. Beyond: the others are as if they were not there.
pub const PEERS: usize = 1_000;
/// How many facts a server tells of (users and addresses that have connections, members that are present). Beyond: the
/// others do not hear of more.
pub const PEERS_FACTS: usize = 2_000_000;
/// How many of them may have changed and not be told. Beyond: all of them are told anew.
pub const PEERS_CHANGES: usize = 200_000;
/// How many bytes a message to other servers has, about; one fact may be longer.
pub const PEERS_MESSAGE_BYTES: usize = 32 << 10;
/// How many bytes of facts are told at once; the rest waits for the next time.
pub const PEERS_BYTES_AT_ONCE: usize = 64 << 10;
/// How many messages of others may wait. Beyond: they are missed, and what they said is asked for.
pub const PEERS_WAITING: usize = 1_024;
/// Over how long those are spread who ask for all that a server has to tell, and its answers.
pub const PEERS_ASK_SPREAD_MS: u64 = 500;
/// How many servers are asked at a time; all servers hear the answers.
pub const PEERS_ASKED_AT_ONCE: usize = 4;
/// After how long one asks again.
pub const PEERS_ASK_AGAIN_MS: u64 = 3_000;
/// How many instances that left may wait to be told of. Beyond: on other servers they end by themselves.
pub const PEERS_GONE_INSTANCES: usize = 10_000;

/// How many events of a channel's presence are kept for those who come back.
pub const PRESENCE_EVENTS: usize = 10_000;
/// How many bytes they may have.
pub const PRESENCE_BYTES: usize = 4 << 20;
/// How old they may be.
pub const PRESENCE_AGE_MS: u64 = 300_000;
/// By how many connections, tabs and devices a member may be present in a channel at a time. Beyond: 429.
pub const HOLDS_PER_MEMBER: usize = 64;
/// How many ends of presence are told of in a second, for each of 64 parts of the channels: nobody who enters there waits
/// for longer than that takes.
pub const PRESENCE_ENDS_AT_ONCE: usize = 1_000;
/// How many events a subscriber of a channel that keeps nothing may lag behind. Beyond: it gets a gap, and what comes
/// from now on.
pub const PASSING_LAG_EVENTS: u64 = 64;
/// How many statistics the server keeps of itself, one a second: those who come back see what they missed.
pub const STATISTICS_EVENTS: usize = 300;
/// How many bytes they may have.
pub const STATISTICS_BYTES: usize = 4 << 20;
/// How old they may be.
pub const STATISTICS_AGE_MS: u64 = 300_000;
/// How many channels are in each list of the busiest.
pub const TOP_CHANNELS: usize = 10;
/// How many users and addresses are in each list of those who talk most.
pub const TOP_TALKERS: usize = 20;
/// How many lists of channels may wait to be made. Beyond: 503.
pub const LISTINGS_WAITING: usize = 256;
/// How many connections a shard looks at for statistics before others have their turn.
pub const LOOK_CONNECTIONS: usize = 1_000;
/// Of how many addresses a shard knows at the most how many connections each has. Those beyond are left out.
pub const LOOK_ADDRESSES: usize = 100_000;

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
    /// After how many more events of its channel an idempotency key is forgotten; so many are remembered at most.
    pub idempotency_keys: usize,
}

impl Retention {
    /// How many idempotency keys are remembered where nobody says otherwise: in memory as many as a channel has
    /// events; on disk, where they cost no memory, so many that time alone should decide.
    pub fn idempotency_keys_by_default(durability: Durability) -> usize {
        if durability == Durability::Disk { 1_000_000 } else { 10_000 }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            events: 10_000,
            bytes: 8 << 20,
            age_ms: 3_600_000,
            idempotency_ms: 24 * 3_600_000,
            idempotency_keys: Self::idempotency_keys_by_default(Durability::Memory),
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
    /// At the broker that all nodes share: acknowledged, and delivered, once it has them.
    Backplane,
}

/// What the state in a channel's snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StateKind {
    /// There is none.
    None,
    /// The latest retained event.
    #[default]
    Last,
    /// The latest event of each key, also where the event itself is no longer retained.
    Keyed,
}

/// What is kept of a channel, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Where.
    pub durability: Durability,
    /// What its state is.
    pub state: StateKind,
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
    pub fn new(durability: Durability, state: StateKind, retention: Retention) -> Self {
        let window = Retention {
            events: retention.events.min(Self::WINDOW_EVENTS),
            bytes: retention.bytes.min(Self::WINDOW_BYTES),
            ..retention.clone()
        };
        Self { durability, state, retention, window }
    }
}
