//! Inflates messages of permessage-deflate without context takeover, remembering the last one.
//! The memory is what keeps the generator cheap: a shared frame is inflated once, not per subscriber.

use anyhow::{Context, Result, ensure};
use flate2::{Decompress, FlushDecompress, Status};

const INFLATED_MAX: usize = 1 << 20;

/// An inflater with the last message it saw.
pub(crate) struct Inflater {
    state: Decompress,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Inflater {
    pub(crate) fn new() -> Inflater {
        Inflater { state: Decompress::new(false), input: Vec::new(), output: Vec::new() }
    }

    /// The message that `compressed` stands for.
    pub(crate) fn inflate(&mut self, compressed: &[u8]) -> Result<&[u8]> {
        if self.input == compressed {
            return Ok(&self.output);
        }
        self.input.clear();
        self.output.clear();
        self.state.reset(false);
        let mut tail = [compressed, &[0, 0, 0xff, 0xff]].concat();
        let mut at = 0;
        // Each turn either uses input, gives output or ends; the buffer's growth bounds the turns.
        loop {
            self.output.reserve(compressed.len().max(256) * 4);
            let before = (self.state.total_in(), self.output.len());
            let status = self
                .state
                .decompress_vec(&tail[at..], &mut self.output, FlushDecompress::Sync)
                .context("a compressed message does not inflate")?;
            at += (self.state.total_in() - before.0) as usize;
            ensure!(self.output.len() <= INFLATED_MAX, "a message inflates to more than 1 MiB");
            let stuck = at == tail.len() && self.output.len() < self.output.capacity();
            if status == Status::StreamEnd || stuck || before == (self.state.total_in(), self.output.len()) {
                break;
            }
        }
        tail.truncate(compressed.len());
        self.input = tail;
        Ok(&self.output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};

    fn deflate(data: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(data.len() + 64);
        let mut state = Compress::new(Compression::fast(), false);
        state.compress_vec(data, &mut out, FlushCompress::Sync).expect("it fits");
        out.truncate(out.len() - 4);
        out
    }

    #[test]
    fn messages_inflate_independently_and_repeatedly() {
        let mut inflater = Inflater::new();
        let (first, second) = (deflate(b"hello hello hello"), deflate(&[b'x'; 5000]));
        for _ in 0..3 {
            assert_eq!(inflater.inflate(&first).expect("valid"), b"hello hello hello");
            assert_eq!(inflater.inflate(&second).expect("valid"), [b'x'; 5000]);
            assert_eq!(inflater.inflate(&second).expect("valid"), [b'x'; 5000]);
        }
    }

    #[test]
    fn rubbish_is_an_error() {
        assert!(Inflater::new().inflate(&[0xff; 40]).is_err());
    }
}
