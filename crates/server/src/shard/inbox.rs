//! What other threads tell a shard. Must not know what the shard does with it.
//!
//! Bounded by what may be told: one `Dirty` per channel and shard until the shard looks, one
//! `Connection` per accepted socket (which `limits.connections` bounds), one answer per order to the disk, one
//! decision or `Followed` per channel that a request names, one `Survey` or `Listed` per request that asks for one, one `Look` a
//! second, one `Stop`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::Waker;
use tidewire_core::Problem;

use super::admin::Expulsion;
use super::look::Look;
use crate::access::callback::{Key, Verdict};
use crate::hub::Listed;
use crate::listener::Accepted;
use crate::store::commit::Completion;
use crate::store::load::Loaded;

/// A message to a shard.
#[derive(Debug)]
pub(crate) enum Message {
    /// A new connection to serve, or to refuse and close.
    Connection(Accepted),
    /// The channel in this slot of the shard has events that the shard has not fanned out.
    Dirty(u32),
    /// Publishes of this shard's connections are on disk, or refused.
    Committed(Vec<Completion>),
    /// What a connection's request waited for is decided.
    Decided {
        /// The connection.
        connection: u32,
        /// Tells it from a later one of the same number.
        serial: u32,
        /// What the application said, if it was asked.
        verdict: Option<(Key, Verdict)>,
    },
    /// A channel that a connection wanted is followed from now on, or cannot be.
    Followed {
        /// The connection.
        connection: u32,
        /// Tells it from a later one of the same number.
        serial: u32,
        /// Why it cannot be.
        outcome: Result<(), Problem>,
    },
    /// The ticket of a connection's request is spent now, or had been before.
    Spent {
        /// The connection.
        connection: u32,
        /// Tells it from a later one of the same number.
        serial: u32,
        /// Whether it was good.
        outcome: Result<bool, Problem>,
    },
    /// What a connection's request announces is with all servers that can be reached.
    Announced {
        /// The connection.
        connection: u32,
        /// Tells it from a later one of the same number.
        serial: u32,
        /// Why it is not.
        outcome: Result<(), Problem>,
    },
    /// The application ends a stream.
    Expel {
        /// The connection.
        connection: u32,
        /// Tells it from a later one of the same number.
        serial: u32,
        /// What the client is told.
        why: Expulsion,
    },
    /// Events that a connection wanted are read from disk.
    Loaded(Loaded),
    /// Look how things are: a connection of another shard waits to hear that it is done.
    Survey {
        /// The shard of the connection.
        shard: u16,
        /// The connection.
        connection: u32,
        /// Tells it from a later one of the same number.
        serial: u32,
    },
    /// Say who the connections belong to.
    Look(Box<Look>),
    /// A page of the channels that a connection wanted is there.
    Listed {
        /// The connection.
        connection: u32,
        /// Tells it from a later one of the same number.
        serial: u32,
        /// The page.
        listed: Result<Listed, Problem>,
    },
    /// Say goodbye to all connections and end.
    Stop,
}

/// A shard's inbox. Pushing wakes the shard if it sleeps, and costs no system call if it does not.
#[derive(Debug)]
pub(crate) struct Inbox {
    messages: Mutex<Vec<Message>>,
    asleep: AtomicBool,
    waker: Waker,
}

impl Inbox {
    pub(crate) fn new(waker: Waker) -> Self {
        Self { messages: Mutex::new(Vec::new()), asleep: AtomicBool::new(false), waker }
    }

    pub(crate) fn push(&self, message: Message) {
        self.lock().push(message);
        if self.asleep.swap(false, Ordering::SeqCst) {
            // Fails only when the shard's poll is gone, and the shard with it.
            let _ = self.waker.wake();
        }
    }

    /// Says that the shard is about to sleep. True if it may: no message came before.
    /// The flag is raised first, so whoever pushes after our look sees it and wakes us.
    pub(super) fn fall_asleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        let may_sleep = self.lock().is_empty();
        if !may_sleep {
            self.asleep.store(false, Ordering::SeqCst);
        }
        may_sleep
    }

    pub(super) fn wake_up(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// How many messages the shard has yet to look at.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Exchanges the messages for an empty vector, so that both keep their memory.
    pub(super) fn drain_into(&self, emptied: &mut Vec<Message>) {
        debug_assert!(emptied.is_empty());
        std::mem::swap(&mut *self.lock(), emptied);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Message>> {
        // A push cannot panic half-way, so even a poisoned vector is whole.
        self.messages.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
