//! Heartbeats both ways, dead peers closed, more connections than allowed, and the goodbye of a server that stops.

use std::time::{Duration, Instant};

use tidewire_conformance::client;
use tidewire_conformance::server::{Server, wait_until};
use tidewire_conformance::wire::{Wire, check_healthy};
use tungstenite::Message;

type Outcome = Result<(), String>;

const QUICK: &str = "[limits]\nheartbeat_ms = 200\nclose_timeout_ms = 500\n";
const SSE: &str = "GET /v1/channels/a/events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n";
const HANDSHAKE: &str = "GET /v1/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn an_event_stream_ends_with_the_connection_and_has_no_other_end() -> Outcome {
    let server = Server::start("")?;
    let mut wire = Wire::connect(&server)?;
    wire.send(SSE);
    wire.read_until(b"\nid:", 1)?;
    let got = String::from_utf8_lossy(wire.bytes()).to_ascii_lowercase();
    if got.contains("transfer-encoding") || got.contains("content-length") {
        return Err(format!("an event stream is neither chunked nor has a length, got {got:?}"));
    }
    Ok(())
}

#[test]
fn an_event_stream_gets_comments() -> Outcome {
    let server = Server::start(QUICK)?;
    let mut wire = Wire::connect(&server)?;
    wire.send(SSE);
    wire.read_until(b"\n:", 3)?;
    if memchr::memmem::find(wire.bytes(), b"data:").is_some() {
        return Err("a heartbeat must not be an event".to_owned());
    }
    Ok(())
}

#[test]
fn a_websocket_is_pinged_and_closed_with_4002_when_nothing_comes() -> Outcome {
    let server = Server::start(QUICK)?;
    let mut silent = Wire::connect(&server)?;
    silent.send(HANDSHAKE);
    silent.answer()?;
    let got = silent.end(Duration::from_secs(5))?;
    let pinged = got.first() == Some(&0x89);
    let told = memchr::memmem::find(&got, &4002_u16.to_be_bytes()).is_some();
    if !pinged || !told {
        return Err(format!("expected pings and close 4002, got {got:02x?}"));
    }
    check_healthy(&server)
}

#[test]
fn a_websocket_that_answers_pings_stays() -> Outcome {
    let server = Server::start(QUICK)?;
    let mut socket = client::open_socket(&server.url, "/v1/ws", None)?.map_err(|no| format!("{no:?}"))?;
    let deadline = Instant::now() + Duration::from_millis(1500);
    let mut pings = 0;
    while Instant::now() < deadline {
        match client::read_socket(&mut socket, deadline)? {
            Some(Message::Ping(_)) => pings += 1,
            None => break,
            other => return Err(format!("expected pings, got {other:?}")),
        }
    }
    socket.send(Message::text(r#"{"type":"ping"}"#)).map_err(|error| error.to_string())?;
    if pings < 3 {
        return Err(format!("expected some 7 pings in 1.5 s, got {pings}"));
    }
    loop {
        match client::read_socket(&mut socket, deadline + Duration::from_secs(5))? {
            Some(Message::Text(_)) => return Ok(()),
            Some(Message::Ping(_)) => {}
            other => return Err(format!("expected pong, got {other:?}")),
        }
    }
}

#[test]
fn more_connections_than_allowed_are_told_to_come_back() -> Outcome {
    let server = Server::start("[limits]\nconnections = 8\n")?;
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut wire = Wire::connect(&server)?;
        wire.send(SSE);
        wire.read_until(b"\nid:", 1)?;
        held.push(wire);
    }
    let mut refused = Wire::connect(&server)?;
    refused.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = refused.answer()?;
    if answer.status != 503
        || answer.json()?["code"] != "unavailable"
        || answer.field("retry-after").is_none()
    {
        return Err(format!(
            "expected 503 with Retry-After, got {} {:?} {}",
            answer.status,
            answer.head,
            answer.text()
        ));
    }
    refused.end(Duration::from_secs(5))?;
    drop(held);
    wait_until("there is room again", Duration::from_secs(10), || check_healthy(&server).is_ok())
}

#[test]
fn a_server_that_stops_tells_its_clients_and_answers_what_it_holds() -> Outcome {
    let server = Server::start("")?;
    let mut stream = Wire::connect(&server)?;
    stream.send(SSE);
    stream.read_until(b"\nid:", 1)?;
    let mut held = Wire::connect(&server)?;
    held.send("GET /v1/channels/a/events?wait=50 HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut socket =
        client::open_socket(&server.url, "/v1/channels/a/ws", None)?.map_err(|no| format!("{no:?}"))?;
    let pid = server.pid().ok_or("no process")?.to_string();
    // What was sent before the signal is read before it: one event shows that the held request has arrived.
    check_healthy(&server)?;
    std::process::Command::new("kill").args(["-TERM", &pid]).status().map_err(|error| error.to_string())?;
    stream.read_until(b"event: tidewire.reconnect", 1)?;
    stream.read_until(b"\"after_ms\":", 1)?;
    stream.read_until(b"\nretry:", 2)?;
    stream.end(Duration::from_secs(10))?;
    match client::read_socket(&mut socket, Instant::now() + Duration::from_secs(10))? {
        Some(Message::Close(Some(frame))) if u16::from(frame.code) == 1001 => {}
        other => return Err(format!("expected close 1001, got {other:?}")),
    }
    let answer = held.answer()?;
    if !matches!(answer.status, 200 | 503) {
        return Err(format!("a held long poll got {} {}", answer.status, answer.text()));
    }
    Ok(())
}
