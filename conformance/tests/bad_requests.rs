//! Requests that no client library would send: each gets a clear answer or a closed connection, in time, and
//! the server goes on serving others.

use std::time::{Duration, Instant};

use tidewire_conformance::server::Server;
use tidewire_conformance::wire::{Wire, check_healthy};

type Outcome = Result<(), String>;

const SHORT_TIMES: &str = "[limits]\nhead_timeout_ms = 700\nbody_timeout_ms = 700\nidle_timeout_ms = 1500\n";

/// Sends each request on a connection of its own and expects the problem, then the end of the connection.
fn each_is_refused(requests: &[(&str, &str)], code: &str) -> Outcome {
    let server = Server::start("")?;
    for (what, request) in requests {
        refused(&server, what, request.as_bytes(), code)?;
    }
    check_healthy(&server)
}

fn refused(server: &Server, what: &str, request: &[u8], code: &str) -> Outcome {
    let mut wire = Wire::connect(server)?;
    wire.send(request);
    let answer = wire.answer().map_err(|error| format!("{what}: {error}"))?;
    let problem = answer.json().unwrap_or_default();
    if problem["code"] != code || problem["status"] != answer.status {
        return Err(format!("{what}: expected {code}, got {} {}", answer.status, answer.text()));
    }
    // After bytes that are not understood, nobody knows where the next request begins.
    wire.end(Duration::from_secs(5)).map(drop).map_err(|error| format!("{what}: {error}"))
}

