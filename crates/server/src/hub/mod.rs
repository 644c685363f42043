//! All channels of this server: their logs, and which shards want to hear of new events.
//! Must not know connections or transports. Everything that appends to a log passes through here: at once
//! where the log is in memory, by way of the committing thread where it is on disk.

mod channel;
mod keeper;
mod looks;
mod memory;
mod shared;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidewire_core::error::{Code, Problem};
use tidewire_core::limits::{Limits, Policy, StateKind};
use tidewire_core::log::Appended;
use tidewire_core::log::state::StateSize;
use tidewire_core::wire::poll::State;
use tidewire_core::{ChannelName, Epoch, Event, EventId, NewEvent, Timestamp};

use crate::backplane::Backplane;
use crate::clock::Clock;
use crate::settings::Settings;
use crate::shard::{Inbox, Message};
use crate::store::commit::{Order, Submission, Waiter};
use crate::store::{ChannelRecord, Disk, StoredChannel};
use crate::traces::Trace;
pub(crate) use channel::Taken;
pub use channel::{Channel, Located, Snapshot, Unread};
pub(crate) use keeper::Keeper;
pub(crate) use looks::{Busy, Listed, Wanted};
pub(crate) use shared::Adoption;

/// Lookups of different channels rarely meet on one lock.
const STRIPES: usize = 64;
/// In how many calls a sweep gets through all channels: at a call per second, what has expired may
/// be there that many seconds longer, unless its channel is published to.
pub(crate) const SWEEPS: usize = 4;

/// All channels.
#[derive(Debug)]
pub struct Hub {
    /// What channels in memory have their epochs from: random, so ids of another run are unknown here.
    memory_number: u64,
    durable: Option<Kept>,
    settings: Arc<Settings>,
    stripes: Vec<Mutex<HashMap<ChannelName, Arc<Channel>>>>,
    hasher: RandomState,
    inboxes: Vec<Arc<Inbox>>,
    channels: AtomicUsize,
    history_bytes: AtomicUsize,
    /// The stripe at which the next relief begins, so that it is not always the same channels' turn.
    relieved: AtomicUsize,
    swept: AtomicUsize,
    /// Numbers for channels that have none at the backplane.
    numbers: AtomicU64,
    /// No forgotten channel had a higher offset, so a channel that begins here repeats no id.
    floor: AtomicU64,
    clock: Clock,
    history: History,
}

/// What channels retain, as the sweeps found it: those of each part of the channels, and their sum.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) memory: Amount,
    pub(crate) disk: Amount,
    parts: Mutex<[[(u64, u64); 2]; SWEEPS]>,
}

/// Some events.
#[derive(Debug, Default)]
pub(crate) struct Amount {
    pub(crate) events: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// Logs that outlive the process.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) keeper: Keeper,
    /// What its channels have their epochs from.
    pub(crate) number: u64,
    /// As `floor` of the hub, for channels on disk.
    pub(crate) floor: u64,
}

/// An event that is on disk, with the channel's number, running total and size of state there.
#[derive(Debug)]
pub(crate) struct OnDiskEvent {
    pub(crate) event: Arc<Event>,
    pub(crate) number: u64,
    pub(crate) total: u64,
    pub(crate) state: StateSize,
}

/// Shards to tell of new events: the shard, and the channel's slot in it.
pub(crate) type Told = Vec<(u16, u32)>;

/// What became of a publish.
#[derive(Debug, Clone, Copy)]
pub struct Published {
    /// Id, time, and whether it was a retry.
    pub appended: Appended,
    /// How many events the slowest shard has yet to take; publishers slow down by it.
    pub backlog: u64,
}

