//! The envelope WebSocket: one socket, on which each channel is subscribed with a place of its own.
//! Must not know frames (the library's business) nor what an event is printed as.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;
use tungstenite::client::ClientRequestBuilder;
use tungstenite::handshake::HandshakeError;
use tungstenite::protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode};
use tungstenite::{Error, Message};

use super::{Interruption, SILENCE_MAX, Signal, Transport, chosen_wait};
use crate::client::endpoint::Endpoint;
use crate::client::event::{Event, Gap};
use crate::client::http;
use crate::client::position::Position;
use crate::client::stream::Stream;

/// A read gives up after this long, to look whether the peer still lives.
const READ_SLICE: Duration = Duration::from_secs(5);

/// After this much silence the client asks for a sign of life, for servers that are told to ping rarely.
const PING_AFTER: Duration = Duration::from_secs(30);

/// How many subscriptions may be without a reply: so few that neither side's buffers can fill up while
/// both are writing.
const UNANSWERED_MAX: usize = 32;

/// The largest message that is taken; see [`http::BODY_BYTES_MAX`].
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// The transport `ws`.
#[derive(Debug)]
pub(in crate::client) struct WebSocket {
    endpoint: Endpoint,
    socket: Option<tungstenite::WebSocket<Stream>>,
    /// The subscriptions still to be asked for, as messages.
    waiting: VecDeque<String>,
    heard: Instant,
    asked: bool,
}

/// What the server sends, as far as it is read before the kind is known.
#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(rename = "type", borrow)]
    kind: std::borrow::Cow<'a, str>,
}

#[derive(Deserialize)]
struct Subscribed {
    channel: String,
    cursor: String,
}

#[derive(Deserialize)]
struct Reconnect {
    #[serde(default)]
    after_ms: serde_json::Value,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct Refused {
    code: String,
    message: String,
}

impl WebSocket {
    pub(in crate::client) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, socket: None, waiting: VecDeque::new(), heard: Instant::now(), asked: false }
    }

    /// Sends the next subscription, if one is left.
    fn subscribe_next(&mut self) -> Result<(), Interruption> {
        if let (Some(socket), Some(message)) = (&mut self.socket, self.waiting.pop_front()) {
            socket.send(Message::text(message)).map_err(|error| interruption(&error))?;
        }
        Ok(())
    }

    fn handle_text(&mut self, text: &str) -> Result<Vec<Signal>, Interruption> {
        let kind: Kind<'_> = parsed(text)?;
        let signal = match &*kind.kind {
            "event" => Signal::Event(parsed::<Box<Event>>(text)?),
            "gap" => Signal::Gap(parsed::<Gap>(text)?),
            "subscribed" => {
                let Subscribed { channel, cursor } = parsed(text)?;
                self.subscribe_next()?;
                Signal::Standing { channel, id: cursor }
            }
            "reconnect" => {
                let Reconnect { after_ms, reason } = parsed(text)?;
                let reason = format!("the server asks to reconnect ({reason})");
                return Err(Interruption::Lost { reason, after: chosen_wait(&after_ms) });
            }
            "error" => {
                let Refused { code, message } = parsed(text)?;
                return Err(refused(&code, &message));
            }
            // Replies that nobody waits for, and what later versions may say.
            _ => return Ok(Vec::new()),
        };
        Ok(vec![signal])
    }

    /// A read gave up: is the peer still there?
    fn handle_silence(&mut self) -> Result<Vec<Signal>, Interruption> {
        let silence = self.heard.elapsed();
        if silence >= SILENCE_MAX {
            return Err(Interruption::lost(format!("nothing came for {} s", SILENCE_MAX.as_secs())));
        }
        if let Some(socket) = self.socket.as_mut().filter(|_| silence >= PING_AFTER && !self.asked) {
            self.asked = true;
            socket.send(Message::Ping(Vec::new().into())).map_err(|error| interruption(&error))?;
        }
        Ok(Vec::new())
    }
}

impl Transport for WebSocket {
    fn open(&mut self, position: &Position) -> Result<(), Interruption> {
        self.socket = None;
        self.socket = Some(connect(&self.endpoint)?);
        (self.heard, self.asked) = (Instant::now(), false);
        let subscriptions = position.channels().iter().enumerate().map(|(number, channel)| {
            let since = position.since_of(channel).unwrap_or_else(|| "latest".to_owned());
            json!({"type": "subscribe", "channel": channel, "since": since, "id": number}).to_string()
        });
        self.waiting = subscriptions.collect();
        (0..UNANSWERED_MAX).try_for_each(|_| self.subscribe_next())
    }

