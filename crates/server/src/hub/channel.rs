//! One channel: the log in memory, where the one on disk stands if there is one, and who wants to hear of new
//! events. Must not know connections or transports, nor write to disk.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use tidewire_core::cursor::Start;
use tidewire_core::limits::{Durability, PASSING_LAG_EVENTS, Policy, Retention, StateKind};
use tidewire_core::log::state::StateSize;
use tidewire_core::log::{ChannelLog, Evicted, Position};
use tidewire_core::record::{self, Summary};
use tidewire_core::wire::poll;
use tidewire_core::{ChannelName, Epoch, Event, EventId, Timestamp};

use super::looks::Tally;
use super::shared::Shared;
use super::{Keeper, OnDiskEvent, lock};
use crate::clock::Clock;
use crate::store::commit::Erasure;
use crate::store::retention::Extent;
use crate::store::{ChannelRecord, StoredChannel};
use crate::traces::Trace;

/// The most events of a channel that are traced at a time.
const TRACED_MAX: usize = 64;

/// Offsets of events that are traced.
type Traced = Vec<(u64, Arc<Trace>)>;

/// One channel: its log, and who wants to hear of it.
#[derive(Debug)]
pub struct Channel {
    name: ChannelName,
    epoch: Epoch,
    policy: Arc<Policy>,
    /// Set if the log is elsewhere; the one here is its newest part then.
    pub(super) keeper: Option<Keeper>,
    /// When somebody asked for it last, where that decides how long it is followed.
    pub(super) touched_ms: AtomicU64,
    pub(super) tally: Tally,
    pub(super) state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) log: ChannelLog,
    pub(super) interests: Vec<Interest>,
    /// Set once the channel left the hub; whoever still holds it must look it up again.
    pub(super) forgotten: bool,
    /// Where the log on disk stands.
    pub(super) on_disk: Option<Box<OnDisk>>,
    /// How far the log at the backplane is followed.
    pub(super) shared: Option<Box<Shared>>,
    /// Events that are traced and on their way to shards, oldest first.
    traced: Option<Box<Traced>>,
}

/// Where a channel's log on disk stands.
#[derive(Debug)]
pub(super) struct OnDisk {
    /// The channel's number in the store; 0 before its first event.
    number: u64,
    /// The newest offset that readers do not get any more.
    floor: u64,
    /// The newest that is erased.
    erased: u64,
    erased_total: u64,
    erasing: bool,
    newest: Summary,
    state: StateSize,
    /// The oldest event, if it was looked at.
    oldest: Option<Summary>,
    /// Events on their way to the disk.
    submitted: u32,
}

/// A shard with subscribers of the channel.
#[derive(Debug)]
pub(super) struct Interest {
    pub(super) shard: u16,
    /// The channel's slot in that shard.
    pub(super) slot: u32,
    /// The shard was told and has not looked yet.
    pub(super) told: bool,
    /// The shard has taken everything up to here for its fan-out.
    pub(super) taken: u64,
    /// When the first of the events that the shard has yet to take came; 0 if there are none.
    pub(super) waiting_since_us: u64,
}

/// What a shard takes for its fan-out, besides the events.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    /// The newest offset of the channel.
    pub(crate) head: u64,
    /// When the oldest of the events came.
    pub(crate) waiting_since_us: u64,
    /// Which of them are traced.
    pub(crate) traces: Vec<Arc<Trace>>,
}

/// What a reader of a channel is told in one look.
#[derive(Debug, Clone, Copy)]
pub struct Located {
    /// Where it begins.
    pub position: Position,
    /// Where it is said to resume after a gap.
    pub resumed_from: EventId,
}

/// A channel's state, and where it stands with it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The position right after all that made the state.
    pub cursor: EventId,
    /// The state.
    pub state: poll::State,
    /// How many events of how many bytes are retained.
    pub retained: (usize, usize),
}

/// Why there is nothing to read at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It is no longer retained.
    Evicted,
    /// It is on disk, and must be loaded first.
    OnDisk,
}

