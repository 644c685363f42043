//! Publishes one event over a WebSocket of its own: what HTTP headers and content types cannot say.
//! Must not know which events those are, nor when to try again.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidewire_core::event::Kind;
use tungstenite::{Error, Message};

use super::endpoint::Endpoint;
use super::sender::{Outgoing, Published};
use super::transport::{self, Interruption};

/// The first byte of a binary frame that publishes an event (PROTOCOL.md section 3.1).
const BINARY_PUBLISH: u8 = 0x02;

/// The one message of the connection, by the id that its reply carries.
const MESSAGE_ID: &str = "1";

/// Publishes bytes or JSON. The envelope has no place for text.
pub(super) fn publish(
    endpoint: &Endpoint,
    channel: &str,
    outgoing: Outgoing<'_>,
    kind: Kind,
) -> Result<Published, Interruption> {
    let message = match kind {
        Kind::Bytes => Message::binary(binary(channel, outgoing).map_err(Interruption::Refused)?),
        Kind::Json => Message::text(text(channel, outgoing).map_err(Interruption::Refused)?),
        Kind::Text => {
            let message = "a name or key with spaces around it goes with JSON and bytes only";
            return Err(Interruption::Refused(message.to_owned()));
        }
    };
    let mut socket = transport::connect(endpoint)?;
    socket.send(message).map_err(|error| transport::interruption(&error))?;
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => {
                if let Some(outcome) = reply(&text) {
                    return outcome;
                }
            }
            Ok(Message::Close(Some(frame))) if matches!(u16::from(frame.code), 1002 | 1007..=1009) => {
                return Err(Interruption::Refused(format!("{} (close code {})", frame.reason, frame.code)));
            }
            Ok(_) => {}
            Err(Error::Io(_)) => return Err(Interruption::lost("no answer in time")),
            Err(error) => return Err(transport::interruption(&error)),
        }
    }
}

/// The server's binary counterpart of [`Publish`].
fn binary(channel: &str, outgoing: Outgoing<'_>) -> Result<Vec<u8>, String> {
    let mut frame = vec![BINARY_PUBLISH];
    let parts = [
        (channel, 1),
        (MESSAGE_ID, 1),
        (outgoing.event.unwrap_or_default(), 1),
        (outgoing.key.unwrap_or_default(), 2),
        (outgoing.content_type.unwrap_or_default(), 1),
        (outgoing.idempotency_key, 2),
    ];
    for (text, length_bytes) in parts {
        let length = u16::try_from(text.len()).ok().filter(|length| length_bytes > 1 || *length < 256);
        let length = length.ok_or_else(|| format!("{} bytes are too many for {text:?}", text.len()))?;
        frame.extend_from_slice(&length.to_be_bytes()[2 - length_bytes..]);
        frame.extend_from_slice(text.as_bytes());
    }
    frame.extend_from_slice(outgoing.data);
    Ok(frame)
}

#[derive(Serialize)]
struct Publish<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'static str,
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    idempotency_key: &'a str,
    data: &'a RawValue,
}

fn text(channel: &str, outgoing: Outgoing<'_>) -> Result<String, String> {
    let Outgoing { data, event, key, idempotency_key, .. } = outgoing;
    let data = serde_json::from_slice(data).map_err(|error| error.to_string())?;
    let message = Publish { kind: "publish", id: MESSAGE_ID, channel, event, key, idempotency_key, data };
    serde_json::to_string(&message).map_err(|error| error.to_string())
}

/// What the server says to the message, as far as it is read.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Reply {
    Published {
        event_id: String,
        duplicate: bool,
    },
    Error {
        code: String,
        message: String,
    },
    #[serde(other)]
    Other,
}

fn reply(text: &str) -> Option<Result<Published, Interruption>> {
    match serde_json::from_str(text) {
        Ok(Reply::Published { event_id, duplicate }) => Some(Ok(Published { id: event_id, duplicate })),
        Ok(Reply::Error { code, message }) => Some(Err(transport::refused(&code, &message))),
        Ok(Reply::Other) => None,
        Err(error) => {
            Some(Err(Interruption::Refused(format!("not a message of a Tidewire server: {error}"))))
        }
    }
}
