//! The one thread that writes to the store. Whatever waits is one commit and one sync; then its events
//! appear in their channels, those who published are told, and those who subscribe. A commit is never held
//! back to wait for company. Must not know connections: who waits has a ticket.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tidewire_core::{ChannelName, NewEvent, Problem, Timestamp};

use super::draft::{Draft, Outcome};
use super::remains::Remains;
use super::{Disk, Store, StoreError, Totals, lock};
use crate::clock::wall_clock;
use crate::hub::{Channel, Hub, Published};
use crate::metrics::Histogram;
use crate::shard::Message;
use crate::traces::Trace;

/// The most orders in one commit, and the most bytes, so that none takes long.
const COMMIT_ORDERS: usize = 8192;
const COMMIT_BYTES: usize = 8 << 20;
/// How often to look whether the disk is well again.
const RECOVERY_PAUSE: Duration = Duration::from_millis(500);

/// Something to write.
#[derive(Debug)]
pub(crate) enum Order {
    /// An event.
    Publish(Submission),
    /// Nothing, and to tell so when it is this order's turn.
    Refuse { waiter: Waiter, problem: Problem },
    /// Everything that a channel has: events, state and receipts.
    Delete { channel: Arc<Channel>, waiter: Waiter },
    /// Events that retention no longer covers.
    Erase { channel: Arc<Channel>, erasure: Erasure },
    /// What deleted channels have left: these keys, of the channel with this number; all that there is, or
    /// only a part.
    Sweep { number: u64, keys: Remains, is_all: bool },
}

/// An event to be stored, and who waits for it.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) channel: Arc<Channel>,
    pub(crate) new: NewEvent,
    pub(crate) waiter: Option<Waiter>,
    /// Set if it is traced, with the time when it was handed over.
    pub(crate) trace: Option<(Arc<Trace>, u64)>,
}

/// Which events of a channel to erase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Erasure {
    /// The newest that is erased already.
    pub(crate) erased: u64,
    /// The newest to erase.
    pub(crate) floor: u64,
    /// The channel's running total of bytes up to there.
    pub(crate) floor_total: u64,
}

/// Who is told what became of an order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiter {
    pub(crate) shard: u16,
    pub(crate) ticket: u32,
}

/// What became of a submission.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) ticket: u32,
    /// Whose event it was.
    pub(crate) channel: Option<ChannelName>,
    pub(crate) outcome: Result<Done, Problem>,
}

/// What was done.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Done {
    /// An event was published.
    Published(Published),
    /// A channel was deleted.
    Deleted,
}

/// Orders that wait for the next commit. Their bytes are counted, and publishers slow down by them.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    bytes: AtomicUsize,
    /// How long commits take, until they are on disk.
    pub(crate) duration: Histogram,
}

#[derive(Debug, Default)]
struct Waiting {
    orders: Vec<Order>,
    stopping: bool,
}

impl Commits {
    pub(crate) fn push(&self, order: Order) {
        self.bytes.fetch_add(order.bytes(), Ordering::Relaxed);
        let mut waiting = lock(&self.waiting);
        waiting.orders.push(order);
        if waiting.orders.len() == 1 {
            self.arrived.notify_one();
        }
    }

    /// How many bytes wait to be written.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn stop(&self) {
        lock(&self.waiting).stopping = true;
        self.arrived.notify_one();
    }

    /// Takes all orders, and waits for some if there are none, or until `pause` is over. False once stopped
    /// and empty.
    fn take(&self, orders: &mut Vec<Order>, pause: Option<Duration>) -> bool {
        let mut waiting = lock(&self.waiting);
        while waiting.orders.is_empty() {
            if waiting.stopping {
                return false;
            }
            waiting = match pause {
                None => self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Some(pause) => {
                    let woken = self.arrived.wait_timeout(waiting, pause);
                    let (waiting, result) = woken.unwrap_or_else(PoisonError::into_inner);
                    if result.timed_out() {
                        return true;
                    }
                    waiting
                }
            };
        }
        std::mem::swap(&mut waiting.orders, orders);
        true
    }
}

impl Order {
    fn bytes(&self) -> usize {
        match self {
            Self::Publish(submission) => submission.new.payload.data().len() + 64,
            Self::Refuse { .. } | Self::Delete { .. } => 64,
            Self::Sweep { keys, .. } => 64 * keys.len(),
            Self::Erase { erasure, .. } => 64 * (erasure.floor - erasure.erased) as usize,
        }
    }
}

/// The state of the committing thread.
pub(crate) struct Committer {
    hub: Arc<Hub>,
    disk: Arc<Disk>,
    totals: Totals,
}

impl Committer {
    pub(crate) fn new(hub: Arc<Hub>, disk: Arc<Disk>, totals: Totals) -> Self {
        Self { hub, disk, totals }
    }

    /// Commits until the disk is stopped and nothing waits.
    pub(crate) fn run(mut self) {
        let mut orders = Vec::new();
        loop {
            let pause = self.disk.failure().map(|_| RECOVERY_PAUSE);
            if !self.disk.commits.take(&mut orders, pause) {
                return;
            }
            if pause.is_some() {
                self.recover();
            }
            let mut rest = orders.drain(..).peekable();
            while rest.peek().is_some() {
                let mut bytes = 0;
                let mut slice = Vec::new();
                while let Some(order) = rest.next_if(|_| bytes < COMMIT_BYTES && slice.len() < COMMIT_ORDERS)
                {
                    bytes += order.bytes();
                    slice.push(order);
                }
                self.commit(slice);
            }
        }
    }

