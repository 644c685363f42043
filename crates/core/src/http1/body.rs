//! Request bodies: so many bytes, or chunks (RFC 9112 section 7.1). Trailers and chunk extensions are
//! read and dropped. Must not know what a body holds.

use super::head::BodyLength;
use crate::error::{Code, Problem};

/// Bounds the line with a chunk's size, and each trailer line.
const LINE_BYTES_MAX: usize = 256;
/// Bounds the number of trailer lines.
const TRAILERS_MAX: usize = 32;

/// Decodes one request's body as it arrives.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    /// The chunk-size or trailer line under way.
    line: Vec<u8>,
    trailers: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many bytes to the end of the body.
    Known(u64),
    Size,
    /// So many bytes to the end of the chunk.
    Chunk(u64),
    /// The line end after a chunk: so many of its two bytes have come.
    ChunkEnd(u8),
    Trailer,
    Complete,
}

impl BodyDecoder {
    /// A decoder for a body of this length.
    pub fn new(length: BodyLength) -> Self {
        let state = match length {
            BodyLength::Known(0) => State::Complete,
            BodyLength::Known(bytes) => State::Known(bytes),
            BodyLength::Chunked => State::Size,
        };
        Self { state, line: Vec::new(), trailers: 0 }
    }

    /// Whether the body has come whole.
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Appends what `input` holds of the body to `out`; gives how many bytes of `input` belong to it.
    ///
    /// # Errors
    /// `payload_too_large` as soon as it is known that more than `bytes_max` would come,
    /// `invalid_request` for broken chunks. Then the connection must be closed.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>, bytes_max: usize) -> Result<usize, Problem> {
        let mut at = 0;
        while self.state != State::Complete {
            let rest = &input[at..];
            if rest.is_empty() && !matches!(self.state, State::Known(_)) {
                break;
            }
            match self.state {
                State::Known(left) => {
                    check_size(out.len(), left, bytes_max)?;
                    let taken = take(rest, left, out);
                    at += taken;
                    self.state = match left - taken as u64 {
                        0 => State::Complete,
                        left => State::Known(left),
                    };
                    if taken == 0 {
                        break;
                    }
                }
                State::Chunk(left) => {
                    let taken = take(rest, left, out);
                    at += taken;
                    self.state = match left - taken as u64 {
                        0 => State::ChunkEnd(0),
                        left => State::Chunk(left),
                    };
                }
                State::ChunkEnd(seen) => {
                    if rest[0] != b"\r\n"[usize::from(seen)] {
                        return Err(broken("a chunk is not followed by CR LF"));
                    }
                    at += 1;
                    self.state = if seen == 0 { State::ChunkEnd(1) } else { State::Size };
                }
                State::Size | State::Trailer => {
                    at += self.take_line(rest, out.len(), bytes_max)?;
                }
                State::Complete => {}
            }
        }
        Ok(at)
    }

    /// Takes bytes of a line, and acts on the line when it is whole.
    fn take_line(&mut self, rest: &[u8], decoded: usize, bytes_max: usize) -> Result<usize, Problem> {
        let end = memchr::memchr(b'\n', rest);
        let taken = end.map_or(rest.len(), |end| end + 1);
        if self.line.len() + taken > LINE_BYTES_MAX {
            return Err(broken("a chunk size or trailer line is too long"));
        }
        self.line.extend_from_slice(&rest[..taken]);
        if end.is_none() {
            return Ok(taken);
        }
        let line = std::mem::take(&mut self.line);
        let Some(line) = line.strip_suffix(b"\r\n").filter(|line| !line.contains(&b'\r')) else {
            return Err(broken("lines must end with CR LF"));
        };
        if self.state == State::Trailer {
            self.trailers += 1;
            if line.is_empty() {
                self.state = State::Complete;
            } else if !is_trailer(line) {
                return Err(broken("a trailer is not NAME: VALUE, or must not be one"));
            } else if self.trailers > TRAILERS_MAX {
                return Err(broken("the body has too many trailers"));
            }
            return Ok(taken);
        }
        self.state = match chunk_size(line)? {
            0 => State::Trailer,
            size => {
                check_size(decoded, size, bytes_max)?;
                State::Chunk(size)
            }
        };
        Ok(taken)
    }
}

fn take(rest: &[u8], left: u64, out: &mut Vec<u8>) -> usize {
    let taken = left.min(rest.len() as u64) as usize;
    out.extend_from_slice(&rest[..taken]);
    taken
}

fn check_size(decoded: usize, more: u64, bytes_max: usize) -> Result<(), Problem> {
    if more <= (bytes_max as u64).saturating_sub(decoded as u64) {
        return Ok(());
    }
    Err(Problem::new(
        Code::PayloadTooLarge,
        format!("the body has more than the {bytes_max} bytes that an event may have"),
    ))
}

