//! The WebSocket with an envelope, over tungstenite: one socket, a subscription per channel.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, Message, WebSocket};

use super::{Ask, Client, Connected, Item, Refusal, form};
use crate::Result;

/// A WebSocket over plain TCP.
pub type Socket = WebSocket<TcpStream>;

pub(super) struct Subscriber {
    socket: Socket,
    items: VecDeque<Item>,
    positions: BTreeMap<String, String>,
}

impl Subscriber {
    pub(super) fn connect(server: &str, ask: &Ask) -> Result<Connected> {
        let socket = match connect(server, "/v1/ws", Some("tidewire.v1"))? {
            Ok(socket) => socket,
            Err(refusal) => return Ok(Connected::Refused(refusal)),
        };
        let mut client = Self { socket, items: VecDeque::new(), positions: BTreeMap::new() };
        for (number, channel) in ask.channels.iter().enumerate() {
            let mut message = json!({"type": "subscribe", "channel": channel, "id": number});
            if let Some(since) = &ask.since {
                message["since"] = json!(since);
            }
            if ask.snapshot {
                message["snapshot"] = json!(true);
            }
            let sent = client.socket.send(Message::text(message.to_string()));
            sent.map_err(|error| format!("cannot subscribe: {error}"))?;
            if let Some(refusal) = client.read_reply(channel, number)? {
                return Ok(Connected::Refused(refusal));
            }
        }
        Ok(Connected::Client(Box::new(client)))
    }

    /// The reply to one subscribe; events of channels subscribed before may come first.
    fn read_reply(&mut self, channel: &str, number: usize) -> Result<Option<Refusal>> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match read(&mut self.socket, deadline)? {
                Some(Message::Text(text)) => {
                    let reply = envelope(&text)?;
                    match reply["type"].as_str() {
                        Some("subscribed") if reply["id"] == number && reply["channel"] == channel => {
                            let cursor = reply["cursor"].as_str().ok_or(format!("no cursor in {text}"))?;
                            self.positions.insert(channel.to_owned(), cursor.to_owned());
                            return Ok(None);
                        }
                        Some("error") => {
                            let code = reply["code"].as_str().ok_or(format!("no code in {text}"))?;
                            return Ok(Some(Refusal { status: None, code: code.to_owned() }));
                        }
                        _ if self.positions.is_empty() => {
                            return Err(format!("expected a reply to subscribe, got {text}"));
                        }
                        _ => self.items.push_back(item(&text)?),
                    }
                }
                Some(Message::Binary(frame)) if !self.positions.is_empty() => {
                    self.items.push_back(Item::Event(form::binary_event(&frame)?));
                }
                Some(Message::Ping(_)) => {}
                other => return Err(format!("expected a reply to subscribe, got {other:?}")),
            }
        }
    }
}

impl Client for Subscriber {
    fn next(&mut self, deadline: Instant) -> Result<Item> {
        let item = match self.items.pop_front() {
            Some(item) => item,
            None => loop {
                match read(&mut self.socket, deadline)? {
                    None => return Ok(Item::Nothing),
                    Some(Message::Text(text)) => break item(&text)?,
                    Some(Message::Binary(frame)) => break Item::Event(form::binary_event(&frame)?),
                    Some(Message::Close(frame)) => return Ok(closed(frame)),
                    Some(_) => {}
                }
            },
        };
        if let Item::Event(seen) = &item
            && let (Some(channel), Some(id)) = (&seen.channel, &seen.id)
        {
            self.positions.insert(channel.clone(), id.clone());
        }
        Ok(item)
    }

    fn position(&self) -> Option<String> {
        let ids: Vec<_> = self.positions.values().map(String::as_str).collect();
        Some(ids.join("."))
    }
}

/// Opens a WebSocket; a refused handshake gives the refusal.
///
/// # Errors
/// When neither came.
pub fn connect(
    server: &str,
    path: &str,
    protocol: Option<&str>,
) -> Result<std::result::Result<Socket, Refusal>> {
    let authority = server.strip_prefix("http://").ok_or("only http:// is spoken")?;
    let stream = TcpStream::connect(authority).map_err(|error| format!("cannot connect: {error}"))?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let wrong = |error: Error| format!("handshake of {path}: {error}");
    let mut request = format!("ws://{authority}{path}").into_client_request().map_err(wrong)?;
    if let Some(protocol) = protocol {
        let value = HeaderValue::from_str(protocol).map_err(|error| error.to_string())?;
        request.headers_mut().insert("sec-websocket-protocol", value);
    }
    // Small buffers: some tests hold thousands of sockets.
    let config = WebSocketConfig::default().read_buffer_size(8 << 10).write_buffer_size(0);
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(|error| error.to_string())?;
    let mut same_stream = stream.try_clone().map_err(|error| error.to_string())?;
    match tungstenite::client::client_with_config(request, stream, Some(config)) {
        Ok((socket, _)) => Ok(Ok(socket)),
        Err(tungstenite::HandshakeError::Failure(Error::Http(response))) => {
            // It takes only what came along with the head.
            let mut body = response.body().clone().unwrap_or_default();
            let length = response.headers().get("content-length").and_then(|value| value.to_str().ok());
            let length = length.and_then(|value| value.parse::<usize>().ok()).unwrap_or_default();
            let left = length.saturating_sub(body.len()) as u64;
            same_stream.by_ref().take(left).read_to_end(&mut body).map_err(|error| error.to_string())?;
            super::refusal(response.status().as_u16(), &body).map(Err)
        }
        Err(error) => Err(format!("handshake of {path}: {error}")),
    }
}

/// The next message, or `None` at the deadline.
///
/// # Errors
/// When the connection breaks without a close frame, or the server breaks RFC 6455.
pub fn read(socket: &mut Socket, deadline: Instant) -> Result<Option<Message>> {
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    socket.get_ref().set_read_timeout(Some(left)).map_err(|error| error.to_string())?;
    match socket.read() {
        Ok(message) => Ok(Some(message)),
        Err(Error::Io(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Ok(None)
        }
        Err(error) => Err(format!("the socket broke: {error}")),
    }
}

/// Checks what holds for every message of the server, and parses it.
fn envelope(text: &str) -> Result<Value> {
    if !text.starts_with("{\"type\":\"") {
        return Err(format!("type is not first in {text}"));
    }
    serde_json::from_str(text).map_err(|error| format!("{error} in {text}"))
}

fn item(text: &str) -> Result<Item> {
    let message = envelope(text)?;
    match message["type"].as_str() {
        Some("event") if message.get("data_base64").is_none() => form::event(text, "type").map(Item::Event),
        Some("gap") => {
            let gap: form::GapForm =
                serde_json::from_str(text).map_err(|error| format!("{error} in {text}"))?;
            Ok(Item::Gap(gap.gap()))
        }
        Some("snapshot") => Ok(Item::Snapshot(message)),
        Some("reconnect") => Ok(Item::Reconnect(text.to_owned())),
        _ => Err(format!("expected an event, got {text}")),
    }
}

pub(super) fn closed(frame: Option<tungstenite::protocol::CloseFrame>) -> Item {
    match frame {
        Some(frame) => Item::Closed(Some(frame.code.into()), frame.reason.to_string()),
        None => Item::Closed(Some(1005), String::new()),
    }
}
