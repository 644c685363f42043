//! What this server tells the others, and when: what has changed, and all of it to those who ask, in slices. Must not
//! know what it is about, nor how it gets there. Time is an argument.

use std::collections::BTreeSet;
use std::ops::Bound;

use serde_json::value::RawValue;
use tidewire_core::limits::{PEERS_BYTES_AT_ONCE, PEERS_CHANGES, PEERS_FACTS, PEERS_MESSAGE_BYTES};

use super::message::{Change, Facts, Message, Range, Says};

/// What a fact takes in a message beside its name and value.
const FACT_BYTES: usize = 8;

/// All that this server tells of.
#[derive(Debug)]
pub(super) struct Own {
    server: u64,
    /// Of the newest message.
    number: u64,
    facts: Facts,
    /// What has yet to be told.
    changed: BTreeSet<Box<str>>,
    /// All of it is being told: it is, up to here.
    slicing: Option<Box<str>>,
    /// When that begins, if somebody asked.
    slices_at_ms: Option<u64>,
    is_full: bool,
}

impl Own {
    pub(super) fn new(server: u64) -> Self {
        Self {
            server,
            number: 0,
            facts: Facts::new(),
            changed: BTreeSet::new(),
            slicing: None,
            slices_at_ms: None,
            is_full: false,
        }
    }

    /// This is so from now on, or not any more. False for the first one that there is no room for.
    pub(super) fn set(&mut self, name: &str, value: Option<Box<RawValue>>) -> bool {
        let known = self.facts.get(name);
        if known.map(|known| known.get()) == value.as_ref().map(|value| value.get()) {
            return true;
        }
        if known.is_none() && self.facts.len() >= PEERS_FACTS {
            return std::mem::replace(&mut self.is_full, true);
        }
        match value {
            Some(value) => drop(self.facts.insert(name.into(), value)),
            None => drop(self.facts.remove(name)),
        }
        self.changed.insert(name.into());
        if self.changed.len() > PEERS_CHANGES {
            // All of it says that too.
            self.changed.clear();
            self.slicing = Some(Box::default());
        }
        true
    }

    /// Somebody wants to be told all of it. Those who ask at about the same time are told together.
    pub(super) fn is_asked(&mut self, at_ms: u64) {
        if self.slicing.is_none() {
            self.slices_at_ms.get_or_insert(at_ms);
        }
    }

    /// What there is to send now, `first` before all else.
    pub(super) fn poll(&mut self, now_ms: u64, first: Says) -> Vec<Message> {
        let mut messages = Vec::new();
        if !first.is_nothing() {
            messages.push(self.message(first));
        }
        let mut left = PEERS_BYTES_AT_ONCE;
        while left > 0 && !self.changed.is_empty() {
            let facts = self.take_changed(&mut left);
            messages.push(self.message(Says { facts, ..Says::default() }));
        }
        if self.slices_at_ms.is_some_and(|at_ms| at_ms <= now_ms) {
            self.slices_at_ms = None;
            self.slicing = Some(Box::default());
        }
        while left > 0
            && let Some(after) = self.slicing.take()
        {
            let (facts, to) = self.slice(&after, &mut left);
            self.slicing.clone_from(&to);
            let range = Some(Range { after, to });
            messages.push(self.message(Says { facts, range, ..Says::default() }));
        }
        messages
    }

    fn message(&mut self, says: Says) -> Message {
        self.number += 1;
        Message { server: self.server, number: self.number, says }
    }

    fn take_changed(&mut self, left: &mut usize) -> Vec<Change> {
        let (mut facts, mut bytes) = (Vec::new(), 0);
        while bytes < PEERS_MESSAGE_BYTES
            && let Some(name) = self.changed.pop_first()
        {
            let value = self.facts.get(&name).cloned();
            bytes += FACT_BYTES + name.len() + value.as_ref().map_or(0, |value| value.get().len());
            facts.push((name, value));
        }
        *left = left.saturating_sub(bytes);
        facts
    }

    /// Facts after a name, and the last one's name if there are more.
    fn slice(&self, after: &str, left: &mut usize) -> (Vec<Change>, Option<Box<str>>) {
        let (mut facts, mut bytes) = (Vec::new(), 0);
        let mut rest = self.facts.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        while bytes < PEERS_MESSAGE_BYTES
            && let Some((name, value)) = rest.next()
        {
            bytes += FACT_BYTES + name.len() + value.get().len();
            facts.push((name.clone(), Some(value.clone())));
        }
        *left = left.saturating_sub(bytes.max(1));
        let to = rest.next().and(facts.last()).map(|(name, _)| name.clone());
        (facts, to)
    }

    #[cfg(test)]
    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }
}
