//! Lines of an input, each of bounded length.
//! Must not know what a line is used for.

use std::io::{self, BufRead, Read};

/// A line, or an event given as a whole, may be this long. A server's own limit, 1 MiB by default, is
/// the one that usually counts; this bounds what is held of an input without line breaks.
pub(super) const BYTES_MAX: usize = 16 << 20;

/// Why there is no next line.
#[derive(Debug)]
pub(super) enum LineError {
    /// It has more than [`BYTES_MAX`] bytes.
    TooLong,
    /// The input cannot be read.
    Io(io::Error),
}

impl LineError {
    /// A sentence for a person; `what` names the line or the input.
    pub(super) fn describe(&self, what: &str) -> String {
        match self {
            Self::TooLong => format!("{what} is longer than {BYTES_MAX} bytes"),
            Self::Io(error) => format!("cannot read {what}: {error}"),
        }
    }
}

/// Reads the next line into `line`, without its LF or CRLF. False at the end of the input.
pub(super) fn next(input: &mut impl BufRead, line: &mut Vec<u8>) -> Result<bool, LineError> {
    line.clear();
    // Two more than the limit: room for the line break, so that a line of exactly the limit passes.
    let read = input.take(BYTES_MAX as u64 + 2).read_until(b'\n', line).map_err(LineError::Io)?;
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    if line.len() > BYTES_MAX { Err(LineError::TooLong) } else { Ok(read > 0) }
}

/// Reads all of an input as one piece.
pub(super) fn whole(input: impl Read) -> Result<Vec<u8>, LineError> {
    let mut data = Vec::new();
    input.take(BYTES_MAX as u64 + 1).read_to_end(&mut data).map_err(LineError::Io)?;
    if data.len() > BYTES_MAX { Err(LineError::TooLong) } else { Ok(data) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut input: &[u8]) -> Vec<Vec<u8>> {
        let (mut line, mut out) = (Vec::new(), Vec::new());
        while next(&mut input, &mut line).expect("a line") {
            out.push(line.clone());
        }
        out
    }

    #[test]
    fn splits_at_lf_and_crlf_and_keeps_empty_lines() {
        assert_eq!(
            all(b"a\r\n\nb\rc\nlast"),
            [b"a".to_vec(), b"".to_vec(), b"b\rc".to_vec(), b"last".to_vec()]
        );
        assert_eq!(all(b"\n"), [b"".to_vec()]);
        assert!(all(b"").is_empty());
    }

    #[test]
    fn refuses_a_line_over_the_limit() {
        let mut input = vec![b'x'; BYTES_MAX];
        assert!(whole(&input[..]).is_ok());
        input.extend_from_slice(b"\r\ny");
        let (mut rest, mut line) = (&input[..], Vec::new());
        assert!(next(&mut rest, &mut line).expect("a line of exactly the limit"));
        assert_eq!(line.len(), BYTES_MAX);
        input.insert(0, b'x');
        assert!(matches!(next(&mut &input[..], &mut line), Err(LineError::TooLong)));
        assert!(matches!(whole(&input[..]), Err(LineError::TooLong)));
    }
}
