//! A key makes one event, however often, over whatever and on both sides of whatever restart it is published;
//! another event under the same key is refused.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use tidewire_conformance::durable::body::Body;
use tidewire_conformance::durable::history::read_all;
use tidewire_conformance::durable::publish::{PATIENCE, Said, open, over_socket, post};
use tidewire_conformance::http;
use tidewire_conformance::launch::Launch;
use tidewire_conformance::random::Random;
use tidewire_conformance::scratch::Scratch;
use tidewire_conformance::server::wait_until;

type Outcome = Result<(), String>;

const THREADS: usize = 12;
const CHANNEL: &str = "once";

/// Publishes at the same moment from many threads, every second one over a WebSocket.
fn all_at_once(server: &str, key: &str, body: impl Fn(usize) -> Body) -> Result<Vec<Said>, String> {
    let barrier = Arc::new(Barrier::new(THREADS));
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let (server, key, body) = (server.to_owned(), key.to_owned(), body(number));
            let barrier = Arc::clone(&barrier);
            std::thread::spawn(move || {
                let mut socket = (number % 2 == 1).then(|| open(&server));
                barrier.wait();
                match &mut socket {
                    Some(socket) => {
                        over_socket(socket.as_mut().map_err(|e| e.clone())?, CHANNEL, &body, Some(&key))
                    }
                    None => post(&http::agent(PATIENCE), &server, CHANNEL, &body, Some(&key)),
                }
            })
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())?).collect()
}

/// One was new; the id of it, and everything else that was said.
fn the_one(mut said: Vec<Said>) -> Result<(String, Vec<Said>), String> {
    let fresh = |said: &Said| matches!(said, Said::Taken { duplicate: false, .. });
    match said.iter().filter(|said| fresh(said)).count() {
        1 => {
            let place = said.iter().position(fresh).unwrap_or_default();
            Ok((said.swap_remove(place).fresh()?, said))
        }
        other => Err(format!("expected one new event, got {other}: {said:?}")),
    }
}

#[test]
fn the_same_event_from_everywhere_at_once_is_one() -> Outcome {
    let mut random = Random::from_environment("idempotency");
    let scratch = Scratch::new("at-once")?;
    let launch = Launch::on(&scratch.join("data"));
    let mut server = launch.serve()?;
    let mut known = Vec::new();
    for round in 0..20 {
        let (key, body) = (format!("k{round}"), Body::random(&mut random, 0, round).for_socket());
        let (id, others) = the_one(all_at_once(&server.url, &key, |_| body.clone())?)?;
        for said in others {
            if said.clone().repeated()? != id {
                return Err(format!("expected {id} again, got {said:?}"));
            }
        }
        known.push((key, body, id));
    }
    server.kill();
    let server = launch.serve()?;
    let log = read_all(&server.url, CHANNEL)?;
    let expected: Vec<_> = known.iter().map(|(_, body, id)| (id.clone(), body.mark())).collect();
    let got: Vec<_> = log.into_iter().map(|logged| (logged.id, logged.mark)).collect();
    if got != expected {
        return Err(format!("expected {expected:?}, got {got:?}"));
    }
    for (key, body, id) in &known {
        for said in all_at_once(&server.url, key, |_| body.clone())? {
            if said.clone().repeated()? != *id {
                return Err(format!("after the restart: expected {id} again, got {said:?}"));
            }
        }
    }
    match read_all(&server.url, CHANNEL)?.len() {
        20 => Ok(()),
        other => Err(format!("{other} events of 20 after repeating each")),
    }
}

