//! Which events on disk retention no longer covers. They are found without reading what lies between, and
//! erased by the committing thread. Must not erase anything itself.

use std::sync::Arc;

use tidewire_core::Timestamp;
use tidewire_core::limits::Retention;
use tidewire_core::record::Summary;

use super::commit::{Erasure, Order};
use super::{Disk, Store, StoreError};
use crate::hub::{Channel, Hub};

/// How many channels that are not in memory are looked at in one call.
const CHANNELS: usize = 500;
/// How many events of a channel one call erases.
const ERASED: u64 = 65_536;
/// While so many bytes wait to be written, nothing is erased.
const BUSY_BYTES: usize = 4 << 20;

/// What a channel has on disk, as far as retention goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) number: u64,
    /// The newest offset that is erased, and the running total up to there.
    pub(crate) erased: u64,
    pub(crate) erased_total: u64,
    pub(crate) head: u64,
    pub(crate) newest: Summary,
    /// The oldest event on disk, if it is known.
    pub(crate) oldest: Option<Summary>,
}

/// Has expired events of the channel erased.
pub(crate) fn sweep_channel(disk: &Disk, channel: &Arc<Channel>, now: Timestamp) {
    if disk.commits.bytes() > BUSY_BYTES || disk.failure().is_some() {
        return;
    }
    let Some(mut extent) = channel.extent() else { return };
    let outcome = disk.store().and_then(|store| {
        if extent.oldest.is_none() {
            extent.oldest = store.summary(extent.number, extent.erased + 1)?;
            channel.note_oldest(extent.erased, extent.oldest);
        }
        due(&store, channel.retention(), &extent, now)
    });
    match outcome {
        Ok(None) => {}
        Ok(Some(erasure)) => {
            if channel.begin_erasing(erasure) {
                disk.commits.push(Order::Erase { channel: Arc::clone(channel), erasure });
            }
        }
        Err(error) => eprintln!("tidewire: old events of {} cannot be erased: {error}", channel.name()),
    }
}

/// Looks at the next channels that are on disk only, and brings into memory those that have something to
/// erase. `after` is where the last call ended.
pub(crate) fn sweep_store(hub: &Hub, disk: &Disk, now: Timestamp, after: &mut String) {
    let outcome = disk.store().and_then(|store| {
        let channels = store.channels_after(after, CHANNELS)?;
        *after = channels.last().map(|(name, _)| name.to_string()).unwrap_or_default();
        for (name, record) in channels {
            if hub.is_in_memory(name.as_str()) {
                continue;
            }
            let Some(stored) = store.channel(name.as_str())? else { continue };
            let oldest = store.summary(record.number, record.floor + 1)?;
            let extent = Extent {
                number: record.number,
                erased: record.floor,
                erased_total: record.floor_total,
                head: stored.head,
                newest: stored.newest,
                oldest,
            };
            if due(&store, &hub.policy_of(name.as_str()).retention, &extent, now)?.is_some() {
                // A failure is one of too many channels; there is another call.
                let _ = hub.open(&name);
            }
        }
        Ok(())
    });
    if let Err(error) = outcome {
        *after = String::new();
        eprintln!("tidewire: the channels on disk cannot be looked through: {error}");
    }
}

/// What to erase of a channel, if anything.
fn due(
    store: &Store,
    retention: &Retention,
    extent: &Extent,
    now: Timestamp,
) -> Result<Option<Erasure>, StoreError> {
    let Some(oldest) = extent.oldest else { return Ok(None) };
    let too_many = |offset: u64| extent.head - offset >= retention.events as u64;
    let too_large = |total_before: u64| extent.newest.total - total_before > retention.bytes as u64;
    let too_old = |time: Timestamp| time.0.saturating_add(retention.age_ms) <= now.0;
    let first = extent.erased + 1;
    if !too_many(first) && !too_large(extent.erased_total) && !too_old(oldest.time) {
        return Ok(None);
    }
    let missing = || StoreError::Damaged("an event is missing".to_owned());
    let summary = |offset: u64| store.summary(extent.number, offset)?.ok_or_else(missing);
    // If an event goes, so do all before it: search for the first that stays.
    let (mut low, mut high) = (first, (extent.head + 1).min(first + ERASED));
    while low < high {
        let middle = low + (high - low) / 2;
        let goes = too_many(middle) || too_old(summary(middle)?.time) || {
            let before = if middle == first { extent.erased_total } else { summary(middle - 1)?.total };
            too_large(before)
        };
        if goes { low = middle + 1 } else { high = middle }
    }
    let floor = low - 1;
    if floor == extent.erased {
        return Ok(None);
    }
    Ok(Some(Erasure { erased: extent.erased, floor, floor_total: summary(floor)?.total }))
}
