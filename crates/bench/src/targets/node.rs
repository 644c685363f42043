//! The peers on Node: `ws` with a Set per channel, and socket.io with rooms.
//! Their scripts stand in the crate's `peers` folder; `peers/setup` installs the packages.

use std::process::Command;

use anyhow::{Result, bail, ensure};

use super::process::{Process, Scratch, accepts, free_address};
use super::{Dialect, Event, Heard, Seat, Server, TargetOptions, Via, channel_name};
use crate::wire::{Framing, http, websocket};

pub(super) fn start_ws(options: &TargetOptions) -> Result<Server> {
    start(options, "ws.js", |host| Box::new(Ws { host }))
}

pub(super) fn start_socketio(options: &TargetOptions) -> Result<Server> {
    start(options, "socketio.js", |host| Box::new(SocketIo { host }))
}

fn start(options: &TargetOptions, script: &str, dialect: fn(String) -> Box<dyn Dialect>) -> Result<Server> {
    let modules = options.peers.join("node_modules");
    ensure!(modules.is_dir(), "no {}: run {}/setup", modules.display(), options.peers.display());
    let address = free_address()?;
    let mut command = Command::new("node");
    command.arg(options.peers.join(script)).arg(address.port().to_string());
    let mut process = Process::start(&mut command, Scratch::new()?)?;
    process.wait_until("accepting", || accepts(address))?;
    Ok(Server::owned(address, dialect(address.to_string()), process))
}

struct Ws {
    host: String,
}

impl Dialect for Ws {
    fn framing(&self, _seat: &Seat<'_>) -> Framing {
        Framing::WebSocket
    }

    fn opening(&self, seat: &Seat<'_>) -> Vec<u8> {
        http::upgrade(&self.host, "/", seat.deflate)
    }

    fn greet(&self, seat: &Seat<'_>, out: &mut Vec<u8>) -> u32 {
        for channel in seat.channels.clone() {
            websocket::write_text(out, format!("+{}", channel_name(channel)).as_bytes());
        }
        seat.channels.len() as u32
    }

    fn hear(&self, _seat: &Seat<'_>, message: &[u8], _out: &mut Vec<u8>) -> Result<Heard> {
        Ok(match message {
            b"ok" => Heard::Reply,
            b"published" => Heard::Published,
            _ => Heard::Nothing,
        })
    }

    fn publish_opening(&self, via: Via) -> Result<Vec<u8>> {
        Ok(match via {
            Via::Http => Vec::new(),
            Via::Ws => http::upgrade(&self.host, "/", false),
        })
    }

    fn write_publish(&self, via: Via, event: &Event<'_>, out: &mut Vec<u8>) {
        let name = channel_name(event.channel);
        match via {
            Via::Http => http::write_post(out, &self.host, &format!("/pub/{name}"), "", event.data),
            Via::Ws => websocket::write_text(out, &[name.as_bytes(), b" ", event.data].concat()),
        }
    }
}

/// Engine.IO 4 over WebSocket, with socket.io's packets in it.
struct SocketIo {
    host: String,
}

/// The identifier of the acknowledgement that is asked for with a publish.
const PUBLISH_ACK: &str = "999999";

impl Dialect for SocketIo {
    fn framing(&self, _seat: &Seat<'_>) -> Framing {
        Framing::WebSocket
    }

    fn opening(&self, seat: &Seat<'_>) -> Vec<u8> {
        http::upgrade(&self.host, "/socket.io/?EIO=4&transport=websocket", seat.deflate)
    }

    fn greet(&self, seat: &Seat<'_>, _out: &mut Vec<u8>) -> u32 {
        seat.channels.len() as u32
    }

    fn hear(&self, seat: &Seat<'_>, message: &[u8], out: &mut Vec<u8>) -> Result<Heard> {
        match message {
            [b'0', ..] => websocket::write_text(out, b"40"),
            [b'2'] => websocket::write_text(out, b"3"),
            [b'4', b'0', ..] => {
                for (ack, channel) in seat.channels.clone().enumerate() {
                    let message = format!("42{ack}[\"subscribe\",\"{}\"]", channel_name(channel));
                    websocket::write_text(out, message.as_bytes());
                }
            }
            [b'4', b'3', rest @ ..] if rest.starts_with(PUBLISH_ACK.as_bytes()) => {
                return Ok(Heard::Published);
            }
            [b'4', b'3', ..] => return Ok(Heard::Reply),
            [b'4', b'4', ..] => bail!("socket.io refused: {}", String::from_utf8_lossy(message)),
            _ => {}
        }
        Ok(Heard::Nothing)
    }

    fn publish_opening(&self, via: Via) -> Result<Vec<u8>> {
        match via {
            Via::Http => Ok(Vec::new()),
            // It works from a subscriber's own connection, which has done socket.io's handshake.
            Via::Ws => bail!("socket.io is measured with a publisher over HTTP only"),
        }
    }

    fn write_publish(&self, via: Via, event: &Event<'_>, out: &mut Vec<u8>) {
        let name = channel_name(event.channel);
        match via {
            Via::Http => http::write_post(out, &self.host, &format!("/pub/{name}"), "", event.data),
            Via::Ws => {
                let head = format!("42{PUBLISH_ACK}[\"publish\",\"{name}\",");
                websocket::write_text(out, &[head.as_bytes(), event.data, b"]"].concat());
            }
        }
    }
}
