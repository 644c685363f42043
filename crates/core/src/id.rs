//! Event ids: an epoch and an offset as one opaque token. Must not know what a log holds.

use std::fmt;

/// Which log of which channel an offset belongs to: 50 bits, shown as ten characters of `0-9a-z`.
///
/// It is derived from the log's own random number and the channel's name, so ids of different
/// channels differ and a cursor over several channels needs no names. It changes only when the
/// log was truly lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(u64);

/// Crockford's base 32 in lower case: no `i l o u`, so ids survive being read aloud.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const EPOCH_CHARS: usize = 10;
const EPOCH_MASK: u64 = (1 << (5 * EPOCH_CHARS)) - 1;

impl Epoch {
    /// The epoch of `channel` in the log with the random number `log`.
    ///
    /// FNV-1a over the name, seeded by `log`, with a final mix. This is stored in clients' ids and
    /// must never change.
    pub fn derive(log: u64, channel: &str) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325 ^ mix(log);
        for byte in channel.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Self(mix(hash) & EPOCH_MASK)
    }
}

/// The finalizer of SplitMix64: each input bit reaches each output bit.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The id of an event, and the position right after it. Offset 0 is the position before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId {
    /// The channel's epoch.
    pub epoch: Epoch,
    /// The event's place in its channel's log; rises by at least one from event to event.
    pub offset: u64,
}

impl EventId {
    /// The longest token: epoch, `-`, and the 20 digits of the largest offset.
    pub const TOKEN_BYTES_MAX: usize = EPOCH_CHARS + 1 + 20;

    /// Reads a token. `None` if it is not one in its only spelling (no leading zeros, lower case).
    pub fn parse(token: &str) -> Option<Self> {
        let bytes = token.as_bytes();
        let (epoch, rest) = bytes.split_at_checked(EPOCH_CHARS)?;
        let digits = rest.strip_prefix(b"-")?;
        let epoch = epoch.iter().try_fold(0_u64, |sum, byte| {
            let value = ALPHABET.iter().position(|candidate| candidate == byte)?;
            Some(sum << 5 | value as u64)
        })?;
        let plain = digits == b"0" || !digits.starts_with(b"0");
        if !plain || digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let offset = std::str::from_utf8(digits).ok()?.parse().ok()?;
        Some(Self { epoch: Epoch(epoch), offset })
    }

    /// Appends the token to `out`.
    pub fn push_to(self, out: &mut Vec<u8>) {
        for place in (0..EPOCH_CHARS).rev() {
            out.push(ALPHABET[(self.epoch.0 >> (5 * place)) as usize & 31]);
        }
        out.push(b'-');
        push_decimal(out, self.offset);
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut token = Vec::with_capacity(Self::TOKEN_BYTES_MAX);
        self.push_to(&mut token);
        f.write_str(&String::from_utf8_lossy(&token))
    }
}

/// Appends `value` in decimal.
pub fn push_decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_id_reads_back(log: u64, name in "[a-z:]{1,20}", offset: u64) {
            let id = EventId { epoch: Epoch::derive(log, &name), offset };
            let token = id.to_string();
            prop_assert!(token.len() <= EventId::TOKEN_BYTES_MAX);
            prop_assert_eq!(EventId::parse(&token), Some(id));
        }

        #[test]
        fn whatever_reads_has_one_spelling(token in "[0-9a-zA-Z-]{0,33}") {
            if let Some(id) = EventId::parse(&token) {
                prop_assert_eq!(id.to_string(), token);
            }
        }
    }

    #[test]
    fn refuses_near_misses() {
        for token in [
            "",
            "-",
            "0123456789",
            "0123456789-",
            "0123456789-01",
            "012345678-1",
            "0123456789-+1",
            "0123456789-18446744073709551616",
            "0123456789_1",
            "012345678é-1",
            "0123456789-1 ",
            "012345678I-1",
        ] {
            assert_eq!(EventId::parse(token), None, "{token:?}");
        }
    }

    /// Ids are held by clients across releases: the derivation is frozen.
    #[test]
    fn the_derivation_is_frozen() {
        let id = |log, name| EventId { epoch: Epoch::derive(log, name), offset: 7 }.to_string();
        assert_eq!(id(0, "a"), FROZEN[0]);
        assert_eq!(id(1, "a"), FROZEN[1]);
        assert_eq!(id(0xfeed_beef, "chat:room-7"), FROZEN[2]);
    }

    const FROZEN: [&str; 3] = ["5xqx41887r-7", "mp41qnsnc7-7", "pzdaj2zwwk-7"];
}