/// The size of a chunk; an extension behind `;` is ignored. White space before that is legal nowhere but there, and
/// whoever reads it otherwise would see another chunk, so there may be none.
fn chunk_size(line: &[u8]) -> Result<u64, Problem> {
    let end = memchr::memchr(b';', line).unwrap_or(line.len());
    let (digits, extension) = line.split_at(end);
    if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(broken("a chunk size is not a hexadecimal number"));
    }
    if !extension.iter().all(is_text) {
        return Err(broken("a chunk extension has control characters"));
    }
    let text = std::str::from_utf8(digits).unwrap_or_default();
    u64::from_str_radix(text, 16).map_err(|_| broken("a chunk size is not a hexadecimal number"))
}

/// Whether a line may be a trailer (RFC 9110 section 6.5.1): a name, a colon right behind it, and a value; and nothing
/// that says where a message ends, which is over.
fn is_trailer(line: &[u8]) -> bool {
    let Some(colon) = memchr::memchr(b':', line) else { return false };
    let (name, value) = line.split_at(colon);
    let is_about_framing =
        name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"transfer-encoding");
    let is_name = !name.is_empty() && name.iter().all(|byte| is_token(*byte));
    is_name && !is_about_framing && value.iter().all(is_text)
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_text(byte: &u8) -> bool {
    *byte == b'\t' || !byte.is_ascii_control()
}

fn broken(detail: &'static str) -> Problem {
    Problem::new(Code::InvalidRequest, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The body, how many bytes it took, and whether it is complete.
    fn decode(length: BodyLength, input: &[u8], piece_bytes: usize) -> Result<(Vec<u8>, usize, bool), Code> {
        let (mut decoder, mut out, mut at) = (BodyDecoder::new(length), Vec::new(), 0);
        for piece in input.chunks(piece_bytes) {
            let taken = decoder.decode(piece, &mut out, 100).map_err(|problem| problem.code)?;
            at += taken;
            if taken < piece.len() {
                break;
            }
        }
        Ok((out, at, decoder.is_complete()))
    }

    #[test]
    fn chunks() {
        for (input, expected) in [
            (&b"5\r\nhello\r\n0\r\n\r\n"[..], Ok((&b"hello"[..], 15, true))),
            (b"2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nT: v\r\n\r\nGET", Ok((b"hello", 30, true))),
            (b"3 \r\nabc", Err(Code::InvalidRequest)),
            (b"3;a\0\r\nabc", Err(Code::InvalidRequest)),
            (b"0\r\nT v\r\n\r\n", Err(Code::InvalidRequest)),
            (b"0\r\n T: v\r\n\r\n", Err(Code::InvalidRequest)),
            (b"0\r\nContent-Length: 3\r\n\r\n", Err(Code::InvalidRequest)),
            (b"0005\r\nhel", Ok((b"hel", 9, false))),
            (b"5\nhello", Err(Code::InvalidRequest)),
            (b"5\r\nhelloX", Err(Code::InvalidRequest)),
            (b"\r\n", Err(Code::InvalidRequest)),
            (b"-1\r\n", Err(Code::InvalidRequest)),
            (b"0x5\r\n", Err(Code::InvalidRequest)),
            (b" 5\r\n", Err(Code::InvalidRequest)),
            (b"fffffffffffffffff\r\n", Err(Code::InvalidRequest)),
            (b"ffffffffffffffff\r\n", Err(Code::PayloadTooLarge)),
            (b"65\r\n", Err(Code::PayloadTooLarge)),
            (b"64\r\n", Ok((b"", 4, false))),
        ] {
            for piece_bytes in [1, 2, 3, 1000] {
                let found = decode(BodyLength::Chunked, input, piece_bytes);
                let expected = expected.map(|(body, at, complete)| (body.to_vec(), at, complete));
                assert_eq!(found, expected, "{} in pieces of {piece_bytes}", input.escape_ascii());
            }
        }
        assert!(decode(BodyLength::Chunked, &[b'1'; 300], 7).is_err());
    }

    #[test]
    fn known_lengths() {
        assert_eq!(decode(BodyLength::Known(3), b"abcd", 2), Ok((b"abc".to_vec(), 3, true)));
        assert_eq!(decode(BodyLength::Known(101), b"a", 1), Err(Code::PayloadTooLarge), "before it is sent");
        assert!(BodyDecoder::new(BodyLength::Known(0)).is_complete());
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_splits_do_not_matter(input: Vec<u8>, piece_bytes in 1..9_usize) {
            let whole = decode(BodyLength::Chunked, &input, 1000);
            let pieces = decode(BodyLength::Chunked, &input, piece_bytes);
            prop_assert_eq!(whole.is_ok(), pieces.is_ok());
        }

        #[test]
        fn chunked_bodies_read_back(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..5), piece_bytes in 1..9_usize) {
            let mut input = Vec::new();
            for chunk in &chunks {
                input.extend(format!("{:X}\r\n", chunk.len()).bytes());
                input.extend(chunk);
                input.extend(b"\r\n");
            }
            input.extend(b"0\r\n\r\n");
            let length = input.len();
            prop_assert_eq!(decode(BodyLength::Chunked, &input, piece_bytes), Ok((chunks.concat(), length, true)));
        }
    }
}
