//! A disk that is full, fails or hangs: publishers are told, readers go on, and when the disk is well again so is
//! the server, without a restart. Nothing acknowledged is lost, and nobody saw what is not in the log.

use std::time::{Duration, Instant};

use tidewire_conformance::client::{self, Ask, Connected, Item};
use tidewire_conformance::durable::body::Body;
use tidewire_conformance::durable::crew::{Crew, KEEP_ALL};
use tidewire_conformance::durable::fault::{Disk, Fault};
use tidewire_conformance::durable::history::read_all;
use tidewire_conformance::durable::publish::{PATIENCE, Said, open, over_socket, post};
use tidewire_conformance::durable::reader::OVER;
use tidewire_conformance::http;
use tidewire_conformance::random::Random;
use tidewire_conformance::server::{Server, wait_until};

type Outcome = Result<(), String>;

const CHANNEL: &str = "faults";

/// Under load the fault comes and goes, then comes with a kill.
fn comes_and_goes(fault: Fault) -> Outcome {
    let mut random = Random::from_environment(&format!("{fault:?}"));
    let disk = Disk::new("faults")?;
    let mut crew = Crew::start(CHANNEL, &mut random)?;
    let outcome = rounds(&mut crew, &disk, fault, &mut random);
    crew.end(outcome)
}

fn rounds(crew: &mut Crew, disk: &Disk, fault: Fault, random: &mut Random) -> Outcome {
    let launch = disk.launch(KEEP_ALL);
    let mut server = launch.serve()?;
    crew.place.up(&server.url);
    for round in 0..4 {
        crew.wait_for_more(50)?;
        disk.fail(fault)?;
        refused_while_it_lasts(crew, disk, fault, random)
            .map_err(|error| format!("round {round}: {error}"))?;
        readers_go_on(crew, &server).map_err(|error| format!("round {round}: {error}"))?;
        if round % 2 == 1 {
            crew.place.down();
            server.kill();
            disk.recover()?;
            server = launch.serve()?;
            crew.place.up(&server.url);
        } else {
            disk.recover()?;
        }
    }
    crew.wait_for_more(50)?;
    let log = crew.finish(&server)?;
    println!("{} events, {:?}", log.len(), crew.ledger.refusals());
    server.kill();
    // Once more with a disk that nobody meddles with.
    let server = tidewire_conformance::launch::Launch::on(&disk.data()).config(KEEP_ALL).serve()?;
    if read_all(&server.url, CHANNEL)? != log {
        return Err("after the last kill the log is another".to_owned());
    }
    Ok(())
}

fn refused_while_it_lasts(crew: &Crew, disk: &Disk, fault: Fault, random: &mut Random) -> Outcome {
    let refused = || crew.ledger.refusals().values().sum::<usize>();
    disk.wait_for_hit()?;
    let first = refused() + 1;
    crew.wait_for("a publisher is refused", || refused() >= first)?;
    // What is begun from here on meets the fault, whatever was still on the way before.
    let begun = crew.ledger.begun();
    let more = refused() + 60 + random.below(50);
    crew.wait_for("publishers are refused on", || refused() >= more)?;
    let late = crew.ledger.acknowledged_from(begun);
    // A disk that takes parts may take a small one whole.
    if late.is_empty() || fault == Fault::Short {
        return Ok(());
    }
    Err(format!("acknowledged while nothing could be stored: {late:?}"))
}

/// The log can be read, and over each transport a new subscriber gets its beginning.
fn readers_go_on(crew: &Crew, server: &Server) -> Outcome {
    let log = read_all(&server.url, CHANNEL)?;
    crew.ledger.check(&log)?;
    let first = &log.first().ok_or("the log is empty")?.id;
    for over in OVER {
        let since = Some("earliest".to_owned());
        let ask = Ask { channels: vec![CHANNEL.to_owned()], since, ..Ask::default() };
        let Connected::Client(mut client) = (client::transport(over)?.connect)(&server.url, &ask)? else {
            return Err(format!("refused over {over}"));
        };
        match client.next(Instant::now() + Duration::from_secs(10))? {
            Item::Event(seen) if seen.id.as_ref() == Some(first) => {}
            other => return Err(format!("over {over}: expected {first}, got {other:?}")),
        }
    }
    Ok(())
}

#[test]
fn a_full_disk_comes_and_goes() -> Outcome {
    comes_and_goes(Fault::Full)
}

