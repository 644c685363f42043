//! The store as the rest of the server has it: open or, after a failure, closed for a while; and the queues
//! to those who write to it and read from it. Must not know what they do.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::commit::Commits;
use super::forgotten::Forgotten;
use super::load::{Chunks, Loads};
use super::{Store, StoreError};

/// The durable half of a server.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(super) path: PathBuf,
    /// As [`Store::open`] wants it.
    pub(super) forgotten: Forgotten,
    pub(crate) commits: Commits,
    pub(crate) loads: Loads,
    pub(crate) chunks: Chunks,
    /// How large its files were when somebody looked last.
    pub(crate) bytes: AtomicU64,
    /// What deleted channels have left is being swept away.
    sweeping: AtomicBool,
    store: RwLock<Opened>,
}

#[derive(Debug)]
struct Opened {
    store: Option<Arc<Store>>,
    /// Why nothing may be written, since a write failed.
    failure: Option<StoreError>,
}

impl Disk {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            path: store.path().clone(),
            forgotten: store.forgotten.clone(),
            commits: Commits::default(),
            loads: Loads::default(),
            chunks: Chunks::default(),
            bytes: AtomicU64::new(0),
            sweeping: AtomicBool::new(false),
            store: RwLock::new(Opened { store: Some(Arc::new(store)), failure: None }),
        }
    }

    /// The store, for a read. Let go of it soon: it cannot be mended while it is in use.
    ///
    /// # Errors
    /// While it is closed.
    pub(crate) fn store(&self) -> Result<Arc<Store>, StoreError> {
        let opened = self.store.read().unwrap_or_else(PoisonError::into_inner);
        match (&opened.store, &opened.failure) {
            (Some(store), _) => Ok(Arc::clone(store)),
            (None, Some(failure)) => Err(failure.clone()),
            (None, None) => Err(StoreError::Failed("the log is being opened anew".to_owned())),
        }
    }

    /// Looks how large the files are.
    pub(crate) fn note_size(&self) {
        if let Ok(bytes) = self.store().and_then(|store| store.size_bytes()) {
            self.bytes.store(bytes, Ordering::Relaxed);
        }
    }

    /// False if there is one under way.
    pub(super) fn begin_sweep(&self) -> bool {
        !self.sweeping.swap(true, Ordering::AcqRel)
    }

    pub(super) fn note_swept(&self) {
        self.sweeping.store(false, Ordering::Release);
    }

    /// Why nothing can be stored at present.
    pub(crate) fn failure(&self) -> Option<StoreError> {
        self.store.read().unwrap_or_else(PoisonError::into_inner).failure.clone()
    }

    pub(super) fn set_failure(&self, failure: StoreError) {
        self.store.write().unwrap_or_else(PoisonError::into_inner).failure = Some(failure);
    }

    /// Takes the store away from readers, to close it.
    pub(super) fn take(&self) -> Option<Arc<Store>> {
        self.store.write().unwrap_or_else(PoisonError::into_inner).store.take()
    }

    /// The store is sound again.
    pub(super) fn put(&self, store: Arc<Store>) {
        *self.store.write().unwrap_or_else(PoisonError::into_inner) =
            Opened { store: Some(store), failure: None };
    }

    /// Ends those who serve the queues, once all that is waiting is written.
    pub(crate) fn stop(&self) {
        self.commits.stop();
        self.loads.stop();
    }
}
