//! Frame headers: reading and writing (RFC 6455 section 5.2). Must not know messages.

use bytes::Bytes;

use super::close::{CloseCode, Violation};

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpCode {
    /// More of the message before.
    Continuation,
    /// A text message, or its beginning.
    Text,
    /// A binary message, or its beginning.
    Binary,
    /// The closing handshake.
    Close,
    /// Asks for a pong.
    Ping,
    /// Answers a ping.
    Pong,
}

impl OpCode {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }

    pub(super) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// The longest header: two bytes, eight of length, four of mask.
pub(super) const HEADER_BYTES_MAX: usize = 14;
/// The most that a control frame may carry.
pub(super) const CONTROL_BYTES_MAX: u64 = 125;

/// A frame header as it stands in the input.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) is_final: bool,
    pub(super) is_compressed: bool,
    pub(super) opcode: OpCode,
    pub(super) mask: Option<[u8; 4]>,
    pub(super) payload_bytes: u64,
    pub(super) header_bytes: usize,
}

impl Header {
    /// Reads a header. `None` if `input` ends within it. Breaks of the rules that the first two bytes
    /// show are found before the rest arrives.
    pub(super) fn parse(input: &[u8]) -> Result<Option<Self>, Violation> {
        let Some(&first) = input.first() else { return Ok(None) };
        let opcode = OpCode::from_bits(first & 0x0f).ok_or(Violation::protocol("an opcode is reserved"))?;
        let is_final = first & 0x80 != 0;
        let is_compressed = first & 0x40 != 0;
        if first & 0x30 != 0 {
            return Err(Violation::protocol("a reserved bit is set"));
        }
        if opcode.is_control() && (!is_final || is_compressed) {
            return Err(Violation::protocol("a control frame is fragmented or compressed"));
        }
        let Some(&second) = input.get(1) else { return Ok(None) };
        let length_bytes = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if opcode.is_control() && length_bytes > 0 {
            return Err(Violation::protocol("a control frame has more than 125 bytes"));
        }
        let mask_bytes = if second & 0x80 != 0 { 4 } else { 0 };
        let header_bytes = 2 + length_bytes + mask_bytes;
        let Some(rest) = input.get(2..header_bytes) else { return Ok(None) };
        let (length, mask) = rest.split_at(length_bytes);
        let payload_bytes = match length_bytes {
            0 => u64::from(second & 0x7f),
            _ => length.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        let smallest = [0, 0, 126, 0, 0, 0, 0, 0, 65_536][length_bytes];
        if payload_bytes < smallest || payload_bytes >> 63 != 0 {
            return Err(Violation::protocol("a frame's length is not in its shortest form"));
        }
        let mask = <[u8; 4]>::try_from(mask).ok();
        Ok(Some(Self { is_final, is_compressed, opcode, mask, payload_bytes, header_bytes }))
    }
}

/// Applies a mask (RFC 6455 section 5.3), beginning at the mask's byte `phase`.
pub(super) fn unmask(bytes: &mut [u8], mask: [u8; 4], phase: usize) {
    let mut mask = mask;
    mask.rotate_left(phase % 4);
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(word) ^ wide).to_ne_bytes());
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Appends the header of an unfragmented frame.
pub fn push_header(
    out: &mut Vec<u8>,
    opcode: OpCode,
    compressed: bool,
    mask: Option<[u8; 4]>,
    payload_bytes: usize,
) {
    out.push(0x80 | if compressed { 0x40 } else { 0 } | opcode.bits());
    let mask_bit = if mask.is_some() { 0x80 } else { 0 };
    match payload_bytes {
        0..=125 => out.push(mask_bit | payload_bytes as u8),
        126..=0xffff => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&(payload_bytes as u16).to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(mask.as_ref().map_or(&[], |mask| &mask[..]));
}

/// A server's frame: unmasked, header and payload.
pub fn encode_frame(opcode: OpCode, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(10 + payload.len());
    push_header(&mut out, opcode, false, None, payload.len());
    out.extend_from_slice(payload);
    out.into()
}

/// Appends a client's frame, masked.
pub fn encode_masked(out: &mut Vec<u8>, opcode: OpCode, payload: &[u8], mask: [u8; 4]) {
    push_header(out, opcode, false, Some(mask), payload.len());
    let start = out.len();
    out.extend_from_slice(payload);
    unmask(&mut out[start..], mask, 0);
}

/// A server's close frame. The reason is cut to the 123 bytes that fit, at the end of a character.
pub fn encode_close(code: CloseCode, reason: &str) -> Bytes {
    let mut end = reason.len().min(CONTROL_BYTES_MAX as usize - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = code.0.to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    encode_frame(OpCode::Close, &payload)
}
