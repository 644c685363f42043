//! A partition as this node has it: what its log says, what waits to be written to it, what of that waits to be read
//! back, and the events that came last. Outlives connections. Must not know them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tidewire_core::limits::{Durability, Limits, Policy, StateKind};
use tidewire_core::{ChannelName, Code, Event, EventId, Problem, Timestamp, record};
use tokio::sync::{Notify, oneshot, watch};

use super::channel::Kept;
use super::machine::{Machine, Outcome, Witness};
use super::requests::{Place, Write};
use super::words::{self, Body, Stamp, Terms};
use crate::backplane::broker::{Append, Arrival};

/// How many bytes of events that came last are kept for those who read them.
const RECENT_BYTES: usize = 4 << 20;
/// How many records are written at once, and of how many bytes; at least one.
const BATCH_RECORDS: usize = 2_048;
const BATCH_BYTES: usize = 900_000;
/// What a record has besides its key and value, at the most, and its batch.
const RECORD_EXTRA: usize = 256;

/// What is to be written.
#[derive(Debug)]
pub(super) enum Draft {
    Event(Box<Append>, Arc<Limits>),
    Other(Bytes, Body),
}

/// What becomes of it is told there.
pub(super) type Reply = oneshot::Sender<Reaction>;

/// What has become of a record of this node.
#[derive(Debug)]
pub(super) enum Reaction {
    Stored(Arrival),
    Other(Outcome),
    Refused(Problem),
}

/// A record that was written.
struct Pending {
    reply: Reply,
    reaction: Option<Reaction>,
    is_stored: bool,
}

/// A partition.
pub(super) struct Partition {
    pub(super) place: Place,
    inner: Mutex<Inner>,
    /// The position of the record that is read next.
    progress: watch::Sender<u64>,
    pub(super) queued: Notify,
}

/// What changes.
#[derive(Default)]
pub(super) struct Inner {
    pub(super) machine: Machine,
    /// What this node has seen of the log; also of a machine that is gone.
    pub(super) witness: Option<Witness>,
    /// A loss that must be told to all.
    pub(super) owed: Option<Witness>,
    queue: VecDeque<(Draft, Reply)>,
    pending: BTreeMap<u64, Pending>,
    serial: u64,
    recent: VecDeque<(u64, Arc<Event>)>,
    recent_bytes: usize,
}

