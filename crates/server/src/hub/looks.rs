//! Looking at channels for those who run the server: which are the busiest, and a page of all. On a thread of its own,
//! locking one stripe or channel at a time. Must not know who looks, nor how it is shown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use serde::Serialize;
use tidewire_core::channel::is_reserved;
use tidewire_core::limits::Durability;
use tidewire_core::{ChannelName, EventId, Problem, Timestamp};

use super::{Channel, Hub, Keeper, lock};

/// How many channels that are on disk only are looked up for a page at a time.
const STORED_AT_ONCE: usize = 256;
/// A rate that was measured longer ago says nothing of now.
const RATE_AGE_MS: u64 = 15_000;

/// What is counted of one channel, and what of it was seen at the last look.
#[derive(Debug, Default)]
pub(super) struct Tally {
    subscribers: AtomicU32,
    delivered: AtomicU64,
    looked_ms: AtomicU64,
    looked_head: AtomicU64,
    looked_delivered: AtomicU64,
    /// Events per second between the last two looks, as the bits of an `f64`.
    published_rate: AtomicU64,
    delivered_rate: AtomicU64,
}

/// A channel as the statistics show it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Busy {
    #[serde(serialize_with = "as_text")]
    pub(crate) channel: ChannelName,
    pub(crate) published_per_second: f64,
    pub(crate) delivered_per_second: f64,
    pub(crate) subscribers: u32,
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// Which page of the channels somebody wants.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) prefix: String,
    pub(crate) after: String,
    pub(crate) limit: usize,
}

/// That page.
#[derive(Debug, Serialize)]
pub(crate) struct Listed {
    channels: Vec<Row>,
    more: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    channel: String,
    durability: &'static str,
    subscribers: u32,
    events: usize,
    bytes: usize,
    first: Option<End>,
    last: Option<End>,
    published_per_second: Option<f64>,
}

/// The first or last event that is retained. Its time may be known to the disk only.
#[derive(Debug, Serialize)]
struct End {
    id: String,
    time: Option<String>,
}

impl Channel {
    pub(crate) fn note_subscribed(&self) {
        self.tally.subscribers.fetch_add(1, Relaxed);
    }

    pub(crate) fn note_unsubscribed(&self) {
        self.tally.subscribers.fetch_sub(1, Relaxed);
    }

    /// So many events went to sockets: once for all sockets of a shard that get the same bytes.
    pub(crate) fn note_delivered(&self, events: usize) {
        self.tally.delivered.fetch_add(events as u64, Relaxed);
    }

    /// Whether anybody listens to it.
    pub(crate) fn has_subscribers(&self) -> bool {
        self.tally.subscribers.load(Relaxed) > 0
    }

    fn look(&self, now_ms: u64) -> Busy {
        let state = lock(&self.state);
        let (head, (events, bytes)) = (state.log.head(), self.retained_in(&state));
        drop(state);
        let tally = &self.tally;
        let delivered = tally.delivered.load(Relaxed);
        let (since_ms, head_before) =
            (tally.looked_ms.swap(now_ms, Relaxed), tally.looked_head.swap(head, Relaxed));
        let delivered_before = tally.looked_delivered.swap(delivered, Relaxed);
        let seconds = now_ms.saturating_sub(since_ms) as f64 / 1000.0;
        // The first look after a pause has nothing to compare with.
        let is_rate = since_ms > 0 && seconds > 0.0 && now_ms - since_ms <= RATE_AGE_MS;
        let rate =
            |now: u64, before: u64| if is_rate { now.saturating_sub(before) as f64 / seconds } else { 0.0 };
        let (published, deliveries) = (rate(head, head_before), rate(delivered, delivered_before));
        tally.published_rate.store(published.to_bits(), Relaxed);
        tally.delivered_rate.store(deliveries.to_bits(), Relaxed);
        Busy {
            channel: self.name().clone(),
            published_per_second: published,
            delivered_per_second: deliveries,
            subscribers: tally.subscribers.load(Relaxed),
            events,
            bytes,
        }
    }

    fn row(&self, now_ms: u64) -> Row {
        let state = lock(&self.state);
        let (events, bytes) = self.retained_in(&state);
        let (head, floor) = (state.log.head(), self.floor_in(&state));
        let mut oldest = Vec::new();
        let in_memory = state.log.read(floor, 1, usize::MAX, &mut oldest).is_ok();
        let first_time = oldest.first().filter(|_| in_memory).map(|event| event.time);
        let last_time = state.log.latest().map(|event| event.time);
        drop(state);
        let tally = &self.tally;
        let is_fresh = now_ms.saturating_sub(tally.looked_ms.load(Relaxed)) <= RATE_AGE_MS;
        Row {
            channel: self.name().to_string(),
            durability: match self.policy().durability {
                Durability::Disk => "disk",
                Durability::Memory => "memory",
                Durability::None => "none",
                Durability::Backplane => "backplane",
            },
            subscribers: tally.subscribers.load(Relaxed),
            events,
            bytes,
            first: (events > 0).then(|| End::new(self.id(floor + 1), first_time)),
            last: (events > 0).then(|| End::new(self.id(head), last_time)),
            published_per_second: is_fresh.then(|| f64::from_bits(tally.published_rate.load(Relaxed))),
        }
    }
}

