//! A channel whose log is at the backplane: how far this node has followed it, what was lost there, and what comes
//! next. Must not know brokers, only what they say of a channel.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidewire_core::cursor::Start;
use tidewire_core::limits::{BACKPLANE_HOLES, BACKPLANE_IDLE_MS, Durability, Policy};
use tidewire_core::log::{ChannelLog, Position};
use tidewire_core::{ChannelName, Code, Epoch, Problem, Timestamp};

use super::channel::{Channel, State};
use super::{Hub, Keeper, Told, lock};
use crate::backplane::{Arrival, Extent, Seam, Standing};

/// How far a node has followed a channel, besides the events in memory.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Offsets say where events are, and those between two of them are nobody's.
    pub(super) is_sparse: bool,
    /// Stands for the channel among the chunks that were read of it.
    pub(super) number: u64,
    pub(super) extent: Extent,
    /// Where offsets leap, oldest first.
    pub(super) seams: Vec<Seam>,
}

/// What became of an event that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Adoption {
    /// It is the channel's newest now.
    Taken,
    /// It was there already.
    Known,
    /// Events before it have yet to come.
    Early,
}

impl Shared {
    /// Where a reader goes on that asks for what may be lost.
    pub(super) fn lost_at(&self, offset: u64) -> Option<u64> {
        let seam = self.seams.iter().find(|seam| seam.from <= offset && offset < seam.to)?;
        (seam.lossy || offset > seam.from).then_some(seam.to)
    }

    /// The newest offset that a reader at `after` gets before it must be told of a gap.
    pub(super) fn end_of_run(&self, after: u64) -> u64 {
        let seam = self.seams.iter().find(|seam| seam.lossy && seam.from >= after);
        seam.map_or(u64::MAX, |seam| seam.from)
    }

    /// The offset of the event that follows a position.
    fn next(&self, after: u64, log: &ChannelLog) -> u64 {
        if let Some(seam) = self.seams.iter().find(|seam| seam.from == after) {
            return seam.to + 1;
        }
        if !self.is_sparse {
            return after + 1;
        }
        let in_memory = log.next_after(after).filter(|_| after >= log.dropped());
        match in_memory {
            Some(event) => event.id.offset,
            None if after <= self.extent.floor && self.extent.first > after => self.extent.first,
            None => after + 1,
        }
    }

    /// Where a reader goes on whose position, of those in memory, is no event's. It was one that is lost, or of
    /// nobody's making.
    fn beside(&self, offset: u64, log: &ChannelLog) -> Option<u64> {
        let is_beside = self.is_sparse && offset > log.dropped() && offset < log.head() && !log.has(offset);
        let next = log.next_after(offset).filter(|_| is_beside)?;
        // One that is right before an event is where a gap has led.
        (next.id.offset > offset + 1).then(|| next.id.offset - 1)
    }

    /// How much is retained has changed.
    fn settle(&mut self, extent: Extent) {
        let floor = self.extent.floor.max(extent.floor);
        self.extent = Extent { floor, ..extent };
        self.seams.retain(|seam| seam.to >= floor);
    }

    /// As [`Self::note_leap`] for one that was found while reading history. Where offsets are sparse, it concerns but
    /// whoever is within it.
    fn insert_leap(&mut self, prev: u64, offset: u64) {
        let at = self.seams.partition_point(|seam| seam.from < prev);
        if self.seams.get(at).is_none_or(|seam| seam.from != prev) {
            self.seams.insert(at, Seam { from: prev, to: offset - 1, lossy: !self.is_sparse });
        }
        // Whoever was in one that is left out finds it again.
        if self.seams.len() > BACKPLANE_HOLES
            && let Some(hole) = self.seams.iter().position(|seam| !seam.lossy)
        {
            self.seams.remove(hole);
        }
    }

    /// An event comes after another one with others between.
    fn note_leap(&mut self, prev: u64, offset: u64, lossy: bool) {
        let seam = Seam { from: prev, to: offset - 1, lossy };
        let leaps = if self.is_sparse { lossy } else { offset > prev + 1 };
        if leaps && self.seams.last().is_none_or(|last| last.from < prev) {
            self.seams.push(seam);
        }
    }
}

impl State {
    /// As [`Channel::locate`], for a channel at the backplane.
    pub(super) fn locate_shared(&self, shared: &Shared, start: Start, floor: u64) -> (Position, u64) {
        let head = self.log.head();
        let position = match start {
            Start::Latest => Position { after: head, gap: false },
            Start::Earliest => Position { after: floor, gap: false },
            Start::After(offset) => match shared.lost_at(offset).or(shared.beside(offset, &self.log)) {
                Some(to) => Position { after: to.clamp(floor, head), gap: true },
                None if (floor..=head).contains(&offset) => Position { after: offset, gap: false },
                None => Position { after: floor, gap: true },
            },
            Start::Unknown => Position { after: floor, gap: true },
        };
        (position, shared.next(position.after, &self.log).min(head))
    }
}

