//! What makes a retried publish harmless: which idempotency keys were used, for which event.
//! Bounded by age and count; must not know the events themselves, as they may be gone before their keys.

use std::collections::{HashMap, VecDeque};

use sha1_smol::Sha1;

use crate::error::{Code, Problem};
use crate::event::NewEvent;
use crate::limits::Retention;
use crate::time::Timestamp;

/// Tells one event from another by content. SHA-1 suffices: who makes two bodies collide fools nobody
/// but their own retry.
pub type Digest = [u8; 20];

/// The event that a key was used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Its offset.
    pub offset: u64,
    /// Its time.
    pub time: Timestamp,
    /// What it was.
    pub digest: Digest,
}

/// The remembered keys of a channel. Costs one word until the first is used.
#[derive(Debug, Default)]
pub(super) struct Receipts(Option<Box<Remembered>>);

#[derive(Debug, Default)]
struct Remembered {
    by_key: HashMap<Box<str>, Receipt>,
    /// Oldest first.
    order: VecDeque<(Receipt, Box<str>)>,
}

impl Receipts {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn find(&self, key: &str) -> Option<Receipt> {
        self.0.as_ref().and_then(|remembered| remembered.by_key.get(key)).copied()
    }

    pub(super) fn remember(&mut self, key: Box<str>, receipt: Receipt, retention: &Retention) {
        if retention.idempotency_keys == 0 {
            return;
        }
        let remembered = self.0.get_or_insert_default();
        remembered.order.push_back((receipt, key.clone()));
        remembered.by_key.insert(key, receipt);
    }

    /// Forgets the keys that are expired when `head` is the newest offset.
    pub(super) fn expire(&mut self, head: u64, now: Timestamp, retention: &Retention) {
        let Some(remembered) = &mut self.0 else { return };
        while remembered.order.front().is_some_and(|(receipt, _)| receipt.is_expired(head, now, retention)) {
            remembered.forget_oldest();
        }
        if remembered.order.is_empty() {
            self.0 = None;
        }
    }
}

impl Remembered {
    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.by_key.remove(&key);
        }
    }
}

impl Receipt {
    /// The bytes of a stored receipt.
    pub const BYTES: usize = 36;

    /// As a durable log keeps it: offset, time, digest; integers little-endian.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&self.offset.to_le_bytes());
        out[8..16].copy_from_slice(&self.time.0.to_le_bytes());
        out[16..].copy_from_slice(&self.digest);
        out
    }

    /// What [`Self::encode`] made. `None` if it is something else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let number =
            |at: usize| bytes[at..at + 8].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let mut digest = Digest::default();
        digest.copy_from_slice(&bytes[16..]);
        Some(Self { offset: number(0), time: Timestamp(number(8)), digest })
    }

    /// Whether the key may be used anew when `head` is the channel's newest offset.
    pub fn is_expired(&self, head: u64, now: Timestamp, retention: &Retention) -> bool {
        self.time.0.saturating_add(retention.idempotency_ms) <= now.0
            || head.saturating_sub(self.offset) >= retention.idempotency_keys as u64
    }

    /// Whether the key was used for this event.
    ///
    /// # Errors
    /// `idempotency_conflict` if it was used for another one.
    pub fn check(&self, digest: &Digest) -> Result<(), Problem> {
        if self.digest == *digest {
            return Ok(());
        }
        let detail = "the idempotency key was used with another event on this channel; \
                      use a new key for a new event";
        Err(Problem::new(Code::IdempotencyConflict, detail))
    }
}

/// The digest of everything that makes an event that event. Each part is preceded by its length, so
/// that no two events run together to the same bytes.
pub fn digest(new: &NewEvent) -> Digest {
    let mut sha1 = Sha1::new();
    let mut part = |bytes: &[u8]| {
        sha1.update(&(bytes.len() as u64).to_be_bytes());
        sha1.update(bytes);
    };
    part(&[new.payload.kind() as u8]);
    part(new.payload.content_type().unwrap_or_default().as_bytes());
    part(new.name.as_deref().unwrap_or_default().as_bytes());
    part(new.key.as_deref().unwrap_or_default().as_bytes());
    part(new.payload.data());
    sha1.digest().bytes()
}
