//! Many clients that lost their server come back, as the SDK does it, to the servers that are left: a simulation of one of
//! these, which are all alike, with its share of the brokers. Must not know how large a cluster is.

use std::collections::VecDeque;

use super::PlanArgs;
use super::costs::Costs;
use super::sizing::Sizing;

/// A step of the simulation.
const TICK_MS: u64 = 10;
/// It is given up then.
const TICKS: usize = 60_000;
/// Connections that wait to be accepted (`net.core.somaxconn`, as deploying.md sets it). Beyond, the kernel drops the
/// SYN, and the client's sends it again after 1, 2 and 4 s.
const BACKLOG: usize = 16_384;
/// The SDK's: a sign of life within that, or it is a failure (`welcomeTimeoutMs`).
const PATIENCE_MS: u64 = 10_000;
/// The SDK's backoff: any part of 0.5 s, doubled with each failure up to 30 s (`backoffMs`).
const BACKOFF_MS: u64 = 500;
const BACKOFF_MOST_MS: u64 = 30_000;
/// What the broker has not answered by then is refused (`limits.backplane_timeout_ms`).
const BROKER_MS: u64 = 5_000;
/// A client that does not spread tries again after this.
const STUBBORN_MS: u64 = 1_000;

/// What comes over one server.
#[derive(Debug, Clone)]
pub(super) struct Storm {
    pub(super) clients: u64,
    /// They wait as the SDK does, rather than not at all.
    pub(super) spreads: bool,
    /// Core time that the server has left in a tick.
    pub(super) free_us: f64,
    /// What connecting takes of it, and what is lost with one who gave up before.
    pub(super) connect_us: f64,
    pub(super) abandoned_us: f64,
    /// How many channels the brokers begin to follow for this server in a tick, and how many each client has.
    pub(super) follows: f64,
    pub(super) own_channels: u64,
}

/// What became of it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) attempts: u64,
    pub(super) refused: u64,
    pub(super) queue_most: usize,
    /// When each came back, ascending; those who never did are not in it.
    back_ms: Vec<u64>,
    clients: u64,
}

/// Somebody who tries.
#[derive(Clone, Copy)]
struct Attempt {
    client: u32,
    since_ms: u64,
    /// SYNs that were dropped.
    dropped: u32,
}

struct Simulation<'s> {
    storm: &'s Storm,
    random: Random,
    due: Vec<Vec<Attempt>>,
    failures: Vec<u8>,
    outcome: Outcome,
}

impl Storm {
    pub(super) fn of(plan: &PlanArgs, sizing: &Sizing, costs: &Costs, clients: u64) -> Self {
        let tick_us = TICK_MS as f64 * 1e3;
        let handshake_us = if plan.tls { costs.handshake_us } else { 0.0 };
        let brokers_us = plan.brokers as f64 * (1.0 - sizing.broker_busy).max(0.0) * tick_us;
        Self {
            clients,
            spreads: true,
            free_us: plan.cores as f64 * (1.0 - sizing.server_busy).max(0.0) * tick_us,
            connect_us: costs.connect_us + handshake_us,
            abandoned_us: costs.connect_us,
            follows: brokers_us / costs.broker_follow_us / sizing.servers as f64,
            own_channels: plan.own_channels,
        }
    }

    pub(super) fn run(&self, seed: u64) -> Outcome {
        let mut simulation = Simulation {
            storm: self,
            random: Random(seed),
            due: vec![Vec::new(); TICKS],
            failures: vec![0; self.clients as usize],
            outcome: Outcome { clients: self.clients, ..Outcome::default() },
        };
        for client in 0..self.clients as u32 {
            simulation.retry(client, 0);
        }
        simulation.run();
        simulation.outcome
    }
}

