//! A session with a Kafka: for each partition that this node needs, a task that reads it and one that writes to it. Finds
//! out whether the log has lost what this node had seen of it, and tells all. Ends as a whole when any part of it does.
//! Must not know what is asked of the broker.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tidewire_core::{ChannelName, Epoch, Event, EventId};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use xxhash_rust::xxh3::xxh3_64;

use super::connection::{Connection, Dialer};
use super::machine::{Machine, Outcome, Witness};
use super::partition::{Draft, Partition, Reaction};
use super::requests::{EARLIEST, Fetched, LATEST, Place, problem};
use super::topic::Topic;
use super::words::{self, Body};
use crate::backplane::broker::{Arrival, BrokerError, Known, Notice};
use crate::clock::wall_clock;

/// How long Kafka waits for a record before it says that there is none.
const WAIT: Duration = Duration::from_millis(500);
/// How long whoever asks waits for a partition of which this node has read nothing yet. What was read by then is not
/// read again.
const CATCH_UP: Duration = Duration::from_secs(30);
/// How much of a partition is read at once.
const FETCH_BYTES: usize = 4 << 20;
/// How many connections read in bulk from a partition.
const LOADERS: usize = 4;
/// How many notices may wait. Beyond, the session is given up, and what was missed is read.
const NOTICES: usize = 65_536;

/// The partitions that a node knows, whether it is connected or not.
#[derive(Default)]
pub(super) struct Store(Mutex<HashMap<i32, Remembered>>);

/// A partition that is followed, or what this node had seen of one.
enum Remembered {
    Here(Arc<Partition>),
    Gone(Option<Witness>, u64),
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Remembered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, place: Place) -> Arc<Partition> {
        let mut all = self.lock();
        let (witness, serial) = match all.get(&place.partition) {
            Some(Remembered::Here(partition)) => return Arc::clone(partition),
            Some(Remembered::Gone(witness, serial)) => (*witness, *serial),
            None => (None, 0),
        };
        let index = place.partition;
        let partition = Arc::new(Partition::new(place, witness, serial));
        all.insert(index, Remembered::Here(Arc::clone(&partition)));
        partition
    }

    fn here(&self) -> Vec<i32> {
        let all = self.lock();
        all.iter().filter(|(_, one)| matches!(one, Remembered::Here(_))).map(|(index, _)| *index).collect()
    }

    fn let_go(&self, partition: &Partition) {
        let inner = partition.lock();
        let gone = Remembered::Gone(inner.witness, inner.serial());
        self.lock().insert(partition.place.partition, gone);
    }
}

/// A partition in a session.
pub(super) struct Slot {
    pub(super) partition: Arc<Partition>,
    /// All that was there when the session began is read.
    ready: watch::Sender<bool>,
    pub(super) reader: tokio::sync::Mutex<Reader>,
    /// Connections for those who read in bulk, so that nobody else waits for them, and how many may be in use.
    loaders: Mutex<Vec<Connection>>,
    turns: tokio::sync::Semaphore,
    /// How often it was asked how far the partition is.
    asked: AtomicU64,
    /// When somebody needed it.
    used_ms: AtomicU64,
    tasks: Mutex<Vec<AbortHandle>>,
}

/// The connection by which it is asked how far a partition is.
#[derive(Default)]
pub(super) struct Reader {
    connection: Option<Connection>,
    /// How far the partition is, and for which questions that is the answer.
    end: u64,
    answered: u64,
}

