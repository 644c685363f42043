//! The queue of orders to one broker, and whether it is there. Must not know what becomes of orders.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidewire_core::limits::{BACKPLANE_WAITING_BYTES, Policy};
use tidewire_core::{ChannelName, Code, NewEvent, Problem};
use tokio::sync::Notify;

use crate::metrics::Histogram;
use crate::store::commit::Waiter;
use crate::store::load::Load;
use crate::traces::Trace;

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
    stopping: AtomicBool,
    pub(super) arrived: Notify,
    /// How long publishes take.
    pub(super) answers: Histogram,
}

impl Link {
    pub(super) fn new(name: String, is_sparse: bool) -> Self {
        Self {
            name,
            is_sparse,
            orders: Mutex::default(),
            bytes: AtomicUsize::new(0),
            away: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            arrived: Notify::new(),
            answers: Histogram::default(),
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
            _ => 64,
        }
    }
}
