//! What is special behind a proxy, through each one in `deploy/`: who a client is, that nothing waits on the way,
//! that what is quiet is not cut, who leaves, what is refused and by whom, and where requests go.
//! That each case holds there too is in `proxies.rs`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use tidewire_conformance::client;
use tidewire_conformance::http::{agent, exchange};
use tidewire_conformance::proxy::{Kind, Proxy, TRUSTING, Variant};
use tidewire_conformance::server::{Server, wait_until};
use tidewire_conformance::wire::Wire;
use tungstenite::Message;

type Outcome = Result<(), String>;

const SSE: &str =
    "GET /v1/channels/a/events HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAccept: text/event-stream\r\n\r\n";

fn through_each(mut check: impl FnMut(Kind) -> Outcome) -> Outcome {
    Kind::SHIPPED
        .into_iter()
        .try_for_each(|kind| check(kind).map_err(|error| format!("{}: {error}", kind.name())))
}

/// A server with these settings more, and a proxy in front of it.
fn behind(kind: Kind, config: &str, variant: &Variant) -> Result<(Server, Proxy), String> {
    let server = Server::start(&format!("{TRUSTING}{config}"))?;
    let proxy = Proxy::start(kind, server.authority(), variant)?;
    Ok((server, proxy))
}

fn client(number: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 1, number).into()
}

/// An event stream from that client with these fields more, if it is let in.
fn subscribe(proxy: &Proxy, from: u8, more: &str) -> Result<Option<Wire>, String> {
    let mut wire = Wire::connect_from(client(from), proxy.authority())?;
    wire.send(SSE.replace("Host: a\r\n", &format!("Host: a\r\n{more}")));
    match wire.read_until(b"\nid:", 1) {
        Ok(()) => Ok(Some(wire)),
        // Beyond a limit a stream is told so, and ends.
        Err(error) if wire.ended() && error.contains("tidewire.reconnect") => Ok(None),
        Err(error) => Err(error),
    }
}

fn publish(url: &str, channel: &str, body: &[u8]) -> Result<u16, String> {
    let url = format!("{url}/v1/channels/{channel}/events");
    let head = [("content-type".to_owned(), "text/plain".to_owned())];
    exchange(&agent(Duration::from_secs(10)), "POST", &url, &head, Some(body)).map(|answer| answer.status)
}

#[test]
fn a_limit_of_an_address_counts_the_client_and_not_the_proxy() -> Outcome {
    through_each(|kind| {
        let (_server, proxy) = behind(kind, "limits.connections_per_ip = 2\n", &Variant::default())?;
        let open = |from: u8, more: &str| subscribe(&proxy, from, more);
        let one = open(1, "")?;
        // A proxy's check of whether this server is there may hold a place for a moment.
        let mut two = None;
        wait_until("the second is let in", Duration::from_secs(5), || {
            two = open(1, "").ok().flatten();
            two.is_some()
        })?;
        let beyond = open(1, "")?;
        let forged = open(1, "X-Forwarded-For: 127.0.1.9\r\nForwarded: for=127.0.1.9\r\n")?;
        let other = open(2, "")?;
        match (one, two, beyond, forged, other) {
            (Some(_), Some(_), None, None, Some(_)) => Ok(()),
            (one, two, beyond, forged, other) => Err(format!(
                "let in: first {}, second {}, third {}, third with a forged address {}, another client {}",
                one.is_some(),
                two.is_some(),
                beyond.is_some(),
                forged.is_some(),
                other.is_some()
            )),
        }
    })
}

#[test]
fn a_client_where_addresses_are_trusted_cannot_make_one_up() -> Outcome {
    through_each(|kind| {
        let trusting = TRUSTING.replace("[", "[\"127.0.1.0/24\", ");
        let server = Server::start(&format!("{trusting}limits.connections_per_ip = 1\n"))?;
        let proxy = Proxy::start(kind, server.authority(), &Variant::default())?;
        let held = subscribe(&proxy, 1, "X-Forwarded-For: 192.0.2.1\r\n")?;
        let second = subscribe(&proxy, 1, "X-Forwarded-For: 192.0.2.2\r\n")?;
        if held.is_none() || second.is_some() {
            return Err("two connections of a client that makes up its address are let in".to_owned());
        }
        Ok(())
    })
}

