//! The abstract client: connect, take items in order, know where to go on. One implementation per transport.
//! Must not know cases; the table [`TRANSPORTS`] is all that the runner sees.

pub(crate) mod form;
mod poll;
mod raw;
mod spoiled;
mod stream;
mod websocket;

use std::time::Instant;

use crate::Result;
use crate::event::{Seen, Sees};

pub use form::BinaryPublish;
pub use spoiled::{SPOILS, Spoiled};
pub use websocket::{Socket, connect as open_socket, read as read_socket};

/// What a client can get.
#[derive(Debug)]
pub enum Item {
    /// An event.
    Event(Seen),
    /// A gap.
    Gap(Gap),
    /// The state, to one who asked for it.
    Snapshot(serde_json::Value),
    /// The server asks to reconnect.
    Reconnect(String),
    /// The stream ended; the close code where the transport has one.
    Closed(Option<u16>, String),
    /// Nothing until the deadline.
    Nothing,
}

/// A gap as the client was told it. Empty where the transport has no place for a part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gap {
    /// The channels that have one.
    pub channels: Vec<String>,
    /// The cursor that was asked for.
    pub requested: String,
    /// Where it goes on.
    pub resumed_from: String,
}

/// What to connect to.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// The channels' real names.
    pub channels: Vec<String>,
    /// Where to begin.
    pub since: Option<String>,
    /// How many events at a time, where the transport has pages.
    pub limit: Option<u32>,
    /// The state first, where the transport has it.
    pub snapshot: bool,
}

/// A server's no.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The HTTP status, where there is one.
    pub status: Option<u16>,
    /// The error code.
    pub code: String,
}

/// What came of connecting.
pub enum Connected {
    /// A client that stands where it asked to.
    Client(Box<dyn Client>),
    /// A no.
    Refused(Refusal),
}

/// A connected client of whatever transport.
pub trait Client: Send {
    /// The next item, waiting for it until the deadline at most.
    ///
    /// # Errors
    /// When the server breaks the protocol.
    fn next(&mut self, deadline: Instant) -> Result<Item>;

    /// The cursor with which another client goes on where this one stands, where the transport has ids.
    fn position(&self) -> Option<String>;
}

/// One way to read channels.
#[derive(Debug)]
pub struct Transport {
    /// The name that cases use.
    pub name: &'static str,
    /// What it has a place for.
    pub sees: Sees,
    /// Whether one client can read several channels.
    pub many: bool,
    /// Connects to a server at `http://HOST:PORT`.
    pub connect: fn(&str, &Ask) -> Result<Connected>,
}

const ALL: Sees = Sees { channel: true, id: true, event: true, rest: true, line_breaks: true };
const PAGE: Sees = Sees { channel: false, ..ALL };
const STREAM: Sees = Sees { channel: false, rest: false, line_breaks: false, ..ALL };
const RAW: Sees = Sees { channel: false, id: false, event: false, rest: false, line_breaks: true };

/// Every transport.
pub static TRANSPORTS: [Transport; 10] = [
    Transport { name: "ws", sees: ALL, many: true, connect: websocket::Subscriber::connect },
    Transport { name: "sse", sees: STREAM, many: false, connect: stream::Stream::connect_one },
    Transport { name: "long-poll", sees: PAGE, many: false, connect: poll::Poll::connect_long },
    Transport { name: "poll", sees: PAGE, many: false, connect: poll::Poll::connect_short },
    Transport { name: "raw-ws", sees: RAW, many: false, connect: raw::Raw::connect },
    Transport { name: "sse-many", sees: ALL, many: true, connect: stream::Stream::connect_many },
    Transport {
        name: "sse-last-event-id",
        sees: STREAM,
        many: false,
        connect: stream::Stream::connect_one_by_header,
    },
    Transport {
        name: "sse-many-last-event-id",
        sees: ALL,
        many: true,
        connect: stream::Stream::connect_many_by_header,
    },
    Transport { name: "long-poll-many", sees: ALL, many: true, connect: poll::Poll::connect_long_many },
    Transport { name: "poll-many", sees: ALL, many: true, connect: poll::Poll::connect_short_many },
];

/// The transport of that name.
///
/// # Errors
/// When there is none.
pub fn transport(name: &str) -> Result<&'static Transport> {
    TRANSPORTS.iter().find(|transport| transport.name == name).ok_or(format!("no transport {name:?}"))
}

/// The path and query of a request for events.
fn events_path(ask: &Ask, many: bool, more: &[(&str, String)]) -> String {
    let mut query: Vec<String> = more.iter().map(|(name, value)| format!("{name}={value}")).collect();
    query.extend(ask.since.iter().map(|since| format!("since={since}")));
    let path = if many {
        query.splice(0..0, ask.channels.iter().map(|channel| format!("channel={channel}")));
        "/v1/events".to_owned()
    } else {
        format!("/v1/channels/{}/events", ask.channels[0])
    };
    if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) }
}

fn refusal(status: u16, body: &[u8]) -> Result<Refusal> {
    let text = || String::from_utf8_lossy(body).into_owned();
    let problem: serde_json::Value = serde_json::from_slice(body)
        .map_err(|_| format!("status {status}, and no problem+json: {}", text()))?;
    match problem["code"].as_str() {
        Some(code) if problem["status"] == status => {
            Ok(Refusal { status: Some(status), code: code.to_owned() })
        }
        _ => Err(format!("status {status}, and a problem without its status and code: {}", text())),
    }
}