impl Channel {
    /// A channel whose log is in memory, and begins after `floor`.
    pub(super) fn in_memory(name: ChannelName, epoch: Epoch, policy: Arc<Policy>, floor: u64) -> Self {
        let state = State::new(ChannelLog::new(name.clone(), epoch, floor), None, None);
        Self::new(name, epoch, policy, None, state)
    }

    pub(super) fn new(
        name: ChannelName,
        epoch: Epoch,
        policy: Arc<Policy>,
        keeper: Option<Keeper>,
        state: State,
    ) -> Self {
        let (touched_ms, state) = (AtomicU64::new(0), Mutex::new(state));
        Self { name, epoch, policy, keeper, touched_ms, tally: Tally::default(), state }
    }

    /// A channel whose log is on disk, or will be with its first event, after `floor`.
    pub(super) fn on_disk(
        name: ChannelName,
        epoch: Epoch,
        policy: Arc<Policy>,
        keeper: Keeper,
        stored: Result<StoredChannel, u64>,
    ) -> Self {
        let none = Summary { time: Timestamp(0), total: 0 };
        let (head, on_disk, latest) = match stored {
            Ok(StoredChannel { record, head, newest, latest }) => {
                let floor = record.floor.max(head.saturating_sub(policy.retention.events as u64));
                let on_disk = OnDisk::new(record, floor, newest);
                // One that cannot be read is found out by whoever wants to.
                let id = EventId { epoch, offset: head };
                let latest = latest.and_then(|latest| record::decode(&name, id, &latest).ok());
                (head, on_disk, latest)
            }
            Err(floor) => {
                let record = ChannelRecord { floor, ..ChannelRecord::default() };
                (floor, OnDisk::new(record, floor, none), None)
            }
        };
        let mut log = ChannelLog::new(name.clone(), epoch, head - u64::from(latest.is_some()));
        if let Some(latest) = latest {
            let now = latest.time;
            log.adopt(Arc::new(latest), now, &policy.window);
        }
        Self::new(name, epoch, policy, Some(keeper), State::new(log, Some(on_disk), None))
    }

    /// The name.
    pub fn name(&self) -> &ChannelName {
        &self.name
    }

    /// The epoch of its ids.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How much of it is kept.
    pub fn retention(&self) -> &Retention {
        &self.policy.retention
    }

    pub(super) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// How much of it is kept in memory.
    pub(super) fn window(&self) -> &Retention {
        if self.policy.durability == Durability::Memory {
            &self.policy.retention
        } else {
            &self.policy.window
        }
    }

    /// Whether its log is on disk.
    pub fn is_on_disk(&self) -> bool {
        matches!(self.keeper, Some(Keeper::Disk(_)))
    }

    /// Whether its events are kept, and in memory only.
    pub(crate) fn keeps_in_memory(&self) -> bool {
        self.policy.durability == Durability::Memory
    }

    /// Whether a subscriber that has come so far goes on with the newest event: the channel keeps nothing, so those
    /// in between are past.
    pub(crate) fn is_beyond_catching_up(&self, after: u64) -> bool {
        if self.policy.durability != Durability::None {
            return false;
        }
        let state = lock(&self.state);
        state.lag(after) > PASSING_LAG_EVENTS || state.log.dropped() > after
    }

    /// The id at an offset.
    pub fn id(&self, offset: u64) -> EventId {
        EventId { epoch: self.epoch, offset }
    }

    /// Where a reader that asks for `start` begins.
    pub fn locate(&self, start: Start) -> Located {
        let state = lock(&self.state);
        let (head, floor) = (state.log.head(), self.floor_in(&state));
        if let Some(shared) = &state.shared {
            let (position, next) = state.locate_shared(shared, start, floor);
            return Located { position, resumed_from: self.id(next) };
        }
        let position = match start {
            Start::Latest => Position { after: head, gap: false },
            Start::Earliest => Position { after: floor, gap: false },
            Start::After(offset) if (floor..=head).contains(&offset) => {
                Position { after: offset, gap: false }
            }
            Start::After(_) | Start::Unknown => Position { after: floor, gap: true },
        };
        Located { position, resumed_from: self.id(head.min(floor + 1)) }
    }