#[test]
fn who_leaves_is_gone_for_the_server_too() -> Outcome {
    through_each(|kind| {
        let (_server, proxy) = behind(kind, "limits.connections_per_ip = 1\n", &Variant::default())?;
        let mut held = subscribe(&proxy, 1, "")?;
        if held.is_none() || subscribe(&proxy, 1, "")?.is_some() {
            return Err("the limit of one connection does not hold".to_owned());
        }
        for _ in 0..3 {
            held = None;
            // Sooner than the heartbeat (25 s), at which whoever writes would notice.
            wait_until("there is room again", Duration::from_secs(5), || {
                held = subscribe(&proxy, 1, "").ok().flatten();
                held.is_some()
            })?;
        }
        Ok(())
    })
}

#[test]
fn an_event_comes_at_once() -> Outcome {
    through_each(|kind| {
        let (server, proxy) = behind(kind, "", &Variant::default())?;
        let mut stream = Wire::connect_from(client(1), proxy.authority())?;
        stream.send(SSE);
        stream.read_until(b"\nid:", 1)?;
        for number in 1..=5 {
            let event = format!("event {number}");
            let begun = Instant::now();
            publish(&server.url, "a", event.as_bytes())?;
            stream.read_until(event.as_bytes(), 1)?;
            // The heartbeat, which would push out what waits, comes after 25 s.
            if begun.elapsed() > Duration::from_secs(3) {
                return Err(format!("{event} took {:?}", begun.elapsed()));
            }
        }
        Ok(())
    })
}

#[test]
fn what_is_quiet_is_kept_by_heartbeats_and_by_nothing_else() -> Outcome {
    // Each time of 90 s is one of 1 s here, and the heartbeat as much shorter than that as it is by default.
    let impatient = Variant { patience_seconds: Some(1), ..Variant::default() };
    through_each(|kind| {
        let (server, proxy) = behind(kind, "limits.heartbeat_ms = 280\n", &impatient)?;
        let mut stream = Wire::connect_from(client(1), proxy.authority())?;
        stream.send(SSE);
        stream.read_until(b"\nid:", 1)?;
        let socket = client::open_socket(&proxy.url, "/v1/channels/a/ws", None)?;
        let mut socket = socket.map_err(|refusal| format!("{refusal:?}"))?;
        let quiet_until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < quiet_until {
            match client::read_socket(&mut socket, quiet_until)? {
                None | Some(Message::Ping(_)) => {}
                other => return Err(format!("expected pings, got {other:?}")),
            }
        }
        publish(&server.url, "a", b"after the quiet")?;
        stream.read_until(b"after the quiet", 1)?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while !matches!(client::read_socket(&mut socket, deadline)?, Some(Message::Text(_))) {
            if Instant::now() > deadline {
                return Err("the WebSocket got nothing after the quiet".to_owned());
            }
        }
        Ok(())
    })
}

#[test]
fn without_heartbeats_the_times_of_the_file_hold() -> Outcome {
    // Caddy has none for what is open.
    for kind in [Kind::Nginx, Kind::Haproxy] {
        let impatient = Variant { patience_seconds: Some(1), ..Variant::default() };
        let (_server, proxy) = behind(kind, "", &impatient)?;
        let mut stream = Wire::connect_from(client(1), proxy.authority())?;
        stream.send(SSE);
        stream.read_until(b"\nid:", 1)?;
        stream.end(Duration::from_secs(8)).map_err(|error| format!("{}: {error}", kind.name()))?;
    }
    Ok(())
}

#[test]
fn what_is_too_large_is_refused_by_the_server_and_what_fits_gets_there() -> Outcome {
    through_each(|kind| {
        let (_server, proxy) = behind(kind, "", &Variant::default())?;
        let largest = vec![b'x'; 1 << 20];
        let status = publish(&proxy.url, "a", &largest)?;
        if status != 201 {
            return Err(format!("an event of 1 MiB got {status}"));
        }
        let (url, body) = (format!("{}/v1/channels/a/events", proxy.url), vec![b'x'; (1 << 20) + 1]);
        let answer = exchange(&agent(Duration::from_secs(10)), "POST", &url, &[], Some(&body))?;
        if answer.json()?["code"] != "payload_too_large" {
            return Err(format!("an event of 1 MiB and a byte got {} {}", answer.status, answer.text()));
        }
        let channels: String =
            (10..87).map(|number| format!("&channel={}{number}", "c".repeat(198))).collect();
        let url = format!("{}/v1/events?limit=1{channels}", proxy.url);
        let answer = exchange(&agent(Duration::from_secs(10)), "GET", &url, &[], None)?;
        if answer.status != 200 {
            return Err(format!("a head of {} bytes got {} {}", url.len(), answer.status, answer.text()));
        }
        Ok(())
    })
}

