//! permessage-deflate without context takeover (RFC 7692): every message stands for itself, so one
//! compressor and one decompressor serve a whole thread, and a compressed frame all its receivers.
//! Must not know frames beyond their header, nor connections.

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::close::Violation;
use super::frame::{OpCode, push_header};

/// What an endpoint leaves out at the end of a message, and its peer puts back (RFC 7692 section 7.2).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// An empty message: an empty block, and the tail (RFC 7692 section 7.2.3.6).
const EMPTY: [u8; 5] = [0x00, 0x00, 0x00, 0xff, 0xff];
/// How often a message may end its stream and go on: each time costs more than its two bytes.
const RESTARTS_MAX: usize = 64;
/// How much output room the decompressor gets at a time.
const STEP_BYTES: usize = 16 << 10;

/// The window that a client's agreement leaves to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Window {
    /// 32 KiB, as nearly everybody has.
    Full,
    /// Anything smaller, down to 256 bytes.
    Narrow,
}

/// The smallest window there is (RFC 7692 section 7.1.2.1).
const NARROW_BYTES: usize = 256;

/// Compresses messages, each on its own.
#[derive(Debug)]
pub struct Deflater {
    compress: Compress,
}

impl Default for Deflater {
    fn default() -> Self {
        // Level 1: it costs a third of the default and gives up a few percent.
        Self { compress: Compress::new(Compression::fast(), false) }
    }
}

impl Deflater {
    /// The message as a complete compressed server frame, also where it does not shrink: that costs five
    /// bytes or so, while a connection on which either everything is compressed or nothing surprises
    /// no client. `None` only if the compressor did not end the message as it must.
    pub fn deflated_frame(&mut self, opcode: OpCode, payload: &[u8], window: Window) -> Option<Bytes> {
        self.compress.reset();
        // Room for the worst case, so that one call does it.
        let piece_bytes = if window == Window::Full { payload.len() } else { NARROW_BYTES };
        let pieces = payload.len().div_ceil(piece_bytes.max(1));
        let mut body = Vec::with_capacity(payload.len() + payload.len() / 64 + 64 * (pieces + 1));
        for (index, piece) in payload.chunks(piece_bytes.max(1)).enumerate() {
            // Forgetting what came before at the end of each piece, no distance reaches beyond it: that is
            // right for any window, with the one compressor.
            let last = index + 1 == pieces;
            let flush = if last { FlushCompress::Sync } else { FlushCompress::Full };
            self.compress.compress_vec(piece, &mut body, flush).ok()?;
        }
        if self.compress.total_in() != payload.len() as u64 {
            return None;
        }
        if payload.is_empty() {
            body.extend_from_slice(&EMPTY);
        }
        let end = body.len().checked_sub(TAIL.len()).filter(|end| body[*end..] == TAIL)?;
        let mut out = Vec::with_capacity(10 + end);
        push_header(&mut out, opcode, true, None, end);
        out.extend_from_slice(&body[..end]);
        Some(out.into())
    }
}

/// Inflates messages, each on its own.
#[derive(Debug)]
pub struct Inflater {
    decompress: Decompress,
    /// The last message. Its memory serves the next one.
    output: Vec<u8>,
}

/// What is kept of the output's memory from one message to the next.
const OUTPUT_BYTES_KEPT: usize = 64 << 10;

impl Default for Inflater {
    fn default() -> Self {
        Self { decompress: Decompress::new(false), output: Vec::new() }
    }
}

impl Inflater {
    /// The message that was inflated last.
    pub(super) fn output(&self) -> &[u8] {
        &self.output
    }

    /// Inflates a message into [`Self::output`].
    ///
    /// # Errors
    /// 1007 for data that does not inflate, 1009 as soon as more than `bytes_max` come out.
    pub(super) fn inflate(&mut self, data: &[u8], bytes_max: usize) -> Result<(), Violation> {
        let mut out = std::mem::take(&mut self.output);
        out.clear();
        out.shrink_to(OUTPUT_BYTES_KEPT);
        self.decompress.reset(false);
        let outcome = match self.feed(data, bytes_max, &mut out) {
            Ok(true) => Ok(()),
            Ok(false) => self.feed(&TAIL, bytes_max, &mut out).map(|_| ()),
            Err(violation) => Err(violation),
        };
        self.output = out;
        outcome
    }

    /// Inflates one piece of input. True if the stream said that it ends here.
    fn feed(&mut self, mut input: &[u8], bytes_max: usize, out: &mut Vec<u8>) -> Result<bool, Violation> {
        let mut restarts = 0;
        loop {
            // One byte over the limit is room enough to notice.
            let room = (bytes_max + 1 - out.len()).min(STEP_BYTES);
            let (read, wrote) = (self.decompress.total_in(), out.len());
            let status = inflate_step(&mut self.decompress, input, out, room)?;
            input = &input[(self.decompress.total_in() - read) as usize..];
            if out.len() > bytes_max {
                return Err(Violation::too_big());
            }
            match status {
                Status::StreamEnd if input.is_empty() => return Ok(true),
                // A final block with more behind it: some compressors begin a new stream there.
                Status::StreamEnd if restarts < RESTARTS_MAX => {
                    restarts += 1;
                    self.decompress.reset(false);
                }
                Status::StreamEnd => {
                    return Err(Violation::data("the compressed data has too many final blocks"));
                }
                _ if out.len() - wrote == room => {} // more may be waiting for room
                _ if input.is_empty() => return Ok(false),
                _ if self.decompress.total_in() == read && out.len() == wrote => {
                    return Err(Violation::data("the compressed data is broken"));
                }
                _ => {}
            }
        }
    }
}

fn inflate_step(
    decompress: &mut Decompress,
    input: &[u8],
    out: &mut Vec<u8>,
    room: usize,
) -> Result<Status, Violation> {
    let start = out.len();
    out.resize(start + room, 0);
    let before = decompress.total_out();
    let status = decompress.decompress(input, &mut out[start..], FlushDecompress::Sync);
    out.truncate(start + (decompress.total_out() - before) as usize);
    status.map_err(|_| Violation::data("the compressed data is broken"))
}
