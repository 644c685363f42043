//! JSON pieces: strings, the event object and its shorter spellings.
//! Must not know in which message or answer they end up.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::event::{Event, Kind, Payload};

/// What comes before `"channel"` in [`event`].
const TYPE_MEMBER: &[u8] = b"{\"type\":\"event\",";

/// The event as a WebSocket message: `{"type":"event","channel",...,"id",...}`.
///
/// The members stand in this order on purpose: leaving out the first gives the event of a poll
/// over several channels ([`with_channel`]), leaving out two that of one channel ([`alone`]), so that
/// one encoding serves all three.
pub fn event(event: &Event) -> Vec<u8> {
    let mut out = Vec::with_capacity(160 + event.size_bytes() + event.channel.as_str().len());
    out.extend_from_slice(TYPE_MEMBER);
    out.extend_from_slice(b"\"channel\":\"");
    out.extend_from_slice(event.channel.as_str().as_bytes());
    out.extend_from_slice(b"\",\"id\":\"");
    event.id.push_to(&mut out);
    out.push(b'"');
    for (member, text) in [("event", &event.name), ("key", &event.key)] {
        if let Some(text) = text {
            push_member(&mut out, member);
            push_string_bytes(&mut out, text);
        }
    }
    push_data(&mut out, event);
    if let Some(content_type) = content_type(&event.payload) {
        push_member(&mut out, "content_type");
        push_string_bytes(&mut out, content_type);
    }
    out.extend_from_slice(b",\"time\":\"");
    out.extend_from_slice(&event.time.to_rfc3339());
    out.extend_from_slice(b"\"}");
    out
}

/// Appends the event with its channel, without `type`.
pub fn push_with_channel(out: &mut Vec<u8>, event: &Event) {
    out.push(b'{');
    out.extend_from_slice(&event.json()[TYPE_MEMBER.len()..]);
}

/// Appends the event without `type` and channel.
pub fn push_alone(out: &mut Vec<u8>, event: &Event) {
    let channel_member = "\"channel\":\"\",".len() + event.channel.as_str().len();
    out.push(b'{');
    out.extend_from_slice(&event.json()[TYPE_MEMBER.len() + channel_member..]);
}

fn push_data(out: &mut Vec<u8>, event: &Event) {
    let data = event.payload.data();
    match (event.payload.kind(), event.payload.text()) {
        (Kind::Json, Some(_)) => {
            push_member(out, "data");
            // A line break in valid JSON stands between tokens only; a space there means the same
            // and lets the object travel on one line of SSE.
            out.extend(data.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
        }
        (Kind::Text, Some(text)) => {
            push_member(out, "data");
            push_string_bytes(out, text);
        }
        _ => {
            push_member(out, "data_base64");
            out.push(b'"');
            out.extend_from_slice(STANDARD.encode(data).as_bytes());
            out.push(b'"');
        }
    }
}

/// The content type to carry. Text is a JSON string here, so JSON that is a string has to say that it is JSON.
fn content_type(payload: &Payload) -> Option<&str> {
    let is_string = || payload.data().trim_ascii_start().starts_with(b"\"");
    payload
        .content_type()
        .or_else(|| (payload.kind() == Kind::Json && is_string()).then(|| Kind::Json.implied_content_type()))
}

fn push_member(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// Appends `text` as a JSON string (RFC 8259 section 7).
pub fn push_string(out: &mut String, text: &str) {
    let mut bytes = std::mem::take(out).into_bytes();
    push_string_bytes(&mut bytes, text);
    *out = String::from_utf8(bytes).expect("JSON strings made of UTF-8 are UTF-8");
}

/// As [`push_string`], into bytes.
pub fn push_string_bytes(out: &mut Vec<u8>, text: &str) {
    // Writing a string into a vector cannot fail.
    let _ = serde_json::to_writer(out, text);
}
