//! Any bytes, split anywhere: the same messages and the same violation, within the size limit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidewire_core::websocket::{Decoder, Inflater, Input, Message, Role};

const BYTES_MAX: usize = 4096;

fn decode(bytes: &[u8], step: usize) -> (Vec<(u8, Vec<u8>)>, Option<u16>) {
    let (mut decoder, mut inflater) = (Decoder::new(Role::Server, true), Inflater::default());
    let mut messages = Vec::new();
    for piece in bytes.chunks(step) {
        let mut piece = piece.to_vec();
        let mut input = Input::new(&mut piece);
        loop {
            let (kind, payload) = match decoder.next(&mut input, &mut inflater, BYTES_MAX) {
                Ok(None) => break,
                Ok(Some(Message::Text(text))) => (1, text.as_bytes().to_vec()),
                Ok(Some(Message::Binary(bytes))) => (2, bytes.to_vec()),
                Ok(Some(Message::Ping(bytes))) => (9, bytes.to_vec()),
                Ok(Some(Message::Pong(bytes))) => (10, bytes.to_vec()),
                Ok(Some(Message::Close(frame))) => {
                    (8, frame.map_or(vec![], |frame| frame.reason.as_bytes().to_vec()))
                }
                Err(violation) => return (messages, Some(violation.code.0)),
            };
            assert!(payload.len() <= BYTES_MAX);
            messages.push((kind, payload));
        }
    }
    (messages, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((step, bytes)) = data.split_first() else { return };
    let whole = decode(bytes, bytes.len().max(1));
    assert_eq!(decode(bytes, usize::from(*step).max(1)), whole);
});
