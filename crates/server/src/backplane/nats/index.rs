//! What is found by a name: used idempotency keys and the state of channels. Written after the events that they are of,
//! an older one never over a newer one. Must not know in which order events are appended.

use bytes::{BufMut, Bytes};
use sha2::{Digest as _, Sha256};
use tidewire_core::log::receipts::{Digest, Receipt};
use tidewire_core::{ChannelName, Timestamp};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::library::Library;
use super::wire::odd;
use super::words::token;
use crate::backplane::broker::BrokerError;

/// How often something is written that others write at the same time.
const TRIES: usize = 32;

/// A used idempotency key, and which event of the channel it was, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) receipt: Receipt,
    pub(super) number: u64,
}

/// What a channel's state has under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) offset: u64,
    pub(super) time: u64,
    /// Which event of the channel it is.
    pub(super) number: u64,
    /// What it counts against the limits; none: the key has left the state.
    pub(super) size: Option<u64>,
    pub(super) record: Bytes,
}

/// Something to write.
#[derive(Debug, Clone)]
pub(super) struct Note {
    pub(super) subject: String,
    pub(super) offset: u64,
    pub(super) data: Bytes,
    pub(super) ttl_ms: u64,
}

/// The token of any text.
pub(super) fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes())[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn receipt_subject(prefix: &str, name: &ChannelName, key: &str) -> String {
    format!("{prefix}.receipt.{}.{}", token(name), hash(key))
}

pub(super) fn state_subject(prefix: &str, name: &ChannelName, key: &str) -> String {
    format!("{prefix}.state.{}.{}", token(name), hash(key))
}

/// What one key adds to the sum of a state.
pub(super) fn weight(key: &str, number: u64) -> u64 {
    xxh3_64_with_seed(key.as_bytes(), number)
}

impl Used {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(64);
        out.put_slice(&self.receipt.encode());
        out.put_u64_le(self.number);
        out.into()
    }

    pub(super) fn decode(data: &[u8]) -> Result<Self, BrokerError> {
        let (receipt, number) = data.split_at_checked(Receipt::BYTES).ok_or_else(|| odd("no receipt"))?;
        let receipt = Receipt::decode(receipt).ok_or_else(|| odd("no receipt"))?;
        Ok(Self { receipt, number: long(number)? })
    }

    pub(super) fn new(offset: u64, time: u64, number: u64, digest: Digest) -> Self {
        Self { receipt: Receipt { offset, time: Timestamp(time), digest }, number }
    }
}

impl Held {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(40 + self.record.len());
        out.put_u64_le(self.offset);
        out.put_u64_le(self.time);
        out.put_u64_le(self.number);
        out.put_u64_le(self.size.unwrap_or(u64::MAX));
        out.put_slice(if self.size.is_some() { &self.record } else { &[] });
        out.into()
    }

    /// For whom its size is enough.
    pub(super) fn without_record(self) -> Self {
        Self { record: Bytes::new(), ..self }
    }

    pub(super) fn decode(mut data: Bytes) -> Result<Self, BrokerError> {
        if data.len() < 32 {
            return Err(odd("no state"));
        }
        let head = data.split_to(32);
        let size = long(&head[24..])?;
        Ok(Self {
            offset: long(&head)?,
            time: long(&head[8..])?,
            number: long(&head[16..])?,
            size: (size != u64::MAX).then_some(size),
            record: data,
        })
    }
}

/// The number at the begin of data; all that is in the index begins with an offset.
fn long(data: &[u8]) -> Result<u64, BrokerError> {
    let bytes = data.get(..8).ok_or_else(|| odd("no number"))?;
    Ok(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

/// Writes a note, unless a newer one is there. `expected` is the sequence of what is thought to be there. Gives what
/// is there then.
pub(super) async fn write(library: &Library, note: Note, expected: Option<u64>) -> Result<u64, BrokerError> {
    let Note { subject, offset, data, ttl_ms } = note;
    let mut expected = expected;
    for _ in 0..TRIES {
        let known = match expected {
            Some(known) => known,
            None => match library.find(&subject).await? {
                Some((sequence, found)) if long(&found)? >= offset => return Ok(sequence),
                Some((sequence, _)) => sequence,
                None => 0,
            },
        };
        let stored = library.wire.store(subject.clone(), data.clone(), Some(known), ttl_ms).await?;
        if let Some(sequence) = stored.sequence()? {
            return Ok(sequence);
        }
        expected = None;
    }
    Err(BrokerError("its index changes faster than it can be written".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let used = Used::new(5, 6, 7, [8; 20]);
        assert_eq!(Used::decode(&used.encode()), Ok(used));
        let held = Held { offset: 1, time: 2, number: 3, size: Some(4), record: Bytes::from_static(b"x") };
        assert_eq!(Held::decode(held.encode()), Ok(held.clone()));
        let gone = Held { size: None, record: Bytes::new(), ..held };
        assert_eq!(Held::decode(gone.encode()), Ok(gone));
        assert!(Used::decode(b"short").is_err() && Held::decode(Bytes::from_static(b"short")).is_err());
    }
}
