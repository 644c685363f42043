//! All channels of this server: their logs, and which shards want to hear of new events.
//! Must not know connections or transports. Everything that appends to a log passes through here.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidewire_core::cursor::Start;
use tidewire_core::error::{Code, Problem};
use tidewire_core::limits::{Limits, Retention};
use tidewire_core::log::{Appended, ChannelLog, Evicted, Position};
use tidewire_core::{ChannelName, Epoch, Event, EventId, NewEvent, Timestamp};

use crate::settings::Settings;
use crate::shard::{Inbox, Message};

/// Lookups of different channels rarely meet on one lock.
const STRIPES: usize = 64;
/// In how many calls a sweep gets through all channels: at a call per second, what has expired may
/// be there that many seconds longer, unless its channel is published to.
pub(crate) const SWEEPS: usize = 4;

/// All channels.
#[derive(Debug)]
pub struct Hub {
    /// The log's own random number; ids of another run are unknown here.
    log_number: u64,
    settings: Arc<Settings>,
    stripes: Vec<Mutex<HashMap<ChannelName, Arc<Channel>>>>,
    hasher: RandomState,
    inboxes: Vec<Arc<Inbox>>,
    channels: AtomicUsize,
    history_bytes: AtomicUsize,
    /// The stripe at which the next relief begins, so that it is not always the same channels' turn.
    relieved: AtomicUsize,
    swept: AtomicUsize,
    /// No forgotten channel had a higher offset, so a channel that begins here repeats no id.
    floor: AtomicU64,
}

/// One channel: its log, and who wants to hear of it.
#[derive(Debug)]
pub struct Channel {
    name: ChannelName,
    epoch: Epoch,
    retention: Arc<Retention>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    log: ChannelLog,
    interests: Vec<Interest>,
    /// Set once the channel left the hub; whoever still holds it must look it up again.
    forgotten: bool,
}

/// A shard with subscribers of the channel.
#[derive(Debug)]
struct Interest {
    shard: u16,
    /// The channel's slot in that shard.
    slot: u32,
    /// The shard was told and has not looked yet.
    told: bool,
    /// The shard has taken everything up to here for its fan-out.
    taken: u64,
}

/// What became of a publish.
#[derive(Debug, Clone, Copy)]
pub struct Published {
    /// Id, time, and whether it was a retry.
    pub appended: Appended,
    /// How many events the slowest shard has yet to take; publishers slow down by it.
    pub backlog: u64,
}

impl Hub {
    pub(crate) fn new(settings: Arc<Settings>, inboxes: Vec<Arc<Inbox>>) -> Self {
        let hasher = RandomState::new();
        Self {
            // The keys of a RandomState are random; what they make of a constant is too.
            log_number: hasher.hash_one("the number of this log"),
            settings,
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            hasher,
            inboxes,
            channels: AtomicUsize::new(0),
            history_bytes: AtomicUsize::new(0),
            relieved: AtomicUsize::new(0),
            swept: AtomicUsize::new(0),
            floor: AtomicU64::new(0),
        }
    }

    /// The epoch of a channel's ids.
    pub fn epoch(&self, channel: &str) -> Epoch {
        Epoch::derive(self.log_number, channel)
    }

    /// The channel, if it has history or subscribers.
    pub fn find(&self, name: &str) -> Option<Arc<Channel>> {
        lock(self.stripe(name)).get(name).cloned()
    }

    /// Where readers of a channel that does not exist stand: before its first event.
    pub fn empty_position(&self, name: &str) -> EventId {
        EventId { epoch: self.epoch(name), offset: self.floor.load(Ordering::Acquire) }
    }

    /// The channel, made if need be.
    ///
    /// # Errors
    /// `history_full` when there are too many.
    pub fn open(&self, name: &ChannelName) -> Result<Arc<Channel>, Problem> {
        let mut stripe = lock(self.stripe(name.as_str()));
        if let Some(channel) = stripe.get(name.as_str()) {
            return Ok(Arc::clone(channel));
        }
        if self.channels.fetch_add(1, Ordering::Relaxed) >= self.limits().channels {
            self.channels.fetch_sub(1, Ordering::Relaxed);
            let detail = "the server holds as many channels as it may; raise limits.channels, or wait until \
                          idle ones expire";
            return Err(Problem::new(Code::HistoryFull, detail));
        }
        let epoch = self.epoch(name.as_str());
        let floor = self.floor.load(Ordering::Acquire);
        let channel = Arc::new(Channel {
            name: name.clone(),
            epoch,
            retention: self.settings.retention_of(name.as_str()),
            state: Mutex::new(State {
                log: ChannelLog::new(name.clone(), epoch, floor),
                interests: Vec::new(),
                forgotten: false,
            }),
        });
        stripe.insert(name.clone(), Arc::clone(&channel));
        Ok(channel)
    }

