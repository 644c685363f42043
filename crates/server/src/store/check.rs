//! Reads a data directory that no server uses, all of it, and says whether it is sound. Must not know how
//! a server would use it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use anyhow::{anyhow, bail, ensure};
use tidewire_core::log::receipts::Receipt;
use tidewire_core::record::{self, Summary};
use tidewire_core::{ChannelName, Epoch, EventId};

use super::forgotten::Forgotten;
use super::{ChannelRecord, Directory, Store, StoreError, decode_number, offset_of};

/// What a sound data directory holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Channels.
    pub channels: u64,
    /// Events.
    pub events: u64,
    /// Bytes of their data, names, keys and content types.
    pub bytes: u64,
    /// Remembered idempotency keys, expired ones included.
    pub receipts: u64,
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { channels, events, bytes, receipts } = self;
        write!(f, "sound; {channels} channels, {events} events of {bytes} bytes, {receipts} idempotency keys")
    }
}

/// Reads everything in a data directory. A write that was under way when its server died is cut off, as
/// the next start would do.
///
/// # Errors
/// Says what is damaged, or why the directory cannot be read; that a server uses it, for one.
pub fn check(path: &Path) -> anyhow::Result<Checked> {
    let directory = Directory::existing(path)?;
    let store = Store::open_in(directory, Forgotten::nothing())?;
    match catch_unwind(AssertUnwindSafe(|| check_all(&store))) {
        Ok(checked) => checked,
        Err(_) => bail!("{} is damaged: its files make no sense", path.display()),
    }
}

fn check_all(store: &Store) -> anyhow::Result<Checked> {
    let told = |error: StoreError| anyhow!("{}: {error}", store.path().display());
    let entry = |entry: fjall::Guard| {
        entry.into_inner().map_err(|error| told(StoreError::of(&error, "reading the log")))
    };
    store.totals().map_err(told)?;
    let mut checked = Checked::default();
    let mut channels: HashMap<u64, (ChannelName, ChannelRecord)> = HashMap::new();
    for guard in store.channels.iter() {
        let (key, value) = entry(guard)?;
        let name = std::str::from_utf8(&key).ok().and_then(|name| ChannelName::new(name).ok());
        let name = name.ok_or_else(|| told(StoreError::unreadable()))?;
        let record = ChannelRecord::decode(&value).map_err(told)?;
        ensure!(
            channels.insert(record.number, (name.clone(), record)).is_none(),
            "two channels have the number of {name}"
        );
        checked.channels += 1;
    }
    let deleted: HashSet<u64> = store.deleted().collect::<Result<_, _>>().map_err(told)?;
    let mut before: Option<(u64, u64, Summary)> = None;
    for guard in store.events.iter() {
        let (key, value) = entry(guard)?;
        let number = decode_number(&key[..8.min(key.len())]).map_err(told)?.swap_bytes();
        let offset = offset_of(&key).map_err(told)?;
        let Some((name, channel)) = channels.get(&number) else {
            if deleted.contains(&number) {
                continue;
            }
            bail!("there is an event of a channel that is not known ({number})");
        };
        let id = EventId { epoch: Epoch::derive(0, name.as_str()), offset };
        let event = record::decode(name, id, &value);
        let event = event.map_err(|_| anyhow!("the event {offset} of {name} is not readable"))?;
        let summary = record::summary(&value).map_err(|_| told(StoreError::unreadable()))?;
        let (expected, total, time) = match before {
            Some((same, offset, summary)) if same == number => (offset + 1, summary.total, summary.time),
            _ => (channel.floor + 1, channel.floor_total, summary.time),
        };
        ensure!(offset == expected, "the event {expected} of {name} is missing");
        ensure!(
            summary.total == total + event.size_bytes() as u64 && summary.time >= time,
            "the event {offset} of {name} does not follow the one before"
        );
        before = Some((number, offset, summary));
        checked.events += 1;
        checked.bytes += event.size_bytes() as u64;
    }
    for guard in store.receipts.iter() {
        let (_, value) = entry(guard)?;
        ensure!(Receipt::decode(&value).is_some(), "an idempotency receipt is not readable");
        checked.receipts += 1;
    }
    Ok(checked)
}
