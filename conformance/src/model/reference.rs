//! What must be true of a channel, in the plainest way: all events that it ever had, in order, and everything
//! else computed from them. Must not know servers, clients, or when anything happened.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::Result;
use crate::durable::body::Body;
use crate::event::{Kind, Published};

/// An event as its publisher means it.
#[derive(Clone, PartialEq, Eq)]
pub struct Draft {
    /// Its name.
    pub name: Option<String>,
    /// Its key.
    pub key: Option<String>,
    /// Its idempotency key.
    pub once: Option<String>,
    /// Its data.
    pub body: Body,
}

/// An event in the log.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its place.
    pub offset: u64,
    /// Its time.
    pub time: String,
    /// What was published.
    pub draft: Draft,
}

/// What holds for a channel.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Its name.
    pub channel: &'static str,
    /// Its log does not outlive the server.
    pub in_memory: bool,
    /// The most events that it keeps.
    pub events: u64,
    /// The most bytes that it keeps; a few more for a few seconds.
    pub bytes: Option<usize>,
    /// Its state is the latest event of each key, rather than the latest event.
    pub keyed: bool,
    /// After how many more events an idempotency key is forgotten.
    pub once_keys: usize,
}

/// A channel's log, with all that was ever in it.
#[derive(Debug, Clone)]
pub struct Log {
    /// What holds for it.
    pub rules: Rules,
    /// The epoch of its ids.
    pub epoch: String,
    /// Everything up to here was deleted, or never was.
    pub cleared: u64,
    events: Vec<Event>,
}

/// The least and the most that is possible.
pub type Range = std::ops::RangeInclusive<u64>;

impl Log {
    /// An empty log that begins after an offset.
    pub fn new(rules: Rules, epoch: &str, cleared: u64) -> Self {
        Self { rules, epoch: epoch.to_owned(), cleared, events: Vec::new() }
    }

    /// The newest offset.
    pub fn head(&self) -> u64 {
        self.events.last().map_or(self.cleared, |event| event.offset.max(self.cleared))
    }

    /// The id at an offset.
    pub fn id(&self, offset: u64) -> String {
        format!("{}-{offset}", self.epoch)
    }

    /// Takes the next event.
    ///
    /// # Errors
    /// When it cannot be the next: the store leaves no holes, and a key that is remembered makes no event.
    pub fn append(&mut self, event: Event) -> Result<()> {
        let (offset, head) = (event.offset, self.head());
        if offset != head + 1 {
            return Err(format!("the event after {head} has the offset {offset}: {event:?}"));
        }
        if let Some(key) = &event.draft.once
            && let Some(first) = self.remembered(key, head)
        {
            return Err(format!("the key of {event:?} was remembered, of {first:?}"));
        }
        self.events.push(event);
        Ok(())
    }

    /// Deletes everything.
    pub fn clear(&mut self) {
        self.cleared = self.head();
    }

    /// What it has at a time when `head` is the newest, however long ago it was dropped, but for what is deleted.
    fn until(&self, head: u64) -> impl DoubleEndedIterator<Item = &Event> {
        self.events.iter().filter(move |event| (self.cleared + 1..=head).contains(&event.offset))
    }

    /// The event there.
    pub fn at(&self, offset: u64) -> Option<&Event> {
        self.until(offset).next_back().filter(|event| event.offset == offset)
    }

    /// What may be the newest offset that is not retained, when `head` is the newest.
    pub fn floor(&self, head: u64) -> Range {
        let least = self.cleared.max(head.saturating_sub(self.rules.events));
        let Some(mut left) = self.rules.bytes else { return least..=least };
        let fits = |event: &&Event| {
            let fits = event.draft.size() <= left;
            left = left.saturating_sub(event.draft.size());
            fits
        };
        let kept = self.until(head).rev().take_while(fits).count() as u64;
        least..=least.max(head.saturating_sub(kept))
    }

    /// The state when `head` is the newest, as a snapshot shows it.
    pub fn state(&self, head: u64) -> Value {
        if !self.rules.keyed {
            return self.until(head).next_back().map_or(Value::Null, |event| self.shown(event));
        }
        let mut latest: Vec<&Event> = Vec::new();
        for event in self.until(head).filter(|event| event.draft.key.is_some()) {
            latest.retain(|other| other.draft.key != event.draft.key);
            if !event.draft.is_tombstone() {
                latest.push(event);
            }
        }
        latest.into_iter().map(|event| self.shown(event)).collect()
    }

