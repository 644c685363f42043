//! The durable log: which channels there are, their events, idempotency receipts and state, in an embedded
//! store on disk. Reads may come from any thread; all writes come from one (`commit`). Must not know the
//! channels in memory, or who waits for what.

mod check;
pub(crate) mod commit;
mod directory;
mod disk;
mod draft;
pub(crate) mod forgotten;
mod journal;
mod keyed;
pub(crate) mod load;
mod manifest;
pub(crate) mod remains;
pub(crate) mod retention;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use tidewire_core::log::receipts::Receipt;
use tidewire_core::log::state::StateSize;
use tidewire_core::record::{self, Summary};
use tidewire_core::{ChannelName, Code, Epoch, Event, EventId, Problem};

pub use check::{Checked, check};
use directory::Directory;
pub(crate) use disk::Disk;
use forgotten::Forgotten;

/// How much of the store's blocks is kept in memory.
const CACHE_BYTES: u64 = 64 << 20;
/// How much is in memory of each kind before it is written as a file; what a start has to read again.
const MEMTABLE_BYTES: u64 = 32 << 20;
/// The journals' bound, which bounds the time of a start.
const JOURNAL_BYTES: u64 = 128 << 20;
/// How many files of the store are open at a time.
const OPEN_FILES: usize = 128;

/// What must fit on a disk that was full before it counts as well again.
const PROBE_BYTES: usize = 8 << 20;

/// What the store is divided into.
const KEYSPACES: [&str; 5] = ["meta", "channels", "events", "receipts", "state"];

const KEY_LOG_NUMBER: &[u8] = b"log number";
const KEY_NEXT_CHANNEL: &[u8] = b"next channel";
const KEY_FLOOR: &[u8] = b"floor";
const KEY_COMMIT: &[u8] = b"commit";

/// Why the store did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoreError {
    /// The disk is full.
    Full(String),
    /// The disk failed.
    Failed(String),
    /// What is on disk is not what was written.
    Damaged(String),
}

/// The store, open.
pub(crate) struct Store {
    directory: Directory,
    database: Database,
    meta: Keyspace,
    channels: Keyspace,
    events: Keyspace,
    receipts: Keyspace,
    state: Keyspace,
    forgotten: Forgotten,
}

/// What the store knows of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ChannelRecord {
    /// Stands for the name in the keys of events.
    pub(crate) number: u64,
    /// The newest offset that is erased.
    pub(crate) floor: u64,
    /// The running total of bytes up to there.
    pub(crate) floor_total: u64,
    /// How much its keyed state holds.
    pub(crate) state: StateSize,
}

/// A channel as it stands in the store.
#[derive(Debug, Clone)]
pub(crate) struct StoredChannel {
    pub(crate) record: ChannelRecord,
    /// The newest offset.
    pub(crate) head: u64,
    /// The newest event's time and running total; of the floor if there is none.
    pub(crate) newest: Summary,
    /// The newest event's record.
    pub(crate) latest: Option<Vec<u8>>,
}

/// Numbers that the store holds for all channels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Totals {
    /// The log's random number, from which epochs are made.
    pub(crate) log_number: u64,
    /// The number of the next new channel.
    pub(crate) next_channel: u64,
    /// New channels begin after this offset, so that no id of a deleted one comes again.
    pub(crate) floor: u64,
    /// How many commits there were.
    pub(crate) commits: u64,
}

impl Store {
    /// Opens the store in a data directory, making both if need be. Forgotten receipts are dropped when their files
    /// are rewritten.
    ///
    /// # Errors
    /// Says what is wrong with the directory: in use, damaged, of another version, not ours, not writable.
    pub(crate) fn open(path: &Path, forgotten: Forgotten) -> anyhow::Result<Self> {
        Self::open_in(Directory::open(path)?, forgotten)
    }