    /// As [`Self::locate`] for somebody who may not read what was published before: they begin now, and are told
    /// of a gap if that is not where they were.
    pub fn locate_for(&self, start: Start, may_read_back: bool) -> Located {
        if may_read_back {
            return self.locate(start);
        }
        let mut located = self.locate(Start::Latest);
        let now = located.position.after;
        located.position.gap = !matches!(start, Start::Latest) && start != Start::After(now);
        located.resumed_from = self.id(now);
        located
    }

    /// Appends events after `after` to `out`; see [`ChannelLog::read`]. Gives the newest offset.
    ///
    /// # Errors
    /// [`Unread`] if the position is no longer retained, or not in memory.
    pub fn read(
        &self,
        after: u64,
        events_max: usize,
        bytes_max: usize,
        out: &mut Vec<Arc<Event>>,
    ) -> Result<u64, Unread> {
        let (mut after, mut events_left, mut bytes_left) = (after, events_max, bytes_max);
        loop {
            let state = lock(&self.state);
            let head = state.log.head();
            let begin = out.len();
            let is_lost = state.shared.as_ref().is_some_and(|shared| shared.lost_at(after).is_some());
            let end = state.shared.as_ref().map_or(u64::MAX, |shared| shared.end_of_run(after));
            if !is_lost && state.log.read(after, events_left, bytes_left, out).is_ok() {
                cut_after(out, end);
                return Ok(head);
            }
            // What is not in memory is in chunks that were read, or must be.
            let unread = match state.chunk_number() {
                Some(number) if !is_lost && self.floor_in(&state) <= after => {
                    drop(state);
                    self.read_chunk(number, after, events_left, bytes_left, out).err()
                }
                _ => Some(Unread::Evicted),
            };
            match unread {
                // Those before are something.
                Some(_) if events_left < events_max => return Ok(head),
                Some(unread) => return Err(unread),
                None => {}
            }
            if cut_after(out, end) {
                return Ok(head);
            }
            let Some(last) = out.last().filter(|_| out.len() > begin) else { return Ok(head) };
            after = last.id.offset;
            events_left -= out.len() - begin;
            let bytes: usize = out[begin..].iter().map(|event| event.size_bytes()).sum();
            bytes_left = bytes_left.saturating_sub(bytes);
            if events_left == 0 || bytes_left == 0 {
                return Ok(head);
            }
        }
    }

