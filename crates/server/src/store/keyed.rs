//! Channels' states on disk: the latest event of each key, beside the log and as old as the channel, and
//! snapshots of both at one moment. Must not know how large a state may become.

use std::sync::Arc;

use fjall::Readable;
use tidewire_core::limits::StateKind;
use tidewire_core::wire::poll::State;
use tidewire_core::{ChannelName, Epoch, Event, EventId, record};

use super::{ChannelRecord, Store, StoreError, decode_number, event_key, offset_of, text_key};

impl Store {
    /// How many bytes the event of a key has in the state.
    pub(super) fn state_bytes(&self, number: u64, key: &str) -> Result<Option<u64>, StoreError> {
        let value = self.state.get(text_key(number, key));
        let value = value.map_err(|error| StoreError::of(&error, "reading a state"))?;
        value.map(|value| decode_number(value.get(8..16).unwrap_or_default())).transpose()
    }

    /// A channel's state, and the newest offset that it has in it: both of one moment, however many events
    /// come meanwhile.
    pub(super) fn snapshot(
        &self,
        channel: &ChannelName,
        epoch: Epoch,
        kind: StateKind,
    ) -> Result<Option<(EventId, State)>, StoreError> {
        let reading = |error: fjall::Error| StoreError::of(&error, "reading a state");
        let moment = self.database.snapshot();
        let Some(value) = moment.get(&self.channels, channel.as_str()).map_err(reading)? else {
            return Ok(None);
        };
        let ChannelRecord { number, floor, .. } = ChannelRecord::decode(&value)?;
        let all = event_key(number, 0)..=event_key(number, u64::MAX);
        let newest = moment.range(&self.events, all).next_back();
        let newest = newest.map(|entry| entry.into_inner().map_err(reading)).transpose()?;
        let offset = newest.as_ref().map_or(Ok(floor), |(key, _)| offset_of(key))?;
        let id = EventId { epoch, offset };
        let readable = |id, bytes: &[u8]| -> Result<Arc<Event>, StoreError> {
            record::decode(channel, id, bytes).map(Arc::new).map_err(|_| StoreError::unreadable())
        };
        if kind != StateKind::Keyed {
            let latest = newest.map(|(_, value)| readable(id, &value)).transpose()?;
            return Ok(Some((id, State::Last(latest))));
        }
        let mut events = Vec::new();
        for entry in moment.prefix(&self.state, number.to_be_bytes()) {
            let (_, value) = entry.into_inner().map_err(reading)?;
            let (offset, rest) = value.split_at_checked(8).ok_or_else(StoreError::unreadable)?;
            let event = rest.get(8..).ok_or_else(StoreError::unreadable)?;
            events.push(readable(EventId { epoch, offset: decode_number(offset)? }, event)?);
        }
        events.sort_by_key(|event| event.id.offset);
        Ok(Some((id, State::Keyed(events))))
    }
}

/// What the state keeps of an event.
pub(super) fn entry(event: &Event) -> Vec<u8> {
    let numbers = [event.id.offset, event.size_bytes() as u64];
    let mut out: Vec<u8> = numbers.into_iter().flat_map(u64::to_le_bytes).collect();
    out.extend_from_slice(&record::encode(event, 0));
    out
}
