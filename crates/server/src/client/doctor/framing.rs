//! Where the body of an answer ends (RFC 9112 section 6.3), for a client that takes it piece by piece.
//! Must not know sockets: bytes come in a buffer and go out of it.

use super::line::Head;

/// The longest line that announces a chunk.
const CHUNK_LINE_BYTES_MAX: usize = 1024;

/// How the rest of a body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Framing {
    /// So many bytes are to come.
    Length(usize),
    /// So many bytes of this chunk are to come; 0: the line of the next one.
    Chunk(usize),
    /// The line end after a chunk's data.
    ChunkEnd,
    /// What follows the last chunk, up to an empty line.
    Trailers,
    /// Whatever comes, until the connection ends.
    #[default]
    UntilEnd,
    /// Nothing is to come.
    Over,
    /// What came is not framed as was said.
    Broken,
}

impl Framing {
    /// What the head says.
    pub(super) fn of(head: &Head) -> Self {
        let length = head.field("content-length").and_then(|length| length.parse().ok());
        match (head.status, length) {
            (101, _) => Self::UntilEnd,
            (204 | 304, _) => Self::Over,
            _ if head.names("transfer-encoding", "chunked") => Self::Chunk(0),
            (_, Some(0)) => Self::Over,
            (_, Some(length)) => Self::Length(length),
            (_, None) => Self::UntilEnd,
        }
    }

    /// Whether nothing more can come.
    pub(super) fn is_over(self) -> bool {
        matches!(self, Self::Over | Self::Broken)
    }

    /// Whether a body that ended here is whole.
    pub(super) fn is_whole(self, connection_ended: bool) -> bool {
        self == Self::Over || (self == Self::UntilEnd && connection_ended)
    }

    /// Takes what there is of the body out of `buffer`.
    pub(super) fn take(&mut self, buffer: &mut Vec<u8>) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            match *self {
                Self::Over | Self::Broken => return out,
                Self::UntilEnd => {
                    out.append(buffer);
                    return out;
                }
                Self::Length(left) | Self::Chunk(left) if left > 0 => {
                    let count = left.min(buffer.len());
                    out.extend(buffer.drain(..count));
                    let is_chunk = matches!(self, Self::Chunk(_));
                    *self = match (left - count, is_chunk) {
                        (0, true) => Self::ChunkEnd,
                        (0, false) => Self::Over,
                        (left, true) => Self::Chunk(left),
                        (left, false) => Self::Length(left),
                    };
                    if count == 0 {
                        return out;
                    }
                }
                Self::Length(_) => *self = Self::Over,
                Self::Chunk(_) | Self::ChunkEnd | Self::Trailers => {
                    let Some(line) = line(buffer) else {
                        if buffer.len() > CHUNK_LINE_BYTES_MAX {
                            *self = Self::Broken;
                        }
                        return out;
                    };
                    *self = self.after(&line);
                }
            }
        }
    }

    /// What comes after a line of the framing.
    fn after(self, line: &str) -> Self {
        match self {
            Self::Trailers if line.is_empty() => Self::Over,
            Self::Trailers => Self::Trailers,
            Self::ChunkEnd => Self::Chunk(0),
            _ => match usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16) {
                Ok(0) => Self::Trailers,
                Ok(size) => Self::Chunk(size),
                Err(_) => Self::Broken,
            },
        }
    }
}

fn line(buffer: &mut Vec<u8>) -> Option<String> {
    let end = buffer.windows(2).position(|window| window == b"\r\n")?;
    let line = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 2);
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(mut framing: Framing, bytes: &[u8], step: usize) -> (String, Framing) {
        let (mut buffer, mut out) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(step) {
            buffer.extend_from_slice(piece);
            out.append(&mut framing.take(&mut buffer));
        }
        (String::from_utf8(out).expect("text"), framing)
    }

    #[test]
    fn bodies_end_where_their_heads_say_however_they_are_cut() {
        for step in [1, 2, 3, 100] {
            let chunked = b"5;x=y\r\nhello\r\n1\r\n \r\na\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nrest";
            let whole = ("hello 0123456789".to_owned(), Framing::Over);
            assert_eq!(taken(Framing::Chunk(0), chunked, step), whole, "{step}");
            assert_eq!(taken(Framing::Length(3), b"abcdef", step), ("abc".to_owned(), Framing::Over));
            assert_eq!(taken(Framing::UntilEnd, b"abc", step), ("abc".to_owned(), Framing::UntilEnd));
            assert_eq!(taken(Framing::Chunk(0), b"zz\r\n", step).1, Framing::Broken);
        }
    }

    #[test]
    fn a_body_that_stops_half_way_is_not_whole() {
        assert!(Framing::UntilEnd.is_whole(true));
        assert!(!Framing::Length(1).is_whole(true));
        assert!(!Framing::Chunk(0).is_whole(true));
        assert!(Framing::Over.is_whole(false));
    }
}
