//! Idempotency receipts that nobody remembers any more, by age or by how many events came since: they go when the
//! store rewrites their files. Must not decide whether a key is remembered; that is the receipt's own word.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use fjall::compaction::filter::{CompactionFilter, Context, Factory, ItemAccessor, Verdict};
use tidewire_core::log::receipts::Receipt;

use super::lock;
use crate::clock::wall_clock;

/// What is forgotten of all channels.
#[derive(Debug, Clone)]
pub(crate) struct Forgotten {
    /// The longest time for which any channel remembers.
    age_ms: u64,
    /// Of channels by number, the newest offset whose key is forgotten. There are no more of these than channels
    /// with keys; what is not known here after a restart goes later.
    floors: Arc<Mutex<HashMap<u64, u64>>>,
}

pub(super) type FilterFactories = Arc<dyn Fn(&str) -> Option<Arc<dyn Factory>> + Send + Sync>;

impl Forgotten {
    /// Whatever is older than this.
    pub(crate) fn after(age_ms: u64) -> Self {
        Self { age_ms, floors: Arc::default() }
    }

    /// Nothing.
    pub(super) fn nothing() -> Self {
        Self::after(u64::MAX)
    }

    /// A channel's keys up to an offset are forgotten.
    pub(super) fn note(&self, channel: u64, floor: u64) {
        lock(&self.floors).insert(channel, floor);
    }

    /// The channel is gone, and what it had is swept away.
    pub(super) fn note_deleted(&self, channel: u64) {
        lock(&self.floors).remove(&channel);
    }

    pub(super) fn filters(&self) -> FilterFactories {
        let forgotten = self.clone();
        Arc::new(move |keyspace| {
            let factory = || Arc::new(forgotten.clone()) as Arc<dyn Factory>;
            (keyspace == "receipts").then(factory)
        })
    }
}

impl Factory for Forgotten {
    fn name(&self) -> &str {
        "forgotten receipts"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        let oldest_ms = wall_clock().0.saturating_sub(self.age_ms);
        Box::new(Filter { oldest_ms, floors: Arc::clone(&self.floors), channel: 0, floor: 0 })
    }
}

struct Filter {
    oldest_ms: u64,
    floors: Arc<Mutex<HashMap<u64, u64>>>,
    /// The channel that was looked up last: a file has one after the other.
    channel: u64,
    floor: u64,
}

impl Filter {
    fn floor_of(&mut self, key: &[u8]) -> u64 {
        let Some((number, _)) = key.split_first_chunk::<8>() else { return 0 };
        let channel = u64::from_be_bytes(*number);
        if channel != self.channel {
            (self.channel, self.floor) = (channel, lock(&self.floors).get(&channel).copied().unwrap_or(0));
        }
        self.floor
    }
}

impl CompactionFilter for Filter {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> Result<Verdict, fjall::LsmError> {
        let floor = self.floor_of(item.key());
        let receipt = Receipt::decode(&item.value()?);
        let is_forgotten =
            receipt.is_some_and(|receipt| receipt.time.0 < self.oldest_ms || receipt.offset <= floor);
        // An older one of the same key that comes to light is as forgotten.
        Ok(if is_forgotten { Verdict::Destroy } else { Verdict::Keep })
    }
}

#[cfg(test)]
mod tests {
    use tidewire_core::Timestamp;

    use super::super::{Store, text_key};
    use super::*;

    #[test]
    fn what_is_forgotten_goes_from_the_disk_and_nothing_else() {
        let home = tempfile::tempdir().expect("a directory");
        let forgotten = Forgotten::after(1_000_000);
        let store = Store::open(home.path(), forgotten.clone()).expect("a store");
        let now = wall_clock();
        let ages = [(1, 5, 0), (1, 6, 0), (2, 5, 0), (3, 5, 0), (4, 5, 2_000_000)];
        for (channel, offset, age_ms) in ages {
            let receipt = Receipt { offset, time: Timestamp(now.0 - age_ms), digest: [0; 20] };
            let key = text_key(channel, &format!("key of {offset}"));
            store.receipts.insert(key, &receipt.encode()[..]).expect("written");
        }
        forgotten.note(1, 5);
        forgotten.note(3, 5);
        forgotten.note_deleted(3);
        store.receipts.rotate_memtable_and_wait().expect("a file");
        store.receipts.major_compact().expect("rewritten");
        let is_there = |(channel, offset, _)| {
            store.receipt(channel, &format!("key of {offset}")).expect("readable").is_some()
        };
        assert_eq!(ages.map(is_there), [false, true, true, true, false]);
    }
}