    /// Appends an event and tells the shards that want it.
    ///
    /// # Errors
    /// `idempotency_conflict`, or `history_full` when neither the channel nor the server has room.
    pub fn publish(&self, name: &ChannelName, new: NewEvent, now: Timestamp) -> Result<Published, Problem> {
        loop {
            let channel = self.open(name)?;
            let mut state = lock(&channel.state);
            if state.forgotten {
                continue; // the sweep took it in between; the next look-up makes it anew
            }
            self.make_room(&mut state.log, &new)?;
            let before = state.log.bytes();
            let outcome = state.log.append(new, now, &channel.retention);
            self.account(before, state.log.bytes());
            let appended = outcome?;
            let head = state.log.head();
            let mut backlog = 0;
            for interest in &mut state.interests {
                backlog = backlog.max(head.saturating_sub(interest.taken));
                if !appended.duplicate && !std::mem::replace(&mut interest.told, true) {
                    self.inboxes[usize::from(interest.shard)].push(Message::Dirty(interest.slot));
                }
            }
            return Ok(Published { appended, backlog });
        }
    }

    /// Makes room for an event when all channels together hold as much as they may: every channel may then
    /// keep its equal share, and whoever has more gives it up, oldest events first.
    fn make_room(&self, log: &mut ChannelLog, new: &NewEvent) -> Result<(), Problem> {
        let total_max = self.limits().history_bytes;
        let needed = new.payload.data().len();
        if self.history_bytes.load(Ordering::Relaxed) + needed <= total_max {
            return Ok(());
        }
        let share = total_max / self.channels.load(Ordering::Relaxed).max(1);
        let before = log.bytes();
        log.shrink_to(share.saturating_sub(needed));
        self.account(before, log.bytes());
        self.relieve(share, total_max.saturating_sub(needed));
        if self.history_bytes.load(Ordering::Relaxed) + needed <= total_max {
            return Ok(());
        }
        let detail = "the server holds as much history as it may; raise limits.history_bytes, or publish smaller events";
        Err(Problem::new(Code::HistoryFull, detail))
    }

    /// Has channels give up what they hold beyond `share`, until all hold less than `target` together and a
    /// little more, so that this is not needed for each event.
    fn relieve(&self, share: usize, target: usize) {
        let target = target - target / 64;
        let first = self.relieved.fetch_add(1, Ordering::Relaxed);
        for step in 0..STRIPES {
            let channels: Vec<Arc<Channel>> =
                lock(&self.stripes[(first + step) % STRIPES]).values().cloned().collect();
            for channel in channels {
                // Whoever publishes to it right now trims it by itself, and may hold it while waiting here.
                let Ok(mut state) = channel.state.try_lock() else { continue };
                let before = state.log.bytes();
                state.log.shrink_to(share);
                self.account(before, state.log.bytes());
                if self.history_bytes.load(Ordering::Relaxed) <= target {
                    return;
                }
            }
        }
    }

