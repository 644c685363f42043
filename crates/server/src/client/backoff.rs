//! How long to wait before the next attempt: exponential with full jitter.
//! Must not sleep, read a clock or make random numbers: chance comes in as an argument.

use std::time::Duration;

/// What a server asks for is obeyed up to this long; every wait is bounded.
const ASKED_MAX: Duration = Duration::from_secs(120);

/// The waits of one series of attempts.
#[derive(Debug)]
pub(super) struct Backoff {
    base: Duration,
    cap: Duration,
    attempts: u32,
}

impl Backoff {
    /// A series whose first wait is at most `base`, and none of whose waits is over `cap`.
    pub(super) fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, attempts: 0 }
    }

    /// The next wait. `chance` is evenly distributed in `0.0..1.0`. What the server asked for comes on
    /// top, so that clients that were all told the same do not come back in the same instant.
    pub(super) fn next(&mut self, asked: Option<Duration>, chance: f64) -> Duration {
        let ceiling = self.base.saturating_mul(1 << self.attempts.min(20)).min(self.cap);
        self.attempts = self.attempts.saturating_add(1);
        asked.unwrap_or_default().min(ASKED_MAX) + ceiling.mul_f64(chance.clamp(0.0, 1.0))
    }

    /// After a success the next series begins small again.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_millis(250);
    const CAP: Duration = Duration::from_secs(10);

    #[test]
    fn doubles_its_ceiling_up_to_the_cap_and_begins_again() {
        let mut backoff = Backoff::new(BASE, CAP);
        let ceilings: Vec<_> = (0..8).map(|_| backoff.next(None, 1.0).as_millis()).collect();
        assert_eq!(ceilings, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        for _ in 0..100 {
            assert!(backoff.next(None, 1.0) <= CAP);
        }
        backoff.reset();
        assert_eq!(backoff.next(None, 1.0), BASE);
    }

    #[test]
    fn full_jitter_reaches_down_to_nothing() {
        assert_eq!(Backoff::new(BASE, CAP).next(None, 0.0), Duration::ZERO);
        assert_eq!(Backoff::new(BASE, CAP).next(None, 0.5), BASE / 2);
    }

    #[test]
    fn waits_at_least_as_long_as_asked_but_never_forever() {
        let asked = Duration::from_secs(2);
        assert_eq!(Backoff::new(BASE, CAP).next(Some(asked), 0.0), asked);
        assert_eq!(Backoff::new(BASE, CAP).next(Some(Duration::MAX), 0.0), ASKED_MAX);
    }
}
