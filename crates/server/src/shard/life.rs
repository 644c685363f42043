//! The life of a connection as the log tells it: a line for each step, with no data, token, cookie or query string
//! in it. Must not know who reads the log, nor its form.

use std::net::SocketAddr;

use tidewire_core::{ChannelName, Problem};

use super::Shard;
use super::connection::Connection;
use crate::access::identity::Identity;
use crate::metrics::Transport;

/// The close codes of a connection that just broke, of one that the peer ended without a word, and of a peer that has
/// all that it asked for (RFC 6455 section 7.4.1).
const BROKEN: u16 = 1006;
const NO_WORD: u16 = 1005;
const DONE: u16 = 1000;

/// What is told of a connection once it is gone.
#[derive(Debug)]
pub(super) struct Record {
    opened_ms: u64,
    pub(super) delivered: u32,
    pub(super) published: u32,
    /// Why it ends, as WebSockets have it.
    pub(super) code: u16,
    /// What it was last.
    pub(super) transport: Transport,
}

impl Record {
    pub(super) fn new(now_ms: u64) -> Self {
        Self { opened_ms: now_ms, delivered: 0, published: 0, code: BROKEN, transport: Transport::Http }
    }

    pub(super) fn is_younger_than(&self, age_ms: u64, now_ms: u64) -> bool {
        now_ms < self.opened_ms + age_ms
    }

    pub(super) fn add_delivered(&mut self, events: usize) {
        self.delivered = self.delivered.saturating_add(events as u32);
    }

    /// The peer sends nothing more.
    pub(super) fn note_end(&mut self) {
        if self.code == BROKEN {
            self.code = if self.transport == Transport::Http { DONE } else { NO_WORD };
        }
    }

    pub(super) fn add_published(&mut self) {
        self.published = self.published.saturating_add(1);
    }
}

impl Shard {
    pub(super) fn log_accepted(&self, id: u32, address: SocketAddr) {
        tracing::info!(connection = %self.name(&self.connections[id as usize]), %address, "accepted");
    }

    pub(super) fn log_identified(&self, id: u32, who: &Identity, transport: Transport) {
        tracing::info!(
            connection = %self.name(&self.connections[id as usize]),
            user = who.user.as_deref().unwrap_or(if who.is_admin { "(admin key)" } else { "(none)" }),
            transport = transport.as_str(),
            "authenticated"
        );
    }

    pub(super) fn log_subscribed(&self, id: u32, channel: &ChannelName) {
        tracing::info!(
            connection = %self.name(&self.connections[id as usize]),
            channel = channel.as_str(),
            "subscribed"
        );
    }

    /// A problem's sentence may name what the client sent, so only its code is told.
    pub(super) fn log_refused(&self, id: u32, problem: &Problem) {
        tracing::info!(
            connection = %self.name(&self.connections[id as usize]),
            code = problem.code.as_str(),
            "refused"
        );
    }

    pub(super) fn log_closed(&self, connection: &Connection) {
        let record = &connection.record;
        tracing::info!(
            connection = %self.name(connection),
            transport = record.transport.as_str(),
            code = record.code,
            delivered = record.delivered,
            published = record.published,
            duration_ms = self.now_ms.saturating_sub(record.opened_ms),
            "closed"
        );
    }

    /// What lines of one connection have in common. Made only where a line is written.
    fn name(&self, connection: &Connection) -> impl std::fmt::Display + use<> {
        ConnectionName(self.index, connection.serial)
    }
}

struct ConnectionName(u16, u32);

impl std::fmt::Display for ConnectionName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}-{}", self.0, self.1)
    }
}
