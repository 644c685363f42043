//! Probe: WebSockets. Does the handshake come through, and do messages both ways?
//! Must not know frames, which are the library's business.

use std::fmt;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tidewire_core::websocket::accept_key;
use tungstenite::protocol::Role;
use tungstenite::{Error, Message, WebSocket};

use super::faults::Fault;
use super::line::{Answer, Head, Line, Request, Trouble, is_no_end};
use super::record::Way;
use super::visit::{PATIENCE, Visit, by, describe, problem, seconds};
use crate::client::stream::Stream;

/// The subprotocol of the envelope WebSocket.
const SUBPROTOCOL: &str = "tidewire.v1";

/// An open WebSocket.
pub(super) type Socket = WebSocket<Stream>;

/// Runs the probe, as a program connects (`Way::WebSocket`) or as a page does: with the subprotocol, and the
/// token next to it.
pub(super) fn examine(visit: &mut Visit, way: Way) {
    let mut fields = String::new();
    let as_page = way == Way::WebSocketSubprotocol;
    if as_page {
        fields = format!("Sec-WebSocket-Protocol: {SUBPROTOCOL}");
        if let Some(token) = visit.endpoint.token() {
            fields.push_str(&format!(", bearer.{token}"));
        }
        fields.push_str("\r\n");
    }
    let (line, head) = match handshake(visit, &fields, as_page) {
        Ok(opened) => opened,
        Err(refusal) => return refusal.record(visit, way),
    };
    let selected = head.field("sec-websocket-protocol");
    if as_page && selected != Some(SUBPROTOCOL) {
        let observed = format!("offered {SUBPROTOCOL}, and {} was selected", selected.unwrap_or("nothing"));
        visit.record.find(Fault::SubprotocolLost, way, observed);
    }
    let mut socket = socket(line);
    match converse(visit, &mut socket) {
        Ok(seen) => visit.record.see(way, seen),
        Err((fault, observed)) => visit.record.find(fault, way, observed),
    }
    // A server that is gone needs no leave.
    let _ = socket.close(None).and_then(|()| socket.flush());
}

/// Why a handshake did not open a WebSocket.
#[derive(Debug)]
pub(super) enum Refusal {
    Answer(Answer),
    Trouble(Trouble),
    /// A 101 that is none.
    Wrong(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(answer) => f.write_str(&describe(answer)),
            Self::Trouble(trouble) => trouble.fmt(f),
            Self::Wrong(what) => f.write_str(what),
        }
    }
}

impl Refusal {
    /// Puts into the record what it shows.
    fn record(&self, visit: &mut Visit, way: Way) {
        let answer = match self {
            Self::Answer(answer) => answer,
            Self::Trouble(trouble) => {
                return visit.record.find(Fault::TransportFailed, way, format!("the handshake: {trouble}"));
            }
            Self::Wrong(what) => return visit.record.find(Fault::UpgradeRefused, way, what.clone()),
        };
        let said = describe(answer);
        let Some(problem) = problem(answer) else {
            let observed = format!("the handshake was answered with {said}, which is not the server's");
            return visit.record.find(Fault::UpgradeRefused, way, observed);
        };
        if problem.code != "upgrade_required" {
            return visit.record.find(Fault::Refused, way, format!("the handshake: {said}"));
        }
        let is_old = problem.detail.contains("came as HTTP/1.0");
        if is_old {
            let observed =
                format!("the handshake was sent as HTTP/1.1 and reached the server as HTTP/1.0 ({said})");
            visit.record.find(Fault::HttpVersion, way, observed);
        }
        if !is_old || problem.detail.contains("without ") {
            let observed = format!("the handshake reached the server as a plain request ({said})");
            visit.record.find(Fault::UpgradeStripped, way, observed);
        }
    }
}

