//! When keys are fetched: at the start, when they are old, and when a token wants them, on one thread of its own.
//! Must not know how (`remote`), nor why somebody waits.
//!
//! Bounds: one fetch at a time, with a pause between two of an issuer whoever asks, and a bounded number of those
//! who wait. An issuer that is away changes nothing: its keys stay as they are.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::cache::{Fingerprint, fingerprint_of};
use super::key_set::{self, Giver};
use super::remote::Remote;
use super::ring::Ring;
use crate::access::settings::IssuerSettings;
use crate::clock::Clock;

/// How many may wait for the keys of one issuer. Beyond: they are told at once, as if the fetch had failed.
const WAITING_MAX: usize = 10_000;

/// Told when a fetch has ended, whatever came of it.
pub(super) type Done = Box<dyn FnOnce() + Send>;

/// The thread that fetches; it ends when this is dropped.
pub(super) struct Fetcher {
    shared: Arc<Shared>,
}

struct Shared {
    ring: Arc<Ring>,
    clock: Clock,
    /// By place of the issuer; nothing for those whose keys are not fetched.
    remotes: Vec<Option<Remote>>,
    schedule: Mutex<Schedule>,
    changed: Condvar,
}

#[derive(Default)]
struct Schedule {
    errands: Vec<Errand>,
    /// Whose turn was last.
    last: usize,
    is_stopping: bool,
}

/// The fetches of one issuer.
struct Errand {
    refresh_ms: u64,
    pause_ms: u64,
    /// When it is fetched unasked. `None`: its keys are not fetched, or are just now.
    due_at_ms: Option<u64>,
    /// Before, no fetch begins.
    allowed_at_ms: u64,
    is_under_way: bool,
    is_wanted: bool,
    failures: u32,
    waiting: Vec<Done>,
}

impl Fetcher {
    /// Starts the thread, which fetches all keys first. Nothing is started if no keys are fetched.
    pub(super) fn start(ring: &Arc<Ring>, issuers: &[IssuerSettings]) -> anyhow::Result<Option<Self>> {
        let remotes = issuers.iter().map(Remote::new).collect::<anyhow::Result<Vec<_>>>()?;
        if remotes.iter().all(Option::is_none) {
            return Ok(None);
        }
        let errands =
            issuers.iter().zip(&remotes).map(|(settings, remote)| Errand::new(settings, remote.is_some()));
        let schedule = Schedule { errands: errands.collect(), ..Schedule::default() };
        let shared = Arc::new(Shared {
            ring: Arc::clone(ring),
            clock: Clock::start(),
            remotes,
            schedule: Mutex::new(schedule),
            changed: Condvar::new(),
        });
        let thread = Arc::clone(&shared);
        // It is never waited for: at its end it may be in the midst of a fetch.
        crate::server::spawn("keys", move || thread.run())?;
        Ok(Some(Self { shared }))
    }

    /// Has the keys of an issuer fetched, unless they were lately.
    pub(super) fn fetch(&self, place: usize, done: Done) {
        let now_ms = self.shared.clock.now_ms();
        let mut schedule = self.shared.lock();
        let is_stopping = schedule.is_stopping;
        let declined = match schedule.errands.get_mut(place) {
            Some(errand) if !is_stopping => errand.ask(now_ms, done),
            _ => Some(done),
        };
        drop(schedule);
        match declined {
            Some(done) => done(),
            None => self.shared.changed.notify_one(),
        }
    }