    /// The event that an idempotency key stands for when `head` is the newest.
    pub fn remembered(&self, key: &str, head: u64) -> Option<&Event> {
        let latest =
            self.until(head).rev().take_while(|event| head - event.offset < self.rules.once_keys as u64);
        latest.into_iter().find(|event| event.draft.once.as_deref() == Some(key))
    }

    /// All events that are not deleted, newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Event> {
        self.until(u64::MAX).rev()
    }

    /// As a reader must see it.
    pub fn published(&self, event: &Event) -> Published {
        let Draft { name, key, body, .. } = &event.draft;
        let kind = match body {
            Body::Json(_) => Kind::Json,
            Body::Text(_) => Kind::Text,
            Body::Bytes(_) => Kind::Bytes,
        };
        Published {
            channel: self.rules.channel.to_owned(),
            id: self.id(event.offset),
            time: Some(event.time.clone()),
            kind,
            body: body.bytes().to_vec(),
            event: name.clone(),
            key: key.clone(),
            content_type: None,
        }
    }

    fn shown(&self, event: &Event) -> Value {
        let mut shown = Map::new();
        shown.insert("id".to_owned(), json!(self.id(event.offset)));
        shown.insert("time".to_owned(), json!(event.time));
        for (member, value) in [("event", &event.draft.name), ("key", &event.draft.key)] {
            shown.extend(value.as_ref().map(|value| (member.to_owned(), json!(value))));
        }
        let (member, data) = match &event.draft.body {
            Body::Json(text) => ("data", serde_json::from_str(text).unwrap_or_default()),
            Body::Text(text) => ("data", json!(text)),
            Body::Bytes(bytes) => ("data_base64", json!(STANDARD.encode(bytes))),
        };
        shown.insert(member.to_owned(), data);
        Value::Object(shown)
    }
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, key, once, body } = self;
        let mark: String = body.mark().chars().take(30).collect();
        write!(f, "name {name:?} key {key:?} once {once:?} {} bytes {mark}", body.bytes().len())
    }
}

impl Draft {
    /// Whether it takes its key out of the state.
    pub fn is_tombstone(&self) -> bool {
        let is_nothing = self.body.bytes().is_empty() || self.body == Body::Json("null".to_owned());
        self.key.is_some() && is_nothing
    }

    /// As bounds by bytes count it.
    pub fn size(&self) -> usize {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        self.body.bytes().len() + length(&self.name) + length(&self.key)
    }

    /// What readers of the log get: equal for equal events only, as each has its own name or data.
    pub fn content(&self) -> (Option<&str>, Option<&str>, String) {
        (self.name.as_deref(), self.key.as_deref(), self.body.mark())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules =
        Rules { channel: "c", in_memory: false, events: 3, bytes: None, keyed: true, once_keys: 3 };

    fn event(offset: u64, key: &str, once: &str, data: &str) -> Event {
        let set = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let body = Body::Json(data.to_owned());
        let draft = Draft { name: None, key: set(key), once: set(once), body };
        Event { offset, time: "t".to_owned(), draft }
    }

    #[test]
    fn state_floor_and_keys_follow_from_the_events() {
        let mut log = Log::new(RULES, "e", 0);
        let events = [("a", "1", "1"), ("b", "2", "2"), ("a", "3", "3"), ("b", "", "null"), ("c", "", "5")];
        for (number, (key, once, data)) in events.into_iter().enumerate() {
            log.append(event(number as u64 + 1, key, once, data)).expect("the next");
        }
        let ids = |head| -> Vec<String> {
            let state = log.state(head);
            state
                .as_array()
                .into_iter()
                .flatten()
                .map(|e| e["id"].as_str().unwrap_or("").to_owned())
                .collect()
        };
        assert_eq!((ids(2), ids(3)), (vec!["e-1".into(), "e-2".into()], vec!["e-2".into(), "e-3".into()]));
        assert_eq!((ids(4), ids(5)), (vec!["e-3".into()], vec!["e-3".into(), "e-5".into()]));
        assert_eq!((log.floor(5), log.floor(2)), (2..=2, 0..=0));
        assert!(log.remembered("1", 2).is_some() && log.remembered("1", 4).is_none());
        assert!(log.append(event(7, "", "", "7")).is_err() && log.append(event(6, "", "3", "6")).is_err());
        log.append(event(6, "", "1", "6")).expect("forgotten");
        log.clear();
        assert_eq!((log.head(), log.floor(6), log.state(6)), (6, 6..=6, json!([])));
        assert!(log.remembered("3", 6).is_none() && log.at(6).is_none());
    }
}
