//! Any bytes as a request: no panic, and what is a head is one only as a whole and with its own length.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidewire_core::http1::{HeadLimits, Parsed, Query, decode_path_segment, header_space, parse_request};

const LIMITS: HeadLimits = HeadLimits { head_bytes: 4096, fields: 16 };

fn length(bytes: &[u8]) -> Result<Option<usize>, ()> {
    let mut space = header_space();
    match parse_request(bytes, LIMITS, &mut space) {
        Ok(Parsed::Partial) => Ok(None),
        Ok(Parsed::Complete(request, length)) => {
            assert!(!request.path.bytes().any(|byte| byte <= b' ' || byte >= 0x7f));
            let _ = decode_path_segment(request.path);
            let _ = Query::parse(request.query, &["since", "limit"]);
            let _ = request.header("accept");
            let _ = request.accepts_event_stream();
            Ok(Some(length))
        }
        Err(_) => Err(()),
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(end)) = length(bytes) {
        assert!(end <= bytes.len());
        assert_eq!(length(&bytes[..end]), Ok(Some(end)), "what follows changes nothing");
        assert_eq!(length(&bytes[..end - 1]), Ok(None), "a part is no head");
    }
});
