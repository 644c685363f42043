//! Heartbeats and stalls: when to send a sign of life, and when a peer counts as gone. The policy of
//! all transports; must not know how any of them says it.

use crate::limits::Limits;

/// What is due on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing before this time (milliseconds, monotonic).
    Nothing {
        /// When to ask again.
        until_ms: u64,
    },
    /// A ping or a comment must be sent now.
    Heartbeat,
    /// The peer sent nothing for two heartbeats: close with 4002.
    Silent,
    /// The peer took nothing for too long: close with 4001.
    Stalled,
}

/// The liveness of one long-lived connection. Times are monotonic milliseconds, passed in.
#[derive(Debug, Clone, Copy)]
pub struct Liveness {
    heard_ms: u64,
    heartbeat_ms: u64,
    /// Since when the socket takes nothing; 0 when it does.
    stalled_ms: u64,
}

impl Liveness {
    /// A connection that has just been heard from. Its first heartbeat comes after a part of the interval
    /// that `spread` (any number, such as the connection's index) chooses, so that connections
    /// that came together do not all beat together.
    pub fn new(now_ms: u64, limits: &Limits, spread: u64) -> Self {
        let interval = limits.heartbeat_ms;
        let early = spread.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let shift = (early * (interval / 4)) >> 32;
        Self { heard_ms: now_ms, heartbeat_ms: now_ms + interval - shift, stalled_ms: 0 }
    }

    /// Something came from the peer.
    pub fn handle_heard(&mut self, now_ms: u64) {
        self.heard_ms = now_ms;
    }

    /// The socket took nothing of what was offered.
    pub fn handle_blocked(&mut self, now_ms: u64) {
        if self.stalled_ms == 0 {
            self.stalled_ms = now_ms.max(1);
        }
    }

    /// The socket took something.
    pub fn handle_progress(&mut self, now_ms: u64, still_blocked: bool) {
        self.stalled_ms = if still_blocked { now_ms.max(1) } else { 0 };
    }

    /// What is due at `now_ms`. `answers` says whether this kind of peer answers heartbeats at all.
    /// After [`Due::Heartbeat`] the next one is planned already.
    pub fn poll_due(&mut self, now_ms: u64, limits: &Limits, answers: bool) -> Due {
        if self.stalled_ms != 0 {
            // While nothing can be written, nothing is read either: silence proves nothing.
            let until_ms = self.stalled_ms + limits.stall_timeout_ms;
            return if now_ms >= until_ms { Due::Stalled } else { Due::Nothing { until_ms } };
        }
        let silent_at = self.heard_ms + 2 * limits.heartbeat_ms;
        if answers && now_ms >= silent_at {
            return Due::Silent;
        }
        if now_ms >= self.heartbeat_ms {
            self.heartbeat_ms = now_ms + limits.heartbeat_ms;
            return Due::Heartbeat;
        }
        let until_ms = if answers { silent_at.min(self.heartbeat_ms) } else { self.heartbeat_ms };
        Due::Nothing { until_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { heartbeat_ms: 1000, stall_timeout_ms: 3000, ..Limits::default() }
    }

    #[test]
    fn beats_at_its_interval_and_gives_up_after_two() {
        let limits = limits();
        let mut liveness = Liveness::new(0, &limits, 0);
        assert_eq!(liveness.poll_due(999, &limits, true), Due::Nothing { until_ms: 1000 });
        assert_eq!(liveness.poll_due(1000, &limits, true), Due::Heartbeat);
        assert_eq!(liveness.poll_due(1999, &limits, true), Due::Nothing { until_ms: 2000 });
        assert_eq!(liveness.poll_due(2000, &limits, true), Due::Silent);
        liveness.handle_heard(1999);
        assert_eq!(liveness.poll_due(2000, &limits, true), Due::Heartbeat);
    }

    #[test]
    fn a_stream_that_cannot_answer_is_never_silent() {
        let limits = limits();
        let mut liveness = Liveness::new(0, &limits, 0);
        for beat in 1..10 {
            assert_eq!(liveness.poll_due(beat * 1000, &limits, false), Due::Heartbeat);
        }
    }

    #[test]
    fn progress_however_small_restarts_the_stall() {
        let limits = limits();
        let mut liveness = Liveness::new(0, &limits, 0);
        liveness.handle_blocked(100);
        liveness.handle_blocked(2000);
        assert_eq!(liveness.poll_due(3099, &limits, true), Due::Nothing { until_ms: 3100 });
        assert_eq!(liveness.poll_due(3100, &limits, true), Due::Stalled);
        liveness.handle_progress(3100, true);
        assert_eq!(liveness.poll_due(3100, &limits, true), Due::Nothing { until_ms: 6100 });
        liveness.handle_progress(4000, false);
        assert_eq!(liveness.poll_due(4000, &limits, false), Due::Heartbeat);
    }

    #[test]
    fn first_beats_are_spread_over_the_last_quarter() {
        let limits = limits();
        let first = |spread| match Liveness::new(0, &limits, spread).poll_due(0, &limits, false) {
            Due::Nothing { until_ms } => until_ms,
            other => panic!("{other:?}"),
        };
        let times: Vec<u64> = (0..1000).map(first).collect();
        assert!(times.iter().all(|at| (750..=1000).contains(at)));
        let early = times.iter().filter(|at| **at < 875).count();
        assert!((400..600).contains(&early), "{early} of 1000 in the earlier half");
    }
}
