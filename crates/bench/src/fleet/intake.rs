//! Where received events are entered: the subscriptions' accounts, the count and the latencies.
//! Knows nothing of connections but their number.

use hdrhistogram::Histogram;

use anyhow::Result;

use crate::layout::Layout;
use crate::ledger::{Faults, Ledger};
use crate::payload::StampFinder;

/// Latencies beyond two minutes are entered as two minutes.
const LATENCY_NS_MAX: u64 = 120_000_000_000;

/// An empty histogram of latencies, three digits exact.
pub(crate) fn latency_histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)?)
}

/// What came in since the last [`Intake::reset`].
pub(crate) struct Tally {
    /// Events that were new to their subscription.
    pub(crate) deliveries: u64,
    /// Bytes on the wire of all messages with events.
    pub(crate) event_bytes: u64,
    /// Events on a connection that did not subscribe to their channel.
    pub(crate) misdelivered: u64,
    /// When the last event came.
    pub(crate) last_ns: u64,
    pub(crate) latency_ns: Histogram<u64>,
}

pub(crate) struct Intake {
    layout: Layout,
    ledgers: Vec<Ledger>,
    finder: StampFinder,
    /// Latency is taken of one event in so many (a power of two), to keep a flood cheap to measure.
    sample_every: u32,
    unsampled: u32,
    pub(crate) tally: Tally,
}

impl Intake {
    pub(crate) fn new(layout: Layout, first_sequence: u32) -> Result<Intake> {
        let ledgers = std::iter::repeat_with(|| Ledger::starting_at(first_sequence));
        Ok(Intake {
            layout,
            ledgers: ledgers.take(layout.subscription_count()).collect(),
            finder: StampFinder::default(),
            sample_every: 1,
            unsampled: 0,
            tally: Tally {
                deliveries: 0,
                event_bytes: 0,
                misdelivered: 0,
                last_ns: 0,
                latency_ns: latency_histogram()?,
            },
        })
    }

    pub(crate) fn sample_every(&mut self, events: u32) {
        self.sample_every = events;
    }

    /// Begins a new count; the accounts go on.
    pub(crate) fn reset(&mut self) {
        let Tally { latency_ns, .. } = &mut self.tally;
        latency_ns.reset();
        self.tally.deliveries = 0;
        self.tally.event_bytes = 0;
    }

    /// Enters the events of one message; false if it holds none.
    #[inline]
    pub(crate) fn enter(&mut self, index: u32, message: &[u8], wire_bytes: usize, now_ns: u64) -> bool {
        let Some((mut stamp, mut end)) = self.finder.find(message) else { return false };
        self.tally.event_bytes += wire_bytes as u64;
        self.tally.last_ns = now_ns;
        // Bounded by the message: each turn moves `end` on.
        loop {
            match self.layout.subscription(index, stamp.channel) {
                Some(place) if self.ledgers[place].enter(stamp.sequence) => {
                    self.tally.deliveries += 1;
                    self.sample(now_ns.saturating_sub(stamp.due_ns));
                }
                Some(_) => {}
                None => self.tally.misdelivered += 1,
            }
            let Some((next, more)) = self.finder.find_more(&message[end..]) else { return true };
            stamp = next;
            end += more;
        }
    }

    #[inline]
    fn sample(&mut self, latency_ns: u64) {
        self.unsampled += 1;
        if self.unsampled >= self.sample_every {
            self.unsampled = 0;
            self.tally.latency_ns.saturating_record(latency_ns);
        }
    }

    /// What went wrong for the connections that `counted` picks, given how much each channel published.
    pub(crate) fn faults(&self, published: &[u32], counted: impl Fn(u32) -> bool) -> Faults {
        let mut faults = Faults::default();
        for index in (0..self.layout.connections).filter(|&index| counted(index)) {
            for channel in self.layout.channels_of(index) {
                if let Some(place) = self.layout.subscription(index, channel) {
                    faults +=
                        self.ledgers[place].faults(published.get(channel as usize).copied().unwrap_or(0));
                }
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Payload, Stamp};

    #[test]
    fn events_are_entered_where_they_belong() {
        let mut intake = Intake::new(Layout::own(2, 1), 0).expect("valid bounds");
        let mut payload = Payload::new(128).expect("a valid size");
        let stamp = Stamp { channel: 1, sequence: 0, due_ns: 100 };
        assert!(intake.enter(1, payload.stamped(stamp), 130, 350));
        assert!(intake.enter(0, payload.stamped(stamp), 130, 350));
        assert!(!intake.enter(0, b"{\"type\":\"pong\"}", 17, 350));
        assert_eq!((intake.tally.deliveries, intake.tally.misdelivered), (1, 1));
        assert_eq!(intake.tally.latency_ns.max(), 250);
        assert_eq!(intake.faults(&[1, 1], |_| true).lost, 1);
        assert_eq!(intake.faults(&[1, 1], |index| index == 1).lost, 0);
    }
}