impl Channel {
    /// A channel as the backplane says that it stands.
    pub(super) fn at_backplane(
        name: ChannelName,
        policy: Arc<Policy>,
        keeper: Keeper,
        number: u64,
        standing: Standing,
        epoch: Epoch,
    ) -> Self {
        let mut log = ChannelLog::new(name.clone(), epoch, standing.head);
        if let Some(latest) = standing.latest {
            log = ChannelLog::new(name.clone(), epoch, latest.prev.min(standing.head));
            let now = latest.event.time;
            log.adopt(latest.event, now, &policy.window);
        }
        let is_sparse = matches!(&keeper, Keeper::Backplane(backplane) if backplane.is_sparse(name.as_str()));
        let shared = Shared { is_sparse, number, extent: standing.extent, seams: standing.seams };
        Self::new(name, epoch, policy, Some(keeper), State::new(log, None, Some(shared)))
    }

    /// Whether its log is at the backplane.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.keeper, Some(Keeper::Backplane(_)))
    }

    /// Whether a subscriber at this position goes on elsewhere, and is told of a gap: the backplane has lost what
    /// it had, or drops it faster than this node reads.
    pub(crate) fn is_lost(&self, after: u64) -> bool {
        if !self.is_shared() {
            return false;
        }
        let state = lock(&self.state);
        let Some(shared) = &state.shared else { return false };
        let is_dropped = after < shared.extent.floor && after < state.log.dropped();
        shared.lost_at(after).is_some() || (is_dropped && self.keeps())
    }

    /// Whether somebody asks for what this node has not heard of, while it may be there.
    pub(crate) fn is_behind(&self, start: Start) -> bool {
        match start {
            Start::After(offset) if self.is_shared() => offset > self.head(),
            _ => false,
        }
    }

    /// Somebody read on after an offset, and this came first: the offset before it, and its own. False if the reader
    /// must look anew where it is.
    pub(crate) fn note_read(&self, after: u64, first: Option<(u64, u64)>) -> bool {
        let mut state = lock(&self.state);
        let dropped = state.log.dropped();
        let Some(shared) = &mut state.shared else { return false };
        match first {
            Some((prev, offset)) if prev == after || offset == after + 1 => return true,
            // It asks for what the broker has lost.
            Some((prev, offset)) if prev < after => shared.insert_leap(prev, offset),
            Some((prev, offset)) if prev > shared.extent.floor => {
                (shared.extent.floor, shared.extent.first) = (prev, offset);
            }
            Some(_) => {}
            None => shared.extent.floor = shared.extent.floor.max(dropped),
        }
        false
    }

    /// The number by which chunks of it are known.
    pub(crate) fn chunk_number(&self) -> Option<u64> {
        lock(&self.state).shared.as_ref().map(|shared| shared.number)
    }

    /// Whether the oldest event has expired, which the backplane must be asked about.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        let mut state = lock(&self.state);
        let Some(shared) = &mut state.shared else { return false };
        let is_due = shared.extent.expires_ms != 0 && shared.extent.expires_ms <= now.0;
        if is_due {
            shared.extent.expires_ms = 0; // asked for; the answer says when to ask again
        }
        is_due
    }

    /// Somebody asked for it.
    pub(super) fn touch(&self, now_ms: u64) {
        self.touched_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Whether nobody reads it, nor has for a while.
    pub(super) fn is_idle(&self, state: &State, now_ms: u64) -> bool {
        state.interests.is_empty() && self.touched_ms.load(Ordering::Relaxed) + BACKPLANE_IDLE_MS <= now_ms
    }
}

impl Channel {
    /// Whether its events can be read again.
    pub(crate) fn keeps(&self) -> bool {
        self.policy().durability != Durability::None
    }
}

/// What the backplane's threads tell of channels.
impl Hub {
    /// The channel, if it is followed.
    pub(crate) fn followed(&self, name: &ChannelName) -> Option<Arc<Channel>> {
        lock(self.stripe(name.as_str())).get(name.as_str()).filter(|channel| channel.is_shared()).cloned()
    }

