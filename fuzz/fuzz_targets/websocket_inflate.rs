//! Any compressed message: inflates within the limit, or is refused; what we deflate comes back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidewire_core::websocket::{Decoder, Deflater, Inflater, Input, Message, OpCode, Role, Window};

const BYTES_MAX: usize = 64 << 10;

/// Decodes one server frame as a client would.
fn inflate(mut frame: Vec<u8>) -> Result<Vec<u8>, u16> {
    let (mut decoder, mut inflater) = (Decoder::new(Role::Client, true), Inflater::default());
    let mut input = Input::new(&mut frame);
    match decoder.next(&mut input, &mut inflater, BYTES_MAX) {
        Ok(Some(Message::Binary(bytes))) => Ok(bytes.to_vec()),
        Ok(_) => Err(0),
        Err(violation) => Err(violation.code.0),
    }
}

fuzz_target!(|data: &[u8]| {
    let mut frame = Vec::new();
    tidewire_core::websocket::push_header(&mut frame, OpCode::Binary, true, None, data.len());
    frame.extend_from_slice(data);
    match inflate(frame) {
        Ok(bytes) => assert!(bytes.len() <= BYTES_MAX),
        Err(code) => assert!(matches!(code, 1007 | 1009), "{code}"),
    }
    for window in [Window::Full, Window::Narrow] {
        if let Some(frame) = Deflater::default().deflated_frame(OpCode::Binary, data, window) {
            assert_eq!(inflate(frame.to_vec()).as_deref(), Ok(data));
        }
    }
});
