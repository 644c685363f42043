//! The next message of a channel, made of the events that wait: which are new, which are repeated, which are refused.
//! Must not know connections.

use std::collections::HashMap;
use std::sync::Arc;

use tidewire_core::limits::{Limits, Policy};
use tidewire_core::log::receipts::{Digest, Receipt};
use tidewire_core::log::state::StateSize;
use tidewire_core::{Code, Event, EventId, NewEvent, Problem, Timestamp, record};

use super::index::{Held, Used, weight};
use super::ledger;
use super::office::{Job, Office};
use super::tail::{Tail, holds_state};
use super::words::{EVENTS_MAX, Entry, HEAD_BYTES, Head, RECORD_BYTES, own};
use crate::backplane::broker::Append;

/// How many bytes several events in one message may have. One alone may have more.
const SEVERAL_BYTES_MAX: usize = 256 << 10;

/// A message that is about to be appended.
pub(super) struct Draft {
    pub(super) head: Head,
    pub(super) entries: Vec<Entry>,
    /// How many bytes there ever were up to each of them.
    pub(super) totals: Vec<u64>,
    /// What becomes of the first of those that wait.
    pub(super) outcomes: Vec<Outcome>,
    policy: Arc<Policy>,
    bytes: usize,
    /// What the message's own events have done.
    receipts: HashMap<Box<str>, (usize, Digest)>,
    state: HashMap<Box<str>, Option<(u64, u64)>>,
}

/// What becomes of an event.
pub(super) enum Outcome {
    /// It is in the message.
    Stored(usize),
    /// It was there before.
    Known(Receipt),
    /// It is the same as another in the message.
    Same(usize, Digest),
    Refused(Problem),
}

impl Draft {
    /// Of as many jobs as there is room for.
    pub(super) fn new<'j>(
        tail: &Tail,
        office: &Office,
        jobs: impl IntoIterator<Item = &'j Job>,
        policy: &Arc<Policy>,
        now: u64,
    ) -> Self {
        let head = ledger::next(tail.head.as_ref(), office.node, office.library.meta.base(), now, policy);
        let mut draft = Self {
            head,
            entries: Vec::new(),
            totals: Vec::new(),
            outcomes: Vec::new(),
            policy: Arc::clone(policy),
            bytes: 0,
            receipts: HashMap::new(),
            state: HashMap::new(),
        };
        let bytes_max = office.library.wire.data_bytes_max().saturating_sub(HEAD_BYTES);
        for job in jobs.into_iter().take(EVENTS_MAX) {
            let Job::Append { append, limits, .. } = job else { break };
            match draft.add(tail, append, limits, bytes_max, now) {
                Ok(Some(outcome)) => draft.outcomes.push(outcome),
                Ok(None) => break,
                Err(problem) => draft.outcomes.push(Outcome::Refused(problem)),
            }
        }
        if !draft.entries.is_empty() {
            draft.head.head = own(draft.entries.len() - 1);
        }
        draft
    }

    /// What becomes of an event; none if there is no room for it in this message.
    fn add(
        &mut self,
        tail: &Tail,
        append: &Append,
        limits: &Limits,
        bytes_max: usize,
        now: u64,
    ) -> Result<Option<Outcome>, Problem> {
        let Append { name, new, digest, .. } = append;
        let receipt = new.idempotency_key.as_ref().zip(*digest);
        if let Some((key, digest)) = receipt {
            if let Some((index, first)) = self.receipts.get(&**key) {
                let same = Receipt { offset: 0, time: Timestamp(0), digest: *first };
                return same.check(&digest).map(|()| Some(Outcome::Same(*index, *first)));
            }
            if let Some(used) = tail.receipts.get(&**key).filter(|used| self.is_good(used, now)) {
                return used.receipt.check(&digest).map(|()| Some(Outcome::Known(used.receipt)));
            }
        }
        let size = new.size_bytes();
        let whole = size + receipt.map_or(0, |(key, _)| key.len() + 20) + RECORD_BYTES;
        if whole > bytes_max {
            return Err(too_large(bytes_max));
        }
        if !self.entries.is_empty() && self.bytes + whole > SEVERAL_BYTES_MAX.min(bytes_max) {
            return Ok(None);
        }
        let is_state = holds_state(&self.policy) && new.key.is_some();
        if is_state {
            self.change_state(tail, new, limits)?;
        }
        self.head.count += 1;
        self.head.total += size as u64;
        self.bytes += whole;
        let index = self.entries.len();
        let unborn = EventId { epoch: tidewire_core::Epoch::derive(0, ""), offset: 0 };
        let event = Event::new(unborn, Timestamp(self.head.time), name.clone(), new.clone());
        let record = record::encode(&event, self.head.total).into();
        let remembers = self.policy.retention.idempotency_keys > 0;
        let receipt = receipt.filter(|_| remembers).map(|(key, digest)| (key.clone(), digest));
        if let Some((key, digest)) = &receipt {
            self.receipts.insert(key.clone(), (index, *digest));
        }
        self.entries.push(Entry { receipt, is_state, record });
        self.totals.push(self.head.total);
        Ok(Some(Outcome::Stored(index)))
    }

    /// Whether a key may not be used anew, and what it was used for is not lost.
    fn is_good(&self, used: &Used, now: u64) -> bool {
        let Used { receipt, number } = used;
        let retention = &self.policy.retention;
        self.is_there(receipt.offset)
            && receipt.time.0.saturating_add(retention.idempotency_ms) > now
            && self.head.count.saturating_sub(*number) < retention.idempotency_keys as u64
    }

    /// Whether an event was neither lost nor deleted.
    fn is_there(&self, offset: u64) -> bool {
        let is_lost = self.head.seams.iter().any(|seam| seam.from < offset && offset <= seam.to);
        offset > self.head.born && !is_lost
    }

    fn change_state(&mut self, tail: &Tail, new: &NewEvent, limits: &Limits) -> Result<(), Problem> {
        let Some(key) = &new.key else { return Ok(()) };
        let before = match self.state.get(key) {
            Some(here) => *here,
            None => tail.state.get(key).and_then(Option::as_ref).and_then(|held: &Held| {
                let size = held.size.filter(|_| self.is_there(held.offset))?;
                Some((size, held.number))
            }),
        };
        let after = (!new.is_tombstone()).then(|| (new.size_bytes() as u64, self.head.count + 1));
        let size = StateSize { keys: self.head.keys, bytes: self.head.bytes };
        let before_size = before.map(|(size, _)| size).filter(|_| self.head.keys > 0);
        let size = size.replace(before_size, after.map(|(size, _)| size), limits)?;
        (self.head.keys, self.head.bytes) = (size.keys, size.bytes);
        let weigh = |held: Option<(u64, u64)>| held.map_or(0, |(_, number)| weight(key, number));
        self.head.sum ^= weigh(before) ^ weigh(after);
        self.state.insert(key.clone(), after);
        Ok(())
    }
}

fn too_large(bytes_max: usize) -> Problem {
    let detail = format!(
        "the event is larger than the {bytes_max} bytes that the backplane takes; publish less, or raise max_payload of \
         the NATS server"
    );
    Problem::new(Code::PayloadTooLarge, detail)
}