    /// A channel is followed from now on.
    ///
    /// # Errors
    /// `history_full` when there are too many.
    pub(crate) fn insert_shared(
        &self,
        name: &ChannelName,
        standing: Standing,
    ) -> Result<Arc<Channel>, Problem> {
        let mut stripe = lock(self.stripe(name.as_str()));
        let policy = self.policy_of(name.as_str());
        let Some(keeper) = self.keeper_of(policy).cloned() else {
            return Err(Problem::new(Code::Internal, "the channel is not of the backplane"));
        };
        self.count_channel()?;
        let (number, epoch) = (self.numbers.fetch_add(1, Ordering::Relaxed), self.epoch(name.as_str()));
        let channel =
            Channel::at_backplane(name.clone(), Arc::clone(policy), keeper, number, standing, epoch);
        let channel = Arc::new(channel);
        channel.touch(self.clock.now_ms());
        self.account(0, lock(&channel.state).log.bytes());
        stripe.insert(name.clone(), Arc::clone(&channel));
        Ok(channel)
    }

    /// An event of a channel that is followed arrived. The shards to tell of it are added to `told`.
    pub(crate) fn adopt_shared(
        &self,
        channel: &Channel,
        arrival: &Arrival,
        now: Timestamp,
        told: &mut Told,
    ) -> Adoption {
        let mut state = lock(&channel.state);
        let (head, offset) = (state.log.head(), arrival.event.id.offset);
        if offset <= head {
            return Adoption::Known;
        }
        if arrival.prev > head && channel.keeps() {
            return Adoption::Early;
        }
        let before = state.log.bytes();
        if arrival.prev > head {
            // Of what is kept nowhere, those who were away get the gap.
            state.log.jump(arrival.prev);
        } else {
            state.log.rewind(arrival.prev);
        }
        state.log.adopt(Arc::clone(&arrival.event), now, channel.window());
        if let Some(shared) = &mut state.shared {
            shared.note_leap(arrival.prev, offset, arrival.lossy);
            if let Some(extent) = arrival.extent {
                shared.settle(extent);
            }
        }
        self.tell_all(&mut state, told);
        self.account(before, state.log.bytes());
        self.shrink_window(&mut state.log);
        Adoption::Taken
    }

    /// A channel stands so: what this node has that is not there is lost, what it has not is read by whoever wants
    /// it. Gives false if events up to there have yet to be read for those who are here.
    pub(crate) fn resettle(
        &self,
        channel: &Channel,
        standing: Standing,
        asked_at: u64,
        told: &mut Told,
    ) -> bool {
        let mut state = lock(&channel.state);
        let before = state.log.bytes();
        let known = state.log.head();
        // What came while it was asked for may be missing there; what was here before that is lost.
        if standing.head < known.min(asked_at) {
            state.log.rewind(standing.head);
        }
        let Some(shared) = &mut state.shared else { return true };
        shared.extent = standing.extent;
        shared.seams = standing.seams;
        // Who has what is lost is told with the next event, which leaps over it.
        if shared.lost_at(known).is_some()
            && let Some(seam) = shared.seams.iter().find(|seam| seam.to > known)
        {
            let from = seam.from;
            state.log.rewind(from);
        }
        let (floor, head) = (self.floor_of(channel, &state, standing.head), state.log.head());
        if floor > head {
            // All that came meanwhile and all that was before is gone from there, too.
            state.log.jump(floor);
        }
        let is_there = state.log.head() >= standing.head;
        if floor > head {
            self.tell_all(&mut state, told);
        }
        self.account(before, state.log.bytes());
        is_there
    }

    fn floor_of(&self, channel: &Channel, state: &State, head: u64) -> u64 {
        if channel.keeps() { channel.floor_in(state) } else { head }
    }

    /// All that a channel had is deleted at the backplane.
    pub(crate) fn clear_shared(&self, channel: &Channel, floor: u64, told: &mut Told) {
        let mut state = lock(&channel.state);
        let before = state.log.held_bytes();
        let to = floor.max(state.log.head());
        state.log.clear();
        state.log.jump(to);
        if let Some(shared) = &mut state.shared {
            shared.extent = Extent { floor: to, ..Extent::default() };
            shared.number = self.numbers.fetch_add(1, Ordering::Relaxed);
        }
        self.tell_all(&mut state, told);
        self.account(before, state.log.held_bytes());
    }

    /// Events that were missing cannot be had any more: readers go on after `to`, with a gap.
    pub(crate) fn give_up(&self, channel: &Channel, to: u64, told: &mut Told) {
        let mut state = lock(&channel.state);
        if to <= state.log.head() {
            return;
        }
        let before = state.log.bytes();
        state.log.jump(to);
        if let Some(shared) = &mut state.shared {
            shared.extent.floor = shared.extent.floor.max(to);
        }
        self.tell_all(&mut state, told);
        self.account(before, state.log.bytes());
    }

    fn tell_all(&self, state: &mut State, told: &mut Told) {
        for interest in state.interests.iter_mut().filter(|interest| !interest.told) {
            interest.tell(self.clock);
            told.push((interest.shard, interest.slot));
        }
    }
}