#[test]
fn a_disk_that_fills_up_within_a_write_comes_and_goes() -> Outcome {
    comes_and_goes(Fault::Short)
}

#[test]
fn failing_writes_come_and_go() -> Outcome {
    comes_and_goes(Fault::WriteFails)
}

#[test]
fn failing_syncs_come_and_go() -> Outcome {
    comes_and_goes(Fault::SyncFails)
}

#[test]
fn a_full_disk_stops_what_must_be_stored_and_nothing_else() -> Outcome {
    let disk = Disk::new("full")?;
    let config = "[[channels]]\npattern = \"fast:*\"\ndurability = \"memory\"\n";
    let server = disk.launch(config).serve()?;
    let agent = http::agent(PATIENCE);
    let body = |number| Body::json(0, number, "some more bytes, so that there is something to store");
    let publish = |channel: &str, number: usize, key: Option<&str>| {
        post(&agent, &server.url, channel, &body(number), key)
    };
    let mut socket = open(&server.url)?;
    let first = publish(CHANNEL, 0, Some("first"))?.fresh()?;
    disk.fail(Fault::Full)?;
    let full = |said: Said| match said {
        said if said.is_refusal(507, "storage_full") => Ok(()),
        said => Err(format!("expected 507 storage_full, got {said:?}")),
    };
    full(publish(CHANNEL, 1, None)?)?;
    full(publish(CHANNEL, 2, Some("second"))?)?;
    full(publish("never:seen", 2, None)?)?;
    // A refused message leaves the connection open.
    full(over_socket(&mut socket, CHANNEL, &body(3), None)?)?;
    full(over_socket(&mut socket, CHANNEL, &body(3), Some("third"))?)?;
    publish("fast:one", 0, None)?.fresh()?;
    over_socket(&mut socket, "fast:one", &body(1), None)?.fresh()?;
    // What is there already may be found again; if not, it is not stored a second time.
    match publish(CHANNEL, 0, Some("first"))? {
        Said::Taken { id, duplicate: true, .. } if id == first => {}
        said => full(said)?,
    }
    for path in ["/healthz", "/v1/channels/faults", "/v1/channels/never:seen", "/metrics"] {
        let answer = http::exchange(&agent, "GET", &format!("{}{path}", server.url), &[], None)?;
        if answer.status != 200 {
            return Err(format!("{path}: {} {}", answer.status, answer.text()));
        }
    }
    disk.recover()?;
    let mut said = publish(CHANNEL, 2, Some("second"))?;
    wait_until("publishing recovers", Duration::from_secs(15), || {
        if said.is_refusal(507, "storage_full") {
            said = publish(CHANNEL, 2, Some("second")).unwrap_or_else(|_| said.clone());
        }
        !said.is_refusal(507, "storage_full")
    })?;
    // The refused attempts under this key were none.
    let second = said.fresh()?;
    let third = over_socket(&mut socket, CHANNEL, &body(3), Some("third"))?.fresh()?;
    let log = read_all(&server.url, CHANNEL)?;
    let ids: Vec<_> = log.iter().map(|logged| &logged.id).collect();
    if ids != [&first, &second, &third] {
        return Err(format!(
            "expected the three that were taken, {first}, {second} and {third}, got {log:?}"
        ));
    }
    Ok(())
}

