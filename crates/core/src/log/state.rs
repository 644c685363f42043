//! The state that a channel's events add up to: the latest event for each key. It outlives the events' own
//! retention, and is bounded by keys and bytes. Must not know where a log is kept.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Code, Problem};
use crate::event::{Event, NewEvent};
use crate::limits::Limits;

/// How much a keyed state holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateSize {
    /// Keys.
    pub keys: u64,
    /// Bytes of their events.
    pub bytes: u64,
}

impl StateSize {
    /// The size after an event takes the place of one of `before` bytes, if its key had one; `None` stands
    /// for no event: the key goes.
    ///
    /// # Errors
    /// `state_full` if that is more than the limits allow. What makes the state smaller never is.
    pub fn replace(self, before: Option<u64>, after: Option<u64>, limits: &Limits) -> Result<Self, Problem> {
        let size = Self {
            keys: self.keys + u64::from(after.is_some()) - u64::from(before.is_some()),
            bytes: (self.bytes + after.unwrap_or(0)).saturating_sub(before.unwrap_or(0)),
        };
        let grows = size.keys > self.keys || size.bytes > self.bytes;
        if grows && (size.keys > limits.state_keys as u64 || size.bytes > limits.state_bytes as u64) {
            let detail = "the channel's state has as many keys or bytes as it may; remove keys (publish an empty \
                          body or null under them), or raise limits.state_keys or limits.state_bytes";
            return Err(Problem::new(Code::StateFull, detail));
        }
        Ok(size)
    }
}

/// A keyed state in memory. Costs one word until the first event with a key.
#[derive(Debug, Default)]
pub struct KeyedState(Option<Box<Keyed>>);

#[derive(Debug, Default)]
struct Keyed {
    by_key: HashMap<Box<str>, Arc<Event>>,
    size: StateSize,
}

impl KeyedState {
    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The bytes of all its events.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |keyed| keyed.size.bytes as usize)
    }

    /// Whether there is room for what an event makes of the state.
    ///
    /// # Errors
    /// As [`StateSize::replace`].
    pub fn check(&self, new: &NewEvent, limits: &Limits) -> Result<(), Problem> {
        let Some(key) = &new.key else { return Ok(()) };
        let size = self.0.as_ref().map_or(StateSize::default(), |keyed| keyed.size);
        let before = self.0.as_ref().and_then(|keyed| keyed.by_key.get(key));
        let before = before.map(|event| event.size_bytes() as u64);
        let after = (!new.is_tombstone()).then(|| new.size_bytes() as u64);
        size.replace(before, after, limits).map(|_| ())
    }

    /// Takes an event into account.
    pub fn apply(&mut self, event: &Arc<Event>) {
        let Some(key) = &event.key else { return };
        let keyed = self.0.get_or_insert_default();
        let before = if event.is_tombstone() {
            keyed.by_key.remove(key)
        } else {
            keyed.size.keys += 1;
            keyed.size.bytes += event.size_bytes() as u64;
            keyed.by_key.insert(key.clone(), Arc::clone(event))
        };
        if let Some(before) = before {
            keyed.size.keys -= 1;
            keyed.size.bytes -= before.size_bytes() as u64;
        }
        if keyed.by_key.is_empty() {
            self.0 = None;
        }
    }

    /// The latest event of each key, oldest first.
    pub fn events(&self) -> Vec<Arc<Event>> {
        let all = self.0.as_ref().map(|keyed| keyed.by_key.values().cloned());
        let mut events: Vec<Arc<Event>> = all.into_iter().flatten().collect();
        events.sort_by_key(|event| event.id.offset);
        events
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ChannelName;
    use crate::event::Payload;
    use crate::id::{Epoch, EventId};
    use crate::time::Timestamp;

    fn new(key: &str, data: &str) -> NewEvent {
        let payload = Payload::sniffed(Bytes::copy_from_slice(data.as_bytes()));
        NewEvent::new(payload).with(None, Some(key), None).expect("right")
    }

    fn apply(state: &mut KeyedState, offset: u64, new: NewEvent) {
        let id = EventId { epoch: Epoch::derive(1, "a"), offset };
        let channel = ChannelName::new("a").expect("a name");
        state.apply(&Arc::new(Event::new(id, Timestamp(0), channel, new)));
    }

    #[test]
    fn the_latest_event_of_each_key_counts() {
        let mut state = KeyedState::default();
        for (offset, key, data) in
            [(1, "x", "1"), (2, "y", "22"), (3, "x", "333"), (4, "z", "4"), (5, "y", "null")]
        {
            apply(&mut state, offset, new(key, data));
        }
        let offsets: Vec<u64> = state.events().iter().map(|event| event.id.offset).collect();
        assert_eq!((offsets, state.bytes()), (vec![3, 4], 4 + 2));
        apply(&mut state, 6, new("x", ""));
        apply(&mut state, 7, new("z", ""));
        assert!(state.is_empty() && state.bytes() == 0);
    }

    #[test]
    fn it_is_bounded_but_may_always_shrink() {
        let limits = Limits { state_keys: 2, state_bytes: 10, ..Limits::default() };
        let mut state = KeyedState::default();
        apply(&mut state, 1, new("x", "1234"));
        apply(&mut state, 2, new("y", "1234"));
        let code = |key, data| state.check(&new(key, data), &limits).map_err(|problem| problem.code);
        assert_eq!(code("z", ""), Ok(()), "a key that is not there is removed");
        assert_eq!(code("z", "1"), Err(Code::StateFull));
        assert_eq!(code("x", "12345"), Err(Code::StateFull));
        assert_eq!(code("x", "123"), Ok(()));
    }
}