impl Hub {
    pub(crate) fn new(
        settings: Arc<Settings>,
        inboxes: Vec<Arc<Inbox>>,
        durable: Option<Kept>,
        clock: Clock,
    ) -> Self {
        let hasher = RandomState::new();
        Self {
            // The keys of a RandomState are random; what they make of a constant is too.
            memory_number: hasher.hash_one("the number of this log"),
            durable,
            settings,
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            hasher,
            inboxes,
            channels: AtomicUsize::new(0),
            history_bytes: AtomicUsize::new(0),
            relieved: AtomicUsize::new(0),
            swept: AtomicUsize::new(0),
            numbers: AtomicU64::new(1),
            floor: AtomicU64::new(0),
            clock,
            history: History::default(),
        }
    }

    /// What is kept of a channel, and where.
    pub(crate) fn policy_of(&self, channel: &str) -> &Arc<Policy> {
        self.settings.policy_of(channel)
    }

    /// What keeps the logs of channels with this policy, if they are not in memory.
    fn durable_of(&self, policy: &Policy) -> Option<&Kept> {
        self.durable.as_ref().filter(|durable| durable.keeper.keeps(policy))
    }

    /// What keeps the logs of channels with this policy.
    pub(crate) fn keeper_of(&self, policy: &Policy) -> Option<&Keeper> {
        self.durable_of(policy).map(|durable| &durable.keeper)
    }

    /// What keeps logs, if all of them are not in memory.
    pub(crate) fn keeper(&self) -> Option<&Keeper> {
        self.durable.as_ref().map(|durable| &durable.keeper)
    }

    /// What must follow a channel before it can be read here.
    pub(crate) fn backplane_of(&self, name: &str) -> Option<&Arc<Backplane>> {
        let Some(Keeper::Backplane(backplane)) = self.keeper() else { return None };
        self.keeper_of(self.policy_of(name)).map(|_| backplane)
    }

    /// Whether there are channels that must be followed before they can be read here.
    pub(crate) fn has_backplane(&self) -> bool {
        matches!(self.keeper(), Some(Keeper::Backplane(_)))
    }

    /// The epoch of a channel's ids.
    pub fn epoch(&self, channel: &str) -> Epoch {
        let durable = self.durable_of(self.policy_of(channel));
        Epoch::derive(durable.map_or(self.memory_number, |durable| durable.number), channel)
    }

    /// The channel, if it has history or subscribers.
    ///
    /// # Errors
    /// If what is on disk cannot be read.
    pub fn find(&self, name: &ChannelName) -> Result<Option<Arc<Channel>>, Problem> {
        let mut stripe = lock(self.stripe(name.as_str()));
        if let Some(channel) = self.known(&stripe, name) {
            return Ok(Some(channel));
        }
        let policy = self.policy_of(name.as_str());
        let Some(durable) = self.durable_of(policy) else { return Ok(None) };
        match durable.stored(name)? {
            None => Ok(None),
            Some(stored) => self.insert(&mut stripe, name, policy, Some((durable, Ok(stored)))).map(Some),
        }
    }

    /// Whether the channel is known without a look at the disk.
    pub(crate) fn is_in_memory(&self, name: &str) -> bool {
        lock(self.stripe(name)).contains_key(name)
    }

    /// Where readers of a channel that does not exist stand: before its first event.
    pub fn empty_position(&self, name: &str) -> EventId {
        let durable = self.durable_of(self.policy_of(name));
        let offset = durable.map_or_else(|| self.floor.load(Ordering::Acquire), |durable| durable.floor);
        EventId { epoch: self.epoch(name), offset }
    }

    /// What a snapshot of a channel that does not exist shows.
    pub fn empty_snapshot(&self, name: &str) -> Snapshot {
        let state = match self.policy_of(name).state {
            StateKind::Keyed => State::Keyed(Vec::new()),
            StateKind::Last | StateKind::None => State::Last(None),
        };
        Snapshot { cursor: self.empty_position(name), state, retained: (0, 0) }
    }

