//! What deleted channels have left in the store, until it is swept away piece by piece. Must not know how a
//! channel is deleted.

use fjall::{Keyspace, UserKey};

use super::{Disk, Store, StoreError};
use crate::store::commit::Order;

/// How many keys one call sweeps away.
const KEYS: usize = 16_384;
const PREFIX: &[u8] = b"deleted ";

/// Keys of each kind that nobody needs.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    events: Vec<UserKey>,
    receipts: Vec<UserKey>,
    state: Vec<UserKey>,
}

/// Says that the channel with this number is deleted.
pub(super) fn key(number: u64) -> Vec<u8> {
    [PREFIX, &number.to_be_bytes()].concat()
}

/// Has some of what deleted channels have left swept away, unless that is under way.
pub(crate) fn sweep(disk: &Disk) {
    if !disk.begin_sweep() {
        return;
    }
    match disk.store().and_then(|store| store.remains()) {
        Ok(Some(order)) => disk.commits.push(order),
        Ok(None) => disk.note_swept(),
        Err(error) => {
            disk.note_swept();
            eprintln!("tidewire: deleted channels cannot be swept away: {error}");
        }
    }
}

impl Store {
    /// The numbers of deleted channels that have something left, or had a moment ago.
    pub(super) fn deleted(&self) -> impl Iterator<Item = Result<u64, StoreError>> {
        self.meta.prefix(PREFIX).map(|entry| {
            let key = entry.key().map_err(|error| StoreError::of(&error, "reading the log"))?;
            let number = key.get(PREFIX.len()..).and_then(|number| number.try_into().ok());
            number.map(u64::from_be_bytes).ok_or_else(StoreError::unreadable)
        })
    }

    fn remains(&self) -> Result<Option<Order>, StoreError> {
        let Some(number) = self.deleted().next().transpose()? else { return Ok(None) };
        let mut left = KEYS;
        let mut some = |keyspace: &Keyspace| -> Result<Vec<UserKey>, StoreError> {
            let keys = keyspace.prefix(number.to_be_bytes()).take(left).map(|entry| entry.key());
            let keys: Vec<UserKey> =
                keys.collect::<Result<_, _>>().map_err(|error| StoreError::of(&error, "reading the log"))?;
            left -= keys.len();
            Ok(keys)
        };
        let keys = Remains {
            events: some(&self.events)?,
            receipts: some(&self.receipts)?,
            state: some(&self.state)?,
        };
        Ok(Some(Order::Sweep { number, keys, is_all: left > 0 }))
    }
}

impl Remains {
    pub(super) fn len(&self) -> usize {
        self.events.len() + self.receipts.len() + self.state.len()
    }

    pub(super) fn remove(&self, store: &Store, batch: &mut fjall::OwnedWriteBatch) {
        let all =
            [(&store.events, &self.events), (&store.receipts, &self.receipts), (&store.state, &self.state)];
        for (keyspace, keys) in all {
            keys.iter().for_each(|key| batch.remove(keyspace, key.clone()));
        }
    }
}
