//! Random and spoiled bytes on every kind of connection: the server answers or closes, and serves on.
//! The seed is printed; `TIDEWIRE_SEED` repeats it.

use std::time::{Duration, Instant};

use tidewire_conformance::client;
use tidewire_conformance::random::Random;
use tidewire_conformance::server::Server;
use tidewire_conformance::wire::{Wire, check_healthy};
use tungstenite::Message;

type Outcome = Result<(), String>;

const HANDSHAKE: &str = "GET /v1/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                         Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";

fn noise(random: &mut Random, most: usize) -> Vec<u8> {
    (0..1 + random.below(most)).map(|_| random.bits() as u8).collect()
}

/// Changes some bytes, cuts some out, or repeats some.
fn spoil(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.below(out.len().max(1)).min(out.len());
        match random.below(4) {
            0 if at < out.len() => out[at] = random.bits() as u8,
            1 if at < out.len() => drop(out.drain(at..(at + 1 + random.below(8)).min(out.len()))),
            2 => out.splice(at..at, noise(random, 8)).for_each(drop),
            _ => {
                let part = out[at..(at + random.below(16)).min(out.len())].to_vec();
                out.splice(at..at, part).for_each(drop);
            }
        }
    }
    out
}

#[test]
fn random_bytes_instead_of_a_request() -> Outcome {
    let mut random = Random::from_environment("random bytes");
    let server = Server::start("[limits]\nhead_timeout_ms = 500\n")?;
    let request = b"POST /v1/channels/a/events?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nAccept: */*\r\n\r\n12345";
    for number in 0..400 {
        let mut wire = Wire::connect(&server)?;
        let bytes = if number % 2 == 0 { noise(&mut random, 2000) } else { spoil(request, &mut random) };
        wire.send(&bytes);
        wire.finish_sending();
        let got = wire.end(Duration::from_secs(5)).map_err(|error| format!("{bytes:02x?}: {error}"))?;
        if !got.is_empty() && !got.starts_with(b"HTTP/1.1 ") {
            return Err(format!("{bytes:02x?} got {:?}", String::from_utf8_lossy(&got)));
        }
    }
    check_healthy(&server)
}

#[test]
fn random_bytes_instead_of_frames() -> Outcome {
    let mut random = Random::from_environment("random frames");
    let server = Server::start("")?;
    let text = br#"{"type":"ping","id":1}"#;
    let mut frame = vec![0x81, 0x80 | text.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(text);
    for number in 0..400 {
        let mut wire = Wire::connect(&server)?;
        wire.send(HANDSHAKE);
        let answer = wire.answer()?;
        if answer.status != 101 {
            return Err(answer.text());
        }
        let bytes = if number % 2 == 0 { noise(&mut random, 500) } else { spoil(&frame, &mut random) };
        wire.send(&bytes);
        wire.finish_sending();
        wire.end(Duration::from_secs(5)).map_err(|error| format!("{bytes:02x?}: {error}"))?;
    }
    check_healthy(&server)
}

/// Section 5 says with which code; the frames are RFC 6455's own examples of what must not be.
#[test]
fn frames_that_break_the_rules_close_with_the_right_code() -> Outcome {
    let server = Server::start("")?;
    let cases: [(&str, &[u8], u16); 9] = [
        ("not masked", &[0x81, 0x02, b'h', b'i'], 1002),
        ("a reserved bit", &[0xa1, 0x80, 0, 0, 0, 0], 1002),
        ("a reserved opcode", &[0x83, 0x80, 0, 0, 0, 0], 1002),
        ("a fragmented ping", &[0x09, 0x80, 0, 0, 0, 0], 1002),
        ("a ping of 126 bytes", &[0x89, 0xfe, 0, 126, 0, 0, 0, 0], 1002),
        ("a continuation of nothing", &[0x80, 0x80, 0, 0, 0, 0], 1002),
        ("a close of one byte", &[0x88, 0x81, 0, 0, 0, 0, 3], 1002),
        ("text that is not UTF-8", &[0x81, 0x82, 0, 0, 0, 0, 0xc3, 0x28], 1007),
        ("a message of 2^62 bytes", &[0x81, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1009),
    ];
    for (what, frame, code) in cases {
        let mut wire = Wire::connect(&server)?;
        wire.send(HANDSHAKE);
        wire.answer()?;
        wire.send(frame);
        let got = wire.end(Duration::from_secs(8)).map_err(|error| format!("{what}: {error}"))?;
        let closed = got.len() >= 4 && got[0] == 0x88 && got[2..4] == code.to_be_bytes();
        if !closed {
            return Err(format!("{what}: expected close {code}, got {got:02x?}"));
        }
    }
    check_healthy(&server)
}

#[test]
fn spoiled_messages_are_answered_each() -> Outcome {
    let mut random = Random::from_environment("spoiled messages");
    let server = Server::start("")?;
    let messages = [
        r#"{"type":"subscribe","channel":"a","since":"earliest","id":1}"#,
        r#"{"type":"publish","channel":"b","data":{"a":[1,2,"\u00e9"]},"event":"n","key":"k","id":"x"}"#,
        r#"{"type":"publish","channel":"b","data_base64":"AAEC","content_type":"image/png"}"#,
        r#"{"type":"unsubscribe","channel":"a","id":-1.5e3}"#,
    ];
    let mut socket = client::open_socket(&server.url, "/v1/ws", None)?.map_err(|no| format!("{no:?}"))?;
    for number in 0..1000 {
        let message = spoil(messages[random.below(messages.len())].as_bytes(), &mut random);
        let message = match (random.below(5), String::from_utf8(message)) {
            (0, _) | (_, Err(_)) => {
                Message::binary(spoil(b"\x02\x01b\x00\x00\x00\x00\x00\x00\x00data", &mut random))
            }
            (_, Ok(text)) => Message::text(text),
        };
        socket.send(message.clone()).map_err(|error| format!("message {number}: {error}"))?;
        let deadline = Instant::now() + Duration::from_secs(5);
        match client::read_socket(&mut socket, deadline)? {
            Some(Message::Text(_)) => {}
            other => return Err(format!("{message:?} got {other:?}")),
        }
        // Whatever it did, no events may come between the replies.
        socket
            .send(Message::text(r#"{"type":"unsubscribe","channel":"a"}"#))
            .map_err(|error| error.to_string())?;
        client::read_socket(&mut socket, deadline)?
            .ok_or(format!("{message:?}: no reply to what followed"))?;
    }
    check_healthy(&server)
}

/// The reply to the last message of a connection that has ended was once sent to the next connection.
#[test]
fn what_is_meant_for_one_connection_never_reaches_another() -> Outcome {
    let server = Server::start("shards = 1\n")?;
    for number in 0..50 {
        let mut leaving = Wire::connect(&server)?;
        leaving.send(HANDSHAKE);
        leaving.answer()?;
        leaving.send([0x81, 0x82, 0, 0, 0, 0, b'{', b'}']);
        leaving.finish_sending();
        let mut other = Wire::connect(&server)?;
        other.send("GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let got = other.end(Duration::from_secs(5))?;
        if !got.starts_with(b"HTTP/1.1 200 OK\r\n") {
            return Err(format!("connection {number} got {:?}", String::from_utf8_lossy(&got)));
        }
        leaving.end(Duration::from_secs(5))?;
    }
    check_healthy(&server)
}