    /// Ends the thread, after the fetch that is under way. Nobody has to wait for that.
    pub(super) fn stop(&self) {
        let mut schedule = self.shared.lock();
        schedule.is_stopping = true;
        let waiting: Vec<Done> =
            schedule.errands.iter_mut().flat_map(|errand| std::mem::take(&mut errand.waiting)).collect();
        drop(schedule);
        self.shared.changed.notify_one();
        waiting.into_iter().for_each(|done| done());
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Errand {
    fn new(settings: &IssuerSettings, is_remote: bool) -> Self {
        let pause_ms = settings.fetch_pause_seconds.saturating_mul(1000);
        Self {
            refresh_ms: settings.refresh_seconds.saturating_mul(1000).max(pause_ms).max(1000),
            pause_ms,
            due_at_ms: is_remote.then_some(0),
            allowed_at_ms: if is_remote { 0 } else { u64::MAX },
            is_under_way: false,
            is_wanted: false,
            failures: 0,
            waiting: Vec::new(),
        }
    }

    /// Joins the fetch that is under way, or asks for one. Gives `done` back if there will be none.
    fn ask(&mut self, now_ms: u64, done: Done) -> Option<Done> {
        let may_begin = self.is_under_way || now_ms >= self.allowed_at_ms;
        if !may_begin || self.waiting.len() >= WAITING_MAX {
            return Some(done);
        }
        self.is_wanted |= !self.is_under_way;
        self.waiting.push(done);
        None
    }

    fn is_due(&self, now_ms: u64) -> bool {
        self.is_wanted || self.due_at_ms.is_some_and(|due_at_ms| now_ms >= due_at_ms)
    }

    fn begin(&mut self) {
        (self.is_under_way, self.is_wanted, self.due_at_ms) = (true, false, None);
    }

    fn end(&mut self, now_ms: u64, is_good: bool) -> Vec<Done> {
        self.is_under_way = false;
        self.failures = if is_good { 0 } else { self.failures.saturating_add(1) };
        // An issuer that is away is asked again soon, but less and less often.
        let wait_ms = match self.failures {
            0 => self.refresh_ms,
            failures => self.pause_ms.max(1000).saturating_mul(1 << failures.min(16)).min(self.refresh_ms),
        };
        // So that servers that were started together do not ask together.
        let early_ms = fastrand::u64(0..=wait_ms / 10);
        self.allowed_at_ms = now_ms.saturating_add(self.pause_ms);
        let due_at_ms = now_ms.saturating_add(wait_ms - early_ms);
        self.due_at_ms = Some(due_at_ms.max(self.allowed_at_ms));
        std::mem::take(&mut self.waiting)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut known: Vec<Option<Fingerprint>> = vec![None; self.remotes.len()];
        while let Some(place) = self.next() {
            let Some(remote) = &self.remotes[place] else { continue };
            let is_good = self.fetch(place, remote, &mut known[place]);
            let waiting = {
                let now_ms = self.clock.now_ms();
                self.lock().errands[place].end(now_ms, is_good)
            };
            waiting.into_iter().for_each(|done| done());
        }
    }

    /// Waits for the next errand; nothing when it is time to stop.
    fn next(&self) -> Option<usize> {
        let mut schedule = self.lock();
        loop {
            if schedule.is_stopping {
                return None;
            }
            let (now_ms, count) = (self.clock.now_ms(), schedule.errands.len());
            // In turn, so that an issuer that is slow and much asked for holds up the others once only.
            let turns = (1..=count).map(|step| (schedule.last + step) % count);
            if let Some(place) = turns.into_iter().find(|place| schedule.errands[*place].is_due(now_ms)) {
                schedule.last = place;
                schedule.errands[place].begin();
                return Some(place);
            }
            let due = schedule.errands.iter().filter_map(|errand| errand.due_at_ms).min();
            let wait =
                Duration::from_millis(due.unwrap_or(u64::MAX).saturating_sub(now_ms).clamp(1, 3_600_000));
            schedule = self.changed.wait_timeout(schedule, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Fetches and takes what comes. `known` is the set as it was; one that is the same changes nothing.
    fn fetch(&self, place: usize, remote: &Remote, known: &mut Option<Fingerprint>) -> bool {
        let issuer = &self.ring.issuers[place];
        self.ring.counters.fetches.fetch_add(1, Ordering::Relaxed);
        // A fault in a library must not leave everybody waiting for ever.
        let fetched = catch_unwind(AssertUnwindSafe(|| {
            let body = remote.get(self.clock)?;
            let keys = key_set::parse(&body, &issuer.algorithms, Giver::Issuer)?;
            Ok((fingerprint_of(&body), keys))
        }));
        let fetched = fetched.unwrap_or_else(|_| Err("a fault of ours".to_owned()));
        let name = issuer.name.as_deref().unwrap_or("without a name");
        match fetched {
            Ok((fingerprint, keys)) => {
                if known.replace(fingerprint) != Some(fingerprint) {
                    tracing::info!(issuer = name, keys = keys.len(), "keys of the issuer have changed");
                    issuer.replace(keys);
                }
                true
            }
            Err(problem) => {
                self.ring.counters.fetch_failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(issuer = name, problem, "keys of the issuer cannot be had");
                false
            }
        }
    }
}
