//! Which connection subscribes to which channel, and where each subscription keeps its account.
//! Pure arithmetic, so that nothing about it needs storing per connection.

use std::ops::Range;

/// Connections in groups of equal size; those of a group hold the same channels, which no other holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) connections: u32,
    pub(crate) channels_each: u32,
    /// Connections that hold the same channels; divides `connections`.
    pub(crate) group: u32,
}

impl Layout {
    /// Every connection holds the same channels.
    pub(crate) fn shared(connections: u32, channels: u32) -> Layout {
        Layout { connections, channels_each: channels, group: connections.max(1) }
    }

    /// Every connection holds channels of its own.
    pub(crate) fn own(connections: u32, channels_each: u32) -> Layout {
        Layout { connections, channels_each, group: 1 }
    }

    /// One channel that everybody holds.
    pub(crate) fn fan_out(connections: u32) -> Layout {
        Layout::shared(connections, 1)
    }

    /// Channels to publish to, and nobody who listens.
    pub(crate) fn unheard(channels: u32) -> Layout {
        Layout::shared(0, channels)
    }

    pub(crate) fn channel_count(self) -> u32 {
        self.connections.div_ceil(self.group).max(1) * self.channels_each
    }

    /// The channels that connection `index` holds.
    #[inline]
    pub(crate) fn channels_of(self, index: u32) -> Range<u32> {
        let first = index / self.group * self.channels_each;
        first..first + self.channels_each
    }

    /// The connections that hold `channel`.
    pub(crate) fn audience(self, channel: u32) -> Range<u32> {
        let first = channel / self.channels_each * self.group;
        first..(first + self.group).min(self.connections).max(first)
    }

    /// How many connections hold each channel.
    pub(crate) fn audience_size(self) -> u64 {
        u64::from(self.group.min(self.connections))
    }

    pub(crate) fn subscription_count(self) -> usize {
        self.connections as usize * self.channels_each as usize
    }

    /// Where connection `index` accounts for `channel`; `None` if it did not subscribe to it.
    #[inline]
    pub(crate) fn subscription(self, index: u32, channel: u32) -> Option<usize> {
        let channels = self.channels_of(index);
        channels
            .contains(&channel)
            .then(|| index as usize * self.channels_each as usize + (channel - channels.start) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subscription_has_its_own_place() {
        for group in [1, 2, 6] {
            let layout = Layout { connections: 6, channels_each: 3, group };
            let mut places = Vec::new();
            for channel in 0..layout.channel_count() {
                assert_eq!(layout.audience(channel).len() as u64, layout.audience_size());
                for index in layout.audience(channel) {
                    places.push(layout.subscription(index, channel).expect("the audience subscribed"));
                }
            }
            places.sort_unstable();
            assert_eq!(places, (0..layout.subscription_count()).collect::<Vec<_>>(), "groups of {group}");
        }
    }

    #[test]
    fn a_channel_of_another_connection_has_none() {
        assert_eq!(Layout::own(3, 1).subscription(1, 2), None);
        assert_eq!(Layout::fan_out(3).subscription(1, 1), None);
    }

    #[test]
    fn channels_without_connections_have_no_audience() {
        let layout = Layout::unheard(4);
        assert_eq!((layout.channel_count(), layout.audience_size()), (4, 0));
        assert!(layout.audience(0).is_empty());
    }
}
