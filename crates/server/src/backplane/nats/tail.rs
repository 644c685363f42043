//! What a server knows of a channel to which it appends, up to the newest message: its numbers, its oldest messages, its
//! keys, and what of them may not be in the index yet. Must not know who waits for what is appended.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tidewire_core::ChannelName;
use tidewire_core::limits::{Durability, Policy, StateKind};

use super::index::{self, Held, Note, Used};
use super::ledger::{Oldest, Summary};
use super::library::{Library, Newest};
use super::office::Job;
use super::wire::lock;
use super::words::{EVENTS_MAX, Head, Kind, Message, before};
use crate::backplane::broker::BrokerError;

/// How many keys of a state are known without being asked for.
const REMEMBERED_KEYS: usize = 4_096;
/// How much is read at once.
const READ_MESSAGES: usize = 256;
const READ_BYTES: usize = 1 << 20;

/// What is known of the channel up to its newest message.
#[derive(Default)]
pub(super) struct Tail {
    /// What is expected to be the newest sequence.
    pub(super) expected: u64,
    pub(super) head: Option<Head>,
    pub(super) oldest: Oldest,
    /// What may not be in the index yet.
    pub(super) unindexed: VecDeque<Unindexed>,
    pub(super) receipts: HashMap<Box<str>, Used>,
    pub(super) state: HashMap<Box<str>, Option<Held>>,
    /// How many events are deleted.
    pub(super) deleted: u64,
}

/// What of a message may not be in the index.
pub(super) struct Unindexed {
    pub(super) sequence: u64,
    /// The newest offset before it, and in it.
    prev: u64,
    newest: u64,
    /// Its idempotency keys.
    keys: Vec<Box<str>>,
    /// What nobody here has begun to write.
    pub(super) notes: Vec<Note>,
    pub(super) is_written: Arc<AtomicBool>,
}

impl Tail {
    /// Reads how the channel stands, and what of it may not be in the index.
    pub(super) async fn open(
        library: &Library,
        name: &ChannelName,
        is_keyed: bool,
    ) -> Result<Self, BrokerError> {
        let mut tail = Self { oldest: Oldest::none(), ..Self::default() };
        let Some(Newest { expected, message }) = library.newest(name, is_keyed).await? else {
            return Ok(tail);
        };
        let head = message.head.clone();
        if head.first != 0 {
            tail.oldest = Oldest::default();
        }
        // What was lost may have been lost of the index only.
        let indexed = if head.base < library.meta.base() { head.floor } else { head.indexed };
        let (from, to) = (library.meta.sequence(indexed) + 1, message.sequence);
        if expected != 0 && indexed < head.prev {
            let mut next = from;
            while next < to {
                let found = library.messages(name, (next, to), READ_MESSAGES, READ_BYTES).await?;
                for message in found.iter().filter(|message| message.sequence < to) {
                    tail.note(library, name, message)?;
                }
                next = found.last().map_or(to, |last| last.sequence + 1);
            }
        }
        if expected != 0 {
            tail.note(library, name, &message)?;
        }
        tail.deleted = head.floor_count;
        (tail.expected, tail.head) = (expected, Some(head));
        Ok(tail)
    }

    /// Others have appended: reads what. True if all that was known is expired.
    pub(super) async fn catch_up(
        &mut self,
        library: &Library,
        name: &ChannelName,
        is_keyed: bool,
    ) -> Result<bool, BrokerError> {
        let newest = library.newest(name, is_keyed).await?;
        let newest = newest.filter(|newest| newest.expected != 0);
        let Some(Newest { message: newest, .. }) = newest else {
            // All that it had has expired.
            *self = Self::open(library, name, is_keyed).await?;
            return Ok(true);
        };
        let known = self.expected;
        if newest.sequence < known {
            return Err(BrokerError("it has lost what it had".to_owned()));
        }
        let mut next = known + 1;
        while next <= newest.sequence {
            let follows = self
                .head
                .as_ref()
                .is_some_and(|head| (head.head, head.born) == (newest.head.prev, newest.head.born));
            let found = if known != 0 && follows {
                vec![newest.clone()]
            } else {
                library.messages(name, (next, newest.sequence), READ_MESSAGES, READ_BYTES).await?
            };
            for message in &found {
                self.note(library, name, message)?;
                self.take(message.sequence, message.head.clone(), Summary::of(message)?);
            }
            next = found.last().map_or(u64::MAX, |last| last.sequence + 1);
        }
        Ok(false)
    }

