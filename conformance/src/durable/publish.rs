//! One publish over HTTP or a WebSocket, and what the server said to it.
//! Must not know what is done about a refusal.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::Message;
use ureq::Agent;

use super::body::Body;
use crate::client::{self, BinaryPublish, Socket};
use crate::{Result, http};

/// The server's answer to a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It has the event.
    Taken {
        /// Its id.
        id: String,
        /// Its time, over HTTP.
        time: Option<String>,
        /// Whether it had it before.
        duplicate: bool,
    },
    /// It does not take it.
    Refused {
        /// The status, over HTTP.
        status: Option<u16>,
        /// Why.
        code: String,
        /// Whether it says when to try again.
        retry_after: bool,
    },
}

impl Said {
    /// The id, if it was taken as a new event.
    ///
    /// # Errors
    /// When it was not.
    pub fn fresh(self) -> Result<String> {
        match self {
            Self::Taken { id, duplicate: false, .. } => Ok(id),
            other => Err(format!("expected a new event, got {other:?}")),
        }
    }

    /// The id, if it was known to be a repetition.
    ///
    /// # Errors
    /// When it was not.
    pub fn repeated(self) -> Result<String> {
        match self {
            Self::Taken { id, duplicate: true, .. } => Ok(id),
            other => Err(format!("expected \"duplicate\":true, got {other:?}")),
        }
    }

    /// Whether it was refused with this code, and over HTTP with this status.
    pub fn is_refusal(&self, status: u16, code: &str) -> bool {
        matches!(self, Self::Refused { status: got, code: why, .. } if got.unwrap_or(status) == status && why == code)
    }
}

/// A server's own patience with a disk is not longer than this.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Publishes over HTTP.
///
/// # Errors
/// When no answer came, or one that says two things.
pub fn post(agent: &Agent, server: &str, channel: &str, body: &Body, key: Option<&str>) -> Result<Said> {
    post_with(agent, server, channel, body, &[("idempotency-key", key)])
}

/// As [`post`], with these fields.
///
/// # Errors
/// As [`post`].
pub fn post_with(
    agent: &Agent,
    server: &str,
    channel: &str,
    body: &Body,
    fields: &[(&str, Option<&str>)],
) -> Result<Said> {
    let mut head = vec![("content-type".to_owned(), body.content_type().to_owned())];
    let set =
        |(name, value): &(&str, Option<&str>)| value.map(|value| ((*name).to_owned(), value.to_owned()));
    head.extend(fields.iter().filter_map(set));
    let url = format!("{server}/v1/channels/{channel}/events");
    let answer = http::exchange(agent, "POST", &url, &head, Some(body.bytes()))?;
    let said = answer.json()?;
    match (answer.status, said["duplicate"].as_bool()) {
        (201, Some(false)) | (200, Some(true)) => Ok(Said::Taken {
            id: text(&said["id"])?,
            time: Some(text(&said["time"])?),
            duplicate: answer.status == 200,
        }),
        (400.., None) if said["status"] == answer.status => Ok(Said::Refused {
            status: Some(answer.status),
            code: text(&said["code"])?,
            retry_after: answer.field("retry-after").is_some(),
        }),
        _ => Err(format!("status {} and {said}", answer.status)),
    }
}

/// A message that publishes over `/v1/ws`; `id` comes back in the reply.
pub fn message(channel: &str, id: &str, body: &Body, key: Option<&str>) -> Message {
    let key = key.unwrap_or_default();
    match body {
        Body::Json(data) => {
            let mut message = json!({"type": "publish", "channel": channel, "id": id});
            if !key.is_empty() {
                message["idempotency_key"] = json!(key);
            }
            let mut message = message.to_string();
            message.pop();
            // As it is, so that the server gets the very bytes that readers must see.
            Message::text(format!("{message},\"data\":{data}}}"))
        }
        Body::Text(_) | Body::Bytes(_) => {
            let data = body.bytes();
            let frame = BinaryPublish { channel, id, idempotency_key: key, data, ..BinaryPublish::default() };
            Message::binary(frame.frame())
        }
    }
}

/// The next reply to a publish, with the id of the message that it is for.
///
/// # Errors
/// When none came in time, or the connection broke.
pub fn reply(socket: &mut Socket) -> Result<(String, Said)> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let message = match client::read_socket(socket, deadline)? {
            Some(Message::Text(text)) => text,
            Some(Message::Ping(_)) => continue,
            other => return Err(format!("expected a reply to publish, got {other:?}")),
        };
        let reply: Value = serde_json::from_str(&message).map_err(|error| format!("{error} in {message}"))?;
        let said = match (reply["type"].as_str(), reply["duplicate"].as_bool()) {
            (Some("published"), Some(duplicate)) => {
                Said::Taken { id: text(&reply["event_id"])?, time: None, duplicate }
            }
            (Some("error"), _) => {
                Said::Refused { status: None, code: text(&reply["code"])?, retry_after: false }
            }
            _ => return Err(format!("expected a reply to publish, got {message}")),
        };
        return Ok((text(&reply["id"])?, said));
    }
}

/// Publishes over a WebSocket and waits for the reply.
///
/// # Errors
/// When no reply came.
pub fn over_socket(socket: &mut Socket, channel: &str, body: &Body, key: Option<&str>) -> Result<Said> {
    let sent = socket.send(message(channel, "only", body, key));
    sent.map_err(|error| format!("cannot send: {error}"))?;
    match reply(socket)? {
        (id, said) if id == "only" => Ok(said),
        (id, said) => Err(format!("a reply to {id:?}: {said:?}")),
    }
}

/// Opens `/v1/ws`.
///
/// # Errors
/// When it is refused.
pub fn open(server: &str) -> Result<Socket> {
    client::open_socket(server, "/v1/ws", None)?.map_err(|refusal| format!("refused: {refusal:?}"))
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).ok_or_else(|| format!("expected a string, got {value}"))
}
