//! Any bytes as a chunked body, split anywhere: the same body and end, within the limit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidewire_core::http1::{BodyDecoder, BodyLength};

const BYTES_MAX: usize = 1024;

fn decode(bytes: &[u8], step: usize) -> Option<(Vec<u8>, usize, bool)> {
    let (mut decoder, mut out, mut at) = (BodyDecoder::new(BodyLength::Chunked), Vec::new(), 0);
    for piece in bytes.chunks(step) {
        let taken = decoder.decode(piece, &mut out, BYTES_MAX).ok()?;
        assert!(out.len() <= BYTES_MAX);
        at += taken;
        if decoder.is_complete() {
            break;
        }
        assert_eq!(taken, piece.len(), "an unfinished body takes all there is");
    }
    Some((out, at, decoder.is_complete()))
}

fuzz_target!(|data: &[u8]| {
    let Some((step, bytes)) = data.split_first() else { return };
    assert_eq!(decode(bytes, usize::from(*step).max(1)), decode(bytes, bytes.len().max(1)));
});