    /// Opens it anew after a failure, without what was not acknowledged: nothing after this commit.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn open_after(path: &Path, forgotten: Forgotten, commit: u64) -> anyhow::Result<Self> {
        let directory = Directory::existing(path)?;
        journal::cut_after(&directory.store(), &directory.mark, commit)
            .with_context(|| format!("cannot cut off what was not stored in {}", path.display()))?;
        Self::open_in(directory, forgotten)
    }

    fn open_in(directory: Directory, forgotten: Forgotten) -> anyhow::Result<Self> {
        let path = directory.path.display().to_string();
        let store = directory.store();
        let damage =
            journal::check(&store, &directory.mark).with_context(|| format!("cannot read {path}"))?;
        if let Some(damage) = damage {
            bail!(
                "{} is damaged at byte {}: acknowledged events after it would be lost. Restore it from a copy; \
                 nothing was changed",
                damage.file.display(),
                damage.position
            );
        }
        if let Some(list) = manifest::check(&store).with_context(|| format!("cannot read {path}"))? {
            bail!("{} is damaged; restore it from a copy. Nothing was changed", list.display());
        }
        if directory.is_begun()
            && let Some(file) =
                manifest::missing(&store, KEYSPACES.len()).with_context(|| format!("cannot read {path}"))?
        {
            bail!("{} is missing; restore it from a copy. Nothing was changed", file.display());
        }
        let open = || -> fjall::Result<Self> {
            let database = Database::builder(&store)
                .cache_size(CACHE_BYTES)
                .max_journaling_size(JOURNAL_BYTES)
                .max_cached_files(Some(OPEN_FILES))
                .worker_threads(1)
                .manual_journal_persist(true)
                .with_compaction_filter_factories(forgotten.filters())
                .open()?;
            let keyspace = |name: &str| {
                let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
                database.keyspace(name, options)
            };
            let [meta, channels, events, receipts, state] = KEYSPACES.map(keyspace);
            let directory = directory.clone();
            let (meta, channels, events) = (meta?, channels?, events?);
            let (receipts, state, forgotten) = (receipts?, state?, forgotten.clone());
            let store = Self { directory, database, meta, channels, events, receipts, state, forgotten };
            store.directory.note_begun()?;
            Ok(store)
        };
        // The store's own code may panic over files that it cannot make sense of.
        match catch_unwind(AssertUnwindSafe(open)) {
            Ok(Ok(store)) => Ok(store),
            Ok(Err(fjall::Error::Locked)) => {
                bail!(
                    "{path} is in use by another server; stop that one, or choose another directory with --data"
                )
            }
            Ok(Err(error)) => match StoreError::of(&error, "opening the log") {
                StoreError::Damaged(what) => bail!("{path} is damaged: {what}. Restore it from a copy"),
                StoreError::Full(what) | StoreError::Failed(what) => bail!("cannot open {path}: {what}"),
            },
            Err(_) => bail!("{path} is damaged: its files make no sense. Restore it from a copy"),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &PathBuf {
        &self.directory.path
    }

    /// The numbers for all channels; makes the log's random number at the first call.
    pub(crate) fn totals(&self) -> Result<Totals, StoreError> {
        let number = |key: &[u8]| -> Result<Option<u64>, StoreError> {
            let value = self.meta.get(key).map_err(|error| StoreError::of(&error, "reading the log"))?;
            value.map(|value| decode_number(&value)).transpose()
        };
        let commits = match self.meta.get(KEY_COMMIT).map_err(|e| StoreError::of(&e, "reading the log"))? {
            None => 0,
            Some(seal) => journal::commit_of(&seal).ok_or_else(StoreError::unreadable)?,
        };
        let log_number = match number(KEY_LOG_NUMBER)? {
            Some(log_number) => log_number,
            None => {
                let log_number = RandomState::new().hash_one("the number of this log");
                let mut batch = self.batch();
                batch.insert(&self.meta, KEY_LOG_NUMBER, log_number.to_le_bytes());
                self.write(batch, 0)?;
                log_number
            }
        };
        let next_channel = number(KEY_NEXT_CHANNEL)?.unwrap_or(1);
        Ok(Totals { log_number, next_channel, floor: number(KEY_FLOOR)?.unwrap_or(0), commits })
    }

    /// The channel, if it ever had an event and was not deleted.
    pub(crate) fn channel(&self, name: &str) -> Result<Option<StoredChannel>, StoreError> {
        let reading = |error: fjall::Error| StoreError::of(&error, "reading a channel");
        let Some(value) = self.channels.get(name).map_err(reading)? else { return Ok(None) };
        let record = ChannelRecord::decode(&value)?;
        let all = event_key(record.number, 0)..=event_key(record.number, u64::MAX);
        match self.events.range(all).next_back() {
            None => {
                let newest = Summary { total: record.floor_total, time: tidewire_core::Timestamp(0) };
                Ok(Some(StoredChannel { record, head: record.floor, newest, latest: None }))
            }
            Some(entry) => {
                let (key, value) = entry.into_inner().map_err(reading)?;
                let newest = record::summary(&value).map_err(|_| StoreError::unreadable())?;
                Ok(Some(StoredChannel {
                    record,
                    head: offset_of(&key)?,
                    newest,
                    latest: Some(value.to_vec()),
                }))
            }
        }
    }

    /// Up to `count` channels with names after `after`.
    pub(crate) fn channels_after(
        &self,
        after: &str,
        count: usize,
    ) -> Result<Vec<(ChannelName, ChannelRecord)>, StoreError> {
        let from = (std::ops::Bound::Excluded(after.as_bytes()), std::ops::Bound::Unbounded);
        let entries = self.channels.range::<&[u8], _>(from).take(count).map(|entry| {
            let (key, value) = entry.into_inner().map_err(|e| StoreError::of(&e, "reading the channels"))?;
            let name = std::str::from_utf8(&key).ok().and_then(|name| ChannelName::new(name).ok());
            Ok((name.ok_or_else(StoreError::unreadable)?, ChannelRecord::decode(&value)?))
        });
        entries.collect()
    }

    /// Events after the offset `after` up to `last`: at the most `events_max`, ending early once they have
    /// `bytes_max` bytes. Their offsets have no holes, or the log is damaged.
    pub(crate) fn read(
        &self,
        channel: &ChannelName,
        number: u64,
        epoch: Epoch,
        range: std::ops::RangeInclusive<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Arc<Event>>, StoreError> {
        let mut events: Vec<Arc<Event>> = Vec::new();
        let (mut bytes, mut next) = (0, *range.start());
        let keys = event_key(number, *range.start())..=event_key(number, *range.end());
        for entry in self.events.range(keys) {
            let (key, value) = entry.into_inner().map_err(|e| StoreError::of(&e, "reading events"))?;
            let offset = offset_of(&key)?;
            if offset != next {
                return Err(StoreError::Damaged(format!("the event {next} of {channel} is missing")));
            }
            let id = EventId { epoch, offset };
            let event = record::decode(channel, id, &value).map_err(|_| StoreError::unreadable())?;
            bytes += event.size_bytes();
            events.push(Arc::new(event));
            next += 1;
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(events)
    }

    /// Time and running total of an event.
    pub(crate) fn summary(&self, number: u64, offset: u64) -> Result<Option<Summary>, StoreError> {
        let value = self.events.get(event_key(number, offset));
        let value = value.map_err(|error| StoreError::of(&error, "reading an event"))?;
        value.map(|value| record::summary(&value).map_err(|_| StoreError::unreadable())).transpose()
    }

    /// What an idempotency key was used for.
    pub(crate) fn receipt(&self, number: u64, key: &str) -> Result<Option<Receipt>, StoreError> {
        let value = self.receipts.get(text_key(number, key));
        let value = value.map_err(|error| StoreError::of(&error, "reading a receipt"))?;
        value.map(|value| Receipt::decode(&value).ok_or_else(StoreError::unreadable)).transpose()
    }

    /// How large the store's files are.
    fn size_bytes(&self) -> Result<u64, StoreError> {
        self.database.disk_space().map_err(|error| StoreError::of(&error, "measuring the log"))
    }

    fn batch(&self) -> fjall::OwnedWriteBatch {
        self.database.batch().durability(Some(PersistMode::SyncData))
    }

    /// Commits a batch, with the number of the commit: on disk when this returns.
    fn write(&self, mut batch: fjall::OwnedWriteBatch, number: u64) -> Result<(), StoreError> {
        let before = self.database.snapshot().seqno();
        batch.insert(&self.meta, KEY_COMMIT, journal::seal(&self.directory.mark, number, before));
        batch.commit().map_err(|error| match StoreError::of(&error, "writing to the log") {
            // The store says only that something failed before; most often it is this.
            StoreError::Failed(_) if self.is_full() => StoreError::Full("no space is left".to_owned()),
            error => error,
        })
    }

    /// Whether the disk takes writes: tries a file of its own, which it removes.
    fn takes_writes(&self) -> bool {
        let probe = self.directory.path.join("tidewire.probe");
        let write = || -> io::Result<()> {
            let mut file = std::fs::File::create(&probe)?;
            io::Write::write_all(&mut file, &vec![0; PROBE_BYTES])?;
            file.sync_all()
        };
        let outcome = write();
        let _ = std::fs::remove_file(&probe);
        outcome.is_ok()
    }

    /// Whether the disk has hardly any room.
    pub(crate) fn is_full(&self) -> bool {
        rustix::fs::statvfs(&self.directory.path)
            .is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < 4 << 20)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl ChannelRecord {
    fn encode(self) -> Vec<u8> {
        let numbers = [self.number, self.floor, self.floor_total, self.state.keys, self.state.bytes];
        numbers.into_iter().flat_map(u64::to_le_bytes).collect()
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let numbers: Vec<u64> = bytes.chunks(8).map(decode_number).collect::<Result<_, _>>()?;
        let [number, floor, floor_total, keys, bytes] = numbers[..] else {
            return Err(StoreError::unreadable());
        };
        Ok(Self { number, floor, floor_total, state: StateSize { keys, bytes } })
    }
}

fn decode_number(bytes: &[u8]) -> Result<u64, StoreError> {
    bytes.try_into().map(u64::from_le_bytes).map_err(|_| StoreError::unreadable())
}

/// Big-endian, so that a channel's events lie together and in order.
fn event_key(number: u64, offset: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key[8..].copy_from_slice(&offset.to_be_bytes());
    key
}

fn offset_of(key: &[u8]) -> Result<u64, StoreError> {
    let offset = key.get(8..).and_then(|offset| offset.try_into().ok());
    offset.map(u64::from_be_bytes).ok_or_else(StoreError::unreadable)
}

fn text_key(number: u64, text: &str) -> Vec<u8> {
    [&number.to_be_bytes()[..], text.as_bytes()].concat()
}

impl StoreError {
    fn unreadable() -> Self {
        Self::Damaged("a record is not readable".to_owned())
    }

    fn of(error: &fjall::Error, doing: &str) -> Self {
        let of_io = |error: &io::Error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::Full(format!("{doing}: {error}"))
            }
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                Self::Damaged(format!("{doing}: {error}"))
            }
            _ => Self::Failed(format!("{doing}: {error}")),
        };
        match error {
            fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => of_io(error),
            fjall::Error::Poisoned | fjall::Error::KeyspaceDeleted | fjall::Error::Locked => {
                Self::Failed(format!("{doing}: an earlier write failed"))
            }
            error => Self::Damaged(format!("{doing}: {error:?}")),
        }
    }

    /// As a peer is told.
    pub(crate) fn problem(&self) -> Problem {
        match self {
            Self::Full(_) => Problem::new(
                Code::StorageFull,
                "the server's disk is full and the event was not stored; try again later",
            ),
            Self::Failed(_) => Problem::new(
                Code::StorageFailed,
                "the server's disk failed; it is not known whether the event was stored, so try again with the same \
                 idempotency key",
            ),
            Self::Damaged(_) => {
                Problem::new(Code::StorageDamaged, "what the server has stored there cannot be read")
            }
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(what) => write!(f, "the disk is full ({what})"),
            Self::Failed(what) => write!(f, "the disk failed ({what})"),
            Self::Damaged(what) => write!(f, "the log is damaged ({what})"),
        }
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is behind these locks is changed by code that does not panic half-way.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