    fn read_chunk(
        &self,
        number: u64,
        after: u64,
        events_max: usize,
        bytes_max: usize,
        out: &mut Vec<Arc<Event>>,
    ) -> Result<(), Unread> {
        let keeper = self.keeper.as_ref().ok_or(Unread::Evicted)?;
        let chunk = keeper.chunks().find(number, after).ok_or(Unread::OnDisk)?;
        let begin = chunk.events.partition_point(|event| event.id.offset <= after);
        let mut bytes = 0;
        for event in chunk.events[begin..].iter().take(events_max) {
            bytes += event.size_bytes();
            out.push(Arc::clone(event));
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(())
    }

    /// The newest offset.
    pub fn head(&self) -> u64 {
        lock(&self.state).log.head()
    }

    /// The newest offset that is not retained.
    pub fn floor(&self) -> u64 {
        self.floor_in(&lock(&self.state))
    }

    pub(super) fn floor_in(&self, state: &State) -> u64 {
        match (&state.on_disk, self.policy.durability) {
            (Some(on_disk), _) => on_disk.floor,
            (None, Durability::Backplane) => state.shared.as_ref().map_or(0, |shared| shared.extent.floor),
            (None, Durability::None) => state.log.head(),
            (None, _) => state.log.dropped(),
        }
    }

    /// What its state is.
    pub fn state_kind(&self) -> StateKind {
        if self.policy.durability == Durability::None { StateKind::None } else { self.policy.state }
    }

    /// The state, if it is in memory.
    pub fn snapshot(&self) -> Option<Snapshot> {
        let state = lock(&self.state);
        let (head, log) = (state.log.head(), &state.log);
        let is_stored = state.on_disk.as_ref().is_some_and(|on_disk| on_disk.number != 0);
        let shown = match self.state_kind() {
            StateKind::None => poll::State::Last(None),
            StateKind::Keyed if is_stored || state.shared.is_some() => return None,
            StateKind::Keyed => poll::State::Keyed(log.state().events()),
            StateKind::Last if log.is_empty() && self.floor_in(&state) < head => return None,
            StateKind::Last => poll::State::Last(log.latest().cloned()),
        };
        Some(Snapshot { cursor: self.id(head), state: shown, retained: self.retained_in(&state) })
    }

    /// How many events of how many bytes are retained.
    pub fn retained(&self) -> (usize, usize) {
        self.retained_in(&lock(&self.state))
    }

    pub(super) fn retained_in(&self, state: &State) -> (usize, usize) {
        match &state.on_disk {
            _ if self.policy.durability == Durability::None => (0, 0),
            None => match &state.shared {
                Some(shared) => shared.extent.retained,
                None => (state.log.len(), state.log.bytes()),
            },
            Some(on_disk) => {
                let bytes = on_disk.newest.total.saturating_sub(on_disk.erased_total);
                ((state.log.head() - on_disk.floor) as usize, bytes as usize)
            }
        }
    }

    /// How many events the slowest shard has yet to take.
    pub fn backlog(&self) -> u64 {
        lock(&self.state).backlog()
    }

    /// From now on, `shard` is told of new events; it has those up to the returned offset.
    /// `None` if the channel was forgotten meanwhile.
    pub(crate) fn follow(&self, shard: u16, slot: u32) -> Option<u64> {
        let mut state = lock(&self.state);
        if state.forgotten {
            return None;
        }
        let taken = state.log.head();
        state.interests.push(Interest { shard, slot, told: false, taken, waiting_since_us: 0 });
        Some(taken)
    }

    pub(crate) fn unfollow(&self, shard: u16) {
        let mut state = lock(&self.state);
        state.interests.retain(|interest| interest.shard != shard);
        state.interests.shrink_to_fit();
        state.forget_traces();
    }

    /// The next events for the fan-out of `shard`, after `after`. From now on the shard is told of newer ones.
    ///
    /// # Errors
    /// The position before the oldest event in memory, when the shard is so far behind that events are gone
    /// from there.
    pub(crate) fn take(
        &self,
        shard: u16,
        after: u64,
        bytes_max: usize,
        out: &mut Vec<Arc<Event>>,
    ) -> Result<Taken, u64> {
        let mut state = lock(&self.state);
        let oldest = state.log.dropped();
        let outcome = match &state.shared {
            // Those who are at what was lost are told so one by one; all others are at the newest.
            Some(shared) if shared.lost_at(after).is_some() => Err(state.log.head()),
            Some(shared) => {
                let outcome = state.log.read(after, usize::MAX, bytes_max, out).map_err(|Evicted| oldest);
                cut_after(out, shared.end_of_run(after));
                outcome
            }
            None => state.log.read(after, usize::MAX, bytes_max, out).map_err(|Evicted| oldest),
        };
        let taken = match outcome {
            Ok(()) => out.last().map_or(after, |event| event.id.offset),
            Err(oldest) => oldest,
        };
        let span_ms = match (out.first(), out.last()) {
            (Some(first), Some(last)) => last.time.0.saturating_sub(first.time.0),
            _ => 0,
        };
        let traces = state.traces_of(after, taken);
        let waiting_since_us = state.note_taken(shard, taken, span_ms);
        outcome.map(|()| Taken { head: state.log.head(), waiting_since_us, traces })
    }

    /// As [`Self::take`] for a shard without anybody to fan out to: it has everything. Gives the newest offset.
    pub(crate) fn take_none(&self, shard: u16) -> u64 {
        let mut state = lock(&self.state);
        let head = state.log.head();
        state.note_taken(shard, head, 0);
        head
    }
}

/// What those who write to disk ask and tell.
impl Channel {
    /// An event is on its way to the disk: until it is there, the channel stays known. False if it was
    /// forgotten already.
    pub(super) fn begin_submission(&self) -> bool {
        let mut state = lock(&self.state);
        let forgotten = state.forgotten;
        if let Some(on_disk) = state.on_disk.as_mut().filter(|_| !forgotten) {
            on_disk.submitted += 1;
        }
        !forgotten
    }

