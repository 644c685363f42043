//! What all channels hold in memory together: kept within its bound, shared fairly, and forgotten when it has
//! expired. Must not know what is on disk.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidewire_core::log::ChannelLog;
use tidewire_core::{ChannelName, Code, NewEvent, Problem, Timestamp};

use super::{Channel, History, Hub, STRIPES, SWEEPS, lock};
use crate::store::retention;

impl History {
    /// One part of the channels, in memory and on disk, retains so much now.
    fn note(&self, part: usize, retained: [(u64, u64); 2]) {
        let mut parts = lock(&self.parts);
        parts[part] = retained;
        for (place, amount) in [&self.memory, &self.disk].into_iter().enumerate() {
            amount.events.store(parts.iter().map(|part| part[place].0).sum(), Ordering::Relaxed);
            amount.bytes.store(parts.iter().map(|part| part[place].1).sum(), Ordering::Relaxed);
        }
    }
}

impl Hub {
    /// Makes room for an event when all channels together hold as much as they may: every channel may then
    /// keep its equal share, and whoever has more gives it up, oldest events first.
    pub(super) fn make_room(&self, log: &mut ChannelLog, new: &NewEvent) -> Result<(), Problem> {
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

    /// Has the part of a log that is in memory give way, if all hold more than they may: the rest is on disk.
    pub(super) fn shrink_window(&self, log: &mut ChannelLog) {
        let total_max = self.limits().history_bytes;
        if self.history_bytes.load(Ordering::Relaxed) <= total_max {
            return;
        }
        let share = total_max / self.channels.load(Ordering::Relaxed).max(1);
        let before = log.bytes();
        log.shrink_to(share);
        self.account(before, log.bytes());
        self.relieve(share, total_max);
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

    pub(super) fn account(&self, before: usize, after: usize) {
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
        let mut retained = [(0, 0); 2];
        let now_ms = self.clock.now_ms();
        for stripe in self.stripes.iter().skip(part).step_by(SWEEPS) {
            let channels: Vec<Arc<Channel>> = lock(stripe).values().cloned().collect();
            let mut empty = false;
            for channel in &channels {
                let mut state = lock(&channel.state);
                let before = state.log.bytes();
                state.log.expire(now, channel.window());
                self.account(before, state.log.bytes());
                empty |= match channel.is_shared() {
                    true => channel.is_idle(&state, now_ms),
                    false => crowded && state.is_forgettable(),
                };
                let (events, bytes) = channel.retained_in(&state);
                let sum = &mut retained[usize::from(channel.keeper.is_some())];
                *sum = (sum.0 + events as u64, sum.1 + bytes as u64);
                drop(state);
                if let Some(disk) = self.disk().filter(|_| channel.is_on_disk()) {
                    retention::sweep_channel(disk, channel, now);
                }
                if channel.is_due(now)
                    && let Some(backplane) = self.backplane_of(channel.name().as_str())
                {
                    backplane.look(channel.name());
                }
            }
            if empty {
                self.forget_empty(&mut lock(stripe), crowded, now_ms);
            }
        }
        self.history.note(part, retained);
    }

    fn forget_empty(&self, stripe: &mut HashMap<ChannelName, Arc<Channel>>, crowded: bool, now_ms: u64) {
        stripe.retain(|name, channel| {
            // A publisher may hold a channel and wait for a stripe, so nobody may wait the other way round.
            let Ok(mut state) = channel.state.try_lock() else { return true };
            let is_forgettable = match channel.is_shared() {
                true => channel.is_idle(&state, now_ms),
                false => crowded && state.is_forgettable(),
            };
            if !is_forgettable {
                return true;
            }
            state.forgotten = true;
            if let Some(backplane) = self.backplane_of(name.as_str()).filter(|_| channel.is_shared()) {
                backplane.leave(name);
            }
            if channel.keeper.is_none() {
                self.floor.fetch_max(state.log.head(), Ordering::AcqRel);
            }
            self.account(state.log.held_bytes(), 0);
            self.channels.fetch_sub(1, Ordering::Relaxed);
            false
        });
    }
}
