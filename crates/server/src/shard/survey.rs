//! What a shard can only tell by looking: how far those who are behind are, and how long its queues. It looks when
//! somebody scrapes, so that nobody else pays for it. Must not know how it is shown (`metrics`).

use std::sync::Arc;

use super::channels::Place;
use super::{Message, Shard};
use crate::clock::ms_of;
use crate::metrics::Queue;

/// Looking takes time with the number of channels. Whoever asks again within so many times that time is told what was
/// seen last, so that those who ask take no more than this part of a shard's time.
const PART: u64 = 50;

impl Shard {
    /// Whether all shards have looked for a connection's request, or lately. If not, they are asked to, and the request
    /// is looked at again when they have.
    pub(super) fn is_surveyed(&mut self, id: u32) -> bool {
        let is_fresh = self.gauges.shards.iter().all(|shard| self.now_ms < shard.survey.fresh_until_ms.get());
        if is_fresh || self.is_decided(id) {
            return true;
        }
        let hub = Arc::clone(&self.hub);
        self.await_decisions(id, hub.inboxes().len() as u32);
        let serial = self.connections[id as usize].serial;
        for inbox in hub.inboxes() {
            inbox.push(Message::Survey { shard: self.index, connection: id, serial });
        }
        false
    }

    pub(super) fn handle_survey(&mut self, shard: u16, connection: u32, serial: u32) {
        self.survey_timed();
        let done = Message::Decided { connection, serial, verdict: None };
        self.hub.inboxes()[usize::from(shard)].push(done);
    }

    /// Looks, and says from when on it may look again.
    pub(super) fn survey_timed(&mut self) {
        let begun_us = self.clock.now_us();
        self.survey();
        let done_us = self.clock.now_us();
        let fresh_until_ms = ms_of(done_us + (done_us - begun_us) * PART);
        self.counters.survey.fresh_until_ms.set(fresh_until_ms);
    }

    fn survey(&mut self) {
        let (mut subscriptions, mut behind, mut lag_events) = (0, 0, 0);
        for (_, local) in &self.channels {
            let caught_up: usize = local.groups.iter().map(|group| group.members.len()).sum();
            subscriptions += caught_up + local.alone.len();
            for member in &local.alone {
                let subscription =
                    &self.connections[member.connection as usize].subscriptions[member.slot as usize];
                debug_assert!(matches!(subscription.place, Place::Alone { .. }));
                let lag = local.joinable().saturating_sub(subscription.cursor);
                behind += u64::from(lag > 0);
                lag_events = lag_events.max(lag);
            }
        }
        let survey = &self.counters.survey;
        survey.subscriptions.set(subscriptions as u64);
        survey.behind.set(behind);
        survey.lag_events.set(lag_events);
        survey.set_queue(Queue::Fanout, self.dirty.len());
        survey.set_queue(Queue::Turns, self.ready.len());
        survey.set_queue(Queue::Replay, self.replaying.len());
        survey.set_queue(Queue::Paused, self.paused.len());
        survey.set_queue(Queue::Disk, self.awaited.len());
    }
}
