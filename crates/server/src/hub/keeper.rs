//! Where logs are that outlive the process: on disk here, or at the backplane that all nodes share. One face for
//! those who append and read. Must not know how either works.

use std::sync::Arc;

use tidewire_core::Problem;
use tidewire_core::limits::{Durability, Policy};

use crate::backplane::Backplane;
use crate::store::Disk;
use crate::store::commit::{Order, Waiter};
use crate::store::load::{Chunks, Load};

/// What keeps logs.
#[derive(Debug, Clone)]
pub(crate) enum Keeper {
    /// The store in the data directory.
    Disk(Arc<Disk>),
    /// The brokers.
    Backplane(Arc<Backplane>),
}

impl Keeper {
    /// Whether it keeps the log of a channel with this policy.
    pub(super) fn keeps(&self, policy: &Policy) -> bool {
        match self {
            Self::Disk(_) => policy.durability == Durability::Disk,
            // What is kept nowhere passes there all the same, or other nodes would not have it.
            Self::Backplane(_) => matches!(policy.durability, Durability::Backplane | Durability::None),
        }
    }

    /// Events that several readers share.
    pub(super) fn chunks(&self) -> &Chunks {
        match self {
            Self::Disk(disk) => &disk.chunks,
            Self::Backplane(backplane) => &backplane.chunks,
        }
    }

    /// Has something read.
    pub(crate) fn load(&self, load: Load) {
        match self {
            Self::Disk(disk) => disk.loads.push(load),
            Self::Backplane(backplane) => backplane.load(load),
        }
    }

    /// How many bytes wait to be written: publishers slow down by them.
    pub(crate) fn waiting_bytes(&self) -> usize {
        match self {
            Self::Disk(disk) => disk.commits.bytes(),
            Self::Backplane(backplane) => backplane.waiting_bytes(),
        }
    }

    /// Has a refusal told after what was ordered before.
    pub(crate) fn refuse(&self, waiter: Waiter, problem: Problem) {
        match self {
            Self::Disk(disk) => disk.commits.push(Order::Refuse { waiter, problem }),
            Self::Backplane(backplane) => backplane.refuse(waiter, problem),
        }
    }

    /// Whether its answers come in the order of the orders, whatever channels they are about.
    pub(crate) fn answers_in_order(&self) -> bool {
        matches!(self, Self::Disk(_))
    }

    pub(crate) fn stop(&self) {
        match self {
            Self::Disk(disk) => disk.stop(),
            Self::Backplane(backplane) => backplane.stop(),
        }
    }
}