    fn next(&mut self, _wanted: Option<u64>) -> Result<Vec<Signal>, Interruption> {
        let Some(socket) = &mut self.socket else {
            return Err(Interruption::lost("not connected"));
        };
        let message = match socket.read() {
            Ok(message) => message,
            Err(Error::Io(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return self.handle_silence();
            }
            Err(error) => return Err(interruption(&error)),
        };
        (self.heard, self.asked) = (Instant::now(), false);
        match message {
            Message::Text(text) => self.handle_text(&text),
            Message::Binary(bytes) => match Event::from_binary(&bytes) {
                Ok(event) => Ok(vec![Signal::Event(Box::new(event))]),
                Err(why) => Err(Interruption::Refused(format!("the server sent {why}"))),
            },
            Message::Close(frame) => Err(closed(frame.as_ref())),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(Vec::new()),
        }
    }

    fn close(&mut self) {
        if let Some(mut socket) = self.socket.take() {
            let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            // A server that is gone already needs no leave.
            let _ = socket.close(Some(frame)).and_then(|()| socket.flush());
        }
    }
}

/// Connects to the envelope WebSocket. A read then gives up after [`READ_SLICE`].
pub(in crate::client) fn connect(
    endpoint: &Endpoint,
) -> Result<tungstenite::WebSocket<Stream>, Interruption> {
    let lost = |error: std::io::Error| Interruption::lost(error.to_string());
    let stream = Stream::connect(endpoint, SILENCE_MAX).map_err(lost)?;
    stream.set_read_timeout(http::CONNECT_MAX).map_err(lost)?;
    let uri = endpoint.websocket();
    let uri = uri.parse().map_err(|error| Interruption::Refused(format!("{uri}: {error}")))?;
    // No subprotocol: the server needs none, and the library refuses a server that selects none.
    let mut request = ClientRequestBuilder::new(uri)
        .with_header("User-Agent", concat!("tidewire/", env!("CARGO_PKG_VERSION")));
    if let Some(authorization) = endpoint.authorization() {
        request = request.with_header("Authorization", authorization);
    }
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    match tungstenite::client::client_with_config(request, stream, Some(config)) {
        Ok((socket, _)) => {
            socket.get_ref().set_read_timeout(READ_SLICE).map_err(lost)?;
            Ok(socket)
        }
        Err(HandshakeError::Interrupted(_)) => Err(Interruption::lost("no answer in time")),
        Err(HandshakeError::Failure(Error::Http(response))) => {
            let body = response.body().as_deref().unwrap_or_default();
            Err(http::refusal(response.status(), response.headers(), body))
        }
        Err(HandshakeError::Failure(error)) => Err(interruption(&error)),
    }
}

/// What an error of the library means for the next attempt.
pub(in crate::client) fn interruption(error: &Error) -> Interruption {
    match error {
        Error::Capacity(_) | Error::Url(_) | Error::HttpFormat(_) => Interruption::Refused(error.to_string()),
        Error::Io(error) => Interruption::lost(error.to_string()),
        _ => Interruption::lost(error.to_string()),
    }
}

/// What an `error` message means for the next attempt.
pub(in crate::client) fn refused(code: &str, message: &str) -> Interruption {
    let detail = format!("{message} ({code})");
    match code {
        "unavailable" | "internal" | "history_full" => Interruption::lost(detail),
        _ => Interruption::Refused(detail),
    }
}

/// What a close code means (PROTOCOL.md section 5).
fn closed(frame: Option<&CloseFrame>) -> Interruption {
    let Some(frame) = frame else {
        return Interruption::lost("the server closed the connection");
    };
    let code = u16::from(frame.code);
    let reason = match frame.reason.as_str() {
        "" => format!("the server closed the connection (code {code})"),
        reason => format!("the server closed the connection: {reason} (code {code})"),
    };
    match code {
        1002 | 1003 | 1007..=1010 => Interruption::Refused(reason),
        _ => Interruption::lost(reason),
    }
}

fn parsed<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Interruption> {
    serde_json::from_str(text)
        .map_err(|error| Interruption::Refused(format!("not a message of a Tidewire server: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_codes_tell_whether_to_come_back() {
        let refused = |code: u16| {
            let frame = CloseFrame { code: CloseCode::from(code), reason: "why".into() };
            matches!(closed(Some(&frame)), Interruption::Refused(_))
        };
        for code in [1002, 1007, 1008, 1009] {
            assert!(refused(code), "{code}");
        }
        for code in [1000, 1001, 1011, 4001, 4002] {
            assert!(!refused(code), "{code}");
        }
        assert!(matches!(closed(None), Interruption::Lost { .. }));
    }
}