    pub(crate) fn end_submission(&self) {
        if let Some(on_disk) = &mut lock(&self.state).on_disk {
            on_disk.submitted -= 1;
        }
    }

    /// What the store has of it, the newest offset, and the newest event's time and running total.
    pub(crate) fn standing(&self) -> (ChannelRecord, u64, Summary) {
        let state = lock(&self.state);
        let none = (ChannelRecord::default(), Summary { time: Timestamp(0), total: 0 });
        let (record, newest) = state.on_disk.as_ref().map_or(none, |on_disk| {
            let record = ChannelRecord {
                number: on_disk.number,
                floor: on_disk.erased,
                floor_total: on_disk.erased_total,
                state: on_disk.state,
            };
            (record, on_disk.newest)
        });
        (record, state.log.head(), newest)
    }

    /// The number in the store and the newest offset, if anything is stored.
    pub(crate) fn stored_head(&self) -> Option<(u64, u64)> {
        let state = lock(&self.state);
        let number = state.on_disk.as_ref()?.number;
        (number != 0).then(|| (number, state.log.head()))
    }

    /// What is on disk, unless something is being erased.
    pub(crate) fn extent(&self) -> Option<Extent> {
        let state = lock(&self.state);
        let on_disk = state.on_disk.as_ref()?;
        let head = state.log.head();
        (on_disk.number != 0 && !on_disk.erasing && on_disk.erased < head).then_some(Extent {
            number: on_disk.number,
            erased: on_disk.erased,
            erased_total: on_disk.erased_total,
            head,
            newest: on_disk.newest,
            oldest: on_disk.oldest,
        })
    }

    /// The event after `erased` was looked at.
    pub(crate) fn note_oldest(&self, erased: u64, oldest: Option<Summary>) {
        if let Some(on_disk) = lock(&self.state).on_disk.as_mut().filter(|on_disk| on_disk.erased == erased) {
            on_disk.oldest = oldest;
        }
    }

    /// From now on readers do not get what is about to be erased. False if something is being erased already.
    pub(crate) fn begin_erasing(&self, erasure: Erasure) -> bool {
        let mut state = lock(&self.state);
        let Some(on_disk) = state.on_disk.as_mut() else { return false };
        if on_disk.erasing {
            return false;
        }
        on_disk.erasing = true;
        on_disk.submitted += 1;
        on_disk.floor = on_disk.floor.max(erasure.floor);
        true
    }

    /// It is erased; or, if `None`, it could not be.
    pub(crate) fn note_erased(&self, erasure: Option<Erasure>) {
        let mut state = lock(&self.state);
        let Some(on_disk) = state.on_disk.as_mut() else { return };
        on_disk.erasing = false;
        on_disk.submitted -= 1;
        if let Some(Erasure { floor, floor_total, .. }) = erasure {
            // Not so if the channel was deleted meanwhile.
            if floor > on_disk.erased {
                on_disk.erased = floor;
                on_disk.erased_total = floor_total;
                on_disk.oldest = None;
            }
        }
    }

    /// All that it had on disk is deleted.
    pub(super) fn note_deleted(&self, record: ChannelRecord) {
        let mut state = lock(&self.state);
        let Some(on_disk) = state.on_disk.as_mut() else { return };
        on_disk.number = record.number;
        on_disk.floor = record.floor;
        on_disk.erased = record.floor;
        on_disk.erased_total = record.floor_total;
        on_disk.state = record.state;
        on_disk.oldest = None;
    }
}

/// Leaves out events after an offset. True if there are any.
fn cut_after(events: &mut Vec<Arc<Event>>, end: u64) -> bool {
    let is_cut = events.last().is_some_and(|last| last.id.offset > end);
    if is_cut {
        events.truncate(events.partition_point(|event| event.id.offset <= end));
    }
    is_cut
}

impl Interest {
    /// The shard is about to be told of an event.
    pub(super) fn tell(&mut self, clock: Clock) {
        self.told = true;
        if self.waiting_since_us == 0 {
            self.waiting_since_us = clock.now_us();
        }
    }
}

impl State {
    pub(super) fn new(log: ChannelLog, on_disk: Option<OnDisk>, shared: Option<Shared>) -> Self {
        let (on_disk, shared) = (on_disk.map(Box::new), shared.map(Box::new));
        Self { log, interests: Vec::new(), forgotten: false, on_disk, shared, traced: None }
    }