/// A session.
pub(super) struct Session {
    pub(super) dialer: Dialer,
    pub(super) topic: Topic,
    pub(super) node: u64,
    known: OnceLock<Known>,
    store: Arc<Store>,
    slots: Mutex<HashMap<i32, Arc<Slot>>>,
    followed: Mutex<HashSet<ChannelName>>,
    notices: mpsc::Sender<Notice>,
    /// Why it is over.
    failure: watch::Sender<Option<String>>,
    tasks: Mutex<JoinSet<()>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    pub(super) fn begin(
        dialer: Dialer,
        topic: Topic,
        node: u64,
        store: Arc<Store>,
    ) -> (Arc<Self>, mpsc::Receiver<Notice>) {
        let (notices, receiver) = mpsc::channel(NOTICES);
        let session = Arc::new(Self {
            dialer,
            topic,
            node,
            known: OnceLock::new(),
            store: Arc::clone(&store),
            slots: Mutex::default(),
            followed: Mutex::default(),
            notices,
            failure: watch::Sender::new(None),
            tasks: Mutex::new(JoinSet::new()),
        });
        for partition in store.here() {
            session.slot(partition);
        }
        (session, receiver)
    }

    /// Ends all that is under way.
    pub(super) fn end(&self) {
        locked(&self.tasks).abort_all();
        locked(&self.slots).values().for_each(|slot| slot.partition.lock().give_up());
    }

    pub(super) fn know(&self, known: Known) {
        let _ = self.known.set(known);
    }

    pub(super) fn known(&self) -> Option<Known> {
        self.known.get().copied()
    }

    pub(super) fn epoch(&self, name: &ChannelName) -> Epoch {
        Epoch::derive(self.known().map_or(0, |known| known.number), name.as_str())
    }

    /// The partition of a channel, or of a ticket.
    pub(super) fn slot_of(self: &Arc<Self>, key: &str) -> Arc<Slot> {
        let count = self.topic.leaders.len().max(1) as u64;
        self.slot((xxh3_64(key.as_bytes()) % count) as i32)
    }

    /// The partitions of channels, each once.
    pub(super) fn slots_of<'n>(
        self: &Arc<Self>,
        names: impl Iterator<Item = &'n ChannelName>,
    ) -> Vec<Arc<Slot>> {
        let mut slots: HashMap<i32, Arc<Slot>> = HashMap::new();
        for name in names {
            let slot = self.slot_of(name.as_str());
            slots.entry(slot.partition.place.partition).or_insert(slot);
        }
        slots.into_values().collect()
    }

    /// A partition, which is read from now on.
    pub(super) fn slot(self: &Arc<Self>, index: i32) -> Arc<Slot> {
        let now_ms = wall_clock().0;
        if let Some(slot) = locked(&self.slots).get(&index) {
            slot.used_ms.store(now_ms, Ordering::Relaxed);
            return Arc::clone(slot);
        }
        let place = Place { topic: self.dialer.address.topic.clone(), partition: index };
        let slot = Arc::new(Slot {
            partition: self.store.get(place),
            ready: watch::Sender::new(false),
            reader: tokio::sync::Mutex::default(),
            loaders: Mutex::default(),
            turns: tokio::sync::Semaphore::new(LOADERS),
            asked: AtomicU64::new(0),
            used_ms: AtomicU64::new(now_ms),
            tasks: Mutex::default(),
        });
        locked(&self.slots).insert(index, Arc::clone(&slot));
        let (reads, writes) = (Arc::clone(self), Arc::clone(self));
        let (read, written) = (Arc::clone(&slot), Arc::clone(&slot));
        let handles = vec![
            self.spawn(async move { reads.end_with(reads.read(&read).await) }),
            self.spawn(async move { writes.end_with(writes.write(&written).await) }),
        ];
        *locked(&slot.tasks) = handles;
        slot
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        locked(&self.tasks).spawn(task)
    }

    fn end_with(&self, outcome: Result<(), BrokerError>) {
        if let Err(error) = outcome {
            self.lose(&error.0);
        }
    }

    /// The session is of no use any more.
    pub(super) fn lose(&self, why: &str) {
        let is_first = self
            .failure
            .send_if_modified(|failure| failure.is_none() && failure.replace(why.to_owned()).is_none());
        if is_first {
            // Where there is no room for it, whoever asks next is told.
            let _ = self.notices.try_send(Notice::Lost(why.to_owned()));
        }
    }

    /// What a future gives, within the time that everything has once these partitions are read, and while the session
    /// lasts.
    pub(super) async fn bounded<T>(
        &self,
        slots: &[Arc<Slot>],
        future: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        let is_late = |limit: Duration| problem(&format!("no answer within {} ms", limit.as_millis()));
        let limit = self.dialer.timeout;
        let ready = futures_util::future::join_all(slots.iter().map(|slot| self.is_ready(slot)));
        tokio::select! {
            _ = ready => {}
            error = self.failed() => return Err(error),
            () = tokio::time::sleep(limit.max(CATCH_UP)) => return Err(is_late(limit.max(CATCH_UP))),
        }
        tokio::select! {
            outcome = future => outcome,
            error = self.failed() => Err(error),
            () = tokio::time::sleep(limit) => Err(is_late(limit)),
        }
    }

    /// Why the session is over, once it is.
    pub(super) async fn failed(&self) -> BrokerError {
        let mut failure = self.failure.subscribe();
        let why = failure.wait_for(Option::is_some).await;
        BrokerError(why.ok().and_then(|why| why.clone()).unwrap_or_default())
    }

    async fn connect(&self, partition: &Partition) -> Result<Connection, BrokerError> {
        let leader = self.topic.leaders.get(partition.place.partition as usize);
        let leader = leader.ok_or_else(|| problem("the topic has fewer partitions than before"))?;
        self.dialer.connect(leader).await
    }
}

