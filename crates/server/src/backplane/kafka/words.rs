//! The records of the log as bytes, and back: who wrote one, when, and what it does. Must not know what becomes of them.
//!
//! A record's key is a channel's name or a ticket. Its value, integers little-endian: version (1), kind (1), base (8),
//! node (8), serial (8), nonce (8), time (8), and then what the kind says.

use bytes::{BufMut, Bytes};
use tidewire_core::limits::{Policy, Retention};
use tidewire_core::log::receipts::Digest;

use super::channel::Stay;
use crate::access::sealed::Secret;

const VERSION: u8 = 1;
/// The bits of a nonce that are in an offset.
const CHECK_BITS: u32 = 20;

/// The offset of what is at a position of a partition.
pub(super) fn offset(base: u64, position: u64, nonce: u64) -> u64 {
    ((base + position) << CHECK_BITS) | (nonce & ((1 << CHECK_BITS) - 1))
}

/// Who wrote a record, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// What the partition's base was for who wrote it. With another one it is void.
    pub(super) base: u64,
    pub(super) node: u64,
    /// Rises with each record of a node in a partition. One that comes late, or twice, is void.
    pub(super) serial: u64,
    pub(super) nonce: u64,
    pub(super) time_ms: u64,
}

/// What decides how long an event is kept. It is in its record, so that all nodes decide alike while their
/// configurations differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) events: u64,
    pub(super) bytes: u64,
    pub(super) age_ms: u64,
    pub(super) receipt_ms: u64,
    pub(super) receipts: u64,
    /// Whether it can be read again.
    pub(super) keeps: bool,
    /// Whether it is in the channel's state.
    pub(super) is_keyed: bool,
}

impl Terms {
    pub(super) fn of(policy: &Policy, keeps: bool, is_keyed: bool) -> Self {
        let Retention { events, bytes, age_ms, idempotency_ms, idempotency_keys } = policy.retention;
        Self {
            events: events as u64,
            bytes: bytes as u64,
            age_ms,
            receipt_ms: idempotency_ms.max(1),
            receipts: idempotency_keys as u64,
            keeps,
            is_keyed,
        }
    }
}

/// What a record does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    /// An event, as `tidewire_core::record` writes it.
    Event { terms: Terms, receipt: Option<(Box<str>, Digest)>, record: Bytes },
    /// A channel to which nobody has published begins here.
    Begin,
    /// All that a channel had is gone.
    Delete,
    /// The base rises; what was acknowledged before may be lost.
    Leap { before: u64, base: u64, is_lossy: bool },
    /// What all who share the log know. The first one counts.
    Known { number: u64, secret: Secret, partitions: u32 },
    /// The key is said for the first time, unless it was within so long.
    Once { keep_ms: u64 },
    /// Something of a subject.
    Announce { is_kept: bool, is_again: bool, subject: String, what: String },
    /// It is not kept any more.
    Forget { subject: String, what: String },
    /// Where an empty channel is, said again.
    Stay { head: u64, stay: Stay },
    /// An event of a channel's state, said again by a node that had seen the log up to there.
    Hold { seen: u64, offset: u64, time_ms: u64, record: Bytes },
}

/// The value of a record.
pub(super) fn encode(stamp: &Stamp, body: &Body) -> Bytes {
    let mut out = Vec::with_capacity(128 + body.size());
    out.put_u8(VERSION);
    out.put_u8(body.kind());
    for number in [stamp.base, stamp.node, stamp.serial, stamp.nonce, stamp.time_ms] {
        out.put_u64_le(number);
    }
    match body {
        Body::Event { terms, receipt, record } => {
            let flags =
                u8::from(terms.keeps) | u8::from(terms.is_keyed) << 1 | u8::from(receipt.is_some()) << 2;
            out.put_u8(flags);
            for number in [terms.events, terms.bytes, terms.age_ms, terms.receipt_ms, terms.receipts] {
                out.put_u64_le(number);
            }
            if let Some((key, digest)) = receipt {
                put_text(&mut out, key);
                out.extend_from_slice(digest);
            }
            out.extend_from_slice(record);
        }
        Body::Begin | Body::Delete => {}
        Body::Leap { before, base, is_lossy } => {
            out.put_u64_le(*before);
            out.put_u64_le(*base);
            out.put_u8(u8::from(*is_lossy));
        }
        Body::Known { number, secret, partitions } => {
            out.put_u64_le(*number);
            out.put_u32_le(*partitions);
            out.extend_from_slice(secret);
        }
        Body::Once { keep_ms } => out.put_u64_le(*keep_ms),
        Body::Announce { is_kept, is_again, subject, what } => {
            out.put_u8(u8::from(*is_kept) | u8::from(*is_again) << 1);
            put_text(&mut out, subject);
            put_text(&mut out, what);
        }
        Body::Forget { subject, what } => {
            put_text(&mut out, subject);
            put_text(&mut out, what);
        }
        Body::Stay { head, stay } => {
            for number in [*head, stay.time_ms, stay.known_ms, stay.lost] {
                out.put_u64_le(number);
            }
            out.put_u8(u8::from(stay.may_lack));
        }
        Body::Hold { seen, offset, time_ms, record } => {
            for number in [*seen, *offset, *time_ms] {
                out.put_u64_le(number);
            }
            out.extend_from_slice(record);
        }
    }
    Bytes::from(out)
}

