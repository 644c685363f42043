//! Tidewire: started on a free port with its log in memory or on disk, spoken to as PROTOCOL.md says.
//! Knows the wire only, nothing of the server's code.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, bail};
use memchr::memmem;

use super::process::{Process, Scratch, answers_ok, free_address};
use super::{Dialect, Event, Heard, Seat, Server, TargetOptions, Transport, Via, channel_name};
use crate::wire::{Framing, http, websocket};

/// Seconds that a long poll is held.
const WAIT_S: u32 = 60;

/// Where its log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Log {
    Memory,
    /// In a folder that goes with the server.
    Disk,
    /// At a backplane.
    Shared(String),
}

pub(super) fn start(options: &TargetOptions, log: Log) -> Result<Server> {
    let (address, process) = launch(options, &log)?;
    Ok(Server::owned(address, dialect(address), process))
}

/// Starts one and waits until it serves.
pub(super) fn launch(options: &TargetOptions, log: &Log) -> Result<(SocketAddr, Process)> {
    let program =
        options.tidewire.as_ref().context("say where the release binary is with --tidewire PATH")?;
    let address = free_address()?;
    let mut command = Command::new(program);
    let folder = Scratch::new()?;
    // As the others, which keep no log of their connections either.
    command.args(["serve", "--listen", &address.to_string()]).env("TIDEWIRE_LOG__LEVEL", "warn");
    match log {
        Log::Memory => command.arg("--memory"),
        Log::Disk => command.arg("--data").arg(folder.path().join("data")),
        Log::Shared(backplane) => command.env("TIDEWIRE_BACKPLANE", backplane),
    };
    if let Some(config) = &options.config {
        command.arg("--config").arg(config);
    }
    let mut process = Process::start(&mut command, folder)?;
    process.wait_until("200 from /readyz", || answers_ok(address, "/readyz"))?;
    Ok((address, process))
}

pub(super) fn dialect(address: SocketAddr) -> Box<dyn Dialect> {
    Box::new(Tidewire { host: address.to_string() })
}

struct Tidewire {
    host: String,
}

impl Tidewire {
    fn poll(&self, seat: &Seat<'_>, parameters: &str) -> Vec<u8> {
        http::get(&self.host, &format!("{}{parameters}", events_path(seat)), "")
    }
}

impl Dialect for Tidewire {
    fn framing(&self, seat: &Seat<'_>) -> Framing {
        match seat.transport {
            Transport::Ws => Framing::WebSocket,
            Transport::Sse => Framing::Sse,
            Transport::LongPoll => Framing::Poll,
        }
    }

    fn opening(&self, seat: &Seat<'_>) -> Vec<u8> {
        match seat.transport {
            Transport::Ws => http::upgrade(&self.host, "/v1/ws", seat.deflate),
            Transport::Sse => {
                let since = seat.since.map(|since| format!("since={since}")).unwrap_or_default();
                let path = format!("{}{since}", events_path(seat));
                http::get(&self.host, path.trim_end_matches(['?', '&']), "Accept: text/event-stream\r\n")
            }
            // A poll that answers at once gives the cursor, so that nothing falls between two polls.
            Transport::LongPoll => {
                self.poll(seat, &format!("limit=1000&since={}", seat.since.unwrap_or("latest")))
            }
        }
    }

    fn greet(&self, seat: &Seat<'_>, out: &mut Vec<u8>) -> u32 {
        if seat.transport != Transport::Ws {
            return 0;
        }
        let since = seat.since.map(|since| format!(",\"since\":\"{since}\"")).unwrap_or_default();
        for channel in seat.channels.clone() {
            let name = channel_name(channel);
            let message = format!("{{\"type\":\"subscribe\",\"channel\":\"{name}\"{since}}}");
            websocket::write_text(out, message.as_bytes());
        }
        seat.channels.len() as u32
    }

    fn hear(&self, seat: &Seat<'_>, message: &[u8], out: &mut Vec<u8>) -> Result<Heard> {
        if seat.transport == Transport::LongPoll {
            let cursor = cursor_of(message).with_context(|| format!("no cursor in {}", lossy(message)))?;
            out.extend(self.poll(seat, &format!("limit=1000&wait={WAIT_S}&since={cursor}")));
            return Ok(Heard::Reply);
        }
        if message.starts_with(b"{\"type\":\"subscribed\"") {
            Ok(Heard::Reply)
        } else if message.starts_with(b"{\"type\":\"published\"") {
            Ok(Heard::Published)
        } else if message.starts_with(b"{\"type\":\"error\"") || message.starts_with(b"{\"type\":\"gap\"") {
            bail!("the server said {}", lossy(message))
        } else {
            Ok(Heard::Nothing)
        }
    }

    fn publish_opening(&self, via: Via) -> Result<Vec<u8>> {
        Ok(match via {
            Via::Http => Vec::new(),
            Via::Ws => http::upgrade(&self.host, "/v1/ws", false),
        })
    }

    fn write_publish(&self, via: Via, event: &Event<'_>, out: &mut Vec<u8>) {
        let name = channel_name(event.channel);
        match via {
            Via::Http => {
                http::write_post(out, &self.host, &format!("/v1/channels/{name}/events"), "", event.data)
            }
            Via::Ws => {
                let head = format!("{{\"type\":\"publish\",\"channel\":\"{name}\",\"data\":");
                websocket::write_text(out, &[head.as_bytes(), event.data, b"}"].concat());
            }
        }
    }
}

/// Path and query up to where parameters can be added.
fn events_path(seat: &Seat<'_>) -> String {
    if seat.channels.len() == 1 {
        return format!("/v1/channels/{}/events?", channel_name(seat.channels.start));
    }
    let channels: String =
        seat.channels.clone().map(|channel| format!("channel={}&", channel_name(channel))).collect();
    format!("/v1/events?{channels}")
}

/// The cursor of a poll's answer. Searched from the end, where it is; event data may hold anything.
fn cursor_of(body: &[u8]) -> Option<&str> {
    const NAME: &[u8] = b"\"cursor\":\"";
    let start = memmem::rfind(body, NAME)? + NAME.len();
    let length = memchr::memchr(b'"', &body[start..])?;
    std::str::from_utf8(&body[start..start + length]).ok()
}

fn lossy(message: &[u8]) -> String {
    String::from_utf8_lossy(&message[..message.len().min(300)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_is_found_behind_the_events() {
        let body =
            br#"{"channel":"a","events":[{"data":{"cursor":"no"}}],"cursor":"0123456789-7","more":false}"#;
        assert_eq!(cursor_of(body), Some("0123456789-7"));
        assert_eq!(cursor_of(b"{}"), None);
    }

    #[test]
    fn several_channels_share_one_request() {
        let seat = Seat { index: 0, channels: 3..5, transport: Transport::Sse, deflate: false, since: None };
        let dialect = Tidewire { host: "h".into() };
        let request = String::from_utf8(dialect.opening(&seat)).expect("ASCII");
        assert!(
            request.starts_with("GET /v1/events?channel=bench-3&channel=bench-4 HTTP/1.1\r\n"),
            "{request}"
        );
    }
}