#[test]
fn of_different_events_at_once_under_one_key_one_is_taken() -> Outcome {
    let scratch = Scratch::new("conflict")?;
    let launch = Launch::on(&scratch.join("data"));
    let mut server = launch.serve()?;
    for round in 0..10 {
        let key = format!("k{round}");
        let (_, others) = the_one(all_at_once(&server.url, &key, |number| Body::json(number, round, ""))?)?;
        if let Some(other) = others.iter().find(|said| !said.is_refusal(422, "idempotency_conflict")) {
            return Err(format!("expected idempotency_conflict, got {other:?}"));
        }
    }
    let before = read_all(&server.url, CHANNEL)?;
    server.kill();
    let server = launch.serve()?;
    for said in all_at_once(&server.url, "k0", |number| Body::json(THREADS + number, 0, ""))? {
        if !said.is_refusal(422, "idempotency_conflict") {
            return Err(format!("after the restart: expected idempotency_conflict, got {said:?}"));
        }
    }
    let after = read_all(&server.url, CHANNEL)?;
    if before.len() != 10 || before != after {
        return Err(format!("expected 10 events before and after, got {before:?} and {after:?}"));
    }
    Ok(())
}

#[test]
fn a_key_is_known_after_restarts_with_the_first_id_and_time() -> Outcome {
    let scratch = Scratch::new("restarts")?;
    let launch = Launch::on(&scratch.join("data")).config("[limits]\nclose_timeout_ms = 100\n");
    let agent = http::agent(PATIENCE);
    let (body, other) = (Body::json(0, 0, "x"), Body::json(0, 1, "x"));
    let mut server = launch.serve()?;
    let first = post(&agent, &server.url, CHANNEL, &body, Some("k"))?;
    let Said::Taken { id, time, duplicate: false } = first else { return Err(format!("{first:?}")) };
    let again = Said::Taken { id: id.clone(), time, duplicate: true };
    for round in 0..4 {
        if round % 2 == 0 {
            server.kill();
        } else {
            server.stop()?;
        }
        server = launch.serve()?;
        let conflict = post(&agent, &server.url, CHANNEL, &other, Some("k"))?;
        if !conflict.is_refusal(422, "idempotency_conflict") {
            return Err(format!("restart {round}: expected idempotency_conflict, got {conflict:?}"));
        }
        let said = post(&agent, &server.url, CHANNEL, &body, Some("k"))?;
        if said != again {
            return Err(format!("restart {round}: expected {again:?}, got {said:?}"));
        }
        if over_socket(&mut open(&server.url)?, CHANNEL, &body, Some("k"))?.repeated()? != id {
            return Err(format!("restart {round}: another id over a WebSocket"));
        }
        // Another channel knows nothing of the key, and neither does another key of the event.
        post(&agent, &server.url, &format!("other{round}"), &body, Some("k"))?.fresh()?;
        post(&agent, &server.url, CHANNEL, &body, Some(&format!("other{round}")))?.fresh()?;
    }
    Ok(())
}

#[test]
fn a_key_is_forgotten_after_its_time_wherever_it_passed() -> Outcome {
    let scratch = Scratch::new("forgotten")?;
    let launch = Launch::on(&scratch.join("data")).config("[history]\nidempotency_seconds = 2\n");
    let agent = http::agent(PATIENCE);
    let body = Body::json(0, 0, "x");
    let mut server = launch.serve()?;
    let first = post(&agent, &server.url, CHANNEL, &body, Some("k"))?.fresh()?;
    server.kill();
    let server = launch.serve()?;
    let mut said = post(&agent, &server.url, CHANNEL, &body, Some("k"))?;
    // On a machine where the restart takes its time, it may be new already.
    let mut outcome = Ok(());
    wait_until("the key is forgotten", Duration::from_secs(15), || {
        if matches!(&said, Said::Taken { duplicate: true, id, .. } if *id == first) {
            match post(&agent, &server.url, CHANNEL, &body, Some("k")) {
                Ok(next) => said = next,
                Err(error) => outcome = Err(error),
            }
        }
        outcome.is_err() || !matches!(said, Said::Taken { duplicate: true, .. })
    })?;
    outcome?;
    match said.fresh()? {
        id if id != first => Ok(()),
        id => Err(format!("a new event with the id of the first, {id}")),
    }
}