/// Following channels, and what is told of them.
impl Session {
    pub(super) fn follow(&self, names: &[ChannelName]) {
        locked(&self.followed).extend(names.iter().cloned());
    }

    pub(super) fn unfollow(&self, names: &[ChannelName]) {
        let mut followed = locked(&self.followed);
        names.iter().for_each(|name| {
            followed.remove(name);
        });
    }

    fn notify(&self, notice: Notice) {
        if self.notices.try_send(notice).is_err() {
            self.lose("more came than could be looked at");
        }
    }

    /// Takes what was read.
    fn take(&self, partition: &Partition, fetched: Fetched) {
        let mut inner = partition.lock();
        for read in fetched.records {
            if read.position < inner.machine.next {
                continue;
            }
            let (stamp, outcome) = inner.machine.take(read.position, &read.key, &read.value);
            let Some(stamp) = stamp else { continue };
            inner.witness = inner.machine.witness;
            let name = || std::str::from_utf8(&read.key).ok().and_then(|name| ChannelName::new(name).ok());
            let reaction = match outcome {
                Outcome::Stored(event, placed) => {
                    let offset = event.id.offset;
                    let id = EventId { epoch: self.epoch(&event.channel), offset };
                    let event = Arc::new(Event { id, ..*event });
                    if self.known.get().is_some() {
                        // Before that, nobody knows its epoch.
                        inner.remember(read.position, &event);
                    }
                    let (prev, lossy) = (placed.prev, placed.is_lossy);
                    Reaction::Stored(Arrival { event, prev, lossy, extent: Some(placed.extent) })
                }
                outcome => Reaction::Other(outcome),
            };
            let reaction = match stamp.node == self.node {
                true => inner.answer(stamp.serial, reaction),
                false => Some(reaction),
            };
            match reaction {
                Some(Reaction::Stored(arrival)) => {
                    let name = &arrival.event.channel;
                    if locked(&self.followed).contains(name) {
                        self.notify(Notice::Event(name.clone(), arrival.clone()));
                    }
                }
                Some(Reaction::Other(Outcome::Deleted(head))) => {
                    if let Some(name) = name().filter(|name| locked(&self.followed).contains(name)) {
                        self.notify(Notice::Deleted(name, head));
                    }
                }
                // What was announced before this server came is asked for.
                Some(Reaction::Other(Outcome::Announced(subject, what))) if self.known.get().is_some() => {
                    self.notify(Notice::Announced(subject, what));
                }
                _ => {}
            }
        }
        inner.machine.next = inner.machine.next.max(fetched.next);
        drop(inner);
        partition.tell_progress();
    }
}

