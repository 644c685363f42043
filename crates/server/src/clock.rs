//! The only place that reads clocks. Everything else is told the time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tidewire_core::Timestamp;

/// Monotonic milliseconds since this was made; the time of deadlines and heartbeats.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that begins at 1, so that 0 can mean "never".
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Monotonic milliseconds.
    pub(crate) fn now_ms(self) -> u64 {
        ms_of(self.now_us())
    }

    /// The same clock in microseconds, where durations are measured.
    pub(crate) fn now_us(self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).map_or(u64::MAX, |us| us + 1000)
    }
}

/// The milliseconds of a reading in microseconds.
pub(crate) fn ms_of(now_us: u64) -> u64 {
    now_us / 1000
}

/// The wall clock, as events show it.
pub(crate) fn wall_clock() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(Timestamp::MAX.0))
}