impl Partition {
    pub(super) fn new(place: Place, witness: Option<Witness>, serial: u64) -> Self {
        let inner = Inner { witness, serial, ..Inner::default() };
        Self { place, inner: Mutex::new(inner), progress: watch::Sender::new(0), queued: Notify::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Orders a record to be written.
    pub(super) fn order(&self, draft: Draft) -> oneshot::Receiver<Reaction> {
        let (reply, reaction) = oneshot::channel();
        self.lock().queue.push_back((draft, reply));
        self.queued.notify_one();
        reaction
    }

    /// Others may go on who wait for what was read.
    pub(super) fn tell_progress(&self) {
        let next = self.lock().machine.next;
        self.progress.send_replace(next);
    }

    /// Waits until all before a position was read.
    pub(super) async fn reached(&self, position: u64) {
        // The sender lives as long as this.
        let _ = self.progress.subscribe().wait_for(|next| *next >= position).await;
    }
}

impl Inner {
    /// Nothing that waits to be answered ever will be; with a new connection all begins anew.
    pub(super) fn give_up(&mut self) {
        self.queue.clear();
        self.pending.clear();
    }

    /// Begins anew at a position.
    pub(super) fn begin_at(&mut self, position: u64) {
        self.machine = Machine::from(position);
        self.recent.clear();
        self.recent_bytes = 0;
    }

    /// The stamp of the next record of this node.
    pub(super) fn stamp(&mut self, node: u64, now_ms: u64) -> Stamp {
        self.serial += 1;
        Stamp {
            base: self.machine.base,
            node,
            serial: self.serial,
            nonce: fastrand::u64(..),
            time_ms: now_ms,
        }
    }

    /// The next serial, for whoever begins anew.
    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.pending.is_empty()
    }

    /// The records to write next, with the serial of the last.
    pub(super) fn batch(&mut self, node: u64, now_ms: u64, bytes_max: usize) -> (Vec<Write>, u64) {
        let (mut writes, mut bytes) = (Vec::new(), 0);
        while writes.len() < BATCH_RECORDS
            && let Some((draft, reply)) = self.queue.pop_front()
        {
            let (key, body) = match self.draft(&draft) {
                Ok(write) => write,
                Err(problem) => {
                    let _ = reply.send(Reaction::Refused(problem));
                    continue;
                }
            };
            let size = key.len() + body.size() + RECORD_EXTRA;
            if size > bytes_max {
                let _ = reply.send(Reaction::Refused(too_large(size, bytes_max)));
                continue;
            }
            if !writes.is_empty() && bytes + size > BATCH_BYTES.min(bytes_max) {
                self.queue.push_front((draft, reply));
                break;
            }
            bytes += size;
            let stamp = self.stamp(node, now_ms);
            writes.push((key, words::encode(&stamp, &body)));
            self.pending.insert(stamp.serial, Pending { reply, reaction: None, is_stored: false });
        }
        (writes, self.serial)
    }

    fn draft(&self, draft: &Draft) -> Result<(Bytes, Body), Problem> {
        let (append, limits) = match draft {
            Draft::Other(key, body) => return Ok((key.clone(), body.clone())),
            Draft::Event(append, limits) => (append, limits),
        };
        let Append { name, policy, new, digest } = &**append;
        let is_keyed = policy.state == StateKind::Keyed && keeps(policy) && new.key.is_some();
        if let Some(key) = new.key.as_deref().filter(|_| is_keyed) {
            let channel = self.machine.channels.get(name);
            let (size, before) = channel.map(|channel| channel.state_size(key)).unwrap_or_default();
            let after = (!new.is_tombstone()).then(|| new.size_bytes() as u64);
            size.replace(before, after, limits)?;
        }
        let terms = Terms::of(policy, keeps(policy), is_keyed);
        let receipt = new.idempotency_key.clone().zip(*digest);
        let unborn = EventId { epoch: tidewire_core::Epoch::derive(0, ""), offset: 0 };
        let event = Event::new(unborn, Timestamp(0), name.clone(), new.clone());
        let record = Bytes::from(record::encode(&event, 0));
        Ok((Bytes::copy_from_slice(name.as_str().as_bytes()), Body::Event { terms, receipt, record }))
    }

    /// All records up to a serial are stored: those that were read back are answered.
    pub(super) fn stored(&mut self, serial: u64) {
        let later = self.pending.split_off(&(serial + 1));
        for (serial, mut pending) in std::mem::replace(&mut self.pending, later) {
            match pending.reaction.take() {
                Some(reaction) => drop(pending.reply.send(reaction)),
                None => {
                    pending.is_stored = true;
                    self.pending.insert(serial, pending);
                }
            }
        }
    }

    /// A record of this node was read back. Gives what it has done if nobody waits for that.
    pub(super) fn answer(&mut self, serial: u64, reaction: Reaction) -> Option<Reaction> {
        let Some(pending) = self.pending.get_mut(&serial) else { return Some(reaction) };
        if pending.is_stored {
            if let Some(pending) = self.pending.remove(&serial) {
                let _ = pending.reply.send(reaction);
            }
        } else {
            pending.reaction = Some(reaction);
        }
        None
    }

    /// Keeps an event for those who read what came last.
    pub(super) fn remember(&mut self, position: u64, event: &Arc<Event>) {
        self.recent_bytes += event.size_bytes() + RECORD_EXTRA;
        self.recent.push_back((position, Arc::clone(event)));
        while self.recent_bytes > RECENT_BYTES
            && let Some((_, oldest)) = self.recent.pop_front()
        {
            self.recent_bytes -= oldest.size_bytes() + RECORD_EXTRA;
        }
    }

    pub(super) fn recent(&self, position: u64) -> Option<Arc<Event>> {
        let at = self.recent.binary_search_by_key(&position, |(position, _)| *position).ok()?;
        self.recent.get(at).map(|(_, event)| Arc::clone(event))
    }

    /// Where a channel's events after an offset are, with the offset before each.
    pub(super) fn kept_after(
        &self,
        name: &ChannelName,
        after: u64,
        last: u64,
        events_max: usize,
        bytes_max: usize,
    ) -> Vec<(u64, Kept)> {
        let Some(channel) = self.machine.channels.get(name) else { return Vec::new() };
        let from = channel.kept.partition_point(|kept| kept.offset <= after);
        let mut prev = match from {
            0 => channel.floor,
            _ => channel.kept[from - 1].offset,
        };
        let (mut found, mut bytes) = (Vec::new(), 0);
        for kept in channel.kept.range(from..).take(events_max) {
            if kept.offset > last || bytes >= bytes_max {
                break;
            }
            bytes += kept.bytes as usize;
            found.push((std::mem::replace(&mut prev, kept.offset), *kept));
        }
        found
    }

    /// The events of records that were read, by position.
    pub(super) fn in_memory(&self, wanted: &[(u64, Kept)]) -> HashMap<u64, Arc<Event>> {
        let found = wanted.iter().filter_map(|(_, kept)| Some((kept.position, self.recent(kept.position)?)));
        found.collect()
    }
}

/// Whether a channel's events can be read again.
pub(super) fn keeps(policy: &Policy) -> bool {
    policy.durability != Durability::None
}

fn too_large(bytes: usize, bytes_max: usize) -> Problem {
    let detail = format!(
        "the event makes a record of {bytes} bytes, and the backplane's topic takes {bytes_max}; publish a smaller \
         one, or raise max.message.bytes of the topic to more than limits.event_bytes"
    );
    Problem::new(Code::PayloadTooLarge, detail)
}
