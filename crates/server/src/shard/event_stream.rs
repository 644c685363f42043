//! Streams of server-sent events: how one begins. Once begun, it is served like any subscriber.
//! Must not know how events are encoded.

use tidewire_core::cursor::Start;
use tidewire_core::http1::Request;
use tidewire_core::liveness::Liveness;
use tidewire_core::wire::{poll, sse};
use tidewire_core::{EventId, Problem, Since};

use super::Shard;
use super::connection::Protocol;
use crate::access::Who;
use crate::access::identity::Action;
use crate::http::answer::Exchange;
use crate::http::read::{joined_cursor, parse_since};
use crate::http::route::ReadRequest;
use crate::metrics::Transport;

/// How long a client should wait before it reconnects to a stream that broke.
const RETRY_MS: u64 = 2000;

impl Shard {
    pub(super) fn open_event_stream(
        &mut self,
        id: u32,
        request: &Request<'_, '_>,
        exchange: Exchange,
        who: Who,
        read: ReadRequest,
    ) -> Result<(), Problem> {
        // EventSource sends the last id it has on its own, which is newer than what the URL says.
        let last_event_id = request.header("last-event-id")?.filter(|id| !id.is_empty());
        let requested = last_event_id.or(read.since.as_deref());
        let since = parse_since(requested)?;
        let reads_back = read.snapshot || since == Some(Since::Earliest);
        let mut may_read_back = true;
        for name in &read.channels {
            self.check(who.as_deref(), Action::Subscribe, name)?;
            match self.check(who.as_deref(), Action::History, name) {
                Err(problem) if reads_back => return Err(problem),
                outcome => may_read_back &= outcome.is_ok(),
            }
        }
        // The stream ends with the connection, so nothing can follow it.
        let exchange = Exchange { keep_alive: false, ..exchange };
        if exchange.head_only {
            self.push_head(&exchange);
            self.after_answer(id, exchange.keep_alive);
            return Ok(());
        }
        self.begin_stream_of(id, who, Transport::EventStream)?;
        for name in &read.channels {
            if let Err(problem) = self.subscribe(id, name) {
                self.unsubscribe_all(id);
                return Err(problem);
            }
        }
        self.push_head(&exchange);
        let requested = requested.unwrap_or_default();
        let state_first = self.begin_stream(id, &read, since.as_ref(), requested, may_read_back);
        let liveness = Liveness::new(self.now_ms, &self.settings.limits, u64::from(id));
        self.connections[id as usize].protocol = Protocol::EventStream { liveness, several: read.several };
        self.become_stream(id, Transport::EventStream);
        if state_first {
            self.begin_with_snapshot(id, 0, None);
        }
        self.arm_at(id, self.now_ms + self.settings.limits.heartbeat_ms / 2);
        Ok(())
    }

    fn push_head(&mut self, exchange: &Exchange) {
        exchange
            .head(&mut self.out, 200)
            .field("Content-Type", "text/event-stream")
            .field("Cache-Control", "no-cache")
            .field("X-Accel-Buffering", "no")
            .end();
    }

    /// Sets all subscriptions to where the stream begins, and says so. True if the state comes first.
    fn begin_stream(
        &mut self,
        id: u32,
        read: &ReadRequest,
        since: Option<&Since>,
        requested: &str,
        may_read_back: bool,
    ) -> bool {
        let subscriptions = &mut self.connections[id as usize].subscriptions;
        let channels: Vec<_> =
            subscriptions.iter().map(|s| self.channels[s.channel as usize].channel.clone()).collect();
        let epochs: Vec<_> = channels.iter().map(|channel| channel.epoch()).collect();
        let mut positions: Vec<EventId> = Vec::new();
        let mut gaps = Vec::new();
        for (subscription, channel) in subscriptions.iter_mut().zip(&channels) {
            let start = since
                .map_or(Start::Latest, |since| since.in_channel(channel.epoch(), &epochs, Start::Latest));
            let located = channel.locate_for(start, may_read_back);
            subscription.cursor = located.position.after;
            positions.push(channel.id(located.position.after));
            if located.position.gap {
                gaps.push((channel.name().as_str(), located.resumed_from));
            }
        }
        let cursor = joined_cursor(&positions);
        debug_assert_eq!(read.channels.len(), positions.len());
        // A stream that resumes needs no state, unless it missed something. Whoever is cut off before the state
        // comes must ask for it again, and not resume after it.
        let state_first = read.snapshot && (since.is_none() || !gaps.is_empty());
        sse::opening(&mut self.out, RETRY_MS, (!state_first).then_some(cursor.as_str()));
        for (name, resumed_from) in gaps {
            self.counters.gaps.add(1);
            let gap = poll::gap(&[name], false, requested, &resumed_from.to_string());
            sse::gap(&mut self.out, &gap, &cursor);
        }
        state_first
    }
}