/// The tasks of a partition.
impl Session {
    /// Reads a partition for as long as the session lasts.
    async fn read(&self, slot: &Slot) -> Result<(), BrokerError> {
        let partition = &*slot.partition;
        let mut connection = self.connect(partition).await?;
        self.check(partition, &mut connection).await?;
        let end = partition.place.position(&mut connection, LATEST).await?.unwrap_or(0);
        while partition.lock().machine.next < end {
            self.fetch(partition, &mut connection, Duration::ZERO).await?;
        }
        while let Some(leap) = self.leap(partition) {
            let write = {
                let mut inner = partition.lock();
                let stamp = inner.stamp(self.node, wall_clock().0);
                (bytes::Bytes::new(), words::encode(&stamp, &leap))
            };
            let timeout = self.dialer.timeout;
            partition.place.produce(&mut connection, &[write], wall_clock().0, timeout).await?;
            let end = partition.place.position(&mut connection, LATEST).await?.unwrap_or(0);
            while partition.lock().machine.next < end {
                self.fetch(partition, &mut connection, Duration::ZERO).await?;
            }
        }
        slot.ready.send_replace(true);
        loop {
            self.fetch(partition, &mut connection, WAIT).await?;
        }
    }

    async fn fetch(
        &self,
        partition: &Partition,
        connection: &mut Connection,
        wait: Duration,
    ) -> Result<(), BrokerError> {
        let next = partition.lock().machine.next;
        let fetched = partition.place.fetch(connection, next, FETCH_BYTES, wait).await?;
        self.take(partition, fetched);
        Ok(())
    }

    /// Whether the log has what this node has seen of it. If not, it is read from its beginning, and the loss is told.
    async fn check(&self, partition: &Partition, connection: &mut Connection) -> Result<(), BrokerError> {
        let place = &partition.place;
        let earliest = place.position(connection, EARLIEST).await?.unwrap_or(0);
        let latest = place.position(connection, LATEST).await?.unwrap_or(0);
        let (next, witness) = {
            let inner = partition.lock();
            (inner.machine.next, inner.witness)
        };
        let Some(witness) = witness else {
            if next < earliest {
                partition.lock().begin_at(earliest);
            }
            return Ok(());
        };
        let is_there = if latest <= witness.position {
            false
        } else if earliest > witness.position {
            true // what was needed of it is further on
        } else {
            let fetched = place.fetch(connection, witness.position, 1, Duration::ZERO).await?;
            let record = fetched.records.iter().find(|record| record.position == witness.position);
            let stamp = record.and_then(|record| words::decode(&record.value)).map(|(stamp, _)| stamp);
            stamp.is_some_and(|stamp| stamp.nonce == witness.nonce)
        };
        let mut inner = partition.lock();
        if !is_there {
            tracing::warn!(
                target: "tidewire", partition = place.partition, position = witness.position,
                "the backplane has lost events; whoever reads channels of this partition is told"
            );
            inner.owed = Some(
                inner
                    .owed
                    .filter(|owed| owed.base + owed.position > witness.base + witness.position)
                    .unwrap_or(witness),
            );
            inner.witness = None;
            inner.begin_at(earliest);
        } else if inner.machine.next < earliest {
            inner.begin_at(earliest);
        }
        Ok(())
    }

    /// The leap that has yet to be told of, now that the log is read.
    fn leap(&self, partition: &Partition) -> Option<Body> {
        let mut inner = partition.lock();
        let before = inner.machine.base;
        let now_ms = wall_clock().0;
        match inner.owed {
            Some(owed) if inner.machine.is_above(&owed) => {
                inner.owed = None;
                None
            }
            Some(owed) => {
                let base = now_ms.max(owed.base + owed.position + 1).max(before + 1);
                Some(Body::Leap { before, base, is_lossy: true })
            }
            None if before == 0 => Some(Body::Leap { before, base: now_ms, is_lossy: false }),
            None => None,
        }
    }

