//! Beginning and ending subscriptions: the links between connections and channels of a shard.
//! Must not know transports.

use tidewire_core::{ChannelName, Problem};

use super::Shard;
use super::channels::{LocalChannel, Member, Place, Subscription};

impl Shard {
    /// Subscribes a connection to a channel. From now on it misses nothing: the caller may look at
    /// the log after this, and sets the subscription's cursor.
    ///
    /// # Errors
    /// `history_full` when there are too many channels, `too_many_requests` when the user has too many subscriptions.
    pub(super) fn subscribe(&mut self, id: u32, name: &ChannelName) -> Result<u32, Problem> {
        let number = self.local_channel(name)?;
        if let Err(problem) = self.count_subscription(id) {
            let local = &self.channels[number as usize];
            if local.is_empty() && !local.queued {
                self.release(number);
            }
            return Err(problem);
        }
        let slot = self.connections[id as usize].subscriptions.len() as u32;
        let member = Member { connection: id, slot };
        let place = self.channels[number as usize].enter(member);
        self.channels[number as usize].channel.note_subscribed();
        let subscriptions = &mut self.connections[id as usize].subscriptions;
        subscriptions.reserve_exact(if slot == 0 { 1 } else { subscriptions.len() / 2 });
        subscriptions.push(Subscription { channel: number, place, cursor: 0 });
        self.log_subscribed(id, name);
        Ok(slot)
    }

    /// Counts one more subscription of the connection's user.
    fn count_subscription(&mut self, id: u32) -> Result<(), Problem> {
        let lease = self.connections[id as usize].lease.as_mut();
        match lease.and_then(|lease| lease.membership.as_mut()) {
            Some(membership) => membership.subscribe().map_err(Problem::limited),
            None => Ok(()),
        }
    }

    /// The slot of a channel in this shard, made if need be.
    fn local_channel(&mut self, name: &ChannelName) -> Result<u32, Problem> {
        if let Some(&number) = self.by_name.get(name.as_str()) {
            return Ok(number);
        }
        loop {
            let channel = self.hub.open(name)?;
            let entry = self.channels.vacant_entry();
            let number = entry.key() as u32;
            if let Some(reached) = channel.follow(self.index, number) {
                self.by_name.insert(channel.name().clone(), number);
                entry.insert(LocalChannel::new(channel, reached));
                return Ok(number);
            }
        }
    }

    /// The connection's subscription to a channel.
    pub(super) fn subscription(&self, id: u32, name: &str) -> Option<u32> {
        let number = *self.by_name.get(name)?;
        let subscriptions = &self.connections[id as usize].subscriptions;
        subscriptions.iter().position(|subscription| subscription.channel == number).map(|slot| slot as u32)
    }

    /// Ends a subscription. The connection's last one takes over its slot.
    pub(super) fn unsubscribe(&mut self, id: u32, slot: u32) {
        let number = self.connections[id as usize].subscriptions[slot as usize].channel;
        self.channels[number as usize].leave(&mut self.connections, Member { connection: id, slot });
        self.channels[number as usize].channel.note_unsubscribed();
        let connection = &mut self.connections[id as usize];
        if let Some(membership) = connection.lease.as_mut().and_then(|lease| lease.membership.as_mut()) {
            membership.unsubscribe();
        }
        let subscriptions = &mut connection.subscriptions;
        subscriptions.swap_remove(slot as usize);
        if let Some(moved) = subscriptions.get(slot as usize) {
            self.channels[moved.channel as usize].member_mut(moved.place).slot = slot;
        }
        self.release_if_empty(number);
    }

    pub(super) fn unsubscribe_all(&mut self, id: u32) {
        while let Some(last) =
            self.connections.get(id as usize).and_then(|c| c.subscriptions.len().checked_sub(1))
        {
            self.unsubscribe(id, last as u32);
        }
        if let Some(connection) = self.connections.get_mut(id as usize) {
            connection.subscriptions = Vec::new();
        }
    }

    /// Lets go of a channel without subscribers, unless its fan-out is under way: that looks itself.
    pub(super) fn release_if_empty(&mut self, number: u32) {
        let local = &self.channels[number as usize];
        if local.is_empty() && !local.queued {
            self.release(number);
        }
    }

    pub(super) fn release(&mut self, number: u32) {
        let local = self.channels.remove(number as usize);
        self.by_name.remove(local.channel.name().as_str());
        local.channel.unfollow(self.index);
    }

    /// Whether a subscription stands alone.
    pub(super) fn is_alone(&self, id: u32, slot: u32) -> bool {
        matches!(self.connections[id as usize].subscriptions[slot as usize].place, Place::Alone { .. })
    }
}