#[test]
fn heads_that_break_the_rules() -> Outcome {
    each_is_refused(
        &[
            ("no host", "GET /healthz HTTP/1.1\r\n\r\n"),
            ("two hosts", "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
            ("space before the colon", "GET /healthz HTTP/1.1\r\nHost : a\r\n\r\n"),
            ("a field without a colon", "GET /healthz HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n"),
            ("a folded field", "GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n"),
            ("a bare CR", "GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n"),
            ("a NUL", "GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
            ("an empty method", " /healthz HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("a method with a comma", "GE,T /healthz HTTP/1.1\r\nHost: a\r\n\r\n"),
        ],
        "invalid_request",
    )
}

#[test]
fn other_protocols() -> Outcome {
    each_is_refused(
        &[
            ("HTTP/2 with prior knowledge", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            ("HTTP/3.0", "GET /healthz HTTP/3.0\r\nHost: a\r\n\r\n"),
            ("HTTP/0.9", "GET /healthz\r\n\r\n"),
        ],
        "http_version",
    )?;
    let server = Server::start("")?;
    let spaced = "GET /health z HTTP/1.1\r\nHost: a\r\n\r\n";
    let hello = [0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3, 3];
    for bytes in [
        &hello[..],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x00\x00\x00\x0c\xff\xfe\r\n\r\n",
        b"EHLO me\r\n\r\n",
        spaced.as_bytes(),
    ] {
        let mut wire = Wire::connect(&server)?;
        wire.send(bytes);
        wire.finish_sending();
        let got = wire.end(Duration::from_secs(5)).map_err(|error| format!("{bytes:?}: {error}"))?;
        if !got.is_empty() && !got.starts_with(b"HTTP/1.1 400") && !got.starts_with(b"HTTP/1.1 505") {
            return Err(format!("{bytes:?} got {:?}", String::from_utf8_lossy(&got)));
        }
    }
    check_healthy(&server)
}

#[test]
fn bodies_of_two_minds() -> Outcome {
    let post = |more: &str| format!("POST /v1/channels/a/events HTTP/1.1\r\nHost: a\r\n{more}");
    let requests = [
        ("both lengths", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
        ("two lengths", post("Content-Length: 5\r\nContent-Length: 6\r\n\r\n123456")),
        ("two lengths in one", post("Content-Length: 5, 6\r\n\r\n123456")),
        ("a negative length", post("Content-Length: -1\r\n\r\n")),
        ("a length with a sign", post("Content-Length: +5\r\n\r\n12345")),
        ("a length that overflows", post("Content-Length: 99999999999999999999999\r\n\r\n")),
        ("a length in words", post("Content-Length: five\r\n\r\n12345")),
        ("a chunk size that is none", post("Transfer-Encoding: chunked\r\n\r\nxyz\r\nabc\r\n0\r\n\r\n")),
        (
            "a chunk size that overflows",
            post("Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc\r\n"),
        ),
        ("a chunk longer than it says", post("Transfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n0\r\n\r\n")),
        ("chunked twice", post("Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n")),
        ("chunked not last", post("Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n")),
    ];
    let server = Server::start("")?;
    for (what, request) in &requests {
        let mut wire = Wire::connect(&server)?;
        wire.send(request);
        let answer = wire.answer().map_err(|error| format!("{what}: {error}"))?;
        if !matches!(answer.status, 400 | 413 | 501) {
            return Err(format!("{what}: expected a refusal, got {} {}", answer.status, answer.text()));
        }
        wire.end(Duration::from_secs(5)).map_err(|error| format!("{what}: {error}"))?;
    }
    refused(&server, "gzip", post("Transfer-Encoding: gzip\r\n\r\n").as_bytes(), "not_implemented")?;
    check_healthy(&server)
}

#[test]
fn right_chunks_are_taken_however_they_come() -> Outcome {
    let server = Server::start("")?;
    let mut wire = Wire::connect(&server)?;
    let request = "POST /v1/channels/a/events HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n\
                   Transfer-Encoding: chunked\r\n\r\n3;name=value\r\nabc\r\n00A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n";
    for byte in request.bytes() {
        wire.send([byte]);
    }
    let answer = wire.answer()?;
    wire.send("GET /v1/channels/a HTTP/1.1\r\nHost: a\r\n\r\n");
    let state = wire.answer()?.json()?;
    if answer.status != 201 || state["state"]["data"] != "abc0123456789" {
        return Err(format!("got {} and then {state}", answer.text()));
    }
    Ok(())
}

#[test]
fn heads_and_bodies_over_the_limits() -> Outcome {
    let get = |more: &str| format!("GET /healthz HTTP/1.1\r\nHost: a\r\n{more}\r\n");
    let server = Server::start("")?;
    let many: String = (0..64).map(|number| format!("X-{number}: 1\r\n")).collect();
    let long_target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(20_000));
    for (what, request) in [
        ("a long field", get(&format!("X: {}\r\n", "x".repeat(20_000)))),
        ("65 fields", get(&many)),
        ("a long target", long_target),
        ("a head without end", format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(100_000))),
    ] {
        refused(&server, what, request.as_bytes(), "headers_too_large")?;
    }
    let mut wire = Wire::connect(&server)?;
    wire.send(get(&many.replacen("X-0: 1\r\n", "", 1)));
    let answer = wire.answer()?;
    if answer.status != 200 {
        return Err(format!("64 fields: {}", answer.text()));
    }
    let post = "POST /v1/channels/a/events HTTP/1.1\r\nHost: a\r\n";
    let declared = format!("{post}Content-Length: 10000000000\r\n\r\n");
    refused(&server, "10 GB declared", declared.as_bytes(), "payload_too_large")?;
    let chunk = format!("40000\r\n{}\r\n", "x".repeat(0x40000));
    let chunked = format!("{post}Transfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(6));
    refused(&server, "chunks without end", chunked.as_bytes(), "payload_too_large")?;
    check_healthy(&server)
}

#[test]
fn pipelined_requests_are_answered_in_order() -> Outcome {
    let server = Server::start("")?;
    let mut wire = Wire::connect(&server)?;
    let mut all = String::new();
    for number in 0..10 {
        all += &match number % 3 {
            0 => {
                format!("POST /v1/channels/p/events HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n{number}")
            }
            1 => format!("GET /v1/channels/p{number} HTTP/1.1\r\nHost: a\r\n\r\n"),
            _ => format!("GET /nothing/{number} HTTP/1.1\r\nHost: a\r\n\r\n"),
        };
    }
    wire.send(all);
    for number in 0..10 {
        let answer = wire.answer()?;
        let right = match number % 3 {
            0 => answer.status == 201,
            1 => answer.json()?["channel"] == format!("p{number}"),
            _ => answer.status == 404,
        };
        if !right {
            return Err(format!("answer {number}: {} {}", answer.status, answer.text()));
        }
    }
    // A held request holds those behind it.
    wire.send(
        "GET /v1/channels/p/events?wait=0.3&since=latest HTTP/1.1\r\nHost: a\r\n\r\n\
         GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    let (held, behind) = (wire.answer()?, wire.answer()?);
    if held.json()?["channel"] != "p" || behind.json()?["status"] != "ok" {
        return Err(format!("{} before {}", held.text(), behind.text()));
    }
    wire.end(Duration::from_secs(5))?;
    check_healthy(&server)
}

#[test]
fn who_dribbles_is_told_and_closed_and_holds_up_nobody() -> Outcome {
    let server = Server::start(SHORT_TIMES)?;
    let head = "GET /healthz HTTP/1.1\r\nHost: a\r\nX: ";
    let post = "POST /v1/channels/a/events HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
    let begun = Instant::now();
    let mut wires = Vec::new();
    for number in 0..200 {
        let mut wire = Wire::connect(&server)?;
        wire.send(if number % 2 == 0 { head } else { post });
        wires.push(wire);
    }
    check_healthy(&server)?;
    while wires.iter().any(|wire| !wire.ended()) {
        if begun.elapsed() > Duration::from_secs(15) {
            let open = wires.iter().filter(|wire| !wire.ended()).count();
            return Err(format!("{open} of 200 who dribble are still served after {:?}", begun.elapsed()));
        }
        for wire in wires.iter_mut().filter(|wire| !wire.ended()) {
            wire.send("x");
            wire.read(Instant::now());
        }
    }
    for wire in &wires {
        // Bytes sent after the close may turn the answer into a reset.
        if !wire.bytes().is_empty() && !wire.bytes().starts_with(b"HTTP/1.1 408") {
            return Err(format!("expected 408, got {:?}", String::from_utf8_lossy(wire.bytes())));
        }
    }
    if wires.iter().all(|wire| wire.bytes().is_empty()) {
        return Err("none of 200 who dribble was told 408".to_owned());
    }
    check_healthy(&server)
}

#[test]
fn who_says_nothing_is_closed() -> Outcome {
    let server = Server::start(SHORT_TIMES)?;
    let mut silent = Wire::connect(&server)?;
    let mut after_one = Wire::connect(&server)?;
    after_one.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    after_one.answer()?;
    for (what, wire) in [("silent", &mut silent), ("after one request", &mut after_one)] {
        wire.end(Duration::from_secs(8)).map_err(|error| format!("{what}: {error}"))?;
    }
    check_healthy(&server)
}

#[test]
fn half_closed_sockets() -> Outcome {
    let server = Server::start(SHORT_TIMES)?;
    let mut wire = Wire::connect(&server)?;
    wire.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    wire.finish_sending();
    let answer = wire.answer()?;
    wire.end(Duration::from_secs(5))?;
    if answer.status != 200 {
        return Err(answer.text());
    }
    for half in
        ["GET /heal", "POST /v1/channels/a/events HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123"]
    {
        let mut wire = Wire::connect(&server)?;
        wire.send(half);
        wire.finish_sending();
        wire.end(Duration::from_secs(5)).map_err(|error| format!("{half:?}: {error}"))?;
    }
    check_healthy(&server)
}

#[test]
fn http_1_0_is_spoken() -> Outcome {
    let server = Server::start("")?;
    let mut wire = Wire::connect(&server)?;
    wire.send("GET /healthz HTTP/1.0\r\n\r\n");
    let answer = wire.answer()?;
    wire.end(Duration::from_secs(5))
        .map_err(|error| format!("HTTP/1.0 is not kept alive unasked: {error}"))?;
    let mut kept = Wire::connect(&server)?;
    for _ in 0..2 {
        kept.send("GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let again = kept.answer()?;
        if again.status != 200 || answer.status != 200 {
            return Err(again.text());
        }
        if again.field("connection").is_none_or(|value| !value.eq_ignore_ascii_case("keep-alive")) {
            break;
        }
    }
    check_healthy(&server)
}