impl Simulation<'_> {
    fn run(&mut self) {
        let mut waiting: VecDeque<Attempt> = VecDeque::new();
        let mut subscribing: VecDeque<(Attempt, u64)> = VecDeque::new();
        let (mut free_us, mut follows) = (0.0, 0.0);
        for tick in 0..TICKS {
            let now_ms = tick as u64 * TICK_MS;
            for attempt in std::mem::take(&mut self.due[tick]) {
                self.arrive(attempt, now_ms, &mut waiting);
            }
            // What is not used in a tick is gone, but for the rest of one that was begun.
            free_us = f64::min(free_us, 0.0) + self.storm.free_us;
            while free_us > 0.0
                && let Some(attempt) = waiting.pop_front()
            {
                if now_ms - attempt.since_ms > PATIENCE_MS {
                    free_us -= self.storm.abandoned_us;
                    self.fail(attempt.client, attempt.since_ms + PATIENCE_MS, now_ms);
                } else {
                    free_us -= self.storm.connect_us;
                    subscribing.push_back((attempt, now_ms));
                }
            }
            follows = f64::min(follows, 0.0) + self.storm.follows;
            while follows > 0.0
                && let Some((attempt, asked_ms)) = subscribing.pop_front()
            {
                if now_ms - asked_ms > BROKER_MS {
                    self.outcome.refused += 1;
                    self.fail(attempt.client, asked_ms + BROKER_MS, now_ms);
                } else {
                    follows -= self.storm.own_channels as f64;
                    self.outcome.back_ms.push(now_ms);
                }
            }
            if self.outcome.back_ms.len() as u64 == self.storm.clients {
                return;
            }
        }
    }

    /// A SYN comes: it waits to be accepted, or is dropped and comes again.
    fn arrive(&mut self, mut attempt: Attempt, now_ms: u64, waiting: &mut VecDeque<Attempt>) {
        if attempt.dropped == 0 {
            self.outcome.attempts += 1;
        }
        if waiting.len() < BACKLOG {
            waiting.push_back(attempt);
            self.outcome.queue_most = self.outcome.queue_most.max(waiting.len());
            return;
        }
        let again_ms = now_ms + (1_000 << attempt.dropped);
        attempt.dropped += 1;
        if again_ms - attempt.since_ms > PATIENCE_MS {
            self.fail(attempt.client, attempt.since_ms + PATIENCE_MS, now_ms);
        } else {
            self.put(again_ms, attempt);
        }
    }

    fn fail(&mut self, client: u32, failed_ms: u64, now_ms: u64) {
        let failures = &mut self.failures[client as usize];
        *failures = failures.saturating_add(1);
        self.retry(client, failed_ms.max(now_ms));
    }

    fn retry(&mut self, client: u32, now_ms: u64) {
        let failures = u32::from(self.failures[client as usize]);
        let wait_ms = match (self.storm.spreads, failures) {
            (true, _) => {
                let most = BACKOFF_MOST_MS.min(BACKOFF_MS << failures.min(16));
                (self.random.part() * most as f64) as u64
            }
            (false, 0) => 0,
            (false, _) => STUBBORN_MS,
        };
        let since_ms = now_ms + wait_ms;
        self.put(since_ms, Attempt { client, since_ms, dropped: 0 });
    }

    fn put(&mut self, at_ms: u64, attempt: Attempt) {
        // What is due in the tick that is being looked at comes in the next one.
        let tick = (at_ms / TICK_MS + 1) as usize;
        if let Some(due) = self.due.get_mut(tick) {
            due.push(attempt);
        }
    }
}

impl Outcome {
    /// When so large a part of all was back.
    pub(super) fn back_ms(&self, part: f64) -> Option<u64> {
        let count = (self.clients as f64 * part).ceil() as usize;
        self.back_ms.get(count.max(1) - 1).copied()
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and the same everywhere.
struct Random(u64);

impl Random {
    /// From 0 up to 1.
    fn part(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::{BACKLOG, Storm};

    const STORM: Storm = Storm {
        clients: 1_000,
        spreads: true,
        free_us: 10_000.0,
        connect_us: 100.0,
        abandoned_us: 30.0,
        follows: 1e9,
        own_channels: 1,
    };

    #[test]
    fn with_room_for_all_they_are_back_within_their_first_wait() {
        let outcome = STORM.run(1);
        assert_eq!(outcome.attempts, STORM.clients);
        assert!(outcome.back_ms(1.0).is_some_and(|ms| ms <= 540), "{outcome:?}");
    }

    #[test]
    fn nobody_is_forgotten_and_the_pace_is_what_the_server_has() {
        let storm = Storm { clients: 200_000, ..STORM };
        let outcome = storm.run(2);
        assert_eq!(outcome.back_ms.len(), 200_000);
        // 10,000 a second can be served.
        let all_ms = outcome.back_ms(1.0).expect("all came back");
        assert!((20_000..90_000).contains(&all_ms), "{all_ms}");
        assert!(outcome.queue_most <= BACKLOG && outcome.attempts > storm.clients);
    }

    #[test]
    fn brokers_that_cannot_keep_up_refuse_and_are_asked_again() {
        let outcome = Storm { clients: 20_000, follows: 5.0, ..STORM }.run(3);
        assert!(outcome.refused > 0);
        assert_eq!(outcome.back_ms.len(), 20_000);
    }

    #[test]
    fn a_server_without_any_core_time_serves_nobody() {
        let outcome = Storm { clients: 10, free_us: 0.0, ..STORM }.run(4);
        assert_eq!(outcome.back_ms(0.5), None);
    }
}
