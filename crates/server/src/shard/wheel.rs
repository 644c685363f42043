//! One coarse timer wheel for all connections of a shard: cheap to arm, cheap to leave armed.
//! Must not know what a deadline means; whoever is woken looks for itself.

/// The length of a slot. Deadlines fire up to this much late, never early.
pub(super) const TICK_MS: u64 = 50;
/// Later deadlines wait in the last slot and are looked at again: 51 s.
const SLOTS: u64 = 1024;

/// Deadlines by connection. One entry per connection is enough: a deadline that moves later is found
/// out when the entry fires, one that moves earlier is armed anew and the old entry is ignored.
#[derive(Debug)]
pub(super) struct Wheel {
    slots: Vec<Vec<Entry>>,
    /// The next tick to fire.
    next: u64,
    armed: usize,
}

/// An armed deadline: valid while the connection still names this tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) connection: u32,
    pub(super) tick: u32,
}

impl Wheel {
    pub(super) fn new(now_ms: u64) -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), next: now_ms / TICK_MS, armed: 0 }
    }

    /// The tick at which a deadline at `due_ms` fires.
    pub(super) fn tick_for(&self, due_ms: u64) -> u32 {
        let tick = due_ms.div_ceil(TICK_MS).clamp(self.next, self.next + SLOTS - 1);
        tick as u32 // wraps after six years; entries are compared for equality only
    }

    /// Arms an entry at a tick that [`Self::tick_for`] gave since the last [`Self::advance`].
    pub(super) fn arm(&mut self, connection: u32, tick: u32) {
        self.slots[(u64::from(tick) % SLOTS) as usize].push(Entry { connection, tick });
        self.armed += 1;
    }

    /// When to call [`Self::advance`] next; `None` while nothing is armed.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        (self.armed > 0).then_some(self.next * TICK_MS)
    }

    /// Moves the entries that are due into `fired`.
    pub(super) fn advance(&mut self, now_ms: u64, fired: &mut Vec<Entry>) {
        let current = now_ms / TICK_MS;
        // After a long sleep one turn around the wheel finds everything.
        let end = (current + 1).min(self.next + SLOTS);
        while self.next < end {
            let slot = &mut self.slots[(self.next % SLOTS) as usize];
            self.armed -= slot.len();
            fired.append(slot);
            if slot.capacity() > 1024 {
                slot.shrink_to(64);
            }
            self.next += 1;
        }
        self.next = self.next.max(current + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_late_by_a_tick_at_most_and_never_early() {
        let mut wheel = Wheel::new(1000);
        for (connection, due_ms) in [(1, 1001), (2, 1050), (3, 1100), (4, 5000), (5, 10)] {
            wheel.arm(connection, wheel.tick_for(due_ms));
        }
        let mut fired_at = vec![0; 6];
        let mut fired = Vec::new();
        for now_ms in (1000..6000).step_by(10) {
            wheel.advance(now_ms, &mut fired);
            fired.drain(..).for_each(|entry| fired_at[entry.connection as usize] = now_ms);
        }
        assert_eq!(fired_at, [0, 1050, 1050, 1100, 5000, 1000]);
        assert_eq!(wheel.next_due_ms(), None);
    }

    #[test]
    fn far_deadlines_wait_at_the_horizon() {
        let mut wheel = Wheel::new(0);
        let tick = wheel.tick_for(3_600_000);
        assert_eq!(u64::from(tick), SLOTS - 1);
        wheel.arm(1, tick);
        let mut fired = Vec::new();
        wheel.advance(10 * SLOTS * TICK_MS, &mut fired);
        assert_eq!(fired, [Entry { connection: 1, tick }]);
    }
}