/// What [`encode`] made. `None` if it is something else: somebody else has written it.
pub(super) fn decode(value: &Bytes) -> Option<(Stamp, Body)> {
    let mut rest = Rest(value.clone());
    if rest.byte()? != VERSION {
        return None;
    }
    let kind = rest.byte()?;
    let stamp = Stamp {
        base: rest.number()?,
        node: rest.number()?,
        serial: rest.number()?,
        nonce: rest.number()?,
        time_ms: rest.number()?,
    };
    let body = match kind {
        0 => {
            let flags = rest.byte()?;
            let terms = Terms {
                events: rest.number()?,
                bytes: rest.number()?,
                age_ms: rest.number()?,
                receipt_ms: rest.number()?,
                receipts: rest.number()?,
                keeps: flags & 1 != 0,
                is_keyed: flags & 2 != 0,
            };
            let receipt = match flags & 4 {
                0 => None,
                _ => Some((rest.text()?.into(), rest.array()?)),
            };
            Body::Event { terms, receipt, record: rest.0 }
        }
        1 => Body::Begin,
        2 => Body::Delete,
        3 => Body::Leap { before: rest.number()?, base: rest.number()?, is_lossy: rest.byte()? != 0 },
        4 => Body::Known {
            number: rest.number()?,
            partitions: u32::from_le_bytes(rest.array()?),
            secret: rest.array()?,
        },
        5 => Body::Once { keep_ms: rest.number()? },
        6 => {
            let flags = rest.byte()?;
            let (is_kept, is_again) = (flags & 1 != 0, flags & 2 != 0);
            Body::Announce { is_kept, is_again, subject: rest.text()?, what: rest.text()? }
        }
        7 => Body::Forget { subject: rest.text()?, what: rest.text()? },
        8 => Body::Stay {
            head: rest.number()?,
            stay: Stay {
                time_ms: rest.number()?,
                known_ms: rest.number()?,
                lost: rest.number()?,
                may_lack: rest.byte()? != 0,
            },
        },
        9 => Body::Hold {
            seen: rest.number()?,
            offset: rest.number()?,
            time_ms: rest.number()?,
            record: rest.0,
        },
        _ => return None,
    };
    Some((stamp, body))
}

impl Body {
    fn kind(&self) -> u8 {
        match self {
            Self::Event { .. } => 0,
            Self::Begin => 1,
            Self::Delete => 2,
            Self::Leap { .. } => 3,
            Self::Known { .. } => 4,
            Self::Once { .. } => 5,
            Self::Announce { .. } => 6,
            Self::Forget { .. } => 7,
            Self::Stay { .. } => 8,
            Self::Hold { .. } => 9,
        }
    }

    /// About how many bytes it has.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Event { record, .. } => 400 + record.len(),
            Self::Hold { record, .. } => 100 + record.len(),
            Self::Announce { subject, what, .. } | Self::Forget { subject, what } => {
                100 + subject.len() + what.len()
            }
            _ => 100,
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.put_u32_le(text.len() as u32);
    out.extend_from_slice(text.as_bytes());
}

/// What is left to read.
struct Rest(Bytes);

impl Rest {
    fn take(&mut self, length: usize) -> Option<Bytes> {
        (self.0.len() >= length).then(|| self.0.split_to(length))
    }

    fn array<const BYTES: usize>(&mut self) -> Option<[u8; BYTES]> {
        self.take(BYTES)?.as_ref().try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = u32::from_le_bytes(self.array()?) as usize;
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were() {
        let stamp = Stamp { base: 1 << 40, node: 2, serial: 3, nonce: u64::MAX, time_ms: 5 };
        let terms = Terms {
            events: 1,
            bytes: 2,
            age_ms: 3,
            receipt_ms: 4,
            receipts: 5,
            keeps: true,
            is_keyed: false,
        };
        let record = Bytes::from_static(b"record");
        let (subject, what) = ("s\u{e4}".to_owned(), "w".to_owned());
        for body in [
            Body::Event { terms, receipt: None, record: record.clone() },
            Body::Event {
                terms: Terms { keeps: false, is_keyed: true, ..terms },
                receipt: Some(("key".into(), [7; 20])),
                record: record.clone(),
            },
            Body::Begin,
            Body::Delete,
            Body::Leap { before: 0, base: 1, is_lossy: true },
            Body::Known { number: 1, secret: [9; 32], partitions: 16 },
            Body::Once { keep_ms: 4 },
            Body::Announce { is_kept: true, is_again: false, subject: subject.clone(), what: what.clone() },
            Body::Forget { subject, what },
            Body::Stay { head: 1, stay: Stay { time_ms: 2, known_ms: 3, lost: 4, may_lack: true } },
            Body::Hold { seen: 1, offset: 2, time_ms: 3, record },
        ] {
            let value = encode(&stamp, &body);
            assert_eq!(decode(&value), Some((stamp, body)));
            assert_eq!(decode(&value.slice(..20)), None);
        }
        assert_eq!(decode(&Bytes::from_static(b"\x02")), None);
    }

    #[test]
    fn offsets_say_where_and_rise() {
        let one = offset(1_700_000_000_000, 5, u64::MAX);
        assert_eq!(one >> CHECK_BITS, 1_700_000_000_005);
        assert!(offset(1_700_000_000_000, 6, 0) > one);
    }
}