fn as_text<S: serde::Serializer>(name: &ChannelName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}

impl End {
    fn new(id: EventId, time: Option<Timestamp>) -> Self {
        Self { id: id.to_string(), time: time.map(|time| time.to_string()) }
    }
}

impl Hub {
    /// Looks at all channels but the server's own, one after the other.
    pub(crate) fn look(&self, now_ms: u64, mut found: impl FnMut(Busy)) {
        for stripe in &self.stripes {
            let channels: Vec<Arc<Channel>> = lock(stripe).values().cloned().collect();
            for channel in channels.iter().filter(|channel| !channel.name().is_reserved()) {
                found(channel.look(now_ms));
            }
        }
    }

    /// A page of the channels, by name: those that are known, and those on disk that nobody has asked for yet.
    ///
    /// # Errors
    /// If the disk cannot be read.
    pub(crate) fn list(&self, wanted: &Wanted) -> Result<Listed, Problem> {
        let Wanted { prefix, after, limit } = wanted;
        let fits = |name: &str| name > after.as_str() && name.starts_with(prefix) && !is_reserved(name);
        let mut pages: BTreeMap<ChannelName, Option<Arc<Channel>>> = BTreeMap::new();
        for stripe in &self.stripes {
            for (name, channel) in lock(stripe).iter().filter(|(name, _)| fits(name.as_str())) {
                let is_beyond =
                    pages.len() > *limit && pages.last_key_value().is_some_and(|(last, _)| last < name);
                if !is_beyond {
                    pages.insert(name.clone(), Some(Arc::clone(channel)));
                    if pages.len() > limit + 1 {
                        pages.pop_last();
                    }
                }
            }
        }
        for name in self.stored_names(wanted)? {
            pages.entry(name).or_insert(None);
        }
        let more = pages.len() > *limit;
        let now_ms = self.clock.now_ms();
        let mut channels = Vec::new();
        for (name, channel) in pages.into_iter().take(*limit) {
            match channel {
                Some(channel) => channels.push(channel.row(now_ms)),
                None => channels.extend(self.stored_row(&name)?),
            }
        }
        Ok(Listed { channels, more })
    }

    /// The names on disk that could be on the page.
    fn stored_names(&self, Wanted { prefix, after, limit }: &Wanted) -> Result<Vec<ChannelName>, Problem> {
        let mut names = Vec::new();
        // Of those at a backplane, this node shows what it follows.
        let Some(disk) = self.disk() else { return Ok(names) };
        let store = disk.store().map_err(|error| error.problem())?;
        let mut from = after.max(prefix).clone();
        if prefix > after && store.channel(prefix).map_err(|error| error.problem())?.is_some() {
            names.extend(ChannelName::new(prefix).ok());
        }
        loop {
            let found = store
                .channels_after(&from, STORED_AT_ONCE.min(limit + 1))
                .map_err(|error| error.problem())?;
            let Some((last, _)) = found.last() else { return Ok(names) };
            from = last.to_string();
            for (name, _) in found {
                if !name.as_str().starts_with(prefix) || names.len() > *limit {
                    return Ok(names);
                }
                if !name.is_reserved() {
                    names.push(name);
                }
            }
        }
    }

    /// A channel that is on disk, and not in memory.
    fn stored_row(&self, name: &ChannelName) -> Result<Option<Row>, Problem> {
        let Some(Keeper::Disk(disk)) = self.keeper_of(self.policy_of(name.as_str())) else { return Ok(None) };
        let store = disk.store().map_err(|error| error.problem())?;
        let Some(stored) = store.channel(name.as_str()).map_err(|error| error.problem())? else {
            return Ok(None);
        };
        let floor = stored
            .record
            .floor
            .max(stored.head.saturating_sub(self.policy_of(name.as_str()).retention.events as u64));
        let first = store.summary(stored.record.number, floor + 1).map_err(|error| error.problem())?;
        let epoch = self.epoch(name.as_str());
        let end = |offset: u64, time| End::new(EventId { epoch, offset }, time);
        let events = (stored.head - floor) as usize;
        Ok(Some(Row {
            channel: name.to_string(),
            durability: "disk",
            subscribers: 0,
            events,
            bytes: stored.newest.total.saturating_sub(stored.record.floor_total) as usize,
            first: (events > 0).then(|| end(floor + 1, first.map(|first| first.time))),
            last: (events > 0).then(|| end(stored.head, Some(stored.newest.time))),
            published_per_second: None,
        }))
    }
}