/// Opens a WebSocket. `fields` are whole lines.
pub(super) fn handshake(visit: &Visit, fields: &str, anonymous: bool) -> Result<(Line, Head), Refusal> {
    let key = STANDARD.encode(fastrand::u128(..).to_be_bytes());
    let fields = format!(
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{fields}"
    );
    let request = Request { method: "GET", path: "/v1/ws", fields: &fields, anonymous, ..Request::default() };
    let (mut line, head) = visit.open(&request).map_err(Refusal::Trouble)?;
    let head = head.map_err(Refusal::Trouble)?;
    if head.status != 101 {
        let answer = line.rest(head, Instant::now() + PATIENCE).map_err(Refusal::Trouble)?;
        return Err(Refusal::Answer(answer));
    }
    if head.field("sec-websocket-accept") != Some(accept_key(&key).as_str()) {
        let what = format!("a 101{} without the Sec-WebSocket-Accept that belongs to the key", by(&head));
        return Err(Refusal::Wrong(what));
    }
    Ok((line, head))
}

/// The WebSocket on a connection that was upgraded.
pub(super) fn socket(line: Line) -> Socket {
    let (stream, came) = line.into_parts();
    WebSocket::from_partially_read(stream, came, Role::Client, None)
}

/// Subscribes, publishes, and waits for the event. Gives what was seen, or what is wrong.
fn converse(visit: &mut Visit, socket: &mut Socket) -> Result<String, (Fault, String)> {
    let failed = |what: &str| (Fault::TransportFailed, what.to_owned());
    let subscribe = json!({"type": "subscribe", "channel": visit.channel, "since": "latest"});
    say(socket, &subscribe).map_err(|why| failed(&why))?;
    let subscribed = wait_for(socket, |message| message["type"] == "subscribed");
    subscribed
        .map_err(|why| (why.fault, format!("opened, but the answer to a subscription {}", why.what)))?;
    if !visit.publishes {
        return Ok("subscribed".to_owned());
    }
    let data = visit.data();
    let sent = Instant::now();
    let publish = json!({"type": "publish", "channel": visit.channel, "data": data});
    say(socket, &publish).map_err(|why| failed(&why))?;
    let is_ours = |message: &Value| message["type"] == "event" && message["data"] == data;
    let came = wait_for(socket, is_ours);
    came.map_err(|why| (why.fault, format!("subscribed, but an event {}", why.what)))?;
    Ok(format!("there and back in {}", seconds(sent.elapsed())))
}

struct Missing {
    fault: Fault,
    what: String,
}

fn say(socket: &mut Socket, message: &Value) -> Result<(), String> {
    socket
        .send(Message::text(message.to_string()))
        .map_err(|error| format!("a message could not be sent: {error}"))
}

fn wait_for(socket: &mut Socket, is_it: impl Fn(&Value) -> bool) -> Result<(), Missing> {
    let until = Instant::now() + PATIENCE;
    let missing = |fault, what: String| Err(Missing { fault, what });
    loop {
        match read(socket, until) {
            Ok(Some(Message::Text(text))) => {
                let message: Value = serde_json::from_str(&text).unwrap_or_default();
                if is_it(&message) {
                    return Ok(());
                }
                if message["type"] == "error" {
                    return missing(
                        Fault::Refused,
                        format!("was refused: {}, {}", message["code"], message["message"]),
                    );
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => {
                return missing(Fault::EventsMissing, format!("did not come within {}", seconds(PATIENCE)));
            }
            Err(error) => return missing(Fault::TransportFailed, format!("did not come: {error}")),
        }
    }
}

/// The next message; `None` if there is none until then.
pub(super) fn read(socket: &mut Socket, until: Instant) -> Result<Option<Message>, Error> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left < Duration::from_millis(1) {
            return Ok(None);
        }
        socket.get_ref().set_read_timeout(left)?;
        match socket.read() {
            Ok(message) => return Ok(Some(message)),
            Err(Error::Io(error)) if is_no_end(error.kind()) => {}
            Err(error) => return Err(error),
        }
    }
}
