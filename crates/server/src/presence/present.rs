//! Whom a connection holds, for as long as it is open. Must not know what else holds them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidewire_core::{ChannelName, Problem, Timestamp};

use super::{Entry, Holder, Presence};

/// Whom a connection holds in which channels. They are let go when this is dropped.
#[derive(Debug)]
pub(crate) struct Present {
    presence: Arc<Presence>,
    holder: u64,
    grace_ms: u64,
    entered: Vec<(ChannelName, Box<str>)>,
}

impl Present {
    pub(crate) fn new(presence: &Arc<Presence>, grace_ms: u64) -> Self {
        let holder = presence.holders.fetch_add(1, Ordering::Relaxed);
        Self { presence: Arc::clone(presence), holder, grace_ms, entered: Vec::new() }
    }

    /// The channels in which it holds somebody.
    pub(crate) fn channels(&self) -> impl ExactSizeIterator<Item = &ChannelName> {
        self.entered.iter().map(|(channel, _)| channel)
    }

    /// As [`Presence::enter`]. A connection holds one member of a channel: another takes its place.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn enter(
        &mut self,
        channel: &ChannelName,
        member: &str,
        data: &str,
    ) -> Result<Timestamp, Problem> {
        let place = self.entered.iter().position(|(entered, _)| entered == channel);
        if place.is_some_and(|place| *self.entered[place].1 != *member) {
            self.leave(channel)?;
        }
        let holder = Holder::Connection(self.holder);
        let since = self.presence.enter(Entry { channel, member, holder, lasts_ms: None, data })?;
        if self.entered.iter().all(|(entered, _)| entered != channel) {
            self.entered.push((channel.clone(), member.into()));
        }
        Ok(since)
    }

    /// As [`Presence::leave`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn leave(&mut self, channel: &ChannelName) -> Result<(), Problem> {
        let Some(place) = self.entered.iter().position(|(entered, _)| entered == channel) else {
            return Ok(());
        };
        self.presence.leave(channel, &self.entered[place].1, &Holder::Connection(self.holder))?;
        self.entered.swap_remove(place);
        Ok(())
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        for (channel, member) in &self.entered {
            self.presence.release(channel, member, Holder::Connection(self.holder), self.grace_ms);
        }
    }
}
