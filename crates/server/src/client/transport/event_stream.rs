//! Server-sent events over all channels: one response that does not end.
//! Must not know how lines make up messages, which is the parser's business.

use std::fmt;
use std::io::{self, Read};
use std::time::Duration;

use serde::Deserialize;
use ureq::http::StatusCode;
use ureq::{Agent, BodyReader};

use super::{Interruption, SILENCE_MAX, Signal, Transport, chosen_wait};
use crate::client::endpoint::Endpoint;
use crate::client::http;
use crate::client::position::Position;
use crate::client::sse_parser::{self, Message, SseParser};

/// How much is read at once.
const READ_BYTES: usize = 64 << 10;

/// The transport `sse`.
pub(in crate::client) struct EventStream {
    endpoint: Endpoint,
    agent: Agent,
    body: Option<BodyReader<'static>>,
    /// An end that was read together with signals, which go first.
    ended: Option<Interruption>,
    parser: SseParser,
    buffer: Vec<u8>,
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl EventStream {
    pub(in crate::client) fn new(endpoint: Endpoint) -> Self {
        let agent = http::agent(SILENCE_MAX, &endpoint);
        Self {
            endpoint,
            agent,
            body: None,
            ended: None,
            parser: SseParser::default(),
            buffer: vec![0; READ_BYTES],
        }
    }

    /// A loss, after which the stream's own reconnection time is kept.
    fn lost(&self, reason: impl Into<String>) -> Interruption {
        let after = self.parser.retry_ms().map(Duration::from_millis);
        Interruption::Lost { reason: reason.into(), after }
    }
}

impl Transport for EventStream {
    fn open(&mut self, position: &Position) -> Result<(), Interruption> {
        self.body = None;
        self.ended = None;
        self.parser = SseParser::default();
        let since = position.since_of_all().unwrap_or_else(|| "latest".to_owned());
        let url = self.endpoint.events(position.channels(), &since, "");
        let request = self.agent.get(&url).header("accept", "text/event-stream");
        let mut response = request.call().map_err(|error| http::interruption(&error))?;
        if response.status() != StatusCode::OK {
            let body = response.body_mut().with_config().limit(http::BODY_BYTES_MAX).read_to_vec();
            let body = body.map_err(|error| http::interruption(&error))?;
            return Err(http::refusal(response.status(), response.headers(), &body));
        }
        if response.body().mime_type() != Some("text/event-stream") {
            return Err(Interruption::Refused("not an event stream of a Tidewire server".to_owned()));
        }
        self.body = Some(response.into_body().into_with_config().limit(u64::MAX).reader());
        Ok(())
    }

    fn next(&mut self, _wanted: Option<u64>) -> Result<Vec<Signal>, Interruption> {
        if let Some(interruption) = self.ended.take() {
            return Err(interruption);
        }
        let Some(body) = &mut self.body else {
            return Err(Interruption::lost("not connected"));
        };
        let count = match body.read(&mut self.buffer) {
            Ok(0) => return Err(self.lost("the stream ended")),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Vec::new()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                return Err(self.lost(format!("nothing came for {} s", SILENCE_MAX.as_secs())));
            }
            Err(error) => return Err(self.lost(error.to_string())),
        };
        let mut messages = Vec::new();
        if self.parser.handle_bytes(&self.buffer[..count], &mut messages).is_err() {
            let limit = sse_parser::BYTES_MAX;
            return Err(Interruption::Refused(format!("an event is larger than {limit} bytes")));
        }
        let mut signals = Vec::new();
        for message in messages {
            if let Err(interruption) = handle(message, &mut signals) {
                self.ended = Some(interruption);
                break;
            }
        }
        Ok(signals)
    }
}

#[derive(Deserialize)]
struct Reconnect {
    after_ms: serde_json::Value,
    #[serde(default)]
    reason: String,
}

fn handle(message: Message, signals: &mut Vec<Signal>) -> Result<(), Interruption> {
    if let Some(data) = &message.data {
        match message.event.as_str() {
            "tidewire.gap" => signals.push(Signal::Gap(parsed(data)?)),
            "tidewire.reconnect" => {
                let Reconnect { after_ms, reason } = parsed(data)?;
                let reason = format!("the server asks to reconnect ({reason})");
                return Err(Interruption::Lost { reason, after: chosen_wait(&after_ms) });
            }
            name if name.starts_with("tidewire.") => {}
            _ => signals.push(Signal::Event(parsed(data)?)),
        }
    }
    if !message.last_event_id.is_empty() {
        signals.push(Signal::StandingAll(message.last_event_id));
    }
    Ok(())
}

fn parsed<'a, T: Deserialize<'a>>(data: &'a str) -> Result<T, Interruption> {
    serde_json::from_str(data)
        .map_err(|error| Interruption::Refused(format!("not an event of a Tidewire server: {error}")))
}