    fn commit(&mut self, orders: Vec<Order>) {
        let bytes = orders.iter().map(Order::bytes).sum();
        let now = wall_clock();
        let outcome = match (self.disk.failure(), self.disk.store()) {
            (None, Ok(store)) => {
                let begun_us = self.hub.clock().now_us();
                let outcome = self.write(&store, &orders, now);
                self.disk.commits.duration.observe_us(self.hub.clock().now_us() - begun_us);
                outcome
            }
            (Some(failure), _) | (None, Err(failure)) => Err(failure),
        };
        let outcomes = outcome.unwrap_or_else(|failure| {
            let problem = failure.problem();
            if self.disk.failure().is_none() {
                eprintln!("tidewire: nothing can be stored on disk: {failure}");
                self.disk.set_failure(failure);
            }
            orders.iter().map(|_| Outcome::Refused(problem.clone())).collect()
        });
        self.apply(orders, outcomes, now);
        self.disk.commits.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn write(&mut self, store: &Store, orders: &[Order], now: Timestamp) -> Result<Vec<Outcome>, StoreError> {
        let mut draft = Draft::new(store, self.hub.limits(), self.totals, now);
        let outcomes: Result<Vec<Outcome>, StoreError> = orders
            .iter()
            .map(|order| match order {
                Order::Publish(submission) => draft.publish(&submission.channel, &submission.new),
                Order::Refuse { problem, .. } => Ok(Outcome::Refused(problem.clone())),
                Order::Delete { channel, .. } => Ok(draft.delete(channel)),
                Order::Sweep { number, keys, is_all } => Ok(draft.sweep(*number, keys, *is_all)),
                Order::Erase { channel, erasure } => Ok(draft.erase(channel, *erasure)),
            })
            .collect();
        let outcomes = outcomes?;
        self.totals = draft.write()?;
        Ok(outcomes)
    }

    /// Everything is on disk, or refused: makes it so in memory, and tells all who wait.
    fn apply(&self, orders: Vec<Order>, outcomes: Vec<Outcome>, now: Timestamp) {
        let inboxes = self.hub.inboxes();
        let mut completions: Vec<Vec<Completion>> = inboxes.iter().map(|_| Vec::new()).collect();
        let mut told = Vec::new();
        for (order, outcome) in orders.into_iter().zip(outcomes) {
            match (order, outcome) {
                (Order::Publish(submission), outcome) => {
                    let Submission { channel, waiter, trace, .. } = submission;
                    let trace = trace.map(|(trace, since_us)| {
                        trace.add_part("commit", since_us, Vec::new());
                        trace
                    });
                    let outcome = match outcome {
                        Outcome::Stored(event) => {
                            Ok(Done::Published(self.hub.adopt(&channel, event, now, trace, &mut told)))
                        }
                        Outcome::Duplicate(appended) => {
                            Ok(Done::Published(Published { appended, backlog: 0 }))
                        }
                        Outcome::Refused(problem) => Err(problem),
                        Outcome::Erased | Outcome::Deleted(_) => continue,
                    };
                    channel.end_submission();
                    if let Some(Waiter { shard, ticket }) = waiter {
                        let channel = Some(channel.name().clone());
                        let completion = Completion { ticket, channel, outcome };
                        completions[usize::from(shard)].push(completion);
                    }
                }
                (Order::Refuse { waiter: Waiter { shard, ticket }, problem }, _) => {
                    let completion = Completion { ticket, channel: None, outcome: Err(problem) };
                    completions[usize::from(shard)].push(completion);
                }
                (Order::Delete { channel, waiter }, outcome) => {
                    let outcome = match outcome {
                        Outcome::Deleted(record) => {
                            self.hub.clear(&channel, record);
                            Ok(Done::Deleted)
                        }
                        Outcome::Refused(problem) => Err(problem),
                        _ => Ok(Done::Deleted),
                    };
                    channel.end_submission();
                    let channel = Some(channel.name().clone());
                    let completion = Completion { ticket: waiter.ticket, channel, outcome };
                    completions[usize::from(waiter.shard)].push(completion);
                }
                (Order::Sweep { .. }, _) => self.disk.note_swept(),
                (Order::Erase { channel, erasure }, Outcome::Erased) => channel.note_erased(Some(erasure)),
                (Order::Erase { channel, .. }, _) => channel.note_erased(None),
            }
        }
        // Publishers first: their answer comes before their own event.
        for (inbox, completions) in inboxes.iter().zip(completions) {
            if !completions.is_empty() {
                inbox.push(Message::Committed(completions));
            }
        }
        for (shard, slot) in told {
            inboxes[usize::from(shard)].push(Message::Dirty(slot));
        }
    }

    /// Opens the store anew once the disk takes writes again, without what was under way when it failed.
    fn recover(&mut self) {
        if self.disk.store().is_ok_and(|store| !store.takes_writes()) {
            return;
        }
        if let Some(store) = self.disk.take() {
            let mut store = store;
            // Readers hold it for the time of a read.
            while let Err(held) = Arc::try_unwrap(store) {
                store = held;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        // The store may have written meanwhile what failed: those who were refused would find it there.
        let (disk, commits) = (&self.disk, self.totals.commits);
        let opened = Store::open_after(&disk.path, disk.forgotten.clone(), commits).and_then(|store| {
            let totals = store.totals().map_err(|error| anyhow::anyhow!("{error}"))?;
            Ok((store, totals))
        });
        match opened {
            Ok((store, totals)) => {
                self.totals = totals;
                self.disk.put(Arc::new(store));
                eprintln!("tidewire: the disk is well again");
            }
            Err(error) => eprintln!("tidewire: the log cannot be opened anew: {error:#}"),
        }
    }
}