    /// The channel, made if need be.
    ///
    /// # Errors
    /// `history_full` when there are too many; or if what is on disk cannot be read.
    pub fn open(&self, name: &ChannelName) -> Result<Arc<Channel>, Problem> {
        let mut stripe = lock(self.stripe(name.as_str()));
        if let Some(channel) = self.known(&stripe, name) {
            return Ok(channel);
        }
        let policy = self.policy_of(name.as_str());
        let durable = match self.durable_of(policy) {
            // The stripe stays locked, or somebody might append to the channel between look and insertion.
            Some(durable) => Some((durable, durable.stored(name)?.ok_or(durable.floor))),
            None => None,
        };
        self.insert(&mut stripe, name, policy, durable)
    }

    fn insert(
        &self,
        stripe: &mut HashMap<ChannelName, Arc<Channel>>,
        name: &ChannelName,
        policy: &Arc<Policy>,
        durable: Option<(&Kept, Result<StoredChannel, u64>)>,
    ) -> Result<Arc<Channel>, Problem> {
        self.count_channel()?;
        let (epoch, policy) = (self.epoch(name.as_str()), Arc::clone(policy));
        let channel = Arc::new(match durable {
            None => Channel::in_memory(name.clone(), epoch, policy, self.floor.load(Ordering::Acquire)),
            Some((durable, stored)) => {
                Channel::on_disk(name.clone(), epoch, policy, durable.keeper.clone(), stored)
            }
        });
        self.account(0, lock(&channel.state).log.bytes());
        stripe.insert(name.clone(), Arc::clone(&channel));
        Ok(channel)
    }

    /// One more.
    fn count_channel(&self) -> Result<(), Problem> {
        if self.channels.fetch_add(1, Ordering::Relaxed) >= self.limits().channels {
            self.channels.fetch_sub(1, Ordering::Relaxed);
            let detail = "the server holds as many channels as it may; raise limits.channels, or wait until \
                          idle ones expire";
            return Err(Problem::new(Code::HistoryFull, detail));
        }
        Ok(())
    }

    fn known(&self, stripe: &HashMap<ChannelName, Arc<Channel>>, name: &ChannelName) -> Option<Arc<Channel>> {
        let channel = stripe.get(name.as_str())?;
        if channel.is_shared() {
            channel.touch(self.clock.now_ms());
        }
        Some(Arc::clone(channel))
    }

    /// Appends an event and tells the shards that want it. Where the log is on disk, this only sets out to: the
    /// `waiter` is told when it is done, and there is nothing to tell yet.
    ///
    /// # Errors
    /// `idempotency_conflict`; `history_full` when neither the channel nor the server has room; `storage_full`
    /// and `storage_failed` when it is known already that the disk takes nothing.
    pub(crate) fn publish(
        &self,
        name: &ChannelName,
        new: NewEvent,
        now: Timestamp,
        trace: Option<&Arc<Trace>>,
        waiter: impl FnOnce() -> Option<Waiter>,
    ) -> Result<Option<Published>, Problem> {
        if let Some(backplane) = self.backplane_of(name.as_str()) {
            let policy = Arc::clone(self.policy_of(name.as_str()));
            let trace = trace.map(|trace| (Arc::clone(trace), trace.now_us()));
            backplane.publish(name, policy, new, trace, waiter)?;
            return Ok(None);
        }
        loop {
            let channel = self.open(name)?;
            if let Some(disk) = self.disk().filter(|_| channel.is_on_disk()) {
                if let Some(failure) = disk.failure() {
                    return Err(failure.problem());
                }
                if !channel.begin_submission() {
                    continue;
                }
                let trace = trace.map(|trace| (Arc::clone(trace), trace.now_us()));
                let submission = Submission { channel, new, waiter: waiter(), trace };
                disk.commits.push(Order::Publish(submission));
                return Ok(None);
            }
            let mut state = lock(&channel.state);
            if state.forgotten {
                continue; // the sweep took it in between; the next look-up makes it anew
            }
            self.make_room(&mut state.log, &new)?;
            let before = state.log.held_bytes();
            let keyed = (channel.state_kind() == StateKind::Keyed).then(|| self.limits());
            let outcome = state.log.append(new, now, channel.window(), keyed);
            self.account(before, state.log.held_bytes());
            let appended = outcome?;
            if !appended.duplicate {
                state.note_trace(trace.cloned());
                for interest in state.interests.iter_mut().filter(|interest| !interest.told) {
                    interest.tell(self.clock);
                    self.inboxes[usize::from(interest.shard)].push(Message::Dirty(interest.slot));
                }
            }
            return Ok(Some(Published { appended, backlog: state.backlog() }));
        }
    }