    /// Asks the index for what it takes to decide on these jobs.
    pub(super) async fn look_up(
        &mut self,
        library: &Library,
        name: &ChannelName,
        jobs: &VecDeque<Job>,
        sequences: &Mutex<HashMap<String, u64>>,
        asked: &mut HashSet<Box<str>>,
    ) -> Result<(), BrokerError> {
        if self.head.is_none() {
            return Ok(());
        }
        if lock(sequences).len() > REMEMBERED_KEYS {
            lock(sequences).clear();
        }
        let (mut receipts, mut keys) = (Vec::new(), Vec::new());
        for job in jobs.iter().take(EVENTS_MAX) {
            let Job::Append { append, .. } = job else { break };
            let receipt =
                append.new.idempotency_key.as_ref().filter(|key| !self.receipts.contains_key(&***key));
            receipts.extend(receipt.filter(|key| asked.insert((*key).clone())).cloned());
            let key = append.new.key.as_ref().filter(|key| !self.state.contains_key(&***key));
            keys.extend(key.filter(|_| holds_state(&append.policy)).cloned());
        }
        let receipts = receipts.into_iter().map(|key| async move {
            let found = library.find(&index::receipt_subject(&library.prefix, name, &key)).await?;
            Ok::<_, BrokerError>((key, found.map(|(_, data)| Used::decode(&data)).transpose()?))
        });
        let keys = keys.into_iter().map(|key| async move {
            let subject = index::state_subject(&library.prefix, name, &key);
            let found = library.find(&subject).await?;
            let sequence = found.as_ref().map_or(0, |(sequence, _)| *sequence);
            lock(sequences).insert(subject, sequence);
            Ok::<_, BrokerError>((
                key,
                found.map(|(_, data)| Held::decode(data).map(Held::without_record)).transpose()?,
            ))
        });
        let (receipts, keys) = futures_util::future::try_join(
            futures_util::future::try_join_all(receipts),
            futures_util::future::try_join_all(keys),
        )
        .await?;
        self.receipts.extend(receipts.into_iter().filter_map(|(key, used)| Some((key, used?))));
        self.state.extend(keys);
        Ok(())
    }

    /// Reads what is in more of the oldest messages.
    pub(super) async fn read_oldest(
        &mut self,
        library: &Library,
        name: &ChannelName,
    ) -> Result<(), BrokerError> {
        let Some(head) = &self.head else { return Ok(()) };
        let Some(from) = self.oldest.unread_from(library.meta.sequence(head.first)) else { return Ok(()) };
        let found = library.messages(name, (from, self.expected), READ_MESSAGES, READ_BYTES).await?;
        let summaries = found.iter().map(Summary::of).collect::<Result<Vec<_>, _>>()?;
        self.oldest.extend(summaries, self.expected);
        Ok(())
    }

    /// A message is there: what is to be in the index is known until it is.
    pub(super) fn note(
        &mut self,
        library: &Library,
        name: &ChannelName,
        message: &Message,
    ) -> Result<(), BrokerError> {
        let (head, mut notes, mut keys) = (&message.head, Vec::new(), Vec::new());
        let prefix = &library.prefix;
        if head.kind == Kind::Deleted {
            self.unindexed.clear();
            self.receipts.clear();
            self.state.clear();
        }
        for (index, entry) in message.entries.iter().enumerate() {
            let (offset, (number, _)) = (message.offset(index), message.totals(index)?);
            if let Some((key, digest)) = &entry.receipt {
                let used = Used::new(offset, head.time, number, *digest);
                let subject = index::receipt_subject(prefix, name, key);
                notes.push(Note { subject, offset, data: used.encode(), ttl_ms: head.receipts_ms });
                self.receipts.insert(key.clone(), used);
                keys.push(key.clone());
            }
            if !entry.is_state {
                continue;
            }
            let event = message.event(name, library.epoch(name), index)?;
            let Some(key) = event.key.clone() else { continue };
            let size = (!event.is_tombstone()).then(|| event.size_bytes() as u64);
            let held = Held { offset, time: head.time, number, size, record: entry.record.clone() };
            let ttl_ms = if size.is_some() { 0 } else { head.ttl_ms };
            let subject = index::state_subject(prefix, name, &key);
            notes.retain(|note| note.subject != subject);
            notes.push(Note { subject, offset, data: held.encode(), ttl_ms });
            self.state.insert(key, Some(held.without_record()));
        }
        while self.unindexed.front().is_some_and(|first| first.newest <= head.indexed) {
            self.unindexed.pop_front();
        }
        if message.entries.iter().any(|entry| entry.is_state) {
            notes.push(library.numbers_note(name, message));
        }
        if !notes.is_empty() {
            let (sequence, prev, newest) = (message.sequence, head.prev, head.head);
            let is_written = Arc::new(AtomicBool::new(false));
            self.unindexed.push_back(Unindexed { sequence, prev, newest, keys, notes, is_written });
        }
        Ok(())
    }

    /// A message is the newest.
    pub(super) fn take(&mut self, sequence: u64, head: Head, summary: Summary) {
        if head.kind == Kind::Deleted {
            self.oldest = Oldest::none();
        }
        self.oldest.push(summary, head.floor_count);
        (self.expected, self.head) = (sequence, Some(head));
    }

    /// Up to which offset everything is in the index.
    pub(super) fn indexed(&self) -> u64 {
        let newest = || self.head.as_ref().map_or(before(), |head| head.head);
        self.unindexed.front().map_or_else(newest, |first| first.prev)
    }

    pub(super) fn forget_written(&mut self) {
        while self.unindexed.front().is_some_and(|first| first.is_written.load(Ordering::Acquire)) {
            let Some(first) = self.unindexed.pop_front() else { return };
            for key in first.keys {
                // It may have been used anew.
                if self.receipts.get(&key).is_some_and(|used| used.receipt.offset <= first.newest) {
                    self.receipts.remove(&key);
                }
            }
        }
    }

    pub(super) fn forget_keys(&mut self) {
        let indexed = self.indexed();
        if self.state.len() > REMEMBERED_KEYS {
            self.state.retain(|_, held| held.as_ref().is_some_and(|held| held.offset > indexed));
        }
        if self.receipts.len() > EVENTS_MAX {
            self.receipts.retain(|_, used| used.receipt.offset > indexed);
        }
    }
}

/// Whether a policy has a state of keys kept.
pub(super) fn holds_state(policy: &Policy) -> bool {
    policy.state == StateKind::Keyed && policy.durability != Durability::None
}