    /// Writes what is ordered, a batch after the other.
    async fn write(&self, slot: &Slot) -> Result<(), BrokerError> {
        let partition = &*slot.partition;
        self.is_ready(slot).await;
        let mut connection = self.connect(partition).await?;
        loop {
            let now_ms = wall_clock().0;
            let (writes, serial) = partition.lock().batch(self.node, now_ms, self.topic.bytes_max);
            if writes.is_empty() {
                partition.queued.notified().await;
                continue;
            }
            partition.place.produce(&mut connection, &writes, now_ms, self.dialer.timeout).await?;
            partition.lock().stored(serial);
        }
    }
}

/// What others ask of a partition.
impl Session {
    /// Waits until all was read that was there when the session began.
    pub(super) async fn is_ready(&self, slot: &Slot) {
        // The sender lives as long as the slot.
        let _ = slot.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Waits until all was read that was acknowledged before. Those who ask at once ask together.
    pub(super) async fn is_fresh(&self, slot: &Slot) -> Result<(), BrokerError> {
        self.is_ready(slot).await;
        let number = slot.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let end = {
            let mut reader = slot.reader.lock().await;
            if reader.answered < number {
                let asked = slot.asked.load(Ordering::SeqCst);
                let mut connection = self.reader(slot, &mut reader).await?;
                reader.end = slot.partition.place.position(&mut connection, LATEST).await?.unwrap_or(0);
                reader.connection = Some(connection);
                reader.answered = asked;
            }
            reader.end
        };
        slot.partition.reached(end).await;
        Ok(())
    }

    /// The connection for that. It comes back only if all went well.
    async fn reader(&self, slot: &Slot, reader: &mut Reader) -> Result<Connection, BrokerError> {
        match reader.connection.take() {
            Some(connection) => Ok(connection),
            None => self.connect(&slot.partition).await,
        }
    }

    /// Reads records from a position on, if there are any.
    pub(super) async fn read_at(
        &self,
        slot: &Slot,
        position: u64,
        bytes_max: usize,
    ) -> Result<Fetched, BrokerError> {
        // Never closed.
        let _turn = slot.turns.acquire().await;
        let idle = locked(&slot.loaders).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connect(&slot.partition).await?,
        };
        let fetched =
            slot.partition.place.fetch(&mut connection, position, bytes_max, Duration::ZERO).await?;
        locked(&slot.loaders).push(connection);
        Ok(fetched)
    }

    /// Does something with a connection to a partition's leader.
    pub(super) async fn borrow(&self, slot: &Slot) -> Result<Connection, BrokerError> {
        self.connect(&slot.partition).await
    }

    /// Orders a record, and waits for what becomes of it.
    pub(super) async fn order(&self, slot: &Slot, draft: Draft) -> Result<Reaction, BrokerError> {
        let reaction = slot.partition.order(draft);
        reaction.await.map_err(|_| problem("the connection ended before it answered"))
    }

    /// All partitions that are read.
    pub(super) fn slots(&self) -> Vec<Arc<Slot>> {
        locked(&self.slots).values().cloned().collect()
    }

    /// Reads a partition no longer of which nobody has needed anything for a while.
    pub(super) fn let_idle_go(&self, idle_ms: u64) {
        let before = wall_clock().0.saturating_sub(idle_ms);
        let count = self.topic.leaders.len().max(1) as u64;
        let index = |name: &ChannelName| (xxh3_64(name.as_str().as_bytes()) % count) as i32;
        let needed: HashSet<i32> = locked(&self.followed).iter().map(index).collect();
        locked(&self.slots).retain(|index, slot| {
            let is_idle = *index != 0
                && !needed.contains(index)
                && slot.used_ms.load(Ordering::Relaxed) < before
                && slot.partition.lock().is_idle();
            if is_idle {
                locked(&slot.tasks).iter().for_each(AbortHandle::abort);
                self.store.let_go(&slot.partition);
            }
            !is_idle
        });
    }

    /// Looks at what a partition says.
    pub(super) fn with<T>(&self, slot: &Slot, look: impl FnOnce(&mut Machine) -> T) -> T {
        look(&mut slot.partition.lock().machine)
    }
}
