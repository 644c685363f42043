//! Any other server: reached by URL, spoken to by message templates.
//! `{channel}` and `{data}` in a template stand for the channel's name and the event's JSON.

use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, Result, bail, ensure};

use super::{Dialect, Event, Heard, Seat, Server, Transport, Via, channel_name};
use crate::wire::{Framing, http, websocket};

/// How a custom target is reached.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CustomOptions {
    /// Custom target: where subscribers connect, ws:// or http:// (SSE); may hold {channel}
    #[arg(long, value_name = "URL", help_heading = "Custom target")]
    url: Option<String>,
    /// Custom target: where events are posted; may hold {channel}
    #[arg(long, value_name = "URL", help_heading = "Custom target")]
    publish_url: Option<String>,
    /// Custom target: a message sent for each channel after the handshake; may hold {channel}
    #[arg(long, value_name = "TEXT", help_heading = "Custom target")]
    subscribe_message: Option<String>,
    /// Custom target: what the reply to a subscription begins with (none: do not wait for one)
    #[arg(long, value_name = "TEXT", help_heading = "Custom target")]
    subscribe_reply: Option<String>,
    /// Custom target: the body of a publish; may hold {channel} and {data}
    #[arg(long, value_name = "TEXT", default_value = "{data}", help_heading = "Custom target")]
    publish_body: String,
    /// Custom target: a header line for publishes and handshakes, as "Name: value"
    #[arg(long, value_name = "LINE", help_heading = "Custom target")]
    header: Vec<String>,
    /// Custom target: its process id, for CPU time and memory
    #[arg(long, value_name = "PID", help_heading = "Custom target")]
    pid: Option<u32>,
}

pub(super) fn attach(options: &CustomOptions) -> Result<Server> {
    let url = options.url.as_deref().context("a custom target needs --url")?;
    let publish_url = options.publish_url.as_deref().context("a custom target needs --publish-url")?;
    let (subscribe_address, host, path) = split_url(url, &["ws://", "http://"])?;
    let (publish_address, publish_host, publish_path) = split_url(publish_url, &["http://"])?;
    let headers = options.header.iter().map(|line| format!("{}\r\n", line.trim())).collect();
    let dialect = Custom { host, path, publish_host, publish_path, headers, options: options.clone() };
    Ok(Server {
        subscribe_addresses: vec![subscribe_address],
        publish_addresses: vec![publish_address],
        dialect: Box::new(dialect),
        roots: options.pid.into_iter().collect(),
        _processes: Vec::new(),
    })
}

/// Address, host and path of a URL with one of the schemes.
fn split_url(url: &str, schemes: &[&str]) -> Result<(SocketAddr, String, String)> {
    let Some(rest) = schemes.iter().find_map(|scheme| url.strip_prefix(scheme)) else {
        bail!("{url:?} must begin with {}", schemes.join(" or "));
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    ensure!(!host.is_empty(), "{url:?} names no host");
    let with_port = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let address = with_port
        .to_socket_addrs()
        .with_context(|| format!("cannot resolve {host:?}"))?
        .next()
        .with_context(|| format!("{host:?} has no address"))?;
    Ok((address, host.to_owned(), if path.is_empty() { "/".to_owned() } else { path.to_owned() }))
}

struct Custom {
    host: String,
    path: String,
    publish_host: String,
    publish_path: String,
    headers: String,
    options: CustomOptions,
}

impl Dialect for Custom {
    fn framing(&self, seat: &Seat<'_>) -> Framing {
        if seat.transport == Transport::Sse { Framing::Sse } else { Framing::WebSocket }
    }

    fn opening(&self, seat: &Seat<'_>) -> Vec<u8> {
        let path = self.path.replace("{channel}", &channel_name(seat.channels.start));
        let mut request = match seat.transport {
            Transport::Sse => http::get(&self.host, &path, "Accept: text/event-stream\r\n"),
            _ => http::upgrade(&self.host, &path, seat.deflate),
        };
        request.truncate(request.len() - 2);
        request.extend_from_slice(self.headers.as_bytes());
        request.extend_from_slice(b"\r\n");
        request
    }

    fn greet(&self, seat: &Seat<'_>, out: &mut Vec<u8>) -> u32 {
        let Some(template) = &self.options.subscribe_message else { return 0 };
        for channel in seat.channels.clone() {
            websocket::write_text(out, template.replace("{channel}", &channel_name(channel)).as_bytes());
        }
        if self.options.subscribe_reply.is_some() { seat.channels.len() as u32 } else { 0 }
    }

    fn hear(&self, _seat: &Seat<'_>, message: &[u8], _out: &mut Vec<u8>) -> Result<Heard> {
        match &self.options.subscribe_reply {
            Some(reply) if message.starts_with(reply.as_bytes()) => Ok(Heard::Reply),
            _ => Ok(Heard::Nothing),
        }
    }

    fn publish_opening(&self, via: Via) -> Result<Vec<u8>> {
        match via {
            Via::Http => Ok(Vec::new()),
            Via::Ws => bail!("a custom target is published to over HTTP only"),
        }
    }

    fn write_publish(&self, _via: Via, event: &Event<'_>, out: &mut Vec<u8>) {
        let name = channel_name(event.channel);
        let path = self.publish_path.replace("{channel}", &name);
        let data = String::from_utf8_lossy(event.data);
        let body = self.options.publish_body.replace("{channel}", &name).replace("{data}", &data);
        http::write_post(out, &self.publish_host, &path, &self.headers, body.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_falls_into_its_parts() {
        let (address, host, path) = split_url("ws://127.0.0.1:9000/a/b", &["ws://"]).expect("valid");
        assert_eq!((address.port(), host.as_str(), path.as_str()), (9000, "127.0.0.1:9000", "/a/b"));
        assert_eq!(split_url("http://127.0.0.1", &["http://"]).expect("valid").0.port(), 80);
        assert!(split_url("wss://127.0.0.1", &["ws://"]).is_err());
    }
}
