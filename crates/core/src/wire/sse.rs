//! Server-sent events: blocks of lines by the WHATWG HTML standard, section 9.2.
//! Must not know when a block is sent or to whom.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::json;
use crate::event::{Event, Kind};

/// A comment that keeps the connection busy.
pub const HEARTBEAT: &[u8] = b":\n\n";

/// The start of a stream: how long to wait before reconnecting, and where the stream stands, if a client could
/// resume there.
pub fn opening(out: &mut Vec<u8>, retry_ms: u64, cursor: Option<&str>) {
    out.extend_from_slice(format!("retry: {retry_ms}\n").as_bytes());
    if let Some(cursor) = cursor {
        out.extend_from_slice(format!("id: {cursor}\n").as_bytes());
    }
    out.push(b'\n');
}

/// An event of a stream of one channel; its `id:` is the event's own.
pub fn event(event: &Event) -> Bytes {
    let mut out = Vec::with_capacity(64 + event.size_bytes() + event.size_bytes() / 32);
    push_name(&mut out, event);
    match event.payload.kind() {
        Kind::Json | Kind::Text => push_data_lines(&mut out, event.payload.data()),
        Kind::Bytes => {
            out.extend_from_slice(b"encoding: base64\ndata: ");
            out.extend_from_slice(STANDARD.encode(event.payload.data()).as_bytes());
            out.push(b'\n');
        }
    }
    out.extend_from_slice(b"id: ");
    event.id.push_to(&mut out);
    out.extend_from_slice(b"\n\n");
    out.into()
}

/// An event of a stream of several channels; `cursor` is the position in all of them after it.
pub fn event_of_many(out: &mut Vec<u8>, event: &Event, cursor: &str) {
    push_name(out, event);
    out.extend_from_slice(b"data: ");
    json::push_with_channel(out, event);
    out.extend_from_slice(b"\nid: ");
    out.extend_from_slice(cursor.as_bytes());
    out.extend_from_slice(b"\n\n");
}

/// A snapshot as [`super::poll`] makes it, and the position right after it.
pub fn snapshot(out: &mut Vec<u8>, snapshot: &[u8], cursor: &str) {
    out.extend_from_slice(b"event: tidewire.snapshot\ndata: ");
    out.extend_from_slice(snapshot);
    out.extend_from_slice(b"\nid: ");
    out.extend_from_slice(cursor.as_bytes());
    out.extend_from_slice(b"\n\n");
}

/// A gap; `cursor` is the position right before what comes next, `gap` the JSON of [`super::poll`].
pub fn gap(out: &mut Vec<u8>, gap: &[u8], cursor: &str) {
    out.extend_from_slice(b"event: tidewire.gap\ndata: ");
    out.extend_from_slice(gap);
    out.extend_from_slice(b"\nid: ");
    out.extend_from_slice(cursor.as_bytes());
    out.extend_from_slice(b"\n\n");
}

/// The server goes away: come back at a moment of your choice within this window. Native clients, which
/// take one number, are told its middle.
pub fn reconnect(out: &mut Vec<u8>, after_ms: [u64; 2], reason: &str) {
    let retry_ms = u64::midpoint(after_ms[0], after_ms[1]);
    let text = format!(
        "event: tidewire.reconnect\ndata: {{\"after_ms\":{after_ms:?},\"reason\":\"{reason}\"}}\nretry: {retry_ms}\n\n"
    );
    out.extend_from_slice(text.as_bytes());
}

fn push_name(out: &mut Vec<u8>, event: &Event) {
    if let Some(name) = &event.name {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.push(b'\n');
    }
}

/// One `data:` line for each line of `data`. CR, LF and CRLF all end a line in SSE, so each of
/// them must start a new `data:` line, or the rest would be read as fields.
fn push_data_lines(out: &mut Vec<u8>, data: &[u8]) {
    let mut rest = data;
    loop {
        out.extend_from_slice(b"data: ");
        let Some(end) = memchr::memchr2(b'\n', b'\r', rest) else {
            out.extend_from_slice(rest);
            out.push(b'\n');
            return;
        };
        out.extend_from_slice(&rest[..end]);
        out.push(b'\n');
        let line_break = if rest[end..].starts_with(b"\r\n") { 2 } else { 1 };
        rest = &rest[end + line_break..];
    }
}
