//! The queue of orders to one broker, and whether it is there. Must not know what becomes of orders.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidewire_core::limits::{BACKPLANE_PING_MS, BACKPLANE_WAITING_BYTES, Policy};
use tidewire_core::{ChannelName, Code, NewEvent, Problem};
use tokio::sync::Notify;

use crate::metrics::Histogram;
use crate::store::commit::Waiter;
use crate::store::load::Load;
use crate::traces::Trace;

/// How many messages to other servers may be under way; what is to be said beyond that is said later, together.
const TELLING_MAX: usize = 64;

/// Something to do.
#[derive(Debug)]
pub(super) enum Order {
    /// Append an event.
    Publish(Publication),
    /// Delete all that a channel has.
    Delete { name: ChannelName, waiter: Waiter },
    /// Follow a channel, or look at it anew.
    Visit { name: ChannelName, visitor: Visitor },
    /// Look at a channel that is followed.
    Look { name: ChannelName },
    /// Follow a channel no longer.
    Leave { name: ChannelName },
    /// Read events or a state.
    Load(Load),
    /// Say something that is said once, and tell the connection whether it was the first time.
    Spend { what: String, keep_ms: u64, visitor: Visitor },
    /// Tell all servers something of a subject, and tell the connection that it is done.
    Announce { subject: String, what: String, is_kept: bool, visitor: Visitor },
    /// Tell all servers something that is of no use later; nobody waits for it.
    Tell { subject: &'static str, what: String },
    /// Nothing, and to tell so.
    Refuse { waiter: Waiter, problem: Problem },
}

/// An event to be appended, and who waits for it.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) name: ChannelName,
    pub(super) policy: Arc<Policy>,
    pub(super) new: NewEvent,
    pub(super) waiter: Option<Waiter>,
    /// Set if it is traced, with the time when it was handed over.
    pub(super) trace: Option<(Arc<Trace>, u64)>,
}

/// A connection that waits for a channel to be followed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visitor {
    pub(super) shard: u16,
    pub(super) connection: u32,
    pub(super) serial: u32,
}

/// One broker's orders. Their bytes are counted, and publishers slow down by them.
#[derive(Debug)]
pub(super) struct Link {
    name: String,
    /// Whether the broker's offsets are.
    pub(super) is_sparse: bool,
    orders: Mutex<Vec<Order>>,
    bytes: AtomicUsize,
    away: AtomicBool,
    /// How many [`Order::Tell`] are not answered.
    telling: AtomicUsize,
    /// When it last answered whether it is there.
    answered_ms: AtomicU64,
    stopping: AtomicBool,
    pub(super) arrived: Notify,
    /// How long publishes take.
    pub(super) durations: Histogram,
}

impl Link {
    pub(super) fn new(name: String, is_sparse: bool) -> Self {
        Self {
            name,
            is_sparse,
            orders: Mutex::default(),
            bytes: AtomicUsize::new(0),
            away: AtomicBool::new(false),
            telling: AtomicUsize::new(0),
            answered_ms: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            arrived: Notify::new(),
            durations: Histogram::default(),
        }
    }

    /// Where it is, for people.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether something may be ordered.
    ///
    /// # Errors
    /// `backplane_unavailable`.
    pub(super) fn check(&self) -> Result<(), Problem> {
        if self.is_away() {
            let detail = "the backplane is away; nothing was stored. Try again";
            return Err(Problem::new(Code::BackplaneUnavailable, detail));
        }
        if self.bytes() > BACKPLANE_WAITING_BYTES {
            let detail = "the backplane is slower than its publishers; nothing was stored. Try again";
            return Err(Problem::new(Code::BackplaneUnavailable, detail));
        }
        Ok(())
    }

    pub(super) fn push(&self, order: Order) {
        self.bytes.fetch_add(order.bytes(), Ordering::Relaxed);
        self.lock().push(order);
        self.arrived.notify_one();
    }

    /// Takes all orders. Their bytes count until [`Self::note_done`].
    pub(super) fn take(&self) -> Vec<Order> {
        std::mem::take(&mut *self.lock())
    }

    pub(super) fn note_done(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// How many bytes are ordered and not done.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }

    /// True if that is news.
    pub(super) fn set_away(&self, away: bool) -> bool {
        self.away.swap(away, Ordering::AcqRel) != away
    }

    /// Whether others may be told something that is of no use later.
    pub(super) fn can_tell(&self) -> bool {
        !self.is_away() && self.telling.load(Ordering::Relaxed) < TELLING_MAX
    }

    pub(super) fn tell(&self, subject: &'static str, what: String) {
        self.telling.fetch_add(1, Ordering::Relaxed);
        self.push(Order::Tell { subject, what });
    }

    /// Some were told, or will never be.
    pub(super) fn note_told(&self, count: usize) {
        self.telling.fetch_sub(count, Ordering::Relaxed);
    }

    pub(super) fn note_answered(&self, now_ms: u64) {
        self.answered_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Whether it answered just now.
    pub(super) fn answers(&self, now_ms: u64) -> bool {
        let silent_ms = now_ms.saturating_sub(self.answered_ms.load(Ordering::Relaxed));
        !self.is_away() && silent_ms <= 2 * BACKPLANE_PING_MS
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.arrived.notify_one();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Order>> {
        // A push cannot panic half-way, so even a poisoned vector is whole.
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Order {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Publish(publication) => publication.new.payload.data().len() + 64,
            Self::Tell { what, .. } => what.len() + 64,
            _ => 64,
        }
    }
}
