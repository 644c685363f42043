//! RFC 6455 frames as a client sees them: server frames in, masked client frames out.
//! Knows nothing of messages' meaning; a fragmented message is an error, as no target sends one.

use anyhow::{Result, bail, ensure};

use super::Unit;

/// The sample key of RFC 6455; its answer is known, so the handshake is checked without SHA-1.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What a server must answer to [`KEY`].
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A mask that is not zero, so that a server pays for unmasking as it would with any client.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// Cuts one server frame off `input`; `None` while it is incomplete.
pub(crate) fn cut(input: &[u8]) -> Result<Option<(Unit<'_>, usize)>> {
    let [first, second, ..] = *input else { return Ok(None) };
    ensure!(second & 0x80 == 0, "the server sent a masked frame");
    ensure!(first & 0x30 == 0, "the server set a reserved bit (first byte {first:#04x})");
    ensure!(first & 0x80 != 0, "the server fragmented a message, which this generator does not join");
    let (header_bytes, payload_bytes) = match second & 0x7f {
        126 if input.len() < 4 => return Ok(None),
        126 => (4, usize::from(u16::from_be_bytes([input[2], input[3]]))),
        127 => match input.get(2..10).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()) {
            None => return Ok(None),
            Some(length) => (10, usize::try_from(u64::from_be_bytes(length))?),
        },
        short => (2, usize::from(short)),
    };
    let end = header_bytes + payload_bytes;
    let Some(payload) = input.get(header_bytes..end) else { return Ok(None) };
    let compressed = first & 0x40 != 0;
    let unit = match first & 0x0f {
        TEXT | BINARY => Unit::Message { data: payload, compressed },
        CLOSE => Unit::Close(match *payload {
            [high, low, ..] => u16::from_be_bytes([high, low]),
            _ => 1005,
        }),
        PING => Unit::Ping(payload),
        PONG => Unit::Nothing,
        opcode => bail!("the server sent a frame of opcode {opcode:#x}"),
    };
    Ok(Some((unit, end)))
}

/// Appends a masked text frame.
pub(crate) fn write_text(out: &mut Vec<u8>, payload: &[u8]) {
    write_client_frame(out, TEXT, payload);
}

/// Appends the answer to a ping.
pub(crate) fn write_pong(out: &mut Vec<u8>, payload: &[u8]) {
    write_client_frame(out, PONG, payload);
}

/// Appends an unmasked text frame, as a server would send it.
pub(crate) fn write_server_text(out: &mut Vec<u8>, payload: &[u8]) {
    write_header(out, TEXT, payload.len(), 0);
    out.extend_from_slice(payload);
}

/// How many bytes [`write_server_text`] puts before a payload.
pub(crate) fn server_header_bytes(payload_bytes: usize) -> usize {
    match payload_bytes {
        0..126 => 2,
        126..=0xffff => 4,
        _ => 10,
    }
}

fn write_client_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    write_header(out, opcode, payload.len(), 0x80);
    out.extend_from_slice(&MASK);
    let start = out.len();
    out.extend_from_slice(payload);
    for chunk in out[start..].chunks_mut(4) {
        for (byte, mask) in chunk.iter_mut().zip(MASK) {
            *byte ^= mask;
        }
    }
}

fn write_header(out: &mut Vec<u8>, opcode: u8, payload_bytes: usize, mask_bit: u8) {
    out.push(0x80 | opcode);
    match payload_bytes {
        0..126 => out.push(mask_bit | payload_bytes as u8),
        126..=0xffff => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&(payload_bytes as u16).to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_cut_only_when_complete() {
        for payload_bytes in [0, 1, 125, 126, 65_535, 65_536] {
            let payload = vec![b'x'; payload_bytes];
            let mut wire = Vec::new();
            write_server_text(&mut wire, &payload);
            assert_eq!(wire.len(), server_header_bytes(payload_bytes) + payload_bytes);
            assert!(cut(&wire[..wire.len() - 1]).expect("a prefix is no error").is_none());
            wire.push(0x81);
            let (unit, used) = cut(&wire).expect("a frame").expect("it is complete");
            assert_eq!(used, wire.len() - 1);
            assert_eq!(unit, Unit::Message { data: &payload, compressed: false });
        }
    }

    #[test]
    fn control_frames_are_told_apart() {
        let cut_one = |wire: &'static [u8]| cut(wire).expect("valid").expect("complete").0;
        assert_eq!(cut_one(&[0x89, 1, b'a']), Unit::Ping(b"a"));
        assert_eq!(cut_one(&[0x8a, 0]), Unit::Nothing);
        assert_eq!(cut_one(&[0x88, 2, 0x0f, 0xa1]), Unit::Close(4001));
        assert_eq!(cut_one(&[0x88, 0]), Unit::Close(1005));
        assert_eq!(cut_one(&[0xc1, 1, b'z']), Unit::Message { data: b"z", compressed: true });
    }

    #[test]
    fn what_a_server_must_not_send_is_refused() {
        for wire in [&[0x81, 0x80, 0, 0, 0, 0][..], &[0x01, 0], &[0xa1, 0], &[0x83, 0]] {
            assert!(cut(wire).is_err(), "{wire:?}");
        }
    }

    #[test]
    fn client_frames_are_masked() {
        let mut wire = Vec::new();
        write_text(&mut wire, b"hello");
        assert_eq!(wire[..6], [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d]);
        let plain: Vec<u8> = wire[6..].iter().zip(MASK.iter().cycle()).map(|(a, b)| a ^ b).collect();
        assert_eq!(plain, b"hello");
    }
}
