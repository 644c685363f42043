//! The wire formats the generator reads and writes, as plain functions over bytes.
//! Knows no socket, no clock and no target: what a message means is decided elsewhere.

pub(crate) mod deflate;
pub(crate) mod http;
pub(crate) mod sse;
pub(crate) mod websocket;

use anyhow::Result;

/// How the bytes of a subscriber connection fall into messages once its head is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// WebSocket frames behind an HTTP upgrade.
    WebSocket,
    /// WebSocket frames from the first byte on: what the baseline sends.
    BareWebSocket,
    /// Server-sent events behind an HTTP head.
    Sse,
    /// A row of HTTP responses, each one message (its body).
    Poll,
}

/// One unit cut off the front of a connection's input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unit<'a> {
    /// A data message, or the data of an SSE event, or a response body.
    Message { data: &'a [u8], compressed: bool },
    /// A ping that must be answered with the same bytes.
    Ping(&'a [u8]),
    /// A close frame with its code (1005 if it has none).
    Close(u16),
    /// Something that carries no data: a comment, a pong, a `retry:` block.
    Nothing,
}

impl Framing {
    /// Cuts one unit off `input`; `None` while it is incomplete.
    pub(crate) fn cut(self, input: &[u8]) -> Result<Option<(Unit<'_>, usize)>> {
        match self {
            Framing::WebSocket | Framing::BareWebSocket => websocket::cut(input),
            Framing::Sse => Ok(sse::cut(input)),
            Framing::Poll => Ok(http::cut_response(input)?.map(|(response, length)| {
                (Unit::Message { data: response.body, compressed: false }, length)
            })),
        }
    }
}
