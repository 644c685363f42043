//! An event as the bytes that a durable log keeps, and back. Must not know where the bytes lie; channel,
//! epoch and offset come from there.
//!
//! Layout, integers little-endian: version (1), kind (1), time (8), running total (8), then name (1), key (2)
//! and content type (1), each with its length before it, and the data up to the end.

use bytes::Bytes;

use crate::channel::ChannelName;
use crate::event::{Event, Kind, Payload};
use crate::id::EventId;
use crate::time::Timestamp;
use crate::wire::Frames;

const VERSION: u8 = 1;

/// The bytes are no record. The log that they come from is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record of the log is not readable")]
pub struct Unreadable;

/// What a record says besides the event's data; enough to decide what to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// When the log took the event.
    pub time: Timestamp,
    /// The bytes of this event and of all before it in its channel, since the channel's first.
    pub total: u64,
}

/// The record of an event; `total` as in [`Summary`].
pub fn encode(event: &Event, total: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(24 + event.size_bytes());
    out.push(VERSION);
    out.push(match event.payload.kind() {
        Kind::Json => 0,
        Kind::Text => 1,
        Kind::Bytes => 2,
    });
    out.extend_from_slice(&event.time.0.to_le_bytes());
    out.extend_from_slice(&total.to_le_bytes());
    // All three are bounded far below these lengths where events are checked.
    let name = event.name.as_deref().unwrap_or_default();
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
    let key = event.key.as_deref().unwrap_or_default();
    out.extend_from_slice(&(key.len() as u16).to_le_bytes());
    out.extend_from_slice(key.as_bytes());
    let content_type = event.payload.content_type().unwrap_or_default();
    out.push(content_type.len() as u8);
    out.extend_from_slice(content_type.as_bytes());
    out.extend_from_slice(event.payload.data());
    out
}

/// The event in a record.
///
/// # Errors
/// [`Unreadable`] if the bytes are not what [`encode`] makes.
pub fn decode(channel: &ChannelName, id: EventId, record: &[u8]) -> Result<Event, Unreadable> {
    let mut rest = record;
    let (summary, kind) = take_head(&mut rest)?;
    let name = take_text::<1>(&mut rest)?;
    let key = take_text::<2>(&mut rest)?;
    let content_type = take_text::<1>(&mut rest)?;
    if kind != Kind::Bytes && std::str::from_utf8(rest).is_err() {
        return Err(Unreadable);
    }
    let payload = Payload::stored(kind, content_type, Bytes::copy_from_slice(rest));
    let channel = channel.clone();
    Ok(Event { id, time: summary.time, channel, name, key, payload, frames: Frames::default() })
}

/// The summary of a record, without looking at its data.
///
/// # Errors
/// As [`decode`].
pub fn summary(record: &[u8]) -> Result<Summary, Unreadable> {
    take_head(&mut &*record).map(|(summary, _)| summary)
}

fn take_head(rest: &mut &[u8]) -> Result<(Summary, Kind), Unreadable> {
    if take(rest, 1)? != [VERSION] {
        return Err(Unreadable);
    }
    let kind = match take(rest, 1)? {
        [0] => Kind::Json,
        [1] => Kind::Text,
        [2] => Kind::Bytes,
        _ => return Err(Unreadable),
    };
    let time = Timestamp(take_number::<8>(rest)?);
    Ok((Summary { time, total: take_number::<8>(rest)? }, kind))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Unreadable> {
    let (taken, left) = rest.split_at_checked(length).ok_or(Unreadable)?;
    *rest = left;
    Ok(taken)
}

fn take_number<const BYTES: usize>(rest: &mut &[u8]) -> Result<u64, Unreadable> {
    let taken = take(rest, BYTES)?;
    Ok(taken.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

/// A text with its length in so many bytes before it; none if it is empty.
fn take_text<const BYTES: usize>(rest: &mut &[u8]) -> Result<Option<Box<str>>, Unreadable> {
    let length = take_number::<BYTES>(rest)? as usize;
    let text = std::str::from_utf8(take(rest, length)?).map_err(|_| Unreadable)?;
    Ok((!text.is_empty()).then(|| text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NewEvent;
    use crate::id::Epoch;

    fn event(payload: Payload, name: Option<&str>, key: Option<&str>) -> Event {
        let NewEvent { payload, name, key, .. } =
            NewEvent::new(payload).with(name, key, None).expect("right");
        let channel = ChannelName::new("a").expect("a name");
        let id = EventId { epoch: Epoch::derive(1, "a"), offset: 7 };
        Event { id, time: Timestamp(9), channel, name, key, payload, frames: Frames::default() }
    }

    #[test]
    fn an_event_comes_back_as_it_was() {
        let long = "k".repeat(NewEvent::KEY_BYTES_MAX);
        for (content_type, data, name, key) in [
            (Some("application/json"), &b"{\"a\":1}"[..], Some("tick"), Some("k\u{e4}y")),
            (Some("text/html"), b"", None, None),
            (Some("image/png"), b"\xff\x00", None, Some(long.as_str())),
            (None, b"plain", Some("n"), None),
        ] {
            let payload = Payload::declared(content_type, Bytes::from_static(data)).expect("right");
            let before = event(payload, name, key);
            let record = encode(&before, 1 << 40);
            let after = decode(&before.channel, before.id, &record).expect("readable");
            assert_eq!(
                (&after.payload, &after.name, &after.key),
                (&before.payload, &before.name, &before.key)
            );
            assert_eq!((after.id, after.time), (before.id, before.time));
            assert_eq!(summary(&record), Ok(Summary { time: Timestamp(9), total: 1 << 40 }));
        }
    }

    #[test]
    fn what_is_cut_or_of_another_version_is_refused() {
        let whole = encode(&event(Payload::sniffed(Bytes::from_static(b"{}")), Some("n"), Some("k")), 2);
        let head = whole.len() - 2;
        let channel = ChannelName::new("a").expect("a name");
        let id = EventId { epoch: Epoch::derive(1, "a"), offset: 7 };
        for length in 0..head {
            assert!(decode(&channel, id, &whole[..length]).is_err(), "{length} bytes");
        }
        let mut other = whole.clone();
        other[0] = 2;
        assert!(decode(&channel, id, &other).is_err() && summary(&other).is_err());
        let mut text = whole;
        let last = text.len() - 1;
        text[last] = 0xff;
        assert!(decode(&channel, id, &text).is_err(), "JSON that is not UTF-8");
    }
}