#[test]
fn while_the_server_is_away_clients_are_told_to_come_back() -> Outcome {
    through_each(|kind| {
        let (mut server, proxy) = behind(kind, "", &Variant::default())?;
        publish(&proxy.url, "a", b"there")?;
        server.kill();
        let url = format!("{}/v1/channels/a/events", proxy.url);
        let agent = agent(Duration::from_secs(10));
        let answer = exchange(&agent, "GET", &url, &[], None)?;
        if !(502..=504).contains(&answer.status)
            || answer.json()?["code"] != "unavailable"
            || answer.json()?["status"] != answer.status
            || answer.field("content-type") != Some("application/problem+json")
            || answer.field("retry-after").is_none()
        {
            return Err(format!("a poll got {} {:?} {}", answer.status, answer.head, answer.text()));
        }
        // EventSource takes any other answer as the last one.
        let accept = [("accept".to_owned(), "text/event-stream".to_owned())];
        let answer = exchange(&agent, "GET", &url, &accept, None)?;
        if answer.status != 200 || answer.field("content-type") != Some("text/event-stream") {
            return Err(format!("a stream got {} {:?} {}", answer.status, answer.head, answer.text()));
        }
        Ok(())
    })
}

#[test]
fn a_reload_of_nginx_cuts_nobody() -> Outcome {
    let (server, proxy) = behind(Kind::Nginx, "", &Variant::default())?;
    let mut before = subscribe(&proxy, 1, "")?.ok_or("not let in")?;
    let workers = proxy.children()?;
    proxy.signal("-HUP")?;
    wait_until("there are new workers", Duration::from_secs(10), || {
        proxy.children().is_ok_and(|now| now.split(' ').any(|pid| !workers.contains(pid)))
    })?;
    let mut after = subscribe(&proxy, 1, "")?.ok_or("not let in")?;
    publish(&server.url, "a", b"after the reload")?;
    before.read_until(b"after the reload", 1)?;
    after.read_until(b"after the reload", 1)
}

#[test]
fn no_ticket_is_in_the_logs_of_the_proxy() -> Outcome {
    through_each(|kind| {
        let (_server, proxy) = behind(kind, "", &Variant::default())?;
        let url = format!("{}/v1/channels/logged/events?ticket=whoever-reads-this", proxy.url);
        let head = [("authorization".to_owned(), "Bearer whoever-reads-this".to_owned())];
        for head in [&head[..0], &head[..]] {
            exchange(&agent(Duration::from_secs(10)), "GET", &url, head, None)?;
        }
        wait_until("the request is in the log", Duration::from_secs(5), || {
            proxy.log().matches("/v1/channels/logged/events").count() >= 2
        })?;
        match proxy.log() {
            log if log.contains("whoever") => Err(format!("a credential is in the log: {log}")),
            _ => Ok(()),
        }
    })
}

#[test]
fn sticky_and_not() -> Outcome {
    through_each(|kind| {
        for sticky in [false, true] {
            let second = Server::start(TRUSTING)?;
            let variant =
                Variant { second: Some(second.authority().to_owned()), sticky, ..Variant::default() };
            let (first, proxy) = behind(kind, "", &variant)?;
            // Held, so that the one with fewer connections changes.
            let mut held = Vec::new();
            for _ in 0..6 {
                let mut wire = Wire::connect_from(client(1), proxy.authority())?;
                wire.send(SSE);
                wire.read_until(b"\nid:", 1)?;
                held.push(wire);
            }
            publish(&first.url, "a", b"from the first")?;
            publish(&second.url, "a", b"from the second")?;
            let mut from_first = 0;
            for wire in &mut held {
                wire.read_until(b"from the", 1)?;
                wire.read_until(b"\nid:", 2)?;
                from_first += usize::from(memchr::memmem::find(wire.bytes(), b"the first").is_some());
            }
            let right = if sticky { [0, 6].contains(&from_first) } else { (1..6).contains(&from_first) };
            if !right {
                return Err(format!("{from_first} of 6 went to the first server; sticky: {sticky}"));
            }
        }
        Ok(())
    })
}