#[test]
fn nobody_is_told_of_an_event_before_it_is_synced() -> Outcome {
    let disk = Disk::new("hangs")?;
    let config = "[[channels]]\npattern = \"fast:*\"\ndurability = \"memory\"\n";
    let server = disk.launch(config).serve()?;
    let agent = http::agent(PATIENCE);
    let first = post(&agent, &server.url, CHANNEL, &Body::json(0, 0, ""), None)?.fresh()?;
    let mut clients = Vec::new();
    for over in OVER {
        let ask = Ask { channels: vec![CHANNEL.to_owned()], since: Some(first.clone()), ..Ask::default() };
        match (client::transport(over)?.connect)(&server.url, &ask)? {
            Connected::Client(client) => clients.push((over, client)),
            Connected::Refused(refusal) => return Err(format!("over {over}: {refusal:?}")),
        }
    }
    disk.fail(Fault::SyncHangs)?;
    let publishing: Vec<_> = (1..=8)
        .map(|number| {
            let url = server.url.clone();
            std::thread::spawn(move || {
                let body = Body::json(0, number, "");
                if number % 2 == 0 {
                    post(&http::agent(PATIENCE), &url, CHANNEL, &body, None)?.fresh()
                } else {
                    over_socket(&mut open(&url)?, CHANNEL, &body, None)?.fresh()
                }
            })
        })
        .collect();
    disk.wait_for_hit()?;
    // The disk hangs, the server must not.
    post(&agent, &server.url, "fast:one", &Body::json(0, 0, ""), None)?.fresh()?;
    for (over, client) in &mut clients {
        match client.next(Instant::now() + Duration::from_millis(200))? {
            Item::Nothing => {}
            other => return Err(format!("over {over}, before the sync: {other:?}")),
        }
    }
    let log = read_all(&server.url, CHANNEL)?;
    if log.len() != 1 {
        return Err(format!("before the sync the log shows {log:?}"));
    }
    let snapshot =
        http::exchange(&agent, "GET", &format!("{}/v1/channels/{CHANNEL}", server.url), &[], None)?;
    if snapshot.json()?["state"]["id"] != first.as_str() {
        return Err(format!("before the sync the snapshot shows {}", snapshot.text()));
    }
    if publishing.iter().any(std::thread::JoinHandle::is_finished) {
        return Err("a publish was answered before the sync".to_owned());
    }
    disk.recover()?;
    let mut ids = Vec::new();
    for thread in publishing {
        ids.push(thread.join().map_err(|_| "a publisher panicked")??);
    }
    let log: Vec<_> = read_all(&server.url, CHANNEL)?.into_iter().map(|logged| logged.id).skip(1).collect();
    for (over, client) in &mut clients {
        for id in &log {
            match client.next(Instant::now() + Duration::from_secs(10))? {
                Item::Event(seen) if seen.id.as_ref() == Some(id) => {}
                other => return Err(format!("over {over}: expected {id}, got {other:?}")),
            }
        }
    }
    ids.retain(|id| !log.contains(id));
    if log.len() == 8 && ids.is_empty() {
        Ok(())
    } else {
        Err(format!("the log has {log:?}, and not {ids:?}"))
    }
}

/// A repetition that comes while the first is being synced must not be told of an event that may never be there.
#[test]
fn a_repetition_waits_for_the_first() -> Outcome {
    let disk = Disk::new("repetition")?;
    let server = disk.launch("").serve()?;
    let agent = http::agent(PATIENCE);
    let body = Body::json(0, 0, "");
    post(&agent, &server.url, "other", &body, None)?.fresh()?;
    disk.fail(Fault::SyncHangs)?;
    let publishing: Vec<_> = (0..6)
        .map(|number| {
            let (url, body) = (server.url.clone(), body.clone());
            std::thread::spawn(move || match number % 2 {
                0 => post(&http::agent(PATIENCE), &url, CHANNEL, &body, Some("k")),
                _ => over_socket(&mut open(&url)?, CHANNEL, &body, Some("k")),
            })
        })
        .collect();
    disk.wait_for_hit()?;
    let answer = http::exchange(&agent, "GET", &format!("{}/healthz", server.url), &[], None)?;
    if answer.status != 200 || publishing.iter().any(std::thread::JoinHandle::is_finished) {
        return Err(format!("healthz: {}; or a publish was answered before the sync", answer.status));
    }
    disk.fail(Fault::SyncFails)?;
    for thread in publishing {
        match thread.join().map_err(|_| "a publisher panicked")?? {
            said @ Said::Taken { .. } => return Err(format!("taken, though nothing was synced: {said:?}")),
            Said::Refused { code, .. } if code.starts_with("storage_") => {}
            said => return Err(format!("expected storage_failed, got {said:?}")),
        }
    }
    disk.recover()?;
    let mut said = Err("not asked".to_owned());
    wait_until("publishing recovers", Duration::from_secs(15), || {
        said = post(&agent, &server.url, CHANNEL, &body, Some("k"));
        matches!(said, Ok(Said::Taken { .. }) | Err(_))
    })?;
    let Said::Taken { id, .. } = said? else { return Err("refused".to_owned()) };
    if post(&agent, &server.url, CHANNEL, &body, Some("k"))?.repeated()? != id {
        return Err("the repetition has another id".to_owned());
    }
    let log = read_all(&server.url, CHANNEL)?;
    if log.len() == 1 && log[0].id == id { Ok(()) } else { Err(format!("expected {id} alone, got {log:?}")) }
}
