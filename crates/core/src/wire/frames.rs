//! The encoded forms of one event, each made at most once and shared by every socket.
//! Must not know which subscribers want which form.

use std::sync::OnceLock;

use bytes::Bytes;

use super::{binary, json, sse};
use crate::event::{Event, Kind};
use crate::websocket::{Deflater, OpCode, Window, encode_frame};

/// A wire form in which an event is the same bytes for all its subscribers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// `/v1/ws`: the JSON envelope in a text frame, or a binary frame for bytes.
    WebSocket,
    /// The same, compressed on its own (no context takeover).
    WebSocketDeflated(Window),
    /// The raw route: the data as one message.
    Raw,
    /// The same, compressed on its own.
    RawDeflated(Window),
    /// SSE of one channel.
    EventStream,
}

impl Form {
    /// Whether there is nothing around the data, and so no place for anything else.
    pub fn is_raw(self) -> bool {
        matches!(self, Self::Raw | Self::RawDeflated(_))
    }
}

/// The lazily made forms of an event. Costs two words until the first is asked for.
#[derive(Debug, Default)]
pub struct Frames(OnceLock<Box<Cells>>);

#[derive(Debug, Default)]
struct Cells {
    json: OnceLock<Bytes>,
    websocket: OnceLock<Bytes>,
    websocket_deflated: OnceLock<Bytes>,
    /// Hardly any client asks for a smaller window, so this costs two words.
    narrow: OnceLock<Box<NarrowCells>>,
    raw: OnceLock<Bytes>,
    raw_deflated: OnceLock<Bytes>,
    event_stream: OnceLock<Bytes>,
}

#[derive(Debug, Default)]
struct NarrowCells {
    websocket_deflated: OnceLock<Bytes>,
    raw_deflated: OnceLock<Bytes>,
}

impl Event {
    /// The event in `form`, complete with its framing.
    pub fn frame(&self, form: Form, deflater: &mut Deflater) -> &Bytes {
        let cells = self.cells();
        match form {
            Form::WebSocket => self.websocket(cells),
            Form::WebSocketDeflated(window) => {
                let cell = match window {
                    Window::Full => &cells.websocket_deflated,
                    Window::Narrow => &cells.narrow.get_or_init(Box::default).websocket_deflated,
                };
                cell.get_or_init(|| {
                    let plain = self.websocket(cells);
                    let frame = deflater.deflated_frame(self.opcode(), &plain[header_bytes(plain)..], window);
                    frame.unwrap_or_else(|| plain.clone())
                })
            }
            Form::Raw => self.raw(cells),
            Form::RawDeflated(window) => {
                let cell = match window {
                    Window::Full => &cells.raw_deflated,
                    Window::Narrow => &cells.narrow.get_or_init(Box::default).raw_deflated,
                };
                cell.get_or_init(|| {
                    let frame = deflater.deflated_frame(self.opcode(), self.payload.data(), window);
                    frame.unwrap_or_else(|| self.raw(cells).clone())
                })
            }
            Form::EventStream => cells.event_stream.get_or_init(|| sse::event(self)),
        }
    }

    /// The event as the JSON object of a WebSocket message; see [`json::event`].
    pub fn json(&self) -> &Bytes {
        let cells = self.cells();
        cells.json.get_or_init(|| match self.payload.kind() {
            Kind::Bytes => json::event(self).into(),
            // The text frame is header and JSON, so the JSON is a part of it and costs no bytes.
            Kind::Json | Kind::Text => {
                let frame = self.websocket(cells);
                frame.slice(header_bytes(frame)..)
            }
        })
    }

    fn cells(&self) -> &Cells {
        self.frames.0.get_or_init(Box::default)
    }

    fn websocket<'c>(&self, cells: &'c Cells) -> &'c Bytes {
        cells.websocket.get_or_init(|| match self.payload.kind() {
            Kind::Bytes => encode_frame(OpCode::Binary, &binary::event(self)),
            Kind::Json | Kind::Text => encode_frame(OpCode::Text, &json::event(self)),
        })
    }

    fn raw<'c>(&self, cells: &'c Cells) -> &'c Bytes {
        cells.raw.get_or_init(|| encode_frame(self.opcode(), self.payload.data()))
    }

    fn opcode(&self) -> OpCode {
        match self.payload.kind() {
            Kind::Bytes => OpCode::Binary,
            Kind::Json | Kind::Text => OpCode::Text,
        }
    }
}

/// The length of the header of an unmasked frame (RFC 6455 section 5.2).
fn header_bytes(frame: &[u8]) -> usize {
    match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    }
}