    /// An event of the channel is on disk: it appears. The shards to tell of it are added to `told`.
    pub(crate) fn adopt(
        &self,
        channel: &Channel,
        on_disk: OnDiskEvent,
        now: Timestamp,
        trace: Option<Arc<Trace>>,
        told: &mut Told,
    ) -> Published {
        let appended = Appended { id: on_disk.event.id, time: on_disk.event.time, duplicate: false };
        let mut state = lock(&channel.state);
        let before = state.log.bytes();
        state.adopt(on_disk, now, channel.window(), channel.retention().events);
        state.note_trace(trace);
        for interest in state.interests.iter_mut().filter(|interest| !interest.told) {
            interest.tell(self.clock);
            told.push((interest.shard, interest.slot));
        }
        self.account(before, state.log.bytes());
        self.shrink_window(&mut state.log);
        Published { appended, backlog: state.backlog() }
    }

    /// Deletes all that a channel has. As [`Self::publish`], this may only set out to, and then gives false.
    ///
    /// # Errors
    /// If what is on disk cannot be read, or the disk takes nothing.
    pub(crate) fn delete(
        &self,
        name: &ChannelName,
        waiter: impl FnOnce() -> Waiter,
    ) -> Result<bool, Problem> {
        if let Some(backplane) = self.backplane_of(name.as_str()) {
            return backplane.delete(name, waiter).map(|()| false);
        }
        loop {
            let Some(channel) = self.find(name)? else { return Ok(true) };
            let Some(disk) = self.disk().filter(|_| channel.is_on_disk()) else {
                self.clear_log(&channel);
                return Ok(true);
            };
            if let Some(failure) = disk.failure() {
                return Err(failure.problem());
            }
            if channel.begin_submission() {
                disk.commits.push(Order::Delete { channel, waiter: waiter() });
                return Ok(false);
            }
        }
    }

    /// All that the channel had is deleted on disk, where it is `record` now.
    pub(crate) fn clear(&self, channel: &Channel, record: ChannelRecord) {
        channel.note_deleted(record);
        self.clear_log(channel);
    }

    fn clear_log(&self, channel: &Channel) {
        let mut state = lock(&channel.state);
        let before = state.log.held_bytes();
        state.log.clear();
        self.account(before, state.log.held_bytes());
    }

    /// The log on disk, if there is one.
    pub(crate) fn disk(&self) -> Option<&Arc<Disk>> {
        match self.keeper() {
            Some(Keeper::Disk(disk)) => Some(disk),
            _ => None,
        }
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    /// How much channels retain. No older than it takes to sweep through all of them.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// How many channels there are, and how many bytes of history they hold in memory.
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

impl Kept {
    /// What is known of a channel that is not in memory.
    fn stored(&self, name: &ChannelName) -> Result<Option<StoredChannel>, Problem> {
        let Keeper::Disk(disk) = &self.keeper else {
            // Whoever reads has it followed first; that takes longer than an idle one stays.
            let detail = "the channel was let go of at this moment; try again";
            return Err(Problem::new(Code::Unavailable, detail));
        };
        let stored = disk.store().and_then(|store| store.channel(name.as_str()));
        stored.map_err(|error| {
            eprintln!("tidewire: the channel {name} cannot be read: {error}");
            error.problem()
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Logs are changed by code that does not panic half-way; one panicking reader must not take a channel down.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
