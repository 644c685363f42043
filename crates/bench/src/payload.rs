//! The event data: JSON of a chosen size that carries channel, sequence number and intended time.
//! Knows nothing of transports; the stamp survives any envelope, as it needs no JSON escaping.

use anyhow::{Result, ensure};
use memchr::memmem;

/// What every stamp begins with.
const MARKER: &[u8] = b"@tw:";
const CHANNEL_DIGITS: usize = 5;
const SEQUENCE_DIGITS: usize = 8;
const DUE_DIGITS: usize = 16;
const STAMP_BYTES: usize = MARKER.len() + CHANNEL_DIGITS + 1 + SEQUENCE_DIGITS + 1 + DUE_DIGITS;
const BEFORE: &[u8] = b"{\"bench\":\"";
const BETWEEN: &[u8] = b"\",\"pad\":\"";
const AFTER: &[u8] = b"\"}";

/// The smallest payload there can be.
pub(crate) const PAYLOAD_BYTES_MIN: usize = BEFORE.len() + STAMP_BYTES + BETWEEN.len() + AFTER.len();

/// Which event it is, and when it was meant to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) channel: u32,
    pub(crate) sequence: u32,
    pub(crate) due_ns: u64,
}

/// A payload whose stamp is rewritten in place for each event.
pub(crate) struct Payload {
    bytes: Vec<u8>,
}

impl Payload {
    pub(crate) fn new(payload_bytes: usize) -> Result<Payload> {
        ensure!(
            (PAYLOAD_BYTES_MIN..=1 << 20).contains(&payload_bytes),
            "a payload has {PAYLOAD_BYTES_MIN} to {} bytes, not {payload_bytes}",
            1 << 20
        );
        let mut bytes = Vec::with_capacity(payload_bytes);
        bytes.extend_from_slice(BEFORE);
        bytes.extend_from_slice(MARKER);
        bytes.resize(BEFORE.len() + STAMP_BYTES, b'0');
        bytes.extend_from_slice(BETWEEN);
        let pad_bytes = payload_bytes - bytes.len() - AFTER.len();
        bytes.extend(padding().take(pad_bytes));
        bytes.extend_from_slice(AFTER);
        Ok(Payload { bytes })
    }

    /// The payload of one event.
    pub(crate) fn stamped(&mut self, stamp: Stamp) -> &[u8] {
        let field = &mut self.bytes[BEFORE.len() + MARKER.len()..];
        write_hex(&mut field[..CHANNEL_DIGITS], u64::from(stamp.channel));
        let field = &mut field[CHANNEL_DIGITS + 1..];
        write_hex(&mut field[..SEQUENCE_DIGITS], u64::from(stamp.sequence));
        write_hex(&mut field[SEQUENCE_DIGITS + 1..][..DUE_DIGITS], stamp.due_ns);
        &self.bytes
    }
}

/// Finds stamps in messages. It first looks where the last one was, as envelopes seldom change length.
#[derive(Debug)]
pub(crate) struct StampFinder {
    last_at: usize,
    marker: memmem::Finder<'static>,
}

impl Default for StampFinder {
    fn default() -> StampFinder {
        StampFinder { last_at: 0, marker: memmem::Finder::new(MARKER) }
    }
}

impl StampFinder {
    /// The first stamp in `message`, and where to go on looking.
    #[inline]
    pub(crate) fn find(&mut self, message: &[u8]) -> Option<(Stamp, usize)> {
        let at = match message.get(self.last_at..self.last_at + MARKER.len()) {
            Some(found) if found == MARKER => self.last_at,
            _ => self.marker.find(message)?,
        };
        self.last_at = at;
        read_stamp(message, at)
    }

    /// The next stamp in what is left of a message; it has no usual place.
    #[inline]
    pub(crate) fn find_more(&self, rest: &[u8]) -> Option<(Stamp, usize)> {
        // Most messages end soon after their one stamp, too soon for another.
        if rest.len() < STAMP_BYTES {
            return None;
        }
        read_stamp(rest, self.marker.find(rest)?)
    }
}

#[inline]
fn read_stamp(message: &[u8], at: usize) -> Option<(Stamp, usize)> {
    let field = message.get(at + MARKER.len()..at + STAMP_BYTES)?;
    let (channel, rest) = field.split_at(CHANNEL_DIGITS);
    let (sequence, due) = rest[1..].split_at(SEQUENCE_DIGITS);
    let stamp = Stamp {
        channel: read_hex(channel) as u32,
        sequence: read_hex(sequence) as u32,
        due_ns: read_hex(&due[1..]),
    };
    Some((stamp, at + STAMP_BYTES))
}

/// Words rather than one letter, so that compression has about as much to do as with real events.
fn padding() -> impl Iterator<Item = u8> {
    const WORDS: [&str; 16] = [
        "price", "order", "room", "seven", "blue", "north", "signal", "amount", "user", "left", "quick",
        "stone", "open", "delta", "river", "lamp",
    ];
    let mut state = 0x2545_f491_u32;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        WORDS[(state >> 28) as usize].bytes().chain(std::iter::once(b' '))
    })
    .flatten()
}

fn write_hex(digits: &mut [u8], mut value: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

#[inline]
fn read_hex(digits: &[u8]) -> u64 {
    // Branch-free on purpose: letters have bit 6 set and stand 9 above their low four bits.
    digits.iter().fold(0, |value, &digit| value << 4 | u64::from((digit & 15) + 9 * (digit >> 6)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { channel: 0xabcde, sequence: 0x0123_4567, due_ns: 0xfedc_ba98_7654_3210 };

    #[test]
    fn a_stamp_survives_envelopes_and_escaping() {
        let mut payload = Payload::new(128).expect("a valid size");
        let data = String::from_utf8(payload.stamped(STAMP).to_vec()).expect("it is JSON");
        assert_eq!(data.len(), 128);
        assert!(serde_json::from_str::<serde_json::Value>(&data).is_ok());
        let mut finder = StampFinder::default();
        for message in [data.clone(), format!("42[\"event\",{data}]"), format!("{{\"data\":{data:?}}}")] {
            assert_eq!(finder.find(message.as_bytes()).map(|found| found.0), Some(STAMP), "{message}");
        }
    }

    #[test]
    fn several_stamps_in_one_message_are_all_found() {
        let mut payload = Payload::new(PAYLOAD_BYTES_MIN).expect("a valid size");
        let body =
            [payload.stamped(STAMP).to_vec(), payload.stamped(Stamp { sequence: 9, ..STAMP }).to_vec()]
                .concat();
        let mut finder = StampFinder::default();
        let (first, used) = finder.find(&body).expect("a stamp");
        let (second, more) = finder.find_more(&body[used..]).expect("another");
        assert_eq!((first.sequence, second.sequence), (STAMP.sequence, 9));
        assert!(finder.find_more(&body[used + more..]).is_none());
    }

    #[test]
    fn messages_without_a_stamp_have_none() {
        assert!(StampFinder::default().find(b"{\"type\":\"subscribed\"}").is_none());
        assert!(StampFinder::default().find(b"@tw:short").is_none());
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        assert!(Payload::new(PAYLOAD_BYTES_MIN - 1).is_err());
        assert!(Payload::new((1 << 20) + 1).is_err());
    }
}
