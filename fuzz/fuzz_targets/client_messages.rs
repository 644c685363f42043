//! Any message of a WebSocket client: read or refused, and an id that comes back is JSON again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidewire_core::wire::binary::Publish;
use tidewire_core::wire::message::{ClientMessage, PublishData, server};
use tidewire_core::{ChannelName, Code, NewEvent, Payload, Problem};

fuzz_target!(|data: &[u8]| {
    if let Ok(publish) = Publish::parse(data) {
        let payload = Payload::bytes(publish.data.to_vec().into());
        let _ = NewEvent::new(payload).with(
            Some(publish.event),
            Some(publish.key),
            Some(publish.idempotency_key),
        );
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (id, message) = ClientMessage::parse(text);
    let reply = server::error(&Problem::new(Code::InvalidMessage, text.to_owned()), id);
    serde_check(&reply);
    match message {
        Ok(ClientMessage::Publish { channel, publish }) => {
            assert!(ChannelName::check(channel.as_str()).is_ok());
            if let PublishData::Json(json) = publish.data {
                if let Ok(payload) = Payload::json(json) {
                    assert_eq!(payload.data(), json.get().as_bytes());
                }
            }
        }
        Ok(_) => {}
        Err(problem) => serde_check(problem.to_json().as_bytes()),
    }
});

/// The server's own JSON must be JSON, whatever a client sent.
fn serde_check(json: &[u8]) {
    let payload = Payload::declared(Some("application/json"), json.to_vec().into());
    assert!(payload.is_ok(), "{}", json.escape_ascii());
}