    /// Takes over an event that is on disk.
    pub(super) fn adopt(
        &mut self,
        event: OnDiskEvent,
        now: Timestamp,
        window: &Retention,
        events_max: usize,
    ) {
        let OnDiskEvent { event, number, total, state } = event;
        let (offset, time) = (event.id.offset, event.time);
        self.log.adopt(event, now, window);
        if let Some(on_disk) = &mut self.on_disk {
            on_disk.number = number;
            on_disk.newest = Summary { time, total };
            on_disk.state = state;
            on_disk.floor = on_disk.floor.max(offset.saturating_sub(events_max as u64));
        }
    }

    /// The number by which chunks of it are known, if its log is elsewhere.
    fn chunk_number(&self) -> Option<u64> {
        match (&self.on_disk, &self.shared) {
            (Some(on_disk), _) => Some(on_disk.number),
            (_, Some(shared)) => Some(shared.number),
            _ => None,
        }
    }

    pub(super) fn backlog(&self) -> u64 {
        self.interests.iter().map(|interest| self.lag(interest.taken)).max().unwrap_or(0)
    }

    /// How many events come after an offset.
    fn lag(&self, after: u64) -> u64 {
        match &self.shared {
            Some(shared) if shared.is_sparse => self.log.count_after(after) as u64,
            _ => self.log.head().saturating_sub(after),
        }
    }

    /// Whether forgetting the channel loses nothing.
    pub(super) fn is_forgettable(&self) -> bool {
        let is_unused = match &self.on_disk {
            Some(on_disk) => on_disk.submitted == 0,
            None => self.log.is_forgettable(),
        };
        self.interests.is_empty() && is_unused
    }

    /// A shard takes events that came within `span_ms`. Gives when the first of them came.
    fn note_taken(&mut self, shard: u16, taken: u64, span_ms: u64) -> u64 {
        let head = self.log.head();
        let Some(interest) = self.interests.iter_mut().find(|interest| interest.shard == shard) else {
            return 0;
        };
        interest.told = false;
        interest.taken = taken;
        let since_us = interest.waiting_since_us;
        // What is left came after all that is taken.
        interest.waiting_since_us = if taken < head { since_us.saturating_add(span_ms * 1000) } else { 0 };
        self.forget_traces();
        since_us
    }

    /// The newest event is traced, as long as there are shards to hand it to.
    pub(super) fn note_trace(&mut self, trace: Option<Arc<Trace>>) {
        let Some(trace) = trace.filter(|_| !self.interests.is_empty()) else { return };
        let offset = self.log.head();
        let traced = self.traced.get_or_insert_default();
        // Of more than that, spans of some shards are missing.
        if traced.len() >= TRACED_MAX {
            traced.remove(0);
        }
        traced.push((offset, trace));
    }

    fn traces_of(&self, after: u64, taken: u64) -> Vec<Arc<Trace>> {
        let Some(traced) = &self.traced else { return Vec::new() };
        let within = traced.iter().filter(|(offset, _)| *offset > after && *offset <= taken);
        within.map(|(_, trace)| Arc::clone(trace)).collect()
    }

    /// What all shards have is no longer on its way.
    fn forget_traces(&mut self) {
        let Some(traced) = &mut self.traced else { return };
        let taken_by_all = self.interests.iter().map(|interest| interest.taken).min().unwrap_or(u64::MAX);
        traced.retain(|(offset, _)| *offset > taken_by_all);
        if traced.is_empty() {
            self.traced = None;
        }
    }
}

impl OnDisk {
    fn new(record: ChannelRecord, floor: u64, newest: Summary) -> Self {
        Self {
            number: record.number,
            floor,
            erased: record.floor,
            erased_total: record.floor_total,
            erasing: false,
            newest,
            state: record.state,
            oldest: None,
            submitted: 0,
        }
    }
}