    fn account(&self, before: usize, after: usize) {
        if after >= before {
            self.history_bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.history_bytes.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// Drops expired history of some channels, and of all in [`SWEEPS`] calls; forgets channels that hold
    /// nothing where there are many. Locks one stripe or channel at a time.
    pub fn sweep(&self, now: Timestamp) {
        // An empty channel is cheap, and while it is known, cursors into it stay exact.
        let crowded = self.channels.load(Ordering::Relaxed) > self.limits().channels / 2;
        let part = self.swept.fetch_add(1, Ordering::Relaxed) % SWEEPS;
        for stripe in self.stripes.iter().skip(part).step_by(SWEEPS) {
            let channels: Vec<Arc<Channel>> = lock(stripe).values().cloned().collect();
            let mut empty = false;
            for channel in &channels {
                let mut state = lock(&channel.state);
                let before = state.log.bytes();
                state.log.expire(now, &channel.retention);
                self.account(before, state.log.bytes());
                empty |= state.is_forgettable();
            }
            if empty && crowded {
                self.forget_empty(&mut lock(stripe));
            }
        }
    }

    fn forget_empty(&self, stripe: &mut HashMap<ChannelName, Arc<Channel>>) {
        stripe.retain(|_, channel| {
            // A publisher may hold a channel and wait for a stripe, so nobody may wait the other way round.
            let Ok(mut state) = channel.state.try_lock() else { return true };
            if !state.is_forgettable() {
                return true;
            }
            state.forgotten = true;
            self.floor.fetch_max(state.log.head(), Ordering::AcqRel);
            self.channels.fetch_sub(1, Ordering::Relaxed);
            false
        });
    }

    /// How many channels there are, and how many bytes of history they hold.
    pub fn usage(&self) -> (usize, usize) {
        (self.channels.load(Ordering::Relaxed), self.history_bytes.load(Ordering::Relaxed))
    }

    pub(crate) fn inboxes(&self) -> &[Arc<Inbox>] {
        &self.inboxes
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.settings.limits
    }

    fn stripe(&self, name: &str) -> &Mutex<HashMap<ChannelName, Arc<Channel>>> {
        &self.stripes[self.hasher.hash_one(name) as usize % STRIPES]
    }
}

impl State {
    fn is_forgettable(&self) -> bool {
        self.interests.is_empty() && self.log.is_forgettable()
    }
}

/// What a reader of a channel is told in one look.
#[derive(Debug, Clone, Copy)]
pub struct Located {
    /// Where it begins.
    pub position: Position,
    /// Where it is said to resume after a gap.
    pub resumed_from: EventId,
}

impl Channel {
    /// The name.
    pub fn name(&self) -> &ChannelName {
        &self.name
    }

    /// The epoch of its ids.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The id at an offset.
    pub fn id(&self, offset: u64) -> EventId {
        EventId { epoch: self.epoch, offset }
    }

    /// Where a reader that asks for `start` begins.
    pub fn locate(&self, start: Start) -> Located {
        let state = lock(&self.state);
        Located { position: state.log.locate(start), resumed_from: state.log.resumed_from() }
    }

    /// Appends events after `after` to `out`; see [`ChannelLog::read`]. Gives the newest offset.
    ///
    /// # Errors
    /// [`Evicted`] if the position is no longer retained.
    pub fn read(
        &self,
        after: u64,
        events_max: usize,
        bytes_max: usize,
        out: &mut Vec<Arc<Event>>,
    ) -> Result<u64, Evicted> {
        let state = lock(&self.state);
        state.log.read(after, events_max, bytes_max, out)?;
        Ok(state.log.head())
    }

    /// The newest offset.
    pub fn head(&self) -> u64 {
        lock(&self.state).log.head()
    }

    /// The log, for a look at several of its properties at once.
    pub fn with_log<T>(&self, look: impl FnOnce(&ChannelLog) -> T) -> T {
        look(&lock(&self.state).log)
    }

    /// How many events the slowest shard has yet to take.
    pub fn backlog(&self) -> u64 {
        let state = lock(&self.state);
        let head = state.log.head();
        state.interests.iter().map(|interest| head.saturating_sub(interest.taken)).max().unwrap_or(0)
    }

    /// From now on, `shard` is told of new events; it has those up to the returned offset.
    /// `None` if the channel was forgotten meanwhile.
    pub(crate) fn follow(&self, shard: u16, slot: u32) -> Option<u64> {
        let mut state = lock(&self.state);
        if state.forgotten {
            return None;
        }
        let taken = state.log.head();
        state.interests.push(Interest { shard, slot, told: false, taken });
        Some(taken)
    }

    pub(crate) fn unfollow(&self, shard: u16) {
        let mut state = lock(&self.state);
        state.interests.retain(|interest| interest.shard != shard);
        state.interests.shrink_to_fit();
    }

    /// The next events for the fan-out of `shard`, after `after`; gives the newest offset. From now on
    /// the shard is told of newer ones.
    ///
    /// # Errors
    /// The position before the oldest retained event, when the shard is so far behind that events are gone.
    pub(crate) fn take(
        &self,
        shard: u16,
        after: u64,
        bytes_max: usize,
        out: &mut Vec<Arc<Event>>,
    ) -> Result<u64, u64> {
        let mut state = lock(&self.state);
        let oldest = state.log.locate(Start::Earliest).after;
        let outcome = state.log.read(after, usize::MAX, bytes_max, out).map_err(|Evicted| oldest);
        let taken = match outcome {
            Ok(()) => out.last().map_or(after, |event| event.id.offset),
            Err(oldest) => oldest,
        };
        state.note_taken(shard, taken);
        outcome.map(|()| state.log.head())
    }

    /// As [`Self::take`] for a shard without anybody to fan out to: it has everything. Gives the newest offset.
    pub(crate) fn take_none(&self, shard: u16) -> u64 {
        let mut state = lock(&self.state);
        let head = state.log.head();
        state.note_taken(shard, head);
        head
    }
}

impl State {
    fn note_taken(&mut self, shard: u16, taken: u64) {
        if let Some(interest) = self.interests.iter_mut().find(|interest| interest.shard == shard) {
            interest.told = false;
            interest.taken = taken;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Logs are changed by code that does not panic half-way; one panicking reader must not take a channel down.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tidewire_core::Payload;

    use super::*;
    use crate::settings::Flags;

    fn hub(text: &str) -> Hub {
        let directory = std::env::temp_dir().join(format!("tidewire-hub-{}", std::process::id()));
        let path = directory.join(format!("{:x}.toml", RandomState::new().hash_one(text)));
        std::fs::create_dir_all(&directory).expect("a directory");
        std::fs::write(&path, text).expect("a file");
        let settings = Settings::load(Some(&path), &Flags::default()).expect("right settings");
        std::fs::remove_file(&path).expect("removed");
        Hub::new(Arc::new(settings), Vec::new())
    }

    fn publish(hub: &Hub, channel: &str, bytes: usize, now: u64) -> Result<EventId, Code> {
        let event = NewEvent::new(Payload::bytes(Bytes::from(vec![b'x'; bytes])));
        let name = ChannelName::new(channel).expect("a name");
        hub.publish(&name, event, Timestamp(now)).map(|done| done.appended.id).map_err(|problem| problem.code)
    }

    #[test]
    fn history_of_all_channels_is_bounded_and_shared_fairly() {
        let hub = hub("[limits]\nhistory_bytes = 10000\nevent_bytes = 20000");
        for step in 0..200 {
            publish(&hub, "greedy", 100, step).expect("room is made");
        }
        assert!(hub.usage().1 <= 10_000);
        for step in 0..50 {
            publish(&hub, "late", 100, step).expect("the greedy one gives way");
            assert!(hub.usage().1 <= 10_000, "{}", hub.usage().1);
        }
        let held = |name: &str| hub.find(name).expect("exists").with_log(|log| log.bytes());
        assert!(held("late") >= 4000 && held("greedy") >= 4000, "{} {}", held("late"), held("greedy"));
        assert_eq!(publish(&hub, "late", 10_001, 300), Err(Code::HistoryFull));
        assert_eq!(hub.usage().1, held("late") + held("greedy"));
    }

    #[test]
    fn channels_are_bounded_and_empty_ones_make_room() {
        let hub = hub("[limits]\nchannels = 4\n[history]\nage_seconds = 1\nidempotency_seconds = 1");
        for name in ["a", "b", "c", "d"] {
            publish(&hub, name, 1, 0).expect("room");
        }
        let last = publish(&hub, "a", 1, 1).expect("an old channel");
        assert_eq!(publish(&hub, "e", 1, 1), Err(Code::HistoryFull));
        (0..SWEEPS).for_each(|_| hub.sweep(Timestamp(5000)));
        let (channels, bytes) = hub.usage();
        assert!(channels <= 2 && bytes == 0, "{channels} channels are known, {bytes} bytes held");
        publish(&hub, "e", 1, 5000).expect("there is room again");
        let next = publish(&hub, "a", 1, 5000).expect("made anew");
        assert!(next.epoch == last.epoch && next.offset > last.offset, "no id comes twice");
    }

    #[test]
    fn while_there_is_room_an_expired_channel_keeps_its_position() {
        let hub = hub("[history]\nage_seconds = 1");
        let id = publish(&hub, "a", 1, 0).expect("room");
        publish(&hub, "b", 1, 0).expect("room");
        publish(&hub, "b", 1, 0).expect("room");
        (0..SWEEPS).for_each(|_| hub.sweep(Timestamp(5000)));
        let position = hub.find("a").expect("still known").locate(Start::After(id.offset)).position;
        assert!(!position.gap, "nothing was missed, so there is no gap");
    }
}
